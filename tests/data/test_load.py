"""`load`: names, places, splits, notes, and one clear line for every mistake."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxsnn import data
from jaxsnn.data import base, cifar, idx, sources
from jaxsnn.errors import UserError

REAL = Path(os.environ.get("JAXSNN_DATA", "/nonexistent"))


def write_idx(folder, prefix, count, num_classes=10, first=0, seed=0):
    """Write random images whose corner pixel tells their number, and return labels."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    images[:, 0, 0] = np.arange(count) % 256
    labels = (np.arange(count) % num_classes + first).astype(np.uint8)
    for stem, array in zip(idx.stems(prefix), (images, labels), strict=True):
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        (folder / stem).write_bytes(header + array.tobytes())
    return images, labels


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """Write a small MNIST into tmp_path/mnist and forget the directories of the environment."""
    monkeypatch.delenv("JAXSNN_DATA", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nothing"))
    write_idx(tmp_path / "mnist", "train", 200)
    write_idx(tmp_path / "mnist", "t10k", 50, seed=1)
    return tmp_path


def test_digits_need_nothing_and_are_always_the_same():
    first, second = data.load("digits", seed=0), data.load("digits", seed=1)
    assert first.shape == (8, 8, 1) and first.num_classes == 10
    assert sum(len(split.labels) for split in (first.train, first.validation, first.test)) == 1797
    np.testing.assert_array_equal(first.test.images, second.test.images)
    assert not np.array_equal(first.train.labels, second.train.labels)
    assert first.test.images.dtype == np.uint8 and first.test.labels.dtype == np.int32
    assert set(np.unique(first.train.images)) <= set(np.rint(np.arange(17) * 255 / 16))
    assert "held out" in first.notes


def test_every_class_gives_its_share():
    digits = data.load("digits", validation=0.25)
    for split, share in ((digits.validation, 0.25), (digits.train, 0.75)):
        whole = np.bincount(digits.train.labels) + np.bincount(digits.validation.labels)
        assert np.abs(np.bincount(split.labels) - share * whole).max() <= 1


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.9])
def test_holding_out_splits_exactly(fraction):
    labels = np.repeat(np.arange(7), 30)
    kept, held = base.hold_out(labels, fraction, seed=3)
    assert len(held) == round(fraction * 210)
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held])), np.arange(210))
    again = base.hold_out(labels, fraction, seed=3)
    np.testing.assert_array_equal(held, again[1])


def test_nothing_left_to_train_on_is_an_error():
    with pytest.raises(UserError, match="leaves none to train on"):
        base.hold_out(np.zeros(1, int), 0.1, seed=0)


@pytest.mark.parametrize("place", ["", "mnist", "env"])
def test_files_are_found_in_the_directory_or_its_folder(mnist, monkeypatch, place):
    if place == "env":
        monkeypatch.setenv("JAXSNN_DATA", str(mnist))
    found = data.load("mnist", None if place == "env" else mnist / place)
    assert len(found.train.labels) == 180 and len(found.validation.labels) == 20
    assert found.notes == "train: 200 images instead of 60,000; test: 50 images instead of 10,000"


@pytest.mark.parametrize("place", ["MNIST/raw", "mnist"])
def test_canonical_folders_are_searched(tmp_path, place):
    write_idx(tmp_path / place, "train", 20)
    write_idx(tmp_path / place, "t10k", 10)
    assert len(data.load("mnist", tmp_path).test.labels) == 10


def test_images_keep_their_labels_and_test_stays_whole_and_in_order(mnist):
    found = data.load("mnist", mnist, limit=60, seed=5)
    assert len(found.train.labels) == 54 and len(found.validation.labels) == 6
    assert len(found.test.labels) == 50 and "60 of 200" in found.notes
    for split in (found.train, found.validation, found.test):
        np.testing.assert_array_equal(split.images[:, 0, 0, 0] % 10, split.labels)
    np.testing.assert_array_equal(found.test.images[:, 0, 0, 0], np.arange(50))
    numbers = [set(split.images[:, 0, 0, 0]) for split in (found.train, found.validation)]
    assert not numbers[0] & numbers[1]


def test_no_validation_leaves_it_empty_but_shaped(mnist):
    found = data.load("mnist", mnist, validation=0, limit=10_000)
    assert found.validation.images.shape == (0, 28, 28, 1) and len(found.train.labels) == 200


def test_statistics_are_those_of_the_training_images(mnist):
    found = data.load("mnist", mnist)
    pixels = found.train.images.astype(np.float64) / 255
    np.testing.assert_allclose(found.mean, [pixels.mean()], rtol=1e-12)
    np.testing.assert_allclose(found.std, [pixels.std()], rtol=1e-12)
    assert base.channel_statistics(np.full((2, 3, 3, 1), 51, np.uint8)) == ((0.2,), (1.0,))


def test_channels_have_their_own_statistics():
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    mean, std = base.channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), rtol=1e-12)


def test_emnist_is_turned_upright_and_counted_from_zero(tmp_path):
    images, _ = write_idx(tmp_path / "emnist", "emnist-letters-train", 52, 26, first=1)
    test, labels = write_idx(tmp_path / "emnist", "emnist-letters-test", 26, 26, first=1)
    found = data.load("emnist-letters", tmp_path)
    assert found.num_classes == 26
    np.testing.assert_array_equal(found.test.images[..., 0], test.swapaxes(1, 2))
    np.testing.assert_array_equal(found.test.labels, labels.astype(int) - 1)


def test_cifar_is_loaded_from_its_canonical_folder(tmp_path, monkeypatch):
    small = cifar.LAYOUTS["cifar10"]._replace(train_records=4, test_records=2)
    monkeypatch.setitem(cifar.LAYOUTS, "cifar10", small)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name in (*small.train, small.test):
        count = small.test_records if name == small.test else small.train_records
        (folder / f"{name}.bin").write_bytes(bytes(3073 * count))
    found = data.load("cifar10", tmp_path)
    assert found.shape == (32, 32, 3) and found.std == (1.0, 1.0, 1.0)
    assert len(found.train.labels) == 18 and len(found.test.labels) == 2


def one_line(name, *args, **kwargs):
    """Return the message of the error that `load` raises, and check that it is one line."""
    with pytest.raises(UserError) as caught:
        data.load(name, *args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_unknown_name_lists_the_known_ones():
    told = one_line("imagenet")
    assert "'imagenet'" in told and all(name in told for name in data.names())


@pytest.mark.parametrize("name", sorted(sources.SOURCES))
def test_missing_files_are_named_with_their_place_and_source(mnist, monkeypatch, name):
    empty = mnist / "empty"
    empty.mkdir()
    told = one_line(name, empty)
    source = sources.SOURCES[name]
    assert str(empty / source.folders[0]) in told
    assert source.url in told and source.files[0] in told
    monkeypatch.setenv("JAXSNN_DATA", str(empty))
    assert one_line(name) == told


def test_one_missing_file_is_named_alone(mnist):
    (mnist / "mnist" / "t10k-labels-idx1-ubyte").unlink()
    told = one_line("mnist", mnist)
    assert f"{mnist / 'mnist' / 't10k-labels-idx1-ubyte.gz'}: no such file" in told
    assert "https://" in told


def test_files_of_another_set_with_the_same_names_are_not_taken(mnist):
    told = one_line("fashion_mnist", mnist / "mnist")
    assert str(mnist / "mnist" / "fashion_mnist" / "train-images-idx3-ubyte.gz") in told


def test_a_missing_directory_is_named(tmp_path, monkeypatch):
    assert f"{tmp_path / 'no'} does not exist" in one_line("mnist", tmp_path / "no")
    (tmp_path / "file").touch()
    assert "is not a directory" in one_line("mnist", tmp_path / "file")
    monkeypatch.setenv("JAXSNN_DATA", str(tmp_path / "no"))
    assert "(JAXSNN_DATA)" in one_line("mnist")


@pytest.mark.parametrize(
    ("option", "value"),
    [("validation", 1.0), ("validation", -0.1), ("validation", float("nan")), ("limit", 0)],
)
def test_numbers_out_of_range_are_named(option, value):
    assert option in one_line("digits", **{option: value})


@pytest.mark.long
def test_importing_is_light():
    heavy = ["sklearn", "tensorflow_datasets", "PIL", "tensorflow", "tonic"]
    code = f"import sys, jaxsnn.data; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(not (REAL / "mnist").is_dir(), reason="JAXSNN_DATA has no mnist/")
def test_real_mnist_has_its_published_statistics():
    found = data.load("mnist", REAL, validation=0)
    np.testing.assert_allclose(found.mean + found.std, (0.130660, 0.308108), atol=1e-6)
    assert found.notes == ""


@pytest.mark.skipif(not (REAL / "cifar10").is_dir(), reason="JAXSNN_DATA has no cifar10/")
def test_real_cifar10_has_its_published_statistics():
    found = data.load("cifar10", REAL, validation=0)
    np.testing.assert_allclose(found.mean, (0.4913997, 0.4821584, 0.4465309), atol=1e-6)
    np.testing.assert_allclose(found.std, (0.2470322, 0.2434851, 0.2615878), atol=1e-6)
