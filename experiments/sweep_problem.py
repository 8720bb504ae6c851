"""The problem of a sweep: its options, its grid, and what one lane of it trains."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import optax
import tyro
from jax import Array

from experiments.common import problem as problems
from experiments.common.problem import Problem, TrainingConfig, Tree, check_positive, option
from jaxsnn import losses, models, sweep, train
from jaxsnn.arrays import Number, check_range, check_whole
from jaxsnn.compress import masks
from jaxsnn.errors import UserError
from jaxsnn.methods import admm
from jaxsnn.network import has_norms
from jaxsnn.surrogate import rectangle
from jaxsnn.sweep import AXES, Axis
from jaxsnn.sweep.lane import Data, Point


@dataclass(frozen=True)
class SweepConfig(TrainingConfig):
    """Options of `experiments.sweep`."""

    sparsity: tuple[float, ...] = (0.5, 0.7, 0.8, 0.9, 0.95)
    """Values of the axis sparsity: share of all connections that is removed."""
    bits: tuple[int, ...] = (2, 3, 4, 6)
    """Values of the axis bits, of the remaining weights, 2 to 8."""
    axis: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Another axis, name=v1,v2,...; may be given several times. Names: penalty, spike_weight,
    learning_rate, threshold, decay, timesteps, seed."""
    allocation: Literal["root", "uniform"] = "root"
    """How to spread a sparsity: root (a layer keeps as the root of its size) or uniform."""
    dense_epochs: int = 10
    """Epochs of the dense network, from which every lane starts."""
    tune_epochs: int = 5
    """Epochs of each lane's quantization-aware training on what pruning left."""
    pull_epochs: int = 0
    """Epochs in which each lane is pulled towards sparse weights by ADMM before it is pruned."""
    penalty: float = 1e-3
    """ADMM penalty rho of these epochs, where it is no axis."""
    tolerance: float = 0.01
    """Accuracy on the held-out images that the chosen network may lose against the dense one."""
    lanes: sweep.Mode = "auto"
    """How lanes are computed on one device: vmap (together), loop (in turn), or what is faster."""
    chunk: int | None = None
    """Lanes computed at a time; what fits the memory if left out."""
    memory_mb: float | None = None
    """Memory of a chunk on each device; 80 % of what is free if left out."""

    def check(self) -> None:
        """Refuse options out of range, by name, before anything is made."""
        super().check()
        check_range("--validation", self.validation, 0.0, 1.0, open_low=True, open_high=True)
        check_range("--tolerance", self.tolerance, 0.0, 1.0)
        check_positive("penalty", self.penalty)
        for name in ("dense_epochs", "tune_epochs"):
            check_whole(option(name), getattr(self, name), 1, 1 << 20)
        check_whole("--pull-epochs", self.pull_epochs, 0, 1 << 20)
        if self.chunk is not None:
            check_whole("--chunk", self.chunk, 1, 1 << 20)
        if self.memory_mb is not None:
            check_positive("memory_mb", self.memory_mb)
        sweep.points(self.grid(), self.axes())

    def grid(self) -> dict[str, tuple[float, ...]]:
        """Return axis -> values."""
        grid: dict[str, tuple[float, ...]] = {"sparsity": self.sparsity, "bits": self.bits}
        for text in self.axis:
            name, _, values = text.partition("=")
            if name in grid:
                where = option(name) if name in ("sparsity", "bits") else "its first --axis"
                raise UserError(f"--axis {text!r}: give all values of {name} to {where}")
            try:
                grid[name] = tuple(float(value) for value in values.split(","))
            except ValueError:
                raise UserError(f"--axis {text!r}: write it as name=v1,v2,...") from None
        return grid

    def axes(self) -> dict[str, Axis]:
        """Return the axes of this run, with their ranges."""
        limits = {"bits": Axis(2, 8, whole=True), "timesteps": Axis(1, self.timesteps, whole=True)}
        axes = AXES | limits
        if not self.pull_epochs:
            if "penalty" in self.grid():
                raise UserError("--axis penalty=... needs --pull-epochs, in which it pulls")
            del axes["penalty"]
        return axes


def load(config: SweepConfig) -> Problem:
    """Read the data and build the network; every mistake of the user's shows here."""

    def build(shape, classes, neuron, rngs):
        if named := models.by_name(config.network):
            return named(shape, neuron, classes=classes, rngs=rngs)
        return models.build(config.network, shape, neuron, rngs=rngs)

    problem = problems.load(config, rectangle(1.0), build)
    if not len(problem.data.validation.labels):
        raise UserError(f"--validation {config.validation} holds no image out to choose by")
    if "timesteps" in config.grid() and has_norms(problem.net.stats):
        raise UserError(
            f"--axis timesteps=... needs a network without batch normalisation, which "
            f"{config.network!r} has: its averages would include the steps that do not count"
        )
    recipe = shares(config, max(config.sparsity), problem.net.params)
    # The shapes are enough to refuse a sparsity that would empty a layer.
    jax.eval_shape(partial(masks.keep_fraction, recipe), problem.net.params)
    return problem


def shares(config: SweepConfig, sparsity: Number, params: Tree) -> dict[str, Any]:
    """Return kernel name -> share to remove, for a share of all connections, traced or not."""
    exponent = {"root": 0.5, "uniform": 1.0}[config.allocation]
    return masks.spread(sparsity, params, exponent=exponent)


def lane(problem: Problem) -> Callable[[Point, Data], tuple[Tree, dict[str, Any]]]:
    """Return what one lane does with the dense network: prune, train straight through, evaluate.

    Its data are `params` and `stats` of the dense network and the splits `train` and `validation`.
    """
    c: Any = problem.config
    readout_loss = losses.by_name(c.loss)

    def task(point: Point) -> train.Task:
        def loss(output: Any, labels: Array) -> Array:
            value = readout_loss(output.readout, labels)
            if "spike_weight" not in point:
                return value
            return value + point["spike_weight"] * losses.spike_count(output.activity, c.timesteps)

        return train.Task(problem.net.apply, problem.prepare, loss)

    def rate(point: Point, epochs: int) -> optax.Schedule:
        shape = optax.cosine_decay_schedule(1.0, problem.steps(epochs))
        return lambda count: point.get("learning_rate", c.learning_rate) * shape(count)

    def kept(point: Point, params: Tree) -> Tree:
        return masks.keep_fraction(shares(c, point["sparsity"], params), params)

    def start(point: Point, data: Data) -> tuple[Tree, Tree]:
        params, stats, this = data["params"], data["stats"], task(point)
        if not c.pull_epochs:
            return params, stats
        stats = sweep.with_constants(stats, **sweep.constants_of(point))
        if "timesteps" in point:
            this = sweep.shortened(this, point["timesteps"], c.timesteps)
        recipe = admm.prune_recipe(shares(c, point["sparsity"], params))
        optimizer = admm.optimizer(
            rate(point, c.pull_epochs), recipe,
            penalty=point.get("penalty", c.penalty), every=problem.steps(1),
        )  # fmt: skip
        key = jax.random.fold_in(jax.random.key(point.get("seed", c.seed)), 1)
        pulled, stats, _ = sweep.fit(
            this, optimizer, params, stats, data["train"],
            epochs=c.pull_epochs, batch_size=c.batch_size, key=key,
        )  # fmt: skip
        return pulled, stats

    def method(point: Point, params: Tree) -> sweep.Method:
        recipe = admm.quantize_recipe("uniform", point["bits"], masks=kept(point, params))
        return sweep.straight_through(optax.adam(rate(point, c.tune_epochs)), recipe)

    return sweep.training(
        start, task, method,
        epochs=c.tune_epochs, batch_size=c.batch_size, timesteps=c.timesteps, seed=c.seed,
    )  # fmt: skip
