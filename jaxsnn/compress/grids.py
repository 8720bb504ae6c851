"""Sets of few values: `scale * levels`, one scale for each leaf.

The grids of `binary_grid`, `ternary_grid`, `uniform_grid` and `pow2_grid` fit the scale to the
leaf, so that the result is the nearest point; `symmetric_uniform` takes it from the largest weight.

Letters in shapes: `...` is any shape.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxsnn.arrays import (
    Array,
    Number,
    at_least_float32,
    check_range,
    check_whole,
    safe_divide,
)
from jaxsnn.compress.projections import Fit, Projection


def best_scale(leaf: Array, levels: Array) -> Array:
    """Return `<V, Q> / <Q, Q>`, the scale that minimises `||V - alpha Q||_F`; 0 where `Q = 0`."""
    return safe_divide(jnp.sum(leaf * levels), jnp.sum(levels * levels))


@dataclass(frozen=True, eq=False)
class Grid:
    """The projection onto `{alpha Q : alpha >= 0, Q_ij in levels}`, by alternation.

    Starting from a rough scale, both half steps of the alternation lower `||V - alpha Q||_F`:

        Q <- nearest level to V / alpha, entry by entry        alpha <- <V, Q> / <Q, Q>

    After `sweeps` rounds the levels are chosen once more, so that at the final scale nothing on
    the grid is nearer. A leaf of zeros has scale 0 and is returned as it is.

    References: Deng et al. 2019, https://arxiv.org/abs/1911.00822, Eq. 13 (as numbered in the
    authors' code, which runs 5 sweeps from `Q = 1`; that start has `alpha = mean(V)`, about zero
    for symmetric weights, so ours starts from the magnitude).
    """

    nearest: Callable[[Array], Array]  # V / alpha [...] -> nearest levels [...]
    start: Callable[[Array, Array], Array]  # magnitudes and which count, both [...] -> alpha []
    sweeps: int = 20
    keep_zeros: bool = False  # entries that are zero stay zero and do not count for the start

    def fit(self, leaf: Array) -> Fit:
        """Return the scale `[]` and the levels `[...]` of the nearest point on the grid."""
        values = at_least_float32(leaf)
        counted = values != 0 if self.keep_zeros else jnp.ones(values.shape, bool)

        def choose(alpha: Array) -> Array:
            levels = self.nearest(safe_divide(values, alpha))
            return jnp.where(counted, levels, jnp.zeros_like(levels))

        alpha = jax.lax.fori_loop(
            0,
            self.sweeps,
            lambda _, alpha: best_scale(values, choose(alpha)),
            jnp.asarray(self.start(jnp.abs(values), counted), values.dtype),
        )
        return Fit(alpha, choose(alpha))

    def __call__(self, leaf: Array) -> Array:
        """Return the nearest point of the grid, `[...]` like the leaf."""
        scale, levels = self.fit(leaf)
        return (scale * levels).astype(leaf.dtype)


def mean_magnitude(magnitude: Array, counted: Array) -> Array:
    """Return the mean of the magnitudes that count: the start of the coarse grids."""
    return safe_divide(jnp.sum(magnitude, where=counted), jnp.sum(counted))


def _largest_over(top_level: Number) -> Callable[[Array, Array], Array]:
    """Start with the largest magnitude on the top level."""
    return lambda magnitude, counted: jnp.max(magnitude) / top_level


def binary_grid(*, keep_zeros: bool = False) -> Grid:
    """Project onto `{-alpha, +alpha}`, one bit.

    The closed form is `Q = sign(V)`, `alpha = mean|V|`; a zero entry becomes `+alpha`.

    Args:
      keep_zeros: fit the non-zero entries only and leave zeros zero: after pruning the members
        are `{-alpha, 0, +alpha}` with 0 for the pruned entries alone.
    """
    return Grid(lambda v: jnp.where(v >= 0, 1.0, -1.0), mean_magnitude, 0, keep_zeros)


def ternary_grid(*, keep_zeros: bool = False, sweeps: int = 20) -> Grid:
    """Project onto `{-alpha, 0, +alpha}`.

    Args:
      keep_zeros: start from the mean magnitude of the non-zero entries only (zeros stay zero
        either way, and the level 0 may add more).
      sweeps: rounds of the alternation between scale and levels.
    """
    return Grid(lambda v: jnp.clip(jnp.round(v), -1, 1), mean_magnitude, sweeps, keep_zeros)


def uniform_grid(bits: Number, *, keep_zeros: bool = False, sweeps: int = 20) -> Grid:
    """Project onto `alpha * {-(2**(b-1) - 1), ..., 0, ..., 2**(b-1) - 1}`.

    Two bits are the ternary set, three `{0, +-1, +-2, +-3}`.

    Args:
      bits: `b`, whole, in [2, 16], may be traced.
      keep_zeros: accepted like the other grids; the level 0 keeps zeros anyway.
      sweeps: rounds of the alternation between scale and levels.
    """
    top = _top_level(bits)
    return Grid(lambda v: jnp.clip(jnp.round(v), -top, top), _largest_over(top), sweeps, keep_zeros)


def _top_level(bits: Number) -> Number:
    check_whole("bits", bits, 2, 16)
    return jnp.round(2.0 ** (bits - 1)) - 1


def pow2_grid(bits: Number, *, keep_zeros: bool = False, sweeps: int = 20) -> Grid:
    """Project onto `alpha * {0, +-1, +-2, +-4, ..., +-2**E}` with `E = 2**(b-1) - 2`.

    A product with a level is a shift. Two bits are the ternary set, three `{0, +-1, +-2, +-4}`.

    Args:
      bits: `b`, whole, in [2, 6] (above, squared levels leave float32), may be traced.
      keep_zeros: accepted like the other grids; the level 0 keeps zeros anyway.
      sweeps: rounds of the alternation between scale and levels.
    """
    check_whole("bits", bits, 2, 6)
    top = jnp.ldexp(1.0, jnp.asarray(jnp.round(2.0 ** (bits - 1)) - 2, jnp.int32))

    def nearest(v: Array) -> Array:
        power = jnp.clip(_nearest_power_of_two(jnp.abs(v)), 1, top)
        return jnp.where(jnp.abs(v) < 0.5, 0.0, jnp.sign(v) * power)

    return Grid(nearest, _largest_over(top), sweeps, keep_zeros)


def _nearest_power_of_two(magnitude: Array) -> Array:
    """Round to a power of two, half-way cases (3/2 of the lower one) up, exactly.

    A float is `2**exponent * (1 + mantissa)`. Adding 1/2 to the mantissa's bits carries into the
    exponent's from 3/2 on; clearing the mantissa then leaves the power.
    """
    mantissa = jnp.finfo(magnitude.dtype).nmant
    unsigned = jnp.dtype(f"uint{jnp.finfo(magnitude.dtype).bits}")
    bits = jax.lax.bitcast_convert_type(magnitude, unsigned)
    carried = bits + jnp.asarray(1 << (mantissa - 1), unsigned)
    power = (carried >> mantissa) << mantissa
    return jax.lax.bitcast_convert_type(power, magnitude.dtype)


@dataclass(frozen=True, eq=False)
class _SymmetricUniform:
    top: Number
    quantile: Number | None

    def fit(self, leaf: Array) -> Fit:
        values = at_least_float32(leaf)
        magnitude = jnp.abs(values)
        largest = (
            jnp.max(magnitude) if self.quantile is None else jnp.quantile(magnitude, self.quantile)
        )
        # Multiplied before it is divided, so that entries half-way between levels stay there.
        levels = jnp.round(safe_divide(values * self.top, largest))
        return Fit(largest / self.top, jnp.clip(levels, -self.top, self.top))

    def __call__(self, leaf: Array) -> Array:
        scale, levels = self.fit(leaf)
        return (scale * levels).astype(leaf.dtype)


def symmetric_uniform(bits: Number, *, quantile: Number | None = None) -> Projection:
    """Round to `2**b - 1` symmetric levels whose largest is the largest weight, in one shot.

        q = 2**(b-1) - 1      s = max|W| / q      W -> s * clip(round(W / s), -q, q)

    Members are `s * {-q, ..., 0, ..., q}`; half-way entries go to the even level. The scale is
    not fitted: this is post-training quantization, `uniform_grid` the nearest point.

    Args:
      bits: `b`, whole, in [2, 16], may be traced.
      quantile: take this quantile of `|W|`, in (0, 1], in place of the maximum; what lies above
        is clipped.

    References: Chowdhury et al. 2021, https://arxiv.org/abs/2104.12528 (the paper gives no
    formula; this one is ours).
    """
    if quantile is not None:
        check_range("quantile", quantile, 0, 1, open_low=True)
    return _SymmetricUniform(_top_level(bits), quantile)
