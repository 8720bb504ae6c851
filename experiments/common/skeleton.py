"""What all experiments share: the command line, the run directory, phases that resume."""

import dataclasses
import io
import json
import shlex
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import optax

from jaxsnn import report, train
from jaxsnn.cli import arguments
from jaxsnn.data import Split
from jaxsnn.errors import UserError
from jaxsnn.files import write_atomic
from jaxsnn.train import host
from jaxsnn.train.checkpoint import Checkpoints

Config = TypeVar("Config")

PRESETS = ("smoke", "cpu", "paper")
VOLATILE = {"resume", "out", "data_dir"}  # options that may change when a run is resumed


@dataclass(frozen=True)
class CommonConfig:
    """Options that every experiment has."""

    preset: str = "cpu"
    """Which defaults: smoke (seconds), cpu (minutes on two cores) or paper (as published)."""
    dataset: str = "digits"
    """Name of the data set; digits is embedded, the others are read from --data-dir."""
    data_dir: str | None = None
    """Folder of the data files; $JAXSNN_DATA if left out, and then tensorflow-datasets."""
    out: str | None = None
    """Run directory; a new one below runs/ if left out."""
    seed: int = 0
    """Seed of everything random."""
    resume: bool = False
    """Continue an interrupted run: the one in --out, or the newest of this kind."""


def parse(
    defaults: Callable[[str, str | None], Config], experiment: str, argv: list[str] | None = None
) -> Config:
    """Read the command line, the chosen preset giving the defaults.

    Args:
      defaults: (preset, data set or None) -> configuration.
      experiment: name of the module, for the help.
      argv: arguments; those of the process if None.

    Raises:
      UserError: one line for whatever was wrong.
    """
    argv = sys.argv[1:] if argv is None else argv
    preset = _peek(argv, "--preset") or "cpu"
    if preset not in PRESETS:
        raise UserError(f"--preset {preset!r} is unknown; choose one of {', '.join(PRESETS)}")
    base = defaults(preset, _peek(argv, "--dataset"))
    about = sys.modules[type(base).__module__].__doc__
    program = f"python -m experiments.{experiment}"
    return arguments.parse(type(base), program, about, argv, default=base)


def _peek(argv: list[str], option: str) -> str | None:
    for i, word in enumerate(argv):
        if word.startswith(option + "="):
            return word.partition("=")[2]
        if word == option and i + 1 < len(argv):
            return argv[i + 1]
    return None


def main(body: Callable[[], None]) -> None:
    """Run an experiment; a user's mistake is one line on stderr and exit code 2."""
    host.tune()
    try:
        body()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted; the same command with --resume goes on", file=sys.stderr)
        raise SystemExit(130) from None


class Run:
    """A run directory: configuration, log, checkpoints, models, plots and results.

    Args:
      experiment: name of the module.
      config: the configuration.

    Raises:
      UserError: if the directory holds another run, or there is nothing to resume.
    """

    def __init__(self, experiment: str, config: CommonConfig):
        self.experiment = experiment
        self.config = config
        self.directory = _directory(experiment, config)
        self.plots = self.directory / "plots"
        self.models = self.directory / "models"
        self.command = f"python -m experiments.{experiment} " + shlex.join(sys.argv[1:])
        self.log: list[dict[str, Any]] = []
        self._start = time.perf_counter()
        self._options = dataclasses.asdict(config)
        if config.resume:
            self._check_same_options()
            self.log = _read_log(self.directory / "metrics.jsonl")
        text = json.dumps(report.to_json(self._options), indent=2)
        write_atomic(self.directory / "config.json", text + "\n")
        self.say(f"run directory: {self.directory}")

    def say(self, text: str) -> None:
        """Print a line on stderr, where progress goes."""
        print(text, file=sys.stderr, flush=True)

    def phase(
        self,
        name: str,
        task: train.Task,
        optimizer: optax.GradientTransformation,
        state: train.TrainState,
        split: Split,
        *,
        epochs: int,
        batch_size: int,
        validation: Split | None = None,
        observe: Callable[[train.TrainState], Mapping[str, Any]] | None = None,
        after_epoch: Callable[[train.TrainState], train.TrainState] | None = None,
    ) -> train.TrainState:
        """Train one phase; after an interruption it continues where its checkpoint stands."""
        checkpoints = Checkpoints(self.directory / "checkpoints" / name.replace(" ", "-"))
        try:
            return train.fit(
                task, optimizer, state, split,
                epochs=epochs, batch_size=batch_size, validation=validation, phase=name,
                checkpoints=checkpoints, log=self._record, observe=observe,
                after_epoch=after_epoch,
            )  # fmt: skip
        finally:
            checkpoints.close()

    def arrays(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the arrays of a stage that is no training; a resumed run reads them back."""
        path = self.directory / "checkpoints" / f"{name.replace(' ', '-')}.npz"
        if path.exists():
            try:
                with np.load(path, allow_pickle=False) as file:
                    return dict(file)
            except (OSError, ValueError, zipfile.BadZipFile) as error:
                raise UserError(f"{path} is damaged: {error}; delete it to go on") from error
        found = compute()
        content = io.BytesIO()
        np.savez(content, **found)
        write_atomic(path, content.getvalue())
        return found

    def write_results(self, rows: list[dict[str, Any]], **extra: Any) -> None:
        """Write `results.json` and print its table."""
        seconds = sum(r["seconds"] for r in self.log)
        report.write_results(
            self.directory,
            experiment=self.experiment,
            dataset=self.config.dataset,
            preset=self.config.preset,
            seed=self.config.seed,
            command=self.command,
            seconds=max(seconds, time.perf_counter() - self._start),
            rows=rows,
            extra=extra,
        )
        report.print_table(rows)

    def write_page(self, title: str, summary: str) -> None:
        """Write `report.html` from the results and all plots, and say where everything is."""
        page = report.write_html(self.directory, title, config=self._options, summary=summary)
        print(f"\nreport   {page}")
        print(f"results  {self.directory / 'results.json'}")
        print(f"models   {self.models}")

    def _record(self, record: dict[str, Any]) -> None:
        """Log an epoch; one that an interrupted run had logged already is replaced."""
        same = record["phase"], record["epoch"]
        self.log = [r for r in self.log if (r["phase"], r["epoch"]) != same] + [record]
        lines = "".join(json.dumps(report.to_json(r)) + "\n" for r in self.log)
        write_atomic(self.directory / "metrics.jsonl", lines)

    def _check_same_options(self) -> None:
        path = self.directory / "config.json"
        try:
            old = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"--resume: {path} is not a run's configuration: {error}") from None
        new = report.to_json(self._options)
        for name in sorted((old.keys() | new.keys()) - VOLATILE):
            if old.get(name) != new.get(name):
                raise UserError(
                    f"--resume: the run in {self.directory} has {name} = {old.get(name)!r}, "
                    f"not {new.get(name)!r}; give the same options"
                )


def _directory(experiment: str, config: CommonConfig) -> Path:
    """Choose the run directory; nothing is made yet."""
    if config.out is not None:
        directory = Path(config.out)
        if (
            not config.resume
            and directory.exists()
            and (not directory.is_dir() or any(directory.iterdir()))
        ):
            raise UserError(f"--out {directory} is not empty; add --resume or choose another")
        if config.resume and not (directory / "config.json").exists():
            raise UserError(f"--resume: {directory} holds no run (no config.json)")
        return directory
    stem = f"runs/{experiment}-{config.dataset}-{config.preset}-{config.seed}"
    names = [Path(stem), *(Path(f"{stem}-{n}") for n in range(2, 10_000))]
    free = next(i for i, path in enumerate(names) if not path.exists())
    if not config.resume:
        return names[free]
    if free == 0:
        raise UserError(f"--resume: there is no run in {stem}; start one without --resume")
    return names[free - 1]


def _read_log(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"--resume: {path} is not a run's log: {error}") from None
