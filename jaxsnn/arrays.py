"""Arithmetic on arrays that everyone shares: checked ranges, exact counts, safe division.

Nothing here knows of layers or trees. Numbers that a sweep may vary (a sparsity, a range-checked
hyperparameter) can be traced.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn.errors import UserError, shortened, shown

__all__ = [
    "Array",
    "Number",
    "as_stored",
    "at_least_float32",
    "check_range",
    "check_whole",
    "confined",
    "is_short",
    "is_traced",
    "keep_count",
    "opaque",
    "ranks",
    "safe_divide",
    "straight_through",
    "sum_over_time",
]

Array = jax.Array
Number = float | Array

MOST_ADDED = 16  # steps that are summed one by one


def is_traced(value: Any) -> bool:
    """Return whether the value is known only when the compiled program runs."""
    return isinstance(value, jax.core.Tracer)


def check_range(
    name: str,
    value: Any,
    low: float,
    high: float,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> Any:
    """Return the value if it lies in the range; traced values pass unseen.

    Args:
      name: what the value is called, for the message.
      value: a number or an array, all entries of which must lie in the range.
      low: lower end of the range, itself allowed unless `open_low`.
      high: upper end of the range, itself allowed unless `open_high`.
      open_low: exclude the lower end.
      open_high: exclude the upper end.

    Raises:
      UserError: if a concrete value is out of range, NaN, or no number.
    """
    if is_traced(value):
        return value
    ends = ", ".join(str(int(x) if float(x).is_integer() else x) for x in (low, high))
    interval = f"{'(' if open_low else '['}{ends}{')' if open_high else ']'}"
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):  # the last of whole numbers beyond the floats
        raise UserError(f"{name} must be a number in {interval}, found {shown(value)}") from None
    above = numbers > low if open_low else numbers >= low
    below = numbers < high if open_high else numbers <= high
    if not np.all(above & below):
        raise UserError(f"{name} must be in {interval}, found {shortened(str(value))}")
    return value


def check_whole(name: str, value: Any, low: int, high: float) -> Any:
    """Return the value if it is a whole number in `[low, high]`; traced values pass unseen.

    Raises:
      UserError: if a concrete value is out of range, NaN, or has a fraction.
    """
    check_range(name, value, low, high)
    if not is_traced(value) and np.any(np.asarray(value) % 1 != 0):
        raise UserError(f"{name} must be a whole number, found {shortened(str(value))}")
    return value


def at_least_float32(x: Array) -> Array:
    """Widen integers, booleans and short floats to float32; leave wider floats as they are."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def as_stored(x: Array) -> Array:
    """Widen like `at_least_float32`, to the numbers that memory would have.

    Inside a program XLA may go on with digits that bfloat16 drops, in one program and not in
    another; what is decided from such numbers, like the scale of a grid, must not depend on that.
    """
    wide = at_least_float32(x)
    return jax.lax.reduce_precision(wide, 8, 7) if is_short(x.dtype) else wide


def is_short(dtype: Any) -> bool:
    """Return whether floats of a type are bfloat16: kept so, summed and carried in float32.

    They have the range of float32, so that no number that is not 0 becomes 0. (float16 has not.)
    """
    return bool(jnp.dtype(dtype) == jnp.bfloat16)


def keep_count(sparsity: Number, size: int) -> int | Array:
    """Return how many of `size` entries survive: `round((1 - sparsity) * size)`, half to even.

    The arithmetic is float32 whether the sparsity is traced or not, so that a sweep and a single
    run keep the same entries.

    >>> keep_count(0.9, 205)
    21
    """
    if is_traced(sparsity):
        kept = jnp.round((1 - jnp.asarray(sparsity, jnp.float32)) * np.float32(size))
        return jnp.clip(kept, 0, size).astype(jnp.int32)
    count = int(np.round((np.float32(1) - np.float32(sparsity)) * np.float32(size)))
    return min(max(count, 0), size)


def ranks(scores: Array) -> Array:
    """Return each entry's position in descending order along the last axis, int32.

    The largest score has rank 0; among equal scores the lower index comes first.
    """
    order = jnp.argsort(scores, axis=-1, stable=True, descending=True)
    return jnp.argsort(order, axis=-1).astype(jnp.int32)


def sum_over_time(x: Array, weights: Array | None = None) -> Array:
    """Sum over the first axis, `[T, ...] -> [...]`; exact for spikes.

    Step by step where these are few, and else as a product with ones: on a CPU that is 2 to 10
    times slower, and XLA's sum over the first of many axes up to 30 times, unless what follows sums
    up everything anyway.

    Args:
      x: `[T, ...]`.
      weights: of each step, `[T]`, such as 0 for those that do not count; None for ones.

    Returns:
      `[...]` in the numbers of `x`; float32 for bfloat16.
    """
    if weights is None and 1 <= len(x) <= MOST_ADDED:
        return _added(x)
    return _dotted(x, jnp.ones(len(x), x.dtype) if weights is None else weights.astype(x.dtype))


@jax.custom_jvp
def _added(x: Array) -> Array:
    wide = jnp.float32 if is_short(x.dtype) else x.dtype
    total = x[0].astype(wide)
    for step in range(1, len(x)):
        total = total + x[step].astype(wide)
    return total


@_added.defjvp
def _added_derivative(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # That of slices would pad each of them.
    (x,), (tangent,) = primals, tangents
    return _added(x), _dotted(tangent, jnp.ones(len(x), x.dtype))


def _dotted(x: Array, weights: Array) -> Array:
    wide = jnp.float32 if is_short(x.dtype) else None
    return jnp.tensordot(
        weights, x, 1, precision=jax.lax.Precision.HIGHEST, preferred_element_type=wide
    )


def safe_divide(a: Number, b: Number) -> Array:
    """Divide, with 0 where `b == 0`; the gradients there are 0 too, and never NaN."""
    quotient: Array = _divide(a, b)
    return quotient


@partial(jax.jit, inline=True)
def _divide(a: Number, b: Number) -> Array:
    is_zero = jnp.equal(b, 0)
    return jnp.where(is_zero, 0.0, a / jnp.where(is_zero, 1.0, b))


def opaque(constant: Array) -> Array:
    """Hide a constant from the compiler: it reorders products and quotients of known numbers."""
    hidden: Array = _barrier(constant)
    return hidden


_barrier: Callable[[Array], Array] = jax.lax.optimization_barrier


@jax.custom_jvp
def straight_through(forward_value: Array, x: Array) -> Array:
    """Return `forward_value` exactly, and differentiate as if it were `x`.

    Forward half: the value, bit for bit. Backward half: `d out / d x = 1` and
    `d out / d forward_value = 0`. A quantized weight is `straight_through(grid(w), w)`.

    Args:
      forward_value: `[...]`, what the caller computes with.
      x: `[...]`, same shape and dtype, what receives the gradient.
    """
    del x
    return forward_value


@straight_through.defjvp
def _straight_through_derivative(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    forward_value, _ = primals
    _, x_tangent = tangents
    return forward_value, x_tangent


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def confined(x: Array, low: float, high: float) -> Array:
    """Clip to `[low, high]`, with a gradient that leads back from outside.

    Forward half: `min(max(x, low), high)`. Backward half: 1, but 0 where a step against the
    gradient would lead further out. So a number that has left the range is not stuck there, as it
    is with the derivative of clipping, and one on its end is free to return.

    >>> jax.grad(lambda x: 3 * confined(x, 0.0, 1.0))(1.5).tolist()
    3.0
    >>> jax.grad(lambda x: -3 * confined(x, 0.0, 1.0))(1.5).tolist()
    0.0

    Args:
      x: `[...]`.
      low: lower end.
      high: upper end.
    """
    return jnp.clip(x, low, high)


def _confined_forward(x: Array, low: float, high: float) -> tuple[Array, Array]:
    return confined(x, low, high), x


def _confined_backward(low: float, high: float, x: Array, cotangent: Array) -> tuple[Array]:
    leaves = ((x > high) & (cotangent < 0)) | ((x < low) & (cotangent > 0))
    return (jnp.where(leaves, jnp.zeros_like(cotangent), cotangent),)


confined.defvjp(_confined_forward, _confined_backward)
