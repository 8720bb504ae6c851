"""Read idx files, the format of MNIST and its family.

An idx file is big-endian: two zero bytes, a type code (8 = unsigned byte), the number of
dimensions, one 4-byte size a dimension, then the values, last dimension fastest.

Reference: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", 1998,
section "File formats".
"""

import math
import struct
from pathlib import Path

import numpy as np

from jaxsnn import foreign
from jaxsnn.data.base import Split, check_split
from jaxsnn.data.packed import require, unpack
from jaxsnn.errors import UserError

__all__: list[str] = []  # nothing here is promised to users

_UNSIGNED_BYTE = 8
SUFFIXES = (".gz", "")


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """Read one idx file, plain or `.gz`, into a uint8 array.

    Args:
        path: the file.
        ndim: number of dimensions it must have: 3 for images, 1 for labels.

    Raises:
        UserError: if the header is not that of such a file, or the number of bytes is not what
            the header says; the message names the file, the expected and the found bytes.
    """
    offset = 4 + 4 * ndim
    header, damage = unpack(path, offset)
    if len(header) < offset:
        raise UserError(
            f"{path}: damaged or cut short: header of {offset} bytes expected, "
            f"{len(header)} bytes found{damage}"
        )
    magic = bytes([0, 0, _UNSIGNED_BYTE, ndim])
    if header[:4] != magic:
        raise UserError(
            f"{path}: not an idx file of bytes with {ndim} dimensions: "
            f"magic number {magic.hex(' ')} expected, {header[:4].hex(' ')} found"
        )
    shape = struct.unpack(f">{ndim}I", header[4:])
    expected, size = offset + math.prod(shape), path.stat().st_size
    asked = f"the header {shape} asks for {expected:,} bytes"
    if path.suffix not in SUFFIXES[:1]:
        if expected != size:
            raise UserError(f"{path}: damaged or cut short: {asked}, {size:,} found")
    elif expected > foreign.most_unpacked(size):
        raise UserError(
            f"{path}: damaged: {asked}, more than a file of {size:,} may unpack to; unpack it"
        )
    data, damage = unpack(path, expected + 1)
    if len(data) != expected or damage:
        found = "more" if len(data) > expected else f"{len(data):,}"
        raise UserError(f"{path}: damaged or cut short: {asked}, {found} found{damage}")
    return np.frombuffer(data, np.uint8, offset=offset).reshape(shape)


def read_pair(
    images_path: Path, labels_path: Path, num_classes: int, first_label: int = 0
) -> Split:
    """Read a file of images and its file of labels, and check that they belong together.

    Args:
        images_path: idx file `[N, H, W]`.
        labels_path: idx file `[N]`, values `first_label .. first_label + num_classes - 1`.
        num_classes: number of classes.
        first_label: value in the file that means class 0 (1 for EMNIST letters).

    Returns:
        Images `[N, H, W, 1]` and labels from 0.

    Raises:
        UserError: if either file is damaged, or the two do not match.
    """
    images = read_idx(images_path, 3)[..., None]
    labels = read_idx(labels_path, 1).astype(np.int32) - first_label
    what = f"{images_path} with {labels_path.name}"
    return check_split(what, Split(images, labels), num_classes)


def read_split(
    folder: Path, prefix: str, num_classes: int, first_label: int = 0, hint: str = "get both files"
) -> Split:
    """Read the images and the labels of one split from a folder; see `read_pair`.

    Args:
        folder: where `<prefix>-images-idx3-ubyte` and `<prefix>-labels-idx1-ubyte` lie, plain or
            `.gz`.
        prefix: "train", "t10k", "emnist-letters-test".
        num_classes: number of classes.
        first_label: value in the file that means class 0.
        hint: how to get the files, for the error.

    Raises:
        UserError: if a file is missing, damaged, or does not match the other.
    """
    images_path, labels_path = (require(folder, stem, SUFFIXES, hint) for stem in stems(prefix))
    return read_pair(images_path, labels_path, num_classes, first_label)


def stems(prefix: str) -> tuple[str, str]:
    """Return the names, without `.gz`, of a split's files of images and of labels."""
    return f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"
