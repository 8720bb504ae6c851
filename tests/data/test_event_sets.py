"""Event sets: from folders, archives and tonic to frames; splits, kept frames, mistakes."""

import os
import struct
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jaxsnn import data, memory
from jaxsnn.data import event_sets, events
from jaxsnn.data.events import Framing
from jaxsnn.data.loading import event_options
from jaxsnn.errors import UserError

REAL = Path(os.environ.get("JAXSNN_DATA", "/nonexistent"))
SENSOR = (34, 34, 2)
CLASSES = event_sets.EVENT_SETS["dvs_cifar10"].parts


@pytest.fixture(autouse=True)
def no_environment(tmp_path, monkeypatch):
    """Forget the directories that the environment names."""
    monkeypatch.delenv("JAXSNN_DATA", raising=False)
    monkeypatch.setenv("TONIC_DATA_DIR", str(tmp_path / "tonic"))


def atis(number):
    """Spell a recording of 20 events whose first one's row and column tell its number."""
    rng = np.random.default_rng(number)
    table = rng.integers(0, 34, (20, 5))
    table[:, 3] = np.sort(table[:, 3])
    table[:, [2, 4]] = 0  # OFF; times are multiples of 256
    table[0, :2] = number % 34, number // 34
    return table.astype(np.uint8).tobytes()


def aedat(label, number):
    """Spell a recording of one event: in column `label` and row `number`."""
    address = (127 - label) << 8 | (127 - number) << 1
    return b"#!AER-DAT2.0\r\n" + struct.pack(">II", address, 1000 + number)


def nmnist_files(part, count):
    """Return the files of a part of N-MNIST, in no order."""
    numbers = np.random.default_rng(1).permutation(count)
    return {f"{part}/{number % 10}/{number + 1:05}.bin": atis(number) for number in numbers}


def dvs_files(part, count):
    """Return the files of a class of CIFAR10-DVS."""
    label = CLASSES.index(part)
    return {
        f"{part}/cifar10_{part}_{number}.aedat": aedat(label, number) for number in range(count)
    }


def write(folder, part, files, packed):
    """Write files below a folder or into an archive in it."""
    folder.mkdir(parents=True, exist_ok=True)
    if packed:
        with zipfile.ZipFile(folder / f"{part}.zip", "w") as archive:
            archive.writestr(f"{part}/", b"")
            archive.writestr(f"__MACOSX/{part}/._1.bin", b"not wanted")
            for name, content in files.items():
                archive.writestr(name, content)
        return
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.fixture(params=["folder", "archive"])
def nmnist(tmp_path, request):
    """Write a small N-MNIST, 40 and 20 recordings, and return its data directory."""
    for part, count in (("Train", 40), ("Test", 20)):
        write(tmp_path / "nmnist", part, nmnist_files(part, count), request.param == "archive")
    return tmp_path


@pytest.fixture(params=["folder", "archive"])
def dvs(tmp_path, request):
    """Write a small CIFAR10-DVS, 20 recordings a class, and return its data directory."""
    for part in CLASSES:
        write(tmp_path / "dvs_cifar10", part, dvs_files(part, 20), request.param == "archive")
    return tmp_path


def test_nmnist_is_read_in_the_order_of_its_numbers(nmnist):
    framing = event_sets.framing("nmnist", 2)
    found = event_sets.read_local("nmnist", nmnist, framing)
    for split, count in ((found.train, 40), (found.test, 20)):
        assert split.labels.tolist() == [number % 10 for number in range(count)]
        for number in (0, 11, count - 1):
            recording = events.parse_atis("file", atis(number), SENSOR)
            frames = events.to_frames(recording, SENSOR, framing)
            np.testing.assert_array_equal(split.take(np.array([number])).images[0], frames)


def test_load_gives_frames_with_their_shape_and_notes(nmnist):
    found = data.load("nmnist", nmnist, timesteps=4, frames_by="time", limit=30)
    assert found.train.images.shape == (27, 4, 34, 34, 2)
    assert found.validation.images.shape == (3, 4, 34, 34, 2)
    assert found.shape == (34, 34, 2) and found.timesteps == 4 and found.num_classes == 10
    pixels = found.train.images.astype(float) / 255
    np.testing.assert_allclose(found.mean, pixels.mean((0, 1, 2, 3)), rtol=1e-12)
    assert "4 frames of equal length, 34x34" in found.notes
    assert "train: 40 images instead of 60,000; test: 20 images instead of 10,000" in found.notes
    assert data.load("digits").timesteps is None


def test_the_last_tenth_of_every_class_is_the_test_split(dvs):
    found = data.load("dvs_cifar10", dvs, size=128, timesteps=1, validation=0)
    assert found.train.images.shape == (180, 1, 128, 128, 2)
    for split, numbers in ((found.train, range(18)), (found.test, (18, 19))):
        _, _, rows, columns, is_on = np.nonzero(split.images)
        np.testing.assert_array_equal(columns, split.labels)
        assert is_on.all() and sorted(set(rows)) == list(numbers)
        assert np.bincount(split.labels).tolist() == [len(numbers)] * 10
    assert "test: 20 of 200 recordings, the last of each class" in found.notes
    assert "train: 180 images instead of 9,000" in found.notes


@pytest.mark.long
def test_frames_are_kept_until_a_file_or_an_option_changes(dvs, monkeypatch):
    first = data.load("dvs_cifar10", dvs)
    assert first.train.images.shape[1:] == (10, 48, 48, 2)
    (kept,) = (dvs / "dvs_cifar10").glob("*.npz")
    read = []
    monkeypatch.setattr(
        event_sets.events, "parse_aedat", lambda *a, f=events.parse_aedat: read.append(1) or f(*a)
    )
    again = data.load("dvs_cifar10", dvs)
    assert not read and again.notes == first.notes
    np.testing.assert_array_equal(again.train.images, first.train.images)
    data.load("dvs_cifar10", dvs, size=16)
    assert len(read) == 200
    kept.write_bytes(kept.read_bytes()[:1000])
    repaired = data.load("dvs_cifar10", dvs)
    assert len(read) == 400
    np.testing.assert_array_equal(repaired.test.images, first.test.images)


def test_frames_may_be_higher_than_wide(nmnist):
    found = data.load("nmnist", nmnist, timesteps=1, size=(34, 17), limit=20, validation=0)
    assert found.shape == (34, 17, 2) and found.train.images.sum() == 20 * 20
    assert "1 frames of equally many events, 34x17" in found.notes


def test_only_what_is_used_is_read(nmnist, monkeypatch):
    read = []
    monkeypatch.setattr(
        event_sets.events, "parse_atis", lambda *a, f=events.parse_atis: read.append(1) or f(*a)
    )
    data.load("nmnist", nmnist, limit=7)
    assert len(read) == 7 + 20


def told(*args, **options):
    """Return the message of the error that `load` raises, and check that it is one line."""
    with pytest.raises(UserError) as caught:
        data.load(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_damaged_recording_is_named(tmp_path):
    for part in ("Train", "Test"):
        write(tmp_path, part, nmnist_files(part, 20), packed=False)
    path = tmp_path / "Train" / "3" / "00004.bin"
    path.write_bytes(path.read_bytes()[:-1])
    assert f"{path}: damaged or cut short" in told("nmnist", tmp_path)
    path.unlink()
    (tmp_path / "Train" / "x").mkdir()
    (tmp_path / "Train" / "x" / "00004.bin").write_bytes(atis(3))
    assert "00004.bin: a folder 0 to 9, its label, expected" in told("nmnist", tmp_path)


def test_a_damaged_archive_is_named(nmnist):
    archive = nmnist / "nmnist" / "Train.zip"
    if not archive.exists():
        pytest.skip("in folders")
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    assert f"{archive}: damaged or cut short" in told("nmnist", nmnist)
    content = atis(7)
    archive.write_bytes(whole.replace(content, content[:-1] + b"\xff"))
    message = told("nmnist", nmnist)
    assert f"{archive}/Train/7/00008.bin: damaged or cut short: Bad CRC" in message


def test_what_is_missing_is_named(dvs):
    message = told("nmnist", dvs)
    assert str(dvs / "nmnist" / "Train.zip") in message and "garrickorchard" in message
    part = dvs / "dvs_cifar10" / "frog"
    target = part if part.is_dir() else part.with_suffix(".zip")
    target.rename(target.with_name("gone"))
    message = told("dvs_cifar10", dvs)
    assert f"{part}.zip: no such file or folder; get airplane.zip to truck.zip from" in message


def test_a_class_without_recordings_is_named(tmp_path):
    for part in CLASSES:
        write(tmp_path, part, dvs_files(part, 1 if part == "deer" else 2), packed=False)
    assert f"{tmp_path / 'deer'}: 2 or more .aedat files expected, 1 found" in told(
        "dvs_cifar10", tmp_path
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timesteps": 0}, "timesteps of nmnist must be in [1, "),
        ({"size": 35}, "size of nmnist must be in [1, 34], found 35"),
        ({"size": 1.5}, "size of nmnist must be a whole number"),
        ({"size": (34, 35)}, "size of nmnist must be in [1, 34], found 35"),
        ({"size": (4, 4, 4)}, "size of nmnist is (4, 4, 4), but must be 2 numbers or one"),
        ({"frames_by": "area"}, "frames_by 'area' is unknown; choose one of number, time"),
    ],
)
def test_options_out_of_range_are_named(tmp_path, options, message):
    assert message in told("nmnist", tmp_path, **options)


def test_images_have_no_frames():
    for option in ({"timesteps": 1}, {"size": 8}, {"frames_by": "time"}):
        assert "shd and ssc; digits has no time" in told("digits", **option)
    assert event_options("digits", timesteps=1) == {}
    assert event_options("dvs_cifar10", timesteps=1, size=9) == {"timesteps": 1, "size": 9}


def test_without_a_directory_tonic_is_asked_and_its_absence_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "tonic", None)
    for name in event_sets.EVENT_SETS:
        message = told(name)
        assert "tonic is not installed" in message
        assert "pip install 'jaxsnn-compress[events]'" in message and "https://" in message


def test_tonic_downloads_and_the_files_are_read(tmp_path, monkeypatch):
    asked = []

    def download(save_to, train):
        asked.append(train)
        part = "Train" if train else "Test"
        write(Path(save_to) / "NMNIST", part, nmnist_files(part, 20), packed=False)

    tonic = types.SimpleNamespace(datasets=types.SimpleNamespace(NMNIST=download))
    monkeypatch.setitem(sys.modules, "tonic", tonic)
    found = data.load("nmnist", validation=0)
    assert asked == [True, False] and found.train.images.shape == (20, 10, 34, 34, 2)
    data.load("nmnist")
    assert len(asked) == 2  # what is there is not asked for again


def test_a_failed_download_is_told_in_one_line(monkeypatch):
    def download(save_to):
        raise RuntimeError("no\nroute")

    tonic = types.SimpleNamespace(datasets=types.SimpleNamespace(CIFAR10DVS=download))
    monkeypatch.setitem(sys.modules, "tonic", tonic)
    assert "tonic cannot download it to" in told("dvs_cifar10")


def test_converted_recordings_are_read_through_tonic(tmp_path, monkeypatch):
    fields = [("t", "u8"), ("x", "u2"), ("y", "u2"), ("on", "?")]
    recording = np.array([(5, 1, 2, True), (9, 3, 4, False)], fields)
    tonic = types.ModuleType("tonic")
    tonic.io = types.ModuleType("tonic.io")
    tonic.io.read_aedat4 = lambda place: recording[: int(not place.endswith("_1.aedat4")) * 2]
    for name, module in (("tonic", tonic), ("tonic.io", tonic.io), ("aedat", None)):
        monkeypatch.setitem(sys.modules, name, module)
    for part in CLASSES:
        files = {f"{part}/{part}_{number}.aedat4": b"" for number in (0, 2)}
        write(tmp_path, part, files, packed=False)
    message = told("dvs_cifar10", tmp_path)
    assert "aedat is not installed; pip install 'jaxsnn-compress[events]' aedat" in message
    monkeypatch.setitem(sys.modules, "aedat", types.ModuleType("aedat"))
    found = event_sets.read_local("dvs_cifar10", tmp_path, Framing(1, (128, 128, 2), "number"))
    assert np.argwhere(found.test.whole().images[0, 0]).tolist() == [[2, 1, 1], [4, 3, 0]]
    (tmp_path / "bird" / "bird_0.aedat4").rename(tmp_path / "bird" / "bird_1.aedat4")
    assert "bird_1.aedat4: damaged: no events" in told("dvs_cifar10", tmp_path)


@pytest.mark.skipif(not (REAL / "nmnist").is_dir(), reason="JAXSNN_DATA has no nmnist/")
def test_real_nmnist_shows_digits():
    found = event_sets.read_local("nmnist", REAL, event_sets.framing("nmnist"))
    images = found.train.whole().images.astype(np.int64)
    full = images.sum((2, 3, 4))
    assert (images.max((1, 2, 3, 4)) < 255).all()  # nothing was cut, so all events are there
    assert (full.max(1) - full.min(1) <= 1).all()
    share = images[..., 1].sum() / images.sum()
    assert abs(share - 0.5) < 0.01
    # The digits of a class look alike: a mean picture of half of them tells most of the others.
    pictures = images.sum((1, 4)).reshape(len(images), -1).astype(float)
    pictures /= np.linalg.norm(pictures, axis=1, keepdims=True)
    half, labels = len(images) // 2, found.train.labels
    means = np.stack([pictures[:half][labels[:half] == digit].mean(0) for digit in range(10)])
    distances = ((pictures[half:, None] - means) ** 2).sum(-1)
    assert (distances.argmin(1) == labels[half:]).mean() > 0.5


def test_frames_that_fit_in_no_memory_are_refused_before_they_are_made(nmnist, monkeypatch):
    monkeypatch.setattr(memory, "host_bytes", lambda: 2.0**29)
    message = told("nmnist", nmnist, timesteps=10_000)
    assert "36 samples of 10,000 x 34 x 34 x 2: at least 793.8 MiB" in message
    assert "take a smaller limit, size or number of time steps" in message
