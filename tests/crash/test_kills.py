"""Every experiment is killed again and again, and ends as the one that was left alone.

    python -m pytest -m slow tests/crash --kills 50

The smallest run of each experiment's smoke preset is a process of its own. SIGKILL hits it at a
random moment, or as soon as a temporary file is seen; the same command with --resume goes on, and
is killed again. At the end the packed models must have the same bytes as those of a run that nobody
disturbed, and the rows of the log and of the results must be equal but for what a clock measured.
"""

import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.experiments.conftest import RUNS

ROOT = Path(__file__).parents[2]
TEMPORARY = re.compile(r"\..+\.\d+|.+\.orbax-checkpoint-tmp.*")
CLOCKS = {"seconds", "train_seconds", "core_seconds", "ms_per_sample", "command", "versions"}
LONGEST = 900  # seconds of a process that hangs
SIGHTS = 10  # the first to the tenth temporary file that is seen

pytestmark = [pytest.mark.slow, pytest.mark.run]


@dataclass
class Tally:
    """What became of the processes of one experiment."""

    name: str
    at_moments: int = 0
    at_sights: int = 0
    survived: int = 0  # kills of runs that ended as the undisturbed one
    runs: int = 0
    pending: int = field(default=0)  # kills of the run that goes on

    @property
    def kills(self):
        return self.at_moments + self.at_sights


def start(name, folder):
    """Start an experiment, or go on with it if it got as far as its configuration."""
    resume = ["--resume"] if (folder / "config.json").exists() else []
    command = [sys.executable, "-m", f"experiments.{name}", "--out", str(folder)]
    log = open(folder.with_suffix(".log"), "a")  # noqa: SIM115  # as long as the process
    with log:
        return subprocess.Popen(
            [*command, *shlex.split(RUNS[name]), *resume],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip


def finish(process, folder):
    """Wait for a process that nobody kills; it must end well."""
    code = process.wait(LONGEST)
    text = folder.with_suffix(".log").read_text()[-3000:]
    assert code == 0, f"exit code {code}:\n{text}"
    assert "Traceback" not in text


def temporaries(folder):
    """Yield the temporary files and folders of a run, some of which are gone at once."""
    stack = [folder]
    while stack:
        try:
            with os.scandir(stack.pop()) as entries:
                for entry in entries:
                    if TEMPORARY.fullmatch(entry.name):
                        yield entry.path
                    elif "." not in entry.name and not entry.name.isdigit():
                        if entry.is_dir(follow_symlinks=False):
                            stack.append(entry.path)
        except OSError:
            continue


def kill_at_moment(process, moment):
    """Kill a process after some seconds; return whether it was still there."""
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        return kill(process)
    return False


def kill_at_sight(process, folder, number):
    """Kill a process when so many temporary files were seen; return whether it came to that."""
    seen = set(temporaries(folder))  # what an earlier one left
    number += len(seen)
    while process.poll() is None:
        seen.update(temporaries(folder))
        if len(seen) >= number:
            return kill(process)
        time.sleep(0.0005)
    return False


def kill(process):
    """Kill a process; return whether the signal came before its end."""
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def without_clocks(value):
    if isinstance(value, dict):
        return {k: without_clocks(each) for k, each in value.items() if k not in CLOCKS}
    return [without_clocks(each) for each in value] if isinstance(value, list) else value


def left_behind(folder):
    """Return what a run leaves for others: bytes of models, rows, results, names of files."""
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {
        "models": {path.name: path.read_bytes() for path in (folder / "models").iterdir()},
        "log": sorted(map(str, without_clocks(log))),
        "results": without_clocks(json.loads((folder / "results.json").read_text())),
        "files": {name for name in names if not name.startswith("checkpoints/")},
    }


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_killed_again_and_again_ends_as_if_left_alone(name, kills, tallies, tmp_path):
    tally, draw = Tally(name), random.Random(name)
    tallies.append(tally)
    began = time.perf_counter()
    finish(start(name, tmp_path / "whole"), tmp_path / "whole")
    duration = 0.6 * (time.perf_counter() - began)  # the next ones compile less
    expected = left_behind(tmp_path / "whole")

    def check(folder):
        found = left_behind(folder)
        for what, value in expected.items():
            assert found[what] == value, f"{what} of {folder} after {tally.pending} kills"
        tally.survived, tally.pending = tally.survived + tally.pending, 0
        tally.runs += 1

    share, sights = -(-kills // len(RUNS)), SIGHTS
    folder = tmp_path / "run0"
    while tally.kills < share:
        process = start(name, folder)
        at_sight = tally.kills % 2 == 0
        if at_sight:
            killed = kill_at_sight(process, folder, draw.randint(1, sights))
        else:
            killed = kill_at_moment(process, draw.uniform(0, duration))
        if killed:
            tally.at_sights += at_sight
            tally.at_moments += not at_sight
            tally.pending += 1
            continue
        finish(process, folder)  # it came to its end before
        check(folder)
        folder = tmp_path / f"run{tally.runs}"
        duration, sights = 0.7 * duration, max(1, sights - 2)
    finish(start(name, folder), folder)
    check(folder)
