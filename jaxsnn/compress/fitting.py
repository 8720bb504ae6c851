"""The scale of a grid: from many starts to the best, so that the result is the nearest point.

The squared error `E(alpha) = sum_i min_q (v_i - alpha q)**2` of a leaf has many local minima, and
the alternation that every paper uses stops in the one next to its start. Where it is least,

    mean |v| / top <= alpha <= max |v|        mean over what is not 0, top the largest level

because there `alpha = <|v|, q> / <q, q>`, and `q` grows with `|v|`. `search` evaluates `E` on
scales in this range, one half in equal ratios and one half in equal steps of `1 / alpha` around
`max |v| / top`, then three times on eight scales around the best one. Small leaves get up to 2048
scales, since their error is ragged, and each is refined once, which lowers it by
`<r, q>**2 / <q, q>` with the rest `r = v - alpha q`; from 4,096 weights on there are 16.

It costs two to three times what one start with 20 rounds of the alternation does: 10 ms in place
of 4 for 200,704 weights, 175 in place of 92 for 2 million (processor time of one core). Nothing
larger than a few leaves, or than 2**16 numbers, is stored at a time.

Letters in shapes: `...` any shape, `*S` that of the scales: all ones, or with the channels last.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn.arrays import Array, Number, safe_divide

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
    count = MOST if size <= SMALL else max(WORK // size, FEWEST)
    together = max(1, WORK // max(magnitude.size, 1))
    rounding = (10 * float(np.finfo(magnitude.dtype).eps)) ** 2 * _sum(magnitude**2, axes)

    def error(alpha: Array) -> Array:
        levels = nearest(magnitude * safe_divide(1.0, alpha), top).astype(magnitude.dtype)
        rest = magnitude - alpha * levels
        found = _sum(rest**2, axes)
        if count == FEWEST:
            return found
        return found - safe_divide(_sum(rest * levels, axes) ** 2, _sum(levels**2, axes))

    def least(alphas: Array) -> tuple[Array, Array]:
        """Return which of the scales `[n, *S]` has the least error, of equal ones the first."""
        errors = jax.lax.map(error, alphas, batch_size=min(together, len(alphas)))
        # Octaves of powers of two are as good as each other: do not let rounding choose.
        limit = (1 + EQUAL) * jnp.min(errors, 0) + rounding
        best = jnp.argmax(errors <= limit[None], 0)
        alpha, found = (jnp.take_along_axis(x, best[None], 0)[0] for x in (alphas, errors))
        return alpha, found

    def along(points: Array) -> Array:
        return points.astype(magnitude.dtype).reshape(-1, *[1] * high.ndim)

    half = count // 2
    ratio = jnp.where(high > 0, safe_divide(high, low), jnp.where(high == 0, 1.0, high))  # or NaN
    place, middle = along(jnp.arange(half) / (half - 1)), (high / top)[None]
    alphas = jnp.concatenate([middle, middle / (0.5 + place), low[None] * ratio[None] ** place])
    step, around = jnp.log(ratio) / (half - 1), along(jnp.linspace(-1, 1, AROUND))

    def closer(round_: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        alpha, found = carry
        narrow = step * (2 / (AROUND - 1)) ** round_
        other, better = least(alpha[None] * jnp.exp(narrow[None] * around))
        is_better = better < found - rounding
        return jnp.where(is_better, other, alpha), jnp.where(is_better, better, found)

    alpha: Array = jax.lax.fori_loop(0, ROUNDS, closer, least(alphas))[0]
    return alpha


def alternate(
    values: Array,
    top: Number,
    *,
    nearest: Nearest,
    first: First,
    sweeps: int,
    keep_zeros: bool,
    axes: Axes = None,
) -> tuple[Array, Array]:
    """Return scales `[*S]` and levels `[...]`, floats; values along the axes share one scale.

    From the first scale, both half steps lower `||V - alpha Q||_F`, `sweeps` times:

        Q <- nearest level to V / alpha, entry by entry        alpha <- <V, Q> / <Q, Q>

    The levels are chosen once more in the end, so that nothing on the grid is nearer at the scale.
    """
    counted = values != 0 if keep_zeros else jnp.ones(values.shape, bool)
    most = jnp.asarray(top, values.dtype)

    def choose(alpha: Array) -> Array:
        levels = nearest(safe_divide(values, alpha), most).astype(values.dtype)
        return jnp.where(counted, levels, jnp.zeros_like(levels))

    start = first(jnp.abs(values), counted, nearest, most, axes).astype(values.dtype)
    alpha = jax.lax.fori_loop(
        0, sweeps, lambda _, alpha: best_scale(values, choose(alpha), axes), start
    )
    return alpha, choose(alpha)
