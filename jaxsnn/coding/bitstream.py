"""Numbers of a few bits in bytes, and a mask as the gaps between its marks.

Numbers stand one after the other, each with its highest bit first. A gap counts the entries in
front of a marked one. In `k` bits, the numbers below the largest one, `e = 2**k - 1`, are gaps;
`e` stands for `e` entries of which none is marked (Han et al. 2015, https://arxiv.org/abs/1510.00149,
call it a filler, and store a zero with it; here nothing is stored). So `0 0 1 0 1` is `2 1` for
`k = 2`, and `0 0 0 0 1` is `3 1`. The numbers reach to the end of the mask or beyond, so that few
bytes cannot claim to be a long mask; what is left of the last byte is ones.
"""

import numpy as np

__all__ = ["GAP_WIDTHS", "gap_size", "pack", "pack_gaps", "unpack", "unpack_gaps"]

GAP_WIDTHS = range(2, 9)  # with 1 bit a mask takes as many bits as it has entries, or more


def pack(numbers: np.ndarray, width: int) -> np.ndarray:
    """Write numbers below `2**width`, width 1 to 8, as bytes; zeros fill up the last one."""
    digits = np.unpackbits(numbers.astype(np.uint8).reshape(-1, 1), axis=1)[:, 8 - width :]
    return np.packbits(digits)


def unpack(packed: np.ndarray, width: int, count: int) -> np.ndarray:
    """Read `count` numbers of `width` bits, uint8."""
    digits = np.zeros((count, 8), np.uint8)
    digits[:, 8 - width :] = np.unpackbits(packed, count=count * width).reshape(count, width)
    return np.packbits(digits, axis=1).reshape(-1)


def gap_size(mask: np.ndarray) -> tuple[int, int]:
    """Return the fewest bytes that the gaps of a mask take, and the width at which they do.

    Args:
      mask: booleans `[n]`.
    """
    gaps, tail = _gaps(mask)
    counts = {k: _fillers(gaps, k).sum() + gaps.size - (-tail // (2**k - 1)) for k in GAP_WIDTHS}
    return min((-(-int(count) * k // 8), k) for k, count in counts.items())


def pack_gaps(mask: np.ndarray, width: int) -> np.ndarray:
    """Write the gaps of a mask as bytes.

    Args:
      mask: booleans `[n]`.
      width: bits of a gap, 2 to 8.
    """
    gaps, tail = _gaps(mask)
    largest = 2**width - 1
    fillers = _fillers(gaps, width)
    total = int(fillers.sum()) + gaps.size - (-tail // largest)
    numbers = np.full(total + 8, largest, np.uint8)  # more fillers than fit in the last byte
    numbers[np.cumsum(fillers + 1) - 1] = gaps % largest
    return pack(numbers, width)[: -(-total * width // 8)]


def unpack_gaps(packed: np.ndarray, width: int, size: int) -> np.ndarray:
    """Read the mask that `pack_gaps` wrote, booleans `[size]`.

    Raises:
      ValueError: if the width is out of range, or the gaps are not those of a mask of this size.
    """
    if width not in GAP_WIDTHS:
        raise ValueError(f"gap width is {width}, allowed are {GAP_WIDTHS[0]} to {GAP_WIDTHS[-1]}")
    largest = 2**width - 1
    numbers = unpack(packed, width, packed.size * 8 // width).astype(np.int64)
    ends = np.cumsum(np.where(numbers < largest, numbers + 1, largest))
    marked = ends[numbers < largest] - 1
    reached = int(ends[-1]) if ends.size else 0
    if reached < size or (marked.size and marked[-1] >= size):
        raise ValueError(f"gaps reach {reached} weights, expected {size}")
    mask = np.zeros(size, bool)
    mask[marked] = True
    return mask


def _gaps(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the gap in front of each marked entry, and the number of entries behind the last."""
    marked = np.flatnonzero(mask)
    return np.diff(marked, prepend=-1) - 1, mask.size - 1 - int(marked[-1] if marked.size else -1)


def _fillers(gaps: np.ndarray, width: int) -> np.ndarray:
    counts: np.ndarray = gaps // (2**width - 1)
    return counts
