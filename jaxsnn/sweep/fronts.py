"""Which of many networks nobody beats: the Pareto front, and how good it is as a whole."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxsnn.errors import UserError

__all__ = ["beaten", "hypervolume", "pareto", "ranking"]


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


def beaten(losses: Any) -> np.ndarray:
    """Return which points some other one beats, of any number of losses.

    Point `i` is beaten if for some `j` no loss of `j` is greater and one is less. A point with a
    loss that is not finite is beaten.

    >>> beaten([[1.0, 0.5], [2.0, 0.1], [2.0, 0.5]]).tolist()
    [False, False, True]

    Args:
      losses: `[N, M]`, less is better.

    Returns:
      bool `[N]`.
    """
    losses = _table(losses)
    losses = np.where(np.isfinite(losses).all(1, keepdims=True), losses, np.inf)
    above, below = np.expand_dims(losses, 0), np.expand_dims(losses, 1)
    beats = (below <= above).all(-1) & (below < above).any(-1)  # [j, i]
    found: np.ndarray = beats.any(0) | ~np.isfinite(losses).all(1)
    return found


def ranking(losses: Any) -> np.ndarray:
    """Return the points in the order in which to keep them, the best first.

    Fronts follow each other: who is on the first one nobody beats, on the second one nobody but
    the first. Within a front the one with the least first loss comes first; each further one is the
    farthest from those before. Distances are between the ranks of losses, so units do not matter.
    Points with a loss that is not finite come last.

    >>> ranking([[0.0, 3.0], [1.0, 1.0], [2.0, 2.0], [3.0, 0.0]]).tolist()
    [0, 3, 1, 2]

    Args:
      losses: `[N, M]`, less is better.

    Returns:
      Indices of all points, int64 `[N]`.

    References: Schmucker et al. 2021, https://arxiv.org/abs/2106.12639, section 3.2 (epsilon-net).
    """
    losses = _table(losses)
    left = np.flatnonzero(np.isfinite(losses).all(1))
    order: list[int] = []
    while left.size:
        behind = beaten(losses[left])
        order += _spread(losses, left[~behind])
        left = left[behind]
    return np.asarray(order + [i for i in range(len(losses)) if i not in set(order)], np.int64)


def _spread(losses: np.ndarray, front: np.ndarray) -> list[int]:
    """Return a front in the order of `ranking`."""
    columns = [np.unique(column, return_inverse=True)[1] for column in losses[front].T]
    ranks = np.stack(columns, 1).astype(np.float64)
    ranks /= np.maximum(ranks.max(0, keepdims=True), 1)
    chosen = [int(np.argmin(losses[front, 0]))]
    distance = np.full(len(front), np.inf)
    while len(chosen) < len(front):
        distance = np.minimum(distance, np.linalg.norm(ranks - ranks[chosen[-1:]], axis=1))
        distance[chosen] = -1
        chosen.append(int(np.argmax(distance)))
    return [int(front[i]) for i in chosen]


def _table(losses: Any) -> np.ndarray:
    table: np.ndarray = np.asarray(losses, np.float64)
    if table.ndim != 2:
        raise UserError(f"losses must be a table [points, losses], found {table.shape}")
    return table


def _pair(cost: Any, value: Any) -> tuple[np.ndarray, np.ndarray]:
    cost, value = np.asarray(cost, np.float64), np.asarray(value, np.float64)
    if cost.shape != value.shape or cost.ndim != 1:
        raise UserError(f"a front needs as many costs as values, found {cost.shape}, {value.shape}")
    return cost, value
