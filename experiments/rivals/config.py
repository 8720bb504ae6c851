"""Options of `experiments.rivals`, and their presets."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from experiments.admm import config as of_admm
from experiments.common import (
    DataOptions,
    DenseOptions,
    EngineOptions,
    NetworkOptions,
    ProcessOptions,
    RunOptions,
    TaskOptions,
    check_each_once,
)
from jaxsnn.methods import admm
from jaxsnn.options import Range, Whole, checked

Rival = Literal["ADMM", "one-shot", "gradual"]


@checked
class Rivals:
    """Who is compared, how often, and the ramp of gradual pruning."""

    rivals: tuple[Rival, ...] = ("ADMM", "one-shot", "gradual")
    """Ways of pruning: ADMM, one-shot, gradual."""
    seeds: tuple[Annotated[int, Whole(0, 1 << 20)], ...] = (0, 1, 2)
    """Seeds of the networks that are trained and pruned; --seed is added to each."""
    ramp_end: Annotated[float, Range(0, 1, open_low=True)] = 0.5
    """Share of the steps at which gradual pruning reaches the final sparsity."""
    ramp_every: Annotated[int, Whole(1)] = 20
    """Steps between two of its prunings."""

    def check(self) -> None:
        """Refuse a comparison of nobody, and one of the same twice."""
        check_each_once(rivals=self.rivals, seeds=self.seeds)


@checked
class Pruning:
    """What all rivals remove and for how long they train; of ADMM the penalty."""

    sparsity: Annotated[tuple[float, ...], Range(0, 1, open_high=True)] = (0.98,)
    """Shares of the connections to remove, each of them from the same dense network."""
    allocation: Literal["root", "uniform"] = "root"
    """How to spread one sparsity: root (a layer keeps as the root of its size) or uniform."""
    penalty: Annotated[float, Range(0, open_low=True, open_high=True)] = 1e-4
    """ADMM's penalty rho at the start; it grows tenfold after each third of its phase."""
    dual_steps: Annotated[int, Whole(1)] = 10
    """Dual updates in each epoch of the ADMM phase."""
    pull_epochs: Annotated[int, Whole(1)] = 3
    """Epochs of the ADMM phase; the others train for as many more."""
    retrain_epochs: Annotated[int, Whole(0)] = 3
    """Epochs of retraining after the cut."""
    learning_rate: Annotated[float, Range(0, open_low=True, open_high=True)] = 1e-3
    """First step size of each phase; it falls to 0 along a cosine."""
    control: bool = True
    """Train the dense network on for as many epochs, too, as the row "dense control"."""
    batch_size: Annotated[int, Whole(1)] = 100
    """Samples of one training step."""
    seed: Annotated[int, Whole(0, 2**31 - 1)] = 0
    """Seed of everything random."""

    def check(self) -> None:
        """Refuse to remove nothing, and the same twice."""
        check_each_once(sparsity=self.sparsity)

    def admm(self, sparsity: float) -> admm.Options:
        """Return the options of ADMM pruning at a sparsity, which one-shot pruning shares."""
        return admm.Options(bits=None, **vars(self) | {"sparsity": sparsity})


@dataclass(frozen=True)
class Config:
    """Options of `experiments.rivals`."""

    run: RunOptions = RunOptions()
    data: DataOptions = DataOptions()
    task: TaskOptions = TaskOptions()
    network: NetworkOptions = NetworkOptions()
    engine: EngineOptions = EngineOptions()
    processes: ProcessOptions = ProcessOptions()
    dense: DenseOptions = DenseOptions()
    rivals: Rivals = Rivals()
    pruning: Pruning = Pruning()


FEW: dict[str, Any] = {"sparsity": (0.98,)}
OTHERS = ("ways", "prune_sparsity", "activity_epochs", "activity_weights", "spike_weight")


def _few(preset: str, **changes: Any) -> dict[str, dict[str, Any]]:
    """Return the values of `experiments.admm` without those of its other ways, 2 % left."""
    return {
        dataset: {name: value for name, value in values.items() if name not in OTHERS}
        | FEW
        | changes
        for dataset, values in of_admm.PRESETS[preset].items()
    }


PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "smoke": _few("smoke", sparsity=(0.8,), seeds=(0,)),
    "cpu": _few("cpu"),
    "gpu": _few("gpu"),
    "paper": _few("paper"),
}
# Four densities of one dense network; three seeds are three runs.
for _dataset in ("mnist", "fashion_mnist", "kmnist", "own"):
    PRESETS["cpu"][_dataset] |= {
        "sparsity": (0.9, 0.95, 0.98, 0.99), "seeds": (0,), "limit": 20_000
    }  # fmt: skip
# Three seeds in ten minutes; of the largest set one.
for _dataset in ("cifar10", "cifar100"):
    PRESETS["gpu"][_dataset] |= {"dense_epochs": 12, "pull_epochs": 4, "retrain_epochs": 4}
PRESETS["gpu"]["ssc"] |= {"seeds": (0,)}
