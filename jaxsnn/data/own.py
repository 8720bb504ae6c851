"""Images of the user's own: four arrays in one file that numpy writes.

    np.savez("own.npz", train_images=..., train_labels=..., test_images=..., test_labels=...)

Images are uint8, `[N, H, W, C]` or `[N, H, W]`, labels whole numbers from 0 on. There are as many
classes as the largest training label says.
"""

from pathlib import Path

import numpy as np

from jaxsnn import archive
from jaxsnn.arrays import check_whole
from jaxsnn.data.base import Split, check_split
from jaxsnn.data.sources import Found
from jaxsnn.errors import UserError, shown

__all__: list[str] = []  # nothing here is promised to users

NAME = "own"
FILE = "own.npz"
SPLITS = ("train", "test")
ARRAYS = tuple(f"{split}_{part}" for split in SPLITS for part in ("images", "labels"))
WHAT = "an npz file of numpy.savez"
HOW_TO_MAKE = f"write it with numpy.savez(path, {', '.join(f'{name}=...' for name in ARRAYS)})"


def read(root: Path | None) -> Found:
    """Read the images of a file, or of the file `own.npz` in a folder.

    Args:
      root: the file or the folder.

    Returns:
      The splits; images uint8 `[N, H, W, C]`, labels int32 `[N]`.

    Raises:
      UserError: if there is no such file, it is damaged or compressed, an array is missing or of
        another kind; in one line that names it.
    """
    if root is None:
        raise UserError(
            f"{NAME}: give your file, or the folder of {FILE}, as data directory (option, or "
            f"JAXSNN_DATA); {HOW_TO_MAKE}"
        )
    path = root / FILE if root.is_dir() else root
    if not path.exists():
        raise UserError(f"{path}: no such file; {HOW_TO_MAKE}")
    arrays = archive.arrays(path, WHAT, HOW_TO_MAKE)
    if missing := [name for name in ARRAYS if name not in arrays]:
        raise UserError(
            f"{path}: has no array {missing[0]!r}, only {shown(sorted(arrays))}; {HOW_TO_MAKE}"
        )
    train, test = (_split(path, split, arrays) for split in SPLITS)
    if train.images.shape[1:] != test.images.shape[1:]:
        raise UserError(
            f"{path}: training images have the shape {train.images.shape[1:]}, test images "
            f"{test.images.shape[1:]}; make them alike"
        )
    classes = int(train.labels.max()) + 1
    check_whole(f"{path}: classes, one more than the largest of train_labels,", classes, 2, 10_000)
    for name, split in zip(SPLITS, (train, test), strict=True):
        check_split(f"{path}: {name}", split, classes)
    return Found(train, test)


def _split(path: Path, name: str, arrays: dict[str, np.ndarray]) -> Split:
    """Return one of the splits, after a look at its arrays."""
    images, labels = (arrays[f"{name}_{part}"] for part in ("images", "labels"))
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or not images.size:
        raise UserError(
            f"{path}: {name}_images must be uint8, 0 to 255, of the shape [N, H, W, C] or "
            f"[N, H, W], found {images.dtype} of the shape {list(images.shape)}"
        )
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or not labels.size:
        raise UserError(
            f"{path}: {name}_labels must be whole numbers of the shape [N], found {labels.dtype} "
            f"of the shape {list(labels.shape)}"
        )
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or most >= 1 << 31:
        raise UserError(f"{path}: {name}_labels must be at least 0, found {least} to {most}")
    images = images[..., None] if images.ndim == 3 else images
    return Split(np.ascontiguousarray(images), labels.astype(np.int32))
