"""The one exception that means "the user can fix this"."""

from __future__ import annotations


class UserError(Exception):
    """A user's mistake in one line: the file or key, the value, what was expected.

    The command line prints it on stderr without a traceback and exits with code 2.
    """
