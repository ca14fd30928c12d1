"""The one exception type that is meant for people."""


class UserError(ValueError):
    """Something the user can put right: a path, an option, a file, a size.

    The message is one sentence that says what is wrong, where, and what to do. The command line
    prints it as it stands and exits with status 2; no traceback is shown.
    """
