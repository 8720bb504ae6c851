"""Damage: what a bad disk, a broken transfer or a forger makes of a file."""

import copy
import json
import random
import struct

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 62)
MARK = "the place of the damage"
# What takes the place of a value in a JSON text.
TEXTS = (
    *("null", "true", "-1", "0", "1", "0.5", "1e300", "-1e308", "1e999", "NaN", "-Infinity"),
    *('""', '"x"', '"NaN"', '"\\ud800"', '"' + "x" * 5000 + '"', "[]", "{}", "[[]]", "[null]"),
    *('{"a": 1, "a": 2}', "4294967295", "4294967296", "9" * 400, "9" * 5000, "1.0", "[1, 2, 3]"),
    *("[" * 500 + "]" * 500, "[" * 100_000, '{"a":' * 500 + "0" + "}" * 500, "[-1, 1e9]", "?", ""),
)


def damaged(draw: random.Random, data: bytes) -> tuple[str, bytes]:
    """Return the kind of a damage, and a file's bytes with it."""
    kind = draw.choice(tuple(DAMAGES))
    return kind, DAMAGES[kind](draw, data)


def flip(draw: random.Random, data: bytes) -> bytes:
    """Flip one to four bits."""
    found = bytearray(data or b"\0")
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        found[draw.randrange(len(found))] ^= 1 << draw.randrange(8)
    return bytes(found)


def flip_at_an_end(draw: random.Random, data: bytes) -> bytes:
    """Flip a bit near the beginning or the end, where headers and directories are."""
    found = bytearray(data or b"\0")
    place = draw.randrange(min(len(found), 100))
    found[draw.choice((place, -1 - place))] ^= 1 << draw.randrange(8)
    return bytes(found)


def cut(draw: random.Random, data: bytes) -> bytes:
    """Keep the first bytes."""
    return data[: draw.randrange(len(data) + 1)]


def insert(draw: random.Random, data: bytes) -> bytes:
    """Put random bytes somewhere."""
    place = draw.randrange(len(data) + 1)
    return data[:place] + draw.randbytes(draw.choice((1, 2, 4, 60))) + data[place:]


def delete(draw: random.Random, data: bytes) -> bytes:
    """Leave a block out."""
    start, stop = _block(draw, data)
    return data[:start] + data[stop:]


def duplicate(draw: random.Random, data: bytes) -> bytes:
    """Write a block twice, or many times."""
    start, stop = _block(draw, data)
    return data[:stop] + data[start:stop] * draw.choice((1, 1, 3, 100)) + data[stop:]


def swap(draw: random.Random, data: bytes) -> bytes:
    """Exchange two blocks."""
    (a, b), (c, d) = sorted((_block(draw, data), _block(draw, data)))
    return data if b > c else data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def blank(draw: random.Random, data: bytes) -> bytes:
    """Write zeros over a block, as a lost page of a disk reads."""
    start, stop = _block(draw, data)
    return data[:start] + bytes(stop - start) + data[stop:]


def number(draw: random.Random, data: bytes) -> bytes:
    """Write an extreme whole number over some bytes."""
    width = draw.choice("BHIQ")
    value = draw.choice(EXTREMES) & (1 << 8 * struct.calcsize(width)) - 1
    text = struct.pack(draw.choice("<>") + width, value)
    place = draw.randrange(max(len(data) - len(text), 0) + 1)
    return data[:place] + text + data[place + len(text) :]


DAMAGES = {
    function.__name__: function
    for function in (flip, flip_at_an_end, cut, insert, delete, duplicate, swap, blank, number)
}


def _block(draw: random.Random, data: bytes) -> tuple[int, int]:
    start = draw.randrange(len(data) + 1)
    longest = draw.choice((1, 4, 16, 512, len(data)))
    return start, min(len(data), start + draw.randrange(longest + 1))


def damaged_json(draw: random.Random, data: bytes) -> bytes:
    """Return a JSON text in which one value, or one field, is another."""
    value = json.loads(data)
    whole = [value]
    places = _places(whole)
    container, key = draw.choice(places)
    action = draw.choice(("replace", "replace", "replace", "remove", "rename", "copy"))
    if action == "remove" and container is not whole:
        del container[key]
    elif action == "rename" and isinstance(container, dict):
        container[draw.choice((key + "x", "", "name", "kind", "__class__"))] = container.pop(key)
    elif action == "copy":
        container[key] = copy.deepcopy(_value_of(draw.choice(places)))
    else:
        container[key] = MARK
    text = json.dumps(whole[0])
    return text.replace(json.dumps(MARK), draw.choice(TEXTS)).encode("utf-8", "surrogatepass")


def _places(value: object) -> list[tuple[object, object]]:
    """Return all (container, key) of a JSON value, outer ones first."""
    items: list[tuple[object, object]] = []
    if isinstance(value, dict):
        items = [(value, key) for key in value]
    elif isinstance(value, list):
        items = [(value, index) for index in range(len(value))]
    return items + [place for item in items for place in _places(_value_of(item))]


def _value_of(place: tuple[object, object]) -> object:
    container, key = place
    return container[key]


def damaged_array(draw: random.Random, arrays: dict) -> dict:
    """Return arrays of which one has other numbers, another shape, type or name."""
    import numpy as np

    found = dict(arrays)
    name = draw.choice(sorted(found))
    array = np.array(found.pop(name))
    action = draw.choice(("remove", "rename", "type", "shape", "shape", "value", "value", "swap"))
    if action == "rename":
        found[draw.choice((name + "x", name.upper(), "lanes", "x/y"))] = array
    elif action == "type":
        found[name] = array.astype(draw.choice("f4 f8 i4 u1 i8 ? f2".split()))
    elif action == "shape":
        some = np.atleast_1d(array)
        shapes = (array[None], some[:1], some[:0], array.ravel(), np.zeros(()), array[..., None])
        found[name] = draw.choice(shapes)
    elif action == "value" and array.size:
        flat = array.reshape(-1)
        flat[draw.randrange(array.size)] = draw.choice((0, 1, 200 if array.itemsize == 1 else -7))
        if array.dtype.kind == "f":
            flat[draw.randrange(array.size)] = draw.choice((np.nan, np.inf, 1e30, -1.0))
        found[name] = flat.reshape(array.shape)
    elif action == "swap":
        other = draw.choice(sorted(arrays))
        found[name] = arrays[other]
        found[other] = array
    return found
