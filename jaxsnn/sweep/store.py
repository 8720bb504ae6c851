"""What a sweep leaves in a folder, so that it can be resumed and read by others.

    sweep.json              what is swept: points, and a digest of the run, its data and its types
    chunks/00000-00007.npz  the results of finished lanes, each file whole or not there
    rows.jsonl, rows.csv    one row for each configuration that is finished

Arrays are named as leaves are, "product/params/dense1/kernel"; nothing is pickled.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxsnn import archive, fields, foreign, tree
from jaxsnn.errors import UserError
from jaxsnn.files import make_folder, remove_temporaries, write_atomic
from jaxsnn.train import distributed

__all__ = ["Store", "by_name", "together"]

Tree = Any
Leaves = dict[str, np.ndarray]  # name -> [lanes, ...]

ABOUT = {"points": fields.OBJECT, "run": fields.TEXT}  # of sweep.json
ADVICE = "delete it to go on"


class Store:
    """Keep the finished lanes of a sweep; of several processes the first one writes and reads.

    Args:
      directory: the folder; None keeps nothing.
      points: axis -> numbers `[N]`.
      digest: of everything else that the results depend on.

    Raises:
      UserError: if the folder holds another sweep or a damaged file, or cannot be written to.
    """

    def __init__(self, directory: str | Path | None, points: Mapping[str, Any], digest: str):
        self._is_kept = directory is not None
        is_own = self._is_kept and distributed.is_first()
        self.directory = Path(directory) if directory is not None and is_own else None
        if self.directory is None:
            return
        make_folder(self.directory, "the folder of the sweep")
        remove_temporaries(self.directory)
        path = self.directory / "sweep.json"
        about = {"points": {k: np.asarray(x).tolist() for k, x in points.items()}, "run": digest}
        if path.exists():
            _check_same(path, about)
        else:
            write_atomic(path, json.dumps(about, indent=1) + "\n")

    def load(
        self, shapes: Mapping[str, jax.ShapeDtypeStruct], count: int
    ) -> tuple[Leaves, set[int]]:
        """Return the leaves of all lanes, zero where a lane is not finished, and which ones are.

        Args:
          shapes: name -> shape and type of a leaf of one lane.
          count: N, lanes of the sweep.
        """
        leaves = {name: np.zeros((count, *x.shape), x.dtype) for name, x in shapes.items()}
        done: set[int] = set()
        if not self._is_kept:
            return leaves, done
        for path in sorted(self.directory.glob("chunks/*.npz")) if self.directory else ():
            lanes, found = _read_chunk(path, shapes, count)
            for name, leaf in leaves.items():
                leaf[lanes] = found[name]
            done |= set(lanes.tolist())
        leaves["lanes"] = np.asarray(sorted(done), np.int64)
        leaves = distributed.arrays_from_first(lambda: leaves)
        return leaves, set(leaves.pop("lanes").tolist())

    def save(self, lanes: Sequence[int], leaves: Mapping[str, np.ndarray]) -> None:
        """Keep the results of a chunk, leaves `[len(lanes), ...]`."""
        if self.directory is None:
            return
        name = f"{lanes[0]:05d}-{lanes[-1]:05d}.npz"
        content = archive.pack({"lanes": np.asarray(lanes), **leaves})
        write_atomic(self.directory / "chunks" / name, content)

    def write_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the rows of the finished lanes, each with the same fields, as JSONL and CSV."""
        if self.directory is None or not rows:
            return
        plain = [{k: _plain(value) for k, value in row.items()} for row in rows]
        lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in plain)
        write_atomic(self.directory / "rows.jsonl", lines)
        table = io.StringIO()
        writer = csv.DictWriter(table, fieldnames=list(plain[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(plain)
        write_atomic(self.directory / "rows.csv", table.getvalue())


def together(results: tuple[Tree, Tree]) -> Tree:
    """Return `(product, metrics)` as one tree."""
    return dict(zip(("product", "metrics"), results, strict=True))


def by_name(results: tuple[Tree, Tree]) -> dict[str, Any]:
    """Return `(product, metrics)` as name -> leaf, "product/..." and "metrics/..."."""
    return tree.named_leaves(together(results))


def _plain(value: Any) -> Any:
    """Return a number that JSON can hold; what is not finite is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read_chunk(
    path: Path, shapes: Mapping[str, jax.ShapeDtypeStruct], count: int
) -> tuple[np.ndarray, Leaves]:
    """Return the lanes of a chunk, and their leaves, of just the shapes and types expected."""
    found = archive.read(path)
    lanes = found.pop("lanes", np.zeros(0))
    is_index = lanes.ndim == 1 and lanes.dtype.kind in "iu" and len(set(lanes.tolist()))
    if is_index != len(lanes) or not ((lanes >= 0) & (lanes < count)).all():
        raise UserError(f"{path}: 'lanes' are none of the {count} of this sweep; {ADVICE}")
    if found.keys() != shapes.keys():
        raise UserError(f"{path}: not the arrays of this sweep; {ADVICE}")
    for name, shape in shapes.items():
        leaf = found[name]
        if leaf.dtype == np.dtype(f"V{shape.dtype.itemsize}"):  # how npy writes bfloat16
            leaf = found[name] = leaf.view(shape.dtype)
        expected = (len(lanes), *shape.shape)
        if (leaf.shape, leaf.dtype) != (expected, shape.dtype):
            raise UserError(
                f"{path}: {name} is {leaf.dtype}{list(leaf.shape)}, expected "
                f"{shape.dtype}{list(expected)}; {ADVICE}"
            )
    return lanes, found


def _check_same(path: Path, about: Mapping[str, Any]) -> None:
    old = foreign.read_json(path, "a sweep's", "choose another folder")
    old = fields.check(str(path), old, ABOUT)
    if old["points"] != about["points"]:
        raise UserError(f"{path.parent} holds the sweep of another grid: choose another folder")
    if old["run"] != about["run"]:
        raise UserError(
            f"{path.parent} holds a sweep of another run, other data or another release of JAX: "
            "choose another folder"
        )
