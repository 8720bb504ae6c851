"""Weights as a stream of bits: a gap to the next weight and its code, as few bits as will do.

A row has the weights from one input to all outputs. In front of each weight that is not zero stands
the gap, the zeros that it skips; a gap that is too long is cut by weights that are zero (Han et al.
2015, https://arxiv.org/abs/1510.00149, section 2). A dense matrix has no gaps: the width 0. A code
is `weight - low`, or, where that is smaller, the place of the weight in a list of levels.
"""

from dataclasses import dataclass

import numpy as np

from jaxsnn.compile.digits import narrowest_type, table

__all__ = ["Stream", "make_stream", "num_bytes"]

GAPS = range(1, 9)  # widths of a gap that are tried, in bits
MOST_LEVELS = 256
BYTES = {"int8_t": 1, "uint8_t": 1, "int16_t": 2, "uint16_t": 2, "int32_t": 4, "uint32_t": 4}


@dataclass(frozen=True)
class Stream:
    """A matrix of weights as bits, lowest bit of a byte first."""

    gap_bits: int
    code_bits: int
    low: int  # the weight of the code 0, without levels
    levels: tuple[int, ...]  # of each code; empty: the weight is `code + low`
    starts: tuple[int, ...]  # where each row begins, in weights; empty: a row has all outputs
    outputs: int
    data: bytes

    @property
    def size(self) -> int:
        """Return the bytes of its tables."""
        return len(self.data) + num_bytes(self.starts) + num_bytes(self.levels, signed=True)

    def tables(self, name: str) -> str:
        """Return the tables in C: `NAME_bits`, `NAME_start`, `NAME_level`."""
        width = self.gap_bits + self.code_bits
        found = [table("uint8_t", f"{name}_bits", list(self.data))] if width else []
        if self.starts:
            found.append(table(narrowest_type(self.starts), f"{name}_start", self.starts))
        if self.levels:
            type_ = narrowest_type(self.levels, signed=True)
            found.append(table(type_, f"{name}_level", self.levels))
        return "".join(found)

    def add(self, name: str, type_: str, scale: str) -> str:
        """Return `NAME_add`, which adds a row times a value, and a scale of the output `o`.

        A sum may wrap on the way: it is proved to fit in the end.
        """
        begin, end = f"at * {self.outputs}", f"from + {self.outputs}"
        if self.starts:
            begin, end = f"{name}_start[at]", f"{name}_start[at + 1]"
        skip = f"    o += take(&r, {self.gap_bits});\n" if self.gap_bits else ""
        width = self.gap_bits + self.code_bits
        reader = f"  Reader r = read_from({name}_bits, from * {width});\n" if width else ""
        times = "" if scale == "1" else f" * (uint32_t){scale}"
        return f"""\
static void {name}_add(uint32_t at, int32_t value, {type_} *to) {{
  const uint32_t from = {begin}, end = {end};
{reader}  uint32_t o = 0;
  for (uint32_t n = from; n < end; n++, o++) {{
{skip}    const int32_t weight = {self._weight(name)};
    to[o] = ({type_})((uint32_t)to[o] + (uint32_t)value * (uint32_t)weight{times});
  }}
}}
"""

    def _weight(self, name: str) -> str:
        if not self.code_bits:
            return str(self.low)
        code = f"take(&r, {self.code_bits})"
        if self.code_bits > 24:  # more than a reader takes at a time
            return f"(int32_t)(take_wide(&r, {self.code_bits}) + (uint32_t){self.low})"
        return f"{name}_level[{code}]" if self.levels else f"(int32_t){code} + ({self.low})"


def make_stream(matrix: np.ndarray) -> Stream:
    """Return a matrix as the stream that takes the fewest bytes.

    Args:
      matrix: int64 `[rows, O]`.
    """
    return min(
        (
            _encode(matrix, gap_bits, listed)
            for gap_bits in _widths(matrix)
            for listed in (False, True)
        ),
        key=lambda stream: (stream.size, stream.gap_bits, bool(stream.levels)),
    )


def num_bytes(numbers: tuple[int, ...], *, signed: bool = False) -> int:
    """Return what a table of numbers takes in the narrowest type."""
    return len(numbers) * BYTES[narrowest_type(numbers, signed=signed)]


def _widths(matrix: np.ndarray) -> list[int]:
    """Return the widths of a gap to try: none, and those near to the mean gap."""
    mean = matrix.size / max(1, int(np.count_nonzero(matrix)))
    middle = int(np.clip(round(np.log2(mean)), GAPS[0], GAPS[-1]))
    return [0, *(k for k in GAPS if abs(k - middle) <= 1)]


def _encode(matrix: np.ndarray, gap_bits: int, listed: bool) -> Stream:
    gaps, weights, starts = _entries(matrix, gap_bits)
    found = np.unique(weights).tolist() or [0]
    listed = listed and len(found) <= MOST_LEVELS
    spread = len(found) - 1 if listed else found[-1] - found[0]
    code_bits = int(spread).bit_length()
    codes = np.searchsorted(found, weights) if listed else weights - found[0]
    bits = np.zeros((len(codes), gap_bits + code_bits), np.uint8)
    for numbers, first, width in ((gaps, 0, gap_bits), (codes, gap_bits, code_bits)):
        for place in range(width):
            bits[:, first + place] = (numbers >> place) & 1
    data = np.packbits(bits.ravel(), bitorder="little").tobytes()
    levels = tuple(found) if listed else ()
    return Stream(gap_bits, code_bits, found[0], levels, tuple(starts), matrix.shape[1], data)


def _entries(matrix: np.ndarray, gap_bits: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Return gaps and weights, row after row, and where each row begins."""
    if not gap_bits:
        return np.zeros(matrix.size, np.int64), matrix.ravel(), []
    cut = 2**gap_bits
    gaps: list[int] = []
    weights: list[int] = []
    starts = [0]
    for row in matrix:
        before = -1
        for output in np.flatnonzero(row).tolist():
            gap = output - before - 1
            before = output
            gaps += [cut - 1] * (gap // cut) + [gap % cut]
            weights += [0] * (gap // cut) + [int(row[output])]
        starts.append(len(weights))
    return np.asarray(gaps, np.int64), np.asarray(weights, np.int64), starts
