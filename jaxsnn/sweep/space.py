"""What a search draws its points from: ranges of Optuna's, checked as the axes of a grid are."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxsnn.errors import UserError
from jaxsnn.sweep.grid import Axis, points

__all__ = ["Space", "arrays", "checked_space", "need_optuna", "types_of"]

Space = Mapping[str, Any]
"""Axis -> a distribution of `optuna.distributions`, or a list of numbers to choose from."""

Distributions = dict[str, Any]  # axis -> distribution


def need_optuna() -> Any:
    """Return the package optuna, which is an extra.

    Raises:
      UserError: if it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise UserError(
            "a search needs the package optuna: pip install 'jaxsnn-compress[search]'"
        ) from None
    return optuna


def checked_space(space: Space, axes: Mapping[str, Axis] | None = None) -> Distributions:
    """Return the distribution of each axis.

    Args:
      space: axis -> distribution, or numbers to choose from.
      axes: the axes that there are, with their ranges; None lets any name and any finite number
        pass, whole numbers as int32.

    Raises:
      UserError: if there is no axis, one is unknown or its ends are out of range, or it is neither.
    """
    if not isinstance(space, Mapping) or not space:
        raise UserError("the space of a search is empty: give at least one axis with its range")
    distributions = need_optuna().distributions
    found = {
        name: distributions.CategoricalDistribution(list(given))
        if isinstance(given, Sequence) and not isinstance(given, str) and given
        else given
        for name, given in space.items()
    }
    for name, each in found.items():
        if not isinstance(each, distributions.BaseDistribution):
            raise UserError(
                f"axis {name!r} needs a distribution of optuna or a list of numbers, found "
                f"{each!r:.60}"
            )
    whole = types_of(found, axes)
    for name, each in found.items():
        is_float = isinstance(each, distributions.FloatDistribution)
        if is_float and whole[name] == np.int32 and (each.step is None or each.step % 1):
            raise UserError(f"axis {name!r} takes whole numbers: give an IntDistribution")
    return found


def types_of(
    space: Mapping[str, Any], axes: Mapping[str, Axis] | None = None
) -> dict[str, np.dtype[Any]]:
    """Return the type of each axis in the program, int32 or float32.

    Args:
      space: axis -> distribution.
      axes: as in `checked_space`.

    Raises:
      UserError: if an axis is unknown, or its ends are out of range.
    """
    return {name: points({name: _ends(each)}, axes)[name].dtype for name, each in space.items()}


def arrays(
    params: Iterable[Mapping[str, float]], types: Mapping[str, np.dtype[Any]]
) -> dict[str, np.ndarray]:
    """Return points as arrays, axis -> `[N]`.

    >>> arrays([{"bits": 2}, {"bits": 4}], {"bits": np.dtype("int32")})["bits"].tolist()
    [2, 4]
    """
    listed = list(params)
    return {name: np.asarray([each[name] for each in listed], t) for name, t in types.items()}


def _ends(distribution: Any) -> list[float]:
    choices = getattr(distribution, "choices", None)
    ends = (distribution.low, distribution.high) if choices is None else choices
    return list(dict.fromkeys(ends))
