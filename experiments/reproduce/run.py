"""What `experiments.reproduce` does: list the rows, or run some and compare or store them."""

import signal
from pathlib import Path
from typing import Any

import experiments.reproduce
from experiments.reproduce import runs, storing
from experiments.reproduce.comparing import compare
from experiments.reproduce.config import Config
from experiments.reproduce.measured import is_of_today
from experiments.reproduce.rows import ROWS, Row
from jaxsnn.cli import arguments
from jaxsnn.cli.ending import exit_code
from jaxsnn.errors import UserError
from jaxsnn.files import Lock, make_folder


def listing(results: Path, rows: dict[str, Row] = ROWS) -> str:
    """Return a line for each row: its name, minutes, when it was stored, and what it shows."""
    lines = [("row", "minutes", "stored", "engine", "what it shows")]
    for name, row in rows.items():
        minutes, when, engine = f"{row.minutes * len(row.seeds):g}", "no", ""
        if (path := results / f"{name}.json").exists():
            stored = storing.read(path)
            if is_of_today(stored):
                minutes = f"{stored['seconds'] / 60:.0f}"
            when, engine = stored.get("stored", "before"), stored["versions"].get("jaxsnn", "")
        seeds = f"{len(row.seeds)} seed{'s' * (len(row.seeds) > 1)}"
        about = f"{row.dataset}, {seeds}. {row.shows}"
        lines.append((name, minutes, when, engine, about))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)][:-1]
    return "\n".join(
        "  ".join(
            [*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]]
        )
        for line in lines
    )


def chosen(config: Config, rows: dict[str, Row] = ROWS) -> dict[str, Row]:
    """Return the rows that are asked for.

    Raises:
      UserError: for a name that is none.
    """
    if unknown := [name for name in config.only if name not in rows]:
        raise UserError(f"--only {unknown[0]!r} is unknown; choose some of {', '.join(rows)}")
    return {name: rows[name] for name in dict.fromkeys(config.only)}


def reproduce(config: Config, rows: dict[str, Row] = ROWS, start: runs.Start = runs.start) -> bool:
    """Run rows and compare or store them; return whether everything was reproduced.

    Args:
      config: which rows, where.
      rows: that there are.
      start: how a program is started.

    Raises:
      UserError: for an unknown row, one that is not stored, or a run that failed.
    """
    if not config.only:
        print(listing(config.results, rows))
        return True
    asked = chosen(config, rows)
    stored = {} if config.store else {n: storing.read(config.results / f"{n}.json") for n in asked}
    holds = True
    for name, row in asked.items():
        lock = Lock(make_folder(config.out / name, "--out"), "--out")
        found = {
            seed: runs.run_seed(name, row, seed, config.out, config.data_dir, start, rows)
            for seed in config.seeds or row.seeds
        }
        lock.release()
        fresh = storing.gathered(name, row, found)
        if config.store:
            path = config.results / f"{name}.json"
            storing.write(path, fresh)
            print(f"{name}: stored in {path}, {fresh['seconds'] / 60:.0f} minutes")
        else:
            holds &= _printed(name, row, stored[name], fresh)
    return holds


def _printed(name: str, row: Row, stored: dict[str, Any], fresh: dict[str, Any]) -> bool:
    """Print a line for each compared number; return whether all hold."""
    verdicts = list(compare(row, stored, fresh))
    for each in verdicts:
        print(f"{name}  {each.network}  {each.number}: {each.text}  {each.why}")
    lost = sum(not each.holds for each in verdicts)
    print(f"{name}: {len(verdicts) - lost} of {len(verdicts)} numbers reproduced")
    return bool(verdicts) and not lost


def main() -> None:
    """Read the command line; exit with 1 if something was not reproduced, 2 for a mistake."""
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))  # so that the run ends, too
    outcome: list[bool] = []

    def program() -> None:
        about = experiments.reproduce.__doc__
        config = arguments.parse(Config, "python -m experiments.reproduce", about, None)
        outcome.append(reproduce(config))

    code = exit_code(program, "interrupted; the same command goes on")
    raise SystemExit(code or (0 if all(outcome) else 1))
