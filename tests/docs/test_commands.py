"""The programs and options that the docs name exist."""

import contextlib
import importlib
import importlib.util
import io
import re
import runpy
import sys
from functools import cache
from pathlib import Path

import pytest

from experiments.common import Experiment, flat
from jaxsnn import cli
from jaxsnn.cli import arguments

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")

pytestmark = pytest.mark.run


@cache
def options_of(*command: str) -> frozenset[str]:
    """Return the options of a program: of an experiment its fields, of others what `--help` names.

    That the help of an experiment shows its fields is tested in the contract of the experiments.
    """
    first, *words = command
    if experiment := experiment_of(first):
        flags = [arguments.flag(name) for name in flat(experiment.config())]
        off = [flag.replace("--", "--no-", 1) for flag in flags]  # of what is on by itself
        return frozenset({"--help", *flags, *off})
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(sys, "argv", [first, *words, "--help"])
        with pytest.raises(SystemExit) as stop:
            if first == "jaxsnn":
                cli.main()
            else:
                runpy.run_module(first, run_name="__main__", alter_sys=True)
    assert not stop.value.code, f"{' '.join(command)} --help"
    return frozenset(OPTION.findall(out.getvalue()))


def experiment_of(module: str) -> Experiment | None:
    """Return the value EXPERIMENT of a module or of its module `run`, None if there is none."""
    for name in (module, f"{module}.run"):
        if importlib.util.find_spec(name):
            if found := getattr(importlib.import_module(name), "EXPERIMENT", None):
                return found
    return None


def documented() -> dict[tuple[str, ...], dict[str, set[str]]]:
    """Return program -> page -> options that the page uses it with."""
    found: dict[tuple[str, ...], dict[str, set[str]]] = {}

    def note(program: tuple[str, ...], page: Path, options: list[str]) -> None:
        name = page.relative_to(ROOT).as_posix()
        found.setdefault(program, {}).setdefault(name, set()).update(options)

    for page in PAGES:
        text = re.sub(r"<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for name, rest in re.findall(r"-m (experiments(?:\.[a-z_]+)+)([^`\n]*)", text):
            note((name,), page, OPTION.findall(rest))
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
            for name, rest in re.findall(r"(?m)^jaxsnn ([a-z]+)(.*)$", block):
                note(("jaxsnn", name), page, OPTION.findall(rest))
        last = text.partition("## Options that matter")[2]
        if last:
            note((f"experiments.{page.stem}",), page, OPTION.findall(last))
    return found


DOCUMENTED = documented()


@pytest.mark.parametrize("program", DOCUMENTED, ids=" ".join)
def test_a_program_has_the_options_that_the_docs_use(program):
    known = options_of(*program)
    missing = {page: sorted(used - known) for page, used in DOCUMENTED[program].items()}
    assert {page: options for page, options in missing.items() if options} == {}
