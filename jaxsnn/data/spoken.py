"""SHD and SSC, spoken words as spikes of an artificial cochlea, from the published HDF5 files.

    labels          whole numbers [N]
    spikes/times    N lists of seconds, half or single precision
    spikes/units    N lists of as many units, 0 to 699

Cramer, Stradmann, Schemmel and Zenke 2020, "The Heidelberg spiking data sets for the systematic
evaluation of spiking neural networks", IEEE TNNLS 33, https://arxiv.org/abs/1910.07407. Times are
made whole microseconds (half precision tells about one millisecond apart at one second), and the
spikes of a recording sorted by them.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from jaxsnn import foreign, hdf5
from jaxsnn.data import events
from jaxsnn.data.base import check_labels
from jaxsnn.data.event_table import EventSet
from jaxsnn.data.events import Events, Framing
from jaxsnn.data.unread import Unread
from jaxsnn.errors import UserError

__all__: list[str] = []  # nothing here is promised to users

WHAT = "an HDF5 file of labels, spikes/times and spikes/units"
MOST = 1 << 22  # recordings of a file; the largest published one has 75,466


def read_split(path: Path, source: EventSet, framing: Framing) -> Unread:
    """Return the recordings of one file, whose labels are read now and whose spikes later.

    Args:
        path: the file.
        source: the set.
        framing: how spikes become frames.

    Raises:
        UserError: if it is no such file; later, if a recording is damaged.
    """
    h5py = import_module("h5py")
    with foreign.reading(path, WHAT):
        hdf5.check_heaps(path)
    with foreign.reading(path, WHAT), h5py.File(path, "r") as file:
        labels = _labels(path, _dataset(h5py, path, file, "labels"))
        _lists(h5py, path, file, len(labels))
    check_labels(str(path), labels, source.num_classes)

    def fill(indices: np.ndarray, images: np.ndarray) -> None:
        with foreign.reading(path, WHAT), h5py.File(path, "r") as file:
            times, units = _lists(h5py, path, file, len(labels))
            for image, index in zip(images, indices, strict=True):
                pair = times[int(index)], units[int(index)]
                spikes = as_events(f"{path}: recording {index}", *pair, source.sensor)
                image[...] = events.to_frames(spikes, source.sensor, framing)

    return Unread(labels, framing.sample_shape, fill)


def as_events(what: str, times: Any, units: Any, sensor: tuple[int, ...]) -> Events:
    """Return a recording's spikes, sorted by time.

    Args:
        what: the recording, for the message.
        times: seconds, `[n]`.
        units: whole numbers, `[n]`.
        sensor: number of units.

    Raises:
        UserError: if there are not as many times as units, a time is no number or below 0, or a
            unit is none of the sensor's.

    Example:
        >>> as_events("word", [0.002, 0.001], [5, 7], (700,))
        Events(place=array([[7],
               [5]]), time=array([1000, 2000]))
    """
    seconds = np.asarray(times, np.float64).reshape(-1)
    place = np.asarray(units).astype(np.int64).reshape(-1, 1)
    if len(seconds) != len(place):
        raise UserError(f"{what}: damaged: {len(seconds):,} times, but {len(place):,} units")
    if not ((seconds >= 0) & (seconds < 1e9)).all():
        raise UserError(f"{what}: damaged: a time that is no number of seconds from 0")
    events.check_inside(what, place, sensor)
    order = np.argsort(seconds, kind="stable")
    return Events(place[order], np.rint(seconds[order] * 1e6).astype(np.int64))


def _labels(path: Path, found: Any) -> np.ndarray:
    if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer) or len(found) > MOST:
        raise UserError(f"{path}: labels {found.shape} of {found.dtype}, a list expected")
    values = np.asarray(found[()], np.int64)
    return np.clip(values, -1, 1 << 30).astype(np.int32)  # what is cut is no label either way


def _lists(h5py: Any, path: Path, file: Any, count: int) -> tuple[Any, Any]:
    """Return the lists of times and of units."""
    found = []
    for name, kind in (("spikes/times", np.floating), ("spikes/units", np.integer)):
        lists = _dataset(h5py, path, file, name)
        values = h5py.check_vlen_dtype(lists.dtype)
        if lists.shape != (count,) or values is None or not np.issubdtype(values, kind):
            raise UserError(
                f"{path}: {name} {lists.shape} of {values or lists.dtype}, {count:,} lists of "
                f"{'whole numbers' if kind is np.integer else 'seconds'} expected"
            )
        found.append(lists)
    times, units = found
    return times, units


def _dataset(h5py: Any, path: Path, file: Any, name: str) -> Any:
    """Return a data set that lies in the file itself; links may lead to other files."""
    node = file
    for part in name.split("/"):
        inside = isinstance(node, h5py.Group) and part in node
        if not inside or not isinstance(node.get(part, getlink=True), h5py.HardLink):
            raise UserError(f"{path}: has no {name}; expected {WHAT}")
        node = node[part]
    if not isinstance(node, h5py.Dataset) or node.is_virtual or node.external:
        raise UserError(f"{path}: {name} is no data set of this file")
    return node
