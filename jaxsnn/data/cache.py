"""Keep what took minutes to read as one file of arrays beside the data."""

import contextlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxsnn.data.base import Split
from jaxsnn.data.sources import Found
from jaxsnn.errors import UserError
from jaxsnn.files import write_atomic

__all__: list[str] = []  # nothing here is promised to users


def cached(path: Path, read: Callable[[], Found]) -> Found:
    """Return the splits that a file keeps; without it, read them and write the file.

    The file is an uncompressed `.npz` of plain arrays. It is made in memory first, so that at the
    moment of writing there are two copies. Where it cannot be written, nothing is kept; where it is
    damaged, it is made again.

    Args:
        path: the file; its name must tell apart whatever may be read.
        read: reads the set itself.
    """
    kept = _load(path)
    if kept is not None:
        return kept
    found = read()
    file = io.BytesIO()
    np.savez(
        file,
        train_images=found.train.images,
        train_labels=found.train.labels,
        test_images=found.test.images,
        test_labels=found.test.labels,
        note=np.array(found.note),
    )
    with contextlib.suppress(UserError):
        write_atomic(path, file.getvalue())
    return found


def _load(path: Path) -> Found | None:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as kept:
            train = Split(kept["train_images"], kept["train_labels"])
            test = Split(kept["test_images"], kept["test_labels"])
            return Found(train, test, str(kept["note"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
