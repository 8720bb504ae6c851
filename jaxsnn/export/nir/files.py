"""NIR files (HDF5): written whole or not at all, and read without trusting them."""

import importlib
import io
from pathlib import Path
from typing import Any

from jaxsnn.errors import UserError
from jaxsnn.files import write_atomic

__all__ = ["Graph", "package", "read_nir", "write_nir"]

Graph = Any  # a nir.NIRGraph

MOST_PACKED = 1100  # bytes that one byte of a gzip stream can stand for, rounded up


def package(name: str = "nir") -> Any:
    """Return the package `nir`, or one that comes with it.

    Raises:
      UserError: if it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(
            f"NIR needs the package {name}, which comes with jaxsnn: pip install {name}"
        ) from None


def write_nir(path: str | Path, graph: Graph) -> int:
    """Write a graph to a NIR file; return its size in bytes.

    Raises:
      UserError: if the file cannot be written or the package `nir` is missing.
    """
    buffer = io.BytesIO()
    package().write(buffer, graph)
    return write_atomic(path, buffer.getvalue())


def read_nir(path: str | Path) -> Graph:
    """Read the graph of a NIR file.

    Nothing in it is executed, nothing outside of it is read, and no more is allocated than its
    bytes can hold.

    Raises:
      UserError: if the file is missing, damaged or no NIR file, or the package `nir` is missing.
    """
    path, nir, h5py = Path(path), package(), package("h5py")
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected a NIR file")
    try:
        with h5py.File(path, "r") as file:
            stated = _stated_bytes(h5py, file)
        most = MOST_PACKED * path.stat().st_size
        if stated > most:
            raise ValueError(f"states {stated} bytes of values, can hold {most}")
        # The types of some writers do not fit together; from_nir checks every shape itself.
        return nir.read(path, type_check=False)
    except Exception as error:  # what a reader of other people's files raises is up to it
        what = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{path}: damaged, or not a NIR file ({what})") from error


def _stated_bytes(h5py: Any, group: Any) -> int:
    """Return the size of all values in a group; refuse what lies outside of the file."""
    total = 0
    for name in group:
        item = group[name] if isinstance(group.get(name, getlink=True), h5py.HardLink) else None
        if isinstance(item, h5py.Group):
            total += _stated_bytes(h5py, item)
        elif item is None or item.is_virtual or item.external:
            raise ValueError(f"field {name} lies in another place")
        elif item.shape is not None:
            total += item.size * item.dtype.itemsize
    return total
