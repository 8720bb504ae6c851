"""DVS-Gesture in its two layouts: IBM's recordings with lists of trials, or tonic's cut trials.

Amir et al. 2017, "A low power, fully event-based gesture recognition system", CVPR. A recording
holds several trials, one a gesture; of 29 people, 24 to 29 are the test split. The layouts do not
cut alike: IBM's lists give 1,176 and 288 trials, tonic's files are 1,077 and 264.
"""

import io
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxsnn import foreign
from jaxsnn.data import events
from jaxsnn.data.base import check_labels
from jaxsnn.data.entries import files_in
from jaxsnn.data.event_table import EventSet
from jaxsnn.data.events import DVS128, Events, Framing
from jaxsnn.data.unread import Unread, of_files
from jaxsnn.errors import UserError, shown

__all__: list[str] = []  # nothing here is promised to users

LISTS = ("trials_to_train.txt", "trials_to_test.txt")
FOLDER = "DvsGesture"
WHAT = "a recording of DVS-Gesture in AEDAT 3.1"
LONGEST = 200  # characters of the name of a recording
LARGEST = 1 << 29  # bytes of one recording
_PACKET = struct.Struct("<hhiiiiii")  # type, source, size of an event, offset of its time,
# overflow of time, capacity in events, events, of these valid
_POLARITY = 1  # the type of packets with events of pixels


class Trial(NamedTuple):
    """One gesture of a recording."""

    path: Path
    label: int  # 0 to 10
    begin: int  # microseconds, the first that belongs to it
    end: int  # the first that does not


def find(folder: Path) -> Path | None:
    """Return the folder that holds IBM's lists: `folder` itself, or `DvsGesture` in it."""
    for place in (folder, folder / FOLDER):
        if any((place / name).is_file() for name in LISTS):
            return place
    return None


def read_trials(folder: Path, source: EventSet, framing: Framing, hint: str) -> list[Unread]:
    """Return the training and the test split of IBM's layout.

    A recording is `user01_fluorescent.aedat`, its trials are the lines `class,start,end` of
    `user01_fluorescent_labels.csv`, classes 1 to 11 and times in microseconds.

    Args:
        folder: where the lists lie.
        source: the set.
        framing: how events become frames.
        hint: how to get what is missing.

    Raises:
        UserError: if a file is missing or damaged.
    """
    splits = []
    for part in LISTS:
        found: list[Trial] = []
        for name in _text(folder / part, hint).split():
            if Path(name).name != name or len(name) > LONGEST or not name.isprintable():
                raise UserError(
                    f"{folder / part}: damaged: {shown(name)} found, names of files in its "
                    "folder expected"
                )
            path = folder / name
            if not path.is_file():
                raise UserError(f"{path}: no such file; {hint}")
            labels = folder / f"{path.stem}_labels.csv"
            found += _trials(path, labels, _text(labels, hint), source.num_classes)
        splits.append(_recordings(folder / part, found, source, framing))
    return splits


def read_cut(folder: Path, source: EventSet, framing: Framing) -> list[Unread]:
    """Return the training and the test split of tonic's layout.

    A trial is a file `ibmGestureTrain/user01_fluorescent/0.npy`, whose name is its label; of its
    rows x, y, polarity and time the last one is in whole milliseconds.

    Raises:
        UserError: if the name of a file is no label.
    """
    splits = []
    for part in source.parts:
        files = files_in(folder, part, (".npy",))
        for entry in files:
            if not entry.path.stem.isdecimal():
                raise UserError(f"{entry.place}: the name 0.npy to 10.npy, its label, expected")
        labelled = [(entry, int(entry.path.stem)) for entry in files]
        splits.append(
            of_files(
                str(folder / part),
                labelled,
                lambda entry: parse_table(entry.place, entry.read()),
                source,
                framing,
            )
        )
    return splits


def _text(path: Path, hint: str) -> str:
    """Return a list that is text, whatever its bytes."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; {hint}")
    return foreign.read_bytes(path, "a list of DVS-Gesture").decode("latin1")


def _trials(path: Path, place: Path, text: str, num_classes: int) -> list[Trial]:
    """Return the trials of one recording."""
    found = []
    for line in text.split("\n")[1:]:  # the first one is the names of the columns
        if not line.strip():
            continue
        words = [word.strip() for word in line.split(",")]
        numbers = [int(word) if word.isdecimal() and len(word) < 19 else -1 for word in words]
        label, begin, end = numbers if len(numbers) == 3 else (0, 0, 0)
        if not (1 <= label <= num_classes and 0 <= begin < end):
            raise UserError(
                f"{place}: damaged: class 1 to {num_classes}, begin and end expected, "
                f"{shown(line.strip())} found"
            )
        found.append(Trial(path, label - 1, begin, end))
    return found


def _recordings(where: Path, trials: list[Trial], source: EventSet, framing: Framing) -> Unread:
    """Return the trials, whose recordings are read once each."""
    labels = np.array([trial.label for trial in trials], np.int32)
    check_labels(str(where), labels, source.num_classes)

    def fill(indices: np.ndarray, images: np.ndarray) -> None:
        wanted: dict[Path, list[int]] = {}
        for place, index in enumerate(indices):
            wanted.setdefault(trials[index].path, []).append(place)

        def one(path: Path) -> None:
            found = parse_aedat3(str(path), foreign.read_bytes(path, WHAT, LARGEST))
            for place in wanted[path]:
                cut = _cut(found, trials[indices[place]])
                images[place] = events.to_frames(cut, source.sensor, framing)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(one, wanted):
                pass

    return Unread(labels, framing.sample_shape, fill)


def _cut(found: Events, trial: Trial) -> Events:
    """Return the events of one trial."""
    inside = (found.time >= trial.begin) & (found.time < trial.end)
    if not inside.any():
        raise UserError(
            f"{trial.path}: damaged or cut short: no event from {trial.begin:,} to {trial.end:,} "
            "microseconds, where its list has a trial"
        )
    return Events(found.place[inside], found.time[inside])


def parse_aedat3(what: str, data: bytes) -> Events:
    """Read a recording of the DVS128 sensor in the format AEDAT 3.1, little-endian.

    After the lines of the header, packets: 28 bytes of header and its events. Only packets with
    events of pixels count. Such an event is an address and a time: bit 0 of the address marks it
    valid, bit 1 is its polarity (1 is ON), bits 2 to 16 are the row from the top, bits 17 to 31 the
    column; its time in microseconds has 31 bits, to which the packet adds the higher ones. Events
    that are not marked valid are left out, unless the packet counts all of its events as valid.

    Args:
        what: the file, for the message.
        data: its bytes.

    Raises:
        UserError: if the version is another, a packet is cut short, there is no event of a pixel,
            or one outside of the sensor.

    References: iniVation, "AEDAT file formats", 3.1.
    """
    start = events.after_header(what, data, "3.1")
    places, times = [np.zeros((0, 3), np.int64)], [np.zeros(0, np.int64)]
    while start < len(data):
        place, time, start = _packet(what, data, start)
        places.append(place)
        times.append(time)
    found = Events(np.concatenate(places), np.concatenate(times))
    if not len(found.time):
        raise UserError(f"{what}: damaged or cut short: no events of pixels after the header")
    events.check_inside(what, found.place, DVS128)
    return found


def _packet(what: str, data: bytes, start: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Return places and times of a packet, and where the next one begins."""
    room = len(data) - start - _PACKET.size
    if room < 0:
        raise UserError(f"{what}: damaged or cut short: {room + _PACKET.size} bytes at its end")
    kind, _, size, _, overflow, capacity, number, valid = _PACKET.unpack_from(data, start)
    start += _PACKET.size
    is_sound = size >= 0 and overflow >= 0 and 0 <= number <= capacity
    if not is_sound or capacity * size > room or (kind == _POLARITY and size != 8):
        raise UserError(
            f"{what}: damaged or cut short: a packet of {number:,} events, {capacity:,} times "
            f"{size:,} bytes, in {room:,} bytes"
        )
    count = number if kind == _POLARITY else 0
    address, time = np.frombuffer(data, "<u4", 2 * count, start).reshape(-1, 2).astype(np.int64).T
    place = np.stack([address >> 2 & 0x7FFF, address >> 17, address >> 1 & 1], 1)
    time = (time & 0x7FFFFFFF) | overflow << 31
    if valid != number:
        is_valid = address & 1 == 1
        place, time = place[is_valid], time[is_valid]
    return place, time, start + capacity * size


def parse_table(what: str, data: bytes) -> Events:
    """Read one of tonic's trials: a `.npy` of rows x, y, polarity and milliseconds.

    Args:
        what: the file, for the message.
        data: its bytes.

    Raises:
        UserError: if it is no such table, has no rows, or an event outside of the sensor.
    """
    values = _table(what, data)
    # What is cut, or no number, is no pixel and no time either.
    table = np.clip(np.nan_to_num(values, nan=-1), -1, 1 << 48).astype(np.int64)
    if not np.array_equal(table, values) or table[:, 3].min(initial=0) < 0:
        raise UserError(f"{what}: damaged: whole numbers from 0 expected")
    column, row, polarity, milliseconds = table.T
    place = np.stack([row, column, polarity], 1)
    events.check_inside(what, place, DVS128)
    return Events(place, milliseconds * 1000)


def _table(what: str, data: bytes) -> np.ndarray:
    """Return the numbers of a `.npy`, `[n, 4]`; nothing is made before its size is known."""
    stream = io.BytesIO(data)
    with foreign.reading(what, "a table of x, y, polarity and milliseconds (.npy)"):
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("another version of the format")
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        if dtype.kind not in "biuf" or len(shape) != 2 or shape[1] != 4 or shape[0] < 1:
            raise ValueError(f"{dtype} numbers of the shape {shape}")
        body = data[stream.tell() :]
        if len(body) != shape[0] * 4 * dtype.itemsize:
            raise ValueError(f"{len(body):,} bytes for the shape {shape}")
        values = np.frombuffer(body, dtype).reshape(shape, order="F" if is_fortran else "C")
    return values
