"""Which of many networks nobody beats: the Pareto front, and how good it is as a whole."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxsnn.errors import UserError

__all__ = ["hypervolume", "pareto"]


def pareto(cost: Any, value: Any) -> np.ndarray:
    """Return the points that no other beats: the Pareto front.

    Point `i` is beaten if for some `j`, `cost_j <= cost_i` and `value_j >= value_i`, one of them
    strictly. Of equal points all stay, and none that is not finite.

    >>> pareto([1, 2, 3, 3], [0.5, 0.9, 0.8, 0.95]).tolist()
    [0, 1, 3]

    Args:
      cost: `[N]`, less is better: bytes, operations.
      value: `[N]`, more is better: accuracy.

    Returns:
      Indices of the front, the cheapest first, int64.
    """
    cost, value = _pair(cost, value)
    usable = np.flatnonzero(np.isfinite(cost) & np.isfinite(value))
    order = usable[np.lexsort((-value[usable], cost[usable]))]
    front: list[int] = []
    best, at = -np.inf, np.nan  # the best value so far, and the cost at which it was reached first
    for i in order:
        if value[i] > best or (value[i] == best and cost[i] == at):
            front.append(int(i))
            best, at = value[i], cost[i]
    return np.asarray(front, np.int64)


def hypervolume(cost: Any, value: Any, reference: Sequence[float]) -> float:
    """Return the area that a front dominates, up to a reference point.

        the area of  union over i of  [cost_i, c] x [v, value_i]        (c, v) the reference

    It grows with every point that the front gains. Points beyond the reference do not count.

    >>> hypervolume([1.0, 2.0], [0.5, 0.9], (3.0, 0.0))
    1.4

    Args:
      cost: `[N]`, less is better.
      value: `[N]`, more is better.
      reference: the greatest cost and the least value that count, such as those of the dense
        network and of chance; divide by their rectangle for a share.

    References: Zitzler and Thiele 1998, https://doi.org/10.1007/BFb0056872.
    """
    cost, value = _pair(cost, value)
    worst, least = (float(each) for each in reference)
    front = [i for i in pareto(cost, value) if cost[i] < worst and value[i] > least]
    area, height = 0.0, least
    for i in front:
        area += (worst - cost[i]) * (value[i] - height)
        height = value[i]
    return float(area)


def _pair(cost: Any, value: Any) -> tuple[np.ndarray, np.ndarray]:
    cost, value = np.asarray(cost, np.float64), np.asarray(value, np.float64)
    if cost.shape != value.shape or cost.ndim != 1:
        raise UserError(f"a front needs as many costs as values, found {cost.shape}, {value.shape}")
    return cost, value
