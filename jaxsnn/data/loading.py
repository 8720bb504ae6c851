"""Load a data set by name: embedded, from the user's files, or through TFDS or tonic."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxsnn.arrays import check_range
from jaxsnn.data import event_sets, tfds, tiny_imagenet
from jaxsnn.data.base import Dataset, Split, channel_statistics, hold_out, shuffled
from jaxsnn.data.event_sets import EVENT_SETS
from jaxsnn.data.events import Framing
from jaxsnn.data.sources import SOURCES, Found, not_found, read_local
from jaxsnn.errors import UserError

__all__ = ["event_options", "load", "names"]

_DIGITS_TEST = 0.2  # share of scikit-learn's digits that is the test split, whatever the seed


def names() -> tuple[str, ...]:
    """Return the names that `load` knows; "digits" is the one that needs no files.

    >>> names()[0]
    'digits'
    """
    return ("digits", *SOURCES, tiny_imagenet.NAME, *EVENT_SETS)


def event_options(name: str, **options: Any) -> dict[str, Any]:
    """Return the options if they are for this set: all of them for event sets, none for others.

    So a program with one list of options for all sets can hand them to `load`:

    >>> event_options("nmnist", timesteps=4), event_options("digits", timesteps=4)
    ({'timesteps': 4}, {})
    """
    return options if name in EVENT_SETS else {}


def load(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    validation: float = 0.1,
    seed: int = 0,
    limit: int | None = None,
    timesteps: int | None = None,
    size: int | None = None,
    frames_by: str | None = None,
) -> Dataset:
    """Load a data set and hold out a validation split from its training images.

    "digits" comes with scikit-learn. Every other set is read from the files in `data_dir` (or a
    folder in it that is called like the set); without it, from those in the directory that the
    environment variable JAXSNN_DATA names; without that, from tensorflow-datasets, which downloads
    and prepares it the first time. Tiny-ImageNet has only the files; "nmnist" and "dvs_cifar10",
    recordings of event cameras, come through tonic in the place of tensorflow-datasets. Their
    images are frames of counted events (`events.py`).

    Args:
        name: one of `names()`.
        data_dir: directory with the published files, or with sets that tensorflow-datasets has
            prepared.
        validation: share of the training images to hold out, in [0, 1), in proportion to the
            classes; 0 leaves the validation split empty. Test images are never touched.
        seed: of the shuffle that decides which images are held out or left out.
        limit: use only the first so many training images after shuffling, those held out for
            validation included; None for all. The test split stays whole.
        timesteps: of an event set only: frames T a recording, at least 1; 10 by default.
        size: of an event set only: rows and columns of a frame, at most the sensor's; by default
            34 for "nmnist" (its sensor) and 48 for "dvs_cifar10" (of 128).
        frames_by: of an event set only: "number" (the default) for frames of equally many events,
            "time" for frames that last equally long.

    Returns:
        The data set: uint8 images `[N, H, W, C]`, or of an event set `[N, T, H, W, 2]`, counts of
        OFF and ON events cut to 255; int32 labels `[N]`.

    Raises:
        UserError: if the name is unknown, a file is missing or damaged, or a number is out of
            range; one line that names it and says what to do.

    >>> digits = load("digits", limit=100)
    >>> digits.shape, len(digits.train.labels), len(digits.validation.labels)
    ((8, 8, 1), 90, 10)
    """
    if name not in names():
        raise UserError(f"data set {name!r} is not one of {', '.join(names())}")
    check_range("validation", validation, 0, 1, open_high=True)
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}, but must be at least 1 image")
    framing = None
    if name in EVENT_SETS:
        framing = event_sets.framing(name, timesteps, size, frames_by)
    elif any(option is not None for option in (timesteps, size, frames_by)):
        raise UserError(
            f"timesteps, size and frames_by are for {' and '.join(EVENT_SETS)}; {name} has no time"
        )
    num_classes, num_train, num_test = _published(name)
    found = _digits() if name == "digits" else _read(name, data_dir, framing)
    notes = [note for note in (found.note, *_differences(found, num_train, num_test)) if note]

    pool = shuffled(len(found.train.labels), seed)
    if limit is not None and limit < len(pool):
        notes.append(f"train: {limit:,} of {len(pool):,} images, shuffled with seed {seed}")
        pool = pool[:limit]
    kept, held = hold_out(found.train.labels[pool], validation, seed)
    train = _take(found.train, pool[kept])
    mean, std = channel_statistics(train.images)
    return Dataset(
        name=name,
        train=train,
        validation=_take(found.train, pool[held]),
        test=_take(found.test, np.arange(len(found.test.labels))),
        num_classes=num_classes,
        mean=mean,
        std=std,
        notes="; ".join(notes),
    )


def _published(name: str) -> tuple[int, int, int]:
    """Return the numbers of classes, training and test images; 0 images if they do not matter."""
    if name == "digits":
        return 10, 0, 0
    if name == tiny_imagenet.NAME:
        return tiny_imagenet.NUM_CLASSES, tiny_imagenet.NUM_TRAIN, tiny_imagenet.NUM_TEST
    source = SOURCES[name] if name in SOURCES else EVENT_SETS[name]
    return source.num_classes, source.num_train, source.num_test


def _read(name: str, data_dir: str | os.PathLike[str] | None, framing: Framing | None) -> Found:
    given, origin = data_dir, "data directory"
    if given is None:
        given, origin = os.environ.get("JAXSNN_DATA") or None, "data directory (JAXSNN_DATA)"
    root = None
    if given is not None:
        root = Path(given).expanduser()
        if not root.is_dir():
            what = "is not a directory" if root.exists() else "does not exist"
            raise UserError(f"{name}: {origin} {root} {what}")
    if name == tiny_imagenet.NAME:
        found = tiny_imagenet.read_local(root) if root else None
        if found is None:
            raise tiny_imagenet.not_found(root)
        return found
    if framing is not None:
        return _read_events(name, root, framing)
    if root is None:
        return tfds.read_or_prepare(name)
    found = read_local(name, root)
    if found is None and tfds.find_prepared(name, root):
        found = tfds.read(name, root)
    if found is None:
        raise not_found(name, root)
    return found


def _read_events(name: str, root: Path | None, framing: Framing) -> Found:
    if root is None:
        return event_sets.read_tonic(name, framing)
    found = event_sets.read_local(name, root, framing)
    if found is None:
        raise event_sets.not_found(name, root)
    return found


def _differences(found: Found, num_train: int, num_test: int) -> list[str]:
    """Return which splits have another number of images than published."""
    published = {"train": num_train, "test": num_test}
    counts = {split: len(getattr(found, split).labels) for split in published}
    return [
        f"{split}: {counts[split]:,} images instead of {number:,}"
        for split, number in published.items()
        if counts[split] != number and number and not found.note.startswith(split)
    ]


def _digits() -> Found:
    """Read scikit-learn's 1,797 images of 8x8 digits and hold out a fifth of them for testing."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)  # values 0 to 16
    images = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    whole = Split(images, labels.astype(np.int32))
    kept, held = hold_out(whole.labels, _DIGITS_TEST, seed=0)
    note = f"test: {len(held)} of {len(labels)} images, held out here"
    return Found(_take(whole, np.sort(kept)), _take(whole, np.sort(held)), note)


def _take(split: Split, indices: np.ndarray) -> Split:
    return Split(np.ascontiguousarray(split.images[indices]), split.labels[indices])
