"""The networks that come with the package, and the card of each: what it is and what was measured.

A network is two files in this folder: NAME.safetensors, packed by `export.save`, and NAME.json, its
card. `tools/zoo.py` writes both from a finished run: it measures the file itself on the whole test
set, and takes from the run how it was made.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxsnn import export, fields, foreign
from jaxsnn.errors import UserError, shown
from jaxsnn.export import Model
from jaxsnn.metrics.intervals import wilson

__all__ = ["FOLDER", "Card", "Latency", "checked_file", "load", "names"]

FOLDER = Path(__file__).parent

_MEASURE = fields.maybe(fields.within(0, 1e12))
_SHARE = fields.maybe(fields.within(0, 1))
CARD = {
    "name": fields.TEXT,
    "about": fields.TEXT,
    "sha256": fields.TEXT,
    "file_bytes": fields.whole(1),
    "dataset": fields.TEXT,
    "licence": fields.TEXT,
    "samples": fields.whole(1),
    "correct": fields.whole(0),
    "dense_accuracy": _SHARE,
    "dense_file_bytes": fields.maybe(fields.whole(1)),
    "encoding": fields.TEXT,
    "timesteps": fields.whole(1),
    "density": _SHARE,
    "bits": _MEASURE,
    "synops": _MEASURE,
    "macs": _MEASURE,
    "spikes_per_sample": _MEASURE,
    "integers": fields.maybe(fields.one_of("exact", "float", "rounded")),
    "latency": fields.maybe(fields.OBJECT),
    "command": fields.TEXT,
    "seed": fields.whole(0),
    "seconds": fields.within(0, 1e12),
    "commit": fields.maybe(fields.TEXT),
    "versions": fields.each(fields.TEXT),
}
LATENCY = {
    "microseconds": fields.within(0, 1e12),
    "processor": fields.TEXT,
    "compiler": fields.TEXT,
}


@dataclass(frozen=True)
class Latency:
    """How long one sample takes as machine code (`compile.build`), one after the other.

    Attributes:
      microseconds: of one core's time a sample, median of some rounds.
      processor: its name.
      compiler: its first line of `--version`.
    """

    microseconds: float
    processor: str
    compiler: str


@dataclass(frozen=True)
class Card:
    """What a network of the zoo is, how it was made, and what was measured of its file.

    Attributes:
      name: that `load` takes.
      about: one sentence.
      sha256: of the file, 64 hexadecimal digits.
      file_bytes: its size.
      dataset: name of the data set that it was trained on.
      licence: of these data.
      samples: of the whole test set.
      correct: of these, how many it classifies right.
      dense_accuracy: of the dense network of the same run, in [0, 1].
      dense_file_bytes: of that network's packed file.
      encoding: how samples enter, as of `inputs.Inputs`.
      timesteps: T.
      density: share of the kernels' weights that are not 0, in [0, 1].
      bits: of one weight of a kernel, mean over those that are not 0.
      synops: additions of a non-zero weight, per sample.
      macs: multiplications by a non-zero weight, per sample.
      spikes_per_sample: over all time steps.
      integers: whether its integers, and so its C, are the network's own numbers: "exact", "float"
        (float32 rounds on its side), "rounded" (`allow_rounding` is needed); None without integers.
      latency: of its C; None if it was not measured.
      command: that made it.
      seed: of the run.
      seconds: that the run took.
      commit: of the source that ran; None if it is not known.
      versions: releases of what it was made with, and the machine.
    """

    name: str
    about: str
    sha256: str
    file_bytes: int
    dataset: str
    licence: str
    samples: int
    correct: int
    dense_accuracy: float | None
    dense_file_bytes: int | None
    encoding: str
    timesteps: int
    density: float | None
    bits: float | None
    synops: float | None
    macs: float | None
    spikes_per_sample: float | None
    integers: str | None
    latency: Latency | None
    command: str
    seed: int
    seconds: float
    commit: str | None
    versions: Mapping[str, str]

    @property
    def accuracy(self) -> float:
        """Return the share of the test samples that are classified right, in [0, 1]."""
        return self.correct / self.samples

    @property
    def interval(self) -> tuple[float, float]:
        """Return Wilson's interval of the accuracy, 95 %: what other test samples would give."""
        return wilson(self.accuracy, self.samples)

    @staticmethod
    def of(name: str) -> Card:
        """Return the card of a network of the zoo.

        Raises:
          UserError: for an unknown name, with those that there are; or a damaged card.

        Example:
          >>> card = Card.of("digits-2kB")
          >>> card.dataset, card.samples, card.file_bytes < 4000
          ('digits', 359, True)
        """
        if name not in names():
            raise UserError(f"zoo: no network is called {name!r}; there are {', '.join(names())}")
        path = FOLDER / f"{name}.json"
        data = fields.check(str(path), foreign.read_json(path, "a card of the zoo"), CARD)
        if data["name"] != name or data["correct"] > data["samples"]:
            raise UserError(
                f"{path}: is the card of {shown(data['name'])} with {data['correct']} of "
                f"{data['samples']} samples right, expected that of {name!r}"
            )
        if data["latency"] is not None:
            where = f"{path}: the latency"
            data["latency"] = Latency(**fields.check(where, data["latency"], LATENCY))
        return Card(**data)

    def to_data(self) -> dict[str, Any]:
        """Return the JSON object that `of` reads."""
        return dataclasses.asdict(self)


def names() -> tuple[str, ...]:
    """Return the names of the networks, sorted.

    >>> "digits-2kB" in names()
    True
    """
    return tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


def load(name: str) -> Model:
    """Return a network of the zoo, with how its input is made: what `export.load` returns.

    Args:
      name: one of `names()`.

    Raises:
      UserError: for an unknown name, with those that there are; or if the file is not that of the
        card.

    Example:
      >>> model = load("digits-2kB")
      >>> model.classes, model.inputs.shape
      (10, (8, 8, 1))
    """
    return export.load(checked_file(name))


def checked_file(name: str) -> Path:
    """Return the packed file of a network, which is that of its card.

    Raises:
      UserError: as `load`.
    """
    card, path = Card.of(name), FOLDER / f"{name}.safetensors"
    found = hashlib.sha256(foreign.read_bytes(path, "a packed network")).hexdigest()
    if found != card.sha256:
        raise UserError(
            f"{path}: has the SHA-256 {found[:12]}..., its card says {card.sha256[:12]}...; "
            "install jaxsnn-compress anew"
        )
    return path
