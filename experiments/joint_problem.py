"""The problem of the joint pipeline: its options, its network, and the order of its stages."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import numpy as np

from experiments.admm_stages import sparsities
from experiments.common import problem as problems
from experiments.common.problem import Problem, TrainingConfig, check_positive, option
from jaxsnn import export, models
from jaxsnn.arrays import check_range, check_whole
from jaxsnn.compress import masks, schedules, singular
from jaxsnn.errors import UserError
from jaxsnn.surrogate import triangle

STAGES = ("channels", "connections", "bits", "timesteps", "spikes")
BITS = {"rescaled": (1, 8), "uniform": (2, 8), "pow2": (2, 6)}  # fewest and most of each levels


@dataclass(frozen=True)
class JointConfig(TrainingConfig):
    """Options of `experiments.joint`."""

    timesteps: int = 8
    """Time steps T of one sample, of the dense network."""
    stages: tuple[str, ...] = STAGES
    """What to compress, in this order: channels, connections, bits, timesteps, spikes."""
    together: tuple[str, ...] = ()
    """Stages next to each other in --stages that are trained once, after the last of them."""
    width: float = 1.0
    """Factor on the channels of vgg16, resnet20 and vggsnn."""
    dense_epochs: int = 10
    """Epochs of the dense network."""
    channel_ratios: tuple[float, ...] = (0.5,)
    """Share of channels to remove from each hidden layer in order, or one for all."""
    calibration_batches: int = 5
    """Batches of training images on which channels are scored."""
    calibration_batch_size: int = 128
    """Images in each of them."""
    channels_epochs: int = 3
    """Epochs of training after channels were cut out."""
    sparsity: float = 0.9
    """Share of the connections to remove, of those that are there when their stage begins."""
    allocation: Literal["root", "uniform"] = "root"
    """How to spread a sparsity: root (a layer keeps as the root of its size) or uniform."""
    pruning: Literal["admm", "magnitude"] = "admm"
    """Which connections go: the smallest after an ADMM phase, or the smallest at once."""
    pull_epochs: int = 3
    """Epochs of the ADMM phase."""
    penalty: float = 1e-2
    """ADMM penalty rho at the start; it grows tenfold after each third of the phase."""
    dual_steps: int = 10
    """Dual updates in each epoch of the ADMM phase."""
    connections_epochs: int = 3
    """Epochs of training after connections were removed."""
    levels: Literal["rescaled", "uniform", "pow2", "ternary", "binary"] = "rescaled"
    """Levels of the weights: rescaled (a scale for each channel), or one scale for a layer."""
    bits: int = 2
    """Bits of the levels rescaled, uniform and pow2."""
    bits_epochs: int = 3
    """Epochs of training with quantized weights."""
    timesteps_schedule: tuple[int, ...] = (4, 3, 2)
    """Fewer and fewer time steps, each tried from the weights of the one before."""
    tolerance: float = 0.01
    """Validation accuracy that fewer time steps may lose against the first of that stage."""
    timesteps_epochs: int = 2
    """Epochs of training with each number of time steps."""
    spike_weight: float = 1.0
    """Weight of the mean firing rate in the loss, from the stage spikes on."""
    spikes_epochs: int = 3
    """Epochs of training with that weight."""

    def check(self) -> None:
        """Refuse options out of range, by name, before anything is made."""
        super().check()
        self._check_stages()
        check_positive("width", self.width)
        check_positive("penalty", self.penalty)
        for ratio in self.channel_ratios:
            check_range("--channel-ratios", ratio, 0.0, 1.0, open_high=True)
        check_range("--sparsity", self.sparsity, 0.0, 1.0, open_high=True)
        check_range("--tolerance", self.tolerance, 0.0, 1.0)
        check_range("--spike-weight", self.spike_weight, 0.0, np.inf, open_high=True)
        for name in ("dense_epochs", "pull_epochs", "dual_steps", "calibration_batches",
                     "calibration_batch_size"):  # fmt: skip
            check_whole(option(name), getattr(self, name), 1, 1 << 20)
        for stage in STAGES:
            name = f"{stage}_epochs"
            check_whole(option(name), getattr(self, name), 0, 1 << 20)
        if self.levels in BITS:
            check_whole(f"--bits of --levels {self.levels}", self.bits, *BITS[self.levels])
        if "timesteps" in self.stages:
            self._check_schedule()

    def _check_stages(self) -> None:
        if not self.stages:
            raise UserError(f"--stages needs at least one of {', '.join(STAGES)}")
        for name, chosen, known in (
            ("--stages", self.stages, STAGES),
            ("--together", self.together, self.stages),
        ):
            if unknown := [stage for stage in chosen if stage not in known]:
                raise UserError(f"{name} {unknown[0]!r} is unknown; choose from {', '.join(known)}")
            if twice := [stage for stage in chosen if chosen.count(stage) > 1]:
                raise UserError(f"{name} has {twice[0]!r} twice")
        if len(self.together) == 1:
            raise UserError(f"--together {self.together[0]!r} is alone: name two stages or more")
        places = sorted(map(self.stages.index, self.together))
        if places and places[-1] - places[0] >= len(places):
            raise UserError(
                f"--together {' '.join(self.together)} must stand next to each other in --stages "
                f"{' '.join(self.stages)}"
            )

    def _check_schedule(self) -> None:
        if not self.timesteps_schedule:
            raise UserError("--timesteps-schedule needs at least one number of time steps")
        try:
            schedules.falling_timesteps(self.timesteps, self.timesteps_schedule)
        except UserError as error:
            raise UserError(f"--timesteps-schedule: {error}") from None
        if self.validation == 0 and "timesteps" not in self.together:
            raise UserError(
                "--validation 0 leaves no images to tell how few time steps are enough: hold some "
                "out, or leave timesteps out of --stages"
            )


def groups(config: JointConfig) -> list[tuple[str, ...]]:
    """Return the stages in order, those that are trained together in one tuple.

    >>> groups(JointConfig(stages=("bits", "channels", "spikes"), together=("channels", "bits")))
    [('bits', 'channels'), ('spikes',)]
    """
    found: list[tuple[str, ...]] = []
    for stage in config.stages:
        if stage in config.together and found and found[-1][0] in config.together:
            found[-1] += (stage,)
        else:
            found.append((stage,))
    return found


def load(config: JointConfig) -> Problem:
    """Read the data and build the network; every mistake of the user's shows here."""

    def build(shape, classes, neuron, rngs):
        if named := models.by_name(config.network):
            return named(shape, neuron, classes=classes, width=config.width, rngs=rngs)
        options: dict[str, Any] = {"norm": True, "use_bias": "readout", "readout": "current"}
        return models.build(config.network, shape, neuron, rngs=rngs, **options)

    problem = problems.load(config, triangle(), build)
    if "timesteps" in config.stages and problem.data.timesteps is not None:
        raise UserError(
            f"--stages timesteps: the frames of {problem.data.name} are cut when they are read; "
            "leave that stage out and give fewer --timesteps"
        )
    needed = config.calibration_batches * config.calibration_batch_size
    if "channels" in config.stages and needed > len(problem.data.train.labels):
        raise UserError(
            f"--calibration-batches {config.calibration_batches} of --calibration-batch-size "
            f"{config.calibration_batch_size} need {needed} training images, found "
            f"{len(problem.data.train.labels)}"
        )
    _rehearse(problem, config)
    return problem


def _rehearse(problem: Problem, config: JointConfig) -> None:
    """Cut and prune shapes without weights, to refuse what would empty a layer."""
    if "channels" in config.stages:
        ratios, start = ratios_of(problem), problem.start()
        kernels = problem.net.params
        nothing: dict[str, Any] = {x: np.zeros(width_of(kernels, x)) for x in ratios}
        kept = singular.kept_channels(nothing, ratios)
        module = export.shrink(problem.module, start.params, start.stats, kept)
        problem = problem.start_with(module).problem
    if "connections" in config.stages:
        recipe = sparsities(problem, config.allocation, config.sparsity)
        jax.eval_shape(partial(masks.keep_fraction, recipe), problem.net.params)


def ratios_of(problem: Problem) -> dict[str, float]:
    """Return layer -> share of its channels to remove, for all layers but the read-out."""
    config: Any = problem.config
    *hidden, _ = problem.module.synapses()
    ratios = config.channel_ratios
    if len(ratios) not in (1, len(hidden)):
        raise UserError(
            f"--channel-ratios has {len(ratios)} values, but {config.network!r} has "
            f"{len(hidden)} hidden layers: {', '.join(hidden)}; give as many, or one"
        )
    return dict(zip(hidden, ratios * (len(hidden) // len(ratios)), strict=True))


def width_of(params: Any, layer: str) -> int:
    """Return the number of channels of a layer such as "conv1" or "block1/conv1"."""
    for part in layer.split("/"):
        params = params[part]
    return params["kernel"].shape[-1]
