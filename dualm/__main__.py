import sys

from dualm.cli import main

sys.exit(main())
