"""A run directory: configuration, log, checkpoints, models, pictures, results, one page."""

import dataclasses
import json
import math
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.common import folder, logs, pictures
from experiments.common.options import flat
from jaxsnn import archive, export, native, report, train
from jaxsnn.compress import masks
from jaxsnn.files import write_atomic
from jaxsnn.methods import Result
from jaxsnn.network import Network

Row = dict[str, Any]  # one network in results.json


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
        self.directory = folder.choose(experiment, self.options)
        self.command = f"python -m experiments.{experiment} {shlex.join(sys.argv[1:])}".rstrip()
        self._hook = logs.by_name(self.options["log"], self.directory)
        self._lock = folder.claim(self.directory, self.options["resume"])
        self._phases: set[str] = set()
        self._start = time.perf_counter()
        folder.write_options(self.directory, self.options)
        self.log = folder.read_log(self.directory)
        self.say(f"run directory: {self.directory}")
        self.say(native.describe())
        if "dtype" in self.options:
            self.say(native.choose_dtype(self.options["dtype"])[1])

    def close(self) -> None:
        """Let other processes have the directory; the end of the process does so, too."""
        self._lock.release()

    def say(self, text: str) -> None:
        """Print a line on stderr, where progress goes."""
        print(text, file=sys.stderr, flush=True)

    def fit(self, *args: Any, name: str = "train", **options: Any) -> Network:
        """Train one phase as `train.fit` does; a resumed run goes on where its checkpoint stands.

        A phase that was finished is not trained again: its last checkpoint is restored.
        """
        stem = _stem(name)
        if stem in self._phases:
            raise ValueError(f"two phases of the run are called {name!r}: use run.within")
        self._phases.add(stem)
        checkpoints = train.Checkpoints(self.directory / "checkpoints" / stem)
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
            return archive.read(path)
        found = compute()
        write_atomic(path, archive.pack(found))
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
        if frames_by := self.options.get("frames_by"):
            metadata["frames_by"] = frames_by
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
        return row | {"starved_outputs": sum(map(int, starved.values()))}

    def _record(self, record: Mapping[str, Any]) -> None:
        """Log an epoch; one that an interrupted run had logged already is replaced."""
        same = record["phase"], record["epoch"]
        self.log = [r for r in self.log if (r["phase"], r["epoch"]) != same]
        self.log.append(report.to_json(record))
        lines = "".join(json.dumps(r) + "\n" for r in self.log)
        write_atomic(self.directory / folder.LOG, lines)
        self._hook(self.log)


def _stem(name: str) -> str:
    return name.replace(" ", "-").replace("/", "-")


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
