"""Sets of few values: `scale * levels`, one scale for each leaf or for each output channel.

The grids of `binary_grid`, `ternary_grid`, `uniform_grid` and `pow2_grid` fit the scale to the
leaf, so that the result is the nearest point (`fitting`); `symmetric_uniform` takes it from the
largest weight.

One weight a hundred times larger than the others decides the scale of its whole leaf: at the
nearest point of few bits, all others are zero, and the layer falls silent. With `per="channel"` it
decides over its own channel alone.

Letters in shapes: `...` any shape, `O` output channels (the last axis).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn.arrays import (
    Array,
    Number,
    as_stored,
    check_range,
    check_whole,
    is_traced,
    safe_divide,
)
from jaxsnn.compress.codes import Quantized, Step, along_channels
from jaxsnn.compress.fitting import First, Nearest, alternate, mean_magnitude, search
from jaxsnn.compress.projections import Projection
from jaxsnn.errors import UserError
from jaxsnn.native import scales

__all__ = [
    "Grid",
    "Per",
    "binary_grid",
    "check_bits",
    "check_channels",
    "check_per",
    "pow2_grid",
    "symmetric_uniform",
    "ternary_grid",
    "uniform_grid",
]

Per = Literal["leaf", "channel"]


@dataclass(frozen=True, eq=False)
class Grid:
    """The projection onto `{alpha Q : alpha >= 0, Q_ij in levels}`.

    `alpha` is the best of many (`fitting.search`), then refined by some rounds of alternation
    (`fitting.alternate`). The squared error is within 1 % of the least one in all cases that were
    tried: up to 60 weights against all scales there are, larger leaves against 64 starts.
    A leaf of zeros has scale 0 and is returned as it is.

    References: Deng et al. 2019, https://arxiv.org/abs/1911.00822, Eq. 13 (as numbered in the
    authors' code, which runs 5 sweeps from `Q = 1`; that start has `alpha = mean(V)`, about zero
    for symmetric weights, so ours starts from the magnitude).
    """

    nearest: Nearest  # V / alpha [...] and the largest level [] -> nearest levels [...]
    top: Number  # the largest level, or with a scale for each channel that of each, `[O]`
    bits: Number  # width of the codes, for who packs them, likewise
    keep_zeros: bool = False  # entries that are zero stay zero and do not count for the mean
    per: Per = "leaf"  # whether alpha is one for the leaf or one for each index of the last axis
    sweeps: int = 3
    first: First = search

    def quantize(self, leaf: Array) -> Quantized:
        """Return the levels `[...]` and the scale, `[]` or `[1, ..., 1, O]`, of the result."""
        values = as_stored(leaf)
        known = self.nearest is _whole and self.first is search
        scale, levels = _fit(
            values,
            along_channels(self.top, leaf),
            per=self.per,
            nearest=self.nearest,
            first=self.first,
            sweeps=self.sweeps,
            keep_zeros=self.keep_zeros,
            natively=known and scales.available(values),
        )
        return Step.of(scale, bits=along_channels(self.bits, leaf)).with_codes(levels)

    def __call__(self, leaf: Array) -> Array:
        """Return the nearest point of the grid, `[...]` like the leaf."""
        return self.quantize(leaf).decode().astype(leaf.dtype)

    def check(self, name: str, leaf: Array) -> None:
        """Raise a `UserError` that names the leaf if it has no channels and should."""
        check_channels(self.per, name, leaf)
        if jnp.ndim(self.bits):
            check_bits(name, self.bits, leaf, self.per)


# Outside of compiled code too: a loop on its own would be compiled at every call.
@partial(jax.jit, static_argnames=("per", "nearest", "first", "sweeps", "keep_zeros", "natively"))
def _fit(leaf: Array, top: Number, *, per: Per, **how: Any) -> tuple[Array, Array]:
    """Return the scale, `[]` or `[1, ..., 1, O]`, and the levels `[...]` as floats."""
    axes = None if per == "leaf" else tuple(range(leaf.ndim - 1))
    scale, levels = alternate(leaf, top, axes=axes, **how)
    return scale if per == "channel" else scale.reshape(()), levels


def check_channels(per: str, name: str, leaf: Array) -> None:
    """Raise a `UserError` that names the leaf if it needs channels and has none."""
    if per == "channel" and leaf.ndim < 2:
        raise UserError(
            f"a scale for each channel needs a leaf of two axes or more, but {name!r} has shape "
            f"{leaf.shape}: take one for the leaf or leave it out of the recipe"
        )


def check_bits(name: str, bits: Number, leaf: Array, per: Per) -> None:
    """Raise a `UserError` by the leaf's name for bits that a grid cannot have.

    They are 0 (all weights are zero) or 2 to 16, one number or, with a scale for each channel, one
    for each channel. Traced ones pass.
    """
    fits = per == "channel" and jnp.shape(bits) == leaf.shape[-1:]
    if jnp.ndim(bits) and not fits:
        raise UserError(
            f"the bits of {name!r} have the shape {jnp.shape(bits)}, its channels are "
            f"{leaf.shape[-1:]}: give one number, or one for each channel and per='channel'"
        )
    check_whole(f"bits of {name!r}", bits, 0, 16)
    if not is_traced(bits) and np.any(np.asarray(bits) == 1):
        raise UserError(f"bits of {name!r} must be 0, or 2 to 16, found 1: see binary_grid")


def check_per(per: Per) -> Per:
    """Return `per` if it is known."""
    if per not in ("leaf", "channel"):
        raise UserError(f"per must be 'leaf' or 'channel', found {per!r}")
    return per


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
    return Grid(_signs, 1, 1, keep_zeros, check_per(per), 0, mean_magnitude)


def _signs(v: Array, top: Array) -> Array:
    del top
    return jnp.where(v >= 0, 1.0, -1.0)


def ternary_grid(*, keep_zeros: bool = False, sweeps: int = 3, per: Per = "leaf") -> Grid:
    """Project onto `{-alpha, 0, +alpha}`.

    >>> ternary_grid()(jnp.asarray([1.0, -3.0, 0.5, 2.0])).tolist()
    [0.0, -2.5, 0.0, 2.5]

    Args:
      keep_zeros: accepted like the other grids; the level 0 keeps zeros anyway, and may add more.
      sweeps: rounds of the alternation between scale and levels.
      per: "leaf", or "channel" for an alpha for each index of the last axis.

    Raises:
      UserError: if `per` is unknown.
    """
    return Grid(_whole, 1, 2, keep_zeros, check_per(per), sweeps)


def _whole(v: Array, top: Array) -> Array:
    return jnp.clip(jnp.round(v), -top, top)


def uniform_grid(
    bits: Number, *, keep_zeros: bool = False, sweeps: int = 3, per: Per = "leaf"
) -> Grid:
    """Project onto `alpha * {-(2**(b-1) - 1), ..., 0, ..., 2**(b-1) - 1}`.

    Two bits are the ternary set, three `{0, +-1, +-2, +-3}`.

    >>> uniform_grid(3)(jnp.asarray([3.0, -2.0, 1.0, 0.0])).tolist()
    [3.0, -2.0, 1.0, 0.0]

    Args:
      bits: `b`, whole, in [2, 16], may be traced; with `per="channel"` also one for each channel,
        `[O]`.
      keep_zeros: accepted like the other grids; the level 0 keeps zeros anyway.
      sweeps: rounds of the alternation between scale and levels.
      per: "leaf", or "channel" for an alpha for each index of the last axis.

    Raises:
      UserError: if the number of bits is out of range or `per` is unknown.
    """
    return Grid(_whole, _top_level(bits), bits, keep_zeros, check_per(per), sweeps)


def _top_level(bits: Number) -> Number:
    check_whole("bits", bits, 2, 16)
    return jnp.round(2.0 ** (bits - 1)) - 1


def pow2_grid(
    bits: Number, *, keep_zeros: bool = False, sweeps: int = 3, per: Per = "leaf"
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
    return Grid(_powers, top, bits, keep_zeros, check_per(per), sweeps)


def _powers(v: Array, top: Array) -> Array:
    power = jnp.clip(_nearest_power_of_two(jnp.abs(v)), 1, top)
    return jnp.where(jnp.abs(v) < 0.5, 0.0, jnp.sign(v) * power)


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
        found: Quantized = _symmetric(self.per, self.bits, self.top, self.quantile, leaf)
        return found

    def __call__(self, leaf: Array) -> Array:
        return self.quantize(leaf).decode().astype(leaf.dtype)

    def check(self, name: str, leaf: Array) -> None:
        check_channels(self.per, name, leaf)


@partial(jax.jit, static_argnums=0, inline=True)
def _symmetric(
    per: Per, bits: Number, top: Number, quantile: Number | None, leaf: Array
) -> Quantized:
    values, keepdims = as_stored(leaf), per == "channel"
    axes = tuple(range(leaf.ndim - 1)) if keepdims else None
    magnitude = jnp.abs(values)
    largest = (
        jnp.max(magnitude, axes, keepdims=keepdims)
        if quantile is None
        else jnp.quantile(magnitude, quantile, axes, keepdims=keepdims)
    )
    # Multiplied before it is divided, so that entries half-way between levels stay there.
    levels = jnp.round(safe_divide(values * top, largest))
    return Step.of(largest / top, bits=bits).with_codes(jnp.clip(levels, -top, top))


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
