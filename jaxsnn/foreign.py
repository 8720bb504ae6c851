"""Read what others wrote: one guard around every decoder, a bound on what it may unpack to.

Damaged and forged bytes make a decoder raise whatever its authors did not think of: an IndexError,
a RecursionError, an exception of its own. A reader puts the decoder, and nothing else, inside of
`reading`: all of that becomes one `UserError` that names the file. What the reader then does with
the decoded content stands outside, so that a mistake of ours stays visible. An interrupt passes.

    with foreign.reading(path, "a gzip stream"):
        content = gzip.decompress(packed)
"""

import contextlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxsnn.errors import UserError, shortened, shown

__all__ = [
    "most_unpacked",
    "parse_json",
    "read_bytes",
    "read_json",
    "reading",
    "stored_entries",
]

FREE = 1 << 26  # bytes that a packed file of any size may unpack to
RATIO = 64  # bytes for each further one of the file; images take 2 to 5, floats with zeros up to 30
TEXT = 1 << 24  # bytes of the longest JSON text; its objects take some ten times as much
LONGEST = 160  # characters of a decoder's own words in a message


@contextlib.contextmanager
def reading(place: str | Path, what: str, advice: str = "") -> Iterator[None]:
    """Turn whatever a decoder raises into one line that names the file.

    Args:
      place: the file, with the place in it if it has parts.
      what: what was expected, with its article: "a zip archive".
      advice: what to do, if there is more to say.

    Raises:
      UserError: in the place of every other exception; a `UserError` passes as it is.

    Example:
      >>> with reading("a.json", "a JSON text", "delete it"):
      ...     json.loads("[")
      Traceback (most recent call last):
      jaxsnn.errors.UserError: a.json: damaged or cut short: Expecting value: line 1 column 2 \
(char 1); expected a JSON text; delete it
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a decoder raises anything, MemoryError and RecursionError as well
        advice = f"; {advice}" if advice else ""
        if isinstance(error, OSError) and error.strerror and error.errno:
            raise UserError(f"{place}: cannot be read: {error.strerror}{advice}") from error
        raise UserError(
            f"{place}: damaged or cut short: {_reason(error)}; expected {what}{advice}"
        ) from error


def _reason(error: Exception) -> str:
    """Return an exception's text as a part of one line."""
    text = str(error)
    if isinstance(error, KeyError) and len(text.split()) == 1:
        text = f"{text} is missing"
    elif isinstance(error, RecursionError):
        text = "nested too deep"
    elif isinstance(error, MemoryError):
        text = "it asks for more memory than there is"
    return shortened(text, LONGEST) or type(error).__name__


def most_unpacked(packed: int, ratio: int = RATIO) -> int:
    """Return how many bytes a file may unpack to, given its own size in bytes.

    >>> most_unpacked(1_000_000)
    131108864
    """
    return FREE + ratio * packed


def stored_entries(path: str | Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Return the entries of a zip archive that packs nothing, inside of `reading`.

    Python's reader asks for as many bytes as an entry states, in either of its sizes.

    Raises:
      ValueError: if an entry is compressed, or they state more bytes than the file has.
    """
    entries, most = archive.infolist(), Path(path).stat().st_size
    for sizes in ("file_size", "compress_size"):
        if sum(getattr(entry, sizes) for entry in entries) > most:
            raise ValueError("it states more bytes than it has")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"the entry {shown(entry.filename)} is compressed")
    return entries


def read_bytes(path: str | Path, what: str, most: int = TEXT) -> bytes:
    """Return the bytes of a file.

    Args:
      path: a regular file; others could block, or never end.
      what: what is expected, with its article.
      most: bytes that it may have.

    Raises:
      UserError: if it is missing, larger, no regular file, or cannot be read.
    """
    path = Path(path)
    with reading(path, what):
        if not path.is_file():
            found = "is no regular file" if path.exists() else "no such file"
            raise UserError(f"{path}: {found}, expected {what}")
        with open(path, "rb") as file:
            content = file.read(min(path.stat().st_size, most) + 1)  # takes the room at once
    if len(content) > most:
        raise UserError(f"{path}: more than {most:,} bytes, too many for {what}")
    return content


def read_json(path: str | Path, what: str, advice: str = "") -> Any:
    """Return what a file of JSON text says; see `parse_json`.

    Args:
      path: the file.
      what: what is expected, with its article: "a run's configuration".
      advice: what to do if it is none.

    Raises:
      UserError: naming the file and what was found.
    """
    return parse_json(path, what, read_bytes(path, what), advice)


def parse_json(place: str | Path, what: str, text: bytes | str, advice: str = "") -> Any:
    """Return what a JSON text says, by the letter of the standard.

    Python also takes NaN, infinity, numbers beyond the floats and keys that stand twice in an
    object. No program of ours writes them, so they are refused.

    Args:
      place: where the text is from.
      what: what is expected, with its article.
      text: UTF-8 bytes, or decoded.
      advice: what to do if it is none.

    Raises:
      UserError: naming the place and what was found.

    Example:
      >>> parse_json("a.json", "a list", b"[1, 2.5]")
      [1, 2.5]
    """
    with reading(place, what, advice):
        text = text.decode() if isinstance(text, bytes) else text
        return json.loads(
            text, object_pairs_hook=_unique, parse_float=_finite, parse_constant=_finite
        )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"the field {shown(twice)} stands there twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not abs(number) < float("inf"):
        raise ValueError(f"the number {shortened(text)} is not finite")
    return number
