"""The one exception that means "the user can fix this"."""


class UserError(Exception):
    """A user's mistake, told in one line: the file or key, the value, what was expected.

    The command line prints it on stderr without a traceback and exits with code 2.
    """
