"""Run one pure function at all points of a grid: chunk by chunk, each of one compiled program."""

import hashlib
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsnn import memory, timing
from jaxsnn.errors import UserError
from jaxsnn.sweep import chunks, store
from jaxsnn.sweep.grid import Axis, SweepGrid, points
from jaxsnn.train import distributed, parallel, progress

__all__ = ["LaneProgram", "Swept", "run_lanes"]

Tree = Any
LaneProgram = Callable[[dict[str, Array], Tree], tuple[Tree, Tree]]
"""(axis -> number `[]`, data) -> (product, metrics), two trees of arrays; pure and traceable."""


@dataclass(frozen=True, eq=False)
class Swept:
    """The results of all lanes, on the host, in the order of the grid.

    Attributes:
      points: axis -> int32 or float32 `[N]`.
      products: as the run returned them, such as networks, leaves `[N, ...]`.
      metrics: likewise.
      diverged: whether a number among a lane's results is not finite, or the lane itself says so
        by a metric of that name, as those of trainings do; bool `[N]`.
      rows: one dictionary for each lane: `lane`, its axes, `diverged`, and its metrics of shape
        `[]`, nested names joined by slashes.
      seconds: that this call took, compilation included.
      chunk: lanes computed at a time; None if all lanes were there before.
      mode: "vmap" or "loop".
    """

    points: dict[str, np.ndarray]
    products: Tree
    metrics: Tree
    diverged: np.ndarray
    rows: list[dict[str, Any]]
    seconds: float
    chunk: int | None
    mode: str

    def lane(self, number: int) -> tuple[dict[str, float], Tree, Tree]:
        """Return the point, the product and the metrics of one lane."""
        point = {name: values[number].item() for name, values in self.points.items()}
        of = lambda leaf: leaf[number]  # noqa: E731
        return point, jax.tree.map(of, self.products), jax.tree.map(of, self.metrics)


def run_lanes(
    function: LaneProgram,
    grid: SweepGrid,
    data: Tree,
    *,
    axes: Mapping[str, Axis] | None = None,
    lanes: chunks.Mode = "auto",
    batch_size: int | None = None,
    budget: float | None = None,
    devices: int | None = None,
    directory: str | Path | None = None,
    name: str = "sweep",
    show: bool = True,
) -> Swept:
    """Run a function at every point of a grid, as one compiled program.

    The lanes of a chunk are spread over the devices, and on each of them mapped or run in turn
    (`sweep.chunks` says when, and what was measured). All chunks are calls of one program: the last
    one is filled up with its last point. With a directory, a finished chunk is never computed
    again. A lane whose numbers diverge is marked; the others do not notice.

    Args:
      function: what one lane does, of `lane.training` or your own.
      grid: axis -> values, for all combinations; or a list of points, axis -> number.
      data: any tree of arrays that all lanes read, such as images and start values.
      axes: which axes there are, with their ranges (`sweep.AXES` has the usual ones); None lets
        any name pass.
      lanes: "vmap", "loop" or "auto".
      batch_size: lanes of a chunk, rounded up to a multiple of the devices; if left out, what
        fits the budget.
      budget: bytes of memory on each device; if left out, 80 % of what is free.
      devices: to spread the lanes over, of all processes; all, if left out.
      directory: where results are kept, chunk by chunk, and looked for first; of several processes
        the first one does so.
      name: of the sweep, for what is printed.
      show: whether to print chunk size, estimated memory and progress.

    Returns:
      The results of all lanes.

    Raises:
      UserError: if the grid is refused (`grid.points`), a lane does not fit the budget, or the
        directory holds another sweep.
    """
    start = time.perf_counter()
    grid_points = points(grid, axes)
    count = len(next(iter(grid_points.values())))
    usable = parallel.devices_for(count, devices)
    show = show and distributed.is_first()

    def say(text: str) -> None:
        if show:
            print(text, file=sys.stderr, flush=True)

    data = jax.tree.map(jnp.asarray, data)
    first = {axis: jnp.asarray(values[0]) for axis, values in grid_points.items()}
    lane = jax.jit(function).lower(first, data)
    shapes, structure = _shapes(lane.out_info)
    memory.check(
        f"the results of {count:,} lanes", count * memory.size_of(shapes),
        "take fewer points, or return less than a whole network of each", on_host=True,
    )  # fmt: skip
    kept = store.Store(directory, grid_points, _digest(lane, data))
    leaves, done = kept.load(shapes, count)
    mode, program = chunks.mode_of(lane, lanes), None
    if done:
        say(f"{name}: {len(done)} of {count} lanes are done")
    todo = [i for i in range(count) if i not in done]
    if todo:
        data = parallel.replicate(data, usable)
        program = chunks.build_program(
            function, first, data, count=len(todo), mode=mode, batch_size=batch_size,
            budget=budget, devices=usable,
        )  # fmt: skip
        say(f"{name}: {_plan(program, len(todo))}")
        _go(program, data, grid_points, todo, (leaves, done, kept), name, show)
    results = jax.tree.unflatten(structure, leaves.values())
    rows = _rows(grid_points, leaves, range(count))
    kept.write_rows(rows)
    diverged = np.asarray([row["diverged"] for row in rows])
    if diverged.any():
        say(f"{name}: {diverged.sum()} of {count} lanes diverged")
    seconds = time.perf_counter() - start
    chunk = None if program is None else program.lanes
    return Swept(
        grid_points, results["product"], results["metrics"], diverged, rows, seconds, chunk, mode
    )


def _go(
    program: chunks.Program,
    data: Tree,
    grid_points: Mapping[str, np.ndarray],
    todo: list[int],
    place: tuple[dict[str, np.ndarray], set[int], store.Store],
    name: str,
    show: bool,
) -> None:
    """Compute the lanes that are missing, and keep each chunk when it is finished."""
    leaves, done, kept = place
    chunk_count = -(-len(todo) // program.lanes)
    bar = progress.Bar(name, chunk_count, 1, unit="chunk") if show else progress.Silence()
    with bar:
        for number in range(chunk_count):
            before = time.perf_counter()
            some = todo[number * program.lanes : (number + 1) * program.lanes]
            filled = some + some[-1:] * (program.lanes - len(some))
            point = {axis: jnp.asarray(values[filled]) for axis, values in grid_points.items()}
            with timing.activity("train"):
                found = parallel.to_host(program.call(point, data), program.devices)
            results = store.by_name(found)
            results = {name: np.asarray(leaf)[: len(some)] for name, leaf in results.items()}
            for leaf_name, leaf in results.items():
                leaves[leaf_name][some] = leaf
            done.update(some)
            kept.save(some, results)
            kept.write_rows(_rows(grid_points, leaves, sorted(done)))
            figures = {"lanes": len(done)}
            bar.advance(1, number, figures)
            seconds = time.perf_counter() - before
            bar.finish_epoch({"epoch": number + 1, "seconds": seconds, **figures})


def _shapes(info: Any) -> tuple[dict[str, Any], Any]:
    """Return a lane's results as name -> shape, in the order of the tree, and the tree's form."""
    if not isinstance(info, (tuple, list)) or len(info) != 2:
        raise UserError("the run of a sweep must return two trees: (product, metrics)")
    product, metrics = info
    shapes = store.by_name((product, metrics))
    if not shapes:
        raise UserError("the run of a sweep returns no array")
    return shapes, jax.tree.structure(store.together((product, metrics)))


def _plan(program: chunks.Program, count: int) -> str:
    """Return in words how the lanes are computed."""
    each, devices = program.lanes // program.devices, program.devices
    how = "mapped" if program.mode == "vmap" else "in turn"
    lanes = f"{each} lane" if each == 1 else f"{each} lanes {how}"
    where = f"on each of {devices} devices" if devices > 1 else "on one device"
    total = -(-count // program.lanes)
    needs = "" if program.needs is None else f"; about {memory.as_bytes(program.needs)} there"
    return f"{count} lanes in {total} chunk{'s' * (total > 1)}, {lanes} {where} at a time{needs}"


def _rows(
    grid_points: Mapping[str, np.ndarray], leaves: Mapping[str, np.ndarray], lanes: Iterable[int]
) -> list[dict[str, Any]]:
    scalars = {
        name.removeprefix("metrics/"): leaf
        for name, leaf in leaves.items()
        if leaf.ndim == 1 and name.startswith("metrics/")
    }
    said = scalars.pop("diverged", np.zeros(len(next(iter(grid_points.values()))), bool))
    inexact = [leaf for leaf in leaves.values() if np.issubdtype(leaf.dtype, np.inexact)]
    return [
        {
            "lane": i,
            **{axis: _number(values[i]) for axis, values in grid_points.items()},
            "diverged": bool(said[i]) or not all(np.isfinite(leaf[i]).all() for leaf in inexact),
            **{name: leaf[i].item() for name, leaf in scalars.items()},
        }
        for i in lanes
    ]


def _number(value: Any) -> int | float:
    """Return a float32 as the shortest decimal that stands for it: 0.9 and not 0.8999999762."""
    return int(value) if isinstance(value, np.integer) else float(str(value))


def _digest(lane: jax.stages.Lowered, data: Tree) -> str:
    """Return what tells one run and its data from others: of the program's text and the bytes."""
    found = hashlib.sha256(lane.as_text().encode())
    for leaf in jax.tree.leaves(data):
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()
