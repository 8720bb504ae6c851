"""Images of the user's own, from a file of numpy."""

import numpy as np
import pytest

from jaxsnn import data
from jaxsnn.errors import UserError


@pytest.fixture
def arrays():
    """Return what a file holds: 20 and 6 images of 4 x 6 pixels, three classes."""
    draw = np.random.default_rng(0)
    sizes = {"train": 20, "test": 6}
    images = {
        f"{part}_images": draw.integers(0, 256, (size, 4, 6), dtype=np.uint8)
        for part, size in sizes.items()
    }
    return images | {f"{part}_labels": np.arange(size) % 3 for part, size in sizes.items()}


def test_a_file_becomes_a_data_set_by_its_name_or_its_folder(arrays, tmp_path):
    path = tmp_path / "own.npz"
    np.savez(path, **arrays)
    found = data.load("own", path, validation=0.25)
    assert (found.shape, found.num_classes, found.notes) == ((4, 6, 1), 3, "")
    assert [len(part.labels) for part in (found.train, found.validation, found.test)] == [15, 5, 6]
    np.testing.assert_array_equal(found.test.images[..., 0], arrays["test_images"])
    np.testing.assert_array_equal(found.test.labels, arrays["test_labels"])
    everything = np.concatenate([found.train.images, found.validation.images]).reshape(20, -1)
    expected = arrays["train_images"].reshape(20, -1)
    np.testing.assert_array_equal(np.unique(everything, axis=0), np.unique(expected, axis=0))
    again = data.load("own", tmp_path, validation=0.25)
    np.testing.assert_array_equal(again.train.images, found.train.images)


def test_colours_stay_and_fortran_s_order_is_read(arrays, tmp_path):
    colours = {
        name: np.asfortranarray(np.stack([array] * 3, -1)) if name.endswith("images") else array
        for name, array in arrays.items()
    }
    np.savez(tmp_path / "mine.npz", **colours)
    found = data.load("own", tmp_path / "mine.npz")
    assert found.shape == (4, 6, 3)
    np.testing.assert_array_equal(found.test.images, colours["test_images"])


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("train_images", None, "has no array 'train_images'"),
        ("test_images", np.zeros((6, 4, 6)), "test_images must be uint8, 0 to 255"),
        ("test_images", np.zeros((6, 24), np.uint8), "found uint8 of the shape [6, 24]"),
        ("test_images", np.zeros((0, 4, 6), np.uint8), "found uint8 of the shape [0, 4, 6]"),
        ("test_images", np.zeros((6, 4, 7), np.uint8), "(4, 6, 1), test images (4, 7, 1)"),
        ("test_images", np.zeros((5, 4, 6), np.uint8), "test: 5 images but 6 labels"),
        ("train_labels", np.zeros(20), "train_labels must be whole numbers"),
        ("train_labels", np.zeros((20, 1), int), "found int64 of the shape [20, 1]"),
        ("train_labels", np.arange(20) - 1, "at least 0, found -1 to 18"),
        ("train_labels", np.zeros(20, int), "found 1"),
        ("train_labels", np.arange(20) * 10**6, "found 19000001"),
        ("test_labels", np.full(6, 3), "test: labels 3 to 3 found, 0 to 2 expected"),
    ],
)
def test_what_does_not_fit_is_one_line_that_names_it(arrays, tmp_path, name, value, told):
    path = tmp_path / "own.npz"
    np.savez(path, **{key: array for key, array in (arrays | {name: value}).items()
                      if array is not None})  # fmt: skip
    with pytest.raises(UserError) as caught:
        data.load("own", path)
    assert told in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_compressed_or_has_objects_is_refused(arrays, tmp_path, monkeypatch):
    monkeypatch.delenv("JAXSNN_DATA", raising=False)
    with pytest.raises(UserError, match=r"own: give your file, .* numpy.savez\(path, train_images"):
        data.load("own")
    for place in (tmp_path, tmp_path / "gone.npz"):
        with pytest.raises(UserError, match=r"npz: no such file; write it with"):
            data.load("own", place)
    np.savez_compressed(tmp_path / "packed.npz", **arrays)
    with pytest.raises(UserError, match=r"packed.npz: .*'train_images.npy' is compressed; .*savez"):
        data.load("own", tmp_path / "packed.npz")
    np.savez(tmp_path / "objects.npz", **arrays | {"more": np.asarray([{}])})
    with pytest.raises(UserError, match=r"objects.npz: damaged"):
        data.load("own", tmp_path / "objects.npz")
