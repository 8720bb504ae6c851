"""Groups of options that the experiments are composed of; each program has those that it uses."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from jaxsnn.data import augment as augmentations
from jaxsnn.errors import UserError
from jaxsnn.options import Range, Whole, checked

Config = TypeVar("Config")


@checked
class RunOptions:
    """The run: which defaults, which data, where the results go."""

    preset: Literal["smoke", "cpu", "gpu", "paper", "authors"] = "cpu"
    """Which defaults: smoke (seconds; XLA optimizes less), cpu (minutes on two cores), gpu (minutes
    on one), paper (as published) or authors (what their public code does otherwise)."""
    dataset: str = "digits"
    """Name of the data set; digits is embedded, the others are read from --data-dir."""
    data_dir: str | None = None
    """Folder of the data files; $JAXSNN_DATA if left out, and then tensorflow-datasets."""
    out: str | None = None
    """Run directory; a new one below runs/ if left out."""
    resume: bool = False
    """Continue an interrupted run: the one in --out, or the newest of this kind."""
    config: str | None = None
    """File with options, such as the config.json of a run; those on the command line win."""
    log: Literal["none", "csv", "tensorboard"] = "none"
    """Where each epoch's figures go besides metrics.jsonl: metrics.csv, or tensorboard/."""
    timing: bool = False
    """Print at the end what each phase spent its time on, and how many programs it compiled."""
    cache: bool = True
    """Keep compiled programs for later runs, in $JAX_COMPILATION_CACHE_DIR, $JAXSNN_CACHE/programs
    or ~/.cache/jaxsnn/programs."""
    checkpoint_every: Annotated[float, Range(0, float("inf"))] = 30.0
    """Seconds of training that an interruption may cost: a checkpoint follows the first epoch that
    ends so long after the one before, and the last epoch; 0 for each epoch."""


@checked
class DataOptions:
    """The data: how much of it, and how recordings become frames."""

    limit: Annotated[int | None, Whole(1, 1 << 40)] = None
    """Use only this many training images, those held out included."""
    validation: Annotated[float, Range(0, 1, open_high=True)] = 0.1
    """Share of the training images held out to be evaluated after each epoch."""
    frame_size: Annotated[int | None, Whole(1)] = None
    """Of recordings: rows and columns of a frame, or units; the set's own if left out."""
    frames_by: Literal["number", "time"] | None = None
    """Of recordings: frames of equal number of events or of equal time; the set's own if left
    out."""


@checked
class TaskOptions:
    """The task: how samples become input, and what is minimised."""

    timesteps: Annotated[int, Whole(1)] = 4
    """Time steps T of one sample; of recordings, the frames that their events are counted in."""
    encoding: Literal["direct", "bernoulli", "poisson", "events"] | None = None
    """How an image enters: direct (the real values at every step), bernoulli (random spikes), or
    poisson (random spikes with a sign, of normalised values). Left out: direct for images, events
    for recordings."""
    loss: Literal["mse", "ce", "ce_sum"] = "mse"
    """Loss of the read-out: mse on the firing rates, ce, or ce_sum on the sum over time."""
    augment: augmentations.Name = "none"
    """Changes of the training images: none, crop-flip, autoaugment (with cutout); of recordings
    events (flip and roll), event-shift (shift, lost events and frames, jitter), or event-flip (the
    same and flip)."""


@checked
class NetworkOptions:
    """The network and its neurons."""

    network: str = "32C3-AP2-32C3-AP2-128-{classes}"
    """Layout: 32C3 convolution, AP2 average pooling, 128 dense, V10 voting; {classes} is the number
    of classes of the data, {10*classes} ten times as many. Or a name: admm_cifar, stbp_cifar,
    vgg16, resnet20, vggsnn, shd_recurrent, fast_cifar."""
    width: Annotated[float, Range(0, open_low=True, open_high=True)] = 1.0
    """Factor on the channels and hidden neurons."""
    start: Literal["uniform", "fan_out", "firing"] = "uniform"
    """Start values: uniform (up to 1 / sqrt(inputs)), fan_out (normal, by the outputs), or firing
    (uniform, without norms scaled on training images until every layer fires)."""
    weights: str | None = None
    """Packed network of the same layers to start from, such as models/dense.safetensors of a run of
    experiments.fast; its first training is then one that goes on."""
    decay: Annotated[float, Range(0, 1)] = 0.2
    """Share of the membrane potential left after a step."""
    threshold: Annotated[float, Range(0, float("inf"), open_low=True, open_high=True)] = 0.5
    """Potential above which a neuron spikes."""
    norm: bool = False
    """Batch normalisation in every hidden layer."""
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    """Numbers of products, spikes and saved potentials; sums, weights and read-out stay float32.
    auto: bfloat16 where the device multiplies it, float32 elsewhere."""


@checked
class DenseOptions:
    """The dense network, which everything is compared with."""

    dense_epochs: Annotated[int, Whole(0)] = 10
    """Epochs of the dense network; 0 takes it as --weights has it."""
    dense_optimizer: Literal["adam", "sgd"] = "adam"
    """Its optimizer: adam, or sgd with momentum 0.9."""
    dense_learning_rate: Annotated[float | None, Range(0, open_low=True, open_high=True)] = None
    """Its first step size; left out, that of the method."""
    dense_fall: Annotated[int | None, Whole(1)] = None
    """Epochs after which its step falls tenfold, again and again; left out, along a cosine to 0."""


@checked
class EngineOptions:
    """The engine: memory against time. None of them changes a number beyond rounding."""

    remat: Annotated[int | None, Whole(1)] = None
    """Cut time into chunks of so many steps whose activations are computed again: less memory."""
    micro_batches: Annotated[int, Whole(1)] = 1
    """Compute a batch in so many parts, one after the other: less memory."""
    devices: Annotated[int | None, Whole(1)] = None
    """Devices that share a batch, those of all processes; left out, as many as there are and divide
    it."""


def check_each_once(**options: tuple[Any, ...]) -> None:
    """Refuse an option of several values that has none, or one of them twice.

    >>> check_each_once(seeds=(0, 1))
    """
    for name, values in options.items():
        if not values or len(set(values)) < len(values):
            raise UserError(f"{name} needs at least one value, none of them twice")


def flat(config: Any) -> dict[str, Any]:
    """Return all options of a configuration, name -> value, whatever group they are in."""
    found: dict[str, Any] = {}
    for group in dataclasses.fields(config):
        values = vars(getattr(config, group.name))
        if twice := sorted(set(values) & set(found)):
            raise TypeError(f"two groups of options have {twice[0]!r}")
        found |= values
    return found


def changed(config: Config, values: Mapping[str, Any]) -> Config:
    """Return a configuration with some options replaced, by name, checked again.

    Raises:
      UserError: for an option that it does not have, or a value out of range.
    """
    if unknown := sorted(set(values) - set(flat(config))):
        raise UserError(f"no option {unknown[0]!r}; there are: {', '.join(sorted(flat(config)))}")
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        group = getattr(config, field.name)
        own = {name: value for name, value in values.items() if name in vars(group)}
        groups[field.name] = dataclasses.replace(group, **own) if own else group
    return type(config)(**groups)
