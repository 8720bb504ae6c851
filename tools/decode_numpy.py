"""Read a packed network with numpy alone: all that a reader on a device must do.

    python decode_numpy.py FILE [OUT.npz]

prints a line for each leaf and, if asked to, writes all of them as floats. The format is described
in `jaxsnn/export/container.py`, `jaxsnn/export/pack.py` and `jaxsnn/coding/forms.py`.
"""

import itertools
import json
import sys
import zlib
from pathlib import Path

import numpy as np

KINDS = {"BOOL": "?"} | {f"{x}{8 * n}": f"<{x.lower()}{n}" for x in "IUF" for n in (1, 2, 4, 8)}
TYPES = {"values": "<f4", "codebook": "<f4", "gamma": "<f4", "scale": "<f4", "unit": "<f4"}
TYPES["low"] = "<i2"
PARTS = {"floats": ["values"], "codes": ["codebook", "codes"]}
PARTS["scaled_codes"] = ["gamma", "width", "codes"]
PARTS["grid_codes"] = ["scale", "unit", "low", "grid", "codes"]
PARTS["near_grid_codes"] = [*PARTS["grid_codes"], "ulps"]
PARTS["channel_codes"] = ["scale", "unit", "widths", "codes"]
PLACES = {"": [], "sparse_": ["bitmap"], "indexed_": ["gap_width", "gaps"]}
PLACES["grouped_"] = ["group", "patterns"]


def numbers(packed, width, count):
    """Read numbers of `width` bits, the highest bit of each first."""
    digits = np.unpackbits(packed, count=count * width).reshape(count, width)
    return digits.astype(np.int64) @ (1 << np.arange(width)[::-1])


def grouped(parts, shape):
    """Return the places of n of every m inputs, the last axis but one."""
    n, m = (int(number) for number in parts["group"])
    table = np.array(list(itertools.combinations(range(m), n)))
    rows = (int(np.prod(shape[:-2])) * shape[-1], -(-shape[-2] // m))
    width = max(1, int(np.ceil(np.log2(len(table)))))
    chosen = table[numbers(parts["patterns"], width, rows[0] * rows[1])]
    marks = np.zeros((rows[0] * rows[1], m), bool)
    np.put_along_axis(marks, chosen, True, 1)
    marks = marks.reshape(*shape[:-2], shape[-1], -1)[..., : shape[-2]]
    return np.flatnonzero(np.swapaxes(marks, -1, -2))


def places(parts, shape, size):
    """Return the places of the weights that are stored."""
    if "group" in parts:
        return grouped(parts, shape)
    if "bitmap" in parts:
        return np.flatnonzero(np.unpackbits(parts["bitmap"], count=size))
    if "gaps" not in parts:
        return np.arange(size)
    width, packed = int(parts["gap_width"][0]), parts["gaps"]
    gaps, largest = numbers(packed, width, packed.size * 8 // width), 2**width - 1
    ends = np.cumsum(np.where(gaps < largest, gaps + 1, largest))  # the largest marks no weight
    return ends[gaps < largest] - 1


def decode(form, shape, sizes, content):
    """Return a leaf from the bytes of its parts, as float32."""
    places_of = next(each for each in [*PLACES][::-1] if form.startswith(each))
    names = PLACES[places_of] + PARTS[form[len(places_of) :]]
    cut = np.split(content, np.cumsum(sizes)[:-1])
    parts = {n: part.view(TYPES.get(n, "u1")) for n, part in zip(names, cut, strict=True)}
    leaf = np.zeros(int(np.prod(shape)), np.float32)
    where = places(parts, shape, leaf.size)
    if "codebook" in parts:
        width = max(1, int(np.ceil(np.log2(max(parts["codebook"].size, 1)))))
        leaf[where] = parts["codebook"][numbers(parts["codes"], width, where.size)]
    elif "gamma" in parts:  # gamma ((2 c - s) (1 / s))
        width = int(parts["width"][0])
        codes, top = numbers(parts["codes"], width, where.size), 2**width - 1
        levels = (2 * codes - top).astype(np.float32) * np.float32(1 / top)
        leaf[where] = np.broadcast_to(parts["gamma"], shape).ravel()[where] * levels + np.float32(0)
    elif "widths" in parts:  # k - 2**(b - 1), the codes of the channels of 1 bit first, then 2, ...
        width, first = np.broadcast_to(parts["widths"], shape).ravel()[where], 0
        scale, unit = np.broadcast_to(parts["scale"], shape).ravel()[where], parts["unit"][0]
        for b in range(1, 9):
            here = width == b
            after = first - (-int(here.sum()) * b // 8)
            k = numbers(parts["codes"][first:after], b, int(here.sum())) - (1 << b >> 1)
            leaf[where[here]] = scale[here] * (k.astype(np.float32) * unit) + np.float32(0)
            first = after
    elif "grid" in parts:  # scale ((low + stride k) unit); or powers of two, if stride is 0
        stride, width = (int(number) for number in parts["grid"][:2])
        c = int(parts["low"][0]) + (stride or 1) * numbers(parts["codes"], width, where.size)
        c = c if stride else np.sign(c) * (1 << np.maximum(np.abs(c) - 1, 0))
        levels, scale = c.astype(np.float32) * parts["unit"][0], parts["scale"]
        values = np.broadcast_to(scale, shape).ravel()[where] * levels + np.float32(0)
        if "ulps" in parts:  # moved by some units in the last place
            most, bits = np.abs(c).max(initial=0), int(parts["ulps"][0])
            moves = numbers(parts["ulps"][1:], bits, scale.size * most) - (1 << bits >> 1)
            moves = np.pad(moves.reshape(scale.size, most), ((0, 0), (1, 0)))
            row = np.broadcast_to(np.arange(scale.size), shape).ravel()[where]
            values = (values.view(np.int32) + moves[row, np.abs(c)].astype(np.int32)).view("<f4")
        leaf[where] = values
    else:
        leaf[where] = parts["values"]
    return leaf.reshape(shape)


def read(path):
    """Return the header of a packed file and all leaves, "params/..." and "stats/..."."""
    content = Path(path).read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")  # safetensors: a JSON text, then the tensors
    tensors = {}
    for name, each in json.loads(content[8:start]).items():
        if name != "__metadata__":
            low, high = (start + end for end in each["data_offsets"])
            flat = np.frombuffer(content[low:high], KINDS[each["dtype"]])
            tensors[name] = flat.reshape(each["shape"])
    header = json.loads(zlib.decompress(tensors.pop("jaxsnn").tobytes()))
    for name, leaf in header["leaves"].items():
        tensors[name] = decode(leaf["form"], leaf["shape"], leaf["bytes"], tensors[name])
    return header, tensors | {n: np.float32(x) for n, x in header["numbers"].items()}


if __name__ == "__main__":
    for name, leaf in (found := read(sys.argv[1])[1]).items():
        print(f"{name:40} {leaf.shape!s:20} {np.count_nonzero(leaf) / max(leaf.size, 1):8.2%}")
    if len(sys.argv) > 2:
        np.savez(sys.argv[2], **found)
