"""The compiled program of a sweep: how many lanes at a time, and how they share the devices.

A chunk is as many lanes as one call computes. They are spread over the devices first, those of all
processes, each of which computes its share without hearing from the others. On one device the lanes
of a share are either mapped (`jax.vmap`: one operation for all of them) or run in turn (`lax.map`:
as much memory as one lane needs). Whole runs are mapped, so what happens every so many steps stays
a branch.

On a CPU "auto" maps lanes that touch less than `SMALL` bytes in a pass through their loops, whose
time goes into starting operations, and runs larger ones in turn; on accelerators it always maps.
Wall time of training 8 lanes without evaluation, T = 4, batch 32, on two cores with a device for
each, against one compiled program that is called for each lane:

| network   | vmap | vmap, spread | loop, spread | a pass touches |
|-----------|------|--------------|--------------|----------------|
| 64-32-10  | 0.39 | **0.30**     | 0.46         | 5 MB           |
| 64-128-10 | 0.82 | **0.37**     | 0.57         | 16 MB          |

Where a pass touches more, mapping gains less and needs the memory of all lanes. Processor time of
mapped lanes, on a machine with other work: 0.87 of the loop's at 42 MB, 0.92 at 64 MB and 0.96 for
a convolutional network (356 MB). Wall time of whole sweeps of 8 to 32 lanes on a quiet machine
(`python -m experiments.bench --workloads --studies lanes`): a dense network is 2.5 to 2.9 times as
fast as its singles if mapped and 1.6 if in turn, a small convolutional one 1.15 to 1.2 either way.
`SMALL` lies between.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
from jax import Array, lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxsnn import memory
from jaxsnn.arrays import check_range, check_whole
from jaxsnn.errors import UserError
from jaxsnn.memory import as_bytes
from jaxsnn.train import distributed, parallel

__all__ = ["Mode", "Program", "build_program", "free_bytes", "mode_of"]

Tree = Any
Mode = Literal["auto", "vmap", "loop"]

SMALL = 50e6  # bytes that one pass through the loops of a lane touches, before XLA optimizes them
SHARE = 0.8  # of the free memory that a chunk may take by default


class Program(NamedTuple):
    """A compiled chunk."""

    call: Callable[[Mapping[str, Array], Tree], Tree]  # (points [lanes] each, data) -> results
    lanes: int  # of a chunk, a multiple of the devices
    devices: int
    mode: Mode  # "vmap" or "loop"
    needs: int | None  # bytes on each device, XLA's estimate; None where it gives none


def mode_of(lane: jax.stages.Lowered, mode: Mode) -> Mode:
    """Return whether lanes are mapped or run in turn, "auto" decided by the table above.

    Args:
      lane: one lane, lowered.
      mode: what was asked for.

    Raises:
      UserError: for another name.
    """
    if mode not in ("auto", "vmap", "loop"):
        raise UserError(f"lanes must be 'auto', 'vmap' or 'loop', found {mode!r}")
    if mode != "auto":
        return mode
    if jax.default_backend() != "cpu":
        return "vmap"
    cost = lane.cost_analysis() or {}
    return "vmap" if cost.get("bytes accessed", math.inf) < SMALL else "loop"


def build_program(
    run: Callable[[Any, Tree], Any],
    points: Mapping[str, Array],
    data: Tree,
    *,
    count: int,
    mode: Mode,
    batch_size: int | None,
    budget: float | None,
    devices: int,
) -> Program:
    """Compile a chunk that fits the memory.

    The first guess is one lane for each device if lanes run in turn, which costs no time and lets
    little be lost, and all lanes if they are mapped. What XLA says the program needs decides
    whether it is kept or compiled again with fewer lanes.

    Args:
      run: one lane, `(point, data) -> results`.
      points: one point, to show the types.
      data: what all lanes read.
      count: lanes of the sweep.
      mode: "vmap" or "loop".
      batch_size: lanes of a chunk, rounded up to a multiple of the devices; None to find it.
      budget: bytes on each device; None for a share of what is free.
      devices: over which the lanes are spread.

    Raises:
      UserError: if one lane for each device does not fit, or a number is out of range.
    """
    if batch_size is not None:
        check_whole("batch_size", batch_size, 1, math.inf)
    if budget is not None:
        check_range("budget", budget, 0, math.inf, open_low=True)
    limit = budget if budget is not None else free_bytes(devices)
    most = -(-count // devices)  # lanes of one device
    if batch_size is not None:
        each = min(-(-batch_size // devices), most)
    else:
        each = most if mode == "vmap" else 1
    while True:
        call, needs = _compile(run, points, data, each * devices, mode, devices)
        if needs is None or limit is None or needs <= limit:
            return Program(call, each * devices, devices, mode, needs)
        if each == 1:
            raise UserError(
                f"one lane needs about {as_bytes(needs)} on each of {devices} devices, and there "
                f"are {as_bytes(limit)}: give a larger budget, fewer devices, or a smaller problem"
            )
        fewer = min(max(int(each * limit / needs), 1), each - 1)
        each = -(-most // -(-most // fewer))  # as many chunks, equally full


def _compile(
    run: Callable[[Any, Any], Any],
    points: Mapping[str, Array],
    data: Any,
    lanes: int,
    mode: str,
    devices: int,
) -> tuple[Callable[[Any, Any], Any], int | None]:
    """Compile a chunk of lanes; return its call and the bytes that it needs on each device."""

    def chunk(points: Any, data: Any) -> Any:
        def one(point: Any) -> Any:
            return run(point, data)

        return jax.vmap(one)(points) if mode == "vmap" else lax.map(one, points)

    if devices > 1:
        first, whole = PartitionSpec(parallel.AXIS), PartitionSpec()
        chunk = jax.shard_map(
            chunk, mesh=parallel.mesh(devices), in_specs=(first, whole), out_specs=first,
            check_vma=False,
        )  # fmt: skip
    shapes = {k: jax.ShapeDtypeStruct((lanes, *x.shape), x.dtype) for k, x in points.items()}
    if devices > 1:
        spread = NamedSharding(parallel.mesh(devices), PartitionSpec(parallel.AXIS))
        shapes = {k: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=spread)
                  for k, x in shapes.items()}  # fmt: skip
    compiled = jax.jit(chunk).lower(shapes, data).compile()

    def call(points: Any, data: Any) -> Any:
        return compiled(parallel.spread(points, devices), data)

    return call, _needs(compiled)


def _needs(compiled: jax.stages.Compiled) -> int | None:
    """Return the bytes that a program needs on each device, its arguments and results included."""
    found = compiled.memory_analysis()
    if found is None:
        return None
    return int(
        found.temp_size_in_bytes + found.argument_size_in_bytes + found.output_size_in_bytes
        - found.alias_size_in_bytes
    )  # fmt: skip


def free_bytes(devices: int) -> float | None:
    """Return what a chunk may take of each device's memory, None where nobody can tell.

    CPU devices share the host's memory. With several processes it is the least of all hosts.
    """
    found = memory.free_bytes(reserves=False)
    free = distributed.least(math.inf if found is None else found)
    if free == math.inf:
        return None
    return SHARE * free / (devices if jax.default_backend() == "cpu" else 1)
