"""The highest scores of a leaf, found in one call: XLA compiles a loop for each leaf instead."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxsnn.native import convolutions

__all__ = ["available", "top_count"]


def available(scores: Array) -> bool:
    """Return whether the highest scores are found here."""
    here = jax.default_backend() == "cpu" and scores.size > 0
    return here and scores.dtype == jnp.float32 and convolutions.available(jnp.float32)


@jax.jit
def top_count(scores: Array, count: int | Array) -> Array:
    """Mark the `count` entries of highest score, `[...]` float32, exactly that many.

    Ties go to the lower index. Nothing is derived by it.
    """
    values = lax.stop_gradient(scores).ravel()
    result = jax.ShapeDtypeStruct(values.shape, jnp.bool_)
    call = jax.ffi.ffi_call("jaxsnn_top_count", result, vmap_method="broadcast_all")
    marks: Array = call(values, jnp.asarray(count, jnp.int32))
    return marks.reshape(scores.shape)
