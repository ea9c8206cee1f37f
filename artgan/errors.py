"""The one exception that a person, not a programmer, reads."""


class UserError(Exception):
    """A mistake that the user can mend: its text names the value and what to do next.

    The entry points print the text alone, without a traceback, and exit with code 1.
    """
