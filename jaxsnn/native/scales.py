"""The scale of a grid of whole numbers, searched in one call.

XLA on a CPU takes two to five times as long for the search of `jaxsnn.compress.fitting`, longer for
many channels, and a second for each leaf to compile it. The errors are the same up to the order of
sums; of scales whose errors are equal another one may be taken.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxsnn.native import convolutions
from jaxsnn.native.handlers import threads

__all__ = ["available", "search"]


def available(leaf: Array) -> bool:
    """Return whether the scales of a leaf are searched here."""
    here = jax.default_backend() == "cpu" and leaf.size > 0
    return here and leaf.dtype == jnp.float32 and convolutions.available(jnp.float32)


def search(magnitude: Array, top: Array, axes: tuple[int, ...] | None, sweeps: int) -> Array:
    """Return the best scales of levels 0 to `top`, with the channels last, or all ones `[1, ...]`.

    Nothing is derived by it.

    Args:
      magnitude: `[...]`, float32.
      top: the largest level, `[]` or with the channels last.
      axes: that share a scale, all but the last; None for all.
      sweeps: rounds of the alternation between scale and levels, after the search.
    """
    channels = 1 if axes is None else magnitude.shape[-1]
    values = lax.stop_gradient(magnitude).reshape(-1, channels)
    tops = jnp.broadcast_to(jnp.ravel(top).astype(jnp.float32), (channels,))
    result = jax.ShapeDtypeStruct((channels,), jnp.float32)
    call = jax.ffi.ffi_call("jaxsnn_search", result, vmap_method="broadcast_all")
    scales: Array = call(
        values, tops, rows=np.int64(len(values)), channels=np.int64(channels),
        sweeps=np.int64(sweeps), threads=np.int64(threads()),
    )  # fmt: skip
    return scales.reshape((1,) * (magnitude.ndim - 1) + (channels,))
