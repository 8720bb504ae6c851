"""The highest scores of a leaf, an exact number of them, without sorting."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn.arrays import Array, Number, as_stored, keep_count
from jaxsnn.native import counting

__all__ = ["top_count", "top_fraction"]


def top_count(scores: Array, count: int | Array) -> Array:
    """Mark the `count` entries of highest score, exactly that many, ties by lower index.

    The mask equals `arrays.ranks(scores.ravel()) < count`, reshaped.

    Args:
      scores: `[...]`, any shape, no NaN.
      count: number of entries to mark, may be traced.

    Returns:
      Boolean mask `[...]`.
    """
    values = as_stored(scores)
    find = counting.top_count if counting.available(values) else _by_bits
    found: Array = find(values, count)
    return found


def top_fraction(scores: Array, sparsity: Number) -> Array:
    """Mark the `1 - sparsity` share of entries with the highest scores, with an exact count.

    >>> import jax.numpy as jnp
    >>> top_fraction(jnp.ones(5), 0.6).tolist()
    [True, True, False, False, False]

    Args:
      scores: `[...]`, any shape, no NaN.
      sparsity: share to leave out, in [0, 1], may be traced.

    Returns:
      Boolean mask `[...]` with `keep_count(sparsity, size)` entries, ties by lower index.
    """
    kept: Array = top_count(scores, keep_count(sparsity, scores.size))
    return kept


@jax.jit  # outside of compiled code too: a loop on its own would be compiled at every call
def _by_bits(scores: Array, count: int | Array) -> Array:
    """Find the `count`-th largest bit by bit, then the index up to which its equals count.

    Floats are mapped to unsigned integers of the same order; each bit is one counting pass. It ends
    as soon as `count` entries are left.
    """
    keys = _ordered_integers(scores.ravel())
    number, size = keys.dtype, keys.size
    width, length = 8 * number.itemsize, max(size - 1, 0).bit_length()
    # One loop over the bits of both, so that one body is compiled.
    of_both = [(1 << bit, 0) for bit in reversed(range(width))]
    of_both += [(0, 1 << bit) for bit in reversed(range(length))]
    bits = jnp.asarray(np.array(of_both, number))

    def at_least(pair: Array) -> Array:
        key, before_end = pair
        last = jnp.asarray((1 << length) - 1, number) - before_end
        is_equal = (keys == key) & (jnp.arange(size, dtype=number) <= last)
        found: Array = (keys > key) | is_equal
        return found

    def too_many(carry: tuple[Array, Array, Array]) -> Array:
        step, _, left = carry
        return (left != count) & (step < len(of_both))

    def raise_bit(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        step, pair, left = carry
        candidate = pair | bits[step]
        found = jnp.sum(at_least(candidate), dtype=jnp.int32)
        enough = found >= count
        return step + 1, jnp.where(enough, candidate, pair), jnp.where(enough, found, left)

    start = jnp.int32(0), jnp.zeros(2, number), jnp.int32(size)
    lowest = jax.lax.while_loop(too_many, raise_bit, start)[1]
    mask: Array = at_least(lowest).reshape(scores.shape)
    return mask


def _ordered_integers(x: Array) -> Array:
    """Map floats to unsigned integers of the same width and order; both zeros are equal."""
    width = 8 * x.dtype.itemsize
    unsigned = jnp.dtype(f"uint{width}")
    bits = jax.lax.bitcast_convert_type(jnp.where(x == 0, jnp.zeros_like(x), x), unsigned)
    sign = jnp.asarray(1 << (width - 1), unsigned)
    return jnp.where(bits >= sign, ~bits, bits | sign)
