"""The files of results/: all seeds of a row, their means and errors, and where they come from.

A file has the fields of a run's results.json (`report.results.FIELDS`), `seed` the first one,
`seconds` of all runs, `rows` those of every seed one after the other, `part` in those of a row of
several runs a seed. Beside them

- `seeds`, `commit`, `machine`, `stored` (the date), `commands` of the runs;
- `means`, an object for each network: `name`, `seeds` (how many), the mean of each number,
  `sd` (number -> standard deviation over the seeds, where there are several), and of an accuracy
  its binomial error `accuracy_error` and Wilson's interval `accuracy_low`, `accuracy_high`;
- what else the first run's results.json has, and of each further run under `further`.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from experiments.reproduce import runs
from experiments.reproduce.measured import binomial, by_network, samples_of, spread
from experiments.reproduce.rows import Row
from jaxsnn import report
from jaxsnn.errors import UserError
from jaxsnn.files import write_atomic
from jaxsnn.metrics.intervals import wilson
from jaxsnn.report.results import FIELDS

Found = Mapping[int, Mapping[str, Mapping[str, Any]]]
"""Seed -> part -> the run's results.json with its `origin`."""

# Of a run, what would be taken for all seeds; `means` has it.
OF_ONE = {"mean_accuracy", "spread_of_accuracy", "timing", "origin"}
# Of a row, what is too long for what it is worth here.
LONG = {"confusion"}


def gathered(name: str, row: Row, found: Found) -> dict[str, Any]:
    """Return the content of results/NAME.json for the runs of some seeds."""
    each = [(seed, part, run) for seed, parts in found.items() for part, run in parts.items()]
    first = each[0][2]
    rows = [
        {key: value for key, value in line.items() if key not in LONG}
        | ({"part": part} if part else {})
        for _, part, run in each
        for line in run["rows"]
    ]
    commits = dict.fromkeys(commit for _, _, run in each for commit in run["origin"] if commit)
    whole = {
        "command": f"python -m experiments.reproduce --only {name} --store"
        + (" --data-dir DIR" if row.dataset != "digits" else "")
        + ("" if tuple(found) == row.seeds else f" --seeds {' '.join(map(str, found))}"),
        "seconds": sum(run["seconds"] for _, _, run in each),
        "rows": rows,
        "seeds": list(found),
        "commit": ", ".join(commits) or None,
        "machine": runs.here(),
        "stored": time.strftime("%Y-%m-%d"),
        "commands": [_anywhere(run["command"]) for _, _, run in each],
        "means": means(rows),
    }
    further = [{"seed": seed, "part": part, **_extra(run)} for seed, part, run in each[1:]]
    content = {name: whole.get(name, first[name]) for name in FIELDS} | whole | _extra(first)
    return report.to_json(content | ({"further": further} if any(map(_has_extra, further)) else {}))


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file of results/."""
    write_atomic(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read(path: Path) -> dict[str, Any]:
    """Return a file of results/.

    Raises:
      UserError: if it is missing.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist: nothing to compare with; add --store to make it")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def means(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return for each network the mean and the spread of its numbers over the seeds."""
    found = []
    for lines in by_network(rows).values():
        labels = {key: lines[0][key] for key in ("part", "name") if key in lines[0]}
        numbers: dict[str, Any] = {}
        spreads = {}
        for key in lines[0]:
            values = [float(line[key]) for line in lines if _is_number(line.get(key))]
            if key == "seed" or len(values) < len(lines):
                continue
            numbers[key] = mean(values)
            if len(values) > 1:
                spreads[key] = spread(values)
            if key.endswith("accuracy") and (samples := samples_of(lines[0], key)):
                numbers[f"{key}_error"] = binomial(numbers[key], samples)
                numbers[f"{key}_low"], numbers[f"{key}_high"] = wilson(numbers[key], samples)
        found.append(
            labels | {"seeds": len(lines)} | numbers | ({"sd": spreads} if spreads else {})
        )
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _extra(run: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in run.items() if name not in {*FIELDS, *OF_ONE}}


def _has_extra(further: Mapping[str, Any]) -> bool:
    return len(further) > 2


def _anywhere(command: str) -> str:
    """Return a command with DIR for the folder of the data, RUNS for that of all runs.

    The run's own folder is left out.
    """
    words, kept = command.split(), []
    for before, word in zip(["", *words], words, strict=False):
        if before == "--data-dir":
            kept.append("DIR")
        elif before == "--weights":
            kept.append("/".join(["RUNS", *Path(word).parts[-4:]]))
        elif before != "--out" and word not in ("--out", "--resume"):
            kept.append(word)
    return " ".join(kept)
