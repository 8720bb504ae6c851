"""The one exception that means: the caller can mend this."""

__all__ = ["UserError"]


class UserError(ValueError):
    """Report a bad option, file or value in one line that says what to do.

    Library users catch it as a `ValueError`; the command line prints its message on stderr and
    exits with code 2.
    """
