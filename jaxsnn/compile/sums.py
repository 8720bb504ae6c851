"""Weighted sums as lists of places to add up, for words that hold many small values each.

A word of values of 8 bits adds up 8 or more values at a time as long as no sum reaches 256. So a
sum is cut into parts that cannot: each is

    factor * (((run 1) * 2 + run 2) * 2 + run 3 ...)

where a run is a list of places whose values are added. Weights are signed powers of two added up;
those with a minus go to parts of their own.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from jaxsnn.compile.digits import signed_digits

__all__ = ["Part", "SumLists", "list_sums"]


@dataclass(frozen=True)
class Part:
    """Values to add up without overflow: runs of places, the highest power of two first."""

    factor: int
    runs: tuple[tuple[int, ...], ...]

    @property
    def numbers(self) -> list[int]:
        """Return how C reads it: factor, number of runs, their lengths."""
        return [self.factor, len(self.runs), *map(len, self.runs)]


EMPTY = Part(0, ())


@dataclass(frozen=True)
class SumLists:
    """The sums of a layer's outputs, their parts in pairs."""

    parts: tuple[tuple[Part, ...], ...]  # of each output, an even number
    largest: int  # no sum is further from 0, nor any sum of some of its parts

    @property
    def runs(self) -> list[int]:
        """Return for each output: number of pairs, then the numbers of its parts."""
        found: list[int] = []
        for parts in self.parts:
            found.append(len(parts) // 2)
            for part in parts:
                found += part.numbers
        return found

    @property
    def places(self) -> list[int]:
        """Return the places, part after part."""
        return [
            place for parts in self.parts for part in parts for run in part.runs for place in run
        ]

    @property
    def factors(self) -> np.ndarray | None:
        """Return `f`, int64 `[O]`, if each sum is `f` times what one part has more than another."""
        found = [[part.factor for part in parts] for parts in self.parts]
        single = all(len(each) == 2 and each[0] == -each[1] for each in found)
        return np.array([each[0] for each in found]) if single else None


def list_sums(weights: np.ndarray, places: np.ndarray, high: int, bits: int) -> SumLists:
    """Return the lists of a matrix of weights.

    Args:
      weights: int64 `[inputs, O]`.
      places: int64 `[inputs]`: where each input lies.
      high: largest value of an input; the least is 0.
      bits: of a value in a word.

    Example:
      >>> sums = list_sums(np.array([[3], [-1]]), np.array([10, 20]), 1, 8)
      >>> [(part.factor, part.runs) for part in sums.parts[0]]
      [(1, ((10,), (), ())), (-1, ((10, 20),))]
    """
    limit = (2**bits - 1) // high
    found = tuple(_parts(weights[:, o], places, limit) for o in range(weights.shape[1]))
    most = max((sum(_reach(part, high) for part in parts) for parts in found), default=0)
    return SumLists(found, most)


def _reach(part: Part, high: int) -> int:
    size = 0
    for run in part.runs:
        size = 2 * size + len(run)
    return abs(part.factor) * size * high


def _parts(column: np.ndarray, places: np.ndarray, limit: int) -> tuple[Part, ...]:
    used = np.flatnonzero(column)
    common = int(np.gcd.reduce(column[used])) if len(used) else 1
    digits: dict[int, dict[int, list[int]]] = {1: {}, -1: {}}  # sign -> power -> places
    for place, weight in zip(places[used].tolist(), column[used].tolist(), strict=True):
        for power, sign in signed_digits(weight // common):
            digits[sign].setdefault(power, []).append(place)
    parts = [
        [Part(sign * common << power, runs) for power, runs in _cut(powers, limit)]
        for sign, powers in digits.items()
    ]
    more, less = parts[0] or [Part(common, ())], parts[1] or [Part(-common, ())]
    return (*more, *less, EMPTY) if (len(more) + len(less)) % 2 else (*more, *less)


def _cut(
    powers: dict[int, list[int]], limit: int
) -> Iterable[tuple[int, tuple[tuple[int, ...], ...]]]:
    """Yield the power of two and the runs of each part, none with more than `limit` addends."""
    runs: list[tuple[int, ...]] = []
    size = 0
    for power in range(max(powers, default=-1), -1, -1):
        left = sorted(powers.get(power, ()))
        if runs and 2 * size + len(left) > limit:
            yield power + 1, tuple(runs)
            runs, size = [], 0
        while len(left) > limit:
            yield power, (tuple(left[:limit]),)
            left = left[limit:]
        if runs or left:
            runs.append(tuple(left))
            size = 2 * size + len(left)
    if runs:
        yield 0, tuple(runs)
