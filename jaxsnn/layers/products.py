"""The product of inputs with a matrix: in the numbers of the inputs, its sums in float32.

Weights are float32. Of short inputs (bfloat16) the product is that of rounded weights; its sums are
float32, and rounded once. The gradient of the weights is not rounded at all.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jaxsnn.arrays import at_least_float32
from jaxsnn.native.processor import choose_dtype

__all__ = ["multiply"]


def multiply(x: Array, kernel: Array, dtype: jax.typing.DTypeLike | None = None) -> Array:
    """Return `x @ kernel`.

    >>> x = jnp.ones((2, 3), jnp.bfloat16)
    >>> multiply(x, jnp.ones((3, 4))).dtype, multiply(x, jnp.ones((3, 4)), jnp.float32).dtype
    (dtype(bfloat16), dtype('float32'))

    Args:
      x: `[..., I]`.
      kernel: `[I, O]`; rounded to the numbers of `x` if these are shorter than float32.
      dtype: of the result; that of `x` if left out.

    Returns:
      `[..., O]`.
    """
    if x.dtype.itemsize > 2:
        product: Array = x @ kernel
        return product if dtype is None else product.astype(dtype)
    short: Array = _multiply(jnp.dtype(dtype or x.dtype), x, kernel)
    return short


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _multiply(dtype: jnp.dtype, x: Array, kernel: Array) -> Array:
    return _dot(x, kernel.astype(x.dtype), dtype)


def _forward(dtype: jnp.dtype, x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _multiply(dtype, x, kernel), (x, kernel)


def _backward(
    dtype: jnp.dtype, saved: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    del dtype
    x, kernel = saved
    cotangent = cotangent.astype(x.dtype)
    to_x = _dot(cotangent, kernel.astype(x.dtype).T, x.dtype)
    rows = x.reshape(-1, x.shape[-1]), cotangent.reshape(-1, cotangent.shape[-1])
    return to_x, _dot(rows[0].T, rows[1], jnp.float32).astype(kernel.dtype)


_multiply.defvjp(_forward, _backward)


def _dot(a: Array, b: Array, dtype: jax.typing.DTypeLike) -> Array:
    """Multiply where the device is fast, and round the sums to a type."""
    if jax.default_backend() == "cpu" and choose_dtype()[0] == "float32":
        return (at_least_float32(a) @ at_least_float32(b)).astype(dtype)
    return jnp.matmul(a, b, preferred_element_type=dtype)
