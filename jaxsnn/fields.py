"""Fields of data from a file: each of the kind that is expected, none missing, none unknown."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxsnn.errors import UserError, shown

__all__ = [
    "ANY",
    "FLAG",
    "NUMBER",
    "OBJECT",
    "SHAPE",
    "TEXT",
    "Field",
    "check",
    "each",
    "maybe",
    "one_of",
    "several",
    "whole",
    "within",
]

LARGEST = 1 << 32  # of a whole number: no axis is as long, and no CRC-32 is larger
AXES = 64  # of an array of NumPy


class Field(NamedTuple):
    """What a field may hold."""

    what: str  # for the message: "a whole number from 1 on"
    fits: Callable[[Any], bool]


def whole(low: int) -> Field:
    """Return the field of a whole number from `low` on."""
    what = f"a whole number from {low} on"
    return Field(what, lambda value: type(value) is int and low <= value < LARGEST)


def one_of(*choices: str) -> Field:
    """Return the field of one of these words."""
    what = f"one of {', '.join(choices)}"
    return Field(what, lambda value: isinstance(value, str) and value in choices)


def several(field: Field) -> Field:
    """Return the field of a list whose items all fit a field."""
    return Field(
        f"a list, each item {field.what}",
        lambda value: isinstance(value, list) and all(map(field.fits, value)),
    )


def each(field: Field) -> Field:
    """Return the field of an object of any names, whose values all fit a field."""
    return Field(
        f"an object, each value {field.what}",
        lambda value: isinstance(value, dict) and all(map(field.fits, value.values())),
    )


def within(low: float, high: float) -> Field:
    """Return the field of a number in `[low, high]`."""
    return Field(
        f"a number in [{low:g}, {high:g}]",
        lambda value: NUMBER.fits(value) and low <= value <= high,
    )


def maybe(field: Field) -> Field:
    """Return the field that may be null."""
    return Field(f"{field.what}, or null", lambda value: value is None or field.fits(value))


ANY = Field("anything", lambda value: True)
FLAG = Field("true or false", lambda value: isinstance(value, bool))
NUMBER = Field("a finite number", lambda value: type(value) in (int, float) and abs(value) < 1e300)
TEXT = Field("a text", lambda value: isinstance(value, str))
OBJECT = Field("an object", lambda value: isinstance(value, dict))
SHAPE = Field(
    f"a list of at most {AXES}, each item {whole(0).what}",
    lambda value: several(whole(0)).fits(value) and len(value) <= AXES,
)


def check(
    where: str,
    data: Any,
    fields: Mapping[str, Field],
    *,
    optional: Mapping[str, Field] | None = None,
    others: Field | None = None,
) -> dict[str, Any]:
    """Return an object of a file's JSON text if it has exactly these fields, each as expected.

    Args:
      where: what the object is, for the message.
      data: whatever the file has there.
      fields: name -> what it may hold.
      optional: fields that may be missing.
      others: what further fields may hold; left out, there may be none.

    Raises:
      UserError: naming the field, what was found and what was expected.
    """
    if not isinstance(data, dict):
        raise UserError(f"{where} is {shown(data)}, expected an object with {', '.join(fields)}")
    known = {name: each for name, each in (optional or {}).items() if name in data} | dict(fields)
    unknown = sorted(data.keys() - known.keys())
    if unknown and others is None:
        raise UserError(
            f"{where} has the field {shown(unknown[0])}, unknown to this jaxsnn; "
            f"expected {', '.join(fields) or 'none'}"
        )
    for name, field in (*known.items(), *((name, others or ANY) for name in unknown)):
        if name not in data:
            raise UserError(f"{where} lacks the field {name!r}, expected {field.what}")
        if not field.fits(data[name]):
            found = shown(data[name])
            raise UserError(f"{where}: field {name!r} is {found}, expected {field.what}")
    return data
