"""The problem of an experiment: its data, a network with its start values, its task."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.common.options import (
    DataOptions,
    DenseOptions,
    EngineOptions,
    NetworkOptions,
    RunOptions,
    TaskOptions,
)
from jaxsnn import data, export, models, native, tree
from jaxsnn.arrays import check_whole
from jaxsnn.data.loading import event_options
from jaxsnn.errors import UserError
from jaxsnn.methods import Trainer
from jaxsnn.network import Network
from jaxsnn.neurons import LIF
from jaxsnn.surrogate import Surrogate, rectangle, triangle
from jaxsnn.train import Fit, Task, parallel

CLASSES = re.compile(r"\{(?:(\d+)\*)?classes\}")
WIDTHS = re.compile(r"^\d+|(?<=M)\d+")  # in a word of a layout that has weights
STARTING_BATCH = 16  # samples on which start values are scaled

NAMED: dict[str, Callable[..., Network]] = {
    "admm_cifar": models.admm_cifar,
    "fast_cifar": models.fast_cifar,
    "stbp_cifar": models.stbp_cifar,
    "vgg16": models.vgg16,
    "resnet20": models.resnet20,
    "shd_recurrent": models.shd_recurrent,
    "vggsnn": models.vggsnn,
}

# The neurons and the read-out of QP-SNN, which adds up its current over time.
QP_SNN: dict[str, Any] = {"surrogate": triangle(), "use_bias": "readout", "readout": "current"}


class Problem(NamedTuple):
    """A data set, a network for it, and what it is trained to do."""

    data: data.Dataset
    net: Network
    task: Task


def load(
    config: Any,
    *,
    seed: int,
    batch_size: int,
    **options: Any,
) -> Problem:
    """Read the data, build the network and the task; every mistake of the user's shows here.

    Args:
      config: with the groups run, data, task, network and engine.
      seed: of the start values.
      batch_size: samples of a training step.
      **options: of `network_of`.
    """
    found = read(config.run, config.data, timesteps=config.task.timesteps)
    check_whole("--batch-size", batch_size, 1, len(found.train.labels))
    task = task_of(config.task, config.engine, found, batch_size)
    net = network_of(config.network, found, seed, **options)
    check_fit(net, task, found)
    net = started(net, config.network.start, task, found, seed)
    if config.network.weights is not None:
        net = with_weights(net, config.network.weights)
    return Problem(found, net, task)


def read(run: RunOptions, part: DataOptions, *, timesteps: int) -> data.Dataset:
    """Read the data set, of recordings with so many frames."""
    return data.load(
        run.dataset, run.data_dir, validation=part.validation, seed=0, limit=part.limit,
        size=part.frame_size, frames_by=part.frames_by,
        **event_options(run.dataset, timesteps=timesteps),
    )  # fmt: skip


def task_of(
    task: TaskOptions,
    engine: EngineOptions,
    dataset: data.Dataset,
    batch_size: int,
    **options: Any,
) -> Task:
    """Return the task; further options are those of `train.Task`, `scale` of `Dataset.inputs`."""
    inputs = dataset.inputs(task.timesteps, task.encoding, scale=options.pop("scale", None))
    parts = engine.micro_batches
    if batch_size % parts:
        raise UserError(f"--micro-batches {parts} do not divide --batch-size {batch_size}")
    devices = engine.devices or parallel.most_devices(batch_size // parts)
    if engine.devices is None and devices < (processes := jax.process_count()):
        raise UserError(
            f"--batch-size {batch_size}: the {batch_size // parts} samples of a step cannot be "
            f"shared by {processes} processes; take a multiple"
        )
    if batch_size // parts % devices:
        raise UserError(
            f"--devices {devices} do not divide the {batch_size // parts} samples of a step"
        )
    return Task(
        inputs, loss=task.loss, augment=task.augment, remat=engine.remat, micro_batches=parts,
        devices=devices, **options,
    )  # fmt: skip


def network_of(
    network: NetworkOptions,
    dataset: data.Dataset,
    seed: int,
    *,
    surrogate: Surrogate | None = None,
    **options: Any,
) -> Network:
    """Build the network of a name or a layout for the data.

    Args:
      network: its `network` is a name of `NAMED`, or a layout.
      dataset: the data.
      seed: of the start values.
      surrogate: of the neurons; a rectangle if left out.
      **options: further ones of `models.build`.
    """
    neuron = LIF(network.decay, network.threshold, surrogate=surrogate or rectangle(1.0))
    classes, dtype = dataset.num_classes, jnp.dtype(native.choose_dtype(network.dtype)[0])
    options |= {"seed": seed, "norm": network.norm, "dtype": dtype}
    if named := NAMED.get(network.network):
        return named(dataset.shape, neuron, classes=classes, width=network.width, **options)
    layout = layout_of(network.network, classes, network.width)
    return models.build(layout, dataset.shape, neuron, **options)


def layout_of(layout: str, classes: int, width: float = 1.0) -> str:
    """Fill the number of classes into a layout, its hidden widths multiplied by a factor.

    >>> layout_of("8C3-AP2-{10*classes}-V{classes}", 7)
    '8C3-AP2-70-V7'
    >>> layout_of("8C3-16B3M6-AP2-10", 10, 0.5)
    '4C3-8B3M3-AP2-10'
    """
    words = layout.split("-")
    weighted = [i for i, word in enumerate(words) if re.match(r"[\d{]", word)]
    for i in weighted[:-1] if width != 1 else ():
        words[i] = WIDTHS.sub(lambda found: str(max(1, round(width * int(found[0])))), words[i])
    return CLASSES.sub(lambda found: str(int(found[1] or 1) * classes), "-".join(words))


def started(net: Network, start: str, task: Task, dataset: data.Dataset, seed: int) -> Network:
    """Return a network with the start values that `--start` asks for."""
    key = jax.random.key(seed)
    if start == "fan_out":
        return net.replace(params=models.fan_out_start(key, net.params))
    if start == "firing" and not net.has_norms:
        samples = jnp.asarray(dataset.train.images[:STARTING_BATCH])
        return models.firing_start(net, task.prepare(key, samples, False))
    return net


def with_weights(net: Network, path: str) -> Network:
    """Return a network with the weights and statistics of a packed one of the same layers.

    Raises:
      UserError: naming the file and the leaf that only one of them has, or has in another shape.
    """
    packed = export.load(path).network
    own, others = (
        {
            name: jnp.shape(leaf)
            for part in (each.params, each.stats)
            for name, leaf in tree.named_leaves(part).items()
        }
        for each in (net, packed)
    )
    for name in sorted(own.keys() | others.keys()):
        if own.get(name) != others.get(name):
            raise UserError(
                f"--weights {path}: {name!r} has the shape {others.get(name, 'of none')}, in "
                f"--network {own.get(name, 'of none')}; take the network that was packed"
            )
    return net.replace(params=packed.params, stats=packed.stats)


def check_fit(net: Network, task: Task, dataset: data.Dataset) -> None:
    """Refuse a network whose scores are not the classes of the data, and a task it cannot run."""
    scores = task.check_samples(net, dataset.train.images, "train")
    if scores != dataset.num_classes:
        raise UserError(
            f"--network ends in {scores} scores, but {dataset.name} has {dataset.num_classes} "
            "classes"
        )
    task.check(net, dataset.train, "train")
    steps = task.inputs.timesteps
    if task.remat is not None and task.remat < steps and steps % task.remat:
        raise UserError(f"--remat {task.remat} does not divide --timesteps {steps}")
    if task.micro_batches > 1 and net.has_norms:
        raise UserError(
            "--micro-batches would normalise each part of a batch by itself: take a network "
            "without norms, or --remat to save memory"
        )


def train_dense(fit: Fit, problem: Problem, dense: DenseOptions, method: Any) -> Network:
    """Train the uncompressed network in a phase "dense".

    Args:
      fit: of the run.
      problem: data, network and task.
      dense: its epochs and optimizer.
      method: options with `batch_size`, `learning_rate` and `seed`.
    """
    trainer = Trainer(fit, problem.data, method.batch_size, method.seed)
    rate, epochs = dense.dense_learning_rate or method.learning_rate, dense.dense_epochs
    steps = trainer.cosine(rate, epochs)
    if dense.dense_fall is not None:
        falls = range(dense.dense_fall, epochs, dense.dense_fall)
        steps = optax.piecewise_constant_schedule(rate, {trainer.steps(n): 0.1 for n in falls})
    descent = optax.adam(steps) if dense.dense_optimizer == "adam" else optax.sgd(steps, 0.9)
    return trainer("dense", problem.task, descent, problem.net, epochs)


def summary_of(problem: Problem, network: Any) -> str:
    """Return a sentence about network and data, for the page.

    Args:
      problem: data, network and task.
      network: options with `network` and `width`.
    """
    found, name = problem.data, network.network
    notes = f" ({found.notes})" if found.notes else ""
    layout = layout_of(name, found.num_classes, network.width)
    factor = f" of width {network.width:g}" if layout == name and network.width != 1 else ""
    return (
        f"{layout}{factor}, T = {problem.task.inputs.timesteps}, {len(found.train.labels):,} "
        f"training and {len(found.test.labels):,} test images{notes}."
    )
