"""Write a leaf in the smallest of its forms; measure its bits and its bytes."""

from typing import Any, NamedTuple

import numpy as np

from jaxsnn.coding import bitstream, groups
from jaxsnn.coding.forms import (
    FLOAT_BITS,
    MAX_VALUES,
    MAX_WIDTH,
    PARTS,
    SAMPLE,
    VALUES,
    code_bits,
)
from jaxsnn.coding.levels import LeafGrid, OnGrid, grid_of

__all__ = ["Cost", "bits", "cost", "encode", "known_or_found", "mean_bits", "num_bytes"]


class Cost(NamedTuple):
    """What a leaf takes in its smallest form."""

    bits: float  # of one weight; where channels differ, the mean over weights that are not zero
    num_bytes: int  # of all parts of the form


def cost(leaf: Any, known: OnGrid | None = None) -> Cost:
    """Return bits and bytes of a leaf; `bits` and `num_bytes` say what they are.

    >>> cost(np.tile(np.float32([-1, 0.5, 1]), 100))
    Cost(bits=2, num_bytes=87)
    """
    weights = _weights(leaf)
    grid = grid_of(weights, known)
    form, num_bytes = _smallest(weights, grid)
    if known is not None:
        return Cost(mean_bits(weights, np.asarray(known.bits)), num_bytes)
    if "codebook" in PARTS[form]:
        return Cost(code_bits(_distinct(weights.ravel())), num_bytes)
    return Cost(FLOAT_BITS if grid is None or "values" in PARTS[form] else grid.bits, num_bytes)


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
    5

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
    weights = _weights(leaf)
    grid = grid_of(weights, known)
    if grid is None or grid.known:
        return grid
    return None if "values" in PARTS[_smallest(weights, grid)[0]] else grid


def encode(leaf: Any, known: OnGrid | None = None) -> tuple[str, dict[str, np.ndarray]]:
    """Write a leaf in its smallest form; one on a known grid in the smallest that says its step.

    >>> form, parts = encode(np.tile(np.float32([-1, 0.5, 1]), 100))
    >>> form, parts["codebook"].tolist()
    ('codes', [-1.0, 0.5, 1.0])

    Args:
      leaf: float32 weights of any shape.
      known: their grid, if it is known.

    Returns:
      The name of the form and its parts, flat arrays; their bytes sum to `num_bytes(leaf, known)`.
    """
    weights = _weights(leaf)
    grid = grid_of(weights, known)
    form, _ = _smallest(weights, grid)
    flat = weights.ravel()
    parts = {}
    everywhere = form in VALUES
    stored = np.full(flat.size, True) if everywhere else flat != 0
    if "bitmap" in PARTS[form]:
        parts["bitmap"] = np.packbits(stored)
    elif "gaps" in PARTS[form]:
        width = bitstream.gap_size(stored)[1]
        parts["gap_width"] = np.array([width], np.uint8)
        parts["gaps"] = bitstream.pack_gaps(stored, width)
    elif "patterns" in PARTS[form] and (found := groups.search(weights != 0)):
        stored, parts = found.marks, found.parts
    if "codebook" in PARTS[form]:
        codebook, codes = np.unique(flat[stored], return_inverse=True)
        parts["codebook"] = codebook
        parts["codes"] = bitstream.pack(codes, code_bits(codebook.size))
    elif grid is not None and "values" not in PARTS[form]:
        parts |= _parts_of_grid(form, grid, stored, zeros=bool(np.any(flat[stored] == 0)))
    else:
        parts["values"] = flat[stored]
    return form, parts


def _parts_of_grid(
    form: str, grid: LeafGrid, stored: np.ndarray, *, zeros: bool
) -> dict[str, np.ndarray]:
    """Return the parts of a form with codes of a grid, for the weights that are stored.

    Args:
      form: its name.
      grid: of the leaf.
      stored: booleans `[n]`.
      zeros: whether one of these weights is zero.
    """
    levels = grid.levels[stored]
    if "gamma" in PARTS[form]:
        codes = bitstream.pack((levels + 2**grid.bits - 1) // 2, grid.bits)
        return {"gamma": grid.scale, "width": np.array([grid.bits], np.uint8), "codes": codes}
    if grid.widths is not None:
        codes = _pack_channels(grid.levels, grid.widths, stored)
        widths = grid.widths.astype(np.uint8)
        return {"scale": grid.scale, "unit": grid.unit, "widths": widths, "codes": codes}
    span = grid.whole if zeros else grid.others
    parts = {"scale": grid.scale, "unit": grid.unit, "low": np.array([span.low], np.int16)}
    parts["grid"] = np.array([span.stride, span.width, grid.bits], np.uint8)
    parts["codes"] = bitstream.pack(span.codes(levels), span.width)
    if grid.ulps is not None:
        width = _ulp_width(grid.ulps)
        packed = bitstream.pack(grid.ulps.ravel() + 2 ** (width - 1), width)
        parts["ulps"] = np.concatenate([np.array([width], np.uint8), packed])
    return parts


def _pack_channels(levels: np.ndarray, widths: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """Return the codes of levels `[n]`, those of the channels of 1 bit first, then of 2, ..."""
    each = np.where(stored, np.resize(widths, levels.size), 0)
    packed = [bitstream.pack(levels[each == b] + 2 ** (b - 1), b) for b in range(1, MAX_WIDTH + 1)]
    return np.concatenate(packed)


def _ulp_width(ulps: np.ndarray) -> int:
    """Return the bits of whole numbers of both signs, the least of which is `-2**(width - 1)`."""
    return 1 + int(max(-ulps.min(), ulps.max() + 1, 1) - 1).bit_length()


def _weights(leaf: Any) -> np.ndarray:
    """Return the leaf as a float32 array without negative zeros."""
    return np.asarray(leaf, np.float32) + np.float32(0)


def _smallest(weights: np.ndarray, grid: LeafGrid | None) -> tuple[str, int]:
    """Return the name of the smallest form, of equal ones the first, and its bytes.

    A known grid is kept: of such a leaf the forms are those that say its step.
    """
    flat = weights.ravel()
    marked, distinct = flat != 0, _distinct(flat)
    sizes = _value_sizes(weights, grid, np.full(flat.size, True), distinct)
    others = _value_sizes(weights, grid, marked, distinct)
    places = {"sparse_": -(-flat.size // 8)}
    if 2 * np.count_nonzero(marked) < flat.size:  # each gap takes 2 bits or more
        places["indexed_"] = 1 + bitstream.gap_size(marked)[0]
    sizes |= {
        where + what: more + size for what, size in others.items() for where, more in places.items()
    }
    if grouped := groups.search(weights != 0):
        others = _value_sizes(weights, grid, grouped.marks, distinct)
        sizes |= {f"grouped_{what}": grouped.num_bytes + size for what, size in others.items()}
    form = min(sizes, key=sizes.__getitem__)
    return form, sizes[form]


def _value_sizes(
    weights: np.ndarray, grid: LeafGrid | None, stored: np.ndarray, distinct: int
) -> dict[str, int]:
    """Return what -> bytes of the weights that are stored, without their places.

    Args:
      weights: the leaf.
      grid: its own, if it has one.
      stored: booleans `[n]`.
      distinct: values of the whole leaf.
    """
    flat, sizes = weights.ravel(), {}
    count, zeros = int(np.count_nonzero(stored)), bool(np.any(flat[stored] == 0))
    told = grid is not None and grid.fits and grid.known
    if distinct <= MAX_VALUES and not told:
        values = distinct - (not flat.all() and not zeros)
        sizes["codes"] = 4 * values + -(-count * code_bits(values) // 8)
    if grid is not None and grid.widths is not None:
        if grid.fits:
            each = np.bincount(np.resize(grid.widths, flat.size)[stored], minlength=1)
            packed = sum(-(-int(n) * b // 8) for b, n in enumerate(each))
            sizes["channel_codes"] = 4 * grid.scale.size + 4 + grid.widths.size + packed
    elif grid is not None:
        sizes |= _grid_sizes(weights, grid, stored, zeros=zeros)
    if not told:
        sizes["floats"] = 4 * count
    return sizes


def _grid_sizes(
    weights: np.ndarray, grid: LeafGrid, stored: np.ndarray, *, zeros: bool
) -> dict[str, int]:
    """Return the bytes of the forms that are codes of a grid, for the weights that are stored."""
    sizes, scales, count = {}, grid.scale.size, int(np.count_nonzero(stored))
    if grid.fits:
        table = 0
        if grid.ulps is not None:
            table = 1 - (-grid.ulps.size * _ulp_width(grid.ulps) // 8)
        form = "grid_codes" if grid.ulps is None else "near_grid_codes"
        width = (grid.whole if zeros else grid.others).width
        sizes[form] = 4 * scales + 9 + table - (-count * width // 8)
    if weights.ndim > 1 and scales == weights.shape[-1] and grid.is_scaled:
        alive = np.broadcast_to(grid.scale, weights.shape).ravel() != 0
        if not np.any(stored & alive & (grid.levels == 0)):
            sizes["scaled_codes"] = 4 * scales + 1 - (-count * grid.bits // 8)
    return sizes


def _distinct(flat: np.ndarray) -> int:
    """Return the number of distinct values; past 256, those of a part of the leaf stand for all."""
    part = np.unique(flat[:SAMPLE]).size
    return part if part > MAX_VALUES else np.unique(flat).size
