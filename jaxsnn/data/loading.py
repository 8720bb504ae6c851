"""Load a data set by name: embedded, from files of the user's, or through tensorflow-datasets."""

import os
from pathlib import Path

import numpy as np

from jaxsnn.arrays import check_range
from jaxsnn.data import tfds
from jaxsnn.data.base import Dataset, Split, channel_statistics, hold_out, shuffled
from jaxsnn.data.sources import SOURCES, Found, not_found, read_local
from jaxsnn.errors import UserError

_DIGITS_TEST = 0.2  # share of scikit-learn's digits that is the test split, whatever the seed


def names() -> tuple[str, ...]:
    """Return the names that `load` knows; "digits" is the one that needs no files.

    >>> names()[0]
    'digits'
    """
    return ("digits", *SOURCES)


def load(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    validation: float = 0.1,
    seed: int = 0,
    limit: int | None = None,
) -> Dataset:
    """Load a data set and hold out a validation split from its training images.

    "digits" comes with scikit-learn. Every other set is read from the files in `data_dir` (or a
    folder in it that is called like the set); without it, from those in the directory that the
    environment variable JAXSNN_DATA names; without that, from tensorflow-datasets.

    Args:
        name: one of `names()`.
        data_dir: directory with the published files, or with sets that tensorflow-datasets has
            prepared.
        validation: share of the training images to hold out, in [0, 1), in proportion to the
            classes; 0 leaves the validation split empty. Test images are never touched.
        seed: of the shuffle that decides which images are held out or left out.
        limit: use only the first so many training images after shuffling, those held out for
            validation included; None for all. The test split stays whole.

    Returns:
        The data set: uint8 images `[N, H, W, C]`, int32 labels `[N]`.

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
    num_classes = 10 if name == "digits" else SOURCES[name].num_classes
    found = _digits() if name == "digits" else _read(name, data_dir)
    notes = [note for note in (found.note, *_differences(name, found)) if note]

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


def _read(name: str, data_dir: str | os.PathLike[str] | None) -> Found:
    given, origin = data_dir, "data directory"
    if given is None:
        given, origin = os.environ.get("JAXSNN_DATA") or None, "data directory (JAXSNN_DATA)"
    if given is None:
        return tfds.read(name)
    root = Path(given).expanduser()
    if not root.is_dir():
        what = "is not a directory" if root.exists() else "does not exist"
        raise UserError(f"{name}: {origin} {root} {what}")
    found = read_local(name, root)
    if found is None and tfds.find_prepared(name, root):
        found = tfds.read(name, root)
    if found is None:
        raise not_found(name, root)
    return found


def _differences(name: str, found: Found) -> list[str]:
    """Say which splits have another number of images than published."""
    if name == "digits":
        return []
    published = {"train": SOURCES[name].num_train, "test": SOURCES[name].num_test}
    counts = {split: len(getattr(found, split).labels) for split in published}
    return [
        f"{split}: {counts[split]:,} images instead of {number:,}"
        for split, number in published.items()
        if counts[split] != number and not found.note.startswith(split)
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
