"""Recordings of event sensors: two file formats, and frames of counted events.

An event of a camera is one pixel that has become brighter (ON) or darker (OFF), one of an
artificial cochlea a spike of one unit. Its time is a whole number of microseconds.
Letters in shapes: `n` events, `T` frames, `H` rows, `W` columns, `U` units.
"""

from typing import NamedTuple

import numpy as np

from jaxsnn.errors import UserError, shown

__all__ = ["Events", "Framing", "parse_aedat", "parse_atis", "to_frames"]

WAYS = ("number", "time")
DVS128 = (128, 128, 2)
_AEDAT = b"#!AER-DAT"
_AXES = {
    1: (("unit", "units"),),
    3: (("row", "rows"), ("column", "columns"), ("polarity", "polarities")),
}


class Events(NamedTuple):
    """The events of one recording, in their order."""

    place: np.ndarray  # int64 [n, 3]: row from the top, column, 1 for ON; or [n, 1]: unit
    time: np.ndarray  # int64 [n], microseconds


class Framing(NamedTuple):
    """How recordings become frames."""

    timesteps: int  # T
    shape: tuple[int, ...]  # of a frame: (H, W, 2) or (U,)
    by: str  # one of WAYS
    duration: int | None = None  # of a recording by time, microseconds; None for its own

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Return the shape of a recording's frames."""
        return (self.timesteps, *self.shape)


def to_frames(events: Events, sensor: tuple[int, ...], framing: Framing) -> np.ndarray:
    """Count events in `T` frames.

    Event `i` of `n` goes to the frame

        floor(i T / n)                                  by "number": each has equally many events
        floor((t_i - min t) T / (max t - min t + 1))    by "time": each lasts equally long
        floor(t_i T / duration)                         by "time" with a duration

    and, where the sensor has `S` rows and a frame has `F`, to row `floor(row F / S)`; likewise its
    column or its unit. No event is lost but those before 0 or at the duration or later, which
    belong to no frame. A pixel of a smaller frame counts those of a small area (of 4 to 9 pixels
    from 128 to 48). Scripts that resize full frames to the nearest pixel drop most events; those
    by number put the rest of `n / T` in the last frame.

    Args:
        events: the recording; without events, the frames are zero.
        sensor: sizes of its axes, (H, W, 2) of a camera and (U,) of a cochlea; the sides may
            differ.
        framing: T >= 1, a shape of as many axes and no larger, and "number" or "time".

    Returns:
        uint8 `[T, H, W, 2]`, OFF events and ON events, or `[T, U]`; counts above 255 are cut to
        255.

    Raises:
        UserError: for an event outside of the sensor.

    Example:
        >>> events = Events(np.asarray([[0, 2, 1], [1, 5, 0]]), np.asarray([10, 30]))
        >>> to_frames(events, (2, 6, 2), Framing(2, (1, 3, 2), "number"))[..., 1].tolist()
        [[[0, 1, 0]], [[0, 0, 0]]]
    """
    timesteps, shape, by, duration = framing
    place, time = events
    check_inside("events", place, sensor)
    if by == "number":
        frame = np.arange(len(time)) * timesteps // max(len(time), 1)
    else:
        begin = 0 if duration is not None else time.min(initial=np.iinfo(np.int64).max)
        since = time - begin
        frame = since * timesteps // (duration or since.max(initial=0) + 1)
        counted = (frame >= 0) & (frame < timesteps)
        place, frame = place[counted], frame[counted]
    for axis, (size, side) in enumerate(zip(shape, sensor, strict=True)):
        frame = frame * size + place[:, axis] * size // side
    counts = np.bincount(frame, minlength=int(np.prod(framing.sample_shape)))
    return np.minimum(counts, 255).astype(np.uint8).reshape(framing.sample_shape)


def check_inside(what: str, place: np.ndarray, sensor: tuple[int, ...]) -> None:
    """Refuse events outside of a sensor: counted somewhere else, they would be wrong in silence.

    Args:
        what: the recording, for the message.
        place: `[n, axes]`.
        sensor: sizes of the axes.

    Raises:
        UserError: naming the first such event.
    """
    outside = ((place < 0) | (place >= np.asarray(sensor).reshape(1, -1))).any(1)
    if outside.any():
        names = _AXES[len(sensor)]
        first = place[outside.argmax()]
        found = ", ".join(f"{name} {each}" for (name, _), each in zip(names, first, strict=True))
        has = ", ".join(f"{size} {name}" for (_, name), size in zip(names, sensor, strict=True))
        raise UserError(f"{what}: damaged: an event at {found}, but the sensor has {has}")


def parse_atis(what: str, data: bytes, sensor: tuple[int, ...]) -> Events:
    """Read N-MNIST's records of 5 bytes: x, y, then 1 bit polarity and 23 bits of time.

    Args:
        what: the file, for the message.
        data: its bytes.
        sensor: rows, columns and polarities that exist.

    Raises:
        UserError: if it holds no whole number of events, an event outside of the sensor, or times
            that go back: in none of the published recordings at hand they do.

    References: Orchard et al. 2015, "Converting static image datasets to spiking neuromorphic
    datasets using saccades", Frontiers in Neuroscience 9:437.
    """
    if not data or len(data) % 5:
        raise UserError(
            f"{what}: damaged or cut short: events of 5 bytes expected, {len(data):,} bytes found"
        )
    table = np.frombuffer(data, np.uint8).reshape(-1, 5).astype(np.int64)
    column, row, first, middle, last = table.T
    place = np.stack([row, column, first >> 7], 1)
    check_inside(what, place, sensor)
    time = (first & 127) << 16 | middle << 8 | last
    if (back := np.diff(time) < 0).any():
        index = int(back.argmax())
        raise UserError(
            f"{what}: damaged: time goes back from {time[index]:,} to {time[index + 1]:,} "
            f"microseconds at event {index + 1:,}"
        )
    return Events(place, time)


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
    body = data[after_header(what, data, "2.0") :]
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
    row, column = 127 - (address >> 1 & 127), 127 - (address >> 8 & 127)
    return Events(np.stack([row, column, 1 - (address & 1)], 1), since.astype(np.int64))


def after_header(what: str, data: bytes, version: str) -> int:
    """Return where the lines of an AEDAT file's header, which begin with `#`, have ended.

    Args:
        what: the file, for the message.
        data: its bytes.
        version: the one expected, of which the digits before the point count.

    Raises:
        UserError: if the header states another version.
    """
    expected, start = _AEDAT + version.partition(".")[0].encode(), 0
    while data[start : start + 1] == b"#":
        stop = data.find(b"\n", start)
        line = data[start : stop if stop >= 0 else len(data)]
        if line.startswith(_AEDAT) and not line.startswith(expected):
            found = line.removeprefix(_AEDAT).strip().decode("latin1")
            raise UserError(f"{what}: AEDAT {version} expected, version {shown(found)} found")
        start = stop + 1 if stop >= 0 else len(data)
        if line.startswith(b"#!END-HEADER"):
            break
    return start
