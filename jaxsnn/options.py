"""Options of a method as a frozen dataclass whose fields know their range.

    @checked
    class Options:
        sparsity: Annotated[PerLayer, Range(0, 1, open_high=True)] = 0.9
        '''Share of the weights to remove.'''

The range is checked once, when the options are made, for the command line and the library alike.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from jaxsnn.arrays import check_range, check_whole
from jaxsnn.errors import UserError, shown

__all__ = ["PerLayer", "Range", "Whole", "checked", "recipe_of", "replaced"]

Options = TypeVar("Options")

PerLayer = float | Mapping[str, float]
"""One number for all layers, or pattern of layer names -> number, `{"conv*": 0.8, "out": 0.5}`."""


@dataclass(frozen=True)
class Range:
    """The interval that a number must lie in."""

    low: float
    high: float = float("inf")
    open_low: bool = False
    open_high: bool = False

    def check(self, name: str, value: Any) -> None:
        """Raise a `UserError` that names the option unless all its numbers lie in the interval."""
        for each in value.values() if isinstance(value, Mapping) else (value,):
            check_range(
                name, each, self.low, self.high, open_low=self.open_low, open_high=self.open_high
            )


@dataclass(frozen=True)
class Whole:
    """The interval that a whole number must lie in."""

    low: int
    high: int = 1 << 20

    def check(self, name: str, value: Any) -> None:
        """Raise a `UserError` that names the option unless all its numbers are whole and inside."""
        for each in value.values() if isinstance(value, Mapping) else (value,):
            check_whole(name, each, self.low, self.high)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def checked(kind: type[Options]) -> type[Options]:
    """Make a class a frozen dataclass that checks its ranges; all fields are keywords.

    Fields annotated with `Range`, `Whole` or `Literal` are checked; `None` passes where the type
    allows it. A method `check(self)` of the class, if there is one, checks what depends on several
    fields.

    Example:
      >>> @checked
      ... class Mine:
      ...     rate: Annotated[float, Range(0, 1)] = 0.5
      >>> Mine(rate=2)
      Traceback (most recent call last):
      jaxsnn.errors.UserError: rate must be in [0, 1], found 2
    """

    def post_init(self: Any) -> None:
        for name, hint in get_type_hints(kind, include_extras=True).items():
            value = getattr(self, name)
            if get_origin(hint) is Literal and value not in get_args(hint):
                allowed = ", ".join(map(repr, get_args(hint)))
                raise UserError(f"{name} must be one of {allowed}, found {shown(value)}")
            for limit in get_args(hint)[1:] if get_origin(hint) is Annotated else ():
                if isinstance(limit, (Range, Whole)) and value is not None:
                    values = value if isinstance(value, tuple) else (value,)
                    for each in values:
                        limit.check(name, each)
        if hasattr(self, "check"):
            self.check()

    kind.__post_init__ = post_init  # type: ignore[attr-defined]
    return dataclass(frozen=True, kw_only=True)(kind)


def recipe_of(value: PerLayer, where: str = "*/kernel") -> dict[str, float]:
    """Return pattern of leaf names -> number, the recipe that a `PerLayer` stands for.

    >>> recipe_of(0.9), recipe_of({"conv*": 0.8})
    ({'*/kernel': 0.9}, {'conv*/kernel': 0.8})

    Args:
      value: one number, or pattern of layer names -> number.
      where: pattern of the leaves that a single number is for; its last part is the leaf's name.
    """
    if not isinstance(value, Mapping):
        return {where: value}
    leaf = where.rpartition("/")[2]
    return {name if name.endswith(f"/{leaf}") else f"{name}/{leaf}": x for name, x in value.items()}


def replaced(chosen: Options, **fields: Any) -> Options:
    """Return options with some fields replaced, checked again.

    Raises:
      UserError: for a field that there is not.
    """
    known = {each.name for each in dataclasses.fields(chosen)}  # type: ignore[arg-type]
    if unknown := sorted(set(fields) - known):
        raise UserError(f"no option {shown(unknown[0])}; there are: {', '.join(sorted(known))}")
    return dataclasses.replace(chosen, **fields)  # type: ignore[type-var]
