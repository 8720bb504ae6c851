"""Write a leaf in the smallest of its forms; measure its bits and its bytes."""

from typing import Any

import numpy as np

from jaxsnn.coding import bitstream
from jaxsnn.coding.forms import FLOAT_BITS, MAX_VALUES, PARTS, SAMPLE, VALUES, code_bits
from jaxsnn.coding.levels import KnownGrid, OnGrid, Scaled, find_scaled, known_grid

__all__ = ["bits", "encode", "num_bytes"]


def bits(leaf: Any, known: OnGrid | None = None) -> int:
    """Return the bits of one weight: those of its grid, or `ceil(log2 d)` of `d` distinct values.

    Without a known grid, a leaf counts as quantized when it has at most 256 distinct values, zero
    included, and codes with a codebook take fewer bytes than its floats do; otherwise a weight has
    32 bits. So a small kernel of full precision, all of whose few values differ, has 32 bits and
    not 8. A leaf in scaled codes has the bits of those, `b`, and its zeros are apart in the bitmap.

    >>> bits(np.tile(np.float32([-1, 0.5, 1]), 100))
    2

    Args:
      leaf: weights of any shape.
      known: their grid, if it is known.

    Returns:
      1 to 8, the bits of the known grid, or 32.
    """
    if known is not None:
        return int(known.bits)
    weights = _weights(leaf)
    scaled = find_scaled(weights)
    form = _form(weights, scaled, None)
    if scaled is not None and "gamma" in PARTS[form]:
        return scaled.width
    return code_bits(_distinct(weights.ravel())) if "codebook" in PARTS[form] else FLOAT_BITS


def num_bytes(leaf: Any, known: OnGrid | None = None) -> int:
    """Return the bytes of a leaf in its smallest form, all parts included.

    >>> num_bytes(np.zeros(800, np.float32))
    5

    Args:
      leaf: weights of any shape.
      known: their grid, if it is known.
    """
    weights = _weights(leaf)
    return min(_sizes(weights, find_scaled(weights), known_grid(weights, known)).values())


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
    scaled, grid = find_scaled(weights), known_grid(weights, known)
    form = _form(weights, scaled, grid)
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
    if "codebook" in PARTS[form]:
        codebook, codes = np.unique(flat[stored], return_inverse=True)
        parts["codebook"] = codebook
        parts["codes"] = bitstream.pack(codes, code_bits(codebook.size))
    elif scaled is not None and "gamma" in PARTS[form]:
        parts["gamma"] = scaled.gamma
        parts["width"] = np.array([scaled.width], np.uint8)
        parts["codes"] = bitstream.pack(scaled.codes.ravel()[stored], scaled.width)
    elif grid is not None and "grid" in PARTS[form]:
        span = grid.whole if everywhere else grid.others
        parts |= {"scale": grid.scale, "unit": grid.unit, "low": np.array([span.low], np.int16)}
        parts["grid"] = np.array([span.stride, span.width, grid.bits], np.uint8)
        codes = (grid.codes[stored] - span.low) // span.stride
        parts["codes"] = bitstream.pack(codes, span.width)
    else:
        parts["values"] = flat[stored]
    return form, parts


def _weights(leaf: Any) -> np.ndarray:
    """Return the leaf as a float32 array without negative zeros."""
    return np.asarray(leaf, np.float32) + np.float32(0)


def _form(weights: np.ndarray, scaled: Scaled | None, grid: KnownGrid | None) -> str:
    """Return the name of the smallest form; of equal ones the first."""
    sizes = _sizes(weights, scaled, grid)
    return min(sizes, key=sizes.__getitem__)


def _sizes(weights: np.ndarray, scaled: Scaled | None, grid: KnownGrid | None) -> dict[str, int]:
    """Return the bytes of each form that the leaf can be written in, those with codes first.

    A known grid is kept: of such a leaf these are the forms that say its step.
    """
    flat = weights.ravel()
    nonzero, distinct = int(np.count_nonzero(flat)), _distinct(flat)
    whole, others = {}, {}  # bytes of all weights, and of those that are not zero
    if grid is not None and grid.whole.fits and grid.others.fits:
        numbers = 4 * grid.scale.size + 9
        whole["grid_codes"] = numbers + -(-flat.size * grid.whole.width // 8)
        others["grid_codes"] = numbers + -(-nonzero * grid.others.width // 8)
        scaled = scaled if scaled is not None and grid.is_scaled(scaled) else None
    elif distinct <= MAX_VALUES:
        rest = distinct - (nonzero < flat.size)
        whole["codes"] = 4 * distinct + -(-flat.size * code_bits(distinct) // 8)
        others["codes"] = 4 * rest + -(-nonzero * code_bits(rest) // 8)
    if scaled is not None:
        scales = 4 * scaled.gamma.size + 1
        if scaled.only_codes:
            whole["scaled_codes"] = scales + -(-flat.size * scaled.width // 8)
        others["scaled_codes"] = scales + -(-nonzero * scaled.width // 8)
    if "grid_codes" not in whole:
        whole["floats"], others["floats"] = 4 * flat.size, 4 * nonzero
    places = {"sparse_": -(-flat.size // 8)}
    if 2 * nonzero < flat.size:  # each gap takes 2 bits or more
        places["indexed_"] = 1 + bitstream.gap_size(flat != 0)[0]
    return whole | {
        where + what: more + size for what, size in others.items() for where, more in places.items()
    }


def _distinct(flat: np.ndarray) -> int:
    """Return the number of distinct values; past 256, those of a part of the leaf stand for all."""
    part = np.unique(flat[:SAMPLE]).size
    return part if part > MAX_VALUES else np.unique(flat).size
