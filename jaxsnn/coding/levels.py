"""Leaves on a grid: one that is known, or else one that is found in the numbers.

    weight = scale * (level * unit)        level a whole number, a scale for all or for each channel

Letters in shapes: `n` weights of a leaf, `O` output channels (the last axis), `S` scales, 1 or `O`.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxsnn.coding.finding import Columns, columns, distinct
from jaxsnn.coding.forms import FLOAT_BITS, MAX_WIDTH, code_bits

__all__ = ["LeafGrid", "OnGrid", "Span", "find_grid", "grid_of", "move", "on_grid"]

SPACED = np.nextafter(np.finfo(np.float32).max, np.float32(0))  # the largest float with a spacing


class OnGrid(Protocol):
    """What is known of a leaf on a grid: a `compress.Quantized`."""

    @property
    def codes(self) -> Any:
        """Whole numbers, `[...]`."""

    @property
    def scale(self) -> Any:
        """`[]`, or `[1, ..., 1, O]`."""

    @property
    def unit(self) -> Any:
        """`[]`."""

    @property
    def offset(self) -> Any:
        """`[]`."""

    @property
    def bits(self) -> Any:
        """`[]`, or `[1, ..., 1, O]`."""


class Span(NamedTuple):
    """Levels as codes `k` of `width` bits: evenly spaced, or powers of two with a sign.

    A level is `low + stride k`. With stride 0 it is `sign(c) 2**(|c| - 1)` of `c = low + k`, and 0
    of `c = 0`.
    """

    low: int
    stride: int
    width: int

    @classmethod
    def of(cls, levels: np.ndarray) -> "Span":
        """Return the narrowest; of two that are equal the evenly spaced one."""
        if levels.size == 0:
            return cls(0, 1, 1)
        low, high = int(levels.min()), int(levels.max())
        stride = max(int(np.gcd.reduce(levels - low)), 1)
        even = cls(low, stride, code_bits((high - low) // stride + 1))
        magnitudes = np.abs(levels)
        if np.any(magnitudes & (magnitudes - 1)):
            return even
        ends = _exponents(np.array([low, high]))
        powers = cls(int(ends[0]), 0, code_bits(int(ends[1] - ends[0]) + 1))
        return min(even, powers, key=lambda span: span.width)

    @property
    def fits(self) -> bool:
        """Return whether the parts of grid codes have room for it."""
        return self.width <= MAX_WIDTH and self.stride < 256 and abs(self.low) < 2**15

    def codes(self, levels: np.ndarray) -> np.ndarray:
        """Return the codes of levels, int64."""
        if self.stride:
            codes: np.ndarray = (levels - self.low) // self.stride
            return codes
        return _exponents(levels) - self.low

    def levels(self, codes: np.ndarray) -> np.ndarray:
        """Return the levels of codes, int64."""
        if self.stride:
            levels: np.ndarray = self.low + self.stride * codes.astype(np.int64)
            return levels
        signed = self.low + codes.astype(np.int64)
        magnitude = np.left_shift(1, np.clip(np.abs(signed) - 1, 0, 62))
        return np.where(signed == 0, 0, np.sign(signed) * magnitude)


def _exponents(levels: np.ndarray) -> np.ndarray:
    """Return `sign(level) (log2 |level| + 1)` of powers of two, 0 of 0."""
    signed: np.ndarray = np.sign(levels) * np.frexp(np.abs(levels))[1]
    return signed


class LeafGrid(NamedTuple):
    """A leaf on a grid."""

    scale: np.ndarray  # float32 [S]
    unit: np.ndarray  # float32 [1]
    bits: int
    levels: np.ndarray  # int64 [n]
    whole: Span  # of all levels
    others: Span  # of those of weights that are not zero
    known: bool  # or found in the numbers
    ulps: np.ndarray | None = (
        None  # int [S, K]: how far weights of the levels +-1, ..., +-K are off
    )
    widths: np.ndarray | None = None  # bits of each channel, int64 [O], where they may differ

    @property
    def fits(self) -> bool:
        """Return whether the parts of codes have room for the weights that are not zero."""
        if self.widths is not None:
            return self.bits <= MAX_WIDTH
        return self.others.fits

    @property
    def is_scaled(self) -> bool:
        """Return whether scaled codes say the same, but for zeros."""
        top, there = 2**self.bits - 1, self.levels[self.levels != 0]
        return (
            self.bits <= MAX_WIDTH
            and self.ulps is None
            and self.unit[0] == np.float32(1 / top)
            and bool(np.all((there % 2 == 1) & (np.abs(there) <= top)))
        )


def grid_of(weights: np.ndarray, known: OnGrid | None = None) -> LeafGrid | None:
    """Return the grid of a leaf: the known one if its weights are on it, or one that is found.

    Args:
      weights: float32 `[...]` without negative zeros.
      known: the grid, if it is known.
    """
    return _known_grid(weights, known) or find_grid(weights)


def _known_grid(weights: np.ndarray, known: OnGrid | None) -> LeafGrid | None:
    """Return the known grid of a leaf if grid codes return its weights bit for bit."""
    if known is None or weights.size == 0 or np.any(np.asarray(known.offset)):
        return None
    scale, unit, codes = np.asarray(known.scale), np.asarray(known.unit), np.asarray(known.codes)
    per_channel = scale.shape == (1,) * (weights.ndim - 1) + weights.shape[-1:]
    if scale.dtype != np.float32 or unit.size != 1 or not (scale.ndim == 0 or per_channel):
        return None
    if not np.array_equal(on_grid(codes, scale, unit.reshape(())), weights):
        return None
    flat = codes.ravel().astype(np.int64)
    spans = Span.of(flat), Span.of(flat[weights.ravel() != 0])
    bits = np.minimum(np.asarray(known.bits), FLOAT_BITS).astype(np.int64)
    widths = bits.ravel() if bits.size > 1 else None
    if widths is not None and not _within(codes, widths):
        return None
    values = scale.ravel(), unit.reshape(1).astype(np.float32), int(bits.max())
    return LeafGrid(*values, flat, *spans, known=True, widths=widths)


def _within(codes: np.ndarray, widths: np.ndarray) -> bool:
    """Return whether the codes `[..., O]` of each channel are signed numbers of its bits."""
    rows = codes.reshape(-1, codes.shape[-1] if codes.ndim else 1)
    if widths.shape != rows.shape[1:]:
        return False
    top = 2.0 ** (widths - 1)  # of 0 bits one half: the code 0 alone
    return bool(np.all((rows >= -np.floor(top)) & (rows <= np.ceil(top) - 1)))


def on_grid(levels: np.ndarray, scale: np.ndarray, unit: Any) -> np.ndarray:
    """Return `scale (levels unit)`, float32, rounded after each product; no negative zeros.

    Products beyond float32 are infinite: the caller compares or refuses them.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        products = levels.astype(np.float32) * np.float32(unit)
        values: np.ndarray = scale * products + np.float32(0)
    return values


def move(values: np.ndarray, ulps: np.ndarray) -> np.ndarray:
    """Return float32 values moved away from zero by so many units in the last place."""
    moved: np.ndarray = (values.view(np.int32) + ulps.astype(np.int32)).view(np.float32)
    return moved


class _Fit(NamedTuple):
    """A grid of the distinct magnitudes of columns."""

    scale: np.ndarray  # float32 [S]
    unit: np.float32
    levels: np.ndarray  # int64 [S, d]
    ulps: np.ndarray | None = None  # int [S, d]
    width: int | None = None  # `b` of a quantizer into `2**b - 1` steps

    def size(self, count: int, zeros: bool) -> float:
        """Return about how many bytes the grid codes of so many weights take."""
        span = Span.of(_signed(self.levels, zeros))
        table = 0 if self.ulps is None else self.levels.max() * self.scale.size / 4
        return count * span.width / 8 + 4 * self.scale.size + table


def find_grid(weights: np.ndarray) -> LeafGrid | None:
    """Find the coarsest grid that float weights stand on, whoever made them.

    There are as many scales as makes fewer bytes: one, or one for each channel. The levels are
    whole numbers up to 255 or powers of two; zeros may be one of them or pruned weights. What the
    product `scale * level` is in float32 is returned bit for bit; and so are weights that saw more
    roundings (a scale in double precision, a norm folded in), which are some units in the last
    place (`ulps`) off, all of one level and channel the same.

    >>> found = find_grid(np.float32([[-0.5, 0.75], [1.0, 0.5], [0.0, 0.25]]))
    >>> found.levels.tolist(), found.scale.tolist(), found.bits
    ([-2, 3, 4, 2, 0, 1], [0.25], 3)

    Args:
      weights: float32 `[...]`.

    Returns:
      The grid, or None for weights on none. Any few numbers stand on one: compare the bytes.
    """
    if weights.size == 0 or not np.any(weights) or not np.isfinite(weights).all():
        return None
    rows = weights.reshape(-1, weights.shape[-1] if weights.ndim > 1 else 1)
    if np.isnan(distinct(rows[:, :4])).any():  # most floats: that is enough to know
        return None
    channels = distinct(rows)
    if np.isnan(channels).any():
        return None
    together = distinct(channels.reshape(-1, 1))
    zeros = bool(np.any(weights == 0))
    tables = [together] if rows.shape[1] == 1 else [together, channels]
    fits = [_fit(columns(table)) for table in tables if not np.isnan(table).any()]
    sized = [(fit.size(weights.size, zeros), fit) for fit in fits if fit is not None]
    if not sized:
        return None
    return _whole(rows, min(sized, key=lambda each: each[0])[1])


def _fit(found: Columns) -> _Fit | None:
    """Return scale and unit with which float32 products are the magnitudes, or nearly are."""
    if not found.found.all():
        return None
    magnitudes, levels = found.magnitudes, found.levels
    rescaled, plain = _by_steps(magnitudes, levels), _by_scale(found)
    is_odd = bool(np.all(levels[levels != 0] % 2))  # the signature of levels without zero
    for fit in (rescaled, plain) if is_odd else (plain, rescaled):
        if fit is not None and fit.ulps is None:
            return fit
    return plain


def _by_scale(found: Columns) -> _Fit:
    """Return the float32 scales of which whole multiples come nearest to the magnitudes."""
    exact, levels = found.magnitudes.astype(np.float64), np.maximum(found.levels, 1)
    half = np.spacing(np.minimum(found.magnitudes, SPACED)).astype(np.float64) / 2
    there = found.levels > 0
    low = np.where(there, (exact - half) / levels, 0.0).max(1)
    high = np.where(there, (exact + half) / levels, np.inf).min(1)
    middle = np.where(there.any(1), (low + high) / 2, 0.0).astype(np.float32)
    best, missed = middle, np.full(middle.shape, np.inf)
    for shift in (0, -1, 1):  # the interval holds three floats at most
        scale = move(middle, np.where(middle > 0, shift, 0))
        values = on_grid(found.levels, scale.reshape(-1, 1), np.float32(1))
        misses = (values != found.magnitudes).sum(1)
        best, missed = np.where(misses < missed, scale, best), np.minimum(missed, misses)
    values = on_grid(found.levels, best.reshape(-1, 1), np.float32(1))
    ulps = found.magnitudes.view(np.int32) - values.view(np.int32)
    return _Fit(best, np.float32(1), found.levels, ulps if ulps.any() else None)


def _by_steps(magnitudes: np.ndarray, levels: np.ndarray) -> _Fit | None:
    """Return the scale of a quantizer that divides the largest weight into `2**b - 1` steps."""
    most = levels[:, -1:]
    for width in range(1, MAX_WIDTH + 1):
        top = 2**width - 1
        if np.all(top % np.maximum(most, 1) == 0):
            unit, wider = np.float32(1 / top), levels * (top // np.maximum(most, 1))
            if np.array_equal(on_grid(wider, magnitudes[:, -1:], unit), magnitudes):
                return _Fit(magnitudes[:, -1], unit, wider, width=width)
    return None


def _signed(levels: np.ndarray, zeros: bool) -> np.ndarray:
    """Return the levels of both signs, with zero if there are zeros."""
    there = levels[levels > 0]
    return np.concatenate([-there, there, [0] * zeros]).astype(np.int64)


def _whole(rows: np.ndarray, fit: _Fit) -> LeafGrid | None:
    """Return the grid of a leaf `[m, O]` from that of its magnitudes, once it is checked."""
    steps = fit.scale.astype(np.float64) * np.float64(fit.unit)
    safe = np.where(steps == 0, 1.0, steps).astype(np.float32)
    levels = np.rint(rows / safe).astype(np.int64)
    values, table = on_grid(levels, fit.scale, fit.unit), None
    if fit.ulps is not None:
        table = np.zeros((fit.scale.size, int(fit.levels.max()) + 1), np.int64)
        np.put_along_axis(table, fit.levels, fit.ulps, 1)
        table[:, 0] = 0
        channel = np.arange(fit.scale.size)  # [1] is the only one of all columns
        values = move(values, table[channel, np.abs(levels)])
        table = table[:, 1:]
    if not np.array_equal(values, rows):
        return None
    flat = levels.ravel()
    there = flat[flat != 0]
    whole, others = Span.of(flat), Span.of(there)
    alive = np.broadcast_to(fit.scale != 0, rows.shape)
    bits = Span.of(levels[alive]).width  # channels without any weight were pruned
    # Of -1, 0, 1 nobody can tell whether zeros were pruned; -3, -1, 1, 3 have no place for them.
    if others.width > 1 and np.all(there % 2):
        bits = fit.width or others.width
    return LeafGrid(fit.scale, fit.unit.reshape(1), bits, flat, whole, others, False, table)
