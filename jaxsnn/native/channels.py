"""What surrounds a convolution, in one pass over memory each: batch norms and poolings.

XLA on a CPU converts bfloat16 to float32 as a pass of its own, and its loops are slow where the
last axis, the channels, is short. The numbers are those of XLA up to the order of sums; long ones
are float64.

    standardise     (x - mean) / sqrt(var + eps) scale + bias      of each channel, over all else
    average         the mean of each window of pixels
    largest         the largest of each

Each has a reverse pass by hand, which keeps nothing but the inputs. There are no tangents and no
second derivatives, as there are none of the convolutions of oneDNN.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxsnn.native import convolutions
from jaxsnn.native.handlers import threads

__all__ = ["SEARCHED", "available", "average", "largest", "scaled", "standardise"]

SEARCHED = (2, 3, 4)  # sizes of windows whose largest is known here


def available(x: Array) -> bool:
    """Return whether arrays like one `[N, ..., C]` are computed here."""
    known = all(isinstance(size, int) and size > 0 for size in x.shape)
    types = x.dtype in (jnp.float32, jnp.bfloat16)
    here = jax.default_backend() == "cpu"
    return here and known and types and convolutions.available(jnp.float32)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def standardise(
    epsilon: float, axis: str | None, x: Array, scale: Array, bias: Array
) -> tuple[Array, Array, Array]:
    """Return `x` standardised, `[N, ..., C]`, and the mean and the variance of each channel.

    Nothing is derived by the latter two.

    Args:
      epsilon: added to the variance.
      axis: of the devices that share a batch, None for one.
      x: `[N, ..., C]`, of one device.
      scale: `[C]`, float32.
      bias: `[C]`, float32.
    """
    sums, squares = (_over(axis, each) / _rows(x) for each in _sum(x, x, jnp.zeros_like(scale)))
    mean, variance = sums, jnp.maximum(squares - jnp.square(sums), 0.0)
    found = _mix(None, x, mean, scale * lax.rsqrt(variance + epsilon), bias)
    return found, mean, variance


def _standardise_forward(
    epsilon: float, axis: str | None, x: Array, scale: Array, bias: Array
) -> tuple[tuple[Array, Array, Array], tuple[Array, ...]]:
    found = standardise(epsilon, axis, x, scale, bias)
    return found, (x, scale, *found[1:])


def _standardise_backward(
    epsilon: float, axis: str | None, saved: tuple[Array, ...], cotangents: tuple[Array, ...]
) -> tuple[Array, Array, Array]:
    (x, scale, mean, variance), cotangent = saved, cotangents[0]
    root = lax.rsqrt(variance + epsilon)
    sums, products = _sum(cotangent, x, mean)
    # By x, through the mean and the variance of all devices.
    shared, joint = (_over(axis, each) / _rows(x) for each in (sums, products))
    by_x = scale * root
    through = jnp.where(variance > 0, -by_x * root * root * joint, 0.0)
    d_x = _mix(cotangent, x, mean, through, -by_x * shared, by_x)
    return d_x, root * products, sums


standardise.defvjp(_standardise_forward, _standardise_backward)


@jax.custom_vjp
def scaled(x: Array, center: Array, scale: Array, bias: Array) -> Array:
    """Return `(x - center) scale + bias`, `[N, ..., C]`, in the type of `x`; others are `[C]`."""
    return _mix(None, x, center, scale, bias)


def _scaled_forward(
    x: Array, center: Array, scale: Array, bias: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    return scaled(x, center, scale, bias), (x, center, scale)


def _scaled_backward(
    saved: tuple[Array, Array, Array], cotangent: Array
) -> tuple[Array, Array, Array, Array]:
    x, center, scale = saved
    none = jnp.zeros_like(scale)
    sums, products = _sum(cotangent, x, center)
    return _mix(None, cotangent, none, scale, none), -scale * sums, products, sums


scaled.defvjp(_scaled_forward, _scaled_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def average(images: Array, size: int) -> Array:
    """Return the mean of each window `size x size`, `[N, H/size, W/size, C]` of `[N, H, W, C]`."""
    return _over_windows("jaxsnn_average", size, images.shape, _pooled(images, size), images)


def _average_forward(images: Array, size: int) -> tuple[Array, tuple[int, ...]]:
    return average(images, size), images.shape


def _average_backward(size: int, shape: tuple[int, ...], cotangent: Array) -> tuple[Array]:
    return (_over_windows("jaxsnn_spread", size, shape, shape, cotangent),)


average.defvjp(_average_forward, _average_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def largest(images: Array, size: int, shared: bool) -> Array:
    """Return the largest of each window `size x size`, `[N, H/size, W/size, C]` of `[N, H, W, C]`.

    Its derivative goes to the first that is the largest, or in equal shares to all that are.
    """
    del shared
    return _over_windows("jaxsnn_largest", size, images.shape, _pooled(images, size), images)


def _largest_forward(images: Array, size: int, shared: bool) -> tuple[Array, Array]:
    return largest(images, size, shared), images


def _largest_backward(size: int, shared: bool, images: Array, cotangent: Array) -> tuple[Array]:
    name, shape = "jaxsnn_to_largest", images.shape
    return (_over_windows(name, size, shape, shape, images, cotangent, shared=shared),)


largest.defvjp(_largest_forward, _largest_backward)


def _pooled(images: Array, size: int) -> tuple[int, ...]:
    n, height, width, channels = images.shape
    return n, height // size, width // size, channels


def _over_windows(
    name: str, size: int, images: tuple[int, ...], shape: tuple[int, ...], *x: Array, **more: bool
) -> Array:
    """Return an array of a shape, from arrays that belong to windows in images of another."""
    result = jax.ShapeDtypeStruct(shape, x[0].dtype)
    sizes = dict(zip(("height", "width", "channels"), map(np.int64, images[1:]), strict=True))
    call = jax.ffi.ffi_call(name, result, vmap_method="broadcast_all")
    found: Array = call(*x, **sizes, size=np.int64(size), threads=np.int64(threads()), **more)
    return found


def _sum(x: Array, y: Array, center: Array) -> tuple[Array, Array]:
    """Return `sum x` and `sum x (y - center)` of each channel."""
    like = jax.ShapeDtypeStruct(center.shape, jnp.float32)
    call = jax.ffi.ffi_call("jaxsnn_sum", (like, like), vmap_method="broadcast_all")
    sums, products = call(x, y, center, **_known(x))
    return sums, products


def _mix(
    x: Array | None, y: Array, center: Array, by_y: Array, offset: Array, by_x: Array | None = None
) -> Array:
    """Return `by_x x + by_y (y - center) + offset`, in the type of `y`; without x only the rest."""
    like = jax.ShapeDtypeStruct(y.shape, y.dtype)
    call = jax.ffi.ffi_call("jaxsnn_mix", like, vmap_method="broadcast_all")
    # An operand is needed where nothing is given.
    first, factor = (center, center) if x is None or by_x is None else (x, by_x)
    found: Array = call(first, y, center, factor, by_y, offset, **_known(y), with_x=x is not None)
    return found


def _over(axis: str | None, x: Array) -> Array:
    """Return the mean over the devices that share a batch."""
    return x if axis is None else lax.pmean(x, axis)


def _rows(x: Array) -> int:
    return int(np.prod(x.shape[:-1], dtype=int))


def _known(x: Any) -> dict[str, Any]:
    """Return the numbers that each function is told."""
    return {
        "rows": np.int64(_rows(x)),
        "channels": np.int64(x.shape[-1]),
        "threads": np.int64(threads()),
    }
