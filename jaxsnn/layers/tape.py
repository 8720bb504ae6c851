"""The tape: what one pass through a network carries along, and the record that it leaves."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxsnn.arrays import sum_over_time
from jaxsnn.compress.codes import Step
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.origins import Origin

__all__ = ["Activity", "Feed", "Tape"]


@jax.tree_util.register_dataclass
@dataclass
class Activity:
    """Record what a network did on a batch, summed over time.

    The one source of spike-count losses, calibration scores and operation counts. Under `jit`,
    what is not used is not computed.

    >>> from jaxsnn import encode, models
    >>> net = models.build("64-10", (16,), seed=0)
    >>> output = net(encode.direct(jnp.ones((2, 16)), timesteps=4))
    >>> output.activity.spikes["dense1"].shape, output.activity.timesteps
    ((2, 64), 4)

    Attributes:
      spikes: layer -> spikes of each neuron, `[B, ...]`.
      potential: layer -> potential before reset, `[B, ...]`.
      events: kernel -> events at each input, counted before pooling, `[B, ...]`.
      magnitude: layer -> absolute value of the potential before reset, `[B, ...]`.
      pooled: max pooling -> spikes that it lets through, `[B, H', W', C]`.
      arrivals: kernel behind an average pooling -> steps at which an input is not 0, `[B, ...]`.
      products: product of spikes with spikes -> additions that each token costs, `[B, L]`
        (`layers.Attention`).
      current: watched layer -> input current at each step, `[T, B, ...]` (`layers.watch`).
      trains: watched layer -> spikes at each step, `[T, B, ...]`.
      active: how many of the first steps were counted, `[]`; None for all T. Of the others nothing
        is in the sums, and what is recorded step by step is 0.
      timesteps: T.
      analog: kernels whose input is real valued; they cost multiplications.
      cached: those of them whose input is constant in time, so that they are computed once.
    """

    spikes: dict[str, Array] = field(default_factory=dict)
    potential: dict[str, Array] = field(default_factory=dict)
    events: dict[str, Array] = field(default_factory=dict)
    magnitude: dict[str, Array] = field(default_factory=dict)
    pooled: dict[str, Array] = field(default_factory=dict)
    arrivals: dict[str, Array] = field(default_factory=dict)
    products: dict[str, Array] = field(default_factory=dict)
    current: dict[str, Array] = field(default_factory=dict)
    trains: dict[str, Array] = field(default_factory=dict)
    active: Array | None = None
    timesteps: int = field(default=0, metadata={"static": True})
    analog: tuple[str, ...] = field(default=(), metadata={"static": True})
    cached: tuple[str, ...] = field(default=(), metadata={"static": True})

    @property
    def steps(self) -> int | Array:
        """Return how many steps were counted: what divides a sum over time."""
        return self.timesteps if self.active is None else self.active


class Feed(NamedTuple):
    """What enters a kernel: a fact of the pass, not of the layers' names."""

    kernel: str  # "conv1/kernel"
    layer: str  # "conv1"
    sources: tuple[str, ...]  # layers whose neurons feed it; none for the network's input
    shape: tuple[int, ...]  # of one sample of its input at one step
    outputs: tuple[int, ...]  # of one sample of its output at one step
    origin: Origin = None  # of the channels of its input
    added: tuple[Origin, ...] = ()  # of what a shortcut adds to its current, if there is one


class Tape:
    """Carry one pass through a network: its mode, its randomness, and the record of it.

    >>> from flax import nnx
    >>> from jaxsnn import layers, neurons
    >>> dense, tape = layers.Dense(4, 3, neurons=neurons.LIF(0.5), rngs=nnx.Rngs(0)), Tape()
    >>> dense.name = "out"
    >>> _ = dense(Signal(jnp.ones((5, 2, 4)), timesteps=5), tape)
    >>> tape.activity.spikes["out"].shape
    (2, 3)

    Attributes:
      train: whether dropout acts and norms use the statistics of the batch.
      axis: the mapped axis over which the batch is spread, if any.
      counted: 1 for each step that is recorded and 0 for the others, `[T]`; None for all.
      steps: kernel -> the step of its grid, of those that are known to stand on one.
      membranes: layer name -> state of its neurons; read where a pass begins, written where it
        ends. A pass begins with zeros.
      activity: the record.
      feeds: what enters each kernel, in the order of the calls.
      pools: max pooling -> layers whose neurons it pools.
      spikes: the arrays of a pass in training that are 0 or 1 everywhere.
    """

    def __init__(
        self,
        *,
        train: bool = False,
        key: Array | None = None,
        membranes: Mapping[str, Any] | None = None,
        axis: str | None = None,
        counted: Array | None = None,
        steps: Mapping[str, Step] | None = None,
    ):
        self.train = train
        self.axis = axis
        self.counted = counted
        self.steps = dict(steps or {})
        self.membranes = dict(membranes or {})
        self.activity = Activity()
        self.feeds: list[Feed] = []
        self.pools: dict[str, tuple[str, ...]] = {}
        self.spikes: list[Array] = []
        self._key = key
        self._draws = 0

    def feed(
        self,
        kernel: str,
        layer: str,
        signal: Signal,
        outputs: tuple[int, ...],
        shortcut: Signal | None = None,
    ) -> None:
        """Record what enters a kernel, and what is added to its current.

        Raises:
          UserError: if a layer runs twice in one pass, whose spikes would be counted once.
        """
        if any(kernel == other.kernel for other in self.feeds):
            raise UserError(
                f"layer {layer!r} runs twice in one pass: give each place a layer of its own"
            )
        added = () if shortcut is None else (shortcut.origin,)
        facts = signal.sources, signal.shape, outputs, signal.origin, added
        self.feeds.append(Feed(kernel, layer, *facts))
        if signal.analog:
            self.activity.analog += (kernel,)
            if signal.constant:
                self.activity.cached += (kernel,)

    def multiplied(self, name: str, additions: Array) -> None:
        """Record what a product of spikes with spikes costs at each step, `[T, B, L]`."""
        self.activity.products[name] = lax.stop_gradient(self.sum(additions))

    def note_spikes(self, value: Array, of: Array | None = None) -> None:
        """Note that an array is 0 or 1 everywhere; made of another, only if that one is.

        The array itself is noted, so that whatever is made of it is not taken for spikes.
        """
        if self.train and (of is None or self.are_spikes(of)):
            self.spikes.append(value)

    def are_spikes(self, value: Array) -> bool:
        """Return whether an array is noted as 0 or 1 everywhere."""
        return any(value is each for each in self.spikes)

    def total(self, signal: Signal) -> Array:
        """Return a signal summed over the steps that are recorded, `[B, ...]`."""
        return signal.total(self.counted)

    def sum(self, values: Array) -> Array:
        """Sum over the steps that are recorded, `[T, B, ...] -> [B, ...]`."""
        return sum_over_time(values, self.counted)

    def only_counted(self, values: Array) -> Array:
        """Return values `[T, B, ...]` that are 0 at the steps that are not recorded."""
        if self.counted is None:
            return values
        steps = self.counted.reshape((-1,) + (1,) * (values.ndim - 1))
        return jnp.where(steps != 0, values, jnp.zeros((), values.dtype))

    def next_keys(self, batch: int) -> Array:
        """Return a key for each sample, `[B]`, that no other layer of this pass gets."""
        if self._key is None:
            raise ValueError("this network draws random numbers in training: pass key=")
        self._draws += 1
        keys = jax.random.split(self._key, batch) if self._key.ndim == 0 else self._key
        return jax.vmap(jax.random.fold_in, (0, None))(keys, self._draws)
