"""Read a command line by tyro, and make one line of whatever is wrong with it."""

import contextlib
import dataclasses
import io
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args

from jaxsnn.errors import UserError

if TYPE_CHECKING:
    from tyro.constructors import (
        ConstructorRegistry,
        PrimitiveConstructorSpec,
        PrimitiveTypeInfo,
    )

__all__ = ["flag", "parse", "words"]

FRAME = "│╭╮╰╯─ "  # what tyro draws around a message; where there is no Unicode, lines of dashes
WHERE = re.compile(r"Error parsing [\w.-]+: (?=(\w+))")  # what tyro writes before a message of ours


def parse(
    kind: Any, prog: str, description: str | None, argv: Sequence[str] | None, **options: Any
) -> Any:
    """Return what the command line says; of an option given twice the last value counts.

    A number for each layer (`options.PerLayer`) is written as `0.9` or as `conv1=0.8,dense*=0.9`.

    Args:
      kind: a dataclass with a default for each option, or a union of such as subcommands.
      prog: how the program is called, for the help.
      description: of the program, for the help.
      argv: the arguments; those of the process if None.
      **options: as of `tyro.cli`.

    Raises:
      UserError: one line for whatever was wrong.
    """
    import tyro

    errors = io.StringIO()
    args = sys.argv[1:] if argv is None else list(argv)
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                kind, prog=prog, description=description, args=args, registry=_registry(), **options
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_message(errors.getvalue(), set(_names(kind)))) from None


def flag(name: str) -> str:
    """Return a field's name as it is written on the command line.

    >>> flag("batch_size")
    '--batch-size'
    """
    return "--" + name.replace("_", "-")


def words(values: Mapping[str, Any], appended: Collection[str] = ()) -> list[str]:
    """Return the command line that gives these values: what `parse` reads.

    Args:
      values: name of an option -> value.
      appended: names of the options that are given once for each of their values
        (`tyro.conf.UseAppendAction`).

    >>> words({"batch_size": 32, "resume": False, "seeds": (0, 1), "bits": {"conv1": 2, "out": 4}})
    ['--batch-size', '32', '--no-resume', '--seeds', '0', '1', '--bits', 'conv1=2,out=4']
    """
    found = []
    for name, value in values.items():
        if isinstance(value, bool):
            found.append(flag(name) if value else flag(f"no_{name}"))
        elif name in appended:
            found += [word for each in value for word in (flag(name), str(each))]
        elif isinstance(value, (list, tuple)):
            found += [flag(name), *map(str, value)]
        elif isinstance(value, Mapping):
            found += [flag(name), _by_layer(value)]
        else:
            found += [flag(name), str(value)]
    return found


def _registry() -> "ConstructorRegistry":
    from tyro.constructors import ConstructorRegistry

    registry = ConstructorRegistry()
    registry.primitive_rule(_per_layer)
    return registry


def _per_layer(info: "PrimitiveTypeInfo") -> "PrimitiveConstructorSpec[Any] | None":
    """Read one number or a number for each layer from one word."""
    from tyro.constructors import PrimitiveConstructorSpec

    parts = set(get_args(info.type))
    if not {float, Mapping[str, float]} <= parts:
        return None
    optional = NoneType in parts

    def read(texts: list[str]) -> Any:
        (text,) = texts
        if optional and text == "None":
            return None
        if "=" not in text:
            return _number(text)
        pairs = [part.partition("=") for part in text.split(",")]
        return {layer: _number(value) for layer, _, value in pairs}

    def write(value: Any) -> list[str]:
        return [_by_layer(value) if isinstance(value, Mapping) else str(value)]

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=("{None}|" if optional else "") + "FLOAT|LAYER=FLOAT,...",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, (int, float, Mapping)) or value is None,
        str_from_instance=write,
    )


def _by_layer(values: Mapping[str, Any]) -> str:
    return ",".join(f"{layer}={value}" for layer, value in values.items())


def _number(text: str) -> float:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither a number nor LAYER=NUMBER,...") from None


def _names(kind: Any) -> Iterator[str]:
    """Return the names of all fields of a dataclass, nested ones and those of a union included."""
    for each in get_args(kind):
        yield from _names(each)
    if dataclasses.is_dataclass(kind):
        for field in dataclasses.fields(kind):
            yield field.name
            yield from _names(field.type)


def _message(box: str, names: set[str]) -> str:
    """Take the message out of the frame that tyro draws around it.

    What an options class says about a field, in the words of the library, names the flag.
    """
    lines = [line.strip(FRAME) for line in box.splitlines()[1:]]
    text = " ".join(line for line in lines if line.strip("-") and "full helptext" not in line)
    if found := WHERE.match(text):
        text = text[found.end() :]
        if found[1] in names:
            text = flag(found[1]) + text[len(found[1]) :]
    return f"{text} (see --help)"
