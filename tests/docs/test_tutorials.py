"""The three tutorials: nothing is left to fill in, and the commands of the first one run."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.test_code_blocks import ROOT, blocks, check_printed, masked

FOLDER = ROOT / "docs" / "tutorials"
THREE = ("command-line.md", "library.md", "sweep.md")
PAGE = FOLDER / THREE[0]

# What makes an experiment of the page one of seconds, behind the page's own options.
SHORT = "--limit 200 --batch-size 40 --dense-epochs 1 --pull-epochs 1 --retrain-epochs 1"
WITHOUT_DATA = "--dataset cifar10"  # files that are not at hand


@pytest.mark.parametrize("name", THREE)
def test_every_text_behind_code_is_what_was_printed(name):
    """Nothing is left to fill in, and a title says where numbers come from."""
    found = blocks(FOLDER / name)
    assert "@@" not in (FOLDER / name).read_text(encoding="utf-8")
    titles = {block.printed.title for block in found if block.printed is not None}
    assert all(re.fullmatch(r'(title="printed on our machine[^"]*")?', title) for title in titles)


def test_pictures_of_the_tutorials_are_shown():
    shown = {
        name
        for path in FOLDER.glob("*.md")
        for name in re.findall(r"!\[[^\]]+\]\(pictures/([^)]+)\)", path.read_text(encoding="utf-8"))
    }
    assert shown == {path.name for path in (FOLDER / "pictures").iterdir()}


def commands(content: str) -> list[str]:
    """Return the commands of a block, continued lines joined."""
    return content.replace("\\\n", " ").splitlines()


def shortened(command: str) -> list[str]:
    """Return the words of a command of the page, with options that make a run short."""
    words = shlex.split(command)
    is_run = command.startswith("python -m experiments.")
    return [*words, *shlex.split(SHORT)] if is_run else words


def run(words: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess:
    """Run a command of the page in a folder."""
    return subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_the_commands_of_the_page_run_and_print_what_it_shows(tmp_path):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    for block in blocks(PAGE):
        if block.kind == "python":
            script = tmp_path / "block.py"
            script.write_text(block.content)
            assert run([sys.executable, str(script)], tmp_path, environment).returncode == 0
        if block.kind != "sh" or WITHOUT_DATA in block.content:
            continue
        done = [run(shortened(each), tmp_path, environment) for each in commands(block.content)]
        shown = block.printed
        if shown is not None and shown.content.startswith("error: "):
            assert [each.returncode for each in done] == [2] * len(done)
            assert "".join(each.stderr for each in done) == shown.content
            continue
        assert all(each.returncode == 0 for each in done), done[-1].stderr
        if shown is not None:
            printed = "".join(each.stdout for each in done)
            few = re.sub(
                r"^warning: .*\n", "", printed, flags=re.M
            )  # of layers that are silent yet
            check_printed(block, few, f"{PAGE.name}:{block.line}")


def test_a_command_of_the_page_is_made_short():
    assert commands("python -m a \\\n  --b\nc\n") == ["python -m a    --b", "c"]
    assert shortened("python -m experiments.x --y 'a b'")[:5] == [
        "python", "-m", "experiments.x", "--y", "a b",
    ]  # fmt: skip
    assert shortened("jaxsnn inspect x") == ["jaxsnn", "inspect", "x"]
    assert masked("1 2") == "#"
