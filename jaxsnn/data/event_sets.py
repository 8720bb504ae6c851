"""Event sets from the published files, downloaded through tonic where it is installed."""

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxsnn.arrays import check_whole
from jaxsnn.data import events
from jaxsnn.data.base import Split, check_split, folders_of, not_installed
from jaxsnn.data.cache import cached
from jaxsnn.data.entries import Entry, exists, files_in, fingerprint
from jaxsnn.data.events import Events, Framing
from jaxsnn.data.sources import Found
from jaxsnn.errors import UserError

__all__: list[str] = []  # nothing here is promised to users

INSTALL = "pip install 'jaxsnn-compress[events]'"

_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()


class EventSet(NamedTuple):
    """A published set of recordings."""

    num_train: int  # recordings of our training split in the whole set
    num_test: int
    sensor: int  # rows and columns of the sensor
    size: int  # rows and columns of a frame, unless asked for otherwise
    parts: tuple[str, ...]  # folders, or archives `<part>.zip`, that make the set
    folders: tuple[str, ...]  # where they may lie under a data directory, besides its top
    url: str
    tonic: str  # the class that downloads it
    num_classes: int = 10


EVENT_SETS = {
    "nmnist": EventSet(
        60_000,
        10_000,
        34,
        34,
        ("Train", "Test"),
        ("nmnist", "NMNIST", "N-MNIST"),
        "https://www.garrickorchard.com/datasets/n-mnist",
        "NMNIST",
    ),
    "dvs_cifar10": EventSet(
        9_000,
        1_000,
        128,
        48,
        tuple(_CLASSES),
        (
            "dvs_cifar10",
            "CIFAR10DVS",
            "CIFAR10DVS/extract",
            "CIFAR10DVS/download",
            "CIFAR10-DVS",
        ),
        "https://figshare.com/articles/dataset/CIFAR10-DVS_New/4724671",
        "CIFAR10DVS",
    ),
}


def framing(
    name: str, timesteps: int | None = None, size: int | None = None, frames_by: str | None = None
) -> Framing:
    """Fill in and check how the recordings of a set become frames.

    Args:
        name: a name of `EVENT_SETS`.
        timesteps: frames a recording, at least 1; 10 by default.
        size: rows and columns of a frame, at most those of the sensor; the set's own by default.
        frames_by: "number" (the default) or "time".

    Raises:
        UserError: if one is out of range.
    """
    source = EVENT_SETS[name]
    timesteps = 10 if timesteps is None else timesteps
    size = source.size if size is None else size
    by = "number" if frames_by is None else frames_by
    check_whole(f"timesteps of {name}", timesteps, 1, 1 << 20)
    check_whole(f"size of {name}", size, 1, source.sensor)
    if by not in events.WAYS:
        raise UserError(f"frames_by {by!r} is unknown; choose one of {', '.join(events.WAYS)}")
    return Framing(int(timesteps), int(size), by)


def read_local(name: str, root: Path, frames: Framing) -> Found | None:
    """Read a set from its folders or archives under a data directory, as frames.

    N-MNIST is `Train` and `Test` of recordings `<label>/<number>.bin`. CIFAR10-DVS is one folder or
    archive a class of `..._<number>.aedat`; no test split is published, so the last tenth of every
    class, by number, is ours. Its frames are kept in a file beside the set, one for each choice of
    options (461 MB by default), because counting them takes minutes; it may be deleted.

    Returns:
        The splits, images uint8 `[N, T, size, size, 2]`, or None if there is no file of the set.

    Raises:
        UserError: if some files are there but not all, or one is damaged.
    """
    source = EVENT_SETS[name]
    for folder in folders_of(name, root, source.folders, EVENT_SETS):
        here = [part for part in source.parts if exists(folder, part)]
        if not here:
            continue
        missing = [part for part in source.parts if part not in here]
        if missing:
            raise UserError(
                f"{folder / missing[0]}.zip: no such file or folder; {how_to_get(name)}"
            )
        reader = _read_nmnist if name == "nmnist" else _read_dvs_cifar10
        found = reader(folder, source, frames)
        alike = {"number": "equally many events", "time": "equal length"}[frames.by]
        note = f"{frames.timesteps} frames of {alike}, {frames.size}x{frames.size}"
        return found._replace(note="; ".join(filter(None, (found.note, note))))
    return None


def read_tonic(name: str, frames: Framing) -> Found:
    """Read a set from tonic's directory, letting tonic download it if it is not there.

    Raises:
        UserError: if the package is missing, the download fails, or a file is damaged.
    """
    root = tonic_directory()
    found = read_local(name, root, frames)
    if found is None:
        _download(name, root)
        found = read_local(name, root, frames)
    if found is None:
        raise UserError(f"{name}: tonic left no file of the set in {root}; {how_to_get(name)}")
    return found


def tonic_directory() -> Path:
    """Return where tonic shall keep its sets: `$TONIC_DATA_DIR` or `~/tonic_data`."""
    return Path(os.environ.get("TONIC_DATA_DIR") or "~/tonic_data").expanduser()


def how_to_get(name: str) -> str:
    """Return half a sentence on what to download from where."""
    first, *rest = EVENT_SETS[name].parts
    names = f"{first}.zip {'to' if len(rest) > 1 else 'and'} {rest[-1]}.zip"
    return f"get {names} from {EVENT_SETS[name].url}"


def not_found(name: str, root: Path) -> UserError:
    """Make the error for a data directory without any file of the set."""
    source = EVENT_SETS[name]
    first = source.parts[0]
    return UserError(
        f"{name}: no file {root / source.folders[0] / first}.zip (nor {first}.zip in {root}, nor a "
        f"folder {first}); {how_to_get(name)} into either folder"
    )


def _download(name: str, root: Path) -> None:
    try:
        import tonic
    except ImportError as error:
        raise not_installed(name, error, how_to_get(name), INSTALL) from error
    make = getattr(tonic.datasets, EVENT_SETS[name].tonic)
    options: list[dict[str, Any]] = [{}]
    if name == "nmnist":
        options = [{"train": True}, {"train": False}]
    try:
        for option in options:
            make(save_to=str(root), **option)
    except Exception as error:  # network, checksum, disk: tonic raises many kinds
        told = " ".join(str(error).split())
        raise UserError(
            f"{name}: tonic cannot download it to {root}: {type(error).__name__}: {told}; "
            f"{how_to_get(name)} by hand and give their folder as data directory"
        ) from error


def _read_nmnist(folder: Path, source: EventSet, frames: Framing) -> Found:
    def parse(entry: Entry) -> Events:
        return events.parse_atis(entry.place, entry.read(), source.sensor)

    splits = []
    for part in source.parts:
        files = sorted(files_in(folder, part, (".bin",)), key=lambda entry: entry.path.name)
        for entry in files:
            if entry.path.parent.name not in list("0123456789"):
                raise UserError(f"{entry.place}: a folder 0 to 9, its label, expected around it")
        labelled = [(entry, int(entry.path.parent.name)) for entry in files]
        splits.append(_split(folder / part, labelled, parse, source, frames))
    train, test = splits
    return Found(train, test)


def _read_dvs_cifar10(folder: Path, source: EventSet, frames: Framing) -> Found:
    train: list[tuple[Entry, int]] = []
    test: list[tuple[Entry, int]] = []
    for label, part in enumerate(source.parts):
        files = sorted(files_in(folder, part, (".aedat", ".aedat4")), key=_number)
        if len(files) < 2:
            raise UserError(f"{folder / part}: 2 or more .aedat files expected, {len(files)} found")
        count = max(1, len(files) // 10)
        train += [(entry, label) for entry in files[:-count]]
        test += [(entry, label) for entry in files[-count:]]

    def read() -> Found:
        total = len(train) + len(test)
        note = f"test: {len(test):,} of {total:,} recordings, the last of each class"
        return Found(
            _split(folder, train, _parse_dvs, source, frames),
            _split(folder, test, _parse_dvs, source, frames),
            note,
        )

    key = fingerprint([entry for entry, _ in train + test], "1", *frames)
    return cached(folder / f"jaxsnn-dvs_cifar10-{key}.npz", read)


def _number(entry: Entry) -> tuple[int, str]:
    digits = re.search(r"(\d+)\.\w+$", entry.path.name)
    return int(digits[1]) if digits else 0, entry.path.name


def _parse_dvs(entry: Entry) -> Events:
    if entry.path.suffix.lower() != ".aedat4":
        return events.parse_aedat(entry.place, entry.read())
    return _read_aedat4(entry.place)


def _read_aedat4(place: str) -> Events:
    """Read a file of the conversion that tonic downloads; it is turned as the converter left it."""
    try:
        import tonic.io

        import_module("aedat")  # with which tonic reads these; it does not ask for it
    except ImportError as error:
        raise UserError(
            f"{place}: {error.name} is not installed; {INSTALL} aedat, or take the .aedat files"
        ) from error
    try:
        found = tonic.io.read_aedat4(place)
    except Exception as error:  # whatever a damaged file makes of the reader
        told = " ".join(str(error).split())
        raise UserError(f"{place}: damaged or cut short: {told}") from error
    time, column, row, is_on = (found[name].astype(np.int64) for name in found.dtype.names[:4])
    if len(time) == 0 or max(column.max(), row.max()) > 127:
        raise UserError(f"{place}: damaged: no events of a sensor of 128 rows and columns")
    return Events(row, column, is_on, time)


def _split(
    where: Path,
    files: list[tuple[Entry, int]],
    parse: Callable[[Entry], Events],
    source: EventSet,
    frames: Framing,
) -> Split:
    """Read the files, as many at a time as there are processors."""
    shape = (len(files), frames.timesteps, frames.size, frames.size, 2)
    images = np.empty(shape, np.uint8)

    def fill(index: int) -> None:
        entry, _ = files[index]
        images[index] = events.to_frames(parse(entry), source.sensor, frames)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(fill, range(len(files))):
            pass
    split = Split(images, np.array([label for _, label in files], np.int32))
    return check_split(str(where), split, source.num_classes)
