"""What a person, not a programmer, reads when something goes wrong."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake that the user can mend: its text names the value and what to do next."""


def printable(text: str) -> str:
    """A file name as it can be shown in one line on any terminal, whatever bytes it was made of."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Ends the process with one message and code 1 at a user's mistake, 130 at Ctrl-C."""
    try:
        yield
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
