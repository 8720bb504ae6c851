"""Options of `experiments.fast`, and their presets."""

from dataclasses import dataclass
from typing import Any, Literal

from experiments.common import (
    DataOptions,
    EngineOptions,
    NetworkOptions,
    ProcessOptions,
    RunOptions,
    TaskOptions,
    check_each_once,
)
from jaxsnn.methods import fast
from jaxsnn.options import checked

# What each way changes in the options; those without an entry change the epochs (`run.py`).
WAYS: dict[str, dict[str, Any]] = {
    "dense": {},
    "spikes only": {},
    "no whitening": {"whiten": False},
    "sgd": {"optimizer": "sgd", "learning_rate": 0.1},
    "adam": {"optimizer": "adam", "learning_rate": 5e-3},
    "random flips": {"augment": "crop-flip"},  # and shifts over a black border
    "sharp labels": {"smoothing": 0.0},
    "average": {"average": 0.98},
    "one step": {},
    "all steps": {},
}
Way = Literal[
    "dense", "spikes only", "no whitening", "sgd", "adam", "random flips", "sharp labels",
    "average", "one step", "all steps",
]  # fmt: skip


@checked
class Ablation:
    """Which networks are trained: the whole recipe, and others in which a part is another one."""

    ways: tuple[Way, ...] = ("dense",)
    """What to train: dense, the recipe as its options say; or with one change: spikes only (no ANN
    first), no whitening, sgd, adam, random flips, sharp labels, average (of the weights), one step
    (of time to the end), or all steps (as soon as there are spikes, in fewer epochs)."""

    def check(self) -> None:
        """Refuse a run of nothing, or of a way twice."""
        check_each_once(ways=self.ways)


@dataclass(frozen=True)
class Config:
    """Options of `experiments.fast`."""

    run: RunOptions = RunOptions()
    data: DataOptions = DataOptions()
    task: TaskOptions = TaskOptions(timesteps=2, loss="ce", augment="alternate")
    network: NetworkOptions = NetworkOptions(network="fast_cifar", decay=0.5, norm=True)
    engine: EngineOptions = EngineOptions()
    processes: ProcessOptions = ProcessOptions()
    ablation: Ablation = Ablation()
    method: fast.Options = fast.Options()


SMOKE: dict[str, Any] = {
    "network": "8C2V-8C3-MP2-8C3-AP2-{classes}", "limit": 300, "batch_size": 50, "ann_epochs": 1,
    "short_epochs": 1, "epochs": 1,
}  # fmt: skip
DIGITS: dict[str, Any] = {
    "network": "8C2V-32C3-32C3-AP2-64C3-AP3-{classes}", "augment": "none", "batch_size": 50,
    "validation": 0.2, "ann_epochs": 10, "short_epochs": 10, "epochs": 5,
}  # fmt: skip

# 10,000 of the training images are held out: a second test set. An hour of two cores.
CIFAR: dict[str, Any] = {
    "dtype": "auto", "validation": 0.2, "ann_epochs": 16, "short_epochs": 16, "epochs": 8,
}  # fmt: skip
# Twice as wide: on an H200 half a minute of training, and four of compilation.
GPU: dict[str, Any] = {
    "width": 2.0, "dtype": "bfloat16", "validation": 0.1, "ann_epochs": 18, "short_epochs": 15,
    "epochs": 12,
}  # fmt: skip

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "smoke": dict.fromkeys(("digits", "mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100",
                            "own"),
                           SMOKE),
    "cpu": {"digits": DIGITS, "cifar10": CIFAR},
    "gpu": {"cifar10": GPU},
}  # fmt: skip
