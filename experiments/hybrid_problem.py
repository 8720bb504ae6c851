"""The problem of a hybrid training: an ANN and the spiking network of the same layout.

Both networks have the same weights; the ANN is trained first, its weights and a threshold for each
layer start the spiking one (`jaxsnn.compress.conversion`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from flax import nnx

from experiments.common import problem as problems
from experiments.common.problem import Problem, TrainingConfig, check_positive, option
from jaxsnn import export, layers, models, train
from jaxsnn.arrays import check_range, check_whole
from jaxsnn.errors import UserError
from jaxsnn.methods import conversion
from jaxsnn.methods.conversion import LINEAR
from jaxsnn.surrogate import Surrogate, stdb

HALF = 0.5  # mean and deviation of a colour on the scale of [0, 1]: values in [-1, 1]
NETWORKS = {"vgg9": models.vgg9, "vgg11": models.vgg11}


@dataclass(frozen=True)
class HybridConfig(TrainingConfig):
    """Options of the experiments that train an ANN and convert it."""

    width: float = 1.0
    """Factor on the widths of a network with a name."""
    dropout: float = 0.2
    """Share of the inputs of a layer dropped in training, in a network with a name."""
    order: Literal["fire_then_integrate", "integrate_then_fire"] = "fire_then_integrate"
    """What a neuron does first; with fire_then_integrate each layer delays by one step."""
    surrogate: Literal["linear", "stdb"] = "linear"
    """Stand-in for a spike's derivative: linear, or stdb, by the time since the last spike."""
    ann_epochs: int = 300
    """Epochs of each ANN."""
    ann_learning_rate: float = 0.1
    """First step size of the ANN."""
    tune_epochs: int = 20
    """Epochs of the spiking network after its conversion."""
    schedule: Literal["steps", "cosine"] = "steps"
    """How step sizes fall: in steps as published, or along a cosine to 0."""
    weight_decay: float = 5e-4
    """Weight decay of the spiking network, added to the gradient."""
    ann_weight_decay: float = 1e-4
    """Weight decay of the ANN, added to the gradient."""
    quantile: float = 0.999
    """Quantile of a layer's input current that becomes its threshold; 1 is the maximum."""
    threshold_scale: float = 1.0
    """Factor on all thresholds, below 1 for more spikes."""
    scores: Literal["spikes", "ann"] = "spikes"
    """Unit of the converted network's scores before it is tuned: spikes, as published, or ann."""
    calibration_images: int = 512
    """Training images on which thresholds are found."""
    calibration_timesteps: int = 100
    """Time steps over which thresholds are found."""
    draws: int = 3
    """Evaluations with other random spikes, whose mean is noted beside the first one."""
    remat: int | None = None
    """Compute activations again for each chunk of so many steps: less memory, more time."""

    def check(self) -> None:
        """Refuse options out of range, by name, before anything is made."""
        super().check()
        for name in ("width", "ann_learning_rate", "threshold_scale"):
            check_positive(name, getattr(self, name))
        check_range("--dropout", self.dropout, 0.0, 1.0, open_high=True)
        check_range("--quantile", self.quantile, 0.0, 1.0, open_low=True)
        for name in ("weight_decay", "ann_weight_decay"):
            check_range(option(name), getattr(self, name), 0.0, 1.0, open_high=True)
        for name in ("ann_epochs", "calibration_images", "calibration_timesteps", "draws"):
            check_whole(option(name), getattr(self, name), 1, 1 << 20)
        check_whole("--tune-epochs", self.tune_epochs, 0, 1 << 20)
        if self.encoding == "bernoulli":
            raise UserError("--encoding bernoulli has no negative spikes: choose poisson or direct")
        check_remat(self.remat, self.timesteps)


def check_remat(remat: int | None, *timesteps: int) -> None:
    """Refuse chunks of time that do not fill up one of the numbers of steps."""
    if remat is None:
        return
    check_whole("--remat", remat, 1, 1 << 20)
    for each in timesteps:
        if remat < each and each % remat:
            raise UserError(f"--remat {remat} does not divide {each} timesteps: choose a divisor")


@dataclass(frozen=True, eq=False)
class HybridProblem(Problem):
    """A data set and a layout, as a spiking network or as an ANN.

    Attributes:
      layout: of the network, which `module` is built from.
    """

    config: HybridConfig
    layout: str = ""
    lengths: dict[int, "HybridProblem"] = field(default_factory=dict)

    @cached_property
    def inputs(self) -> export.Inputs:
        """Say how an image becomes the input: colours on [-1, 1], a single channel on [0, 1]."""
        if self.data.timesteps is not None:
            return super().inputs
        shape, c = self.data.shape, self.config
        half = (HALF,) * shape[-1] if shape[-1] > 1 else None
        return export.Inputs(shape, c.timesteps, c.encoding, half, half)

    @cached_property
    def ann(self) -> "HybridProblem":
        """Return the same layout as an ANN, which sees the values of an image once."""
        config = replace(self.config, timesteps=1, encoding="direct", remat=None)
        module = build(self.layout, self.data.shape, config, activation="relu")
        return replace(self, config=config, module=module, tasks={}, lengths={})

    def at(self, timesteps: int) -> "HybridProblem":
        """Return the same network over another number of steps; one object for each."""
        if timesteps == self.config.timesteps:
            return self
        if timesteps not in self.lengths:
            config = replace(self.config, timesteps=timesteps)
            self.lengths[timesteps] = replace(self, config=config, tasks={})
        return self.lengths[timesteps]

    def resized(self, widths: Mapping[str, int]) -> "HybridProblem":
        """Return a network with other widths, and without the convolutions left out."""
        layout = models.with_widths(self.layout, widths)
        module = build(layout, self.data.shape, self.config)
        return replace(self, module=module, layout=layout, tasks={}, lengths={})

    @property
    def spiking(self) -> tuple[str, ...]:
        """Return the names of the spiking layers, first to last."""
        return conversion.spiking_layers(self.net.synapses, self.net.params, self.net.stats)

    def task(self, spike_weight: float = 0.0) -> train.Task:
        """Return the task with that weight on the mean firing rate; one object for each weight."""
        return super().task(spike_weight)._replace(remat=self.config.remat)


def load(
    config: HybridConfig, networks: Mapping[str, models.Published] = NETWORKS
) -> HybridProblem:
    """Read the data and build the spiking network; every mistake of the user's shows here.

    Args:
      config: the options.
      networks: those that have a name.
    """
    found = problems.read(config)
    named = networks.get(config.network)
    layout = config.network
    if named is not None:
        layout = named.words(
            found.shape, classes=found.num_classes, width=config.width, dropout=config.dropout
        )
    module = build(layout, found.shape, config)
    problem = HybridProblem(config, found, module, layout=layout)
    problems.check_scores(problem)
    conversion.check_delay(problem.spiking, config.timesteps, config.order)
    return problem


def build(
    layout: str, shape: tuple[int, ...], config: HybridConfig, *, activation: str = "spikes"
) -> layers.Chain:
    """Build the network: no biases, no norms, a read-out that adds up its current."""
    chosen: Surrogate = LINEAR if config.surrogate == "linear" else stdb()
    neuron = conversion.neuron(config.order, decay=config.decay, surrogate=chosen)
    options: dict[str, Any] = dict(models.CONVERTED) | {"activation": activation}
    return models.build(layout, shape, neuron, rngs=nnx.Rngs(config.seed), **options)
