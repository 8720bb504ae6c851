"""Hybrid conversion: train an ANN, make it spike, train the spiking network on for a few epochs.

    1. ANN          min over W of CE(ANN(x; W), y)               SGD with momentum, He's start
    2. thresholds   v[l] = quantile of the current W[l] o[l-1]   front to back (`balancing`)
    3. conversion   the same W, thresholds `scale v`
    4. tuning       min over W of loss(SNN(x; W, v), y)          surrogate gradients through time;
                                                                 thresholds, leaks are constants

An IF neuron with a reset by subtraction fires at the rate `clip(x / v, 0, 1)`, so step 3 already
classifies if T is large; step 4 needs few epochs and far fewer time steps (Rathi et al. 2020,
section 3, algorithm 1). Two other methods stand on these steps: `spatiotemporal`, `spike_thrift`.

Reference: Rathi, Srinivasan, Panda and Roy 2020, "Enabling Deep Spiking Neural Networks with Hybrid
Conversion and Spike Timing Dependent Backpropagation", ICLR, https://arxiv.org/abs/2005.01807.

Where the sources differ:
- AMSGrad of optax keeps the largest bias-corrected second moment, that of PyTorch the largest raw
  one: after a large first gradient ours takes smaller steps, which shows in short tunings.
- The paper starts the tuning from scores as they come, in units of all thresholds; `scores="ann"`
  multiplies the read-out so that they are those of the ANN.
- Step sizes of the ANN fall tenfold at 62.5, 75 and 87.5 % of its epochs: ours.
"""

from dataclasses import replace
from typing import Annotated, Any, Literal, NamedTuple

import jax
import optax

from jaxsnn import layers, models, train
from jaxsnn.data import Dataset
from jaxsnn.errors import UserError
from jaxsnn.methods import balancing
from jaxsnn.methods.result import CONTROL, Result, Trained, Trainer
from jaxsnn.methods.scales import best_scale
from jaxsnn.models.variants import ann_of, rescale, spiking_of
from jaxsnn.network import Network
from jaxsnn.neurons import LIF
from jaxsnn.options import Range, Whole, checked
from jaxsnn.surrogate import stdb

__all__ = [
    "Hybrid",
    "Options",
    "ann_optimizer",
    "ann_task",
    "check",
    "compress",
    "falling",
    "hybrid",
    "neuron",
    "take_over",
    "train_ann",
    "train_on",
    "tune_optimizer",
]

CALIBRATION_BATCH = 64  # images whose currents are in memory at once

Positive = Range(0.0, open_low=True, open_high=True)
Share = Range(0.0, 1.0, open_high=True)


@checked
class Options:
    """Options of a hybrid training: an ANN, its thresholds, and the tuning that follows."""

    order: Literal["fire_then_integrate", "integrate_then_fire"] = "fire_then_integrate"
    """What a neuron does first; with fire_then_integrate each layer delays by one step."""
    decay: Annotated[float, Range(0.0, 1.0)] = 1.0
    """Share of the membrane potential left after a step."""
    surrogate: Literal["linear", "stdb"] = "linear"
    """Stand-in for a spike's derivative: linear, or stdb, by the time since the last spike."""
    ann_epochs: Annotated[int, Whole(0)] = 300
    """Epochs of each ANN; with 0 the weights given are those of a trained ANN."""
    ann_learning_rate: Annotated[float, Positive] = 0.1
    """First step size of the ANN."""
    ann_weight_decay: Annotated[float, Share] = 1e-4
    """Weight decay of the ANN, added to the gradient."""
    quantile: Annotated[float, Range(0.0, 1.0, open_low=True)] = 0.999
    """Quantile of a layer's input current that becomes its threshold; 1 is the maximum."""
    threshold_scale: Annotated[float, Positive] = 1.0
    """Factor on all thresholds, below 1 for more spikes."""
    threshold_scales: Annotated[tuple[float, ...], Positive] = ()
    """Further factors to try; the best one on held-out images is taken."""
    scores: Literal["spikes", "ann"] = "spikes"
    """Unit of the converted network's scores before it is tuned: spikes, as published, or ann."""
    calibration_images: Annotated[int, Whole(1)] = 512
    """Training images on which thresholds are found."""
    calibration_timesteps: Annotated[int, Whole(1)] = 100
    """Time steps over which thresholds are found."""
    tune_epochs: Annotated[int, Whole(0)] = 20
    """Epochs of the spiking network after its conversion."""
    learning_rate: Annotated[float, Positive] = 1e-4
    """First step size of the spiking network."""
    weight_decay: Annotated[float, Share] = 5e-4
    """Weight decay of the spiking network, added to the gradient."""
    schedule: Literal["steps", "cosine"] = "steps"
    """How step sizes fall: in steps as published, or along a cosine to 0."""
    control: bool = True
    """Train the dense network on until it had as many epochs as the product: "dense control"."""
    batch_size: Annotated[int, Whole(1)] = 64
    """Samples of one training step."""
    seed: Annotated[int, Whole(0, 2**31 - 1)] = 0
    """Seed of everything random."""


DEFAULTS = Options()


class Hybrid(NamedTuple):
    """What a hybrid training gives."""

    ann: Network
    converted: Network  # the spiking network, not yet tuned
    spiking: Network  # tuned
    thresholds: dict[str, float]  # layer -> threshold, not scaled
    scales: list[dict[str, Any]]  # factors on them that were tried, `scales.best_scale`


def compress(
    net: Network,
    task: train.Task,
    data: Dataset,
    options: Options = DEFAULTS,
    *,
    fit: train.Fit = train.fit,
) -> Result:
    """Train an ANN, convert it to a spiking network and tune that one.

    Args:
      net: gives the layout: an ANN (`models.build(..., activation="relu")`) or the spiking network
        of the same layers, without biases and norms, with a read-out that does not fire. Its
        neurons play no part, those of the product are `neuron(options)`; nor do its weights,
        unless `ann_epochs` is 0: then they are those of a trained ANN.
      task: of the spiking network: T, "poisson" or "direct", normalisation, loss.
      data: trained and measured on.
      options: of the method.
      fit: trains a phase.

    Returns:
      The rows "ann", "dense control" (the ANN, trained on for as many epochs as the tuning has),
      "converted" and "spiking", the product; `found` has `thresholds` and `scales`.

    Raises:
      UserError: for what cannot be converted, before anything is trained.

    Example:
      >>> from jaxsnn import data
      >>> digits = data.load("digits", limit=100)
      >>> net = models.build("4C3-AP8-10", digits.shape, **dict(models.CONVERTED))
      >>> short = Options(ann_epochs=1, tune_epochs=1, batch_size=50, order="integrate_then_fire",
      ...     calibration_images=50, calibration_timesteps=4)
      >>> task = train.Task(digits.inputs(4, "poisson"), loss="ce")
      >>> result = compress(net, task, digits, short)
      >>> list(result.networks)
      ['ann', 'dense control', 'converted', 'spiking']
    """
    check(net, task, options, data)
    trainer = Trainer(fit, data, options.batch_size, options.seed)
    found = hybrid("conversion", net, task, trainer, options)
    still = ann_task(task)
    networks = {"ann": Trained(found.ann, still)}
    if options.control:
        longer = train_on(CONTROL, found.ann, task, trainer, options, options.tune_epochs)
        networks[CONTROL] = Trained(longer, still)
    networks |= {
        "converted": Trained(found.converted, task),
        "spiking": Trained(found.spiking, task),
    }
    facts = {"thresholds": found.thresholds, "scales": found.scales}
    return Result.of(networks, data, facts, seed=options.seed)


def hybrid(
    name: str,
    net: Network,
    task: train.Task,
    trainer: Trainer,
    options: Options,
    *,
    ann: Network | None = None,
    ann_sgd: optax.GradientTransformation | None = None,
    tuner: optax.GradientTransformation | None = None,
) -> Hybrid:
    """Train a layout as an ANN, convert it, tune it.

    Args:
      name: of the two phases, "NAME ann" and "NAME tune".
      net: the layout, see `compress`.
      task: of the spiking network.
      trainer: trains a phase.
      options: of the training.
      ann: a trained ANN, in place of the first phase.
      ann_sgd: optimizer of the ANN, in place of `ann_optimizer`.
      tuner: optimizer of the tuning, in place of `tune_optimizer`.
    """
    if ann is None:
        ann = train_ann(f"{name} ann", net, task, trainer, options, ann_sgd)
    converted, thresholds, scales = take_over(ann, task, trainer, options)
    tuner = tuner or tune_optimizer(trainer, options)
    spiking = trainer(f"{name} tune", task, tuner, converted, options.tune_epochs)
    return Hybrid(ann, converted, spiking, thresholds, scales)


def train_ann(
    name: str,
    net: Network,
    task: train.Task,
    trainer: Trainer,
    options: Options,
    optimizer: optax.GradientTransformation | None = None,
) -> Network:
    """Train the ANN of a layout from He's start values; without epochs, return it as it is."""
    ann = ann_of(net)
    if not options.ann_epochs:
        return ann
    key = jax.random.fold_in(jax.random.key(trainer.seed), 1)
    ann = ann.replace(params=models.he_start(key, ann.params))
    optimizer = optimizer or ann_optimizer(
        trainer, options, options.ann_learning_rate, options.ann_epochs
    )
    return trainer(name, ann_task(task), optimizer, ann, options.ann_epochs)


def train_on(
    name: str, ann: Network, task: train.Task, trainer: Trainer, options: Options, epochs: int
) -> Network:
    """Train an ANN on for some epochs, as it was trained."""
    optimizer = ann_optimizer(trainer, options, options.ann_learning_rate, epochs)
    return trainer(name, ann_task(task), optimizer, ann, epochs) if epochs else ann


def take_over(
    ann: Network, task: train.Task, trainer: Trainer, options: Options
) -> tuple[Network, dict[str, float], list[dict[str, Any]]]:
    """Find the thresholds of the spiking network that an ANN becomes, and make it.

    Args:
      ann: the trained ANN.
      task: of the spiking network.
      trainer: with the data and the seed.
      options: of the training.

    Returns:
      The spiking network, not yet tuned; layer -> threshold, not scaled; the factors tried.
    """
    spiking = spiking_of(ann, neuron(options))
    batch_size = min(CALIBRATION_BATCH, options.calibration_images)
    found = balancing.thresholds(
        ann, spiking, task.at(options.calibration_timesteps), trainer.data.train.images,
        quantile=options.quantile, batches=options.calibration_images // batch_size,
        batch_size=batch_size, seed=trainer.seed,
    )  # fmt: skip

    def scaled(scale: float) -> Network:
        net = balancing.convert(ann, spiking, found, scale=scale)
        if options.scores == "spikes":
            return net
        unit = balancing.score_unit(net, task.inputs)
        return rescale(net, dict.fromkeys(net.flow(task.inputs).readout, unit))

    offered = (options.threshold_scale, *options.threshold_scales)
    net, tried = best_scale(scaled, offered, task, trainer.data, seed=trainer.seed)
    return net, found, tried


def neuron(options: Options) -> LIF:
    """Return the neurons of the spiking network.

    >>> neuron(Options(decay=0.99)).decay
    0.99
    """
    surrogate = balancing.LINEAR if options.surrogate == "linear" else stdb()
    return balancing.neuron(options.order, decay=options.decay, surrogate=surrogate)


def ann_task(task: train.Task) -> train.Task:
    """Return the task of the ANN: the values of an image, seen once.

    >>> from jaxsnn.inputs import Inputs
    >>> ann_task(train.Task(Inputs((8, 8, 1), 100, "poisson"))).inputs
    Inputs(shape=(8, 8, 1), timesteps=1, encoding='direct', mean=None, std=None)
    """
    inputs = replace(task.inputs, timesteps=1, encoding="direct")
    return replace(task, inputs=inputs, spike_weight=0.0, active=None, remat=None, guide=None)


def check(net: Network, task: train.Task, options: Options, data: Dataset, *timesteps: int) -> None:
    """Refuse, in one line and before anything is trained, what cannot be converted.

    Args:
      net: an ANN or a spiking network; its layout is looked at.
      task: of the spiking network.
      options: of the training.
      data: to train on.
      *timesteps: other numbers of steps that the network will run with.

    Raises:
      UserError: for biases, norms, recurrence, a read-out that fires, a layer that hears a sum of
        two layers, an encoding without signs, events, too few images and too few time steps.
    """
    task.check(net, data.train)
    encoding = task.inputs.encoding
    if encoding not in ("direct", "poisson"):
        raise UserError(
            f"encoding {encoding!r} does not suit a conversion: choose poisson or direct"
        )
    if options.calibration_images > len(data.train.labels):
        raise UserError(
            f"calibration_images {options.calibration_images} is more than the "
            f"{len(data.train.labels)} training images"
        )
    flow, known = net.flow(task.inputs), layers.synapses(net.module)
    for name, layer in known.items():
        balancing.check_kernel_only(name, layer)
    for name in flow.readout:
        if not isinstance(known[name].neurons, layers.Integrator):
            raise UserError(f"layer {name!r} fires, but is read out: build with readout='current'")
    for feed in flow.feeds.values():
        if len(feed.sources) > 1:
            raise UserError(
                f"layer {feed.layer!r} hears the sum of {' and '.join(feed.sources)}, whose spikes "
                "will have different units: only the sums of layers.Residual can be converted"
            )
    spiking = balancing.spiking_layers(spiking_of(net, neuron(options)), task.inputs)
    balancing.check_delay(spiking, options.calibration_timesteps, options.order)
    for steps in (task.inputs.timesteps, *timesteps):
        balancing.check_delay(spiking, steps, options.order)
        if task.remat is not None and task.remat < steps and steps % task.remat:
            raise UserError(f"remat {task.remat} does not divide {steps} timesteps")


# ----------------------------------------------------------------------------------------------
# optimizers


def ann_optimizer(
    trainer: Trainer,
    options: Options,
    rate: float,
    epochs: int,
    *,
    shares: tuple[float, ...] = (0.625, 0.75, 0.875),
    nesterov: bool = True,
) -> optax.GradientTransformation:
    """Return SGD with momentum, weight decay in the gradient, and steps that fall tenfold.

    Args:
      trainer: says how many steps an epoch has.
      options: `ann_weight_decay` and `schedule`.
      rate: first step size.
      epochs: of the phase.
      shares: of the epochs after which the step falls.
      nesterov: which momentum.
    """
    return optax.chain(
        optax.clip_by_global_norm(5.0),  # without norms a first step can be very large
        optax.add_decayed_weights(options.ann_weight_decay),
        optax.sgd(falling(trainer, options, rate, epochs, shares, 0.1), 0.9, nesterov=nesterov),
    )


def tune_optimizer(trainer: Trainer, options: Options) -> optax.GradientTransformation:
    """Return AMSGrad with weight decay in the gradient; the step falls fivefold three times."""
    rate, epochs = options.learning_rate, options.tune_epochs
    steps = falling(trainer, options, rate, epochs, (0.6, 0.8, 0.9), 0.2)
    return optax.chain(optax.add_decayed_weights(options.weight_decay), optax.amsgrad(steps))


def falling(
    trainer: Trainer,
    options: Options,
    start: float,
    epochs: int,
    shares: tuple[float, ...],
    factor: float,
) -> optax.Schedule:
    """Return step sizes that fall by a factor after shares of the epochs, or along a cosine."""
    if options.schedule == "cosine":
        return trainer.cosine(start, epochs)
    steps = trainer.steps(epochs)
    return optax.piecewise_constant_schedule(
        start, {round(share * steps): factor for share in shares}
    )
