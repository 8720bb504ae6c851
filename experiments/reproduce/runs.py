"""Run a seed of a row by the row's own program, or read it back; nothing that is done is lost."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from experiments.bench import machine
from experiments.common.folder import CONFIG
from experiments.reproduce.config import ROOT
from experiments.reproduce.rows import ROWS, Row
from jaxsnn import report
from jaxsnn.errors import UserError
from jaxsnn.files import make_folder, write_atomic

Start = Callable[[Sequence[str], Path], int]
"""Runs `python -m WORDS`, what it prints goes to the file; returns the exit code."""

RESULTS = "results.json"
LAST = 3  # lines of a failed run's output that are shown
PLACES = {"--out", "--data-dir", "--weights"}  # options that say where, not what


def start(words: Sequence[str], log: Path) -> int:
    """Run a program in a process of its own; it ends with this one, but for a kill of this one."""
    with log.open("ab") as file:
        command = [sys.executable, "-m", *words]
        return subprocess.run(command, cwd=ROOT, stdout=file, stderr=file, check=False).returncode


def run_seed(
    name: str,
    row: Row,
    seed: int,
    folder: Path,
    data_dir: Path | None,
    start: Start = start,
    rows: Mapping[str, Row] = ROWS,
) -> dict[str, dict[str, Any]]:
    """Return the results of a seed's runs, part -> content of results.json with their origin.

    The row that this one starts from is run first, or read back.

    Args:
      name: of the row.
      row: the row.
      seed: which.
      folder: of all runs; this seed's is FOLDER/NAME/seedN, with the part in front if there are.
      data_dir: folder of the data; digits need none.
      start: how a program is started.
      rows: that there are.

    Raises:
      UserError: if a run fails, or its folder has a run with other options.
    """
    place = make_folder(folder / name, "--out").resolve()
    found, weights = {}, list[str]()
    if row.start:
        run_seed(row.start, rows[row.start], seed, folder, data_dir, start, rows)
        dense = folder / row.start / f"seed{seed}" / "models" / "dense.safetensors"
        weights = ["--weights", str(dense.resolve())]
    for part in row.parts:
        stem = re.sub(r"[^\w.]+", "-", f"{part} seed{seed}").strip("-")
        options = row.arguments(seed, part) + weights
        if row.dataset != "digits" and data_dir is not None:
            options += ["--data-dir", str(data_dir.resolve())]
        found[part] = _run(place, stem, [f"experiments.{row.experiment}", *options], start)
    return found


def _run(place: Path, stem: str, words: list[str], start: Start) -> dict[str, Any]:
    """Run one program unless it is done, and return its results and how they came to be."""
    directory, log, beside = place / stem, place / f"{stem}.log", place / f"{stem}.json"
    origin = json.loads(beside.read_text(encoding="utf-8")) if beside.exists() else []
    if not (directory / RESULTS).exists():
        resumed = ["--resume"] * (directory / CONFIG).exists()
        origin = [*(origin if resumed else []), commit()]
        write_atomic(beside, json.dumps(origin) + "\n")
        whole = [*words, "--out", str(directory), *resumed]
        print(f"{stem}: python -m {shlex.join(whole)}", flush=True)
        began = time.time()
        code = start(whole, log)
        if code or not (directory / RESULTS).exists():
            raise UserError(f"the run in {directory} ended with {code}: {_end_of(log)}")
        print(f"{stem}: {(time.time() - began) / 60:.1f} minutes", flush=True)
    results = report.read_results(directory)
    done, asked = _plain(shlex.split(results["command"])), _plain(["python", "-m", *words])
    if done != asked:
        raise UserError(
            f"--out: {directory} has a run of {shlex.join(done)!r}, and this row is "
            f"{shlex.join(asked)!r}; remove that folder or choose another"
        )
    return results | {"origin": origin}


def _plain(words: list[str]) -> list[str]:
    """Return a command without the folders that it reads and writes."""
    kept = [w for before, w in zip(["", *words], words, strict=False) if before not in PLACES]
    return [word for word in kept if word not in (*PLACES, "--resume")]


def _end_of(log: Path) -> str:
    """Return the last lines that a program printed, as one."""
    if not log.exists():
        return "it printed nothing"
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return " | ".join([line.strip() for line in lines if line.strip()][-LAST:]) or f"see {log}"


@cache
def commit() -> str | None:
    """Return the commit of the checkout, "with changes" if its programs have some; None if none."""
    try:
        found = _git("rev-parse", "HEAD")
        changes = _git("status", "--porcelain", "--untracked-files=no", "jaxsnn", "experiments")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{found} with changes" if changes else found


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def here() -> dict[str, Any]:
    """Return what the runs are made on: the processor and the cores that they may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"processor": machine.processor(), "gpu": machine.gpu(), "cores": cores}
