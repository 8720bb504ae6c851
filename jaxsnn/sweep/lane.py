"""One lane of a sweep: a whole training, from the start values to the evaluation, traced.

The engine is that of `jaxsnn.train`; here its steps stand inside a compiled program, so that every
number of a method may be traced. Letters in shapes: `[]` a number, `N` samples.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jax import Array, lax

from jaxsnn import tree
from jaxsnn.arrays import Number, check_whole
from jaxsnn.compress.phase import Phase, as_phase
from jaxsnn.data import Dataset, Split
from jaxsnn.errors import UserError
from jaxsnn.network import Network
from jaxsnn.neurons import LIF
from jaxsnn.program import ModuleProgram
from jaxsnn.sweep import chunks
from jaxsnn.sweep.grid import Axis, SweepGrid
from jaxsnn.sweep.lanes import Swept, run_lanes
from jaxsnn.train import Task, demand, divergence, evaluation, loop

__all__ = [
    "Lane",
    "LaneFunction",
    "Point",
    "as_lane",
    "fit_traced",
    "run",
    "splits_of",
    "train_traced",
    "training",
    "with_constants",
]

Tree = Any
Point = Mapping[str, Array]  # axis -> its number in this lane, [] int32 or float32
Splits = Mapping[str, Any]  # "train" and those to evaluate -> (samples, labels)


class Lane(NamedTuple):
    """What a lane trains; all numbers in it may be traced.

    >>> from jaxsnn import compress, models
    >>> phase = compress.pruned(optax.adam(1e-3), {"w": jnp.asarray([True, False])})
    >>> Lane(phase, models.build("3-2", (4,)), seed=7).seed
    7
    """

    phase: Phase | optax.GradientTransformation
    net: Network  # start values
    task: Task | None = None  # None: that of the sweep
    seed: int | Array | None = None  # of shuffling and encoding; None: that of the sweep


LaneFunction = Callable[[Point, Network], Lane | tuple[Any, Network]]
"""(point, start network) -> what to train: `(phase, network)`, or a `Lane` with more of its own."""


def training(
    lane: LaneFunction,
    task: Task,
    *,
    epochs: int,
    batch_size: int,
    seed: int = 0,
    devices: int = 1,
) -> Callable[[Point, Tree], tuple[Tree, dict[str, Any]]]:
    """Return the function that `run` maps: train a lane and evaluate it.

    Args:
      lane: what a point trains.
      task: of all lanes that bring none of their own.
      epochs: of the training, at least 1.
      batch_size: samples of a step.
      seed: where a lane has none.
      devices: that share a batch, in place of the task's; 1 where lanes are spread over devices.

    Returns:
      `(point, {"start": network, "splits": name -> (samples, labels)})` -> the trained network and
      the metrics `loss`, `spike_rate` and `train_accuracy`, means over the batches of the last
      epoch `[]`, those of every epoch as `epochs/...` `[epochs]`, whether it has `diverged`, and
      for each other split `NAME_accuracy` `[]`.

    Raises:
      UserError: if there is no epoch, or a lane returns something else.
    """
    check_whole("epochs", epochs, 1, 1 << 20)

    def run(point: Point, data: Tree) -> tuple[Tree, dict[str, Any]]:
        this = as_lane(lane(point, data["start"]))
        own = replace(this.task or task, devices=devices)
        splits: Splits = data["splits"]
        key = loop.phase_key(seed if this.seed is None else this.seed, "train")
        net, sums = fit_traced(
            own, this.phase, this.net, splits["train"], epochs=epochs, batch_size=batch_size,
            key=key,
        )  # fmt: skip
        means = {
            "loss": sums.loss / sums.steps,
            "spike_rate": sums.spike_rate / sums.steps,
            "train_accuracy": sums.correct / (sums.steps * batch_size),
        }
        metrics: dict[str, Any] = {name: each[-1] for name, each in means.items()}
        metrics["epochs"] = means
        metrics["diverged"] = divergence.has_diverged(
            this.net.params, net.params, metrics["train_accuracy"], splits["train"][1]
        )
        for name, split in splits.items():
            if name != "train" and split[1].shape[0]:
                over_time, _, _ = evaluation.evaluate_traced(own, net, split)
                metrics[f"{name}_accuracy"] = over_time[-1]
        return net, metrics

    return run


def run(
    lane: LaneFunction,
    grid: SweepGrid,
    task: Task,
    net: Network,
    data: Dataset | Splits,
    *,
    epochs: int,
    batch_size: int,
    seed: int = 0,
    axes: Mapping[str, Axis] | None = None,
    lanes: chunks.Mode = "auto",
    chunk: int | None = None,
    budget: float | None = None,
    devices: int | None = None,
    directory: str | Path | None = None,
    show: bool = True,
) -> Swept:
    """Train a network at every point of a grid, as one compiled program.

    All numbers of a point are traced: what a lane makes of them must not change a shape.

    Args:
      lane: (point, start network) -> (phase, network), or a `Lane` with a task or a seed of its
        own.
      grid: axis -> values, for all combinations; or a list of points, axis -> number.
      task: input and loss of all lanes.
      net: what they start from.
      data: a data set, or name -> (samples, labels) with "train" among them; the others are
        evaluated.
      epochs: of each training.
      batch_size: samples of a step.
      seed: of shuffling and encoding, where a lane has none.
      axes: which axes there are, with their ranges (`sweep.AXES`); None lets any name pass.
      lanes: "vmap" (together), "loop" (in turn) or "auto".
      chunk: lanes computed at a time; if left out, what fits the budget.
      budget: bytes of memory on each device; if left out, 80 % of what is free.
      devices: to spread the lanes over, of all processes; all, if left out.
      directory: where results are kept, chunk by chunk, and looked for first.
      show: whether to print progress.

    Returns:
      The results; `found.lane(i)` is the point, the trained network and the metrics of a lane.

    Raises:
      UserError: if the grid is refused, network, data and task do not fit each other, a lane
        returns something else, or the directory holds another sweep.

    Example:
      >>> from jaxsnn import compress, data, models
      >>> digits = data.load("digits", limit=60)
      >>> net, task = models.build("8-10", digits.shape), Task(digits.inputs(timesteps=2))
      >>> def lane(point, start):
      ...     grid = compress.uniform_grid(point["bits"])
      ...     return compress.quantized(optax.adam(1e-2), {"*/kernel": grid}), start
      >>> short = {"epochs": 1, "batch_size": 30, "show": False}
      >>> found = run(lane, {"bits": [2, 4]}, task, net, digits, **short)
      >>> [row["bits"] for row in found.rows]
      [2, 4]
    """
    splits = splits_of(task, net, data, batch_size)
    function = training(lane, task, epochs=epochs, batch_size=batch_size, seed=seed)
    return run_lanes(
        function, grid, {"start": net, "splits": splits}, axes=axes, lanes=lanes,
        batch_size=chunk, budget=budget, devices=devices, directory=directory, show=show,
    )  # fmt: skip


def splits_of(
    task: Task, net: Network, data: Dataset | Splits, batch_size: int
) -> dict[str, Split]:
    """Return the splits of a data set that have samples, checked against task and network.

    Raises:
      UserError: if network, data and task do not fit each other, or there is nothing to train on.
    """
    if isinstance(data, Dataset):
        data = {"train": data.train, "validation": data.validation, "test": data.test}
    if not isinstance(data, Mapping) or "train" not in data:
        raise UserError("data must be a Dataset, or name -> (samples, labels) with 'train' in it")
    for name, split in data.items():
        if len(split[1]):
            task.check(net, split, name)
    demand.check_training(task, net, as_phase(optax.identity()), batch_size)
    return {name: Split(*split) for name, split in data.items() if len(split[1])}


def as_lane(found: Any) -> Lane:
    """Return what a lane function returned as a `Lane`."""
    if isinstance(found, tuple) and 2 <= len(found) <= 4 and isinstance(found[1], Network):
        return found if isinstance(found, Lane) else Lane(*found)
    raise UserError(
        f"a lane must return (phase, network) or a sweep.Lane, found {type(found).__name__}"
    )


def fit_traced(
    task: Task,
    phase: Phase | optax.GradientTransformation,
    net: Network,
    split: tuple[Array, Array],
    *,
    epochs: int,
    batch_size: int,
    key: Array,
) -> tuple[Network, loop.Sums]:
    """Train for some epochs inside a compiled program: `train.fit` without what a host does.

    Args:
      task: input and loss; may hold traced numbers.
      phase: an optimizer or a `Phase`; may hold traced numbers.
      net: start values.
      split: images uint8 `[N, ...]` and labels int32 `[N]`.
      epochs: how many, static.
      batch_size: samples of a step, static.
      key: from which shuffling, encoding and dropout are drawn.

    Returns:
      The network, and the sums of each epoch, leaves `[epochs]`.

    Raises:
      UserError: if the batch does not fit the data.
    """
    phase = as_phase(phase)
    state = loop.init(net, phase, key)
    state, sums = train_traced(task, phase, state, split, epochs=epochs, batch_size=batch_size)
    return loop.end_phase(phase, state), sums


def train_traced(
    task: Task,
    phase: Phase,
    state: loop.TrainState,
    split: tuple[Array, Array],
    *,
    epochs: int,
    batch_size: int,
) -> tuple[loop.TrainState, loop.Sums]:
    """Train on for some epochs from a state between two of them, as in `fit_traced`.

    Returns:
      The state, and the sums of each epoch, leaves `[epochs]`.

    Raises:
      UserError: if the batch does not fit the data.
    """
    size = split[1].shape[0]
    check_whole("batch_size", batch_size, 1, size)
    check_whole("epochs", epochs, 0, 1 << 20)
    steps = size // batch_size

    def epoch(state: loop.TrainState, _: None) -> tuple[loop.TrainState, loop.Sums]:
        sums, stop = loop.no_sums(), state.step + steps
        state, sums = loop.steps(task, phase.optimizer, batch_size, state, sums, split, stop)
        return loop.end_epoch(phase, state), sums

    after: tuple[loop.TrainState, loop.Sums] = lax.scan(epoch, state, length=epochs)
    return after


def with_constants(net: Network, **constants: Number | None) -> Network:
    """Return a network with other constants of its neurons, in all layers that have them.

    >>> from jaxsnn import models
    >>> net = with_constants(models.build("3-2", (4,)), threshold=0.25)
    >>> float(net.stats["dense1"]["neurons"]["threshold"])
    0.25

    Args:
      net: the network; constants that are trained stay.
      **constants: of LIF `decay`, the share of the potential left after a step, in [0, 1], and
        `threshold`, > 0; of other neurons theirs. May be traced; None leaves one as it is.

    Raises:
      UserError: if there is no such constant, or a number is out of range.
    """
    layers = net.program.neurons.values() if isinstance(net.program, ModuleProgram) else ()
    known = [LIF.ranges, *(each.options.ranges for each in layers)]
    new: dict[str, Number] = {}
    for name, value in constants.items():
        if value is not None:
            new[f"*/neurons/{name}"] = value
            for ranges in known:
                if name in ranges:
                    ranges[name].check(name, value)
    matched = tree.match(new, net.stats)
    stats = tree.map_named(
        lambda name, leaf: jnp.full_like(leaf, matched[name]) if name in matched else leaf,
        net.stats,
    )
    return net.replace(stats=stats)
