"""The README is short, its example runs, and its commands are those that CI runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


@pytest.mark.long
def test_the_python_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)


def test_ci_runs_the_readmes_test_command():
    found = re.search(
        r"pip install (-e '\.\[test,docs\]') && \.venv/bin/(python -m pytest.*)", README
    )
    install, test = found.groups()
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert f'"$venv/bin/pip" install --quiet {install}\n' in script
    assert f'"$venv/bin/python" -m {test.removeprefix("python -m ")}' in script


def test_the_quickstart_command_is_given_from_a_fresh_machine():
    command = "python3 -m venv .venv && .venv/bin/pip install -e . && "
    assert command + ".venv/bin/python -m experiments.quickstart" in README


def test_links_lead_to_files():
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", README):
        if not link.startswith("https://"):
            assert (ROOT / link).exists(), link


def test_nothing_is_left_to_fill_in():
    assert "{{" not in README and "@@" not in README and "TODO" not in README
