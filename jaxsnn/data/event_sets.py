"""Event sets from the published files, downloaded through tonic where it is installed."""

import os
import re
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np

from jaxsnn import foreign
from jaxsnn.arrays import check_whole
from jaxsnn.data import events, gestures, spoken
from jaxsnn.data.base import folders_of, not_installed
from jaxsnn.data.cache import cached
from jaxsnn.data.entries import Entry, exists, files_in, fingerprint
from jaxsnn.data.event_table import CAMERA, EVENT_SETS, EventSet, how_to_get
from jaxsnn.data.events import Events, Framing
from jaxsnn.data.sources import Found
from jaxsnn.data.unread import Parts, in_memory, of_files
from jaxsnn.errors import UserError

__all__: list[str] = []  # nothing here is promised to users

INSTALL = "pip install 'jaxsnn-compress[events]'"


def framing(
    name: str,
    timesteps: int | None = None,
    size: int | Sequence[int] | None = None,
    frames_by: str | None = None,
) -> Framing:
    """Fill in and check how the recordings of a set become frames.

    Args:
        name: a name of `EVENT_SETS`.
        timesteps: frames a recording, at least 1; the set's own by default.
        size: rows and columns of a frame, one number for both or a pair, or number of units; at
            most those of the sensor; the set's own by default.
        frames_by: "number" or "time"; the set's own by default.

    Raises:
        UserError: if one is out of range.
    """
    source = EVENT_SETS[name]
    sides = source.sensor[:2]
    timesteps = source.timesteps if timesteps is None else timesteps
    by = source.by if frames_by is None else frames_by
    asked = source.sides if size is None else size
    given = tuple(asked) if isinstance(asked, Sequence) else (asked,) * len(sides)
    check_whole(f"timesteps of {name}", timesteps, 1, 1 << 20)
    if len(given) != len(sides):
        raise UserError(f"size of {name} is {given}, but must be {len(sides)} numbers or one")
    for each, side in zip(given, sides, strict=True):
        check_whole(f"size of {name}", each, 1, side)
    if by not in events.WAYS:
        raise UserError(f"frames_by {by!r} is unknown; choose one of {', '.join(events.WAYS)}")
    polarities = (CAMERA,) if len(source.sensor) > 1 else ()
    shape = (*(int(each) for each in given), *polarities)
    return Framing(int(timesteps), shape, by, source.duration if by == "time" else None)


def read_local(name: str, root: Path, frames: Framing) -> Parts | None:
    """Read a set from its folders or archives under a data directory, as frames.

    N-MNIST is `Train` and `Test` of recordings `<label>/<number>.bin`. CIFAR10-DVS is one folder or
    archive a class of `..._<number>.aedat`; no test split is published, so the last tenth of every
    class, by number, is ours. Its frames are kept in a file beside the set, one for each choice of
    options (461 MB by default), because counting them takes minutes; it may be deleted. For SHD and
    SSC see `spoken`, for DVS-Gesture `gestures`.

    Returns:
        The splits, read later but for CIFAR10-DVS, or None if there is no file of the set.

    Raises:
        UserError: if some files are there but not all, or one is damaged.
    """
    source = EVENT_SETS[name]
    for folder in folders_of(name, root, source.folders, EVENT_SETS):
        found = READERS[name](name, folder, source, frames)
        if found is not None:
            return found._replace(note="; ".join(filter(None, (found.note, _note(frames)))))
    return None


def _note(frames: Framing) -> str:
    """Return how recordings became frames: "10 frames of equal length, 34x34"."""
    alike = {"number": "equally many events", "time": "equal length"}[frames.by]
    if frames.duration is not None:
        alike = f"{frames.duration / frames.timesteps / 1000:g} ms"
    sides = "x".join(map(str, frames.shape[:2]))
    return f"{frames.timesteps} frames of {alike}, {sides}{' units' * (len(frames.shape) == 1)}"


def _has_parts(
    name: str, folder: Path, source: EventSet, there: Callable[[Path, str], bool], ending: str
) -> bool:
    """Return whether the parts of a set are there; some of them, but not all, are an error."""
    missing = [part for part in source.parts if not there(folder, part)]
    if missing and len(missing) < len(source.parts):
        raise UserError(
            f"{folder / missing[0]}{ending}: no such file{' or folder' * bool(ending)}; "
            f"{how_to_get(name)}"
        )
    return not missing


def read_tonic(name: str, frames: Framing) -> Parts:
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


def not_found(name: str, root: Path) -> UserError:
    """Make the error for a data directory without any file of the set."""
    source = EVENT_SETS[name]
    main, part = source.main, source.parts[0]
    folder = f", nor a folder {part}" if main == f"{part}.zip" else ""
    return UserError(
        f"{name}: no file {root / source.folders[0] / main} (nor {main} in {root}{folder}); "
        f"{how_to_get(name)} into either folder"
    )


def _download(name: str, root: Path) -> None:
    try:
        import tonic
    except ImportError as error:
        raise not_installed(name, error, how_to_get(name), INSTALL) from error
    make = getattr(tonic.datasets, EVENT_SETS[name].tonic)
    try:
        for options in EVENT_SETS[name].downloads:
            make(save_to=str(root), **options)
    except Exception as error:  # network, checksum, disk: tonic raises many kinds
        told = " ".join(str(error).split())
        raise UserError(
            f"{name}: tonic cannot download it to {root}: {type(error).__name__}: {told}; "
            f"{how_to_get(name)} by hand and give their folder as data directory"
        ) from error


def _read_nmnist(name: str, folder: Path, source: EventSet, frames: Framing) -> Parts | None:
    if not _has_parts(name, folder, source, exists, ".zip"):
        return None

    def parse(entry: Entry) -> Events:
        return events.parse_atis(entry.place, entry.read(), source.sensor)

    splits = []
    for part in source.parts:
        files = sorted(files_in(folder, part, (".bin",)), key=lambda entry: entry.path.name)
        for entry in files:
            if entry.path.parent.name not in list("0123456789"):
                raise UserError(f"{entry.place}: a folder 0 to 9, its label, expected around it")
        labelled = [(entry, int(entry.path.parent.name)) for entry in files]
        splits.append(of_files(str(folder / part), labelled, parse, source, frames))
    train, test = splits
    return Parts(train, test)


def _read_dvs_cifar10(name: str, folder: Path, source: EventSet, frames: Framing) -> Parts | None:
    if not _has_parts(name, folder, source, exists, ".zip"):
        return None
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
        first, last = (
            of_files(str(folder), part, _parse_dvs, source, frames).whole()
            for part in (train, test)
        )
        return Found(first, last, note)

    key = fingerprint([entry for entry, _ in train + test], "2", *frames)
    path = folder / f"jaxsnn-dvs_cifar10-{key}.npz"
    kept = cached(path, read, frames.sample_shape, source.num_classes)
    return Parts(in_memory(kept.train), in_memory(kept.test), kept.note)


def _read_spoken(name: str, folder: Path, source: EventSet, frames: Framing) -> Parts | None:
    packed = [part for part in source.parts if (folder / f"{part}.gz").is_file()]
    if packed and not any((folder / part).is_file() for part in source.parts):
        raise UserError(f"{folder / packed[0]}.gz is packed: unpack it, by gunzip, where it lies")
    if not _has_parts(name, folder, source, lambda place, part: (place / part).is_file(), ""):
        return None
    first, *between, last = (
        spoken.read_split(folder / part, source, frames) for part in source.parts
    )
    return Parts(first, last, validation=between[0] if between else None)


def _read_gestures(name: str, folder: Path, source: EventSet, frames: Framing) -> Parts | None:
    lists = gestures.find(folder)
    if lists is not None:
        train, test = gestures.read_trials(lists, source, frames, how_to_get(name))
        return Parts(train, test)
    if not _has_parts(name, folder, source, exists, ".zip"):
        return None
    train, test = gestures.read_cut(folder, source, frames)
    return Parts(train, test)


READERS = {
    "nmnist": _read_nmnist,
    "dvs_cifar10": _read_dvs_cifar10,
    "dvs_gesture": _read_gestures,
    "shd": _read_spoken,
    "ssc": _read_spoken,
}


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
    with foreign.reading(place, "a recording in AEDAT 4"):
        found = tonic.io.read_aedat4(place)
    time, column, row, is_on = (found[name].astype(np.int64) for name in found.dtype.names[:4])
    if len(time) == 0 or max(column.max(), row.max()) > 127:
        raise UserError(f"{place}: damaged: no events of a sensor of 128 rows and columns")
    return Events(np.stack([row, column, is_on], 1), time)
