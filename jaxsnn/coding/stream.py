"""Which weights of a leaf are kept, and their codes, as one stream of an adaptive entropy coder.

The stream is four bytes, then the lanes and words of `rans`:

    0   log2 of the lanes, and 16 times log2 of the weights of a step
    1   share of the marked weights in 256ths, 1 to 255; 0 if all weights are kept
    2   inputs of a group, or 0: the classes of `marks.ByGroup` or `marks.ByScore`; and 128 if the
        marked weights are those that are zero, and not those that are kept
    3   symbols of a code, less one

First come the marks of all weights (unless all are kept), 0 or 1, then the codes of those that are
kept, both in steps. The share of a symbol in its class is what came before: a writer sends no
tables, and a reader counts as the writer did. The classes of codes are the widths of their
channels.

Letters in shapes: `n` weights of a leaf, `k` of them kept, `O` output channels (the last axis).
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxsnn.coding import groups, rans
from jaxsnn.coding.marks import COUNT, ByGroup, ByScore

__all__ = ["Coded", "read", "write"]

HEAD = 4  # bytes in front of the lanes
NEGATIVE = 128  # in the third byte: the marked weights are those that are zero
BYTES_OF_A_LANE = 400  # a lane costs two of them, half a percent
FEWEST_LANES = 8  # below it a loop over one lane is faster
STEPS = 1 << 13  # of a leaf, unless they are the largest
ROUNDS = 1 << 17  # of a leaf
SINGLE = 1 << 20  # rounds of one lane, which are faster
SMALLEST, LARGEST = 16, 1 << 15  # weights of a step


class Coded(NamedTuple):
    """What a stream holds."""

    kept: np.ndarray  # booleans [n]
    codes: np.ndarray  # uint8 [k], in the order of the weights


class _Codes:
    """The classes of codes by the widths of their channels, as `marks.ByScore` has those of marks.

    The codes of `b` bits are the `2**b` around the middle of those of the most bits, `2**(B - 1)`.
    """

    def __init__(self, widths: np.ndarray | None, kept: np.ndarray, size: int) -> None:
        places = np.flatnonzero(kept)
        self._widths, most = np.zeros(places.size, np.int64), 0
        if widths is not None and widths.size:
            self._widths, most = widths[places % widths.size], int(widths.max())
        width, code = np.ogrid[: most + 1, :size]
        half, middle = 1 << width >> 1, 1 << most >> 1
        inside = (code >= middle - half) & (code < middle + np.maximum(half, 1))
        self.counts = COUNT // 2 * (inside | (width == most))
        self.counts[:, 0] += self.counts.sum(1) == 0

    def classes(self, places: np.ndarray) -> np.ndarray:
        """Return the class of each code of a step."""
        classes: np.ndarray = self._widths[places]
        self._classes = classes
        return classes

    def learn(self, codes: np.ndarray) -> None:
        """Take in what the codes of the step were."""
        np.add.at(self.counts, (self._classes, codes), COUNT)


def write(
    shape: tuple[int, ...],
    kept: np.ndarray,
    codes: np.ndarray,
    widths: np.ndarray | None = None,
) -> np.ndarray:
    """Return the stream of a leaf, bytes.

    Args:
      shape: of the leaf.
      kept: booleans `[n]`.
      codes: of the weights that are kept, whole numbers from 0 to 255, `[k]`; none for a stream of
        marks alone.
      widths: bits of the codes of each output channel, `[O]`; left out, they are of one class.
    """
    size = int(codes.max(initial=0)) + 1
    count = int(np.count_nonzero(kept))
    is_negative = 2 * count > kept.size
    marked = kept.size - count if is_negative else count
    lanes, block = _cut(kept.size, count, marked, size)
    found = []
    for group in (0, *_group_sizes(kept.reshape(shape))):
        segments = []
        share = 0 if count == kept.size else min(max(256 * marked // kept.size, 1), 255)
        if share:
            marks = (kept != is_negative).astype(np.int64)
            segments.append(_modelled(_model(shape, share, group), marks, block))
        if codes.size:
            classes = _Codes(widths, kept, size)
            segments.append(_modelled(classes, codes, block))
        kind = group | NEGATIVE * is_negative
        steps = lanes.bit_length() - 1 | block.bit_length() - 1 << 4
        head = np.array([steps, share, kind, size - 1], np.uint8)
        found.append(np.concatenate([head, rans.write(segments, lanes)]))
    return min(found, key=len)


def read(
    content: np.ndarray,
    shape: tuple[int, ...],
    widths: np.ndarray | None = None,
    *,
    marks_alone: bool = False,
) -> Coded:
    """Return what a stream holds.

    Args:
      content: bytes of `write`.
      shape: of the leaf.
      widths: bits of the codes of each output channel, as for `write`.
      marks_alone: whether it has no codes.

    Raises:
      ValueError: if it is no stream of such a leaf, or would take more steps than any writer's.
    """
    size = math.prod(shape)
    if content.size < HEAD:
        raise ValueError(f"stream has {content.size} bytes, expected {HEAD} at least")
    steps, share, kind, last = content[:HEAD].tolist()
    lanes, block, group = 1 << (steps & 15), 1 << (steps >> 4), kind % NEGATIVE
    rounds = SINGLE if lanes == 1 else lanes * ROUNDS
    if lanes > block or size > rounds or (size > block * STEPS and block < LARGEST):
        raise ValueError(f"stream says steps of {block} in {lanes} lanes for {size:,} weights")
    if group not in (0, *groups.SIZES) or (group and len(shape) < 2):
        raise ValueError(f"stream says groups of {group} in a leaf of the shape {shape}")
    reader = rans.Reader(content[HEAD:], lanes)
    kept = np.ones(size, bool)
    if share:
        marked = _taken(reader, _model(shape, share, group), size, block, bool)
        kept = ~marked if kind & NEGATIVE else marked
    codes = np.zeros(0, np.uint8)
    if not marks_alone:
        model = _Codes(widths, kept, last + 1)
        codes = _taken(reader, model, int(np.count_nonzero(kept)), block, np.uint8)
    reader.end()
    return Coded(kept, codes)


def _cut(size: int, count: int, marked: int, symbols: int) -> tuple[int, int]:
    """Return how many lanes and how many weights of a step to take, powers of two.

    Args:
      size: weights of the leaf.
      count: those that are kept.
      marked: those that are marked.
      symbols: of a code.
    """
    bits = marked * (size // max(marked, 1)).bit_length() + count * (symbols - 1).bit_length()
    lanes = 1 << max((bits // 8 // BYTES_OF_A_LANE).bit_length() - 1, 0)
    if lanes < FEWEST_LANES:
        lanes = 1 if size <= SINGLE else FEWEST_LANES
    while lanes > 1 and size > lanes * ROUNDS:
        lanes *= 2
    block = max(lanes, SMALLEST, 1 << (size >> 11).bit_length())
    return min(lanes, LARGEST), min(block, LARGEST)


def _group_sizes(kept: np.ndarray) -> list[int]:
    """Return the size of the groups of inputs that a mask has, if nearly all of them are full."""
    grouped = groups.search(kept)
    if grouped is None or 8 * np.count_nonzero(kept) < 7 * np.count_nonzero(grouped.marks):
        return []
    return [grouped.m]


def _model(shape: tuple[int, ...], share: int, group: int) -> ByScore | ByGroup:
    return ByGroup(shape, group) if group else ByScore(shape, share)


def _steps(size: int, block: int) -> Iterator[np.ndarray]:
    """Yield the numbers of the weights of each step."""
    for first in range(0, size, block):
        yield np.arange(first, min(first + block, size))


def _modelled(model: Any, symbols: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first slot and the share of each symbol, in the class it has at its step."""
    starts, shares = np.empty(symbols.size, np.int64), np.empty(symbols.size, np.int64)
    for places in _steps(symbols.size, block):
        here, classes, found = symbols[places], model.classes(places), rans.tables(model.counts)
        starts[places] = found[classes, here]
        shares[places] = found[classes, here + 1] - starts[places]
        model.learn(here)
    return starts, shares


def _taken(reader: rans.Reader, model: Any, size: int, block: int, kind: Any) -> np.ndarray:
    """Return so many symbols from a reader, in an array of a type."""
    symbols = np.empty(size, kind)
    for places in _steps(size, block):
        here = reader.take(model.classes(places), rans.tables(model.counts))
        symbols[places] = here
        model.learn(here)
    return symbols
