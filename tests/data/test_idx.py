"""idx files: what is written comes back; what is damaged is named with its bytes."""

import gzip
import math
import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsnn.data import idx
from jaxsnn.errors import UserError

REAL = Path(os.environ.get("JAXSNN_DATA", "/nonexistent"))


def idx_bytes(array):
    """Spell an array of bytes in the idx format, by hand."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_split(folder, prefix, images, labels, packed=True):
    """Write the two files of a split under their published names."""
    for stem, array in zip(idx.stems(prefix), (images, labels), strict=True):
        data = idx_bytes(array)
        if packed:
            (folder / f"{stem}.gz").write_bytes(gzip.compress(data, compresslevel=1))
        else:
            (folder / stem).write_bytes(data)


@settings(max_examples=30, deadline=None)
@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=3), data=st.data())
def test_what_is_written_comes_back(tmp_path_factory, shape, data):
    values = data.draw(st.binary(min_size=math.prod(shape), max_size=math.prod(shape)))
    array = np.frombuffer(values, np.uint8).reshape(shape)
    path = tmp_path_factory.getbasetemp() / "array.gz"
    path.write_bytes(gzip.compress(idx_bytes(array)))
    np.testing.assert_array_equal(idx.read_idx(path, len(shape)), array)


@pytest.mark.parametrize("packed", [True, False])
def test_a_split_has_a_channel_axis_and_int32_labels(tmp_path, packed):
    images = np.arange(3 * 4 * 5).reshape(3, 4, 5)
    write_split(tmp_path, "train", images, np.array([2, 0, 1]), packed)
    split = idx.read_split(tmp_path, "train", 3)
    assert split.images.shape == (3, 4, 5, 1) and split.images.dtype == np.uint8
    np.testing.assert_array_equal(split.images[..., 0], images)
    assert split.labels.dtype == np.int32 and split.labels.tolist() == [2, 0, 1]


def test_labels_that_start_at_one_become_zero_based(tmp_path):
    write_split(tmp_path, "train", np.zeros((2, 1, 1)), np.array([1, 26]))
    assert idx.read_split(tmp_path, "train", 26, first_label=1).labels.tolist() == [0, 25]


WHOLE = idx_bytes(np.zeros((2, 3, 3)))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (WHOLE[:-1], r"asks for 34 bytes, 33 found"),
        (WHOLE + b"x", r"asks for 34 bytes, 35 found"),
        (WHOLE[:10], r"header of 16 bytes expected, 10 bytes found"),
        (b"", r"header of 16 bytes expected, 0 bytes found"),
        (b"\0\0\x0d\x03" + WHOLE[4:], r"magic number 00 00 08 03 expected, 00 00 0d 03 found"),
        (b"\0\0\x08\x01" + WHOLE[4:], r"3 dimensions: .*00 00 08 01 found"),
        (b"<!DOCTYPE html><html></html>", r"not an idx file"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, *[2**32 - 1] * 3) + b"0", r"bytes, 17 found"),
    ],
)
def test_damage_is_told_with_file_and_bytes(tmp_path, data, told):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(data)
    with pytest.raises(UserError, match=told) as caught:
        idx.read_idx(path, 3)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("where", ["cut", "flipped", "checksum", "not gzip"])
def test_a_damaged_gzip_stream_is_told_with_file_and_expected_bytes(tmp_path, where):
    values = np.random.default_rng(0).integers(0, 256, (50, 28, 28))
    packed = bytearray(gzip.compress(idx_bytes(values)))
    if where == "cut":
        packed = packed[: len(packed) // 2]
    elif where == "flipped":
        packed[5000:5400] = bytes(400)
    elif where == "checksum":
        packed[-5] ^= 1
    else:
        packed = bytearray(b"not gzip at all, but long enough")
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(packed)
    told = "header of 16 bytes expected" if where == "not gzip" else "asks for 39,216 bytes"
    with pytest.raises(UserError, match=rf"{path}: damaged or cut short.*{told}.*gz stream"):
        idx.read_idx(path, 3)


def test_a_stream_that_unpacks_to_far_more_than_it_has_is_refused_before_it_does(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    header = struct.pack(">BBBB3I", 0, 0, 8, 3, 1 << 10, 1 << 10, 1 << 8)
    path.write_bytes(gzip.compress(header + bytes(1 << 20)))
    tracemalloc.start()
    with pytest.raises(UserError, match=rf"{path}: damaged: .*more than a file of"):
        idx.read_idx(path, 3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_images_and_labels_must_match(tmp_path):
    write_split(tmp_path, "train", np.zeros((3, 2, 2)), np.zeros(2))
    with pytest.raises(UserError, match="3 images but 2 labels"):
        idx.read_split(tmp_path, "train", 10)
    write_split(tmp_path, "t10k", np.zeros((2, 2, 2)), np.array([0, 10]))
    with pytest.raises(UserError, match="labels 0 to 10 found, 0 to 9 expected"):
        idx.read_split(tmp_path, "t10k", 10)
    write_split(tmp_path, "none", np.zeros((0, 2, 2)), np.zeros(0))
    with pytest.raises(UserError, match="holds no images"):
        idx.read_split(tmp_path, "none", 10)


def test_a_missing_file_is_named_with_the_hint(tmp_path):
    write_split(tmp_path, "train", np.zeros((3, 2, 2)), np.zeros(3))
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.unlink()
    with pytest.raises(UserError, match=f"{path}: no such file; go there"):
        idx.read_split(tmp_path, "train", 10, hint="go there")


@pytest.mark.skipif(not (REAL / "mnist").is_dir(), reason="JAXSNN_DATA has no mnist/")
def test_real_mnist_has_its_published_counts():
    test = idx.read_split(REAL / "mnist", "t10k", 10)
    assert test.images.shape == (10_000, 28, 28, 1)
    assert np.bincount(test.labels).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip
