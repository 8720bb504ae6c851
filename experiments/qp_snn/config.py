"""Options of `experiments.qp_snn`, and their presets."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from experiments.common import (
    DataOptions,
    EngineOptions,
    NetworkOptions,
    ProcessOptions,
    RunOptions,
    TaskOptions,
    check_each_once,
)
from jaxsnn import data
from jaxsnn.methods import qp_snn
from jaxsnn.options import Whole, checked

# Rows C, D, E and F of the paper's ablation (table 3): what they change in the method's options.
WAYS: dict[str, dict[str, Any]] = {
    "baseline": {"quantizer": "vanilla", "score": "membrane"},
    "rescaled-only": {"quantizer": "rescaled", "score": "membrane"},
    "singular-only": {"quantizer": "vanilla", "score": "singular"},
    "full": {},
}
Way = Literal["baseline", "rescaled-only", "singular-only", "full"]


@checked
class Ablation:
    """What is compared, how often, and with which published shares of channels."""

    ways: tuple[Way, ...] = ("baseline", "full")
    """What to compare: baseline, rescaled-only, singular-only, and full, the method as its options
    say."""
    seeds: Annotated[tuple[int, ...], Whole(0)] = (0,)
    """Seeds of whole runs; --seed is added to each."""
    setting: Literal["A", "B", "C"] | None = None
    """The paper's shares of channels to remove, for its networks by name, in place of --ratios."""

    def check(self) -> None:
        """Refuse a comparison of nothing, and of the same twice."""
        check_each_once(ways=self.ways, seeds=self.seeds)


@dataclass(frozen=True)
class Config:
    """Options of `experiments.qp_snn`."""

    run: RunOptions = RunOptions()
    data: DataOptions = DataOptions()
    task: TaskOptions = TaskOptions(timesteps=2, loss="ce")
    network: NetworkOptions = NetworkOptions(decay=0.5, threshold=1.0, norm=True)
    engine: EngineOptions = EngineOptions()
    processes: ProcessOptions = ProcessOptions()
    ablation: Ablation = Ablation()
    method: qp_snn.Options = qp_snn.Options(batch_size=100)


SMOKE: dict[str, Any] = {
    "network": "6C3-8C3-MP2-8C3-AP4-{classes}", "limit": 300, "batch_size": 50, "train_epochs": 2,
    "tune_epochs": 1, "calibration_batches": 2, "calibration_batch_size": 50,
}  # fmt: skip

# Minutes on two cores. CIFAR-10: VGG-16 with a quarter of the channels, setting A.
DIGITS: dict[str, Any] = {
    "network": "16C3-32C3-MP2-32C3-AP4-{classes}", "batch_size": 32, "learning_rate": 2e-3,
    "train_epochs": 40, "tune_epochs": 20, "ways": tuple(WAYS),
}  # fmt: skip
MNIST: dict[str, Any] = {
    "network": "16C3-32C3-MP2-32C3-64C3-MP2-64C3-AP7-{classes}", "limit": 20_000,
    "validation": 0.05, "train_epochs": 5, "tune_epochs": 3, "ways": tuple(WAYS),
}  # fmt: skip
NMNIST = MNIST | {
    "network": "16C3-32C3-MP2-32C3-64C3-MP2-64C3-AP8-{classes}", "timesteps": 10, "limit": None,
    "batch_size": 50, "ways": ("baseline", "full"),
}  # fmt: skip
CIFAR10 = {
    "network": "vgg16", "width": 0.25, "ratios": qp_snn.ratios("vgg16", "A", 10),
    "augment": "crop-flip", "limit": 20_000, "validation": 0.05, "train_epochs": 10,
    "tune_epochs": 6,
}  # fmt: skip

# Table 8: SGD from 0.1 in batches of 256, then Adam from 0.001. Ratios are those of setting A,
# start values and the gradient of max poolings (to the first maximum) those of the code.
TABLE8: dict[str, Any] = {
    "start": "fan_out", "optimizer": "sgd", "learning_rate": 0.1, "batch_size": 256,
    "tune_optimizer": "adam",
    "tune_learning_rate": 1e-3, "train_epochs": 300, "tune_epochs": 150, "validation": 0.0,
    "limit": None, "ways": tuple(WAYS),
}  # fmt: skip


def _published(network: str, classes: int, **changes: Any) -> dict[str, Any]:
    ratios = qp_snn.ratios(network, "A", classes)
    values = {"network": network, "timesteps": 4, "augment": "autoaugment", "ratios": ratios}
    return TABLE8 | values | changes


PAPER: dict[str, dict[str, Any]] = {
    "digits": DIGITS | TABLE8 | {"batch_size": 32},
    **dict.fromkeys(("mnist", "fashion_mnist", "kmnist"), MNIST | TABLE8),
    "cifar10": _published("vgg16", 10),
    "cifar100": _published("vgg16", 100),
    "tiny_imagenet": _published("vgg16", 200, augment="crop-flip"),
    "dvs_cifar10": _published("vggsnn", 10, timesteps=10, augment="events", batch_size=64),
}

# The authors' code in short: at most ten minutes on one accelerator by the estimate of
# `experiments.bench.budget`, all images, whole networks but for the largest images.
SHORT: dict[str, Any] = {
    "optimizer": "adam", "learning_rate": 1e-3, "batch_size": 128, "train_epochs": 25,
    "tune_epochs": 12, "dtype": "bfloat16", "ways": ("baseline", "full"),
}  # fmt: skip

SHORTEST = SHORT | {"train_epochs": 20, "tune_epochs": 10, "ways": ("full",)}

# What the public code does otherwise: Adam in both trainings, smaller batches, other epochs, scores
# behind poolings, norms and read-out that start anew after the cut, shortcuts by position.
CODE: dict[str, Any] = {
    "optimizer": "adam", "learning_rate": 1e-3, "batch_size": 128, "score_after_pool": True,
    "reinit_norm": True, "shortcuts": "padded",
}  # fmt: skip
AUTHORS: dict[str, dict[str, Any]] = {
    "cifar10": PAPER["cifar10"] | CODE | {"tune_epochs": 100, "tune_batch_size": 256},
    "cifar100": PAPER["cifar100"] | CODE | {"tune_epochs": 300, "tune_batch_size": 512},
}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "smoke": {name: SMOKE for name in data.names() if name not in ("shd", "ssc")},  # images
    "cpu": {
        "digits": DIGITS,
        **dict.fromkeys(("mnist", "fashion_mnist", "kmnist"), MNIST),
        "nmnist": NMNIST,
        "own": MNIST,
        "cifar10": CIFAR10,
        "cifar100": CIFAR10 | {"ratios": qp_snn.ratios("vgg16", "A", 100)},
    },
    "gpu": {name: values | SHORT for name, values in PAPER.items() if name != "digits"}
    | {
        "digits": DIGITS,
        "tiny_imagenet": PAPER["tiny_imagenet"] | SHORTEST | {"width": 0.5},
        "dvs_cifar10": PAPER["dvs_cifar10"] | SHORTEST,
    },
    "paper": PAPER,
    "authors": AUTHORS,
}
