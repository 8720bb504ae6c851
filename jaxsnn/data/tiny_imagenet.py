"""Read Tiny-ImageNet, 200 classes of 64x64 photographs, as it is published.

`tiny-imagenet-200` holds `wnids.txt` (the classes), `train/<wnid>/images/*.JPEG` (500 each), and
`val/images/*.JPEG` with `val/val_annotations.txt` (10,000). The test images have no labels, so the
validation images are our test split, as in all papers.

Reference: Y. Le, X. Yang, "Tiny ImageNet visual recognition challenge", Stanford CS 231N, 2015.
"""

import io
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from jaxsnn import foreign
from jaxsnn.data.base import Split, check_split
from jaxsnn.data.cache import cached
from jaxsnn.data.entries import Entry, exists, files_in, fingerprint
from jaxsnn.data.sources import Found
from jaxsnn.errors import UserError, shortened

__all__: list[str] = []  # nothing here is promised to users

NAME = "tiny_imagenet"
NUM_CLASSES, NUM_TRAIN, NUM_TEST = 200, 100_000, 10_000
STEM = "tiny-imagenet-200"
HOW_TO_GET = f"get {STEM}.zip from http://cs231n.stanford.edu/"
INSTALL = "pip install pillow"
_NOTE = "the test split is the published validation split"
_SIDE = 64


def read_local(root: Path) -> Found | None:
    """Read the set from `tiny-imagenet-200`, a folder or zip archive, under a data directory.

    The decoded images are kept in a file beside the folder (`jaxsnn-tiny_imagenet-<key>.npz`,
    1.4 GB), so that 110,000 small files are read once. It is made anew when a file appears,
    vanishes or changes its size; the old one may be deleted.

    Returns:
        The splits, images uint8 `[N, 64, 64, 3]`, or None if the folder is not there. A class is
        the position of its name among all 200 in alphabetical order.

    Raises:
        UserError: if Pillow is missing, or a file is missing or damaged.
    """
    for folder in (root / NAME, root, root.parent):
        if folder == root.parent and root.name != STEM:
            continue
        if exists(folder, STEM):
            files = files_in(folder, STEM, (".jpeg", ".txt"))
            key = fingerprint(files, "2")
            path = folder / f"jaxsnn-{NAME}-{key}.npz"
            return cached(path, partial(_read, folder, files), (_SIDE, _SIDE, 3), NUM_CLASSES)
    return None


def not_found(root: Path | None) -> UserError:
    """Make the error for a data directory without the set, or for none at all."""
    if root is None:
        return UserError(
            f"{NAME}: {HOW_TO_GET} and give its folder as data directory (option, or JAXSNN_DATA)"
        )
    return UserError(
        f"{NAME}: no folder {root / NAME / STEM} (nor {root / STEM}, nor {STEM}.zip in either); "
        f"{HOW_TO_GET} into either folder"
    )


def _read(folder: Path, files: list[Entry]) -> Found:
    classes = {name: label for label, name in enumerate(_class_names(folder, files))}
    answers = {
        line.split("\t")[0]: line.split("\t")[1]
        for line in _lines(folder, files, "val/val_annotations.txt")
        if line.count("\t") >= 1
    }
    train: list[tuple[Entry, int]] = []
    test: list[tuple[Entry, int]] = []
    for entry in files:
        part, *_ = entry.path.parts[1:]
        if entry.path.suffix.lower() != ".jpeg" or part not in ("train", "val"):
            continue
        name = entry.path.parts[2] if part == "train" else answers.get(entry.path.name)
        if name not in classes:
            said = "is not in val_annotations.txt"
            told = said if name is None else f"is in no class ({shortened(name)})"
            raise UserError(f"{entry.place}: {told}")
        (train if part == "train" else test).append((entry, classes[name]))
    return Found(_split(folder / STEM / "train", train), _split(folder / STEM / "val", test), _NOTE)


def _class_names(folder: Path, files: list[Entry]) -> list[str]:
    names = sorted({line.strip() for line in _lines(folder, files, "wnids.txt") if line.strip()})
    if len(names) != NUM_CLASSES:
        raise UserError(
            f"{folder / STEM / 'wnids.txt'}: {NUM_CLASSES} classes expected, {len(names)} found"
        )
    return names


def _lines(folder: Path, files: list[Entry], path: str) -> list[str]:
    wanted = f"{STEM}/{path}"
    for entry in files:
        if str(entry.path) == wanted:
            return entry.read().decode("latin1").splitlines()
    raise UserError(f"{folder / wanted}: no such file; {HOW_TO_GET}")


def _split(where: Path, files: list[tuple[Entry, int]]) -> Split:
    try:
        import PIL.Image  # noqa: F401  before the threads
    except ImportError as error:
        raise UserError(
            f"{where}: Pillow, which reads JPEG, is not installed; {INSTALL}"
        ) from error
    images = np.empty((len(files), _SIDE, _SIDE, 3), np.uint8)

    def fill(index: int) -> None:
        entry, _ = files[index]
        images[index] = _decode(entry)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(fill, range(len(files))):
            pass
    labels = np.array([label for _, label in files], np.int32)
    return check_split(str(where), Split(images, labels), NUM_CLASSES)


def _decode(entry: Entry) -> np.ndarray:
    import PIL.Image

    data = entry.read()
    with (
        foreign.reading(entry.place, "a JPEG image"),
        PIL.Image.open(io.BytesIO(data), formats=["jpeg"]) as image,
    ):
        if image.size != (_SIDE, _SIDE):
            wide, high = image.size
            raise UserError(f"{entry.place}: {_SIDE}x{_SIDE} pixels expected, {wide}x{high} found")
        return np.asarray(image.convert("RGB"))  # about 1,800 of them are grey
