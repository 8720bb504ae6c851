"""The configurations of a sweep: a grid of numbers, checked before anything is compiled.

A *point* is one configuration, axis -> number. All points of a sweep have the same axes; what a
point gives is traced, so an axis is never what changes a shape.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxsnn.arrays import check_range, check_whole
from jaxsnn.errors import UserError

__all__ = ["AXES", "Axis", "SweepGrid", "point_name", "points"]

SweepGrid = Mapping[str, Sequence[float]] | Sequence[Mapping[str, float]]
"""Axis -> its values, for all combinations; or a list of points, axis -> number."""

INFINITY = float("inf")


class Axis(NamedTuple):
    """The range of an axis."""

    low: float = -INFINITY
    high: float = INFINITY
    open_low: bool = False
    open_high: bool = False
    whole: bool = False  # whole numbers are int32 in the program, others float32

    def check(self, name: str, value: Any) -> None:
        """Raise a `UserError` with the axis' name unless the number is in the range."""
        ends = {"open_low": self.open_low, "open_high": self.open_high}
        check_range(f"axis {name!r}", value, self.low, self.high, **ends)
        if self.whole:
            check_whole(f"axis {name!r}", value, int(self.low), self.high)


# What the parts of this library can trace. An experiment offers those that its run reads.
AXES = {
    "sparsity": Axis(0.0, 1.0, open_high=True),
    "bits": Axis(2, 16, whole=True),
    "penalty": Axis(0.0, INFINITY, open_high=True),
    "spike_weight": Axis(0.0, INFINITY, open_high=True),
    "learning_rate": Axis(0.0, INFINITY, open_low=True, open_high=True),
    "threshold": Axis(0.0, INFINITY, open_low=True, open_high=True),
    "decay": Axis(0.0, 1.0),
    "timesteps": Axis(1, 1 << 20, whole=True),
    "seed": Axis(0, (1 << 31) - 1, whole=True),
}


def points(grid: SweepGrid, axes: Mapping[str, Axis] | None = None) -> dict[str, np.ndarray]:
    """Return the points of a grid as arrays, one number of each for every configuration.

    >>> {name: x.tolist() for name, x in points({"bits": [2, 4], "decay": [0.5]}).items()}
    {'bits': [2, 4], 'decay': [0.5, 0.5]}

    Args:
      grid: axis -> values, all combinations of which are taken, the last axis changing fastest; or
        a list of points with the same axes.
      axes: the axes that there are, with their ranges; None lets any name and any finite number
        pass, whole numbers as int32.

    Returns:
      Axis -> int32 or float32 `[N]`.

    Raises:
      UserError: if the grid is empty, an axis is unknown, a value is out of range or no number, the
        points have different axes, or two of them are the same.
    """
    listed = _product(grid) if isinstance(grid, Mapping) else [dict(each) for each in grid]
    if not listed or not listed[0]:
        raise UserError("the grid is empty: give at least one axis with at least one value")
    names = list(listed[0])
    if other := next((each for each in listed if set(each) != set(names)), None):
        raise UserError(
            f"the points of a sweep need the same axes, found {', '.join(names)} and "
            f"{', '.join(other) or 'none'}"
        )
    found = {}
    for name in names:
        axis = _axis(name, axes)
        values = [_number(name, each[name]) for each in listed]
        for value in values:
            axis.check(name, value)
        is_whole = axis.whole or (axes is None and all(_is_int32(v) for v in values))
        found[name] = np.asarray(values, np.int32 if is_whole else np.float32)
    _check_distinct(found, listed)
    return found


def point_name(point: Mapping[str, Any]) -> str:
    """Return a point in words.

    >>> point_name({"sparsity": np.float32(0.9), "bits": np.int32(4)})
    'sparsity=0.9 bits=4'
    """
    return " ".join(f"{name}={float(value):.6g}" for name, value in point.items())


def _product(grid: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    for name, values in grid.items():
        if isinstance(values, str) or not hasattr(values, "__len__") or not len(values):
            raise UserError(f"axis {name!r} needs a list of at least one number, found {values!r}")
    return [dict(zip(grid, each, strict=True)) for each in itertools.product(*grid.values())]


def _axis(name: str, axes: Mapping[str, Axis] | None) -> Axis:
    if axes is None:
        return Axis(open_low=True, open_high=True)
    if name not in axes:
        raise UserError(
            f"axis {name!r} is no traced number of this run; those are: {', '.join(axes)} (what "
            "changes a shape is an option of the run)"
        )
    return axes[name]


def _number(name: str, value: Any) -> int | float:
    """Return a Python number, whatever scalar it came as."""
    number = value.item() if isinstance(value, (np.generic, np.ndarray)) else value
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise UserError(f"axis {name!r} takes numbers, found {value!r}")
    return number


def _is_int32(value: int | float) -> bool:
    return isinstance(value, int) and abs(value) < 1 << 31


def _check_distinct(found: Mapping[str, np.ndarray], listed: list[dict[str, float]]) -> None:
    seen: dict[tuple[Any, ...], int] = {}
    for i, key in enumerate(zip(*(column.tolist() for column in found.values()), strict=True)):
        if key in seen:
            raise UserError(
                f"points {seen[key] + 1} and {i + 1} of the grid are the same: "
                f"{point_name(listed[i])}"
            )
        seen[key] = i
