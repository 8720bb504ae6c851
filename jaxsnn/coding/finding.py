"""Find the grid that float weights stand on: whole numbers times a scale, of a column or of all.

This is the only search for a grid in the package; it serves weights that come from elsewhere. Where
a network knows its grids (`Network.steps`), nobody searches.

    weight = scale * level, up to some roundings of float32

Only the distinct magnitudes of a column matter, a few hundred numbers at most. For `K = 1, 2, ...,
255` they are divided by the largest one over `K`; the first `K` that makes all of them whole gives
the coarsest grid. Powers of two reach further: there all mantissas are equal.

It costs one sort of each column: 14.2 million weights of 4 or 8 bits take 2.5 seconds of one core,
and as many floats on no grid, which a part of them gives away, 0.06 seconds.

Letters in shapes: `m` weights of a column, `O` columns, `d` distinct magnitudes.
"""

from typing import NamedTuple

import numpy as np

__all__ = ["LARGEST", "LARGEST_POWER", "ROUNDING", "Columns", "columns", "distinct"]

LARGEST = 255  # whole number that is looked for: the levels of 8 bits without zero end there
ROUNDING = 2.0**-20  # relative; a few roundings of float32 that a quantized weight has seen
LARGEST_POWER = 30  # of two, among levels that are powers
SAMPLE = 1024  # weights of a column that are looked at before all are


class Columns(NamedTuple):
    """Columns that stand on a grid each, by their distinct magnitudes."""

    magnitudes: np.ndarray  # float32 [O, d], rising, zeros in front
    levels: np.ndarray  # int64 [O, d], whole numbers of theirs; 0 if the column is on no grid
    scale: np.ndarray  # float64 [O]; 0 if the column is on no grid or of zeros

    @property
    def found(self) -> np.ndarray:
        """Return which columns are on a grid, booleans `[O]`; those of zeros are."""
        found: np.ndarray = (self.scale > 0) | (self.magnitudes[:, -1] == 0)
        return found


def distinct(rows: np.ndarray) -> np.ndarray:
    """Return the distinct magnitudes of each column, float32 `[O, d]`, rising, zeros in front.

    >>> distinct(np.float32([[2, 0], [-1, 0], [-2, 3]])).tolist()
    [[1.0, 2.0], [0.0, 3.0]]

    Args:
      rows: `[m, O]`, finite.

    Returns:
      At most `LARGEST` for a column; one that has more is NaN.
    """
    table = np.full((rows.shape[1], 1), np.nan, np.float32)
    few = np.flatnonzero(_counts(_ordered(rows[:SAMPLE])) <= LARGEST)
    ordered = _ordered(rows if few.size == rows.shape[1] else rows[:, few])
    counts = _counts(ordered)
    few, ordered, counts = (x[counts <= LARGEST] for x in (few, ordered, counts))
    width = max(int(counts.max(initial=1)), 1)
    table = np.repeat(table, width, axis=1)
    table[few] = 0
    fresh = _fresh(ordered)
    row = np.repeat(np.arange(few.size), counts)
    place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts), counts) + width
    table[few[row], place] = ordered[fresh]
    return table


def _ordered(rows: np.ndarray) -> np.ndarray:
    """Return the magnitudes of each column in order, `[O, m]`."""
    return np.sort(np.abs(rows.T), axis=1)


def _fresh(ordered: np.ndarray) -> np.ndarray:
    """Mark each magnitude but 0 where it comes first."""
    fresh = ordered > 0
    fresh[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
    return fresh


def _counts(ordered: np.ndarray) -> np.ndarray:
    counts: np.ndarray = _fresh(ordered).sum(1)
    return counts


def columns(magnitudes: np.ndarray) -> Columns:
    """Return the coarsest grid of each column on its own.

    >>> found = columns(np.float32([[0.5, 1.5], [0.25, 0.3]]))
    >>> found.levels.tolist(), found.scale.tolist()
    ([[1, 3], [5, 6]], [0.5, 0.050000001986821495])

    Args:
      magnitudes: of `distinct`, `[O, d]`.
    """
    wide = np.asarray(magnitudes, np.float64)
    top, levels = wide[:, -1], np.zeros(wide.shape, np.int64)
    scale, open_ = np.zeros(top.shape), np.flatnonzero(top > 0)
    few = wide[:, -4:]  # the largest rule out nearly everything
    for most in range(1, LARGEST + 1):
        fitting = open_
        for part in (few, wide):
            exact = part[fitting] * (most / top[fitting]).reshape(-1, 1)
            off = np.abs(exact - np.rint(exact))
            fitting = fitting[(off <= ROUNDING * exact).all(1)]
        if fitting.size:
            scale[fitting] = top[fitting] / most
            levels[fitting] = np.rint(wide[fitting] / scale[fitting].reshape(-1, 1))
            open_ = np.setdiff1d(open_, fitting, assume_unique=True)
    return _with_powers(Columns(magnitudes, levels, scale), open_)


def _with_powers(found: Columns, open_: np.ndarray) -> Columns:
    """Give the columns that are still open, of which all mantissas are equal, powers of two."""
    mantissas, exponents = np.frexp(found.magnitudes[open_])
    there = mantissas > 0
    least = np.where(there, exponents, 2**15).min(1, keepdims=True, initial=2**15)
    same = (~there | (mantissas == mantissas[:, -1:])).all(1)
    chosen = same & ((exponents[:, -1:] - least) <= LARGEST_POWER).ravel()
    powers = np.where(there, 1 << np.clip(exponents - least, 0, LARGEST_POWER).astype(np.int64), 0)
    found.levels[open_[chosen]] = powers[chosen]
    smallest = np.ldexp(mantissas[:, -1:].astype(np.float64), least).ravel()
    found.scale[open_[chosen]] = smallest[chosen]
    return found
