"""Layers without weights: pooling, flattening, dropout, voting."""

import math
from dataclasses import replace
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxsnn.arrays import at_least_float32
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.layers.layer import Layer
from jaxsnn.layers.tape import Tape
from jaxsnn.native import channels
from jaxsnn.origins import Tiled

__all__ = ["AveragePool", "Dropout", "Flatten", "MaxPool", "Vote", "mean_pixels"]

TIES = ("first", "shared")


class AveragePool(Layer):
    """Average over windows `size x size` that do not overlap; rows left over are dropped.

    >>> AveragePool(2)(Signal(jnp.ones((4, 1, 8, 8, 3)), timesteps=4), Tape()).shape
    (4, 4, 3)

    Args:
      size: of a window, and the step between two.
    """

    def __init__(self, size: int = 2):
        self.size = size

    def __call__(self, signal: Signal, tape: Tape) -> Signal:
        """Return the signal on a coarser grid, `[T, B, H/size, W/size, C]`."""
        del tape
        _check_images(self, signal)
        pooled = signal.fold(partial(mean, size=self.size), channelwise=True)
        return replace(pooled, events_per_unit=signal.events_per_unit * self.size**2)


class MaxPool(Layer):
    """Take the largest over windows `size x size`; on spikes, whether any neuron of them fired.

        y = max_i x_i        dL/dx_i = dL/dy    if i is the first, row by row, with x_i = y
                                       0        otherwise

    On spikes nearly every window is a tie: several of its neurons fired, or none. The gradient goes
    to the first of them, as in PyTorch, in which the published networks were trained, or in equal
    shares to all (`ties="shared"`), as `jnp.max` has it. Behind spikes the two differ by half of
    their size or so; the output is the same.

    The output, summed over time, is on the record under the name of the pooling.

    >>> MaxPool(2)(Signal(jnp.ones((4, 1, 8, 8, 3)), timesteps=4), Tape()).shape
    (4, 4, 3)

    Args:
      size: of a window, and the step between two; rows and columns left over are dropped.
      ties: who of equal largest inputs gets the gradient, "first" or "shared".

    Raises:
      UserError: for other ties.
    """

    def __init__(self, size: int = 2, ties: Literal["first", "shared"] = "first"):
        if ties not in TIES:
            raise UserError(f"ties {ties!r} are unknown; choose one of {', '.join(TIES)}")
        self.size = size
        self.ties = ties

    def __call__(self, signal: Signal, tape: Tape) -> Signal:
        """Return the signal on a coarser grid, `[T, B, H/size, W/size, C]`."""
        _check_images(self, signal)
        pooled = signal.fold(partial(most, size=self.size, ties=self.ties), channelwise=True)
        tape.note_spikes(pooled.value, of=signal.value)
        tape.pools[self.name] = signal.sources
        tape.activity.pooled[self.name] = lax.stop_gradient(tape.total(pooled))
        return pooled


def _check_images(pool: Layer, signal: Signal) -> None:
    """Raise a `UserError` that names the pooling if its input is no image."""
    if len(signal.shape) != 3:
        raise UserError(
            f"layer {pool.name!r} pools images [H, W, C], found an input of the shape "
            f"{signal.shape}"
        )


def mean(images: Array, size: int) -> Array:
    """Return the mean of each window, `[N, H/size, W/size, C]` of `[N, H, W, C]`."""
    if _fits(images, size):
        return channels.average(images, size)
    return windows(images, size).mean((2, 4))


def most(images: Array, size: int, ties: str) -> Array:
    """Return the largest of each window, `[N, H/size, W/size, C]` of `[N, H, W, C]`."""
    if size in channels.SEARCHED and _fits(images, size):
        return channels.largest(images, size, ties == "shared")
    return largest(windows(images, size), ties)


def _fits(images: Array, size: int) -> bool:
    """Return whether windows are pooled by our own code for a CPU."""
    return channels.available(images) and min(images.shape[1:3]) >= size


def windows(images: Array, size: int) -> Array:
    """Return `[N, H, W, C]` as windows, `[N, H/size, size, W/size, size, C]`."""
    n, height, width, channels = images.shape
    rows, columns = height // size, width // size
    cropped = images[:, : rows * size, : columns * size]
    return cropped.reshape(n, rows, size, columns, size, channels)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def largest(cut: Array, ties: str) -> Array:
    """Return the largest of each window, `[N, H', W', C]` from `[N, H', size, W', size, C]`."""
    del ties
    return cut.max((2, 4))


@largest.defjvp
def _largest_derivative(
    ties: str, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    """Return the largest, and the tangents of those to whom it goes back.

    Window by window, place by place: XLA's own derivative of `max`, and that of slices, take 2 to
    12 times as long on a CPU.
    """
    (cut,), (tangent,) = primals, tangents
    found, size = largest(cut, ties), cut.shape[2]
    places = [cut[:, :, place // size, :, place % size] for place in range(size**2)]
    if ties == "shared":
        taken = cut == found[:, :, None, :, None]
        shares = sum((place == found).astype(cut.dtype) for place in places)
        return found, _picked(taken, tangent) / shares
    first = jnp.zeros(found.shape, jnp.int32)
    for number, place in reversed(list(enumerate(places))):
        first = jnp.where((place == found) | jnp.isnan(place), number, first)
    numbers = jnp.arange(size**2, dtype=jnp.int32).reshape(1, 1, size, 1, size, 1)
    taken = numbers == first[:, :, None, :, None]
    return found, _picked(taken, tangent)


@partial(jax.checkpoint, prevent_cse=False)  # else the zeros would be kept
def _picked(taken: Array, tangent: Array) -> Array:
    """Return the sum over each window of what was taken."""
    return jnp.where(taken, tangent, 0).sum((2, 4))


class Flatten(Layer):
    """Lay all axes but time and batch in one, channels fastest.

    >>> Flatten()(Signal(jnp.ones((4, 1, 8, 8, 3)), timesteps=4), Tape()).shape
    (192,)
    """

    def __call__(self, signal: Signal, tape: Tape) -> Signal:
        """Return `[T, B, features]`."""
        flat = signal.fold(lambda x: x.reshape(x.shape[0], -1))
        tape.note_spikes(flat.value, of=signal.value)
        return replace(flat, origin=Tiled(signal.origin, math.prod(signal.shape[:-1])))


class Dropout(Layer):
    """Silence a share of the inputs in training: one draw for each sample, held over time.

    >>> signal = Signal(jnp.ones((4, 1, 8)), timesteps=4)
    >>> dropped = Dropout(0.5)(signal, Tape(train=True, key=jax.random.key(0)))
    >>> sorted(set(dropped.value.ravel().tolist()))
    [0.0, 2.0]

    Args:
      rate: share of the inputs that are silenced, in [0, 1).
    """

    def __init__(self, rate: float):
        self.rate = rate

    def __call__(self, signal: Signal, tape: Tape) -> Signal:
        """Return the signal with the dropped inputs at 0 and the others scaled up."""
        if not tape.train or self.rate == 0.0:
            return signal
        shape = signal.value.shape if signal.constant else signal.value.shape[1:]
        draw = partial(jax.random.bernoulli, p=1.0 - self.rate, shape=shape[1:])
        keep = jax.vmap(draw)(tape.next_keys(shape[0]))
        scale = (keep / (1.0 - self.rate)).astype(signal.value.dtype)
        scale = jnp.broadcast_to(scale, signal.value.shape)
        return replace(signal, value=signal.value * scale)


class Vote(Layer):
    """Average groups of consecutive neurons, one group a class (population voting).

    >>> spikes = Signal(jnp.asarray([[[1.0, 0.0, 0.0, 0.0]]]), timesteps=1)
    >>> Vote(2)(spikes, Tape()).value.tolist()
    [[[0.5, 0.0]]]

    Args:
      classes: how many; must divide the number of neurons.
    """

    def __init__(self, classes: int):
        self.classes = classes

    def __call__(self, signal: Signal, tape: Tape) -> Signal:
        """Return `[T, B, classes]` from `[T, B, classes * voters]`, float32 or wider."""
        del tape
        wide = replace(signal, value=at_least_float32(signal.value))
        by = f"{self.name!r}, Vote"
        return wide.fold(lambda x: x.reshape(x.shape[0], self.classes, -1).mean(-1), by=by)


def mean_pixels(signal: Signal) -> Signal:
    """Return the mean over all pixels (global pooling).

    >>> mean_pixels(Signal(jnp.ones((4, 1, 8, 8, 3)), timesteps=4)).shape
    (3,)

    Args:
      signal: `[T, B, H, W, C]`.

    Returns:
      `[T, B, C]`.
    """
    height, width, _ = signal.shape
    pooled = signal.fold(lambda x: x.mean((1, 2)), channelwise=True)
    return replace(pooled, events_per_unit=signal.events_per_unit * height * width)
