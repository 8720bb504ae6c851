"""The command `jaxsnn compile`: a packed network as one C file."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from tyro import conf

from jaxsnn import compile as compiling
from jaxsnn import data
from jaxsnn.compile import events
from jaxsnn.compile.call import plan_of
from jaxsnn.errors import UserError
from jaxsnn.export import Model, load
from jaxsnn.files import write_atomic

__all__ = ["Compile", "accuracy_in_c"]

Flag = conf.FlagCreatePairsOff[bool]


@dataclass(frozen=True)
class Compile:
    """Translate a packed network to one C file and its header; nothing else is needed to run it."""

    file: conf.Positional[Path]
    """A packed network, with its input."""
    out: Path
    """The C file to write, ending in .c; the header goes beside it."""
    name: str | None = None
    """Prefix of the functions; the file's name if left out."""
    target: Literal["cpu", "mcu"] = "cpu"
    """cpu: for one sample and for many; mcu: for one, with little memory and no vectors."""
    allow_rounding: Flag = False
    """Also compile a network that integers only come near to."""

    def run(self) -> None:
        """Write both files, and print what they take."""
        if self.out.suffix != ".c":
            raise UserError(f"--out {self.out}: must end in .c")
        model = load(self.file)
        inputs, name = model.known_inputs(), self.name
        if name is None:
            name = re.sub(r"\W", "_", self.out.stem, flags=re.ASCII).lstrip("0123456789") or "net"
        notes = {"from": self.file.name} | model.metadata
        try:
            source = compiling.to_c(
                model.network, inputs, name=name, target=self.target, notes=notes,
                allow_rounding=self.allow_rounding,
            )  # fmt: skip
        except UserError as error:
            raise UserError(f"{self.file}: {error}") from None
        header = self.out.with_suffix(".h")
        write_atomic(self.out, source.code)
        write_atomic(header, source.header)
        one = events.emit(plan_of(model.network, inputs, allow_rounding=True))
        print(
            f"{self.out}: {len(source.code):,} bytes of C; one sample at a time takes "
            f"{one.table_bytes:,} bytes of tables and {one.state_bytes:,} of memory"
        )


def accuracy_in_c(file: Path, model: Model, split: data.Split) -> float:
    """Return the share of samples that a packed network gets right as machine code.

    Raises:
      UserError: for an input that is drawn at random, which has no C, and as `compile.build`.
    """
    inputs = model.known_inputs()
    if inputs.encoding not in ("direct", "events"):
        raise UserError(f"{file}: --engine c takes pixels or events, not {inputs.encoding} coding")
    try:
        compiled = compiling.build(model.network, inputs, allow_rounding=True)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    scores = compiled(np.asarray(split.images))
    return float((scores.argmax(-1) == np.asarray(split.labels)).mean())
