"""How a program ends: its exit code, and one line for what the user can mend."""

import sys
from collections.abc import Callable

from jaxsnn.errors import UserError
from jaxsnn.files import DISK

__all__ = ["exit_code"]


def exit_code(program: Callable[[], None], interrupted: str = "interrupted") -> int:
    """Run a program and return its exit code: 0, 2 for a user's mistake, 130 if interrupted.

    A mistake, and a disk or an output that takes no more, is one line on stderr. Any other
    exception passes.

    Args:
      program: what to run.
      interrupted: the line for an interruption.

    Example:
      >>> exit_code(lambda: None)
      0
    """
    try:
        program()
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in DISK:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.stdout = None  # nor can it take what is left
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    return 0
