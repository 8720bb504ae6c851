"""The command `jaxsnn compile`: a packed network as one C file."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from tyro import conf

from jaxsnn import compile as compiling
from jaxsnn import data
from jaxsnn.compile import trial
from jaxsnn.compile.call import plan_of
from jaxsnn.compile.source import Source
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
    processor: Literal["amx", "avx512_vnni", "avx2", "other"] | None = None
    """What to make the C fast for, by what multiplies there; this machine's if left out. It is
    right on any."""
    test: Flag = False
    """Also write a program, OUT_test.c, that reads samples and prints their scores; for mcu with a
    linker script, OUT_test.ld: it runs on an emulated Cortex-M (docs/deploying.md)."""
    flash: int | None = None
    """Bytes of constants that a microcontroller has room for; refused if they are more."""
    ram: int | None = None
    """Bytes of memory that a microcontroller has; refused if the network takes more."""
    allow_rounding: Flag = False
    """Also compile a network that integers only come near to."""

    def run(self) -> None:
        """Write the files, and print what they take."""
        self._check_options()
        model = load(self.file)
        inputs, name = model.known_inputs(), self.name
        if name is None:
            name = re.sub(r"\W", "_", self.out.stem, flags=re.ASCII).lstrip("0123456789") or "net"
        notes = {"from": self.file.name} | model.metadata
        try:
            source = compiling.to_c(
                model.network, inputs, name=name, target=self.target, notes=notes,
                processor=self.processor, allow_rounding=self.allow_rounding,
            )  # fmt: skip
        except UserError as error:
            raise UserError(f"{self.file}: {error}") from None
        self._check_room(source)
        write_atomic(self.out, source.code)
        write_atomic(self.out.with_suffix(".h"), source.header)
        if self.test:
            plan = plan_of(model.network, inputs, allow_rounding=True)
            self._write_test(trial.program(plan, name, self.out.with_suffix(".h").name))
        print(
            f"{self.out}: {len(source.code):,} bytes of C; one sample at a time takes "
            f"{source.table_bytes:,} bytes of tables and {source.state_bytes:,} of memory"
        )

    def _check_options(self) -> None:
        if self.out.suffix != ".c":
            raise UserError(f"--out {self.out}: must end in .c")
        for option, size in (("--flash", self.flash), ("--ram", self.ram)):
            if size is not None and self.target != "mcu":
                raise UserError(f"{option} is for --target mcu, found --target {self.target}")
            if size is not None and not 0 < size < 2**32:
                raise UserError(f"{option} {size}: must be 1 to {2**32 - 1} bytes")

    def _check_room(self, source: Source) -> None:
        """Refuse a network that does not fit; the code itself and the stack come on top."""
        for option, size, needed, what in (
            ("--flash", self.flash, source.table_bytes, "tables"),
            ("--ram", self.ram, source.state_bytes, "memory"),
        ):
            if size is not None and needed > size:
                raise UserError(
                    f"{self.file}: takes {needed:,} bytes of {what}, more than {option} {size}"
                )

    def _write_test(self, program: str) -> None:
        stem = self.out.with_suffix("")
        write_atomic(Path(f"{stem}_test.c"), program)
        if self.target == "mcu":
            script = trial.linker_script(self.flash or trial.FLASH, self.ram or trial.RAM)
            write_atomic(Path(f"{stem}_test.ld"), script)


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
