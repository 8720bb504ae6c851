"""Options of `experiments.spike_thrift`, and their presets."""

from dataclasses import dataclass
from typing import Any, Literal

from experiments.common import DataOptions, EngineOptions, ProcessOptions, RunOptions, TaskOptions
from experiments.common.converted import LayoutOptions
from jaxsnn.methods import conversion, spike_thrift
from jaxsnn.options import checked


@checked
class Meta:
    """The meta-model."""

    fc: Literal["single", "wide"] = "single"
    """Dense layers of vgg16 and vgg11: the read-out alone, or two wide ones before it."""
    teacher: str | None = None
    """File of a trained meta-model, dense-ann.safetensors of another run; trained if left out."""


@dataclass(frozen=True)
class Config:
    """Options of `experiments.spike_thrift`."""

    run: RunOptions = RunOptions()
    data: DataOptions = DataOptions()
    task: TaskOptions = TaskOptions()
    network: LayoutOptions = LayoutOptions()
    engine: EngineOptions = EngineOptions()
    processes: ProcessOptions = ProcessOptions()
    meta: Meta = Meta()
    hybrid: conversion.Options = conversion.DEFAULTS
    method: spike_thrift.Options = spike_thrift.DEFAULTS


COMMON: dict[str, Any] = {
    "network": "vgg16", "decay": 1.0, "loss": "ce_sum", "encoding": "poisson", "batch_size": 100,
    "timesteps": 100,
}  # fmt: skip

# A tenth of the published T; neurons integrate first, which suits few steps, and thresholds lie
# below the few largest currents. Small maps of attention have a small weight, and small layers of
# small images more than their share of the weights. The published loss on summed scores is too sure
# of itself to tune with; that on their mean in the ANN's unit is not.
SHORT = COMMON | {
    "timesteps": 10, "order": "integrate_then_fire", "calibration_timesteps": 10, "loss": "ce",
    "scores": "ann", "schedule": "cosine", "ann_learning_rate": 0.05, "sparse_learning_rate": 0.05,
    "ann_weight_decay": 1e-4, "learning_rate": 2e-3, "weight_decay": 0.0, "dropout": 0.1,
    "quantile": 0.99, "validation": 0.05, "spread": "erk", "beta": 20.0,
}  # fmt: skip
DIGITS = SHORT | {
    "network": "16C3-D0.1-32C3-AP2-32C3-D0.1-32C3-AP4-{classes}", "batch_size": 32,
    "ann_epochs": 40, "sparse_epochs": 60, "tune_epochs": 10, "calibration_images": 256,
    "ways": tuple(spike_thrift.WAYS), "validation": 0.1,
}  # fmt: skip
# No dense layer but the read-out: a density is one of the convolutions.
MNIST = SHORT | {
    "network": "32C3-AP2-64C3-AP2-64C3-AP7-{classes}", "limit": 10_000, "density": 0.05,
    "ann_epochs": 10, "sparse_epochs": 20, "tune_epochs": 4, "tune_each": True, "draws": 1,
}  # fmt: skip
CIFAR10 = SHORT | {
    "network": "16C3-AP2-32C3-32C3-AP2-64C3-64C3-AP2-128C3-AP4-{classes}", "augment": "crop-flip",
    "limit": 30_000, "timesteps": 8, "calibration_timesteps": 8, "ann_epochs": 24,
    "sparse_epochs": 30, "tune_epochs": 4, "learning_rate": 3e-3, "spread": "uniform",
    "threshold_scale": 0.7,  # at 1 the last of its 6 layers hardly fires within 8 steps
}  # fmt: skip

# T, epochs and densities as far as they are known, at second hand; the rest is ours.
PAPER = COMMON | {
    "calibration_timesteps": 100, "augment": "crop-flip", "validation": 0.0, "batch_size": 128,
    "ann_epochs": 240, "ann_learning_rate": 0.05, "ann_weight_decay": 5e-4, "sparse_epochs": 240,
    "tune_epochs": 30, "learning_rate": 1e-4, "density": 0.03, "quantile": 1.0,
    "threshold_scale": 0.7, "ways": tuple(spike_thrift.WAYS), "remat": 10,
}  # fmt: skip

# What the codes that the method stands on do otherwise: the ANN and the tuning of Rathi et al., the
# step size of sparse momentum.
AUTHORS = PAPER | {
    "ann_epochs": 300, "ann_learning_rate": 0.01, "batch_size": 64, "calibration_timesteps": 1000,
    "sparse_learning_rate": 0.1, "tune_epochs": 50,
}  # fmt: skip

# VGG-16 at full width, at most ten minutes on one accelerator by the estimate of
# `experiments.bench.budget`.
GPU_CIFAR10 = SHORT | {
    "augment": "crop-flip", "dtype": "bfloat16", "batch_size": 128, "timesteps": 12,
    "calibration_timesteps": 12, "ann_epochs": 36, "sparse_epochs": 36, "tune_epochs": 4,
    "density": 0.03, "beta": 2000.0, "threshold_scale": 0.7,
}  # fmt: skip
GPU_MNIST = MNIST | {"limit": None, "ann_epochs": 30, "sparse_epochs": 60, "tune_epochs": 10}

SMOKE = SHORT | {
    "network": "6C3-AP2-8C3-AP4-{classes}", "limit": 300, "batch_size": 50, "ann_epochs": 2,
    "sparse_epochs": 2, "tune_epochs": 1, "timesteps": 8, "calibration_timesteps": 8,
    "calibration_images": 64, "density": 0.3, "draws": 2,
}  # fmt: skip

GREY = ("mnist", "fashion_mnist", "kmnist")
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "smoke": dict.fromkeys(("digits", *GREY, "cifar10", "cifar100", "tiny_imagenet", "own"), SMOKE),
    "cpu": {
        "digits": DIGITS,
        **dict.fromkeys((*GREY, "own"), MNIST),
        **dict.fromkeys(("cifar10", "cifar100"), CIFAR10),
    },
    "gpu": {
        "digits": DIGITS,
        **dict.fromkeys(GREY, GPU_MNIST),
        **dict.fromkeys(("cifar10", "cifar100"), GPU_CIFAR10),
    },
    "paper": {
        "digits": DIGITS | {"timesteps": 100, "calibration_timesteps": 100},
        **dict.fromkeys(GREY, PAPER | {"network": MNIST["network"], "augment": "none"}),
        "cifar10": PAPER,
        "cifar100": PAPER | {"network": "vgg11", "timesteps": 120, "calibration_timesteps": 120},
        "tiny_imagenet": PAPER | {"timesteps": 150, "calibration_timesteps": 150, "density": 0.4},
    },
    "authors": {"cifar10": AUTHORS, "cifar100": AUTHORS | {"network": "vgg11", "timesteps": 120}},
}
