"""Weights as sums of signed powers of two, and lists of them as C tables."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Gather", "constants", "gather", "narrowest_type", "table"]


@dataclass(frozen=True)
class Gather:
    """For each output, which input bits are added at which power of two, and with which sign.

    A bit that is taken away is added turned over, `-b = (1 - b) - 1`; `constant` has what that
    leaves. So one unsigned counter of `planes` bits is enough for a whole sum.
    """

    runs: tuple[int, ...]  # for each output: number of runs, then (2 * power + flip, length) each
    offsets: tuple[int, ...]  # of the bits, run after run
    constant: np.ndarray  # int64 [O]
    planes: int


def gather(weights: np.ndarray, places: np.ndarray, planes: int, low: int) -> Gather:
    """Return the lists of a matrix of weights.

    Args:
      weights: int64 `[inputs, O]`.
      places: int64 `[inputs]`: offset of each input's first plane.
      planes: of an input.
      low: what an input's planes lack: its value is `planes + low`.
    """
    runs: list[int] = []
    offsets: list[int] = []
    constant = low * weights.sum(0)
    most = 0
    for output in range(weights.shape[1]):
        column = weights[:, output]
        used = np.flatnonzero(column)
        found: dict[tuple[int, int], list[int]] = {}
        for place, weight in zip(places[used].tolist(), column[used].tolist(), strict=True):
            for power, sign in signed_digits(weight):
                for plane in range(planes):
                    found.setdefault((power + plane, sign < 0), []).append(place + plane)
        runs.append(len(found))
        total = 0
        for power, flip in sorted(found):
            bits = found[power, flip]
            runs += [2 * power + flip, len(bits)]
            offsets += bits
            total += len(bits) << power
            constant[output] -= (len(bits) << power) * flip
        most = max(most, total)
    return Gather(tuple(runs), tuple(offsets), constant, max(1, most.bit_length()))


def signed_digits(number: int) -> list[tuple[int, int]]:
    """Return (power, sign) of the fewest signed powers of two that add up to a number.

    >>> signed_digits(7)
    [(0, -1), (3, 1)]
    """
    found, power = [], 0
    while number:
        if number & 1:
            sign = 2 - (number & 3)  # 1 before a 0, -1 before a 1
            found.append((power, sign))
            number -= sign
        number >>= 1
        power += 1
    return found


def narrowest_type(numbers: Iterable[int], *, signed: bool = False) -> str:
    """Return the C type of the fewest bytes that holds the numbers."""
    numbers = list(numbers)
    low, high = min(numbers, default=0), max(numbers, default=0)
    for bits in (8, 16, 32):
        if signed and -(2 ** (bits - 1)) <= low and high < 2 ** (bits - 1):
            return f"int{bits}_t"
        if not signed and 0 <= low and high < 2**bits:
            return f"uint{bits}_t"
    return "int64_t" if signed else "uint64_t"


def constants(
    prefix: str, numbers: Mapping[str, np.ndarray]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return how C reads the numbers of a layer's channels, and the arrays of those that differ.

    Args:
      prefix: of the arrays.
      numbers: name -> int64 `[O]`.

    Returns:
      Name -> expression (a literal, or an array read at `o`), and array -> its definition.
    """
    known, arrays = {}, {}
    for what, values in numbers.items():
        each = values.tolist()
        if len(set(each)) == 1:
            known[what] = f"INT64_C({each[0]})" if abs(each[0]) >= 2**31 else str(each[0])
            continue
        array = f"{prefix}_{what}"
        known[what] = f"{array}[o]"
        arrays[array] = table(narrowest_type(each, signed=True), array, each)
    return known, arrays


def table(type_: str, name: str, numbers: Sequence[int]) -> str:
    """Return a constant array; C has no empty ones, so an empty one holds a 0."""
    words = [str(n) for n in numbers] or ["0"]
    lines, line = [], "  "
    for word in words:
        if len(line) + len(word) > 98:
            lines.append(line.rstrip())
            line = "  "
        line += word + ", "
    lines.append(line.rstrip().rstrip(","))
    return f"static const {type_} {name}[{len(words)}] = {{\n" + "\n".join(lines) + "\n};\n"
