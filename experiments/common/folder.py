"""The folder of a run: which one, whose it is, and what an earlier process left in it."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.common.processes import LOCAL
from jaxsnn import fields, foreign, report
from jaxsnn.errors import UserError, shortened, shown
from jaxsnn.files import Lock, check_path, is_own, make_folder, remove_temporaries, write_atomic

__all__ = ["CONFIG", "choose", "claim", "read_log", "write_options"]

CONFIG, LOG = "config.json", "metrics.jsonl"
# What may change when a run is resumed.
VOLATILE = LOCAL | {
    "resume", "out", "config", "data_dir", "log", "timing", "cache", "checkpoint_every", "workers",
}  # fmt: skip
RECORD = {"phase": fields.TEXT, "epoch": fields.whole(1), "seconds": fields.NUMBER}
LONGEST_LOG = 1 << 28  # bytes


def choose(experiment: str, options: Mapping[str, Any]) -> Path:
    """Return the folder of a run; nothing is made yet.

    Raises:
      UserError: if the folder is no possible one, has something else in it, or there is no run to
        resume.
    """
    resume = options["resume"]
    if options["out"] is not None:
        directory = Path(options["out"])
        check_path(directory, "--out")
        _check_state(directory, resume)
        return directory
    stem = "-".join([experiment, *(str(options[name]) for name in ("dataset", "preset", "seed"))])
    names = [Path("runs") / stem, *(Path("runs") / f"{stem}-{n}" for n in range(2, 10_000))]
    free = next(i for i, path in enumerate(names) if _is_free(path))
    if not resume:
        return names[free]
    if free == 0:
        raise UserError(f"--resume: there is no run in {names[0]}; start one without --resume")
    return names[free - 1]


def claim(directory: Path, resume: bool) -> Lock:
    """Make a folder, keep it to this process, and remove what killed processes left half written.

    Raises:
      UserError: if it cannot be made or written to, another process has it, or had it meanwhile.
    """
    make_folder(directory, "--out")
    lock = Lock(directory, "--out")
    _check_state(directory, resume)
    remove_temporaries(directory)
    return lock


def write_options(directory: Path, options: Mapping[str, Any]) -> None:
    """Write the options of a run to its folder; those of a resumed run must be the same.

    Raises:
      UserError: naming the option that differs, with both values.
    """
    path, new = directory / CONFIG, report.to_json(options)
    if options["resume"]:
        what = "a run's configuration"
        old = foreign.read_json(path, what)
        if not isinstance(old, dict):
            raise UserError(f"--resume: {path} is not {what}: found a {type(old).__name__}")
        for name in sorted((old.keys() | new.keys()) - VOLATILE):
            if old.get(name) != new.get(name):
                raise UserError(
                    f"--resume: the run in {directory} has {shortened(name)} = "
                    f"{shown(old.get(name))}, not {shown(new.get(name))}; "
                    "give the same options"
                )
    write_atomic(path, json.dumps(new, indent=2) + "\n")


def read_log(directory: Path) -> list[dict[str, Any]]:
    """Return the records of the epochs of a run so far; a torn last line is none.

    Raises:
      UserError: naming the line that is no record, or one of an epoch that another is of.
    """
    path, what = directory / LOG, "a run's log"
    if not path.exists():
        return []
    *lines, torn = foreign.read_bytes(path, what, LONGEST_LOG).split(b"\n")
    places = [f"--resume: {path}, line {number}" for number in range(1, len(lines) + 1)]
    found = [_record(place, line) for place, line in zip(places, lines, strict=True)]
    with contextlib.suppress(UserError):  # a line without its end may lack more
        found.append(_record("", torn))
    seen: set[tuple[str, int]] = set()
    for place, record in zip([*places, f"--resume: {path}"], found, strict=False):
        if (epoch := (record["phase"], record["epoch"])) in seen:
            where = f"{place}: phase {shown(epoch[0])}, epoch {epoch[1]}"
            raise UserError(f"{where} stands there twice")
        seen.add(epoch)
    return found


def _record(place: str, line: bytes) -> dict[str, Any]:
    record = foreign.parse_json(place, "a record of a run's log", line)
    is_object = isinstance(record, dict)
    needed = {k: v for k, v in record.items() if k in RECORD} if is_object else record
    fields.check(place, needed, RECORD)
    return dict(record)


def _is_free(directory: Path) -> bool:
    """Return whether there is nothing in a folder but what a killed process left."""
    try:
        return all(is_own(path.name, CONFIG) for path in directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False


def _check_state(directory: Path, resume: bool) -> None:
    if resume and not (directory / CONFIG).exists():
        raise UserError(f"--resume: {directory} holds no run (no {CONFIG}); start one without it")
    if not resume and directory.is_file():
        raise UserError(f"--out {directory} is a file; choose another name")
    if not resume and not _is_free(directory):
        raise UserError(f"--out {directory} is not empty; add --resume or choose another")
