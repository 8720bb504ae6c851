"""One experiment on several processes: the files of one, written by the first; lines for mistakes.

Each test starts some: `pytest -m slow tests/experiments/test_processes.py`.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from experiments.common import ProcessOptions, RunOptions, processes
from experiments.sweep import config as sweep
from jaxsnn.errors import UserError

ROOT = Path(__file__).parents[2]
LONGEST = 400  # seconds
SMALL = (
    "--preset smoke --network 8-{classes} --limit 160 --order together --no-control "
    "--dense-epochs 1"
).split()


@dataclass(frozen=True)
class Config:
    """Options of a toy that runs on several processes."""

    run: RunOptions = RunOptions()
    processes: ProcessOptions = ProcessOptions()


def quickstart(folder, count, *, devices=1, own=None, **environment):
    """Run the smoke preset on several processes; return code, output and errors of each."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    words = [sys.executable, "-m", "experiments.quickstart", "--out", folder, *SMALL]
    running = []
    for number in range(count):
        several = ["--coordinator", address, "--num-processes", str(count), "--process-id", number]
        given = [*words, *(several if count > 1 else []), *(own or {}).get(number, [])]
        env = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)} | environment
        running.append(
            subprocess.Popen(
                [*map(str, given)],
                cwd=ROOT,
                env=env,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )  # fmt: skip
        )
    texts = [process.communicate(timeout=LONGEST) for process in running]
    return [(process.returncode, *text) for process, text in zip(running, texts, strict=True)]


def packed(folder):
    """Return name -> bytes of each file of a run's networks."""
    return {path.name: path.read_bytes() for path in (folder / "models").iterdir()}


@pytest.mark.slow
def test_two_processes_pack_what_one_does_and_go_on_from_it(tmp_path):
    (first, said, _), (second, *silent) = quickstart(tmp_path / "two", 2)
    assert (first, second) == (0, 0) and "report" in said and silent == ["", ""]
    assert quickstart(tmp_path / "one", 1, devices=2)[0][0] == 0
    assert packed(tmp_path / "one") == packed(tmp_path / "two")

    shutil.copytree(tmp_path / "one", tmp_path / "more")
    for done in ("checkpoints/retrain", "models"):
        shutil.rmtree(tmp_path / "more" / done)
    resumed = quickstart(tmp_path / "more", 2, own=dict.fromkeys((0, 1), ["--resume"]))
    assert [code for code, *_ in resumed] == [0, 0]
    assert packed(tmp_path / "one") == packed(tmp_path / "more")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("own", "line"),
    [
        ({1: ["--retrain-epochs", "2"]}, "process 1 was given retrain_epochs = 2, process 0 1; "),
        ({n: ["--batch-size", "31"] for n in (0, 1)}, "--batch-size 31: the 31 samples of a step "),
        ({n: ["--out", "/dev/null/x"] for n in (0, 1)}, "--out /dev/null/x"),
    ],
)
def test_a_mistake_is_one_line_on_every_process(tmp_path, own, line):
    for code, said, errors in quickstart(tmp_path / "run", 2, own=own):
        assert (code, said) == (2, "")
        assert re.fullmatch(rf"error: (process .: )?{re.escape(line)}.*\n", errors), errors
    assert not (tmp_path / "run").exists()


def test_a_program_without_these_options_runs_alone():
    with processes.together(Config()):
        pass
    wrong = Config(processes=ProcessOptions(num_processes=2, process_id=0))
    with pytest.raises(UserError, match="num_processes and process_id need"):
        with processes.together(wrong):
            pass


def test_a_search_takes_workers_instead():
    several = ProcessOptions(coordinator="here:80", num_processes=2, process_id=0)
    with pytest.raises(UserError, match="--coordinator does not go with --search"):
        sweep.Config(search=sweep.SearchOptions(search=4), processes=several).check()
