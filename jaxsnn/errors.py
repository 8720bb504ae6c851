"""The one exception that means: the caller can mend this; and how its one line quotes.

What a file says may be of any length and hold line breaks: a message quotes it through `shown` or
`shortened`, and of many lines names the first (`first_of`).
"""

from collections.abc import Sequence
from typing import Any

__all__ = ["UserError", "first_of", "shortened", "shown"]

SHOWN = 60  # characters of what is quoted
MOST = 5  # parts of a message of one kind


class UserError(ValueError):
    """Report a bad option, file or value in one line that says what to do.

    Library users catch it as a `ValueError`; the command line prints its message on stderr and
    exits with code 2.
    """


def shown(value: Any) -> str:
    """Return a value as a part of a message: as it is written in Python, cut if it is long.

    >>> shown([1, "x" * 100])
    "[1, 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx ..."
    """
    try:
        text = repr(value)
    except RecursionError:  # as deep as JSON could be read, but from deeper in the program
        text = f"a {type(value).__name__} nested too deep"
    return shortened(text)


def shortened(text: str, most: int = SHOWN) -> str:
    """Return a text as a part of a message of one line: without quotes, cut if it is long.

    >>> shortened("params/" + "x" * 100 + "/kernel"), shortened("two\\nlines")
    ('params/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx ...', 'two lines')
    """
    text = " ".join(text.split())
    text = text if len(text) <= most else text[:most] + " ..."
    return "".join(c if c.isprintable() else "?" for c in text)


def first_of(parts: Sequence[str], between: str = "; ") -> str:
    """Return the first parts of a message, and how many more there are.

    >>> first_of(["a", "b", "c", "d", "e", "f", "g"], ", ")
    'a, b, c, d, e, and 2 more'
    """
    more = [f"and {len(parts) - MOST} more"] if len(parts) > MOST else []
    return between.join([*parts[:MOST], *more])
