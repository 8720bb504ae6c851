"""Recordings of event cameras: two file formats, and frames of counted events.

An event is one pixel that has become brighter (ON) or darker (OFF) at one microsecond.
Letters in shapes: `n` events, `T` frames, `H` rows, `W` columns.
"""

from typing import NamedTuple

import numpy as np

from jaxsnn.errors import UserError

__all__ = ["Events", "Framing", "parse_aedat", "parse_atis", "to_frames"]

WAYS = ("number", "time")
_AEDAT = b"#!AER-DAT"


class Events(NamedTuple):
    """The events of one recording in their order, int64 `[n]` each."""

    row: np.ndarray  # from the top
    column: np.ndarray  # from the left
    is_on: np.ndarray  # 1 brighter, 0 darker
    time: np.ndarray  # microseconds


class Framing(NamedTuple):
    """How recordings become frames."""

    timesteps: int  # T
    size: int  # rows and columns of a frame
    by: str  # one of WAYS


def to_frames(events: Events, sensor: int, framing: Framing) -> np.ndarray:
    """Count events in `T` frames of `size` rows and columns.

    Event `i` of `n` goes to the frame

        floor(i T / n)                                    by "number": each has equally many events
        floor((t_i - min t) T / (max t - min t + 1))      by "time": each lasts equally long

    and, on a sensor of `S` rows and columns, to row `floor(row size / S)` and likewise its column:
    no event is lost, and a pixel of a smaller frame counts those of a small area (of 4 to 9 pixels
    from 128 to 48). Scripts that resize full frames to the nearest pixel drop most events; those
    by number put the rest of `n / T` in the last frame.

    Args:
        events: the recording; without events, the frames are zero.
        sensor: rows and columns `S` of the sensor.
        framing: T >= 1, `size` in [1, S], and "number" or "time".

    Returns:
        uint8 `[T, size, size, 2]`: OFF events, ON events; counts above 255 are cut to 255.
    """
    timesteps, size, by = framing
    count = len(events.time)
    if by == "number":
        frame = np.arange(count) * timesteps // max(count, 1)
    else:
        since = events.time - events.time.min(initial=np.iinfo(np.int64).max)
        frame = since * timesteps // (since.max(initial=0) + 1)
    row, column = events.row * size // sensor, events.column * size // sensor
    place = ((frame * size + row) * size + column) * 2 + events.is_on
    counts = np.bincount(place, minlength=timesteps * size * size * 2)
    return np.minimum(counts, 255).astype(np.uint8).reshape(timesteps, size, size, 2)


def parse_atis(what: str, data: bytes, sensor: int) -> Events:
    """Read N-MNIST's records of 5 bytes: x, y, then 1 bit polarity and 23 bits of time.

    Args:
        what: the file, for the message.
        data: its bytes.
        sensor: rows and columns that exist.

    Raises:
        UserError: if it holds no whole number of events, or an event outside of the sensor.

    References: Orchard et al. 2015, "Converting static image datasets to spiking neuromorphic
    datasets using saccades", Frontiers in Neuroscience 9:437.
    """
    if not data or len(data) % 5:
        raise UserError(
            f"{what}: damaged or cut short: events of 5 bytes expected, {len(data):,} bytes found"
        )
    table = np.frombuffer(data, np.uint8).reshape(-1, 5).astype(np.int64)
    column, row, first, middle, last = table.T
    if max(column.max(), row.max()) >= sensor:
        raise UserError(
            f"{what}: damaged: an event at column {column.max()} or row {row.max()}, "
            f"but the sensor has {sensor} of each"
        )
    return Events(row, column, first >> 7, (first & 127) << 16 | middle << 8 | last)


def parse_aedat(what: str, data: bytes) -> Events:
    """Read a recording of the DVS128 sensor in the format AEDAT 2.0.

    After lines that begin with `#`, events of 8 bytes, big-endian: address and time. Bit 0 of the
    address is the polarity (0 is ON), bits 1 to 7 one coordinate, 8 to 14 the other. Events with
    higher bits are no pixels (synchronization) and left out. The picture stands upright with row
    `127 - bits 1..7` and column `127 - bits 8..14`, as SpikingJelly reads CIFAR10-DVS.

    Args:
        what: the file, for the message.
        data: its bytes.

    Raises:
        UserError: if the version is another, the bytes are no whole number of events, or none is
            an event of a pixel.
    """
    start = 0
    while data[start : start + 1] == b"#":
        stop = data.find(b"\n", start)
        line = data[start : stop if stop >= 0 else len(data)]
        if line.startswith(_AEDAT) and not line.startswith(_AEDAT + b"2"):
            version = line.removeprefix(_AEDAT).strip().decode("latin1")
            raise UserError(f"{what}: AEDAT 2.0 expected, version {version!r} found")
        start = stop + 1 if stop >= 0 else len(data)
    body = data[start:]
    words = np.frombuffer(body[: len(body) - len(body) % 8], ">u4").reshape(-1, 2)
    address, time = (column.astype(np.uint32) for column in words.T)
    is_pixel = address >> 15 == 0
    if len(body) % 8 or not is_pixel.any():
        raise UserError(
            f"{what}: damaged or cut short: events of 8 bytes expected after the header, "
            f"{len(body):,} bytes with {int(is_pixel.sum()):,} events of pixels found"
        )
    address = address[is_pixel].astype(np.int64)
    since = (time - time[0])[is_pixel].astype(np.int32)  # right where the 32 bits run over, too
    return Events(
        127 - (address >> 1 & 127),
        127 - (address >> 8 & 127),
        1 - (address & 1),
        since.astype(np.int64),
    )
