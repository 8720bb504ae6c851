"""Read files into memory, plain or packed, and look for them in a list of folders."""

import lzma
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from jaxsnn import foreign
from jaxsnn.errors import UserError

__all__: list[str] = []  # nothing here is promised to users

_PIECE = 1 << 18  # packed bytes that are unpacked at a time
_MEMORY = 1 << 27  # bytes that unpacking xz may take; its strongest preset asks for half


def unpack(path: Path, limit: int) -> tuple[bytes, str]:
    """Read a file, unpacking it if its name ends in `.gz` or `.xz`.

    Args:
        path: the file.
        limit: stop after this many unpacked bytes; no more are allocated.

    Returns:
        The bytes, and what went wrong while unpacking: "" or a reason to append to an error that
        knows how many bytes were expected.

    Raises:
        UserError: if the file cannot be opened or read.
    """
    data = bytearray()
    unpack_more = {".gz": _unpack_gz, ".xz": _unpack_xz}.get(path.suffix, _read_plain)
    with foreign.reading(path, f"a {path.suffix[1:]} stream"):
        with open(path, "rb") as stream:
            try:
                unpack_more(stream, limit, data)
            except (EOFError, lzma.LZMAError, zlib.error, MemoryError) as error:
                return bytes(data), f" ({path.suffix[1:]} stream damaged or cut short: {error})"
    return bytes(data), ""


# The modules gzip and lzma would do, but they lose the last piece of a damaged stream, so that the
# bytes that were found could not be told; and lzma passes the interpreter lock around every 8 kB,
# so that several threads are slower than one.


def _read_plain(stream: BinaryIO, limit: int, data: bytearray) -> None:
    data += stream.read(limit)


def _unpack_gz(stream: BinaryIO, limit: int, data: bytearray) -> None:
    decompressor = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)  # 16: with the header of gzip
    while len(data) < limit and not decompressor.eof:
        packed = decompressor.unconsumed_tail or _more(stream)
        data += decompressor.decompress(packed, limit - len(data))


def _unpack_xz(stream: BinaryIO, limit: int, data: bytearray) -> None:
    decompressor = lzma.LZMADecompressor(memlimit=_MEMORY)
    while len(data) < limit and not decompressor.eof:
        packed = _more(stream) if decompressor.needs_input else b""
        data += decompressor.decompress(packed, limit - len(data))


def _more(stream: BinaryIO) -> bytes:
    packed = stream.read(_PIECE)
    if not packed:
        raise EOFError("it ends before its end marker")
    return packed


def require(folder: Path, stem: str, suffixes: Iterable[str], hint: str) -> Path:
    """Return the first of `stem + suffix` that is a file in `folder`.

    Raises:
        UserError: if there is none; names the first choice's full path, and `hint` (how to get it).
    """
    suffixes = tuple(suffixes)
    path = find(folder, stem, suffixes)
    if path is None:
        raise UserError(f"{folder / (stem + suffixes[0])}: no such file; {hint}")
    return path


def find(folder: Path, stem: str, suffixes: Iterable[str]) -> Path | None:
    """Return the first of `stem + suffix` that is a file in `folder`, or None."""
    paths = (folder / (stem + suffix) for suffix in suffixes)
    return next((path for path in paths if path.is_file()), None)
