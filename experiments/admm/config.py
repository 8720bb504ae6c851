"""Options of `experiments.admm`, and their presets."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

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
    activity_weights: Annotated[tuple[float, ...], Range(0, float("inf"), open_high=True)] = (0.03,)
    """Its weights of the mean firing rate, a network for each."""

    def check(self) -> None:
        """Refuse to quieten without a weight, or twice with one."""
        check_each_once(activity_weights=self.activity_weights)


@dataclass(frozen=True)
class Config:
    """Options of `experiments.admm`."""

    run: RunOptions = RunOptions()
    data: DataOptions = DataOptions()
    task: TaskOptions = TaskOptions()
    network: NetworkOptions = NetworkOptions()
    engine: EngineOptions = EngineOptions()
    processes: ProcessOptions = ProcessOptions()
    dense: DenseOptions = DenseOptions()
    ways: Ways = Ways()
    method: admm.Options = admm.Options()


# Networks without norms are scaled at their start, or their deeper layers do not fire.
COMMON: dict[str, Any] = {"spike_weight": 0.03, "start": "firing"}

SMOKE = COMMON | {
    "network": "8C3-AP2-16-{classes}", "timesteps": 2, "limit": 500, "batch_size": 50,
    "dense_epochs": 2, "pull_epochs": 1, "retrain_epochs": 1, "activity_epochs": 1,
    "prune_sparsity": 0.8, "sparsity": 0.8,
}  # fmt: skip

SMOKE_UNITS = SMOKE | {"network": "16R-{classes}"}  # of recordings without an image

DIGITS = COMMON | {
    "dense_epochs": 60, "pull_epochs": 30, "retrain_epochs": 40, "activity_epochs": 40,
    "batch_size": 32, "learning_rate": 2e-3, "prune_sparsity": 0.9,
}  # fmt: skip
# Ten read-out neurons vote for each class (Wu et al. 2019): of a single one nothing comes back once
# its potentials are all outside of the rectangle, and two of four seeds lost classes so.
VOTING: dict[str, Any] = {"network": "32C3-AP2-32C3-AP2-128-{10*classes}-V{classes}"}
MNIST = COMMON | VOTING | {
    "dense_epochs": 6, "pull_epochs": 3, "retrain_epochs": 2, "activity_epochs": 3,
    "limit": 25_000, "validation": 0.0, "spike_weight": 0.06,
    "activity_weights": (0.0, 0.01, 0.03, 0.1, 0.3),
}  # fmt: skip
CIFAR = COMMON | {
    "network": "32C3-AP2-64C3-AP2-128-{classes}", "augment": "crop-flip", "limit": 10_000,
    "batch_size": 50, "dense_epochs": 12, "validation": 0.05, "prune_sparsity": 0.75,
    "sparsity": 0.75,
}  # fmt: skip

# 1,000 recordings in minutes. The other usual network is the MLP of STBP, 800-{classes}. Its start
# values are not scaled: the deep layers begin to fire in the first epoch, and it learns faster (84
# against 70 % of the held-out recordings after three).
NMNIST = COMMON | {
    "timesteps": 10, "limit": 1_000, "batch_size": 25, "dense_epochs": 12,
    "pull_epochs": 3, "retrain_epochs": 4, "activity_epochs": 4, "prune_sparsity": 0.9,
    "sparsity": 0.8,
}  # fmt: skip
# Made on recordings of the same shape; not tried on the real ones.
SPOKEN = COMMON | {
    "network": "shd_recurrent", "start": "uniform", "timesteps": 100, "loss": "ce",
    "decay": 0.9375, "threshold": 1.0,
    "augment": "event-shift", "batch_size": 64, "dense_epochs": 20, "pull_epochs": 6,
    "retrain_epochs": 8, "activity_epochs": 8, "prune_sparsity": 0.8, "sparsity": 0.8,
}  # fmt: skip

# As far as it is known: STBP for 100 epochs, then 30 of ADMM with a dual update in each and 30 of
# retraining; the growth of the penalty is ours. The shares of MNIST are those of the released
# weights. CIFAR-10 is `models.admm_cifar`, which needs its norms: without them all its gradients
# are 0. A quarter of the connections at 3 bits is what others quote; the first layer stays whole.
PUBLISHED: dict[str, Any] = {
    "dense_epochs": 100, "pull_epochs": 30, "retrain_epochs": 30, "activity_epochs": 30,
    "dual_steps": 1, "penalty": 1e-3, "limit": None,
}  # fmt: skip
BY_HAND = {"conv1": 0.83, "conv2": 0.92, "dense1": 0.991, "dense2": 0.93}
QUARTER = {"conv[2-7]": 0.75, "dense*": 0.75}
PAPER_MNIST = MNIST | PUBLISHED | {
    "network": "32C3-AP2-32C3-AP2-128-{classes}", "timesteps": 20, "encoding": "bernoulli",
    "dense_fall": 40, "prune_sparsity": BY_HAND,
}  # fmt: skip
PAPER_CIFAR = CIFAR | PUBLISHED | {
    "network": "admm_cifar", "norm": True, "decay": 0.25, "threshold": 0.75, "timesteps": 8,
    "dense_epochs": 120, "prune_sparsity": QUARTER, "sparsity": QUARTER,
}  # fmt: skip

# What the public codes do otherwise. The ADMM script (MNIST): cross-entropy of the rates, norms
# that are not squared, one step size, ternary levels; activity and the joint way are not in it.
# STBP for CIFAR-10: another network, without norms, by SGD; nothing says how its deep layers come
# to fire, here their start values are scaled. It trains dense layers at a tenth of the step.
AUTHORS: dict[str, Any] = {
    "ways": ("prune", "one-shot", "quantize"), "penalty_mode": "norm", "penalty": 1e-4,
    "penalty_growth": 1.0, "norm_weight": 5e-5, "schedule": "constant",
}  # fmt: skip
AUTHORS_MNIST = PAPER_MNIST | AUTHORS | {"loss": "ce", "sparsity": BY_HAND}
AUTHORS_CIFAR = PAPER_CIFAR | AUTHORS | {
    "network": "stbp_cifar", "norm": False, "timesteps": 5, "batch_size": 10,
    "dense_optimizer": "sgd", "dense_learning_rate": 0.1, "dense_fall": 35,
    "prune_sparsity": 0.75, "sparsity": 0.75,
}  # fmt: skip

# All images, at most ten minutes on one accelerator by the estimate of `experiments.bench.budget`.
# CIFAR-10 at half of the paper's width.
GPU_CIFAR = CIFAR | {
    "network": "admm_cifar", "width": 0.5, "norm": True, "dtype": "bfloat16", "decay": 0.25,
    "threshold": 0.75, "limit": None, "batch_size": 128, "ways": ("prune", "joint"),
    "dense_epochs": 36, "pull_epochs": 8, "retrain_epochs": 12,
}  # fmt: skip
GPU_MNIST = MNIST | {
    "limit": None, "batch_size": 256, "dense_epochs": 30, "pull_epochs": 10, "retrain_epochs": 10,
    "activity_epochs": 10,
}  # fmt: skip
GPU_SSC = SPOKEN | {
    "batch_size": 256, "ways": ("prune", "joint"), "dense_epochs": 11, "pull_epochs": 2,
    "retrain_epochs": 3,
}  # fmt: skip


def _grey(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return dict.fromkeys(("mnist", "fashion_mnist", "kmnist"), values)


def _colour(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return dict.fromkeys(("cifar10", "cifar100"), values)


def _spoken(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return dict.fromkeys(("shd", "ssc"), values)


PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "smoke": dict.fromkeys(data.names(), SMOKE) | dict.fromkeys(("shd", "ssc"), SMOKE_UNITS),
    "cpu": {
        "digits": DIGITS,
        **_grey(MNIST),
        **_colour(CIFAR),
        "nmnist": NMNIST,
        **_spoken(SPOKEN),
        "own": MNIST,
    },
    "gpu": {
        "digits": DIGITS,
        **_grey(GPU_MNIST),
        **_colour(GPU_CIFAR),
        "nmnist": GPU_MNIST | {"timesteps": 10},
        "shd": SPOKEN | {"batch_size": 256, "dense_epochs": 60},
        "ssc": GPU_SSC,
    },
    "paper": {
        "digits": COMMON | PUBLISHED | {"batch_size": 32},
        **_grey(PAPER_MNIST),
        **_colour(PAPER_CIFAR),
        "nmnist": NMNIST | PUBLISHED,
    },
    "authors": {"mnist": AUTHORS_MNIST, "cifar10": AUTHORS_CIFAR},
}
