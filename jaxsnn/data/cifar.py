"""Read CIFAR-10 and CIFAR-100 in every form in which they are published.

- binary version: records of one label byte (CIFAR-100: coarse and fine), then 1,024 red, 1,024
  green and 1,024 blue bytes, each plane 32x32 row by row; plain, `.xz` or `.gz`;
- python version: pickles of `{b"data": uint8 [N, 3072], b"labels": list}` (CIFAR-100:
  b"fine_labels"), read without executing anything (`restricted_pickle.py`);
- the canonical `.tar.gz` of either, read in memory, nothing is written to disk.

The test batch of the binary version may be shorter than the published one, under its own name or
one that begins with it, `test_batch_first1000.bin.xz`; the note of the set says so.

Reference: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
"""

import gzip
import io
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxsnn import foreign
from jaxsnn.data.base import Split, check_split
from jaxsnn.data.packed import find, require, unpack
from jaxsnn.data.restricted_pickle import read_pickle
from jaxsnn.errors import UserError

__all__: list[str] = []  # nothing here is promised to users

_PIXELS = 3 * 32 * 32
SUFFIXES = ("", ".xz", ".gz")


class Layout(NamedTuple):
    """Where the batches of one CIFAR set lie and what is in them."""

    num_classes: int
    train: tuple[str, ...]  # names of the training batches, python version; binary adds ".bin"
    test: str  # name of the test batch
    train_records: int  # images in one training batch
    test_records: int  # images in the test batch
    label_bytes: int  # bytes before the pixels of a binary record; the last one is the class
    label_field: bytes  # field of the pickle that holds the classes
    stem: str  # of folders and archives: "cifar-10"
    suffixes: tuple[str, str]  # of the unpacked folders, binary and python: "-batches-bin"
    archive_bytes: tuple[int, int]  # sizes of the canonical archives, binary and python

    @property
    def folders(self) -> tuple[str, str]:
        """Return the names of the canonical unpacked folders."""
        return self.stem + self.suffixes[0], self.stem + self.suffixes[1]

    @property
    def archives(self) -> tuple[str, str]:
        """Return the names of the canonical archives."""
        return f"{self.stem}-binary.tar.gz", f"{self.stem}-python.tar.gz"


LAYOUTS = {
    "cifar10": Layout(
        num_classes=10,
        train=tuple(f"data_batch_{batch}" for batch in range(1, 6)),
        test="test_batch",
        train_records=10_000,
        test_records=10_000,
        label_bytes=1,
        label_field=b"labels",
        stem="cifar-10",
        suffixes=("-batches-bin", "-batches-py"),
        archive_bytes=(170_052_171, 170_498_071),
    ),
    "cifar100": Layout(
        num_classes=100,
        train=("train",),
        test="test",
        train_records=50_000,
        test_records=10_000,
        label_bytes=2,
        label_field=b"fine_labels",
        stem="cifar-100",
        suffixes=("-binary", "-python"),
        archive_bytes=(168_513_733, 169_001_437),
    ),
}


def read(folder: Path, layout: Layout, hint: str) -> tuple[Split, Split, str] | None:
    """Read training and test images from one folder, in whichever form they lie there.

    Args:
        folder: holds the batches themselves or an archive.
        layout: which set.
        hint: how to get a missing file, for the error.

    Returns:
        `(train, test, note)`, or None if nothing of the set lies here. The note tells how many
        images there are of a shorter test batch.

    Raises:
        UserError: if some, but not all files are there, or a file is damaged.
    """
    names = (*layout.train, layout.test)
    if _test_batch(folder, layout) or any(find(folder, f"{x}.bin", SUFFIXES) for x in names):
        return _read_binary(folder, layout, hint)
    if any(find(folder, name, ("",)) for name in names):
        largest = _largest(layout)
        members = {
            name: foreign.read_bytes(
                require(folder, name, ("",), hint), "a CIFAR batch in a pickle", largest
            )
            for name in (*layout.train, layout.test)
        }
        return _read_python(folder, members, layout)
    for archive, size in zip(layout.archives, layout.archive_bytes, strict=True):
        if (path := folder / archive).is_file():
            return _read_archive(path, size, layout)
    return None


def parse_binary(what: str, data: bytes, records: int, layout: Layout, damage: str = "") -> Split:
    """Turn the bytes of one binary batch into images `[records, 32, 32, 3]` and labels.

    Raises:
        UserError: if the number of bytes is not that of `records` records, or `damage` (what went
            wrong while unpacking) is not empty, or a label is out of range.
    """
    width = layout.label_bytes + _PIXELS
    if len(data) != records * width or damage:
        raise UserError(
            f"{what}: damaged or cut short: {records * width:,} bytes expected "
            f"({records:,} records of {width:,}), {len(data):,} found{damage}"
        )
    table = np.frombuffer(data, np.uint8).reshape(records, width)
    labels = table[:, layout.label_bytes - 1].astype(np.int32)
    images = _channels_last(table[:, layout.label_bytes :])
    return check_split(what, Split(images, labels), layout.num_classes)


def parse_python(what: str, data: bytes, records: int, layout: Layout) -> Split:
    """Turn the bytes of one pickled batch into images `[records, 32, 32, 3]` and labels.

    Raises:
        UserError: if the pickle is damaged, holds anything but plain containers and arrays, or not
            the fields of a CIFAR batch.
    """
    batch = read_pickle(what, data)
    fields = {}
    if isinstance(batch, dict):  # field names are bytes from Python 2, text from Python 3
        fields = {key.encode() if isinstance(key, str) else key: batch[key] for key in batch}
    table, labels = fields.get(b"data"), fields.get(layout.label_field)
    field = layout.label_field.decode()
    if not isinstance(table, np.ndarray) or not isinstance(labels, list):
        raise UserError(f"{what}: a CIFAR batch with `data` and `{field}` expected")
    if table.shape != (records, _PIXELS):
        raise UserError(
            f"{what}: damaged or cut short: `data` of shape {(records, _PIXELS)} expected, "
            f"{table.shape} found"
        )
    if not all(type(label) is int and 0 <= label < layout.num_classes for label in labels):
        raise UserError(f"{what}: `{field}` must be whole numbers 0 to {layout.num_classes - 1}")
    split = Split(_channels_last(table), np.array(labels, np.int32))
    return check_split(what, split, layout.num_classes)


def _read_binary(folder: Path, layout: Layout, hint: str) -> tuple[Split, Split, str]:
    paths = [require(folder, f"{name}.bin", SUFFIXES, hint) for name in layout.train]
    test = _test_batch(folder, layout)
    paths.append(test or require(folder, f"{layout.test}.bin", SUFFIXES, hint))
    records = [layout.train_records] * len(layout.train) + [layout.test_records]
    width = layout.label_bytes + _PIXELS

    def parse(path: Path, num: int) -> Split:
        data, damage = unpack(path, limit=num * width + 1)
        if path == paths[-1] and not damage and len(data) % width == 0:
            num = min(max(len(data) // width, 1), num)
        return parse_binary(str(path), data, num, layout, damage)

    # Unpacking and transposing release the interpreter lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        *train, last = pool.map(parse, paths, records)
    found, published = len(last.labels), layout.test_records
    note = f"test: {found:,} of {published:,} images" if found < published else ""
    return _joined(train), last, note


def _test_batch(folder: Path, layout: Layout) -> Path | None:
    """Return the test batch, or the first of the shorter ones whose names begin with its name."""
    whole = find(folder, f"{layout.test}.bin", SUFFIXES)
    shorter = (
        path
        for suffix in SUFFIXES
        for path in sorted(folder.glob(f"{layout.test}_*.bin{suffix}"))
        if path.is_file()
    )
    return whole or next(shorter, None)


def _read_python(
    where: Path, members: dict[str, bytes], layout: Layout
) -> tuple[Split, Split, str]:
    *train, test = (
        parse_python(
            f"{where / name}",
            members[name],
            layout.test_records if name == layout.test else layout.train_records,
            layout,
        )
        for name in (*layout.train, layout.test)
    )
    return _joined(train), test, ""


def _read_archive(path: Path, size: int, layout: Layout) -> tuple[Split, Split, str]:
    is_binary = path.name == layout.archives[0]
    wanted = (*layout.train, layout.test)
    if is_binary:
        wanted = tuple(f"{name}.bin" for name in wanted)
    largest = _largest(layout)
    members: dict[str, bytes] = {}
    found = path.stat().st_size
    sizes = f"{size:,} bytes expected, {found:,} found"
    with (
        foreign.reading(path, f"the published archive, {sizes}"),
        gzip.open(path) as unpacked,
        _Capped(unpacked, foreign.most_unpacked(found)) as stream,
        tarfile.open(fileobj=stream, mode="r|") as archive,
    ):
        for member in archive:
            name = member.name.rsplit("/", 1)[-1]
            if name in wanted and member.isfile() and member.size <= largest:
                content = archive.extractfile(member)
                members[name] = content.read() if content else b""
        while stream.read(_PIXELS):  # behind the last member, up to the checksum of the stream
            pass
    missing = [name for name in wanted if name not in members]
    if missing:
        raise UserError(f"{path}: damaged or foreign: no {', '.join(missing)} inside; {sizes}")
    if not is_binary:
        return _read_python(path, members, layout)
    *train, test = (
        parse_binary(
            f"{path / name}",
            members[name],
            layout.test_records if name == wanted[-1] else layout.train_records,
            layout,
        )
        for name in wanted
    )
    return _joined(train), test, ""


class _Capped(io.RawIOBase):
    """A stream that fails when more comes out of it than may."""

    def __init__(self, stream: Any, most: int) -> None:
        self.stream = stream
        self.left = most

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, at most `size`."""
        data: bytes = self.stream.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise ValueError("it unpacks to far more bytes than it has")
        return data


def _largest(layout: Layout) -> int:
    """Return the most bytes that a batch may have, with the names of its images."""
    return max(layout.train_records, layout.test_records) * 2 * _PIXELS


def _channels_last(planes: np.ndarray) -> np.ndarray:
    """Turn rows of three planes `[N, 3072]` into images `[N, 32, 32, 3]`."""
    return np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _joined(splits: list[Split]) -> Split:
    images, labels = zip(*splits, strict=True)
    return Split(np.concatenate(images), np.concatenate(labels))
