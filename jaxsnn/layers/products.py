"""The product of inputs with a matrix: in the numbers of the inputs, its sums in float32.

Weights are float32. Of short inputs (bfloat16) the product is that of rounded weights; its sums are
float32, and rounded once. The gradient of the weights is not rounded at all.

On a CPU with AVX-512 or AMX, oneDNN multiplies (`jaxsnn.native`): a product is a convolution with
one pixel. On one core with AMX, the three directions of 1600 x 784 by 784 x 800 take 17, 15 and
31 ms in float32 (XLA 28, 17 and 20), and 6.5, 6.7 and 8.4 ms in bfloat16 (XLA 29, 26 and 26).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jaxsnn.arrays import at_least_float32, is_short
from jaxsnn.native import convolutions as onednn
from jaxsnn.native.processor import choose_dtype

__all__ = ["multiply"]

NO_BORDERS = ((0, 0), (0, 0))
MANY_PRODUCTS = 10**8  # in float32; fewer take XLA as long


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
    if x.dtype.itemsize > 2 and not _pays(x, kernel):
        product: Array = x @ kernel
        return product if dtype is None else product.astype(dtype)
    rows = x.reshape(-1, x.shape[-1])
    found: Array = _multiply(jnp.dtype(dtype or x.dtype), rows, kernel)
    return found.reshape(*x.shape[:-1], kernel.shape[-1])


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _multiply(dtype: jnp.dtype, x: Array, kernel: Array) -> Array:
    kernel = kernel.astype(x.dtype)
    if _pays(x, kernel):
        return onednn.convolve(1, NO_BORDERS, _row(x), _row(kernel), dtype)[0, 0]
    return _dot(x, kernel, dtype)


def _forward(dtype: jnp.dtype, x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _multiply(dtype, x, kernel), (x, kernel)


def _backward(
    dtype: jnp.dtype, saved: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    del dtype
    x, kernel = saved
    cotangent, rounded = cotangent.astype(x.dtype), kernel.astype(x.dtype)
    if not _pays(x, kernel):
        to_x = _dot(cotangent, rounded.T, x.dtype)
        return to_x, _dot(x.T, cotangent, jnp.float32).astype(kernel.dtype)
    size, rows = (1, len(x)), _row(cotangent)
    to_x = onednn.gradient_of_images(1, NO_BORDERS, size, rows, _row(rounded))[0, 0]
    if not is_short(x.dtype):
        return to_x, x.T @ cotangent  # XLA is faster at it
    shape = _row(kernel).shape
    to_kernel = onednn.gradient_of_kernel_by_patches(1, NO_BORDERS, shape, _row(x), rows)
    return to_x, to_kernel[0, 0].astype(kernel.dtype)


_multiply.defvjp(_forward, _backward)


def _pays(x: Array, kernel: Array) -> bool:
    """Return whether oneDNN multiplies here, and faster than XLA."""
    if jax.default_backend() != "cpu" or not all(isinstance(size, int) for size in x.shape):
        return False
    if is_short(x.dtype):
        return choose_dtype()[0] != "float32" and onednn.available(x.dtype)
    large = x.size * kernel.shape[-1] >= MANY_PRODUCTS
    wide = large and onednn.available(x.dtype) and onednn.available(kernel.dtype)
    return wide and onednn.instructions() in ("AVX-512", "AMX")


def _row(x: Array) -> Array:
    """Return a matrix as a row of pixels, or as a kernel of one pixel."""
    return x[None, None]


def _dot(a: Array, b: Array, dtype: jax.typing.DTypeLike) -> Array:
    """Multiply where the device is fast, and round the sums to a type."""
    if jax.default_backend() == "cpu" and choose_dtype()[0] == "float32":
        return (at_least_float32(a) @ at_least_float32(b)).astype(dtype)
    return jnp.matmul(a, b, preferred_element_type=dtype)
