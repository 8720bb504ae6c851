"""The problem of an ADMM experiment: its options, its data, its network, its task."""

from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from experiments.skeleton import CommonConfig
from jaxsnn import data, encode, functional, losses, models, parallel, train
from jaxsnn.arrays import check_range, check_whole
from jaxsnn.compress import masks
from jaxsnn.compress.admm import Levels
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.neurons import LIF
from jaxsnn.surrogate import rectangle

Tree = Any


@dataclass(frozen=True)
class AdmmConfig(CommonConfig):
    """Options of the ADMM experiments."""

    network: str = "32C3-AP2-32C3-AP2-128-10"
    """Layout of the network: 32C3 convolution, AP2 average pooling, 128 dense, V10 voting."""
    decay: float = 0.2
    """Share of the membrane potential left after a step."""
    threshold: float = 0.5
    """Potential above which a neuron spikes."""
    timesteps: int = 4
    """Time steps T of one sample."""
    encoding: Literal["direct", "bernoulli"] = "direct"
    """How an image enters: direct (the real values at every step) or bernoulli (random spikes)."""
    loss: Literal["mse", "ce"] = "mse"
    """Loss of the read-out: mse on the firing rates, or ce."""
    augment: bool = False
    """Random crops and flips of the training images."""
    limit: int | None = None
    """Use only this many training images."""
    validation: float = 0.1
    """Share of the training images held out to be evaluated after each epoch."""
    batch_size: int = 100
    """Samples of one training step."""
    learning_rate: float = 1e-3
    """Adam's first step size in each phase; it falls to 0 along a cosine."""
    dense_epochs: int = 10
    """Epochs of the dense network."""
    pull_epochs: int = 3
    """Epochs of each ADMM phase."""
    retrain_epochs: int = 3
    """Epochs of each retraining after a hard step."""
    activity_epochs: int = 4
    """Epochs of the activity regularization alone."""
    penalty: float = 1e-4
    """ADMM penalty rho at the start; it grows tenfold after each third of the phase."""
    penalty_mode: Literal["squared", "norm"] = "squared"
    """The penalty: squared, or norm as in the authors' script."""
    dual_steps: int = 10
    """Dual updates in each epoch of an ADMM phase."""
    sparsity: float = 0.95
    """Share of the connections removed by pruning alone."""
    allocation: Literal["root", "uniform"] = "root"
    """How to spread a sparsity: root (a layer keeps as the root of its size) or uniform."""
    levels: Levels = "ternary"
    """Levels of quantization alone: binary, ternary, uniform or pow2."""
    bits: int = 2
    """Bits of the levels uniform and pow2."""
    spike_weight: float = 0.03
    """Weight of the mean firing rate in the loss, for activity regularization."""
    joint_sparsity: float = 0.9
    """Share of the connections removed in the joint way."""
    joint_levels: Levels = "uniform"
    """Levels of the joint way."""
    joint_bits: int = 3
    """Bits of the joint way's levels uniform and pow2."""
    joint_order: Literal["sequence", "together"] = "sequence"
    """The joint way: sequence (prune, then quantize the survivors) or together (one ADMM phase)."""

    def check(self) -> None:
        """Refuse options out of range, by name, before anything is made."""
        check_range("--sparsity", self.sparsity, 0.0, 1.0, open_high=True)
        check_range("--joint-sparsity", self.joint_sparsity, 0.0, 1.0, open_high=True)
        check_range("--validation", self.validation, 0.0, 1.0, open_high=True)
        for name in ("learning_rate", "penalty", "threshold"):
            check_range(
                _option(name), getattr(self, name), 0.0, np.inf, open_low=True, open_high=True
            )
        check_range("--decay", self.decay, 0.0, 1.0)
        check_range("--spike-weight", self.spike_weight, 0.0, np.inf, open_high=True)
        check_whole("--seed", self.seed, 0, 2**31 - 1)
        for name in ("timesteps", "batch_size", "dual_steps", "dense_epochs", "pull_epochs"):
            check_whole(_option(name), getattr(self, name), 1, 1 << 20)
        for name in ("retrain_epochs", "activity_epochs"):
            check_whole(_option(name), getattr(self, name), 0, 1 << 20)
        for name in ("bits", "joint_bits"):
            check_whole(_option(name), getattr(self, name), 1, 8)
        for levels, bits in (("levels", "bits"), ("joint_levels", "joint_bits")):
            most = {"uniform": 8, "pow2": 6}.get(getattr(self, levels))
            if most is not None:
                name = f"{_option(bits)} of {_option(levels)} {getattr(self, levels)}"
                check_whole(name, getattr(self, bits), 2, most)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


class Network(NamedTuple):
    """Hold a trained network: its weights and the rest of its arrays."""

    params: Tree
    stats: Tree


@dataclass(frozen=True, eq=False)
class Problem:
    """A data set, a network for it, and what it is trained to do."""

    config: AdmmConfig
    data: data.Dataset
    tasks: dict[float, train.Task] = field(default_factory=dict)

    @cached_property
    def net(self) -> functional.Functional:
        """Build the network, with start values from the seed."""
        c = self.config
        neuron = LIF(decay=c.decay, threshold=c.threshold, surrogate=rectangle(1.0))
        rngs = nnx.Rngs(c.seed)
        net = functional.split(models.build(c.network, self.data.shape, neuron, rngs=rngs))
        shape = jax.eval_shape(
            lambda: net.apply(
                net.params, net.stats, encode.direct(jnp.zeros((1, *self.data.shape)), 1)
            )
        ).readout.shape
        if shape[-1] != self.data.num_classes:
            raise UserError(
                f"--network {c.network!r} ends in {shape[-1]} scores, but {self.data.name} has "
                f"{self.data.num_classes} classes"
            )
        return net

    def prepare(self, key: Array, images: Array, training: bool) -> Array | Signal:
        """Turn images `[B, H, W, C]` into the network's input; colour images are normalised."""
        augment_key, code_key = jax.random.split(key)
        if training and self.config.augment:
            images = data.augment.crop_and_flip(augment_key, images)
        values = images.astype(jnp.float32) / 255.0
        if self.config.encoding == "bernoulli":
            return encode.bernoulli(code_key, values, self.config.timesteps)
        if self.data.shape[-1] > 1:
            mean, std = (
                jnp.broadcast_to(jnp.asarray(x), values.shape)
                for x in (self.data.mean, self.data.std)
            )
            values = (values - mean) / std
        return encode.direct(values, self.config.timesteps)

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

    def sparsities(self, sparsity: float) -> dict[str, float]:
        """Return kernel name -> share to remove, for a share of all connections."""
        exponent = {"root": 0.5, "uniform": 1.0}[self.config.allocation]
        return masks.spread(sparsity, self.net.params, exponent=exponent)

    def steps(self, epochs: int) -> int:
        """Return the number of training steps in that many epochs."""
        return epochs * (len(self.data.train.labels) // self.config.batch_size)


def load(config: AdmmConfig) -> Problem:
    """Read the data and build the network; every mistake of the user's shows here."""
    config.check()
    found = data.load(
        config.dataset, config.data_dir, validation=config.validation, seed=0, limit=config.limit
    )
    check_whole("--batch-size", config.batch_size, 1, len(found.train.labels))
    problem = Problem(config, found)
    for sparsity in (config.sparsity, config.joint_sparsity):
        recipe = problem.sparsities(sparsity)
        # The shapes are enough to refuse a sparsity that would empty a layer.
        jax.eval_shape(partial(masks.keep_fraction, recipe), problem.net.params)
    return problem
