"""A mask that keeps at most `n` of every `m` inputs, as the number of each group's pattern.

Groups run along the inputs, the last axis but one, for each output (the last axis) and each place
of a kernel; the last group is padded to `m`. The `C(m, n)` patterns of a group are numbered in the
order of `itertools.combinations`; where a group keeps less than `n`, its lowest free places are
marked too. For 2:8 that is 5 bits for 8 weights, where a bitmap takes 8.
"""

import itertools
import math
from functools import cache
from typing import NamedTuple

import numpy as np

from jaxsnn.coding import bitstream
from jaxsnn.coding.forms import code_bits

__all__ = ["Grouped", "marked", "search"]

SIZES = (2, 4, 8, 16, 32)  # of a group
MOST = 256  # patterns: their numbers take a byte at most


class Grouped(NamedTuple):
    """A mask of groups."""

    n: int
    m: int
    patterns: np.ndarray  # number of each group's pattern, int64 [groups]
    marks: np.ndarray  # booleans, flat as the leaf: the mask and what fills its groups up

    @property
    def num_bytes(self) -> int:
        """Return the bytes of its parts."""
        return 2 - (-self.patterns.size * _width(self.n, self.m) // 8)

    @property
    def parts(self) -> dict[str, np.ndarray]:
        """Return the parts of an older file, as `marked` reads them."""
        packed = bitstream.pack(self.patterns, _width(self.n, self.m))
        return {"group": np.array([self.n, self.m], np.uint8), "patterns": packed}


def search(mask: np.ndarray) -> Grouped | None:
    """Return the groups of a mask that take the fewest bytes, or None if it has no such groups.

    What fills groups up is stored, too: it counts as a byte each.

    >>> found = search(np.array([[True], [False], [False], [True], [True], [False]]))
    >>> found.n, found.m, found.patterns.tolist()
    (1, 2, [0, 1, 0])

    Args:
      mask: booleans `[..., I, O]`.
    """
    if mask.ndim < 2 or mask.size == 0 or not mask.any() or 4 * mask.sum() > 3 * mask.size:
        return None
    best, least = None, math.inf
    for m in SIZES:
        groups = _groups(mask, m)
        n = int(groups.sum(-1).max())
        if n == m or math.comb(m, n) > MOST:
            continue
        free = ~groups
        filled = groups | (free & (np.cumsum(free, -1) <= n - groups.sum(-1, keepdims=True)))
        marks = _flat(filled, mask.shape)
        found = Grouped(n, m, _numbers(filled.reshape(-1, m), n), marks)
        size = found.num_bytes + int(marks.sum())
        if size < least:
            best, least = found, size
    return best


def marked(group: np.ndarray, patterns: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the marks of the parts of a mask, booleans, flat as the leaf.

    Args:
      group: `n` and `m`.
      patterns: the packed numbers.
      shape: of the leaf.

    Raises:
      ValueError: if the parts are not those of a mask of this shape.
    """
    n, m = (int(number) for number in group)
    if len(shape) < 2 or m not in SIZES or not 1 <= n < m or math.comb(m, n) > MOST:
        raise ValueError(f"group says {n} of {m} in a leaf of the shape {shape}")
    count = math.prod(shape) // max(shape[-2], 1) * -(-shape[-2] // m)
    size = -(-count * _width(n, m) // 8)
    if patterns.size != size:
        raise ValueError(f"patterns has {patterns.size} elements, expected {size}")
    numbers = bitstream.unpack(patterns, _width(n, m), count)
    table = _table(n, m)
    if count and int(numbers.max()) >= len(table):
        raise ValueError(f"patterns reach {numbers.max()}, there are {len(table)}")
    return _flat(table[numbers], shape)


def _width(n: int, m: int) -> int:
    return code_bits(math.comb(m, n))


@cache
def _table(n: int, m: int) -> np.ndarray:
    """Return all patterns, booleans `[C(m, n), m]`."""
    table = np.zeros((math.comb(m, n), m), bool)
    for row, places in zip(table, itertools.combinations(range(m), n), strict=True):
        row[list(places)] = True
    return table


def _numbers(rows: np.ndarray, n: int) -> np.ndarray:
    """Return the number of each pattern, of rows `[groups, m]`."""
    powers = 1 << np.arange(rows.shape[1], dtype=np.int64)
    known = _table(n, rows.shape[1]) @ powers
    order = np.argsort(known)
    numbers: np.ndarray = order[np.searchsorted(known, rows @ powers, sorter=order)]
    return numbers


def _groups(mask: np.ndarray, m: int) -> np.ndarray:
    """Return the groups of a mask `[..., I, O]`, `[..., O, groups, m]`."""
    rows = np.swapaxes(mask, -1, -2)
    fill = [(0, 0)] * (mask.ndim - 1) + [(0, -rows.shape[-1] % m)]
    padded = np.pad(rows, fill)
    return padded.reshape(*padded.shape[:-1], -1, m)


def _flat(groups: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the mask of the groups of a leaf of that shape, flat, without the padding."""
    rows = groups.reshape(*shape[:-2], shape[-1], -1)[..., : shape[-2]]
    return np.swapaxes(rows, -1, -2).ravel()
