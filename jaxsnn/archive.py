"""Arrays in one npz file of our own: any tool reads it, and reading it trusts nothing.

The file is a zip archive of `.npy` entries that are not compressed, so it is as large as what it
holds. Each entry has its CRC-32 from the zip format; the entry `names` lists the others, so that
one that got lost is missed. The same arrays give the same bytes.
"""

import io
import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxsnn import foreign
from jaxsnn.errors import UserError, shown

__all__ = ["pack", "read"]

NAMES = "names"  # the entry that lists the others
KINDS = "biufV"  # of the types of arrays; V is how npy writes bfloat16
WHAT = "an archive of arrays"


def pack(arrays: Mapping[str, Any]) -> bytes:
    """Return the file that holds arrays of numbers.

    Args:
      arrays: name -> array; the name `names` is taken.

    Raises:
      UserError: for that name, and for an array of anything else than numbers.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = Path(folder, "few.npz")
      ...     _ = path.write_bytes(pack({"a/b": np.arange(3)}))
      ...     read(path)["a/b"].tolist(), np.load(path)["a/b"].tolist()
      ([0, 1, 2], [0, 1, 2])
    """
    if NAMES in arrays:
        raise UserError(f"the name {NAMES!r} of an array is taken by the format: rename it")
    names = np.frombuffer(json.dumps(sorted(arrays)).encode(), np.uint8)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as file:
        for name, array in {NAMES: names, **arrays}.items():
            array = np.asarray(array)
            if array.dtype.kind not in KINDS:
                raise UserError(f"array {name} is {array.dtype}; an archive holds numbers only")
            entry = io.BytesIO()
            np.lib.format.write_array(entry, array, allow_pickle=False)
            file.writestr(zipfile.ZipInfo(f"{name}.npy"), entry.getbuffer())
    return content.getvalue()


def read(path: str | Path, advice: str = "delete it to go on") -> dict[str, np.ndarray]:
    """Return the arrays of a file that `pack` made, read-only.

    No more is allocated than the file has bytes.

    Args:
      path: the file.
      advice: what to do if it is damaged.

    Raises:
      UserError: if it is missing, damaged or of another kind; nothing in it is executed.
    """
    found = arrays(path, WHAT, advice)
    listed = found.pop(NAMES, np.zeros(0, np.uint8)).tobytes()
    if foreign.parse_json(path, WHAT, listed, advice) != sorted(found):
        raise UserError(f"{path}: damaged, not the arrays that its list has; {advice}")
    return found


def arrays(path: str | Path, what: str, advice: str) -> dict[str, np.ndarray]:
    """Return the arrays of any npz file that is not compressed, read-only.

    No more is allocated than the file has bytes.

    Args:
      path: the file, such as `numpy.savez` writes it.
      what: what is expected, with its article.
      advice: what to do if it is damaged.

    Raises:
      UserError: if it is missing, damaged or of another kind; nothing in it is executed.
    """
    path = Path(path)
    found: dict[str, np.ndarray] = {}
    with foreign.reading(path, what, advice), zipfile.ZipFile(path) as file:
        for entry in foreign.stored_entries(path, file):
            name = entry.filename.removesuffix(".npy")
            if name == entry.filename or name in found:
                where = f"the entry {shown(entry.filename)}"
                raise ValueError(f"{where} is no array, or stands there twice")
            found[name] = _array(file.read(entry))
    return found


def _array(content: bytes) -> np.ndarray:
    """Return the array of one `.npy` entry, which is checked before any of it is made."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    else:
        shape, is_fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    rest = memoryview(content)[stream.tell() :]
    if dtype.kind not in KINDS or dtype.itemsize == 0 or min(shape, default=0) < 0:
        raise ValueError(f"an array {dtype} of the shape {shown(shape)}")
    if math.prod(shape) * dtype.itemsize != len(rest):
        raise ValueError(f"{len(rest)} bytes for an array {dtype} of the shape {shown(shape)}")
    return np.ndarray(shape, dtype, rest, order="F" if is_fortran else "C")
