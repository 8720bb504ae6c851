"""The scale of a grid: from many starts to the best, so that the result is the nearest point.

The squared error `E(alpha) = sum_i min_q (v_i - alpha q)**2` of a leaf has many local minima, and
the alternation that every paper uses stops in the one next to its start. Where it is least,

    mean |v| / top <= alpha <= max |v|        mean over what is not 0, top the largest level

because there `alpha = <|v|, q> / <q, q>`, and `q` grows with `|v|`. `search` evaluates `E` on
scales in this range, one half in equal ratios and one half in equal steps of `1 / alpha` around
`max |v| / top`, then three times on eight scales or more around the best one. Small leaves get up
to 2048 scales, since their error is ragged, and each is refined once, which lowers it by
`<r, q>**2 / <q, q>` with the rest `r = v - alpha q`; from 4,096 weights on there are 16.

It costs two to three times what one start with 20 rounds of the alternation does, and more where
each of many channels has a scale. With the extra `native`, on a CPU, the scales of whole levels are
searched by `native.scales`: in half to a fifth of the time.
Nothing larger than a few leaves, or than 2**16 numbers, is stored at a time.

Letters in shapes: `...` any shape, `*S` that of the scales: all ones, or with the channels last.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn.arrays import Array, Number, safe_divide
from jaxsnn.native import scales

__all__ = ["First", "Nearest", "alternate", "best_scale", "largest", "mean_magnitude", "search"]

Axes = tuple[int, ...] | None
"""Axes of a leaf that share a scale; None for all."""

Nearest = Callable[[Array, Array], Array]
"""`V / alpha` `[...]` and the largest level `[]` -> nearest levels `[...]`."""

First = Callable[[Array, Array, Nearest, Array, Axes], Array]
"""Magnitudes and which count, both `[...]`, nearest, largest level, axes -> scales `[*S]`."""

SMALL = 64  # weights of a leaf that gets the most scales
FEWEST, MOST = 16, 2048  # scales that the search starts with
WORK = 2**16  # errors of one weight that it computes for them on leaves between
ROUNDS, AROUND = 3, 8  # of looking closer, and scales in each
EQUAL = 1e-4  # relative; of errors that differ less the first is taken


def best_scale(leaf: Array, levels: Array, axes: Axes = None) -> Array:
    """Return `<V, Q> / <Q, Q>`, the scale that minimises `||V - alpha Q||_F`; 0 where `Q = 0`."""
    return safe_divide(_sum(leaf * levels, axes), _sum(levels * levels, axes))


def _sum(x: Array, axes: Axes) -> Array:
    return jnp.sum(x, axes, keepdims=True)


def mean_magnitude(
    magnitude: Array, counted: Array, nearest: Nearest, top: Array, axes: Axes
) -> Array:
    """Return the mean of the magnitudes that count: the closed form of two levels."""
    del nearest, top
    return safe_divide(_sum(magnitude, axes), _sum(counted, axes))


def largest(magnitude: Array, counted: Array, nearest: Nearest, top: Array, axes: Axes) -> Array:
    """Return the scale at which the largest magnitude is the top level: the start of others."""
    del counted, nearest
    return jnp.max(magnitude, axes, keepdims=True) / top


def search(magnitude: Array, counted: Array, nearest: Nearest, top: Array, axes: Axes) -> Array:
    """Return the scales of the least error of those described above, `[*S]`."""
    del counted  # zeros have no error anyway
    high = jnp.max(magnitude, axes, keepdims=True)
    low = safe_divide(_sum(magnitude, axes), _sum(magnitude > 0, axes)) / top
    size = magnitude.size // max(high.size, 1)
    count = MOST if size <= SMALL else max(_power_of_two(WORK // size), FEWEST)
    together = min(_power_of_two(WORK // max(magnitude.size, 1)), count)
    around = max(AROUND, together)
    rounding = (10 * float(np.finfo(magnitude.dtype).eps)) ** 2 * _sum(magnitude**2, axes)

    def error(alpha: Array) -> Array:
        levels = nearest(magnitude * safe_divide(1.0, alpha), top).astype(magnitude.dtype)
        rest = magnitude - alpha * levels
        found = _sum(rest**2, axes)
        if count == FEWEST:
            return found
        return found - safe_divide(_sum(rest * levels, axes) ** 2, _sum(levels**2, axes))

    def along(points: Array) -> Array:
        return points.astype(magnitude.dtype).reshape(-1, *[1] * high.ndim)

    half, middle = count // 2, (high / top)[None]
    ratio = jnp.where(high > 0, safe_divide(high, low), jnp.where(high == 0, 1.0, high))  # or NaN
    step, place = jnp.log(ratio) / (half - 1), along(jnp.arange(half) / (half - 1))
    alphas = jnp.concatenate([middle, middle / (0.5 + place[1:]), low[None] * ratio[None] ** place])
    offsets = along(jnp.linspace(-1, 1, around))
    broad, parts = count // together, around // together

    # One loop over all scales, some at a time: a body of its own for each part of the search would
    # be compiled by itself.
    def look(turn: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        alpha, found, center = carry
        round_, part = jnp.divmod(jnp.maximum(turn - broad, 0), parts)
        center = jnp.where(part == 0, alpha, center)
        narrow = step * (2 / (around - 1)) ** round_.astype(step.dtype)
        near = jax.lax.dynamic_slice_in_dim(offsets, part * together, together)
        first = jax.lax.dynamic_slice_in_dim(alphas, turn * together, together)
        tried = jnp.where(turn < broad, first, center[None] * jnp.exp(narrow[None] * near))
        errors = jax.vmap(error)(tried)
        # Octaves of powers of two are as good as each other: do not let rounding choose.
        limit = (1 + EQUAL) * jnp.min(errors, 0) + rounding
        best = jnp.argmax(errors <= limit[None], 0)[None]
        other, least = (jnp.take_along_axis(x, best, 0)[0] for x in (tried, errors))
        is_better = least < jnp.where(turn < broad, 1 - EQUAL, 1) * found - rounding
        return jnp.where(is_better, other, alpha), jnp.where(is_better, least, found), center

    start = middle[0], jnp.full_like(high, jnp.inf), middle[0]
    alpha: Array = jax.lax.fori_loop(0, broad + ROUNDS * parts, look, start)[0]
    return alpha


def _power_of_two(most: int) -> int:
    """Return the largest power of two that is at most a number, and at least 1."""
    return 1 << (max(most, 1).bit_length() - 1)


def alternate(
    values: Array,
    top: Number,
    *,
    nearest: Nearest,
    first: First,
    sweeps: int,
    keep_zeros: bool,
    axes: Axes = None,
    natively: bool = False,
) -> tuple[Array, Array]:
    """Return scales `[*S]` and levels `[...]`, floats; values along the axes share one scale.

    From the first scale, both half steps lower `||V - alpha Q||_F`, `sweeps` times:

        Q <- nearest level to V / alpha, entry by entry        alpha <- <V, Q> / <Q, Q>

    The levels are chosen once more in the end, so that nothing on the grid is nearer at the scale.
    With `natively` the first scale and all rounds but one are those of `native.scales`: for levels
    that are whole numbers, from `search`.
    """
    counted = values != 0 if keep_zeros else jnp.ones(values.shape, bool)
    most = jnp.asarray(top, values.dtype)

    def choose(alpha: Array) -> Array:
        levels = nearest(safe_divide(values, alpha), most).astype(values.dtype)
        return jnp.where(counted, levels, jnp.zeros_like(levels))

    if natively:
        start = scales.search(jnp.abs(values), most, axes, max(sweeps - 1, 0))
        sweeps = min(sweeps, 1)
    else:
        start = first(jnp.abs(values), counted, nearest, most, axes).astype(values.dtype)
    alpha = jax.lax.fori_loop(
        0, sweeps, lambda _, alpha: best_scale(values, choose(alpha), axes), start
    )
    return alpha, choose(alpha)
