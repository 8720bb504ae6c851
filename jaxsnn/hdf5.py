"""A check of HDF5 files that the library does not make: it would walk a damaged heap for ever.

Texts and lists of HDF5 lie in "global heaps" (HDF5 file format, III.E): the letters GCOL, version 1
and three zeros, the size of the heap, then objects of 16 bytes of header, the index and the size
among them, and their content. Object 0 is what is free. HDF5 1.14 and older go from one object to
the next by its size, and stay where they are if it is 0 or runs over.
"""

import mmap
import struct
from pathlib import Path

__all__: list[str] = []  # nothing here is promised to users

START = b"GCOL\1\0\0\0"
HEADER = 16  # bytes of a heap, and of an object in it
OBJECT = struct.Struct("<HHIQ")  # index, references, nothing, size


def check_heaps(path: str | Path) -> None:
    """Walk all heaps of a file, inside of `foreign.reading`.

    Args:
      path: an HDF5 file.

    Raises:
      ValueError: if an object has no size, or one that its heap cannot have.
      OSError: if the file cannot be read.
    """
    with open(path, "rb") as file:
        if not file.read(1):
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            heap = content.find(START)
            while heap >= 0:
                _check_heap(content, heap)
                heap = content.find(START, heap + HEADER)


def _check_heap(content: mmap.mmap, heap: int) -> None:
    if heap + HEADER > len(content):
        raise ValueError("a heap that is cut short")
    size = int.from_bytes(content[heap + 8 : heap + HEADER], "little")
    place, end = heap + HEADER, heap + size
    if end > len(content):
        raise ValueError(f"a heap of {size:,} bytes that is cut short")
    while place + OBJECT.size <= end:
        index, _, _, length = OBJECT.unpack_from(content, place)
        needed = -(-length // 8) * 8 + OBJECT.size if index else length
        if not 0 < needed <= end - place:
            raise ValueError(f"an object of {length:,} bytes in a heap of {size:,}")
        place += needed
