"""Recordings, bit by bit; frames, event by event."""

import struct

import numpy as np
import pytest

from jaxsnn.data.events import Events, Framing, parse_aedat, parse_atis, to_frames
from jaxsnn.errors import UserError

HEADER = b"#!AER-DAT2.0\r\n# This is a raw AE data file\r\n"


def some_events(num, sensor=(128, 128, 2), seed=0):
    """Make events of random places, with times that do not start at 0."""
    rng = np.random.default_rng(seed)
    place = np.stack([rng.integers(0, size, num) for size in sensor], 1)
    return Events(place, np.sort(rng.integers(500, 9000, num)))


def by_hand(events, sensor, framing):
    """Count events one by one, in Python's whole numbers."""
    frames = np.zeros(framing.sample_shape, int)
    start, stop = int(events.time.min()), int(events.time.max()) + 1
    if framing.duration is not None:
        start, stop = 0, framing.duration
    for index, (place, time) in enumerate(zip(events.place.tolist(), events.time, strict=True)):
        frame = (int(time) - start) * framing.timesteps // (stop - start)
        if framing.by == "number":
            frame = index * framing.timesteps // len(events.time)
        sides = zip(place, framing.shape, sensor, strict=True)
        if 0 <= frame < framing.timesteps:
            frames[(frame, *(at * size // side for at, size, side in sides))] += 1
    return frames


SENSORS = [  # of sensor and frame
    ((128, 128, 2), (128, 128, 2)),
    ((128, 128, 2), (48, 48, 2)),
    ((5, 9, 2), (5, 9, 2)),
    ((180, 240, 2), (7, 31, 2)),
    ((700,), (700,)),
    ((700,), (140,)),
    ((700,), (20,)),
]


@pytest.mark.parametrize(("by", "duration"), [("number", None), ("time", None), ("time", 9000)])
@pytest.mark.parametrize(("sensor", "shape"), SENSORS)
@pytest.mark.parametrize("timesteps", [1, 7])
def test_frames_count_every_event_once(by, duration, sensor, shape, timesteps):
    events, framing = some_events(997, sensor), Framing(timesteps, shape, by, duration)
    frames = to_frames(events, sensor, framing)
    np.testing.assert_array_equal(frames, by_hand(events, sensor, framing))
    assert frames.dtype == np.uint8 and frames.sum() == 997


def test_frames_by_number_are_equally_full_and_by_time_equally_long():
    events = some_events(1000)._replace(time=np.r_[np.arange(900), 900 + 91 * np.arange(1, 101)])
    by_number, by_time = (
        to_frames(events, (128, 128, 2), Framing(10, (128, 128, 2), by)).sum((1, 2, 3), dtype=int)
        for by in ("number", "time")
    )
    assert by_number.tolist() == [100] * 10
    assert by_time[0] == 900 + 1 and by_time[1:].max() <= 12


def test_with_a_duration_a_frame_lasts_as_long_in_every_recording():
    time = np.array([0, 99, 100, 399, 400, 10**9, -1])
    events = Events(np.arange(7).reshape(7, 1), time)
    frames = to_frames(events, (7,), Framing(4, (7,), "time", 400))
    # The last three are in no frame: at the end, long after it, and before the start.
    assert np.argwhere(frames).tolist() == [[0, 0], [0, 1], [1, 2], [3, 3]]


def test_counts_are_cut_to_a_byte_and_nothing_gives_zeros():
    same = Events(np.zeros((300, 3), int), np.zeros(300, int))
    frames = to_frames(same, (4, 4, 2), Framing(1, (4, 4, 2), "number"))
    assert frames[0, 0, 0].tolist() == [255, 0] and frames.sum() == 255
    none = Events(np.zeros((0, 3), int), np.zeros(0, int))
    for by in ("number", "time"):
        assert not to_frames(none, (4, 4, 2), Framing(2, (4, 4, 2), by)).any()


@pytest.mark.parametrize(
    ("sensor", "place", "message"),
    [
        ((4, 6, 2), [4, 0, 1], "row 4, column 0, polarity 1, but the sensor has 4 rows, 6 columns"),
        ((4, 6, 2), [3, 6, 1], "row 3, column 6, polarity 1, but"),  # inside of a square one
        ((4, 6, 2), [0, 0, 2], "row 0, column 0, polarity 2, but"),
        ((4, 6, 2), [0, -1, 0], "row 0, column -1, polarity 0, but"),
        ((7,), [7], "unit 7, but the sensor has 7 units"),
    ],
)
def test_an_event_outside_of_the_sensor_is_never_counted_elsewhere(sensor, place, message):
    events = Events(np.array([[0] * len(sensor), place]), np.arange(2))
    with pytest.raises(UserError, match=f"an event at {message}"):
        to_frames(events, sensor, Framing(1, sensor, "number"))


def test_an_atis_record_is_read_bit_by_bit():
    data = bytes([33, 0, 0b1_0000001, 0x02, 0x03]) + bytes([5, 7, 0b0_1111111, 0xFF, 0xFF])
    events = parse_atis("file", data, (34, 34, 2))
    assert events.place.tolist() == [[0, 33, 1], [7, 5, 0]]
    assert events.time.tolist() == [0x010203, 0x7FFFFF]


def test_an_aedat_record_is_read_bit_by_bit():
    records = [
        (3 << 8 | 5 << 1 | 0, 2**32 - 10),  # ON, and the time about to run over
        (1 << 15 | 1, 2**32 - 5),  # synchronization, no pixel
        (127 << 8 | 0 << 1 | 1, 20),  # OFF
    ]
    data = HEADER + b"".join(struct.pack(">II", *record) for record in records)
    events = parse_aedat("file", data)
    assert events.place.tolist() == [[122, 124, 1], [127, 0, 0]]
    assert events.time.tolist() == [0, 30]


@pytest.mark.parametrize("data", [b"", b"1234", bytes(12)])
def test_cut_atis_records_are_told(data):
    with pytest.raises(UserError, match=f"file: damaged or cut short: .* {len(data)} bytes found"):
        parse_atis("file", data, (34, 34, 2))


def test_a_time_that_goes_back_is_told():
    with pytest.raises(UserError, match="goes back from 9 to 8 microseconds at event 1"):
        parse_atis("file", bytes([3, 3, 0, 0, 9, 3, 3, 0, 0, 8]), (34, 34, 2))


def test_an_atis_event_outside_of_the_sensor_is_told():
    with pytest.raises(UserError, match="file: damaged: an event at row 34, column 3, polarity 0"):
        parse_atis("file", bytes([3, 34, 0, 0, 0]), (34, 34, 2))


@pytest.mark.parametrize(
    "body", [b"", b"123", bytes(15), struct.pack(">II", 1 << 31, 5), bytes(8) + b"#"]
)
def test_cut_or_empty_aedat_records_are_told(body):
    with pytest.raises(UserError, match=f"file: damaged or cut short: .* {len(body)} bytes with"):
        parse_aedat("file", HEADER + body)


def test_a_header_alone_or_another_version_is_told():
    with pytest.raises(UserError, match="file: damaged or cut short"):
        parse_aedat("file", HEADER[:-5])
    with pytest.raises(UserError, match="AEDAT 2.0 expected, version '3.1' found"):
        parse_aedat("file", b"#!AER-DAT3.1\r\n" + bytes(16))
