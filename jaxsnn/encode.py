"""Encodings: from values `[B, ...]` to what enters the network over time.

Direct coding hands over the same real value at every step and is kept as one copy, so that the
first synapse is computed once. The others draw or place spikes, `[T, B, ...]`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxsnn.arrays import at_least_float32, check_whole, sum_over_time
from jaxsnn.errors import UserError
from jaxsnn.origins import Mixed, Origin, Side, Sum

__all__ = ["Signal", "bernoulli", "concatenate", "direct", "latency", "signed_poisson"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Signal:
    """What flows between layers: a value over the whole time axis, and facts about it.

    >>> signal = Signal(jnp.ones((4, 2, 8, 8, 1)), timesteps=4)
    >>> signal.shape, (signal + signal).total().shape
    ((8, 8, 1), (2, 8, 8, 1))

    Attributes:
      value: `[T, B, ...]`; or `[B, ...]` if it is the same at every step.
      timesteps: T.
      constant: whether `value` is one copy for all steps.
      events_per_unit: how many spikes a value of one stands for. Average pooling over `n` neurons
        divides by `n`, so one unit behind it are `n` times as many spikes.
      analog: whether the values are real numbers, which cost multiplications, and not spikes.
      sources: names of the layers whose neurons the signal comes from; none for the input.
      origin: where each channel comes from, see `jaxsnn.origins`; None for the input.
    """

    value: Array
    timesteps: int = field(metadata={"static": True})
    constant: bool = field(default=False, metadata={"static": True})
    events_per_unit: int = field(default=1, metadata={"static": True})
    analog: bool = field(default=False, metadata={"static": True})
    sources: tuple[str, ...] = field(default=(), metadata={"static": True})
    origin: Origin = field(default=None, metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of one sample at one step."""
        return self.value.shape[1 if self.constant else 2 :]

    def fold(
        self, function: Callable[[Array], Array], *, channelwise: bool = False, by: str = ""
    ) -> "Signal":
        """Apply a function of `[N, ...]` that knows no time: once, with time folded into `N`.

        Args:
          function: of `[N, ...]`.
          channelwise: whether it makes each channel, an entry of the last axis, of itself alone,
            however many there are: then channels are followed through it.
          by: who applies it, for messages.
        """
        origin = self.origin if channelwise else Mixed(self.origin, by or "a function of one's own")
        if self.constant:
            return replace(self, value=function(self.value), origin=origin)
        batch = self.value.shape[:2]
        value = function(self.value.reshape((batch[0] * batch[1], *self.value.shape[2:])))
        return replace(self, value=value.reshape((*batch, *value.shape[1:])), origin=origin)

    def __add__(self, other: "Signal") -> "Signal":
        """Return the sum of two signals of the same shape; constant if both are.

        Raises:
          UserError: if the shapes differ, or one unit stands for other numbers of spikes.
        """
        if self.shape != other.shape:
            raise UserError(f"signals of the shapes {self.shape} and {other.shape} cannot be added")
        facts = _common("added", self, other)
        pairs = [x.value if facts["constant"] else x.over_time() for x in (self, other)]
        origin = Sum((self.origin, other.origin))
        return replace(self, value=pairs[0] + pairs[1], origin=origin, **facts)

    def over_time(self) -> Array:
        """Return the value at every step, `[T, B, ...]`."""
        if not self.constant:
            return self.value
        return jnp.broadcast_to(self.value[None], (self.timesteps, *self.value.shape))

    def total(self, weights: Array | None = None) -> Array:
        """Return the value summed over time, `[B, ...]`, each step by its weight of `[T]`."""
        if not self.constant:
            return sum_over_time(self.value, weights)
        value = at_least_float32(self.value)
        count = self.timesteps if weights is None else weights.sum().astype(value.dtype)
        return value * count


def concatenate(first: Signal, *others: Signal) -> Signal:
    """Return signals side by side, the channels of one behind those of another.

    >>> a, b = direct(jnp.ones((2, 4, 4, 1)), 3), direct(jnp.zeros((2, 4, 4, 2)), 3)
    >>> concatenate(a, b).shape
    (4, 4, 3)

    Args:
      first: `[T, B, ..., C]`.
      *others: of the same shape but for the channels.

    Returns:
      The signal of all channels, constant if all are; real valued if one is, since a kernel then
      multiplies.

    Raises:
      UserError: if shapes differ, or one unit stands for other numbers of spikes.
    """
    signals = (first, *others)
    for other in others:
        if other.shape[:-1] != first.shape[:-1]:
            raise UserError(
                f"signals of the shapes {first.shape} and {other.shape} cannot be concatenated"
            )
    facts = _common("concatenated", *signals)
    values = [x.value if facts["constant"] else x.over_time() for x in signals]
    widths = tuple(x.shape[-1] for x in signals)
    origin = Side(tuple(x.origin for x in signals), widths)
    return replace(first, value=jnp.concatenate(values, -1), origin=origin, **facts)


def _common(what: str, first: Signal, *others: Signal) -> dict[str, Any]:
    """Return the facts of several signals that become one.

    Raises:
      UserError: if one unit stands for other numbers of spikes, or times differ.
    """
    signals = (first, *others)
    for other in others:
        if first.timesteps != other.timesteps:
            raise UserError(
                f"signals of {first.timesteps} and {other.timesteps} steps cannot be {what}"
            )
        real = any(x.analog for x in signals)
        if first.events_per_unit != other.events_per_unit and not real:
            raise UserError(
                f"signals behind average poolings over {first.events_per_unit} and "
                f"{other.events_per_unit} neurons cannot be {what}: their spikes would be "
                "miscounted"
            )
    return {
        "constant": all(x.constant for x in signals),
        "analog": any(x.analog for x in signals),
        "sources": tuple(dict.fromkeys(name for x in signals for name in x.sources)),
    }


def direct(values: Array, timesteps: int) -> Signal:
    """Return the same real values at every step (direct or current coding).

    >>> signal = direct(jnp.ones((2, 16)), timesteps=4)
    >>> signal.value.shape, signal.over_time().shape
    ((2, 16), (4, 2, 16))

    Args:
      values: `[B, ...]`, any range.
      timesteps: T >= 1.

    Raises:
      UserError: if the number of steps is out of range.
    """
    check_whole("timesteps", timesteps, 1, 1 << 20)
    values = at_least_float32(jnp.asarray(values))
    return Signal(values, timesteps, constant=True, analog=True)


def bernoulli(key: Array, values: Array, timesteps: int) -> Array:
    """Return spikes `1[values > U(0, 1)]`, drawn afresh at every step: rate coding.

    >>> bernoulli(jax.random.key(0), jnp.asarray([[0.0, 1.0]]), 3)[:, 0].tolist()
    [[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]

    Args:
      key: random key.
      values: spike probabilities a step, `[B, ...]`, in [0, 1].
      timesteps: T >= 1.

    Returns:
      `[T, B, ...]`, 0 or 1.

    Raises:
      UserError: for values that are no floats, or a number of steps out of range.
    """
    check_whole("timesteps", timesteps, 1, 1 << 20)
    values = _fractions(values)
    draws = jax.random.uniform(key, (timesteps, *values.shape), values.dtype)
    return (values[None] > draws).astype(values.dtype)


def signed_poisson(key: Array, values: Array, timesteps: int) -> Array:
    """Return signed spikes, drawn afresh at every step: rate coding with a sign.

        sign(values) 1[U(0, 1) <= |values|]

    Never a spike at 0, always one at +1 and -1; the mean is `values`. Rathi et al. (2020),
    Chowdhury et al. (2104.12528), Spike-Thrift.

    >>> signed_poisson(jax.random.key(0), jnp.asarray([[0.0, -1.0]]), 2)[:, 0].tolist()
    [[0.0, -1.0], [0.0, -1.0]]

    Args:
      key: random key.
      values: `[B, ...]`, in [-1, 1].
      timesteps: T >= 1.

    Returns:
      `[T, B, ...]`, -1, 0 or 1.

    Raises:
      UserError: for values that are no floats, or a number of steps out of range.
    """
    values = _fractions(values)
    return jnp.sign(values)[None] * bernoulli(key, jnp.abs(values), timesteps)


def latency(values: Array, timesteps: int) -> Array:
    """Return one spike for each positive value, the earlier the larger it is.

    The spike of value `v` is at step `round((1 - v) (T - 1))`; a value of 0 never spikes.

    >>> latency(jnp.asarray([[1.0, 0.5, 0.0]]), 3)[:, 0].tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]

    Args:
      values: `[B, ...]`, in [0, 1].
      timesteps: T >= 1.

    Returns:
      `[T, B, ...]`, 0 or 1.

    Raises:
      UserError: for values that are no floats, or a number of steps out of range.
    """
    check_whole("timesteps", timesteps, 1, 1 << 20)
    values = _fractions(values)
    when = jnp.round((1.0 - values) * (timesteps - 1))
    steps = jnp.arange(timesteps, dtype=values.dtype).reshape((-1,) + (1,) * values.ndim)
    return ((steps == when[None]) & (values > 0)[None]).astype(values.dtype)


def _fractions(values: Array) -> Array:
    """Return values that are probabilities; whole numbers are pixels that nobody has scaled."""
    values = jnp.asarray(values)
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise UserError(
            f"values must be floats on the scale of [0, 1], found {values.dtype}: divide pixels by "
            "255"
        )
    return values
