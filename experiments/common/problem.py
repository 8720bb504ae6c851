"""The problem of an experiment: its data, a network with its start values, its task."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.common.options import (
    DataOptions,
    EngineOptions,
    NetworkOptions,
    RunOptions,
    TaskOptions,
)
from jaxsnn import data, models
from jaxsnn.arrays import check_whole
from jaxsnn.errors import UserError
from jaxsnn.methods import Trainer
from jaxsnn.network import Network
from jaxsnn.neurons import LIF
from jaxsnn.surrogate import Surrogate, rectangle, triangle
from jaxsnn.train import Fit, Task, parallel

CLASSES = re.compile(r"\{(?:(\d+)\*)?classes\}")
NAMED = {"vgg16": models.vgg16, "resnet20": models.resnet20, "vggsnn": models.vggsnn}


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
    build: Callable[..., Network] | None = None,
    **options: Any,
) -> Problem:
    """Read the data, build the network and the task; every mistake of the user's shows here.

    Args:
      config: with the groups run, data, task, network and engine.
      seed: of the start values.
      batch_size: samples of a training step.
      build: `(dataset, seed) -> network`; `network_of` with the options if left out.
      **options: of `network_of`.
    """
    found = read(config.run, config.data, timesteps=config.task.timesteps)
    check_whole("--batch-size", batch_size, 1, len(found.train.labels))
    task = task_of(config.task, config.engine, found, batch_size)
    if build is None:
        net = network_of(config.network, found, seed, **options)
    else:
        net = build(found, seed)
    check_scores(net, task, found)
    return Problem(found, net, task)


def read(run: RunOptions, part: DataOptions, *, timesteps: int) -> data.Dataset:
    """Read the data set, of recordings with so many frames."""
    return data.load(
        run.dataset, run.data_dir, validation=part.validation, seed=0, limit=part.limit,
        **data.event_options(run.dataset, timesteps=timesteps),
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
    """Build the network of a layout for the data; further options are those of `models.build`."""
    neuron = LIF(network.decay, network.threshold, surrogate=surrogate or rectangle(1.0))
    return models.build(
        layout_of(network.network, dataset.num_classes), dataset.shape, neuron, seed=seed,
        norm=network.norm, dtype=jnp.dtype(network.dtype), **options,
    )  # fmt: skip


def by_name(network: NetworkOptions, dataset: data.Dataset, seed: int, *, width: float) -> Network:
    """Build a network of QP-SNN by its name, or a layout whose read-out adds up its current.

    Args:
      network: its `network` is vgg16, resnet20 or vggsnn, or a layout.
      dataset: the data.
      seed: of the start values.
      width: factor on the channels of the networks with a name.
    """
    if published := NAMED.get(network.network):
        return published(
            dataset.shape, LIF(network.decay, network.threshold, surrogate=triangle()), seed=seed,
            classes=dataset.num_classes, width=width, norm=network.norm,
            dtype=jnp.dtype(network.dtype),
        )  # fmt: skip
    return network_of(
        network, dataset, seed, surrogate=triangle(), use_bias="readout", readout="current"
    )


def layout_of(layout: str, classes: int) -> str:
    """Fill the number of classes into a layout.

    >>> layout_of("8C3-AP2-{10*classes}-V{classes}", 7)
    '8C3-AP2-70-V7'
    """
    return CLASSES.sub(lambda found: str(int(found[1] or 1) * classes), layout)


def check_scores(net: Network, task: Task, dataset: data.Dataset) -> None:
    """Refuse a network whose scores are not the classes of the data."""
    task.check(net, dataset.train)
    scores = jax.eval_shape(lambda x: net(x).readout, task.inputs.abstract()).shape[-1]
    if scores != dataset.num_classes:
        raise UserError(
            f"--network ends in {scores} scores, but {dataset.name} has {dataset.num_classes} "
            "classes"
        )


def train_dense(fit: Fit, problem: Problem, epochs: int, method: Any) -> Network:
    """Train the uncompressed network in a phase "dense", with Adam along a cosine.

    Args:
      fit: of the run.
      problem: data, network and task.
      epochs: how many.
      method: options with `batch_size`, `learning_rate` and `seed`.
    """
    trainer = Trainer(fit, problem.data, method.batch_size, method.seed)
    adam = optax.adam(trainer.cosine(method.learning_rate, epochs))
    return trainer("dense", problem.task, adam, problem.net, epochs)


def summary_of(problem: Problem, layout: str) -> str:
    """Return a sentence about network and data, for the page."""
    found = problem.data
    notes = f" ({found.notes})" if found.notes else ""
    return (
        f"{layout_of(layout, found.num_classes)}, T = {problem.task.inputs.timesteps}, "
        f"{len(found.train.labels):,} training and {len(found.test.labels):,} test images{notes}."
    )
