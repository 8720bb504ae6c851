"""Options of the sweep, their grid, and their presets."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from experiments.common import (
    DataOptions,
    EngineOptions,
    NetworkOptions,
    Presets,
    ProcessOptions,
    RunOptions,
    TaskOptions,
)
from jaxsnn.errors import UserError
from jaxsnn.options import Range, Whole, checked
from jaxsnn.sweep.grid import AXES, Axis, points


@checked
class SweepOptions:
    """The grid, what one lane of it trains, and which network is chosen."""

    sparsity: Annotated[tuple[float, ...], Range(0, 1, open_high=True)] = (0.5, 0.7, 0.8, 0.9, 0.95)
    """Values of the axis sparsity: share of all connections that is removed."""
    bits: Annotated[tuple[int, ...], Whole(2, 8)] = (2, 3, 4, 6)
    """Values of the axis bits, of the remaining weights, 2 to 8."""
    axis: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Another axis, name=v1,v2,...; may be given several times. Names: penalty, spike_weight,
    learning_rate, threshold, decay, timesteps, seed."""
    allocation: Literal["root", "uniform"] = "root"
    """How to spread a sparsity: root (a layer keeps as the root of its size) or uniform."""
    dense_epochs: Annotated[int, Whole(1)] = 10
    """Epochs of the dense network, from which every lane starts."""
    tune_epochs: Annotated[int, Whole(1)] = 5
    """Epochs of each lane's quantization-aware training on what pruning left."""
    pull_epochs: Annotated[int, Whole(0)] = 0
    """Epochs in which each lane is pulled towards sparse weights by ADMM before it is pruned."""
    penalty: Annotated[float, Range(0, open_low=True, open_high=True)] = 1e-3
    """ADMM penalty rho of these epochs, where it is no axis."""
    tolerance: Annotated[float, Range(0, 1)] = 0.01
    """Accuracy on the held-out images that the chosen network may lose against the dense one."""
    lanes: Literal["auto", "vmap", "loop"] = "auto"
    """How lanes are computed on one device: vmap (together), loop (in turn), or what is faster."""
    chunk: Annotated[int | None, Whole(1)] = None
    """Lanes computed at a time; left out, what fits the memory, and 8 in a search."""
    memory_mb: Annotated[float | None, Range(0, open_low=True)] = None
    """Memory of a chunk on each device; 80 % of what is free if left out."""
    learning_rate: Annotated[float, Range(0, open_low=True, open_high=True)] = 1e-3
    """First step size of each training; it falls to 0 along a cosine."""
    control: bool = True
    """Train the dense network on for as many epochs as a lane, too, as the row "dense control"."""
    batch_size: Annotated[int, Whole(1)] = 100
    """Samples of one training step."""
    seed: Annotated[int, Whole(0, 2**31 - 1)] = 0
    """Seed of everything random."""

    def grid(self) -> dict[str, tuple[float, ...]]:
        """Return axis -> values."""
        grid: dict[str, tuple[float, ...]] = {"sparsity": self.sparsity, "bits": self.bits}
        for text in self.axis:
            name, _, values = text.partition("=")
            if name in grid:
                where = f"--{name}" if name in ("sparsity", "bits") else "its first --axis"
                raise UserError(f"--axis {text!r}: give all values of {name} to {where}")
            try:
                grid[name] = tuple(float(value) for value in values.split(","))
            except ValueError:
                raise UserError(f"--axis {text!r}: write it as name=v1,v2,...") from None
        return grid

    def axes(self, timesteps: int) -> dict[str, Axis]:
        """Return the axes of this run, with their ranges; T is the most that timesteps can be."""
        axes = AXES | {"bits": Axis(2, 8, whole=True), "timesteps": Axis(1, timesteps, whole=True)}
        if not self.pull_epochs:
            if "penalty" in self.grid():
                raise UserError("--axis penalty=... needs --pull-epochs, in which it pulls")
            del axes["penalty"]
        return axes


@checked
class SearchOptions:
    """A search in place of the grid: each axis ranges from its least to its greatest value."""

    search: Annotated[int | None, Whole(1)] = None
    """Try so many points, which a sampler of Optuna proposes; left out, the grid is swept."""
    workers: Annotated[int | None, Whole(1, 256)] = None
    """Processes of this machine that share the search, each with --chunk lanes (8 if left out);
    one if left out."""
    halving: Annotated[int | None, Whole(2)] = None
    """Of so many lanes that come to a rung one goes on; new points take the place of the others."""
    sampler: Literal["tpe", "nsga2", "random", "grid"] | None = None
    """What proposes points: tpe if left out; grid takes those of the grid in random order."""
    storage: str | None = None
    """Where workers meet: a journal file, or a URL that other machines reach, such as
    postgresql://... or grpc://HOST:PORT; a journal file in the run directory if left out."""
    study: str | None = None
    """Name of the search in the storage; sweep if left out."""

    def check_with(self, sweep: SweepOptions) -> None:
        """Refuse options that do nothing without --search, and those that do not go together."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        if self.search is None:
            if given:
                raise UserError(
                    f"--{next(iter(given))} needs --search, the number of points to try"
                )
            return
        if self.halving is not None and sweep.pull_epochs:
            raise UserError(
                "--halving needs --pull-epochs 0: lanes would repeat these epochs at each rung"
            )
        if self.halving is not None and self.halving > sweep.tune_epochs:
            raise UserError(
                f"--halving {self.halving} needs as many --tune-epochs, found {sweep.tune_epochs}"
            )
        size = math.prod(map(len, sweep.grid().values()))
        if self.sampler == "grid" and self.search > size:
            raise UserError(f"--sampler grid has {size} points, found --search {self.search}")


@dataclass(frozen=True)
class Config:
    """Options of `experiments.sweep`."""

    run: RunOptions = RunOptions()
    data: DataOptions = DataOptions()
    task: TaskOptions = TaskOptions()
    network: NetworkOptions = NetworkOptions()
    engine: EngineOptions = EngineOptions()
    processes: ProcessOptions = ProcessOptions()
    sweep: SweepOptions = SweepOptions()
    search: SearchOptions = SearchOptions()

    def check(self) -> None:
        """Refuse a grid before anything is read or made."""
        points(self.sweep.grid(), self.sweep.axes(self.task.timesteps))
        self.search.check_with(self.sweep)
        if self.search.search is not None and self.processes.coordinator is not None:
            raise UserError(
                "--coordinator does not go with --search, whose processes work each for itself: "
                "give --workers, or one --storage to all"
            )


Values = dict[str, Any]

# Start values are scaled, or the deeper layers do not fire.
DIGITS: Values = {
    "start": "firing", "network": "16C3-AP2-32C3-64-{classes}", "batch_size": 32,
    "learning_rate": 2e-3, "dense_epochs": 40, "tune_epochs": 20,
}  # fmt: skip
MNIST: Values = {
    "start": "firing", "network": "16C3-AP2-32C3-AP2-64-{classes}", "limit": 12_000,
    "dense_epochs": 12, "tune_epochs": 4,
}  # fmt: skip

# No paper has such a sweep: the whole training set, longer, and a finer grid.
LONG: Values = {
    "start": "firing", "network": "32C3-AP2-32C3-AP2-128-{classes}", "dense_epochs": 40,
    "tune_epochs": 20, "sparsity": (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98),
    "bits": (2, 3, 4, 5, 6, 8),
}  # fmt: skip
LONG_DIGITS: Values = LONG | {
    "network": "32C3-AP2-32C3-128-{classes}", "batch_size": 32, "dense_epochs": 100,
}  # fmt: skip

SMOKE: Values = {
    "start": "firing", "network": "48-{classes}", "limit": 200, "validation": 0.2, "batch_size": 24,
    "learning_rate": 1e-2, "dense_epochs": 2, "tune_epochs": 1, "sparsity": (0.5, 0.8),
    "bits": (2, 4), "tolerance": 0.03,
}  # fmt: skip

LIKE_MNIST = ("mnist", "fashion_mnist", "kmnist")
PRESETS: Presets = {
    "smoke": dict.fromkeys(("digits", *LIKE_MNIST, "own"), SMOKE),
    "cpu": {"digits": DIGITS, **dict.fromkeys((*LIKE_MNIST, "own"), MNIST)},
    "gpu": {"digits": DIGITS, **dict.fromkeys(LIKE_MNIST, LONG | {"dense_epochs": 12})},
    "paper": {"digits": LONG_DIGITS, **dict.fromkeys(LIKE_MNIST, LONG)},
}
