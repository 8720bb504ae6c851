"""Packed files taken apart and put together again, their checksums right."""

import zlib

from jaxsnn.export import compact


def taken_apart(content):
    """Return the text of a packed file, bytes, and what stands behind it."""
    inside = memoryview(content)[8 + int.from_bytes(content[:8], "little") :]
    (length,), start = compact._read(inside, 4, 1)
    return compact._inflated(inside[start : start + length]), bytes(inside[start + length :])


def packed_text(text):
    """Return a text as a packed file has it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, compact.WORDS)
    return packer.compress(text) + packer.flush()


def put_together(packed, rest):
    """Return the file of a packed text and what stands behind it."""
    content = compact._numbers([len(packed)]) + packed + rest
    content = zlib.crc32(content).to_bytes(4, "little") + content
    return compact._prefix(len(content)) + content
