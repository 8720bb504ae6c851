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
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxsnn import tree
from jaxsnn.errors import UserError
from jaxsnn.files import write_atomic

__all__ = ["Store", "by_name", "together"]

Tree = Any
Leaves = dict[str, np.ndarray]  # name -> [lanes, ...]


class Store:
    """Keep the finished lanes of a sweep.

    Args:
      directory: the folder; None keeps nothing.
      points: axis -> numbers `[N]`.
      digest: of everything else that the results depend on.

    Raises:
      UserError: if the folder holds another sweep, or a damaged file.
    """

    def __init__(self, directory: str | Path | None, points: Mapping[str, Any], digest: str):
        self.directory = None if directory is None else Path(directory)
        if self.directory is None:
            return
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
        if self.directory is None:
            return leaves, done
        for path in sorted((self.directory / "chunks").glob("*.npz")):
            try:
                with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                    found = dict(file)
                lanes = found.pop("lanes")
                for name, leaf in leaves.items():
                    leaf[lanes] = found[name]
            except (OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
                raise UserError(f"{path} is damaged: {error}; delete it to go on") from error
            done |= set(lanes.tolist())
        return leaves, done

    def save(self, lanes: Sequence[int], leaves: Mapping[str, np.ndarray]) -> None:
        """Keep the results of a chunk, leaves `[len(lanes), ...]`."""
        if self.directory is None:
            return
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, lanes=np.asarray(lanes), **leaves)
        name = f"{lanes[0]:05d}-{lanes[-1]:05d}.npz"
        write_atomic(self.directory / "chunks" / name, content.getvalue())

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


def _check_same(path: Path, about: Mapping[str, Any]) -> None:
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
        points, run = old["points"], old["run"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a sweep's: {error}; choose another folder") from None
    if points != about["points"]:
        raise UserError(f"{path.parent} holds the sweep of another grid: choose another folder")
    if run != about["run"]:
        raise UserError(
            f"{path.parent} holds a sweep of another run, other data or another release of JAX: "
            "choose another folder"
        )
