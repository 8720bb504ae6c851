"""Options of `experiments.admm`, and their presets."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from experiments.common import (
    DataOptions,
    DenseOptions,
    EngineOptions,
    NetworkOptions,
    RunOptions,
    TaskOptions,
)
from jaxsnn import data
from jaxsnn.methods import admm
from jaxsnn.options import PerLayer, Range, Whole, checked

Way = Literal["prune", "one-shot", "quantize", "activity", "joint"]


@checked
class Ways:
    """Which ways to go, and what the single ones do; the joint way is the method's."""

    ways: tuple[Way, ...] = ("prune", "one-shot", "quantize", "activity", "joint")
    """Ways to go: prune, one-shot, quantize, activity, joint."""
    prune_sparsity: Annotated[PerLayer, Range(0, 1, open_high=True)] = 0.95
    """Share of the connections removed by pruning alone: in all, or of each layer."""
    quantize_levels: admm.Levels = "ternary"
    """Levels of quantization alone: binary, ternary, uniform or pow2."""
    quantize_bits: Annotated[PerLayer, Whole(1, 8)] = 2
    """Bits of its levels uniform and pow2, for all layers or each."""
    activity_epochs: Annotated[int, Whole(0)] = 4
    """Epochs of the activity regularization alone."""


@dataclass(frozen=True)
class Config:
    """Options of `experiments.admm`."""

    run: RunOptions = RunOptions()
    data: DataOptions = DataOptions()
    task: TaskOptions = TaskOptions()
    network: NetworkOptions = NetworkOptions()
    engine: EngineOptions = EngineOptions()
    dense: DenseOptions = DenseOptions()
    ways: Ways = Ways()
    method: admm.Options = admm.Options()


COMMON: dict[str, Any] = {"spike_weight": 0.03}

SMOKE = COMMON | {
    "network": "8C3-AP2-16-{classes}", "timesteps": 2, "limit": 500, "batch_size": 50,
    "dense_epochs": 2, "pull_epochs": 1, "retrain_epochs": 1, "activity_epochs": 1,
    "prune_sparsity": 0.8, "sparsity": 0.8,
}  # fmt: skip

DIGITS = COMMON | {
    "dense_epochs": 60, "pull_epochs": 30, "retrain_epochs": 40, "activity_epochs": 40,
    "batch_size": 32, "learning_rate": 2e-3, "prune_sparsity": 0.9,
}  # fmt: skip
MNIST = COMMON | {
    "dense_epochs": 6, "pull_epochs": 3, "retrain_epochs": 2, "activity_epochs": 3,
    "validation": 0.0, "spike_weight": 0.06,
}  # fmt: skip
CIFAR = COMMON | {
    "network": "32C3-AP2-64C3-AP2-128-{classes}", "augment": "crop-flip", "limit": 10_000,
    "batch_size": 50, "dense_epochs": 12, "validation": 0.05, "prune_sparsity": 0.75,
    "sparsity": 0.75,
}  # fmt: skip

# The authors' public codes: MNIST 100 epochs, T = 20, Bernoulli input; ADMM and retraining 30
# epochs each with 30 dual updates; sparsities by hand. CIFAR-10: the STBP net, whose ADMM settings
# are not public.
PUBLISHED: dict[str, Any] = {
    "dense_epochs": 100, "pull_epochs": 30, "retrain_epochs": 30, "activity_epochs": 30,
    "dual_steps": 1,
}  # fmt: skip
BY_HAND = {"conv1": 0.83, "conv2": 0.92, "dense1": 0.991, "dense2": 0.93}
PAPER_MNIST = MNIST | PUBLISHED | {
    "timesteps": 20, "encoding": "bernoulli", "prune_sparsity": BY_HAND,
}  # fmt: skip
PAPER_CIFAR = CIFAR | PUBLISHED | {
    "network": "128C3-D0.5-256C3-AP2-D0.5-512C3-AP2-D0.5-1024C3-D0.5-512C3-D0.5"
               "-1024-D0.5-512-D0.5-{10*classes}-V{classes}",
    "decay": 0.25, "threshold": 0.75, "timesteps": 8, "dense_epochs": 120, "limit": None,
}  # fmt: skip

# All images, in minutes on one accelerator. CIFAR-10: `models.admm_cifar` at half width.
GPU_CIFAR = CIFAR | {
    "network": "64C3-128C3S2-128C3-256C3S2-256C3-512C3-1024C3S2-512-256-{10*classes}-V{classes}",
    "norm": True, "dtype": "bfloat16", "decay": 0.25, "threshold": 0.75, "limit": None,
    "batch_size": 128, "dense_epochs": 40, "pull_epochs": 10, "retrain_epochs": 20,
    "activity_epochs": 10,
}  # fmt: skip
GPU_MNIST = MNIST | {
    "batch_size": 256, "dense_epochs": 30, "pull_epochs": 10, "retrain_epochs": 10,
    "activity_epochs": 10,
}  # fmt: skip


def _grey(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return dict.fromkeys(("mnist", "fashion_mnist", "kmnist"), values)


PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "smoke": dict.fromkeys(data.names(), SMOKE),
    "cpu": {"digits": DIGITS, **_grey(MNIST), "cifar10": CIFAR},
    "gpu": {"digits": DIGITS, **_grey(GPU_MNIST), "cifar10": GPU_CIFAR},
    "paper": {
        "digits": COMMON | PUBLISHED | {"batch_size": 32},
        **_grey(PAPER_MNIST),
        "cifar10": PAPER_CIFAR,
    },
}
