"""Read a command line by tyro, and make one line of whatever is wrong with it."""

import contextlib
import io
import sys
from collections.abc import Sequence
from typing import Any

from jaxsnn.errors import UserError

FRAME = "│╭╮╰╯─ "  # what tyro draws around a message


def parse(
    kind: Any, prog: str, description: str | None, argv: Sequence[str] | None, **options: Any
) -> Any:
    """Return what the command line says.

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
            return tyro.cli(kind, prog=prog, description=description, args=args, **options)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(one_line(errors.getvalue())) from None


def one_line(box: str) -> str:
    """Take the message out of the frame that tyro draws around it."""
    lines = [line.strip(FRAME) for line in box.splitlines()[1:]]
    lines = [line for line in lines if line and "full helptext" not in line]
    return " ".join(lines) + " (see --help)"
