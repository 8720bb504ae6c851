"""The container of programs: safetensors, with a header that checks everything.

Packed networks were in it, too, up to version 2 of their format; now they are in
`jaxsnn.export.compact`, and the older ones are still read.

A file is a safetensors file. In its `__metadata__` stand the version of the format, under the key
`jaxsnn`, and strings of the caller's; both are read by any safetensors tool. The tensor `jaxsnn`,
bytes, is the header: a JSON text, compressed by zlib, that says

    holds        what the file is: "network" or "program"
    written_by   the releases of jaxsnn and jax
    metadata     CRC-32 of the caller's strings, of their JSON text with sorted keys
    checksums    name of each other tensor -> CRC-32 of its dtype and shape as text ("uint8(12,)",
                 numpy's spelling) followed by its bytes

and whatever belongs to the kind of file. zlib checks the header itself (Adler-32). A reader goes by
the version first; reading executes nothing, and allocates no more than the file's own size, besides
what a header of at most 4 MiB takes.
"""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save as to_bytes

from jaxsnn import fields, foreign
from jaxsnn.errors import UserError, shortened, shown
from jaxsnn.files import write_atomic
from jaxsnn.release import RELEASE

__all__ = ["HEADER_LIMIT", "Contents", "checked", "read", "releases", "size_of", "write"]

VERSION = 2
NAME = "jaxsnn"  # of the tensor and of the metadata that belong to the format
HEADER_LIMIT = 1 << 22  # bytes of the longest header; a thousand layers take half a MiB

COMMON = {
    "holds": fields.TEXT,
    "written_by": fields.each(fields.TEXT),
    "metadata": fields.whole(0),
    "checksums": fields.each(fields.whole(0)),
}


class Contents(NamedTuple):
    """What a file holds, after every check."""

    header: dict[str, Any]  # what belongs to the kind of file, and `written_by`
    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]
    num_bytes: int  # of the whole file


def write(
    path: str | Path,
    holds: str,
    tensors: Mapping[str, np.ndarray],
    header: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Write a file, which appears under its name only when it is complete.

    Args:
      path: the file.
      holds: "network" or "program".
      tensors: name -> array.
      header: of this kind of file, JSON types.
      metadata: strings to keep in the file; the key `jaxsnn` is taken.

    Returns:
      The size of the file in bytes.

    Raises:
      UserError: if the metadata are no strings or use the key `jaxsnn`, or the file cannot be
        written.
    """
    metadata = checked(metadata)
    full = {
        "holds": holds,
        "written_by": releases(),
        "metadata": _metadata_checksum(metadata),
        "checksums": {name: _checksum(array) for name, array in tensors.items()},
        **header,
    }
    text = json.dumps(full, separators=(",", ":"), allow_nan=False).encode()
    packed = np.frombuffer(zlib.compress(text, 9), np.uint8)
    content = to_bytes({NAME: packed, **tensors}, metadata | {NAME: str(VERSION)})
    return write_atomic(path, _sorted(content))


def read(path: str | Path, holds: str, known: Mapping[str, fields.Field]) -> Contents:
    """Read a file and check every byte of it.

    Args:
      path: a file that `write` wrote.
      holds: what it must hold.
      known: the fields of the header that belong to this kind of file.

    Raises:
      UserError: if the file is missing, empty, cut short, damaged, of another format, kind or
        version; one line with the file, the field, what was expected and what was found.
    """
    path = Path(path)
    size = size_of(path, holds)
    with (
        foreign.reading(path, f"a jaxsnn {holds}"),
        safe_open(path, framework="numpy") as file,
    ):
        metadata = dict(file.metadata() or {})
        names = list(file.keys())
        _check_version(path, metadata.pop(NAME, None), holds, names)
        tensors = {name: file.get_tensor(name) for name in names}
    header = _header(path, tensors.pop(NAME, None))
    if (found := header.get("holds")) != holds:
        raise UserError(f"{path}: expected a jaxsnn {holds}, found a {shown(found)}")
    fields.check(f"{path}: the header", header, COMMON | dict(known))
    if header["metadata"] != _metadata_checksum(metadata):
        raise UserError(f"{path}: damaged metadata, the checksum differs")
    _check_tensors(path, header["checksums"], tensors)
    return Contents(header, tensors, metadata, size)


def size_of(path: Path, holds: str) -> int:
    """Return the bytes of a file.

    Raises:
      UserError: if it is missing, a folder or empty.
    """
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {what}, expected a jaxsnn {holds}")
    if size := path.stat().st_size:
        return size
    raise UserError(f"{path}: expected a jaxsnn {holds}, found an empty file")


def checked(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """Return the caller's strings.

    Raises:
      UserError: if they are no strings or use the key `jaxsnn`.
    """
    metadata = dict(metadata or {})
    if NAME in metadata:
        raise UserError(f"metadata key {NAME!r} is taken by the format, choose another name")
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise UserError(f"metadata {key!r} is {value!r}; both must be strings")
    return metadata


def releases() -> dict[str, str]:
    """Return by what a file is written."""
    return {"jaxsnn": RELEASE, "jax": jax.__version__}


def _sorted(content: bytes) -> bytes:
    """Return a safetensors file with its strings sorted: the library writes them in any order."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def _check_version(path: Path, version: str | None, holds: str, names: list[str]) -> None:
    if version is None and any(name.startswith(NAME) for name in names):  # `compact`
        raise UserError(f"{path}: expected a jaxsnn {holds}, found a 'network'")
    if version is None:
        raise UserError(
            f"{path}: expected a jaxsnn {holds}, found another safetensors file (its metadata have "
            f"no field {NAME!r})"
        )
    if version != str(VERSION):
        raise UserError(
            f"{path}: expected version {VERSION} of the format, found {shown(version)}; "
            "read it with the release of jaxsnn that wrote it"
        )


def _header(path: Path, packed: np.ndarray | None) -> dict[str, Any]:
    if packed is None:
        raise UserError(f"{path}: the tensor {NAME!r}, its header, is missing")
    what = "the header of a jaxsnn file"
    with foreign.reading(f"{path}: the tensor {NAME!r}", what):
        unzip = zlib.decompressobj()
        text = unzip.decompress(packed.tobytes(), HEADER_LIMIT)
        if not unzip.eof or unzip.unused_data:
            raise ValueError(f"no end within {HEADER_LIMIT} bytes")
    header = foreign.parse_json(f"{path}: the tensor {NAME!r}", what, text)
    if not isinstance(header, dict):
        raise UserError(f"{path}: the tensor {NAME!r} is damaged: {type(header).__name__} found")
    return header


def _check_tensors(
    path: Path, checksums: Mapping[str, Any], tensors: Mapping[str, np.ndarray]
) -> None:
    """Refuse a file whose tensors are not exactly those that were written."""
    for name in sorted(checksums.keys() | tensors.keys()):
        where = f"{path}: the tensor {shortened(name)}"
        if name not in tensors:
            raise UserError(f"{where} is missing")
        if name not in checksums:
            raise UserError(f"{where} is not listed in the header")
        if _checksum(tensors[name]) != checksums[name]:
            raise UserError(f"{where} is damaged, its checksum differs")


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(array.tobytes(), zlib.crc32(f"{array.dtype}{array.shape}".encode()))


def _metadata_checksum(metadata: Mapping[str, str]) -> int:
    return zlib.crc32(json.dumps(metadata, sort_keys=True).encode())
