"""A run directory: configuration, log, checkpoints, models, pictures, results, one page."""

import dataclasses
import io
import json
import math
import shlex
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common import logs, pictures
from experiments.common.options import flat
from jaxsnn import export, report, train
from jaxsnn.compress import masks
from jaxsnn.errors import UserError
from jaxsnn.files import write_atomic
from jaxsnn.methods import Result
from jaxsnn.network import Network

Row = dict[str, Any]  # one network in results.json

VOLATILE = {"resume", "out", "config", "data_dir", "log"}  # may change when a run is resumed


class Run:
    """A run directory, and the `fit` that trains in it.

    Args:
      experiment: name of the program, `experiments.NAME`.
      config: its groups of options (`options.flat`), with `dataset`, `preset` and `seed` among
        them.

    Raises:
      UserError: if the directory holds another run, or there is nothing to resume.
    """

    def __init__(self, experiment: str, config: Any):
        self.experiment = experiment
        self.options = flat(config)
        self.directory = _directory(experiment, self.options)
        self.command = f"python -m experiments.{experiment} {shlex.join(sys.argv[1:])}".rstrip()
        self.log: list[dict[str, Any]] = []
        self._hook = logs.by_name(self.options["log"], self.directory)
        self._phases: set[str] = set()
        self._start = time.perf_counter()
        if self.options["resume"]:
            self._check_same_options()
            self.log = _read_log(self.directory / "metrics.jsonl")
        text = json.dumps(report.to_json(self.options), indent=2)
        write_atomic(self.directory / "config.json", text + "\n")
        self.say(f"run directory: {self.directory}")

    def say(self, text: str) -> None:
        """Print a line on stderr, where progress goes."""
        print(text, file=sys.stderr, flush=True)

    def fit(self, *args: Any, name: str = "train", **options: Any) -> Network:
        """Train one phase as `train.fit` does; a resumed run goes on where its checkpoint stands.

        A phase that was finished is not trained again: its last checkpoint is restored.
        """
        if name in self._phases:
            raise ValueError(f"two phases of the run are called {name!r}: use run.within")
        self._phases.add(name)
        checkpoints = train.Checkpoints(self.directory / "checkpoints" / _stem(name))
        try:
            return train.fit(*args, **options, name=name, checkpoints=checkpoints, log=self._record)
        finally:
            checkpoints.close()
            self._hook.close()

    def within(self, prefix: str) -> train.Fit:
        """Return a `fit` whose phases have names that begin with a prefix and a space."""

        def fit(*args: Any, name: str = "train", **options: Any) -> Network:
            return self.fit(*args, **options, name=f"{prefix} {name}")

        return fit

    def arrays(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the arrays of a stage that is no training; a resumed run reads them back."""
        path = self.directory / "checkpoints" / f"{_stem(name)}.npz"
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

    def finish(
        self,
        *results: Result,
        title: str,
        summary: str,
        samples: np.ndarray | None = None,
        compared: str | None = None,
        more: Sequence[pictures.Picture] = (),
        **extra: Any,
    ) -> list[Row]:
        """Write what the run leaves behind, and return the rows of results.json.

        Args:
          *results: of the methods. The first network is the baseline, the last the product. With
            several results, such as one for each seed, the rows follow each other and the models'
            files end in the seed.
          title: of the page.
          summary: a paragraph below the title.
          samples: test samples; the spikes on the first are drawn.
          compared: the network that is drawn beside the baseline; the product if left out.
          more: further pictures, (name, function of the file to draw to).
          **extra: further fields of results.json.
        """
        rows = [
            self._row(name, result, i, several=len(results) > 1)
            for result in results
            for i, name in enumerate(result.networks)
        ]
        _count_removed_channels(rows)
        report.write_results(
            self.directory,
            experiment=self.experiment,
            dataset=self.options["dataset"],
            preset=self.options["preset"],
            seed=self.options["seed"],
            command=self.command,
            seconds=max(
                sum(record["seconds"] for record in self.log), time.perf_counter() - self._start
            ),
            rows=rows,
            extra=extra,
        )
        report.print_table(rows)
        drawn = [*pictures.of_result(self.log, results[-1], rows, samples, compared), *more]
        failed = pictures.draw(self.directory / "plots", drawn)
        for line in failed:
            self.say(line)
        page = report.write_html(
            self.directory, title, config=self.options, summary=summary, notes=failed
        )
        print(f"\nreport   {page}")
        print(f"results  {self.directory / 'results.json'}")
        print(f"models   {self.directory / 'models'}")
        return rows

    def _row(self, name: str, result: Result, i: int, *, several: bool) -> Row:
        """Pack a network to a file, and return its row."""
        trained, measured = result.networks[name], result.report.rows[i]
        stem = _stem(f"{name} {measured.seed}" if several else name)
        metadata = {"name": name, "dataset": self.options["dataset"]}
        if measured.accuracy is not None:
            metadata["accuracy"] = f"{measured.accuracy:.6f}"
        file_bytes = export.save(
            self.directory / "models" / f"{stem}.safetensors",
            trained.network,
            trained.task.inputs,
            metadata,
        )
        row = dataclasses.replace(measured, file_bytes=file_bytes).to_row()
        starved = masks.starved_outputs(masks.of_nonzeros(trained.network.params))
        return row | {"starved_outputs": sum(starved.values())}

    def _record(self, record: Mapping[str, Any]) -> None:
        """Log an epoch; one that an interrupted run had logged already is replaced."""
        same = record["phase"], record["epoch"]
        self.log = [r for r in self.log if (r["phase"], r["epoch"]) != same]
        self.log.append(report.to_json(record))
        lines = "".join(json.dumps(r) + "\n" for r in self.log)
        write_atomic(self.directory / "metrics.jsonl", lines)
        self._hook(self.log)

    def _check_same_options(self) -> None:
        path = self.directory / "config.json"
        try:
            old = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"--resume: {path} is not a run's configuration: {error}") from None
        if not isinstance(old, dict):
            raise UserError(f"--resume: {path} is not a run's configuration: {type(old).__name__}")
        new = report.to_json(self.options)
        for name in sorted((old.keys() | new.keys()) - VOLATILE):
            if old.get(name) != new.get(name):
                raise UserError(
                    f"--resume: the run in {self.directory} has {name} = {old.get(name)!r}, "
                    f"not {new.get(name)!r}; give the same options"
                )


def _stem(name: str) -> str:
    return name.replace(" ", "-").replace("/", "-")


def _directory(experiment: str, options: Mapping[str, Any]) -> Path:
    """Choose the run directory; nothing is made yet."""
    resume = options["resume"]
    if options["out"] is not None:
        directory = Path(options["out"])
        if not resume and directory.exists():
            if not directory.is_dir() or any(directory.iterdir()):
                raise UserError(f"--out {directory} is not empty; add --resume or choose another")
        if resume and not (directory / "config.json").exists():
            raise UserError(f"--resume: {directory} holds no run (no config.json)")
        return directory
    stem = "-".join([experiment, *(str(options[name]) for name in ("dataset", "preset", "seed"))])
    names = [Path("runs") / stem, *(Path("runs") / f"{stem}-{n}" for n in range(2, 10_000))]
    free = next(i for i, path in enumerate(names) if not path.exists())
    if not resume:
        return names[free]
    if free == 0:
        raise UserError(f"--resume: there is no run in {names[0]}; start one without --resume")
    return names[free - 1]


def _read_log(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"--resume: {path} is not a run's log: {error}") from None
    for record in found:
        if not isinstance(record, dict) or not {"phase", "epoch", "seconds"} <= set(record):
            raise UserError(f"--resume: {path} is not a run's log: {str(record)[:60]!r} found")
    return found


def _count_removed_channels(rows: Sequence[Row]) -> None:
    """Turn densities, measured in networks of their own, into shares of the first one's weights.

    A layer that the first network does not have keeps the density in its own network.
    """
    whole = {x["name"]: math.prod(x["shape"]) for x in rows[0]["layers"] if x["shape"]}
    for row in rows[1:]:
        own = {x["name"]: math.prod(x["shape"]) for x in row["layers"] if x["shape"]}
        for layer in row["layers"]:
            if layer["shape"] and layer["name"] in whole:
                layer["density"] *= own[layer["name"]] / whole[layer["name"]]
        if own and whole and row["density"] is not None:
            row["density"] *= sum(own.values()) / sum(whole.values())
