"""The problem of an experiment: its options, its data, its network, its task."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from experiments.common.skeleton import CommonConfig
from jaxsnn import data, encode, export, layers, losses, train
from jaxsnn import network as functional
from jaxsnn.arrays import check_range, check_whole
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.neurons import LIF
from jaxsnn.surrogate import Surrogate
from jaxsnn.train import parallel

Tree = Any


@dataclass(frozen=True)
class TrainingConfig(CommonConfig):
    """Options of every experiment that trains a network on images or events."""

    network: str = "32C3-AP2-32C3-AP2-128-10"
    """Layout of the network: 32C3 convolution, AP2 average pooling, 128 dense, V10 voting."""
    decay: float = 0.2
    """Share of the membrane potential left after a step."""
    threshold: float = 0.5
    """Potential above which a neuron spikes."""
    timesteps: int = 4
    """Time steps T of one sample."""
    encoding: Literal["direct", "bernoulli", "poisson"] = "direct"
    """How an image enters: direct (the real values at every step), bernoulli (random spikes), or
    poisson (random spikes with a sign, of normalised values)."""
    loss: Literal["mse", "ce", "ce_sum"] = "mse"
    """Loss of the read-out: mse on the firing rates, ce, or ce_sum on the sum over time."""
    augment: data.augment.Name = "none"
    """Changes of the training images: none, crop-flip, autoaugment (with cutout), or events."""
    limit: int | None = None
    """Use only this many training images."""
    validation: float = 0.1
    """Share of the training images held out to be evaluated after each epoch."""
    batch_size: int = 100
    """Samples of one training step."""
    learning_rate: float = 1e-3
    """First step size in each phase; it falls to 0 along a cosine."""

    def check(self) -> None:
        """Refuse options out of range, by name, before anything is made."""
        check_range("--validation", self.validation, 0.0, 1.0, open_high=True)
        for name in ("learning_rate", "threshold"):
            check_positive(name, getattr(self, name))
        check_range("--decay", self.decay, 0.0, 1.0)
        check_whole("--seed", self.seed, 0, 2**31 - 1)
        for name in ("timesteps", "batch_size"):
            check_whole(option(name), getattr(self, name), 1, 1 << 20)


def option(name: str) -> str:
    """Return a field's name as it is written on the command line."""
    return "--" + name.replace("_", "-")


def check_positive(name: str, value: float) -> None:
    """Refuse a field's value unless it is positive and finite."""
    check_range(option(name), value, 0.0, np.inf, open_low=True, open_high=True)


@dataclass(frozen=True, eq=False)
class Problem:
    """A data set, a network for it, and what it is trained to do."""

    config: TrainingConfig
    data: data.Dataset
    module: layers.Chain
    tasks: dict[float, train.Task] = field(default_factory=dict)

    @cached_property
    def net(self) -> functional.Functional:
        """Return the network as data and functions."""
        return functional.split(self.module)

    def start(self) -> "Network":
        """Return the network with its start values."""
        return Network(self, self.net.params, self.net.stats)

    def start_with(self, module: layers.Chain) -> "Network":
        """Return another network for the same data, such as a shrunk one, with its values."""
        return replace(self, module=module, tasks={}).start()

    @cached_property
    def inputs(self) -> export.Inputs:
        """Say how an image or a recording becomes the network's input; colours are normalised."""
        shape, c = self.data.shape, self.config
        if self.data.timesteps is not None:
            return export.Inputs(shape, self.data.timesteps, "events")
        if c.encoding == "direct" and shape[-1] > 1:
            return export.Inputs(shape, c.timesteps, "direct", self.data.mean, self.data.std)
        return export.Inputs(shape, c.timesteps, c.encoding)

    def prepare(self, key: Array, images: Array, training: bool) -> Array | Signal:
        """Turn uint8 images `[B, H, W, C]` or events `[B, T, H, W, C]` into the input."""
        augment_key, code_key = jax.random.split(key)
        if training:
            border = self.data.shape[0] // 8  # 4 pixels for CIFAR, 8 for Tiny-ImageNet
            images = data.augment.by_name(self.config.augment, pad=border)(augment_key, images)
        return self.inputs.prepare(code_key, images)

    def task(self, spike_weight: float = 0.0) -> train.Task:
        """Return the task with that weight on the mean firing rate; one object for each weight."""
        if spike_weight not in self.tasks:
            readout_loss = losses.by_name(self.config.loss)
            timesteps = self.config.timesteps

            def loss(output, labels):
                value = readout_loss(output.readout, labels)
                if spike_weight:
                    value = value + spike_weight * losses.spike_count(output.activity, timesteps)
                return value

            devices = parallel.most_devices(self.config.batch_size)
            self.tasks[spike_weight] = train.Task(
                self.net.apply, self.prepare, loss, devices=devices
            )
        return self.tasks[spike_weight]

    def steps(self, epochs: int) -> int:
        """Return the number of training steps in that many epochs."""
        return epochs * (len(self.data.train.labels) // self.config.batch_size)


@dataclass(frozen=True, eq=False)
class Network:
    """Hold a network between two phases: what it is, its weights and the rest of its arrays."""

    problem: Problem
    params: Tree
    stats: Tree

    def after(self, state: train.TrainState) -> "Network":
        """Return the network that a phase ended with."""
        return replace(self, params=state.params, stats=state.stats)


def load(
    config: TrainingConfig,
    surrogate: Surrogate,
    build: Callable[[tuple[int, ...], int, LIF, nnx.Rngs], layers.Chain],
) -> Problem:
    """Read the data and build the network; every mistake of the user's shows here.

    Args:
      config: the options.
      surrogate: of the neurons.
      build: (shape of an image, number of classes, neuron, random numbers) -> network.
    """
    found = read(config)
    neuron = LIF(config.decay, config.threshold, surrogate=surrogate)
    module = build(found.shape, found.num_classes, neuron, nnx.Rngs(config.seed))
    problem = Problem(config, found, module)
    check_scores(problem)
    return problem


def read(config: TrainingConfig) -> data.Dataset:
    """Check the options and read the data."""
    config.check()
    found = data.load(
        config.dataset, config.data_dir, validation=config.validation, seed=0, limit=config.limit,
        **data.event_options(config.dataset, timesteps=config.timesteps),
    )  # fmt: skip
    check_whole("--batch-size", config.batch_size, 1, len(found.train.labels))
    return found


def check_scores(problem: Problem) -> None:
    """Refuse a network whose scores are not the classes of the data."""
    found, net = problem.data, problem.net
    signal = encode.direct(jnp.zeros((1, *found.shape)), 1)
    scores = jax.eval_shape(lambda: net.apply(net.params, net.stats, signal)).readout.shape[-1]
    if scores != found.num_classes:
        raise UserError(
            f"--network {problem.config.network!r} ends in {scores} scores, but {found.name} has "
            f"{found.num_classes} classes"
        )
