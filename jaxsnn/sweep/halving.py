"""Successive halving: which lanes of a search are worth more epochs.

A lane of E epochs is judged at rungs, after

    r_k = floor(E / keep^k)  epochs,   k = 1, 2, ... while r_k >= 1

against all lanes that came to that rung so far, its own among them. It goes on if it is among the
best `1 / keep` of them, rounded up, in the order of `fronts.ranking`; otherwise a new point takes
its place. Nobody waits for others: early lanes are judged against few.

References: Li et al. 2020, https://arxiv.org/abs/1810.05934, algorithm 2 (asynchronous successive
halving; there a lane that waits may be promoted later, here it is gone); Schmucker et al. 2021,
https://arxiv.org/abs/2106.12639 (several objectives).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxsnn.arrays import check_whole
from jaxsnn.sweep.fronts import ranking

__all__ = ["Rungs", "losers", "rungs_of"]


class Rungs(NamedTuple):
    """When lanes are judged."""

    ages: tuple[int, ...]  # epochs of a lane, ascending, the last before the end
    segment: int  # epochs between two looks at the lanes; divides all ages and the whole


def rungs_of(epochs: int, keep: int | None) -> Rungs:
    """Return the rungs of a training, none without halving.

    >>> rungs_of(9, 3)
    Rungs(ages=(1, 3), segment=1)
    >>> rungs_of(20, 3)
    Rungs(ages=(2, 6), segment=2)

    Args:
      epochs: of a whole training, E.
      keep: of so many lanes one goes on, in [2, E]; None for no halving.

    Raises:
      UserError: if there are fewer epochs than that.
    """
    check_whole("epochs", epochs, 1, 1 << 20)
    if keep is None:
        return Rungs((), epochs)
    check_whole("halving", keep, 2, max(epochs, 2))
    check_whole("epochs with halving", epochs, keep, 1 << 20)
    count = math.floor(math.log(epochs) / math.log(keep) + 1e-9)
    ages = tuple(epochs // keep**k for k in range(count, 0, -1))
    return Rungs(ages, math.gcd(*ages, epochs))


def losers(
    mine: Sequence[Sequence[float]], others: Sequence[Sequence[float]], keep: int
) -> list[bool]:
    """Return which lanes that have come to a rung end there.

    >>> losers([[0.1], [0.3]], [[0.2]], keep=2)
    [False, True]

    Args:
      mine: losses of each of them, less is better.
      others: losses of those that were there before.
      keep: of so many lanes one goes on.
    """
    order = ranking(np.asarray([*mine, *others], np.float64))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return [bool(each >= math.ceil(len(order) / keep)) for each in place[: len(mine)]]
