"""The ten commands of docs/deploying.md lead from training to an emulated Cortex-M4."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compile.test_targets import CROSS
from tests.docs.test_code_blocks import blocks
from tests.peers import peer_python

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "deploying.md"


def commands():
    """Return the commands of the page that end on the emulator, a line each."""
    shell = [block.content for block in blocks(PAGE) if block.kind == "sh"]
    (found,) = (content for content in shell if "cortex_m4.py" in content)
    return found.splitlines()


def test_they_are_ten():
    assert len(commands()) == 10


@pytest.mark.slow
def test_the_commands_lead_to_an_emulated_cortex_m4(tmp_path):
    python = peer_python(*CROSS)
    (tmp_path / "emulator" / "bin").mkdir(parents=True)
    peer = tmp_path / "emulator" / "bin" / "python"
    peer.write_text(f'#!/bin/sh\nexec {python} "$@"\n')
    peer.chmod(0o755)
    (tmp_path / "tools").symlink_to(ROOT / "tools")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    for command in commands():
        if "venv" in command or "pip install" in command:
            continue  # the interpreter above has both
        if "quickstart" in command:
            command += " --preset smoke"
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    scores = (tmp_path / "scores.txt").read_text().splitlines()
    assert [len(line.split()) for line in scores] == [10] * 20
