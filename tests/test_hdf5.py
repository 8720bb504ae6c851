"""Damaged heaps of HDF5 files are noticed before the library walks them."""

import struct

import h5py
import pytest

from jaxsnn.hdf5 import OBJECT, START, check_heaps


@pytest.fixture
def path(tmp_path):
    """Write a file of texts and lists."""
    with h5py.File(tmp_path / "texts.h5", "w") as file:
        file["texts"] = [f"text {number}" for number in range(100)]
        made = file.create_dataset("lists", (3,), dtype=h5py.vlen_dtype("f2"))
        for index in range(3):
            made[index] = range(1000 * index)
    return tmp_path / "texts.h5"


def test_whole_heaps_pass(path, tmp_path):
    assert path.read_bytes().count(START) >= 2
    check_heaps(path)
    (tmp_path / "empty").write_bytes(b"")
    check_heaps(tmp_path / "empty")


@pytest.mark.parametrize("size", [0, 1 << 20, (1 << 64) - 1])
def test_free_space_of_another_size_is_refused(path, size):
    content = bytearray(path.read_bytes())
    place = heap = content.find(START)
    end = heap + int.from_bytes(content[heap + 8 : heap + 16], "little")
    place += 16
    while (head := OBJECT.unpack_from(content, place))[0]:
        place += 16 + -(-head[3] // 8) * 8
    assert head[3] == end - place  # what is free, its header included
    struct.pack_into("<Q", content, place + 8, size)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"an object of {size:,} bytes in a heap of 4,096"):
        check_heaps(path)


def test_a_heap_that_is_cut_short_is_refused(path):
    content = path.read_bytes()
    heap = content.find(START)
    for kept in (heap + 12, heap + 100):
        path.write_bytes(content[:kept])
        with pytest.raises(ValueError, match="a heap .* cut short"):
            check_heaps(path)
