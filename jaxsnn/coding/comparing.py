"""The bytes of a leaf in every form that it could have, beside its entropy.

The forms that are written are `forms.WRITTEN`; the older ones, whose sizes follow from counts, are
here to compare with.
"""

from typing import Any

import numpy as np

from jaxsnn.coding import bitstream, groups
from jaxsnn.coding.forms import FLOAT_BITS, MAX_VALUES, PARTS, code_bits
from jaxsnn.coding.levels import LeafGrid, OnGrid, grid_of
from jaxsnn.coding.writing import as_weights, count_distinct, encode, ulp_width

__all__ = ["entropy", "least", "sizes"]


def entropy(leaf: Any) -> float:
    """Return the bytes that the weights of a leaf take if each is drawn on its own.

        n H,  H = - sum_v p_v log2 p_v    over the values `v` of the leaf, zero included

    What the values are comes on top. A coder that knows nothing of a weight's neighbours needs as
    much; less is possible where the neighbours tell something.

    >>> entropy(np.tile(np.float32([0, 1]), 400))
    100.0
    """
    _, counts = np.unique(as_weights(leaf), return_counts=True)
    return float(-counts @ np.log2(counts / max(counts.sum(), 1))) / 8


def least(leaf: Any, form: str) -> float:
    """Return the bytes that the weights of a leaf take at least in a form, each drawn on its own.

    That is their `entropy`; of a form with floats, that of the places of those that are not zero,
    and four bytes for each of these; of points, whose values are all told, their codes.

    >>> least(np.float32([0, 0.1, 0, 0.2] * 8), "coded_floats")
    68.0
    """
    kept = as_weights(leaf) != 0
    if "point" in PARTS[form] and "point" in (parts := encode(leaf)[1]):  # else another is smaller
        return float(parts["codes"].nbytes)
    if "halves" in PARTS[form]:
        return float(PARTS[form]["halves"]().itemsize * kept.size)
    if "values" not in PARTS[form]:
        return entropy(leaf)
    return entropy(kept) + FLOAT_BITS // 8 * int(np.count_nonzero(kept))


def sizes(leaf: Any, known: OnGrid | None = None) -> dict[str, int]:
    """Return form -> bytes of a leaf, all parts included; of the forms written the smallest.

    >>> sizes(np.tile(np.float32([0, 0, 0, 1, 2]), 100))["sparse_codes"]
    96

    Args:
      leaf: weights of any shape.
      known: their grid, if it is known; then only the forms that say it.
    """
    weights = as_weights(leaf)
    grid = grid_of(weights, known)
    flat = weights.ravel()
    marked, distinct = flat != 0, count_distinct(flat)
    found = _value_sizes(weights, grid, np.full(flat.size, True), distinct)
    others = _value_sizes(weights, grid, marked, distinct)
    places = {"sparse_": -(-flat.size // 8)}
    if 2 * np.count_nonzero(marked) < flat.size:  # each gap takes 2 bits or more
        places["indexed_"] = 1 + bitstream.gap_size(marked)[0]
    found |= {
        where + what: more + size for what, size in others.items() for where, more in places.items()
    }
    if grouped := groups.search(weights != 0):
        others = _value_sizes(weights, grid, grouped.marks, distinct)
        found |= {f"grouped_{what}": grouped.num_bytes + size for what, size in others.items()}
    form, parts = encode(leaf, known)
    return {form: sum(part.nbytes for part in parts.values())} | found


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
    span = grid.whole if zeros else grid.others
    if span.fits:
        table = 0
        if grid.ulps is not None:
            table = 1 - (-grid.ulps.size * ulp_width(grid.ulps) // 8)
        form = "grid_codes" if grid.ulps is None else "near_grid_codes"
        sizes[form] = 4 * scales + 9 + table - (-count * span.width // 8)
    if weights.ndim > 1 and scales == weights.shape[-1] and grid.is_scaled:
        alive = np.broadcast_to(grid.scale, weights.shape).ravel() != 0
        if not np.any(stored & alive & (grid.levels == 0)):
            sizes["scaled_codes"] = 4 * scales + 1 - (-count * grid.bits // 8)
    return sizes
