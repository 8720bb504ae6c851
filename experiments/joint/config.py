"""Options of the joint pipeline, and their presets."""

from dataclasses import dataclass
from typing import Any

from experiments.common import (
    DataOptions,
    DenseOptions,
    EngineOptions,
    NetworkOptions,
    Presets,
    RunOptions,
    TaskOptions,
)
from jaxsnn.methods import joint


@dataclass(frozen=True)
class Config:
    """Options of `experiments.joint`."""

    run: RunOptions = RunOptions()
    data: DataOptions = DataOptions()
    task: TaskOptions = TaskOptions(timesteps=8, loss="ce")
    network: NetworkOptions = NetworkOptions(decay=0.5, threshold=1.0, norm=True)
    engine: EngineOptions = EngineOptions()
    dense: DenseOptions = DenseOptions()
    method: joint.Options = joint.Options()


Values = dict[str, Any]

MNIST: Values = {
    "limit": 30_000, "validation": 0.05, "timesteps_schedule": (4, 2), "dense_epochs": 3,
    "channels_epochs": 2, "pull_epochs": 1, "connections_epochs": 1, "bits_epochs": 1,
    "timesteps_epochs": 2, "spike_weight": 0.5, "spikes_epochs": 8,
}  # fmt: skip
DIGITS: Values = {
    "network": "16C3-32C3-AP2-64-{classes}", "batch_size": 32, "learning_rate": 2e-3,
    "validation": 0.2, "dense_epochs": 40, "channels_epochs": 20, "sparsity": 0.8,
    "pull_epochs": 20, "connections_epochs": 20, "bits_epochs": 40, "timesteps_epochs": 20,
    "spikes_epochs": 60,
}  # fmt: skip
CIFAR: Values = {
    "network": "32C3-AP2-64C3-AP2-128-{classes}", "timesteps": 4, "timesteps_schedule": (2, 1),
    "augment": "crop-flip", "limit": 10_000, "batch_size": 50, "validation": 0.1,
    "dense_epochs": 10, "channel_ratios": 0.25, "sparsity": 0.75, "spikes_epochs": 4,
}  # fmt: skip

# No paper has this pipeline: its parts are trained for as long as theirs are.
LONG: Values = {
    "dense_epochs": 100, "channels_epochs": 50, "pull_epochs": 30, "connections_epochs": 30,
    "bits_epochs": 50, "timesteps_epochs": 30, "spikes_epochs": 50,
}  # fmt: skip
VGG: Values = LONG | {
    "network": "vgg16", "timesteps": 4, "timesteps_schedule": (3, 2, 1), "augment": "autoaugment",
    "batch_size": 128, "validation": 0.05, "dense_epochs": 300, "bits": 4,
}  # fmt: skip

SMOKE: Values = {
    "network": "8C3-AP2-16-{classes}", "timesteps": 4, "timesteps_schedule": (2,), "limit": 200,
    "batch_size": 50, "sparsity": 0.7, "dense_epochs": 1, "channels_epochs": 1, "pull_epochs": 1,
    "connections_epochs": 1, "bits_epochs": 1, "timesteps_epochs": 1, "spikes_epochs": 1,
    "calibration_batches": 2, "calibration_batch_size": 50,
}  # fmt: skip

LIKE_MNIST = ("mnist", "fashion_mnist", "kmnist")
PRESETS: Presets = {
    "smoke": dict.fromkeys(("digits", *LIKE_MNIST, "cifar10", "cifar100"), SMOKE),
    "cpu": {"digits": DIGITS, **dict.fromkeys(LIKE_MNIST, MNIST),
            **dict.fromkeys(("cifar10", "cifar100"), CIFAR)},
    "gpu": {"digits": DIGITS, **dict.fromkeys(LIKE_MNIST, MNIST | {"limit": None}),
            **dict.fromkeys(("cifar10", "cifar100"), VGG | {"dense_epochs": 30} | {
                f"{stage}_epochs": 10 for stage in ("channels", "pull", "connections", "bits",
                                                    "timesteps", "spikes")})},
    "paper": {"digits": DIGITS | LONG, **dict.fromkeys(LIKE_MNIST, MNIST | LONG),
              **dict.fromkeys(("cifar10", "cifar100"), VGG)},
}  # fmt: skip
