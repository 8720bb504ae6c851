"""The command `jaxsnn`: look into packed networks, evaluate, translate, compile, compare them.

    jaxsnn inspect FILE
    jaxsnn inspect FILE --chip loihi2
    jaxsnn eval FILE --dataset mnist --data-dir DIR
    jaxsnn export FILE --to nir --target snntorch --out net.nir
    jaxsnn import weights.pt --layout 32C3-AP2-10 --shape 28 28 1 ... --out FILE
    jaxsnn compile FILE --out net.c
    jaxsnn compare A B
    jaxsnn --version

`zoo:NAME` in the place of a FILE is a network that comes with the package (docs/zoo.md).

Tables for people, `--json` for programs. A mistake is one line on stderr and exit code 2.
"""

import sys
from collections.abc import Sequence

import jaxsnn
from jaxsnn.cli.arguments import parse
from jaxsnn.cli.commands import Command
from jaxsnn.cli.ending import exit_code
from jaxsnn.train import host
from jaxsnn.zoo import cards

__all__ = ["main"]

ZOO = "zoo:"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code, 2 for a user's mistake.

    Args:
      argv: the arguments; those of the process if None.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments == ["--version"]:
        print(f"jaxsnn {jaxsnn.__version__}")
        return 0

    def program() -> None:
        command = parse(Command, "jaxsnn", __doc__, [_located(each) for each in arguments])
        if argv is None:  # a process of our own
            host.tune()
        command.run()

    return exit_code(program)


def _located(argument: str) -> str:
    """Return an argument, the file of a network of the zoo in the place of its name."""
    if not argument.startswith(ZOO):
        return argument
    return str(cards.checked_file(argument.removeprefix(ZOO)))
