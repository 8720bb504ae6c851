"""The command `jaxsnn`: look into packed networks, evaluate, translate and compare them.

    jaxsnn inspect FILE
    jaxsnn eval FILE --dataset mnist --data-dir DIR
    jaxsnn export FILE --to nir --target snntorch --out net.nir
    jaxsnn compare A B

Tables for people, `--json` for programs. A mistake is one line on stderr and exit code 2.
"""

import sys
from collections.abc import Sequence

from jaxsnn.cli.arguments import parse
from jaxsnn.cli.commands import Command
from jaxsnn.errors import UserError
from jaxsnn.train import host


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code, 2 for a user's mistake.

    Args:
      argv: the arguments; those of the process if None.
    """
    try:
        command = parse(Command, "jaxsnn", __doc__, argv)
        if argv is None:  # a process of our own
            host.tune()
        command.run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0
