"""Where the figures of each epoch go besides metrics.jsonl: one hook, libraries behind it."""

import contextlib
import csv
import io
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    """Write files for TensorBoard below tensorboard/, a curve PHASE/FIGURE for each figure.

    The package's own writer works in a thread, which ends silently on a full disk, and whoever
    waits for it waits for ever: the file is written here.
    """

    def __init__(self, directory: Path):
        try:
            import tensorboardX  # noqa: F401
        except ImportError:
            raise UserError(
                "--log tensorboard needs the package tensorboardX: "
                "pip install 'jaxsnn-compress[log]'"
            ) from None
        self.folder = directory / "tensorboard"
        self.events: Any = None

    def __call__(self, log: Log) -> None:
        from tensorboardX import event_file_writer, proto, summary

        record = log[-1]
        with one_line(self.folder):
            if self.events is None:
                self.folder.mkdir(exist_ok=True)
                own = f".{os.getpid()}"  # a run that is resumed in the same second has another file
                self.events = event_file_writer.EventsWriter(str(self.folder / "events"), own)
            for name, value in record.items():
                if name not in ("phase", "epoch") and value is not None:
                    point = summary.scalar(f"{record['phase']}/{name}", value)
                    self.events.write_event(
                        proto.event_pb2.Event(
                            step=record["epoch"], wall_time=time.time(), summary=point
                        )
                    )
            self.events.flush()

    def close(self) -> None:
        """Close the file."""
        if self.events is not None:
            with one_line(self.folder):
                self.events.close()
            self.events = None


@contextlib.contextmanager
def one_line(path: Path) -> Iterator[None]:
    """Turn what a full or protected disk answers into one line.

    Raises:
      UserError: with the path and the reason.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
