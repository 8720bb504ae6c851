"""Where the figures of each epoch go besides metrics.jsonl: one hook, libraries behind it."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxsnn.errors import UserError
from jaxsnn.files import write_atomic

Log = Sequence[Mapping[str, Any]]
Hook = Callable[[Log], None]
"""Called after each epoch with the records of all epochs so far, in order."""


def by_name(name: str, directory: Path) -> Hook:
    """Return the hook that `--log` asks for; it writes into a run's directory.

    Raises:
      UserError: for an unknown name, or a library that is not installed.
    """
    hooks = {"none": _nothing, "csv": _csv, "tensorboard": _tensorboard}
    if name not in hooks:
        raise UserError(f"--log {name!r} is unknown; choose one of {', '.join(hooks)}")
    return hooks[name](directory)


def _nothing(directory: Path) -> Hook:
    del directory
    return lambda log: None


def _csv(directory: Path) -> Hook:
    """Write metrics.csv, a row for each epoch and a column for each figure that some epoch has."""

    def write(log: Log) -> None:
        text = io.StringIO()
        columns = list(dict.fromkeys(name for record in log for name in record))
        table = csv.DictWriter(text, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(log)
        write_atomic(directory / "metrics.csv", text.getvalue())

    return write


def _tensorboard(directory: Path) -> Hook:
    """Write event files for TensorBoard below tensorboard/, a tag PHASE/FIGURE for each curve."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise UserError(
            "--log tensorboard needs the package tensorboardX: pip install 'jaxsnn-compress[log]'"
        ) from None
    writers: list[Any] = []  # opened with the first epoch: nothing is written before

    def write(log: Log) -> None:
        if not writers:
            writers.append(SummaryWriter(str(directory / "tensorboard")))
        record = log[-1]
        for name, value in record.items():
            if name not in ("phase", "epoch"):
                writers[0].add_scalar(f"{record['phase']}/{name}", value, record["epoch"])
        writers[0].flush()

    return write
