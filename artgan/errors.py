"""Errors that a user can mend, and the words they are reported in."""

import difflib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake that the user can mend: its text names the value and what to do next."""


def printable(text: str) -> str:
    """A file name as it can be shown on one line of any terminal, whatever bytes it is made of."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def counted(number: int, noun: str) -> str:
    """A number of things, such as 1 painting or 2,000 paintings."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def nearest(value: object, names: Iterable[str]) -> str | None:
    """The name most like a mistyped one, or None."""
    return next(iter(difflib.get_close_matches(str(value), list(names), 1, 0.7)), None)


def not_among(value: object, choices: Iterable[object]) -> str:
    """Says what a value could have been, and which choice is nearest."""
    found = list(choices)
    names = [str(choice) for choice in found]
    near = nearest(value, names)
    hint = f" Did you mean '{near}'?" if near else ""
    numbers = [choice for choice in found if isinstance(choice, int)]
    if numbers and isinstance(value, int | float):
        hint = f" The nearest is {min(numbers, key=lambda number: abs(number - value))}."
    return f"'{value}' is none of {', '.join(names)}.{hint}"


@contextmanager
def plain_errors(quiet: bool = False) -> Iterator[None]:
    """Ends the process with one message and code 1 at a user's mistake, 130 at Ctrl-C.

    Args:
        quiet: print no message: another process prints the same.
    """
    try:
        yield
    except UserError as error:
        if not quiet:
            print(error, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        if not quiet:
            print("Interrupted.", file=sys.stderr)
        sys.exit(130)
