"""Where the figures of each epoch go besides metrics.jsonl: one hook, libraries behind it."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from jaxsnn.errors import UserError
from jaxsnn.files import write_atomic

Log = Sequence[Mapping[str, Any]]


class Hook(Protocol):
    """What is told of the epochs of a run."""

    def __call__(self, log: Log) -> None:
        """Take the records of all epochs so far, in order, after another epoch."""

    def close(self) -> None:
        """Write what is not written yet, at the end of a phase."""


def by_name(name: str, directory: Path) -> Hook:
    """Return the hook that `--log` asks for; it writes into a run's directory, from an epoch on.

    Raises:
      UserError: for an unknown name, or a library that is not installed.
    """
    hooks: dict[str, Callable[[Path], Hook]] = {
        "none": Nothing,
        "csv": Table,
        "tensorboard": Tensorboard,
    }
    if name not in hooks:
        raise UserError(f"--log {name!r} is unknown; choose one of {', '.join(hooks)}")
    return hooks[name](directory)


class Nothing:
    """Write nothing more."""

    def __init__(self, directory: Path):
        del directory

    def __call__(self, log: Log) -> None:
        del log

    def close(self) -> None:
        pass


class Table:
    """Write metrics.csv, a row for each epoch and a column for each figure that some epoch has."""

    def __init__(self, directory: Path):
        self.path = directory / "metrics.csv"

    def __call__(self, log: Log) -> None:
        text = io.StringIO()
        columns = list(dict.fromkeys(name for record in log for name in record))
        table = csv.DictWriter(text, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(log)
        write_atomic(self.path, text.getvalue())

    def close(self) -> None:
        pass


class Tensorboard:
    """Write files for TensorBoard below tensorboard/, a curve PHASE/FIGURE for each figure."""

    def __init__(self, directory: Path):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise UserError(
                "--log tensorboard needs the package tensorboardX: "
                "pip install 'jaxsnn-compress[log]'"
            ) from None
        self.open = lambda: SummaryWriter(str(directory / "tensorboard"))
        self.writer: Any = None

    def __call__(self, log: Log) -> None:
        self.writer = self.writer or self.open()
        record = log[-1]
        for name, value in record.items():
            if name not in ("phase", "epoch") and value is not None:
                self.writer.add_scalar(f"{record['phase']}/{name}", value, record["epoch"])

    def close(self) -> None:
        """Close the file: its writer works beside, and would lose the last figures."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None
