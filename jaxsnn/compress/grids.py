"""Sets of few values: `scale * levels`, one scale for each leaf or for each output channel.

The grids of `binary_grid`, `ternary_grid`, `uniform_grid` and `pow2_grid` fit the scale to the
leaf by least squares; `symmetric_uniform` takes it from the largest weight.

Letters in shapes: `...` any shape, `O` output channels (the last axis).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn.arrays import (
    Array,
    Number,
    at_least_float32,
    check_range,
    check_whole,
    safe_divide,
)
from jaxsnn.compress.codes import Quantized, Step
from jaxsnn.compress.projections import Projection
from jaxsnn.errors import UserError

__all__ = [
    "Grid",
    "binary_grid",
    "pow2_grid",
    "symmetric_uniform",
    "ternary_grid",
    "uniform_grid",
]

Per = Literal["leaf", "channel"]


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
    bits: Number  # width of the codes, for who packs them
    sweeps: int = 20
    keep_zeros: bool = False  # entries that are zero stay zero and do not count for the start
    per: Per = "leaf"  # whether alpha is one for the leaf or one for each index of the last axis

    def quantize(self, leaf: Array) -> Quantized:
        """Return the levels `[...]` and the scale, `[]` or `[1, ..., 1, O]`, of the result."""
        values = at_least_float32(leaf)
        if self.per == "leaf":
            scale, levels = self._alternate(values)
        else:
            scale, levels = jax.vmap(self._alternate, in_axes=-1, out_axes=(0, -1))(values)
            scale = scale.reshape((1,) * (leaf.ndim - 1) + scale.shape)
        return Step.of(scale, bits=self.bits).with_codes(levels)

    def _alternate(self, values: Array) -> tuple[Array, Array]:
        """Return scale `[]` and levels `[...]`, floats, of values that share one scale."""
        counted = values != 0 if self.keep_zeros else jnp.ones(values.shape, bool)

        def choose(alpha: Array) -> Array:
            levels = self.nearest(safe_divide(values, alpha)).astype(values.dtype)
            return jnp.where(counted, levels, jnp.zeros_like(levels))

        alpha = jax.lax.fori_loop(
            0,
            self.sweeps,
            lambda _, alpha: best_scale(values, choose(alpha)),
            jnp.asarray(self.start(jnp.abs(values), counted), values.dtype),
        )
        return alpha, choose(alpha)

    def __call__(self, leaf: Array) -> Array:
        """Return the nearest point of the grid, `[...]` like the leaf."""
        return self.quantize(leaf).decode().astype(leaf.dtype)

    def check(self, name: str, leaf: Array) -> None:
        """Raise a `UserError` that names the leaf if it has no channels and should."""
        check_channels(self.per, name, leaf)


def check_channels(per: str, name: str, leaf: Array) -> None:
    """Raise a `UserError` that names the leaf if it needs channels and has none."""
    if per == "channel" and leaf.ndim < 2:
        raise UserError(
            f"a scale for each channel needs a leaf of two axes or more, but {name!r} has shape "
            f"{leaf.shape}: take one for the leaf or leave it out of the recipe"
        )


def check_per(per: Per) -> Per:
    """Return `per` if it is known."""
    if per not in ("leaf", "channel"):
        raise UserError(f"per must be 'leaf' or 'channel', found {per!r}")
    return per


def mean_magnitude(magnitude: Array, counted: Array) -> Array:
    """Return the mean of the magnitudes that count: the start of the coarse grids."""
    return safe_divide(jnp.sum(magnitude, where=counted), jnp.sum(counted))


def _largest_over(top_level: Number) -> Callable[[Array, Array], Array]:
    """Start with the largest magnitude on the top level."""
    return lambda magnitude, counted: jnp.max(magnitude) / top_level


def binary_grid(*, keep_zeros: bool = False, per: Per = "leaf") -> Grid:
    """Project onto `{-alpha, +alpha}`, one bit.

    The closed form is `Q = sign(V)`, `alpha = mean|V|`; a zero entry becomes `+alpha`.

    >>> binary_grid()(jnp.asarray([1.0, -2.0, 0.0])).tolist()
    [1.0, -1.0, 1.0]

    Args:
      keep_zeros: fit the non-zero entries only and leave zeros zero: after pruning the members
        are `{-alpha, 0, +alpha}` with 0 for the pruned entries alone.
      per: "leaf", or "channel" for an alpha for each index of the last axis.

    Raises:
      UserError: if `per` is unknown.
    """
    return Grid(_signs, mean_magnitude, 1, 0, keep_zeros, check_per(per))


def _signs(v: Array) -> Array:
    return jnp.where(v >= 0, 1.0, -1.0)


def ternary_grid(*, keep_zeros: bool = False, sweeps: int = 20, per: Per = "leaf") -> Grid:
    """Project onto `{-alpha, 0, +alpha}`.

    >>> ternary_grid()(jnp.asarray([1.0, -3.0, 0.5, 2.0])).tolist()
    [0.0, -2.5, 0.0, 2.5]

    Args:
      keep_zeros: start from the mean magnitude of the non-zero entries only (zeros stay zero
        either way, and the level 0 may add more).
      sweeps: rounds of the alternation between scale and levels.
      per: "leaf", or "channel" for an alpha for each index of the last axis.

    Raises:
      UserError: if `per` is unknown.
    """
    return Grid(_trits, mean_magnitude, 2, sweeps, keep_zeros, check_per(per))


def _trits(v: Array) -> Array:
    return jnp.clip(jnp.round(v), -1, 1)


def uniform_grid(
    bits: Number, *, keep_zeros: bool = False, sweeps: int = 20, per: Per = "leaf"
) -> Grid:
    """Project onto `alpha * {-(2**(b-1) - 1), ..., 0, ..., 2**(b-1) - 1}`.

    Two bits are the ternary set, three `{0, +-1, +-2, +-3}`.

    >>> uniform_grid(3)(jnp.asarray([3.0, -2.0, 1.0, 0.0])).tolist()
    [3.0, -2.0, 1.0, 0.0]

    Args:
      bits: `b`, whole, in [2, 16], may be traced.
      keep_zeros: accepted like the other grids; the level 0 keeps zeros anyway.
      sweeps: rounds of the alternation between scale and levels.
      per: "leaf", or "channel" for an alpha for each index of the last axis.

    Raises:
      UserError: if the number of bits is out of range or `per` is unknown.
    """
    top = _top_level(bits)

    def nearest(v: Array) -> Array:
        return jnp.clip(jnp.round(v), -top, top)

    return Grid(nearest, _largest_over(top), bits, sweeps, keep_zeros, check_per(per))


def _top_level(bits: Number) -> Number:
    check_whole("bits", bits, 2, 16)
    return jnp.round(2.0 ** (bits - 1)) - 1


def pow2_grid(
    bits: Number, *, keep_zeros: bool = False, sweeps: int = 20, per: Per = "leaf"
) -> Grid:
    """Project onto `alpha * {0, +-1, +-2, +-4, ..., +-2**E}` with `E = 2**(b-1) - 2`.

    A product with a level is a shift. Two bits are the ternary set, three `{0, +-1, +-2, +-4}`.

    >>> pow2_grid(3)(jnp.asarray([4.0, -2.0, 1.0, 0.0])).tolist()
    [4.0, -2.0, 1.0, 0.0]

    Args:
      bits: `b`, whole, in [2, 6] (above, squared levels leave float32), may be traced.
      keep_zeros: accepted like the other grids; the level 0 keeps zeros anyway.
      sweeps: rounds of the alternation between scale and levels.
      per: "leaf", or "channel" for an alpha for each index of the last axis.

    Raises:
      UserError: if the number of bits is out of range or `per` is unknown.
    """
    check_whole("bits", bits, 2, 6)
    top = jnp.ldexp(1.0, jnp.asarray(jnp.round(2.0 ** (bits - 1)) - 2, jnp.int32))

    def nearest(v: Array) -> Array:
        power = jnp.clip(_nearest_power_of_two(jnp.abs(v)), 1, top)
        return jnp.where(jnp.abs(v) < 0.5, 0.0, jnp.sign(v) * power)

    return Grid(nearest, _largest_over(top), bits, sweeps, keep_zeros, check_per(per))


def _nearest_power_of_two(magnitude: Array) -> Array:
    """Round to a power of two, half-way cases (3/2 of the lower one) up, exactly.

    A float is `2**exponent * (1 + mantissa)`. Adding 1/2 to the mantissa's bits carries into the
    exponent's from 3/2 on; clearing the mantissa then leaves the power.
    """
    mantissa = np.finfo(magnitude.dtype).nmant
    unsigned = jnp.dtype(f"uint{8 * magnitude.dtype.itemsize}")
    bits = jax.lax.bitcast_convert_type(magnitude, unsigned)
    carried = bits + jnp.asarray(1 << (mantissa - 1), unsigned)
    power = (carried >> mantissa) << mantissa
    return jax.lax.bitcast_convert_type(power, magnitude.dtype)


@dataclass(frozen=True, eq=False)
class _SymmetricUniform:
    bits: Number
    top: Number
    quantile: Number | None
    per: Per

    def quantize(self, leaf: Array) -> Quantized:
        top, values = self.top, at_least_float32(leaf)
        axes = tuple(range(leaf.ndim - 1)) if self.per == "channel" else None
        keepdims = self.per == "channel"
        magnitude = jnp.abs(values)
        largest = (
            jnp.max(magnitude, axes, keepdims=keepdims)
            if self.quantile is None
            else jnp.quantile(magnitude, self.quantile, axes, keepdims=keepdims)
        )
        # Multiplied before it is divided, so that entries half-way between levels stay there.
        levels = jnp.round(safe_divide(values * top, largest))
        return Step.of(largest / top, bits=self.bits).with_codes(jnp.clip(levels, -top, top))

    def __call__(self, leaf: Array) -> Array:
        return self.quantize(leaf).decode().astype(leaf.dtype)

    def check(self, name: str, leaf: Array) -> None:
        check_channels(self.per, name, leaf)


def symmetric_uniform(
    bits: Number, *, quantile: Number | None = None, per: Per = "leaf"
) -> Projection:
    """Round to `2**b - 1` symmetric levels whose largest is the largest weight.

        q = 2**(b-1) - 1      s = max|W| / q      W -> s * clip(round(W / s), -q, q)

    Members are `s * {-q, ..., 0, ..., q}`; half-way entries go to the even level. The scale is
    not fitted: this is post-training quantization, `uniform_grid` the nearest point.

    >>> symmetric_uniform(3)(jnp.asarray([3.0, -1.2, 0.2])).tolist()
    [3.0, -1.0, 0.0]

    Args:
      bits: `b`, whole, in [2, 16], may be traced.
      quantile: take this quantile of `|W|`, in (0, 1], in place of the maximum; what lies above
        is clipped.
      per: "leaf", or "channel" for a scale for each index of the last axis.

    Raises:
      UserError: if a number is out of range or `per` is unknown.

    References: Chowdhury et al. 2021, https://arxiv.org/abs/2104.12528 (the paper gives no
    formula; this one is ours).
    """
    if quantile is not None:
        check_range("quantile", quantile, 0, 1, open_low=True)
    return _SymmetricUniform(bits, _top_level(bits), quantile, check_per(per))
