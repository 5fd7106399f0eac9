"""`python -m tests.golden [--update]`: see the package."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.golden import CASES, TOLERANCE, computed, expected, largest_difference, path


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.golden")
    parser.add_argument("--update", action="store_true", help="write the files again")
    update = parser.parse_args().update
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for objective, optimizer in CASES:
            found = computed(objective, optimizer, Path(folder))
            if update:
                path(objective, optimizer).write_text(json.dumps(found, indent=1) + "\n")
                continue
            difference = largest_difference(found, expected(objective, optimizer))
            agrees = difference <= TOLERANCE[optimizer]
            failed += not agrees
            print(f"{objective:13} {optimizer:6} {difference:8.1e} {'agrees' if agrees else 'DIFFERS'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
