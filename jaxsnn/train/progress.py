"""What a long training shows: a bar in a terminal, a line for each epoch elsewhere."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any

__all__: list[str] = []  # nothing here is promised to users


class Bar:
    """Show how far one phase of training is, with its latest figures and the time left.

    Args:
      phase: name of the phase.
      epochs: how many it has.
      steps: steps of one epoch.
      first: epochs done before.
      unit: what an epoch is called.

    Attributes:
      live: whether there is a terminal to draw in; otherwise only the ends of epochs are printed.
    """

    def __init__(self, phase: str, epochs: int, steps: int, first: int = 0, *, unit: str = "epoch"):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.phase, self.epochs, self.steps, self.unit = phase, epochs, steps, unit
        self.console = Console(stderr=True)
        self.live = self.console.is_terminal
        self.progress = Progress(
            TextColumn("{task.description:<18}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            disable=not self.live,
        )
        done = first * steps
        self.task = self.progress.add_task(phase, total=epochs * steps, completed=done, figures="")

    def __enter__(self) -> "Bar":
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()

    def advance(self, steps: int, epoch: int, figures: Mapping[str, float]) -> None:
        """Show the figures of the running epoch after some more steps."""
        text = f"{self.unit} {epoch + 1}/{self.epochs} {_short(figures)}"
        self.progress.update(self.task, advance=steps, figures=text)

    def finish_epoch(self, record: Mapping[str, Any]) -> None:
        """Print the epoch's line where there is no live bar."""
        if not self.live:
            place = f"{self.unit} {record['epoch']}/{self.epochs}"
            text = f"{self.phase:<18} {place}  {_short(record)}"
            line = f"{text}  {record['seconds']:.1f} s"
            self.console.print(line, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a line that should not be missed."""
        self.console.print(f"{self.phase:<18} warning: {text}", highlight=False, soft_wrap=True)


class Silence:
    """Take the place of a `Bar` where nothing is to be shown."""

    live = False

    def __enter__(self) -> "Silence":
        return self

    def __exit__(self, *error: object) -> None:
        del error

    def advance(self, steps: int, epoch: int, figures: Mapping[str, float]) -> None:
        """Show nothing."""
        del steps, epoch, figures

    def finish_epoch(self, record: Mapping[str, Any]) -> None:
        """Print nothing."""
        del record

    def warn(self, text: str) -> None:
        """Print nothing."""
        del text


def _short(figures: Mapping[str, Any]) -> str:
    if "lanes" in figures:
        return f"lanes done {figures['lanes']}"
    parts = [f"loss {figures['loss']:.4f}", f"train {100 * figures['accuracy']:.2f} %"]
    if figures.get("validation_accuracy") is not None:
        parts.append(f"validation {100 * figures['validation_accuracy']:.2f} %")
    return "  ".join([*parts, f"rate {figures['spike_rate']:.3f}"])
