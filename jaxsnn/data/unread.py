"""Splits that are read when their samples are taken, so that nobody holds all of a large set."""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from jaxsnn import memory
from jaxsnn.data import events
from jaxsnn.data.base import Split, check_labels
from jaxsnn.data.entries import Entry
from jaxsnn.data.event_table import EventSet
from jaxsnn.data.events import Events, Framing

__all__: list[str] = []  # nothing here is promised to users


class Unread(NamedTuple):
    """A split that is not read yet: its labels, and how to read some of its samples."""

    labels: np.ndarray  # int32 [N]
    shape: tuple[int, ...]  # of a sample: (H, W, C), (T, H, W, 2) or (T, units)
    fill: Callable[[np.ndarray, np.ndarray], None]  # (indices [n], uint8 [n, *shape]) -> written

    def take(self, indices: np.ndarray) -> Split:
        """Read the samples of some indices: one byte a number, and little beside it."""
        memory.check(
            f"{len(indices):,} samples of {' x '.join(f'{n:,}' for n in self.shape)}",
            len(indices) * math.prod(self.shape),
            "take a smaller limit, size or number of time steps", on_host=True,
        )  # fmt: skip
        images = np.zeros((len(indices), *self.shape), np.uint8)
        self.fill(indices, images)
        return Split(images, self.labels[indices])

    def whole(self) -> Split:
        """Read all samples."""
        return self.take(np.arange(len(self.labels)))


class Parts(NamedTuple):
    """The splits of a set that are not read yet, and what is not as published."""

    train: Unread
    test: Unread
    note: str = ""
    validation: Unread | None = None  # a published one; None where it is held out of train


def in_memory(split: Split) -> Unread:
    """Return a split that is in memory already as one to read from."""

    def fill(indices: np.ndarray, images: np.ndarray) -> None:
        np.take(split.images, indices, axis=0, out=images, mode="clip")  # "raise" would copy

    return Unread(split.labels, split.images.shape[1:], fill)


def of_files(
    where: str,
    files: list[tuple[Entry, int]],
    parse: Callable[[Entry], Events],
    source: EventSet,
    framing: Framing,
) -> Unread:
    """Return the recordings of files, read as many at a time as there are processors.

    Args:
        where: what the split is called in messages.
        files: one a recording, and its label.
        parse: reads a file.
        source: the set.
        framing: how events become frames.

    Raises:
        UserError: if there is no file, or a label is out of range.
    """
    labels = np.array([label for _, label in files], np.int32)
    check_labels(where, labels, source.num_classes)

    def fill(indices: np.ndarray, images: np.ndarray) -> None:
        def one(place: int) -> None:
            entry, _ = files[indices[place]]
            images[place] = events.to_frames(parse(entry), source.sensor, framing)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(one, range(len(indices))):
                pass

    return Unread(labels, framing.sample_shape, fill)
