"""Leaves on evenly spaced levels: a grid that is known, or one that is found in the numbers."""

from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxsnn.coding.forms import FLOAT_BITS, MAX_WIDTH, SAMPLE, code_bits

__all__ = [
    "KnownGrid",
    "OnGrid",
    "Scaled",
    "Span",
    "find_scaled",
    "known_grid",
    "on_grid",
    "unscale",
]


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
        """`[]`."""


class Scaled(NamedTuple):
    """A leaf whose channels stand on the grid of scaled codes, up to zeros."""

    gamma: np.ndarray  # float32 [O]
    width: int
    codes: np.ndarray  # [n / O, O]; without meaning where the leaf is zero
    only_codes: bool  # whether the codes say everything: zeros are in channels of zeros alone


def find_scaled(weights: np.ndarray) -> Scaled | None:
    """Find the narrowest scaled codes that return every weight but zeros bit for bit."""
    if weights.ndim < 2 or weights.size == 0:
        return None
    rows = weights.reshape(-1, weights.shape[-1])
    gamma = np.maximum(rows.max(0), -rows.min(0))
    if not np.isfinite(gamma).all():
        return None
    part = rows[: max(1, SAMPLE // gamma.size)]
    for width in range(1, MAX_WIDTH + 1):
        if _codes_on_grid(part, gamma, width) is None:
            continue
        if (codes := _codes_on_grid(rows, gamma, width)) is not None:
            stray = np.count_nonzero(rows) < rows.shape[0] * np.count_nonzero(gamma)
            return Scaled(gamma, width, codes, not stray)
    return None


def _codes_on_grid(rows: np.ndarray, gamma: np.ndarray, width: int) -> np.ndarray | None:
    """Return the codes of rows `[m, O]` if they return every entry but zeros, or None."""
    half = np.float32((2**width - 1) / 2)
    codes = np.round(half * (rows / np.where(gamma == 0, np.float32(1), gamma) + np.float32(1)))
    same = (unscale(codes, gamma, width) == rows) | (rows == 0)
    return codes.astype(np.uint8) if same.all() else None


def unscale(codes: np.ndarray, gamma: np.ndarray, width: int) -> np.ndarray:
    """Return `gamma ((2 codes - s) (1 / s))`, float32, rounded after each operation."""
    top = 2**width - 1
    values: np.ndarray = gamma * (
        (2 * codes.astype(np.float32) - np.float32(top)) * np.float32(1 / top)
    )
    return values


class Span(NamedTuple):
    """Whole numbers as `low + stride k`, `k` of `width` bits."""

    low: int
    stride: int
    width: int

    @classmethod
    def of(cls, codes: np.ndarray) -> "Span":
        """Return the narrowest."""
        if codes.size == 0:
            return cls(0, 1, 1)
        low = int(codes.min())
        stride = max(int(np.gcd.reduce(codes - low)), 1)
        return cls(low, stride, code_bits((int(codes.max()) - low) // stride + 1))

    @property
    def fits(self) -> bool:
        """Return whether the parts of grid codes have room for it."""
        return self.width <= MAX_WIDTH and self.stride < 256 and abs(self.low) < 2**15


class KnownGrid(NamedTuple):
    """A leaf on a known grid."""

    scale: np.ndarray  # float32 [1] or [O]
    unit: np.ndarray  # float32 [1]
    bits: int
    codes: np.ndarray  # int64 [n]
    whole: Span  # of all codes
    others: Span  # of those of weights that are not zero

    def is_scaled(self, scaled: Scaled) -> bool:
        """Return whether scaled codes say the same step."""
        return (
            scaled.width == self.bits
            and self.unit[0] == np.float32(1 / (2**scaled.width - 1))
            and np.array_equal(self.scale, scaled.gamma)
        )


def known_grid(weights: np.ndarray, known: OnGrid | None) -> KnownGrid | None:
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
    bits = min(int(known.bits), FLOAT_BITS)
    return KnownGrid(scale.ravel(), unit.reshape(1).astype(np.float32), bits, flat, *spans)


def on_grid(codes: np.ndarray, scale: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Return `scale (codes unit)`, float32, rounded after each product; no negative zeros."""
    levels = codes.astype(np.float32) * np.float32(unit)
    values: np.ndarray = scale * levels + np.float32(0)
    return values
