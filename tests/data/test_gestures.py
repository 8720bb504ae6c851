"""DVS-Gesture: packets bit by bit, trials cut out of recordings, and tonic's tables."""

import struct

import numpy as np
import pytest

from jaxsnn import data
from jaxsnn.data import event_sets, events, gestures
from jaxsnn.data.gestures import parse_aedat3, parse_table
from jaxsnn.errors import UserError

HEADER = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#!END-HEADER\r\n"
CSV = "class,startTime_usec,endTime_usec\n"


def packet(rows, *, kind=1, overflow=0, room=0, valid=None, size=8):
    """Spell a packet of events (row, column, polarity, time, valid), and room for some more."""
    words = [
        word
        for row, column, polarity, time, *is_valid in rows
        for word in (column << 17 | row << 2 | polarity << 1 | (is_valid or [1])[0], time)
    ]
    count = len(rows)
    valid = count if valid is None else valid
    head = struct.pack("<hhiiiiii", kind, 1, size, 4, overflow, count + room, count, valid)
    return head + struct.pack(f"<{len(words)}I", *words) + bytes(size * room)


def test_a_packet_is_read_bit_by_bit():
    data = HEADER + packet([(127, 0, 1, 5), (0, 127, 0, 6)], room=1)
    data += packet([], kind=2, room=3, size=5)  # frames or samples of another kind
    data += packet([(3, 4, 1, 7)], overflow=2)
    found = parse_aedat3("file", data)
    assert found.place.tolist() == [[127, 0, 1], [0, 127, 0], [3, 4, 1]]
    assert found.time.tolist() == [5, 6, 7 + (2 << 31)]


def test_events_that_are_not_valid_are_left_out_if_the_packet_says_so():
    rows = [(1, 1, 0, 5, 0), (2, 2, 0, 6, 1)]
    assert parse_aedat3("file", HEADER + packet(rows, valid=1)).time.tolist() == [6]
    assert parse_aedat3("file", HEADER + packet(rows, valid=2)).time.tolist() == [5, 6]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"#!AER-DAT2.0\r\n" + bytes(16), "AEDAT 3.1 expected, version '2.0' found"),
        (HEADER, "no events of pixels after the header"),
        (HEADER + packet([]), "no events of pixels"),
        (HEADER + packet([(1, 1, 0, 5)])[:-1], "a packet of 1 events, 1 times 8 bytes, in 7 bytes"),
        (HEADER + packet([(1, 1, 0, 5)]) + b"more", "4 bytes at its end"),
        (HEADER + packet([(128, 0, 0, 5)]), "an event at row 128, column 0, polarity 0"),
        (HEADER + packet([(1, 1, 0, 5)], size=9), "a packet of 1 events"),
        (HEADER + struct.pack("<hhiiiiii", 1, 0, 8, 4, 0, -5, -5, 0), "a packet of -5 events"),
        (HEADER + struct.pack("<hhiiiiii", 2, 0, -8, 4, 0, 5, 5, 0) + bytes(40), "a packet of 5"),
        (HEADER + struct.pack("<hhiiiiii", 1, 0, 8, 4, -1, 1, 1, 1) + bytes(8), "a packet of 1"),
        (HEADER + struct.pack("<hhiiiiii", 1, 0, 8, 4, 0, 1 << 30, 1, 1), "1,073,741,824 times 8"),
    ],
)
def test_a_damaged_recording_is_named(data, message):
    with pytest.raises(UserError, match="^file: ") as caught:
        parse_aedat3("file", data)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def recording(number):
    """Make events of a recording: 30 each 1,000 microseconds, at random places."""
    rng = np.random.default_rng(number)
    places = rng.integers(0, [128, 128, 2], (30, 3)).tolist()
    return [(*place, 1000 * index) for index, place in enumerate(places)]


def ibm(folder, people):
    """Write IBM's layout: each recording of three trials, and what is between them."""
    folder.mkdir(parents=True)
    for part, numbers in zip(gestures.LISTS, people, strict=True):
        names = [f"user{number:02}_led" for number in numbers]
        (folder / part).write_text("".join(f"{name}.aedat\r\n" for name in names))
        for number, name in zip(numbers, names, strict=True):
            (folder / f"{name}.aedat").write_bytes(HEADER + packet(recording(number)))
            lines = [(number % 11 + 1, 0, 9000), (11, 10_000, 12_000), (1, 11_500, 29_001)]
            text = "".join(",".join(map(str, line)) + "\n" for line in lines)
            (folder / f"{name}_labels.csv").write_text(CSV + text)


@pytest.mark.parametrize("where", ["dvs_gesture/DvsGesture", "DvsGesture", "."])
def test_trials_are_cut_out_of_recordings(tmp_path, where):
    root = tmp_path / "DvsGesture" if where == "." else tmp_path
    ibm(root / where if where != "." else root, ([3, 12], [24]))
    found = data.load("dvs_gesture", root, timesteps=2, size=128, validation=0)
    assert found.train.images.shape == (6, 2, 128, 128, 2) and found.num_classes == 11
    assert "2 frames of equally many events, 128x128" in found.notes
    assert "train: 6 images instead of 1,176" in found.notes
    assert found.test.labels.tolist() == [24 % 11, 10, 0]
    for image, (begin, end) in zip(found.test.images, [(0, 9), (10, 12), (12, 30)], strict=True):
        expected = np.zeros(image.shape, int)
        chosen = recording(24)[begin:end]
        for index, (row, column, polarity, _) in enumerate(chosen):
            expected[index * 2 // len(chosen), row, column, polarity] += 1
        np.testing.assert_array_equal(image, expected)
    totals = found.train.images.sum((1, 2, 3, 4)).tolist()
    assert sorted(totals) == [2, 2, 9, 9, 18, 18]


def table(number, dtype):
    """Make a trial as tonic's files have it: x, y, polarity, milliseconds."""
    rng = np.random.default_rng(number)
    return rng.integers(0, [128, 128, 2, 50], (20, 4)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.uint8])
def test_tonics_tables_are_read(tmp_path, dtype):
    for part in ("ibmGestureTrain", "ibmGestureTest"):
        for label in (0, 10):
            folder = tmp_path / "DVSGesture" / part / "user01_led"
            folder.mkdir(parents=True, exist_ok=True)
            np.save(folder / f"{label}.npy", table(label, dtype))
    found = data.load("dvs_gesture", tmp_path, timesteps=1, validation=0)
    assert found.test.labels.tolist() == [0, 10] and found.shape == (64, 64, 2)
    expected = np.zeros((64, 64, 2), int)
    for x, y, polarity, _ in table(10, int):
        expected[y // 2, x // 2, polarity] += 1
    np.testing.assert_array_equal(found.test.images[1, 0], expected)
    assert parse_table("file", (folder / "0.npy").read_bytes()).time.max() >= 20_000
    (folder / "0.npy").rename(folder / "zero.npy")
    assert "zero.npy: the name 0.npy to 10.npy" in told("dvs_gesture", tmp_path)
    np.save(folder / "11.npy", table(11, dtype))
    (folder / "zero.npy").unlink()
    assert "labels 10 to 11 found, 0 to 10 expected" in told("dvs_gesture", tmp_path)


def told(*args, **options):
    """Return the message of the error that `load` raises, and check that it is one line."""
    with pytest.raises(UserError) as caught:
        data.load(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        np.zeros((3, 5)), np.zeros((0, 4)), np.zeros(4), np.full((2, 4), 0.5), np.full((2, 4), -1),
        np.full((2, 4), np.nan), np.full((2, 4), np.inf), np.full((2, 4), 128),
        np.zeros((2, 4), "S3"),
    ],
)  # fmt: skip
def test_another_table_is_refused(tmp_path, content):
    np.save(tmp_path / "0.npy", content)
    with pytest.raises(UserError, match="^file: damaged"):
        parse_table("file", (tmp_path / "0.npy").read_bytes())


def test_a_table_that_states_more_than_it_has_is_refused(tmp_path):
    np.save(tmp_path / "0.npy", table(0, np.int64))
    whole = (tmp_path / "0.npy").read_bytes()
    for damaged in (b"", whole[:5], whole[:-1], whole.replace(b"(20, 4)", b"(1<<40,4)")):
        with pytest.raises(UserError, match="^file: damaged"):
            parse_table("file", damaged)
    many = whole.replace(b"'shape': (20, 4), }   ", b"'shape': (2000000000, 4), }"[:22])
    with pytest.raises(UserError, match="^file: damaged"):
        parse_table("file", many)


def test_what_is_missing_or_damaged_is_named(tmp_path):
    message = told("dvs_gesture", tmp_path)
    assert "no file " in message and "DvsGesture/trials_to_train.txt" in message
    folder = tmp_path / "DvsGesture"
    ibm(folder, ([1], [24]))
    labels = folder / "user24_led_labels.csv"
    for line in ("12,0,5", "0,0,5", "1,5,5", "1,9,5", "1,0", "a,b,c", "1,0,5,9", "1,-5,9", "²,1,2"):
        labels.write_text(f"{CSV}{line}\n")
        message = told("dvs_gesture", tmp_path)
        assert f"{labels}: damaged: class 1 to 11, begin and end expected" in message
    labels.write_text(f"{CSV}1,40000,50000\n")
    assert "no event from 40,000 to 50,000" in told("dvs_gesture", tmp_path)
    labels.unlink()
    assert f"{labels}: no such file; get DvsGesture.tar.gz" in told("dvs_gesture", tmp_path)
    (folder / "user24_led.aedat").unlink()
    assert "user24_led.aedat: no such file" in told("dvs_gesture", tmp_path)
    for name in ("../user24_led.aedat", "/etc/hostname", "x" * 300, "user\x07.aedat"):
        (folder / gestures.LISTS[1]).write_text(f"{name}\n")
        message = told("dvs_gesture", tmp_path)
        assert "trials_to_test.txt: damaged: '" in message and "names of files in its" in message
    (folder / gestures.LISTS[1]).unlink()
    assert "trials_to_test.txt: no such file" in told("dvs_gesture", tmp_path)


def test_frames_of_a_trial_last_equally_long_if_asked_for(tmp_path):
    ibm(tmp_path / "DvsGesture", ([1], [24]))
    found = data.load("dvs_gesture", tmp_path, timesteps=9, frames_by="time", size=(128, 64))
    assert found.shape == (128, 64, 2)
    assert found.test.images[0].sum((1, 2, 3)).tolist() == [1] * 9
    assert event_sets.framing("dvs_gesture").shape == (64, 64, events.DVS128[2])
