"""A network that runs on integers alone: its numbers, and how they run.

With integer inputs `x`, weights `K`, and constants `shift`, `bias`, `level`, `theta` of each output
channel, a layer computes in int32

    current = ((K x) << shift) + bias  (+ shortcut * x  + recurrent o[t-1])
    u[t]    = rest(u[t-1]) + current[t]            u[0] = 0
    o[t]    = 1[u[t] >= level]                     order "fire_then_integrate": of u[t-1]
    leak(u) = keep u + ((factor u) >> right)       >> rounds down

    reset "hard"             rest(u) = leak(u) (1 - s)            with s = 1[u >= level]
    reset "soft"             rest(u) = leak(u - theta s)
    reset "soft_undecayed"   rest(u) = leak(u) - theta s
    read-out                 rest(u) = leak(u), and the output is u

Neurons may carry a number besides, `s`, with a leak of its own (`second`): a synaptic current,
which takes the current in the place of `u` and adds itself to it; or what the threshold rose by,
which is taken from `u` before that is compared with `level`, and added to `theta`.

`keep` is 0 or 1; a decay of 0.5 is `u >> 1`, one of 0.75 is `u + (-u >> 2)`. There is no division
and no float. Pooling adds up (average) or takes the largest; what it leaves out, as every other
scale, is in the next layer's constants. `conversion.to_integer` makes such a network of a trained
one, proves that nothing overflows, and says where it differs from it.

The product with a kernel is one of gathered patches: XLA's own convolution of integers is five
times slower on a CPU.

Letters in shapes: `T` time, `B` batch, `I` inputs, `O` output channels.
"""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxsnn.arrays import is_traced
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.export.integer.inputs import IntegerGrid
from jaxsnn.export.integer.second import ADAPTATION, DELAYED
from jaxsnn.export.integer.verdict import LayerVerdict
from jaxsnn.layers.pooling import windows

__all__ = [
    "IntegerNetwork",
    "IntegerNeurons",
    "IntegerOutput",
    "IntegerSecond",
    "Joined",
    "Weighted",
    "Weightless",
    "run_integer",
]

STATIC = {"static": True}
State = tuple[Array, Array | None]  # the potential, and what is carried beside it, [B, ..., O] each


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class IntegerSecond:
    """What neurons carry beside their potential (`second`); int32 `[O]` each."""

    keep: Array
    factor: Array
    right: Array
    jump: Array  # that a spike adds; 0 of a current
    kind: str = field(metadata=STATIC)

    def after(self, value: Array, spikes: Array, drive: Array) -> tuple[Array, Array]:
        """Return its next value, and what is added to the potential, `[B, ..., O]` each."""
        left = _leak(self, value)
        if self.kind == ADAPTATION:
            return left + _across(self.jump, value) * spikes, drive
        now = left + drive
        return now, value if self.kind == DELAYED else now


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class IntegerNeurons:
    """The constants of a layer of neurons, or of a silent read-out; int32 `[O]` each."""

    level: Array
    theta: Array
    keep: Array
    factor: Array
    right: Array
    reset: str | None = field(metadata=STATIC)  # None: a read-out
    fires_first: bool = field(metadata=STATIC)
    second: IntegerSecond | None = None

    def rest(self, state: State, spikes: Array) -> Array:
        """Return what reset and decay leave of a potential that made the spikes."""
        potential, other = state
        if self.reset is None:
            return _leak(self, potential)
        if self.reset == "hard":
            return _leak(self, potential) * (1 - spikes)
        theta = _across(self.theta, potential)
        taken = spikes * (theta if other is None or not self.rises else theta + other)
        if self.reset == "soft":
            return _leak(self, potential - taken)
        return _leak(self, potential) - taken

    @property
    def rises(self) -> bool:
        """Return whether the threshold rises."""
        return self.second is not None and self.second.kind == ADAPTATION

    def spikes(self, state: State) -> Array:
        """Return the spikes of a state, int32 0 or 1."""
        potential, other = state
        if other is not None and self.rises:
            potential = potential - other
        return (potential >= _across(self.level, potential)).astype(jnp.int32)

    def run(self, current: Array, feedback: Array | None) -> Array:
        """Return the spikes, or a read-out's potentials, of currents `[T, B, ..., O]`."""

        def step(state: State, drive: Array) -> tuple[State, Array]:
            before = self.spikes(state)
            if feedback is not None:
                drive = drive + before @ feedback
            rested, other = self.rest(state, before), state[1]
            if self.second is not None and other is not None:
                other, drive = self.second.after(other, before, drive)
            after = rested + drive, other
            if self.reset is None:
                return after, after[0]
            return after, before if self.fires_first else self.spikes(after)

        zeros = jnp.zeros_like(current[0])
        start = zeros, None if self.second is None else zeros
        return lax.scan(step, start, current)[1]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Weighted:
    """A layer with weights: kernel int8 or wider, `[k, k, I, O]` or `[I, O]`.

    A kernel of several groups has zeros between them; one of sequences `[N, L, I]` stands in a row
    of a square of zeros, and its input is an image of one row.
    """

    kernel: Array
    shift: Array  # [O]
    bias: Array  # [O]
    recurrent: Array | None  # [O, O]
    neurons: IntegerNeurons
    name: str = field(metadata=STATIC)
    stride: int = field(metadata=STATIC)
    padding: str = field(metadata=STATIC)

    def __call__(
        self, signal: Signal, counts: dict[str, Array], shortcut: Signal | None = None
    ) -> Signal:
        """Return spikes or read-out, `[T, B, ..., O]`."""
        current = signal.fold(self.current)
        if shortcut is not None:
            current = current + shortcut
        fired = self.neurons.run(current.over_time(), self.recurrent)
        if self.neurons.reset is not None:
            counts[self.name] = fired.sum(0)
        return Signal(fired, signal.timesteps)

    def current(self, x: Array) -> Array:
        """Return the input current of `x`, `[N, ..., I]`."""
        kernel = self.kernel.astype(jnp.int32)
        product = x @ kernel if kernel.ndim == 2 else self._convolve(x, kernel)
        shift = jnp.broadcast_to(_across(self.shift, product), product.shape)
        return (product << shift) + _across(self.bias, product)

    def _convolve(self, x: Array, kernel: Array) -> Array:
        if x.ndim == 3:  # a sequence: an image of one row
            return self._convolve(x[:, None], kernel)[:, 0]
        size, step = kernel.shape[0], self.stride
        around = ((size - 1) // 2, size // 2) if self.padding == "SAME" else (0, 0)
        x = jnp.pad(x, ((0, 0), around, around, (0, 0)))
        rows, columns = x.shape[1] - size + 1, x.shape[2] - size + 1
        patches = [
            x[:, i : i + rows : step, j : j + columns : step]
            for i in range(size)
            for j in range(size)
        ]
        return jnp.concatenate(patches, -1) @ kernel.reshape(-1, kernel.shape[-1])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Joined:
    """A residual block: to the current of the second convolution it adds its own input."""

    first: Weighted
    second: Weighted
    sources: Array  # int32 [O]: the input channel that is added to an output
    weight: Array  # int32 [O]: its factor, 0 where nothing is added

    def __call__(self, signal: Signal, counts: dict[str, Array]) -> Signal:
        """Return the spikes `[T, B, H / stride, W / stride, O]`."""
        stride = self.first.stride

        def take(x: Array) -> Array:
            chosen = x[:, ::stride, ::stride][..., self.sources]
            return chosen * _across(self.weight, chosen)

        return self.second(self.first(signal, counts), counts, signal.fold(take))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Weightless:
    """Pooling, flattening or voting: "sum", "max", "flatten" or "vote"."""

    kind: str = field(metadata=STATIC)
    size: int = field(metadata=STATIC)  # of the window, or the number of classes

    def __call__(self, signal: Signal, counts: dict[str, Array]) -> Signal:
        """Return the signal, rearranged and summed up."""
        del counts
        return signal.fold(self._apply)

    def _apply(self, x: Array) -> Array:
        if self.kind == "sum":
            return windows(x, self.size).sum((2, 4))
        if self.kind == "max":
            return windows(x, self.size).max((2, 4))
        if self.kind == "flatten":
            return x.reshape(x.shape[0], -1)
        return x.reshape(x.shape[0], self.size, -1).sum(-1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class IntegerNetwork:
    """A network of integers: a pytree, all of whose leaves are integer arrays.

    Attributes:
      stages: the layers in order.
      inputs: what its input means.
      timesteps: the most steps for which it is proved that nothing overflows.
      unit: what 1 of the read-out stands for.
      report: of each layer with weights, what is exact.
    """

    stages: tuple[Any, ...]
    inputs: IntegerGrid = field(metadata=STATIC)
    timesteps: int = field(metadata=STATIC)
    unit: float = field(metadata=STATIC)
    report: tuple[LayerVerdict, ...] = field(metadata=STATIC)

    @property
    def exact(self) -> bool:
        """Return whether every spike and the read-out are proved to be the float network's."""
        return all(layer.verdict == "exact" for layer in self.report)


class IntegerOutput(NamedTuple):
    """What a pass through a network of integers gives."""

    readout: Array  # int32 [T, B, classes], in units of `network.unit`; its sum over time fits too
    spikes: dict[str, Array]  # layer -> int32 [B, ..., O] spikes summed over time


def run_integer(network: IntegerNetwork, x: Array | Signal) -> IntegerOutput:
    """Run a network of integers; may be compiled as part of something else.

    Args:
      network: from `to_integer`.
      x: integers in the range of `network.inputs`: `[T, B, ...]`, or a constant `Signal`,
        `Signal(pixels, timesteps, constant=True)`.

    Returns:
      The read-out in units of `network.unit`, and the spikes.

    Raises:
      UserError: if `x` holds no integers or some out of range, or is longer than the network
        was made for.

    Example:
      >>> from jaxsnn import models
      >>> from jaxsnn.export import to_integer
      >>> from jaxsnn.inputs import Inputs
      >>> integers = to_integer(models.build("6-3", (4,)), Inputs((4,), timesteps=2))
      >>> run_integer(integers, jnp.ones((2, 5, 4), jnp.int32)).readout.shape
      (2, 5, 3)
    """
    signal = x if isinstance(x, Signal) else Signal(x, x.shape[0])
    value, (_, low, high) = jnp.asarray(signal.value), network.inputs
    if not jnp.issubdtype(value.dtype, jnp.integer):
        raise UserError(f"a network of integers takes integers, found {value.dtype}")
    if not is_traced(value) and value.size and not low <= value.min() <= value.max() <= high:
        found = f"{value.min()} to {value.max()}"
        raise UserError(f"this network was made for inputs of {low} to {high}, found {found}")
    if signal.timesteps > network.timesteps:
        raise UserError(
            f"this network was made for {network.timesteps} timesteps, found {signal.timesteps}"
        )
    output: IntegerOutput = _run(network.stages, replace(signal, value=value.astype(jnp.int32)))
    return output


@jax.jit  # of the stages alone: networks that differ in their numbers share a program
def _run(stages: tuple[Any, ...], signal: Signal) -> IntegerOutput:
    counts: dict[str, Array] = {}
    for stage in stages:
        signal = stage(signal, counts)
    return IntegerOutput(signal.over_time(), counts)


def _leak(constants: Any, value: Array) -> Array:
    """Return what a leak leaves of numbers, `[B, ..., O]`."""
    factor = _across(constants.factor, value) * value
    decayed = factor >> jnp.broadcast_to(_across(constants.right, value), value.shape)
    return _across(constants.keep, value) * value + decayed


def _across(channels: Array, like: Array) -> Array:
    """Return `[O]` as `[1, ..., 1, O]` with as many axes as `like`."""
    return channels.reshape((1,) * (like.ndim - 1) + channels.shape)
