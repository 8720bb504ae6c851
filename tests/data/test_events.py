"""Recordings, bit by bit; frames, event by event."""

import struct

import numpy as np
import pytest

from jaxsnn.data.events import Events, Framing, parse_aedat, parse_atis, to_frames
from jaxsnn.errors import UserError

HEADER = b"#!AER-DAT2.0\r\n# This is a raw AE data file\r\n"


def some_events(num, sensor=128, seed=0):
    """Make events of random places, with times that do not start at 0."""
    rng = np.random.default_rng(seed)
    row, column = rng.integers(0, sensor, (2, num))
    time = np.sort(rng.integers(500, 9000, num))
    return Events(row, column, rng.integers(0, 2, num), time)


def by_hand(events, sensor, framing):
    """Count events one by one, with exact fractions."""
    frames = np.zeros((framing.timesteps, framing.size, framing.size, 2), int)
    start, stop = events.time.min(), events.time.max()
    for index, (row, column, is_on, time) in enumerate(zip(*events, strict=True)):
        if framing.by == "number":
            frame = index * framing.timesteps // len(events.time)
        else:
            frame = (time - start) * framing.timesteps // (stop - start + 1)
        frames[frame, row * framing.size // sensor, column * framing.size // sensor, is_on] += 1
    return frames


@pytest.mark.parametrize("by", ["number", "time"])
@pytest.mark.parametrize(("timesteps", "size"), [(1, 128), (3, 48), (10, 5)])
def test_frames_count_every_event_once(by, timesteps, size):
    events, framing = some_events(997), Framing(timesteps, size, by)
    frames = to_frames(events, 128, framing)
    np.testing.assert_array_equal(frames, by_hand(events, 128, framing))
    assert frames.dtype == np.uint8 and frames.sum() == 997


def test_frames_by_number_are_equally_full_and_by_time_equally_long():
    events = some_events(1000)._replace(time=np.r_[np.arange(900), 900 + 91 * np.arange(1, 101)])
    by_number = to_frames(events, 128, Framing(10, 128, "number")).sum((1, 2, 3), dtype=int)
    by_time = to_frames(events, 128, Framing(10, 128, "time")).sum((1, 2, 3), dtype=int)
    assert by_number.tolist() == [100] * 10
    assert by_time[0] == 900 + 1 and by_time[1:].max() <= 12


def test_counts_are_cut_to_a_byte_and_nothing_gives_zeros():
    same = np.zeros(300, np.int64)
    frames = to_frames(Events(same, same, same, same), 4, Framing(1, 4, "number"))
    assert frames[0, 0, 0].tolist() == [255, 0] and frames.sum() == 255
    none = np.zeros(0, np.int64)
    for by in ("number", "time"):
        assert not to_frames(Events(none, none, none, none), 4, Framing(2, 4, by)).any()


def test_an_atis_record_is_read_bit_by_bit():
    data = bytes([33, 0, 0b1_0000001, 0x02, 0x03]) + bytes([5, 7, 0b0_1111111, 0xFF, 0xFF])
    events = parse_atis("file", data, 34)
    assert events.column.tolist() == [33, 5] and events.row.tolist() == [0, 7]
    assert events.is_on.tolist() == [1, 0]
    assert events.time.tolist() == [0x010203, 0x7FFFFF]


def test_an_aedat_record_is_read_bit_by_bit():
    records = [
        (3 << 8 | 5 << 1 | 0, 2**32 - 10),  # ON, and the time about to run over
        (1 << 15 | 1, 2**32 - 5),  # synchronization, no pixel
        (127 << 8 | 0 << 1 | 1, 20),  # OFF
    ]
    data = HEADER + b"".join(struct.pack(">II", *record) for record in records)
    events = parse_aedat("file", data)
    assert events.row.tolist() == [122, 127] and events.column.tolist() == [124, 0]
    assert events.is_on.tolist() == [1, 0] and events.time.tolist() == [0, 30]


@pytest.mark.parametrize("data", [b"", b"1234", bytes(12)])
def test_cut_atis_records_are_told(data):
    with pytest.raises(UserError, match=f"file: damaged or cut short: .* {len(data)} bytes found"):
        parse_atis("file", data, 34)


def test_an_event_outside_of_the_sensor_is_told():
    with pytest.raises(UserError, match="column 3 or row 34, but the sensor has 34"):
        parse_atis("file", bytes([3, 34, 0, 0, 0]), 34)


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
