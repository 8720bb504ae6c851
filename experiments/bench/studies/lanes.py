"""What a sweep costs: all lanes as one program, beside single runs that share a program or do not.

In one process, in turns. A run prunes by magnitude, trains some steps with quantized weights, and
evaluates. Lanes differ in sparsity and bits.

- "sweep": the program of `sweep.run`, lanes mapped or in turn, spread over the devices. One of the
  two is what it chooses by itself;
- "one program": sparsity and bits are arguments of one compiled program, called once for each lane,
  on one device; "batch shared": each step's batch is spread over the devices;
- "compiled each": sparsity and bits are Python numbers, so that `train.fit` compiles for every
  configuration. Measured for a few, compilation counted, and multiplied.

Ratios above 1 are in favour of the sweep: of its time to that of the faster kind of singles from
one program, and, compilation of both counted, to that of singles that compile each.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console

from experiments.bench.contenders import Contender
from experiments.bench.rounds import Effort
from experiments.bench.studies.timing import in_turns
from experiments.bench.tables import new_table
from jaxsnn import compress, models, train
from jaxsnn.compress import masks
from jaxsnn.data import Split
from jaxsnn.inputs import Inputs
from jaxsnn.methods import admm
from jaxsnn.network import Network
from jaxsnn.neurons import LIF
from jaxsnn.sweep import chunks, grid
from jaxsnn.sweep.lane import training
from jaxsnn.sweep.lanes import LaneProgram, run_lanes
from jaxsnn.train import parallel

Rows = list[dict[str, Any]]
Points = Mapping[str, np.ndarray]  # axis -> the numbers of all lanes

LANES = (8, 16, 32)
COMPILED = 3  # configurations that are compiled one by one
EPOCHS, TIMESTEPS, BATCH = 2, 4, 32
MODES = ("vmap", "loop")


class Small(NamedTuple):
    """Describe a network and how much it is trained."""

    layout: str
    shape: tuple[int, ...]
    steps: int  # of an epoch


NETWORKS = (Small("128-10", (64,), 40), Small("8C3-AP2-16C3-AP2-10", (16, 16, 1), 8))


def grid_of(lanes: int) -> dict[str, tuple[float, ...]]:
    """Return as many points: sparsities times four bit-widths."""
    shares = np.linspace(0.0, 0.9, lanes // 4).round(3)
    return {"sparsity": tuple(shares.tolist()), "bits": (2, 3, 4, 6)}


def make(network: Small, seed: int) -> tuple[Network, Split, train.Task]:
    """Return the network, noise to train it on, and its task."""
    net = models.build(network.layout, network.shape, LIF(0.5, 0.5), seed=seed)
    draw, count = np.random.default_rng(seed), BATCH * network.steps
    images = draw.integers(0, 256, (count, *network.shape), dtype=np.uint8)
    split = Split(images, draw.integers(0, 10, count).astype(np.int32))
    return net, split, train.Task(Inputs(network.shape, TIMESTEPS))


def lane(point: Any, start: Network) -> tuple[compress.Phase, Network]:
    """Return quantization-aware training on what magnitude pruning leaves."""
    kept = masks.keep_fraction(start.params, {"*/kernel": point["sparsity"]})
    recipe = admm.quantize_recipe("uniform", point["bits"], masks=kept)
    return compress.quantized(optax.adam(1e-3), recipe), start


def swept(run: LaneProgram, points: Points, data: Any, mode: chunks.Mode) -> Callable[[], Any]:
    """Return a call of the compiled program of a sweep, for all lanes."""
    count, devices = len(points["bits"]), len(jax.local_devices())
    first = {axis: jnp.asarray(x[0]) for axis, x in points.items()}
    data = parallel.replicate(data, devices)
    program = chunks.build_program(
        run, first, data, count=count, mode=mode, batch_size=None, budget=None, devices=devices
    )
    parts = [
        {axis: jnp.asarray(x[start : start + program.lanes]) for axis, x in points.items()}
        for start in range(0, count, program.lanes)
    ]
    return lambda: jax.block_until_ready([program.call(part, data) for part in parts])


def one_by_one(run: LaneProgram, points: Points, data: Any, devices: int) -> Callable[[], Any]:
    """Return calls of one compiled program, one for each lane."""
    data = parallel.replicate(data, devices)
    lanes = [
        parallel.replicate({axis: jnp.asarray(x[i]) for axis, x in points.items()}, devices)
        for i in range(len(points["bits"]))
    ]
    program = jax.jit(run).lower(lanes[0], data).compile()
    return lambda: jax.block_until_ready([program(lane, data) for lane in lanes])


def compiled_each(net: Network, split: Split, task: train.Task) -> float:
    """Return the median seconds of a configuration whose numbers are those of Python."""
    seconds = []
    for bits in range(2, 2 + COMPILED):
        start = time.perf_counter()
        phase, _ = lane({"sparsity": 0.2 * bits, "bits": bits}, net)
        found = train.fit(task, phase, net, split, epochs=EPOCHS, batch_size=BATCH, show=False)
        train.evaluate(task, found, split)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def study(console: Console, network: Small, effort: Effort, seed: int) -> Rows:
    """Time the ways to train one network's configurations, and print their table."""
    net, split, task = make(network, seed)
    data = jax.tree.map(jnp.asarray, {"start": net, "splits": {"train": split, "test": split}})
    devices = parallel.most_devices(BATCH)
    run, shared = (
        training(lane, task, epochs=EPOCHS, batch_size=BATCH, devices=each) for each in (1, devices)
    )
    each, rows = compiled_each(net, split, task), []
    for count in LANES:
        effort.say(f"lanes: {network.layout}, {count}")
        points = grid.points(grid_of(count), grid.AXES)
        makers = {
            "vmap": partial(swept, run, points, data, "vmap"),
            "loop": partial(swept, run, points, data, "loop"),
            "one program": partial(one_by_one, run, points, data, 1),
        }
        if devices > 1:
            makers["one program, batch shared"] = partial(one_by_one, shared, points, data, devices)
        calls = {way: maker() for way, maker in makers.items()}
        whole = run_lanes(run, grid_of(count), data, axes=grid.AXES, show=False)
        seconds = in_turns(calls, effort)
        single = min(taken for way, taken in seconds.items() if way not in MODES)
        for way in makers:
            chosen = way == whole.mode
            rows.append(
                {
                    "layout": network.layout,
                    "lanes": count,
                    "way": f"sweep, {way}" + ", its choice" * chosen if way in MODES else way,
                    "seconds": seconds[way],
                    "ratio": single / seconds[way],
                    "with_compilation": whole.seconds if chosen else None,
                    "ratio_with_compilation": count * each / whole.seconds if chosen else None,
                }
            )
        empty = {"seconds": None, "ratio": None, "ratio_with_compilation": None}
        rows.append(
            {"layout": network.layout, "lanes": count, "way": "compiled each"}
            | empty
            | {"with_compilation": count * each}
        )
    show(console, f"{network.layout}, T = {TIMESTEPS}, {EPOCHS * network.steps} steps", rows)
    return rows


def show(console: Console, title: str, rows: Rows) -> None:
    """Print the table of one network."""
    headings = "ms", "of singles", "s, compiled", "of compiled each"
    table = new_table(title, "", "lanes", *headings)
    fields = "seconds", "ratio", "with_compilation", "ratio_with_compilation"
    for row in rows:
        values = [row[field] for field in fields]
        values[0] = None if values[0] is None else 1e3 * values[0]
        units = "", "x", "", "x"
        cells = ["" if x is None else f"{x:.3g}{u}" for x, u in zip(values, units, strict=True)]
        table.add_row(row["way"], str(row["lanes"]), *cells)
    console.print(table)


def lanes(console: Console, peers: dict[str, Contender], effort: Effort, seed: int) -> Rows:
    """Time sweeps of 8, 16 and 32 lanes of a dense and of a convolutional network."""
    del peers
    return [row for network in NETWORKS for row in study(console, network, effort, seed)]
