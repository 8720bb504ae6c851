"""A run directory: configuration, log, checkpoints, models, pictures, results, one page."""

import contextvars
import json
import math
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from experiments.common import folder, logs, pictures
from experiments.common.options import flat
from jaxsnn import archive, export, native, report, timing, train
from jaxsnn.compress import masks
from jaxsnn.data import Split
from jaxsnn.files import Lock, write_atomic
from jaxsnn.methods import Result, Trained
from jaxsnn.metrics import Report
from jaxsnn.network import Network
from jaxsnn.report.comparisons import Picture
from jaxsnn.report.page import drawn
from jaxsnn.train import distributed

Row = dict[str, Any]  # one network in results.json


class Run:
    """A run directory, and the `fit` that trains in it.

    Of several processes the first one has the directory, reads, writes and prints; the others
    train with it, and get what it reads.

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
        chosen = distributed.from_first(
            lambda: str(folder.choose(experiment, self.options)).encode()
        )
        self.directory = Path(chosen.decode())
        self.command = f"python -m experiments.{experiment} {shlex.join(sys.argv[1:])}".rstrip()
        self._phases: set[str] = set()
        self._background = ThreadPoolExecutor(max_workers=1)
        self._packed: dict[str, Future[int]] = {}  # name of a file -> its bytes, once it is there
        self._start = time.perf_counter()
        self.log: list[dict[str, Any]] = []
        self._lock: Lock | None = None
        if distributed.is_first():
            self._hook = logs.by_name(self.options["log"], self.directory)
            self._lock = folder.claim(self.directory, self.options["resume"])
            folder.write_options(self.directory, self.options)
            self.log = folder.read_log(self.directory)
        self.say(f"run directory: {self.directory}")
        self.say(native.describe())
        if "dtype" in self.options:
            self.say(native.choose_dtype(self.options["dtype"])[1])

    def close(self) -> None:
        """Let other processes have the directory; the end of the process does so, too."""
        if self._lock is not None:
            self._lock.release()

    def say(self, text: str) -> None:
        """Print a line on stderr, where progress goes."""
        if distributed.is_first():
            print(text, file=sys.stderr, flush=True)

    def fit(self, *args: Any, name: str = "train", **options: Any) -> Network:
        """Train one phase as `train.fit` does; a resumed run goes on where its checkpoint stands.

        A phase that was finished is not trained again: its last checkpoint is restored.
        """
        stem = _stem(name)
        if stem in self._phases:
            raise ValueError(f"two phases of the run are called {name!r}: use run.within")
        self._phases.add(stem)
        place, every = self.directory / "checkpoints" / stem, self.options["checkpoint_every"]
        checkpoints = train.Checkpoints(place, every=every)
        log = self._record if distributed.is_first() else None
        try:
            return train.fit(*args, **options, name=name, checkpoints=checkpoints, log=log)
        finally:
            checkpoints.close()
            if log is not None:
                self._hook.close()

    def within(self, prefix: str) -> train.Fit:
        """Return a `fit` whose phases have names that begin with a prefix and a space."""

        def fit(*args: Any, name: str = "train", **options: Any) -> Network:
            return self.fit(*args, **options, name=f"{prefix} {name}")

        return fit

    def arrays(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the arrays of a stage that is no training; a resumed run reads them back."""
        path = self.directory / "checkpoints" / f"{_stem(name)}.npz"
        if distributed.from_first(lambda: b"1" * path.exists()):
            return distributed.arrays_from_first(lambda: archive.read(path))
        found = compute()
        if distributed.is_first():
            write_atomic(path, archive.pack(found))
        return found

    def pack(self, result: Result, *, several: bool = False) -> Result:
        """Begin to pack the networks of a result, beside what is done next; return the result.

        `finish` does so with those that were not packed before, and waits for all of them.

        Args:
          result: of a method.
          several: whether it is one of several, whose files end in the seed.
        """
        for name, measured in _rows(result) if distributed.is_first() else ():
            stem = _stem_of(name, measured, several)
            if stem not in self._packed:
                save = partial(self._save, stem, name, result.networks[name], measured.accuracy)
                context = contextvars.copy_context()  # with the time that is measured
                self._packed[stem] = self._background.submit(partial(context.run, save))
        return result

    def finish(
        self,
        *results: Result,
        title: str,
        summary: str,
        samples: Split | None = None,
        compared: str | None = None,
        more: Sequence[Picture] = (),
        **extra: Any,
    ) -> list[Row]:
        """Write what the run leaves behind, and return the rows of results.json.

        Args:
          *results: of the methods. The first network is the baseline, the last the product. With
            several results, such as one for each seed, the rows follow each other and the models'
            files end in the seed.
          title: of the page.
          summary: a paragraph below the title.
          samples: the test set; the spikes on its first sample are drawn.
          compared: the network that is drawn beside the baseline; the product if left out.
          more: further pictures, (name, function that returns HTML; see `report.plots`).
          **extra: further fields of results.json.
        """
        several = len(results) > 1
        for result in results:
            self.pack(result, several=several)
        measured = [each for result in results for each in _rows(result)]
        rows = [
            _row(row, result.networks[name]) for result in results for name, row in _rows(result)
        ]
        _count_removed_channels(rows)
        if not distributed.is_first():
            return rows
        wanted = [*pictures.of_result(self.log, results[-1], samples, compared), *more]
        with timing.activity("draw"):
            figures, failed = drawn(wanted)
        for line in failed:
            self.say(line)
        with timing.activity("waiting"):
            for row, each in zip(rows, measured, strict=True):
                row["file_bytes"] = self._packed[_stem_of(*each, several)].result()
        if clock := timing.opened():
            extra["timing"] = clock.rows()
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
        page = report.write_html(
            self.directory, title, config=self.options, summary=summary, figures=figures,
            compared=compared, notes=failed,
        )  # fmt: skip
        print(f"\nreport   {page}")
        print(f"results  {self.directory / 'results.json'}")
        print(f"models   {self.directory / 'models'}")
        return rows

    def _save(self, stem: str, name: str, trained: Trained, accuracy: float | None) -> int:
        """Pack a network to a file, and return its bytes."""
        metadata = {"name": name, "dataset": self.options["dataset"]}
        if frames_by := self.options.get("frames_by"):
            metadata["frames_by"] = frames_by
        if accuracy is not None:
            metadata["accuracy"] = f"{accuracy:.6f}"
        path = self.directory / "models" / f"{stem}.safetensors"
        with timing.activity("pack"):
            return export.save(path, trained.network, trained.task.inputs, metadata)

    def _record(self, record: Mapping[str, Any]) -> None:
        """Log an epoch; one that an interrupted run had logged already is replaced."""
        same = record["phase"], record["epoch"]
        self.log = [r for r in self.log if (r["phase"], r["epoch"]) != same]
        self.log.append(report.to_json(record))
        lines = "".join(json.dumps(r) + "\n" for r in self.log)
        write_atomic(self.directory / folder.LOG, lines)
        self._hook(self.log)


def _stem(name: str) -> str:
    return re.sub("[ /%]+", "-", name).strip("-")


def _stem_of(name: str, measured: Report, several: bool) -> str:
    """Return the name of a network's file, without its ending."""
    return _stem(f"{name} {measured.seed}" if several else name)


def _rows(result: Result) -> list[tuple[str, Report]]:
    """Return the networks of a result by name, with what was measured of them."""
    return list(zip(result.networks, result.report.rows, strict=True))


def _row(measured: Report, trained: Trained) -> Row:
    """Return the row of a network; the bytes of its file follow."""
    starved = masks.starved_outputs(masks.of_nonzeros(trained.network.params))
    return measured.to_row() | {"starved_outputs": sum(starved.values())}


def _count_removed_channels(rows: Sequence[Row]) -> None:
    """Turn densities, measured in networks of their own, into shares of the first one's weights.

    A layer that the first network does not have keeps the density in its own network. The density
    of all convolutions together is added.
    """
    whole, images = _sizes(rows[0]), _sizes(rows[0], images=True)
    for row in rows:
        own, of_images = _sizes(row), _sizes(row, images=True)
        left = [x["density"] * own[x["name"]] for x in row["layers"] if x["name"] in of_images]
        row["convolution_density"] = sum(left) / sum(images.values()) if images else None
        for layer in row["layers"]:
            if layer["shape"] and layer["name"] in whole:
                layer["density"] *= own[layer["name"]] / whole[layer["name"]]
        if own and whole and row["density"] is not None:
            row["density"] *= sum(own.values()) / sum(whole.values())


def _sizes(row: Row, *, images: bool = False) -> dict[str, int]:
    """Return how many weights each layer has; or of those alone that are convolutions."""
    shapes = {x["name"]: x["shape"] for x in row["layers"] if x["shape"]}
    return {x: math.prod(shape) for x, shape in shapes.items() if len(shape) > 2 or not images}
