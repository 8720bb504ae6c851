"""Keep what took minutes to read as one file of arrays beside the data."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxsnn import archive
from jaxsnn.data.base import Split, check_split
from jaxsnn.data.sources import Found
from jaxsnn.errors import UserError
from jaxsnn.files import write_atomic

__all__: list[str] = []  # nothing here is promised to users


def cached(
    path: Path, read: Callable[[], Found], shape: tuple[int, ...], num_classes: int
) -> Found:
    """Return the splits that a file keeps; without it, read them and write the file.

    The file is made in memory first, so that at the moment of writing there are two copies. Where
    it cannot be written, nothing is kept; where it is damaged, or holds other samples than these,
    it is made again.

    Args:
        path: the file; its name must tell apart whatever may be read.
        read: reads the set itself.
        shape: of one sample.
        num_classes: labels are below it.
    """
    kept = _load(path, shape, num_classes) if path.is_file() else None
    if kept is not None:
        return kept
    found = read()
    arrays = {
        "train_images": found.train.images,
        "train_labels": found.train.labels,
        "test_images": found.test.images,
        "test_labels": found.test.labels,
        "note": np.frombuffer(found.note.encode(), np.uint8),
    }
    with contextlib.suppress(UserError):
        write_atomic(path, archive.pack(arrays))
    return found


def _load(path: Path, shape: tuple[int, ...], num_classes: int) -> Found | None:
    try:
        arrays = archive.read(path)
        train, test = (_split(path, arrays, part, shape, num_classes) for part in ("train", "test"))
        note = bytes(arrays["note"]).decode("utf-8", "replace")
    except (UserError, KeyError):
        return None
    return Found(train, test, note)


def _split(
    path: Path,
    arrays: dict[str, np.ndarray],
    name: str,
    shape: tuple[int, ...],
    num_classes: int,
) -> Split:
    images, labels = arrays[f"{name}_images"], arrays[f"{name}_labels"]
    if images.dtype != np.uint8 or images.shape[1:] != shape:
        raise UserError(f"{path}: samples {images.dtype} of the shape {images.shape[1:]}")
    if labels.dtype != np.int32 or labels.ndim != 1:
        raise UserError(f"{path}: labels {labels.dtype} of the shape {labels.shape}")
    return check_split(str(path), Split(images, labels), num_classes)
