"""Load a data set by name: embedded, from the user's files, or through TFDS or tonic."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxsnn.arrays import check_range
from jaxsnn.data import event_sets, own, tfds, tiny_imagenet
from jaxsnn.data.base import Dataset, Split, channel_statistics, hold_out, shuffled
from jaxsnn.data.event_table import EVENT_SETS
from jaxsnn.data.events import Framing
from jaxsnn.data.sources import SOURCES, Found, not_found, read_local
from jaxsnn.data.unread import Parts, Unread, in_memory
from jaxsnn.errors import UserError

__all__ = ["event_options", "load", "names"]

_DIGITS_TEST = 0.2  # share of scikit-learn's digits that is the test split, whatever the seed


def names() -> tuple[str, ...]:
    """Return the names that `load` knows; "digits" needs no files, "own" is a file of yours.

    >>> names()[0]
    'digits'
    """
    return ("digits", *SOURCES, tiny_imagenet.NAME, *EVENT_SETS, own.NAME)


def event_options(name: str, **options: Any) -> dict[str, Any]:
    """Return the options if they are for this set: all for event sets, else none.

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
    size: int | tuple[int, ...] | None = None,
    frames_by: str | None = None,
) -> Dataset:
    """Load a data set and hold out a validation split from its training images.

    "digits" comes with scikit-learn. Every other set is read from the files in `data_dir` (or a
    folder in it that is called like the set); without it, from those in the directory that the
    environment variable JAXSNN_DATA names; without that, from tensorflow-datasets, which downloads
    and prepares it the first time. Tiny-ImageNet has only the files, "own" one npz file of yours
    (`own.npz` in `data_dir`, or `data_dir` itself; see `data/own.py`); recordings ("nmnist",
    "dvs_cifar10" and "dvs_gesture" of event cameras, "shd" and "ssc" of an artificial cochlea) come
    through tonic in the place of tensorflow-datasets. Their images are frames of counted events
    (`events.to_frames`). Of recordings, only those are read that are used.

    Args:
        name: one of `names()`.
        data_dir: directory with the published files, or with sets that tensorflow-datasets has
            prepared; of "own" also the file.
        validation: share of the training images to hold out, in [0, 1), in proportion to the
            classes; 0 leaves the validation split empty. Test images are never touched. "ssc" has a
            published validation split: all of it is used, with a limit as many as of others.
        seed: of the shuffle that decides which images are held out or left out.
        limit: use only the first so many training images after shuffling, those held out for
            validation included; None for all. The test split stays whole.
        timesteps: of an event set only: frames T a recording, at least 1; by default 10, of
            "dvs_gesture" 16, of "shd" and "ssc" 100.
        size: of an event set only: rows and columns of a frame, one number for both or a pair, at
            most the sensor's; by default 34 for "nmnist" (its sensor), 48 for "dvs_cifar10" and 64
            for "dvs_gesture" (of 128). Or number of units, by default the sensor's 700.
        frames_by: of an event set only: "number" for frames of equally many events (the default of
            cameras), "time" for frames that last equally long: of a camera from the first event to
            the last, of "shd" and "ssc" (their default) 1.4 s in all, later spikes left out.

    Returns:
        The data set: uint8 images `[N, H, W, C]`, or of an event set `[N, T, H, W, 2]`, counts of
        OFF and ON events, or `[N, T, U]`, counts of each unit, cut to 255; int32 labels `[N]`.

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
        *others, last = EVENT_SETS
        raise UserError(
            f"timesteps, size and frames_by are for {', '.join(others)} and {last}; {name} has no "
            "time"
        )
    found = _read(name, data_dir, framing)
    num_classes, num_train, num_test = _published(name, found)
    notes = [note for note in (found.note, *_differences(found, num_train, num_test)) if note]

    pool = shuffled(len(found.train.labels), seed)
    if limit is not None and limit < len(pool):
        notes.append(f"train: {limit:,} of {len(pool):,} images, shuffled with seed {seed}")
        pool = pool[:limit]
    if found.validation is not None:
        train = found.train.take(pool)
        held_out = _published_validation(found.validation, validation, seed, limit)
    else:
        kept, held = hold_out(found.train.labels[pool], validation, seed)
        train, held_out = found.train.take(pool[kept]), found.train.take(pool[held])
    mean, std = channel_statistics(train.images)
    return Dataset(
        name=name,
        train=train,
        validation=held_out,
        test=found.test.whole(),
        num_classes=num_classes,
        mean=mean,
        std=std,
        notes="; ".join(notes),
    )


def _published_validation(found: Unread, share: float, seed: int, limit: int | None) -> Split:
    """Return a published validation split; with a limit, as many as would be held out of it."""
    pool = shuffled(len(found.labels), seed)
    if share == 0:
        pool = pool[:0]
    elif limit is not None:
        pool = pool[: max(1, round(share * limit))]
    return found.take(pool)


def _published(name: str, found: Parts) -> tuple[int, int, int]:
    """Return the numbers of classes, training and test images; 0 images if they do not matter."""
    if name == "digits":
        return 10, 0, 0
    if name == own.NAME:
        return int(found.train.labels.max()) + 1, 0, 0
    if name == tiny_imagenet.NAME:
        return tiny_imagenet.NUM_CLASSES, tiny_imagenet.NUM_TRAIN, tiny_imagenet.NUM_TEST
    source = SOURCES[name] if name in SOURCES else EVENT_SETS[name]
    return source.num_classes, source.num_train, source.num_test


def _read(name: str, data_dir: str | os.PathLike[str] | None, framing: Framing | None) -> Parts:
    if name == "digits":
        return _in_memory(_digits())
    given, origin = data_dir, "data directory"
    if given is None:
        given, origin = os.environ.get("JAXSNN_DATA") or None, "data directory (JAXSNN_DATA)"
    root = None
    if given is not None:
        root = Path(given).expanduser()
        if not root.is_dir() and name != own.NAME:
            what = "is not a directory" if root.exists() else "does not exist"
            raise UserError(f"{name}: {origin} {root} {what}")
    if name == own.NAME:
        return _in_memory(own.read(root))
    if name == tiny_imagenet.NAME:
        found = tiny_imagenet.read_local(root) if root else None
        if found is None:
            raise tiny_imagenet.not_found(root)
        return _in_memory(found)
    if framing is not None:
        return _read_events(name, root, framing)
    if root is None:
        return _in_memory(tfds.read_or_prepare(name))
    found = read_local(name, root)
    if found is None and tfds.find_prepared(name, root):
        found = tfds.read(name, root)
    if found is None:
        raise not_found(name, root)
    return _in_memory(found)


def _read_events(name: str, root: Path | None, framing: Framing) -> Parts:
    if root is None:
        return event_sets.read_tonic(name, framing)
    found = event_sets.read_local(name, root, framing)
    if found is None:
        raise event_sets.not_found(name, root)
    return found


def _in_memory(found: Found) -> Parts:
    return Parts(in_memory(found.train), in_memory(found.test), found.note)


def _differences(found: Parts, num_train: int, num_test: int) -> list[str]:
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
    labels = labels.astype(np.int32)
    kept, held = (np.sort(part) for part in hold_out(labels, _DIGITS_TEST, seed=0))
    note = f"test: {len(held)} of {len(labels)} images, held out here"
    train, test = (Split(images[part], labels[part]) for part in (kept, held))
    return Found(train, test, note)
