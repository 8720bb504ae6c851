"""Interleaved rounds: A B C, A B C, ...; each contender in a process of its own each time."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench.contenders import Contender, Interpreters, measure
from jaxsnn.errors import UserError

SLOW_MS = 4000  # a step; a contender that needs longer is measured in `SLOW_ROUNDS` rounds only
SLOW_ROUNDS = 2

Entries = dict[str, tuple[Contender, dict[str, Any]]]  # row -> who, and its problem


@dataclass(frozen=True)
class Effort:
    """How long is measured.

    Attributes:
      rounds: processes for each row.
      seconds: time measured in each of them.
      interpreters: who runs them.
      say: called with a line about what is going on.
      warn: called with a line about what went wrong.
    """

    rounds: int
    seconds: float
    interpreters: Interpreters
    say: Callable[[str], None] = field(default=lambda line: None)
    warn: Callable[[str], None] = field(default=lambda line: None)


def measure_all(title: str, entries: Entries, effort: Effort) -> dict[str, list[dict[str, Any]]]:
    """Return what each entry's processes measured, the rounds interleaved.

    A peer that fails is left out, with a warning, and the others go on; ours may not fail.
    """
    failed = set()
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in entries}
    with tempfile.TemporaryDirectory() as folder:
        files = save({id(problem): problem for _, problem in entries.values()}, Path(folder))
        for number in range(effort.rounds):
            for name, (contender, problem) in entries.items():
                slow = any(run["median_ms"] > SLOW_MS for run in results[name])
                if name in failed or (slow and number >= SLOW_ROUNDS):
                    continue
                effort.say(f"{title}: round {number + 1}/{effort.rounds}, {name}")
                file = files[id(problem)]
                try:
                    found = measure(contender, file, effort.seconds, effort.interpreters)
                except UserError as error:
                    if contender.is_ours:
                        raise
                    failed.add(name)
                    effort.warn(f"{title}: {name} is left out: {error}")
                else:
                    results[name].append(found)
    return {name: runs for name, runs in results.items() if name not in failed}


def save(problems: dict[int, dict[str, Any]], folder: Path) -> dict[int, Path]:
    """Write each problem to a file, and return where."""
    files = {}
    for number, (key, problem) in enumerate(problems.items()):
        files[key] = folder / f"problem{number}.npz"
        np.savez(files[key], **problem)
    return files
