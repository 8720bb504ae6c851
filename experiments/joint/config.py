"""Options of the joint pipeline, and their presets."""

from dataclasses import dataclass
from typing import Any

from experiments.common import (
    DataOptions,
    DenseOptions,
    EngineOptions,
    NetworkOptions,
    Presets,
    ProcessOptions,
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
    processes: ProcessOptions = ProcessOptions()
    dense: DenseOptions = DenseOptions()
    method: joint.Options = joint.Options()


Values = dict[str, Any]

# Behind the last stage a decision is made as soon as it is sure, channels that nobody
# hears and norms are gone, biases and thresholds have 8 bits, and what else fits into the file is
# trained beside it.
WHOLE: Values = {
    "stages": joint.STAGES, "distill": 0.5, "tidy": True, "constant_bits": 8, "same_bytes": True,
}  # fmt: skip

# All 60,000 images; 3,390 bytes are a 250th of the dense network's file. Steps go early: what
# follows is trained in half of the time. The few weights of the convolutions have more bits.
MNIST: Values = WHOLE | {
    "stages": ("channels", "timesteps", "connections", "bits", "spikes", "exit"), "timesteps": 4,
    "timesteps_schedule": (2,), "dtype": "auto", "validation": 0.05, "dense_epochs": 10,
    "channels_epochs": 8, "timesteps_epochs": 4, "pull_epochs": 3, "connections_epochs": 10,
    "levels": "uniform", "per": "channel", "layer_bits": {"conv1": 5, "conv2": 3, "dense2": 3},
    "bits_learning_rate": 3e-4, "bits_epochs": 16, "spike_weight": 0.5, "spikes_epochs": 16,
    "exit_tolerance": 0.0, "bytes": 3_390, "spare": 0.15, "search_channels": (0.625, 0.75),
    "search_bits": (2, 3),
}  # fmt: skip
DIGITS: Values = WHOLE | {
    "network": "16C3-32C3-AP2-64-{classes}", "batch_size": 32, "learning_rate": 2e-3,
    "distill": 0.0,  # where it gained nothing
    "validation": 0.2, "dense_epochs": 40, "channels_epochs": 20, "sparsity": 0.8,
    "pull_epochs": 20, "connections_epochs": 20, "bits_epochs": 40, "timesteps_epochs": 20,
    "spikes_epochs": 60,
}  # fmt: skip
# From a network of the fast recipe (`--weights`, `--dense-epochs 0`), or trained here, for longer
# than the stages. 67,700 bytes are a 50th of its file. 10,000 images are held out, as there.
CIFAR: Values = MNIST | {
    "network": "fast_cifar", "timesteps": 2, "timesteps_schedule": (1,), "dtype": "auto",
    "augment": "alternate", "batch_size": 125, "validation": 0.2, "dense_epochs": 24,
    "channels_epochs": 1, "timesteps_epochs": 2, "pull_epochs": 2, "connections_epochs": 3,
    "levels": "rescaled", "layer_bits": None, "bits_learning_rate": None, "bits_epochs": 4,
    "spike_weight": 0.1, "spikes_epochs": 4, "exit_tolerance": 0.001, "bytes": 67_700,
    "spare": 0.0, "search_channels": (0.0, 0.25), "same_bytes": False,
}  # fmt: skip

# Frames of recordings are cut when they are read, so their number stays; early exit shortens them.
OF_RECORDINGS: Values = {
    "stages": ("channels", "connections", "bits", "spikes", "exit"), "same_bytes": False,
}  # fmt: skip
NMNIST: Values = WHOLE | OF_RECORDINGS | {
    "timesteps": 10, "limit": 1_000, "batch_size": 25, "sparsity": 0.8, "dense_epochs": 12,
    "channels_epochs": 4, "pull_epochs": 3, "connections_epochs": 4, "bits_epochs": 4,
    "spikes_epochs": 4,
}  # fmt: skip

# No paper has this pipeline: its parts are trained for as long as theirs are.
LONG: Values = {
    "dense_epochs": 100, "channels_epochs": 50, "pull_epochs": 30, "connections_epochs": 30,
    "bits_epochs": 50, "timesteps_epochs": 30, "spikes_epochs": 50,
}  # fmt: skip
VGG: Values = WHOLE | LONG | {
    "network": "vgg16", "timesteps": 4, "timesteps_schedule": (3, 2, 1), "augment": "autoaugment",
    "batch_size": 128, "validation": 0.05, "dense_epochs": 300, "bits": 4,
}  # fmt: skip

SMOKE: Values = {
    "network": "8C3-AP2-16-{classes}", "timesteps": 4, "timesteps_schedule": (2,), "limit": 200,
    "batch_size": 50, "sparsity": 0.7, "dense_epochs": 1, "channels_epochs": 1, "pull_epochs": 1,
    "connections_epochs": 1, "bits_epochs": 1, "timesteps_epochs": 1, "spikes_epochs": 1,
    "calibration_batches": 2, "calibration_batch_size": 50, "search_channels": (0.0, 0.5),
    "search_samples": 100, "search_epochs": 1, "stages": joint.STAGES,
}  # fmt: skip

LIKE_MNIST = ("mnist", "fashion_mnist", "kmnist")
LIKE_CIFAR = ("cifar10", "cifar100")
GPU: Values = {
    "batch_size": 256, "dense_epochs": 30, "channels_epochs": 10, "pull_epochs": 5,
    "connections_epochs": 10, "bits_epochs": 10, "timesteps_epochs": 5, "spikes_epochs": 20,
}  # fmt: skip
# At most ten minutes by the estimate of `experiments.bench.budget`.
GPU_VGG: Values = {"dense_epochs": 16, "dtype": "bfloat16", "timesteps_schedule": (2, 1)}
PRESETS: Presets = {
    "smoke": {**dict.fromkeys(("digits", *LIKE_MNIST, *LIKE_CIFAR, "own"), SMOKE),
              "nmnist": SMOKE | OF_RECORDINGS},
    "cpu": {"digits": DIGITS, **dict.fromkeys(LIKE_MNIST, MNIST),
            **dict.fromkeys(LIKE_CIFAR, CIFAR), "nmnist": NMNIST, "own": MNIST},
    "gpu": {"digits": DIGITS, **dict.fromkeys(LIKE_MNIST, MNIST | GPU),
            **dict.fromkeys(LIKE_CIFAR, VGG | GPU_VGG | {
                f"{stage}_epochs": 3 for stage in ("channels", "pull", "connections", "bits",
                                                    "timesteps", "spikes")}),
            "nmnist": NMNIST | GPU | {"limit": None}},
    "paper": {"digits": DIGITS | LONG, **dict.fromkeys(LIKE_MNIST, MNIST | LONG),
              **dict.fromkeys(LIKE_CIFAR, VGG), "nmnist": NMNIST | LONG | {"limit": None}},
}  # fmt: skip
