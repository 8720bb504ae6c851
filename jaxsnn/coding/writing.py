"""Write a leaf in the smallest of its forms; measure its bits and its bytes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxsnn.coding import bitstream, stream
from jaxsnn.coding.forms import (
    FLOAT_BITS,
    MAX_VALUES,
    MAX_WIDTH,
    PARTS,
    POWERS,
    SAMPLE,
    WRITTEN,
    code_bits,
)
from jaxsnn.coding.levels import LeafGrid, OnGrid, grid_of
from jaxsnn.coding.reading import widened

__all__ = [
    "Cost",
    "as_weights",
    "bits",
    "cost",
    "count_distinct",
    "encode",
    "known_or_found",
    "mean_bits",
    "num_bytes",
    "ulp_width",
]

GRID = 13  # bytes of a grid with one scale, beside the stream
FRACTION = 24  # bits of a float32 number, without those of its exponent


class Cost(NamedTuple):
    """What a leaf takes in its smallest form."""

    bits: float  # of one weight; where channels differ, the mean over weights that are not zero
    num_bytes: int  # of all parts of the form


def cost(leaf: Any, known: OnGrid | None = None) -> Cost:
    """Return bits and bytes of a leaf; `bits` and `num_bytes` say what they are.

    >>> cost(np.tile(np.float32([-1, 0.5, 1]), 100))
    Cost(bits=2, num_bytes=78)
    """
    weights = as_weights(leaf)
    grid = grid_of(weights, known)
    form, parts = _smallest(weights, grid)
    num_bytes = _size(parts)
    if known is not None:
        return Cost(mean_bits(weights, np.asarray(known.bits)), num_bytes)
    if "values" in PARTS[form] or (grid is None and "halves" in PARTS[form]):
        return Cost(FLOAT_BITS, num_bytes)
    distinct = count_distinct(weights.ravel())
    if grid is None or "codebook" in PARTS[form]:
        return Cost(code_bits(distinct), num_bytes)
    # Few values on a fine grid have codes of fewer bits in a codebook.
    few = code_bits(distinct) if grid.scale.size == 1 and distinct <= MAX_VALUES else grid.bits
    with_codebook = 32 * distinct + weights.size * few
    return Cost(
        few if with_codebook < 8 * GRID + weights.size * grid.bits else grid.bits, num_bytes
    )


def mean_bits(weights: np.ndarray, widths: np.ndarray) -> float:
    """Return the width of a code, or the mean of those of the channels over their weights.

    >>> mean_bits(np.float32([[1, 0], [1, 2]]), np.array([[2, 8]]))
    4.0

    Args:
      weights: `[..., O]`; those that are zero do not count.
      widths: of the codes, one or `O`.
    """
    if widths.size == 1:
        return int(widths.ravel()[0])
    kept = np.count_nonzero(weights.reshape(-1, weights.shape[-1]), axis=0)
    return float(widths.ravel() @ kept / max(kept.sum(), 1))


def bits(leaf: Any, known: OnGrid | None = None) -> float:
    """Return the bits of one weight: those of its grid, or `ceil(log2 d)` of `d` distinct values.

    Without a known grid, a leaf counts as quantized when it stands on one that is found, or has at
    most 256 distinct values, zero included, and its codes take fewer bytes than its floats do;
    otherwise a weight has 32 bits. So a small kernel of full precision, all of whose few values
    differ, has 32 bits and not 8. A zero counts as one of the levels, except among levels that
    leave no place for it (-3, -1, 1, 3): there it was pruned, and is apart in the bitmap.

    >>> bits(np.tile(np.float32([-1, 0.5, 1]), 100))
    2

    Args:
      leaf: weights of any shape.
      known: their grid, if it is known.

    Returns:
      1 to 8, the bits of the known grid (the mean where those of its channels differ), or 32.
    """
    return cost(leaf, known).bits


def num_bytes(leaf: Any, known: OnGrid | None = None) -> int:
    """Return the bytes of a leaf in its smallest form, all parts included.

    >>> num_bytes(np.zeros(800, np.float32))
    8

    Args:
      leaf: weights of any shape.
      known: their grid, if it is known.
    """
    return cost(leaf, known).num_bytes


def known_or_found(leaf: Any, known: OnGrid | None = None) -> LeafGrid | None:
    """Return the grid that a leaf is quantized to: the known one, or one found in its numbers.

    One that is found counts where codes of it, or of a codebook, take fewer bytes than floats do.

    >>> known_or_found(np.tile(np.float32([-1, 0.5, 1]), 100)).levels[:3].tolist()
    [-2, 1, 2]

    Args:
      leaf: weights of any shape.
      known: their grid, if it is known.
    """
    weights = as_weights(leaf)
    grid = grid_of(weights, known)
    if grid is None or grid.known:
        return grid
    return None if "values" in PARTS[_smallest(weights, grid)[0]] else grid


def encode(leaf: Any, known: OnGrid | None = None) -> tuple[str, dict[str, np.ndarray]]:
    """Write a leaf in its smallest form; one on a known grid in the smallest that says its step.

    >>> form, parts = encode(np.tile(np.float32([-1, 0.5, 1]), 100))
    >>> form, parts["codebook"].tolist()
    ('coded_codes', [-1.0, 0.5, 1.0])

    Args:
      leaf: float32 weights of any shape.
      known: their grid, if it is known.

    Returns:
      The name of the form and its parts, flat arrays; their bytes sum to `num_bytes(leaf, known)`.
    """
    weights = as_weights(leaf)
    return _smallest(weights, grid_of(weights, known))


def as_weights(leaf: Any) -> np.ndarray:
    """Return the leaf as a float32 array without negative zeros."""
    return np.asarray(leaf, np.float32) + np.float32(0)


def _size(parts: Mapping[str, np.ndarray]) -> int:
    return sum(part.nbytes for part in parts.values())


def _smallest(weights: np.ndarray, grid: LeafGrid | None) -> tuple[str, dict[str, np.ndarray]]:
    """Return the smallest form, of equal ones the first, and its parts.

    A known grid is kept: of such a leaf the forms are those that say its step.
    """
    flat = weights.ravel()
    kept, fits = flat != 0, grid is not None and grid.fits
    told, distinct = grid is not None and grid.known and fits, count_distinct(flat)
    found: dict[str, dict[str, np.ndarray]] = {} if told else {"floats": {"values": flat}}
    halves = (flat.view(np.uint32) >> 16).astype(np.uint16)
    if weights.ndim < 2 and not told and np.array_equal(widened(halves), flat):
        found["short_floats"] = {"halves": halves}
    if weights.ndim < 2 and not told and (parts := _points(flat)) is not None:
        found["points"] = parts
    if grid is not None and fits:
        form, parts = _on_grid(weights, kept, grid)
        found[form] = parts
    # With one scale the levels are the values, and the codes those of a codebook.
    smaller = grid is None or not fits or grid.scale.size > 1 or 4 * distinct < GRID
    if distinct <= MAX_VALUES and smaller and not told:
        codebook, codes = np.unique(flat[kept], return_inverse=True)
        coded = stream.write(weights.shape, kept, codes)
        found["coded_codes"] = {"codebook": codebook, "stream": coded}
    if not told and not kept.all() and min(map(_size, found.values())) > 4 * kept.sum():
        coded = stream.write(weights.shape, kept, np.zeros(0, np.int64))
        found["coded_floats"] = {"values": flat[kept], "stream": coded}
    form = min(found, key=lambda form: _size(found[form]))
    return form, {part: found[form][part] for part in WRITTEN[form]}


def _points(flat: np.ndarray) -> dict[str, np.ndarray] | None:
    """Return the parts of numbers that are few bits times a power of two, None if they are not."""
    fractions, exponents = np.frexp(flat[flat != 0])
    if not fractions.size:
        return None
    digits = (np.abs(fractions) * 2.0**FRACTION).astype(np.int64)
    zeros = np.log2(digits & -digits).astype(np.int64)  # behind the last digit of each
    power = int((exponents - FRACTION + zeros).min())
    levels = np.ldexp(flat.astype(np.float64), -power)
    low, high = levels.min(), levels.max()
    width = code_bits(min(int(high - low), MAX_VALUES) + 1)
    if width > MAX_WIDTH or abs(low) >= 2**15 or not POWERS[0] <= power <= POWERS[1]:
        return None
    codes = bitstream.pack((levels - low).astype(np.int64), width)
    return {
        "point": np.array([power, width], np.int8),
        "low": np.array([low], np.int16),
        "codes": codes,
    }


def _on_grid(
    weights: np.ndarray, kept: np.ndarray, grid: LeafGrid
) -> tuple[str, dict[str, np.ndarray]]:
    """Return the form of a leaf that is codes of a grid, and its parts.

    Args:
      weights: the leaf.
      kept: which of them are not zero, booleans `[n]`.
      grid: its own.
    """
    levels, parts = grid.levels[kept], {"scale": grid.scale, "unit": grid.unit}
    if grid.widths is not None:
        codes = levels + (1 << int(grid.widths.max(initial=0)) >> 1)
        coded = stream.write(weights.shape, kept, codes, grid.widths)
        widths = grid.widths.astype(np.uint8)
        return "coded_channel_codes", parts | {"widths": widths, "stream": coded}
    span = grid.others
    parts["low"] = np.array([span.low], np.int16)
    parts["grid"] = np.array([span.stride, span.width, grid.bits], np.uint8)
    parts["stream"] = stream.write(weights.shape, kept, span.codes(levels))
    if grid.ulps is None:
        return "coded_grid_codes", parts
    width = ulp_width(grid.ulps)
    packed = bitstream.pack(grid.ulps.ravel() + 2 ** (width - 1), width)
    parts["ulps"] = np.concatenate([np.array([width], np.uint8), packed])
    return "coded_near_grid_codes", parts


def ulp_width(ulps: np.ndarray) -> int:
    """Return the bits of whole numbers of both signs, the least of which is `-2**(width - 1)`."""
    return 1 + int(max(-ulps.min(), ulps.max() + 1, 1) - 1).bit_length()


def count_distinct(flat: np.ndarray) -> int:
    """Return the number of distinct values; past 256, those of a part of the leaf stand for all."""
    part = np.unique(flat[:SAMPLE]).size
    return part if part > MAX_VALUES else np.unique(flat).size
