"""The problem of QP-SNN: its options, its network, and which channels go."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments.common import problem as problems
from experiments.common.problem import Problem, TrainingConfig, check_positive, option
from jaxsnn import models
from jaxsnn.arrays import check_range, check_whole
from jaxsnn.compress import singular
from jaxsnn.errors import UserError
from jaxsnn.methods import qp_snn
from jaxsnn.surrogate import triangle

Quantizer = Literal["rescaled", "vanilla"]
Score = Literal["singular", "membrane"]


class Way(NamedTuple):
    """Name the two choices that QP-SNN's ablation varies."""

    quantizer: Quantizer
    score: Score


# Rows C, D, E and F of the paper's ablation (table 3).
WAYS = {
    "baseline": Way("vanilla", "membrane"),
    "rescaled-only": Way("rescaled", "membrane"),
    "singular-only": Way("vanilla", "singular"),
    "full": Way("rescaled", "singular"),
}


@dataclass(frozen=True)
class QpConfig(TrainingConfig):
    """Options of `experiments.qp_snn`."""

    width: float = 1.0
    """Factor on the channels of vgg16, resnet20 and vggsnn."""
    bits: int = 4
    """Bits of a hidden convolution's weight; the first layer and the read-out stay float32."""
    setting: Literal["A", "B", "C"] = "A"
    """Which of the paper's settings gives the share of channels to remove from each layer."""
    ratios: tuple[float, ...] = ()
    """Instead of a setting: that share for each prunable layer in order, or one for all."""
    ways: tuple[str, ...] = ("baseline", "full")
    """What to compare: baseline, rescaled-only, singular-only, full (the ablation's four rows)."""
    order: Literal["qp", "pq"] = "qp"
    """qp quantizes and then prunes, as published; pq prunes and then quantizes."""
    gamma: Literal["mean", "max", "percentile"] = "mean"
    """What rescaled weights are divided by: mean or max of |W|, or its 0.99 percentile."""
    gamma_per: Literal["channel", "layer"] = "channel"
    """Whether each channel has its own gamma."""
    rule: Literal["inv_gamma", "identity", "mask"] = "inv_gamma"
    """Gradient through the rescaled quantizer; for vanilla all but mask are the identity."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """Optimizer of all phases: adam as in the authors' code, or sgd with momentum 0.9."""
    weight_decay: float = 1e-5
    """Weight decay of convolutions, added to the gradient."""
    train_epochs: int = 10
    """Epochs of each training from scratch: float, and with each quantizer."""
    tune_epochs: int = 5
    """Epochs of fine-tuning after pruning (and after quantization, in the order pq)."""
    calibration_batches: int = 5
    """Batches of training images on which channels are scored."""
    calibration_batch_size: int = 128
    """Images in each of them."""
    score_after_pool: bool = False
    """Score spikes behind a max pooling where one follows, as the authors' code does."""
    kept: Literal["independent", "aligned"] = "independent"
    """Whether residual blocks of one width choose their output channels each, or together."""
    shortcuts: Literal["follow", "padded"] = "follow"
    """After shrinking a shortcut follows each channel, or joins by position (authors' code)."""
    reinit_norm: bool = False
    """Restart batch normalisation after shrinking, as the authors' code does."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of whole runs; --seed is added to each."""

    def check(self) -> None:
        """Refuse options out of range, by name, before anything is made."""
        super().check()
        check_positive("width", self.width)
        check_whole("--bits", self.bits, 1, 8)
        for ratio in self.ratios:
            check_range("--ratios", ratio, 0.0, 1.0, open_high=True)
        if unknown := [way for way in self.ways if way not in WAYS]:
            raise UserError(f"--ways {unknown[0]!r} is unknown; choose from {', '.join(WAYS)}")
        check_range("--weight-decay", self.weight_decay, 0.0, 1.0, open_high=True)
        for name in ("train_epochs", "calibration_batches", "calibration_batch_size"):
            check_whole(option(name), getattr(self, name), 1, 1 << 20)
        check_whole("--tune-epochs", self.tune_epochs, 0, 1 << 20)
        if not self.seeds or not self.ways:
            raise UserError("--seeds and --ways need at least one value each")


def load(config: QpConfig) -> Problem:
    """Read the data and build the network; every mistake of the user's shows here."""

    def build(shape, classes, neuron, rngs):
        if named := models.by_name(config.network):
            return named(shape, neuron, classes=classes, width=config.width, rngs=rngs)
        options: dict[str, Any] = {"norm": True, "use_bias": "readout", "readout": "current"}
        return models.build(config.network, shape, neuron, rngs=rngs, **options)

    problem = problems.load(config, triangle(), build)
    needed = config.calibration_batches * config.calibration_batch_size
    if needed > len(problem.data.train.labels):
        raise UserError(
            f"--calibration-batches {config.calibration_batches} of --calibration-batch-size "
            f"{config.calibration_batch_size} need {needed} training images, found "
            f"{len(problem.data.train.labels)}"
        )
    widths = qp_snn.widths(problem.net.params)
    nothing: dict[str, Any] = {layer: np.zeros(widths[layer]) for layer in widths}
    singular.kept_channels(nothing, ratios_of(problem))  # refuses what would empty a layer
    return problem


def ratios_of(problem: Problem) -> dict[str, float]:
    """Return layer -> share of its channels to remove."""
    config: Any = problem.config
    if not config.ratios:
        return qp_snn.ratios(config.network, config.setting, problem.data.num_classes)
    prunable = qp_snn.prunable(problem.net.params)
    if len(config.ratios) not in (1, len(prunable)):
        raise UserError(
            f"--ratios has {len(config.ratios)} values, but {config.network!r} has "
            f"{len(prunable)} prunable layers: {', '.join(prunable)}; give as many, or one"
        )
    values = config.ratios * (len(prunable) // len(config.ratios))
    return dict(zip(prunable, values, strict=True))
