"""NIR files (HDF5): written whole or not at all, and read without trusting them."""

import importlib
import io
from pathlib import Path
from typing import Any

from jaxsnn import foreign, hdf5
from jaxsnn.errors import UserError, shortened
from jaxsnn.files import write_atomic

__all__ = ["Graph", "package", "read_nir", "write_nir"]

Graph = Any  # a nir.NIRGraph

RATIO = 256  # bytes of values that each byte of a file may hold; gzip takes zeros at 1,000


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

    Nothing in it is executed, nothing outside of it is read, and no more is allocated than
    `foreign.most_unpacked` allows.

    Raises:
      UserError: if the file is missing, damaged or no NIR file, or the package `nir` is missing.
    """
    path, nir, h5py = Path(path), package(), package("h5py")
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected a NIR file")
    with foreign.reading(path, "a NIR file"):
        hdf5.check_heaps(path)
        with h5py.File(path, "r") as file:
            stated = _stated_bytes(h5py, file, set())
        most = foreign.most_unpacked(path.stat().st_size, RATIO)
        if stated > most:
            raise ValueError(f"states {stated} bytes of values, may hold {most}")
        # The types of some writers do not fit together; from_nir checks every shape itself.
        graph = nir.read(path, type_check=False)
        with h5py.File(path, "r") as file:
            _forget_resets(file["node"], graph)
    return graph


def _forget_resets(group: Any, graph: Graph) -> None:
    """Take back the resets that the package fills in where a file does not say them."""
    for name, node in getattr(graph, "nodes", {}).items():
        inner = group["nodes"][name]
        if hasattr(node, "nodes"):
            _forget_resets(inner, node)
        elif hasattr(node, "v_reset") and "v_reset" not in inner:
            node.v_reset = None


def _stated_bytes(h5py: Any, group: Any, seen: set[int]) -> int:
    """Return the size of all values in a group; refuse what lies outside, or stands there twice.

    A group that contains itself would never end, and one that is shared at every level would take
    exponentially long.
    """
    total = 0
    for name in group:
        item = group[name] if isinstance(group.get(name, getlink=True), h5py.HardLink) else None
        if item is not None:
            place = h5py.h5o.get_info(item.id).addr
            if place in seen:
                raise ValueError(f"field {shortened(name)} stands in two places")
            seen.add(place)
        if isinstance(item, h5py.Group):
            total += _stated_bytes(h5py, item, seen)
        elif not isinstance(item, h5py.Dataset | None):
            raise ValueError(f"field {shortened(name)} is neither a group nor values")
        elif item is None or item.is_virtual or item.external:
            raise ValueError(f"field {shortened(name)} lies in another place")
        elif item.shape is not None:
            total += item.size * item.dtype.itemsize
    return total
