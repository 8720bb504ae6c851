"""SHD and SSC: from HDF5 files in the published layout to counts for each unit."""

import h5py
import numpy as np
import pytest

from jaxsnn import data
from jaxsnn.data import event_sets, spoken
from jaxsnn.data.event_table import EVENT_SETS
from jaxsnn.errors import UserError


def recordings(count, classes, seed=0, dtype=np.float16):
    """Make labels, times in seconds and units; all classes occur, times are in no order."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    sizes = rng.integers(5, 40, count)
    times = [rng.uniform(0, 1.39, size).astype(dtype) for size in sizes]
    units = [rng.integers(0, 700, size).astype(np.uint16) for size in sizes]
    return labels, times, units


def write(path, labels, times, units, dtype=np.float16):
    """Write a file as the Zenke lab publishes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["labels"] = np.asarray(labels, np.uint16)
        for name, lists, kind in (("times", times, dtype), ("units", units, np.uint16)):
            made = file.create_dataset(
                f"spikes/{name}", (len(lists),), dtype=h5py.vlen_dtype(np.dtype(kind))
            )
            for index, each in enumerate(lists):
                made[index] = each
        file["extra/speaker"] = np.zeros(len(labels), np.uint16)
        file["extra/keys"] = np.array([b"zero"] * 20)


@pytest.fixture(scope="module")
def shd(tmp_path_factory):
    """Write a small SHD, 60 and 20 recordings, and return its data directory."""
    root = tmp_path_factory.mktemp("data")
    write(root / "shd" / "shd_train.h5", *recordings(60, 20))
    write(root / "shd" / "shd_test.h5", *recordings(20, 20, seed=1))
    return root


def by_hand(times, units, timesteps, size):
    """Count spikes one by one: whole microseconds, frames of 1.4 s / T."""
    frames = np.zeros((timesteps, size), int)
    for time, unit in zip(times.tolist(), units.tolist(), strict=True):
        frame = round(time * 1e6) * timesteps // 1_400_000
        if frame < timesteps:
            frames[frame, unit * size // 700] += 1
    return frames


@pytest.mark.parametrize(("timesteps", "size"), [(None, None), (10, 140)])
def test_shd_is_counts_of_each_unit_in_frames_of_equal_time(shd, timesteps, size):
    found = data.load("shd", shd, timesteps=timesteps, size=size)
    steps, units = timesteps or 100, size or 700
    assert found.train.images.shape == (54, steps, units) and found.train.images.dtype == np.uint8
    assert found.validation.images.shape == (6, steps, units)
    assert (found.num_classes, found.shape, found.timesteps) == (20, (units,), steps)
    assert f"{steps} frames of {1400 / steps:g} ms, {units} units" in found.notes
    assert "train: 60 images instead of 8,156; test: 20 images instead of 2,264" in found.notes
    labels, times, places = recordings(20, 20, seed=1)
    np.testing.assert_array_equal(found.test.labels, labels)
    for image, pair in zip(found.test.images, zip(times, places, strict=True), strict=True):
        np.testing.assert_array_equal(image, by_hand(*pair, steps, units))
    np.testing.assert_allclose(found.mean, [found.train.images.mean() / 255])
    inputs = found.inputs()
    assert inputs.sample_shape == (steps, units) and inputs.encoding == "events"


def test_frames_by_number_share_the_spikes_in_the_order_of_time(shd):
    found = data.load("shd", shd, timesteps=3, frames_by="number")
    _, times, units = recordings(20, 20, seed=1)
    order = np.argsort(times[0], kind="stable")
    expected = np.zeros((3, 700), int)
    for place, index in enumerate(order):
        expected[place * 3 // len(order), units[0][index]] += 1
    np.testing.assert_array_equal(found.test.images[0], expected)


def test_spikes_behind_the_end_are_left_out():
    events = spoken.as_events("word", [1.5, 0.25], [5, 7], (700,))
    assert events.place.tolist() == [[7], [5]] and events.time.tolist() == [250_000, 1_500_000]
    frames = event_sets.events.to_frames(events, (700,), event_sets.framing("shd", 2))
    assert np.argwhere(frames).tolist() == [[0, 7]]


def test_ssc_has_its_own_validation_split(tmp_path):
    for split, count in (("train", 70), ("valid", 36), ("test", 35)):
        path = tmp_path / "SSC" / "SSC" / f"ssc_{split}.h5"
        write(path, *recordings(count, 35, len(split)), dtype=np.float32)
    found = data.load("ssc", tmp_path, timesteps=2, size=7)
    assert [len(x.labels) for x in (found.train, found.validation, found.test)] == [70, 36, 35]
    assert found.num_classes == 35 and "instead of 75,466" in found.notes
    _, times, units = recordings(36, 35, len("valid"))
    counted = sum(by_hand(*pair, 2, 7) for pair in zip(times, units, strict=True))
    np.testing.assert_array_equal(found.validation.images.sum(0, dtype=int), counted)
    few = data.load("ssc", tmp_path, timesteps=2, size=7, limit=40)
    assert [len(x.labels) for x in (few.train, few.validation)] == [40, 4]
    assert len(data.load("ssc", tmp_path, size=7, validation=0).validation.labels) == 0


def told(*args, **options):
    """Return the message of the error that `load` raises, and check that it is one line."""
    with pytest.raises(UserError) as caught:
        data.load(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_missing_is_named(tmp_path):
    message = told("shd", tmp_path)
    assert f"no file {tmp_path / 'shd' / 'shd_train.h5'}" in message and "zenkelab.org" in message
    (tmp_path / "shd_train.h5.gz").touch()
    assert "shd_train.h5.gz is packed: unpack it" in told("shd", tmp_path)
    write(tmp_path / "shd_train.h5", *recordings(3, 3))
    assert "shd_test.h5: no such file; get shd_train.h5.gz, shd_test.h5.gz" in told("shd", tmp_path)


DAMAGES = {
    "no labels": lambda file: file.pop("labels"),
    "labels of floats": lambda file: replace(file, "labels", np.ones(20)),
    "a label too many": lambda file: replace(file, "labels", np.full(20, 20)),
    "a negative label": lambda file: replace(file, "labels", np.full(20, -1)),
    "fewer labels": lambda file: replace(file, "labels", np.zeros(19, int)),
    "endless labels": lambda file: (
        file.pop("labels") and file.create_dataset("labels", (1 << 40,), np.uint16, chunks=(1,))
    ),
    "no units": lambda file: file["spikes"].pop("units"),
    "a group of units": lambda file: (
        file["spikes"].pop("units") and file["spikes"].create_group("units")
    ),
    "a table of units": lambda file: replace(file, "spikes/units", np.zeros((20, 3), int)),
    "a unit outside": lambda file: set_list(file, "units", [0, 700]),
    "more units": lambda file: set_list(file, "units", [0, 1, 2]),
    "a time before 0": lambda file: set_list(file, "times", [0, -1]),
    "no number": lambda file: set_list(file, "times", [0, np.nan]),
    "a link to elsewhere": lambda file: (
        file.pop("labels") and file.__setitem__("labels", h5py.ExternalLink("other.h5", "/labels"))
    ),
}


def replace(file, name, values):
    del file[name]
    file[name] = values


def set_list(file, name, values):
    """Give the second recording two spikes, of which one list is wrong."""
    file["spikes/times"][1] = np.zeros(2, np.float16)
    file["spikes/units"][1] = np.zeros(2, np.uint16)
    kind = np.float16 if name == "times" else np.uint16
    file[f"spikes/{name}"][1] = np.asarray(values, kind)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_named(tmp_path, shd, damage):
    for split in ("train", "test"):
        whole = (shd / "shd" / f"shd_{split}.h5").read_bytes()
        (tmp_path / f"shd_{split}.h5").write_bytes(whole)
    path = tmp_path / "shd_test.h5"
    with h5py.File(path, "r+") as file:
        damage(file)
    assert str(path) in told("shd", tmp_path, timesteps=2, size=5)


@pytest.mark.parametrize("length", [0, 7, 1000, -1])
def test_a_file_that_is_cut_short_is_named(tmp_path, shd, length):
    for split in ("train", "test"):
        whole = (shd / "shd" / f"shd_{split}.h5").read_bytes()
        (tmp_path / f"shd_{split}.h5").write_bytes(whole)
    (tmp_path / "shd_train.h5").write_bytes(whole[:length])
    assert str(tmp_path / "shd_train.h5") in told("shd", tmp_path, timesteps=2, size=5)


def test_an_option_out_of_range_is_named(shd):
    assert "size of shd must be in [1, 700], found 701" in told("shd", shd, size=701)
    assert "size of shd is (10, 10), but must be 1 numbers or one" in told(
        "shd", shd, size=(10, 10)
    )


def test_tonic_is_asked_for_every_part():
    assert EVENT_SETS["shd"].downloads == ({"train": True}, {"train": False})
    assert [each["split"] for each in EVENT_SETS["ssc"].downloads] == ["train", "valid", "test"]
