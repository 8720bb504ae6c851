"""Read a packed network with numpy and safetensors alone: all that a reader on a device must do.

    python experiments/decode_numpy.py FILE [OUT.npz]

prints a line for each leaf and, if asked to, writes all of them as floats. The format is described
in `jaxsnn/export/container.py`, `jaxsnn/export/pack.py`, `jaxsnn/coding.py` and
`jaxsnn/bitstream.py`.
"""

import json
import sys
import zlib

import numpy as np
from safetensors.numpy import load_file

FLOATS = ("values", "codebook", "gamma")
PARTS = {"floats": ["values"], "codes": ["codebook", "codes"]}
PARTS["scaled_codes"] = ["gamma", "width", "codes"]
PLACES = {"": [], "sparse_": ["bitmap"], "indexed_": ["gap_width", "gaps"]}


def numbers(packed, width, count):
    """Read numbers of `width` bits, the highest bit of each first."""
    digits = np.unpackbits(packed, count=count * width).reshape(count, width)
    return digits.astype(np.int64) @ (1 << np.arange(width)[::-1])


def places(parts, size):
    """Return the places of the weights that are stored."""
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
    places_of = next(each for each in ("sparse_", "indexed_", "") if form.startswith(each))
    names = PLACES[places_of] + PARTS[form[len(places_of) :]]
    cut = np.split(content, np.cumsum(sizes)[:-1])
    kinds = [np.float32 if name in FLOATS else np.uint8 for name in names]
    parts = {name: part.view(k) for name, part, k in zip(names, cut, kinds, strict=True)}
    leaf = np.zeros(int(np.prod(shape)), np.float32)
    where = places(parts, leaf.size)
    if "codebook" in parts:
        width = max(1, int(np.ceil(np.log2(max(parts["codebook"].size, 1)))))
        values = parts["codebook"][numbers(parts["codes"], width, where.size)]
    elif "gamma" in parts:
        width = int(parts["width"][0])
        codes, top = numbers(parts["codes"], width, where.size).astype(np.float32), 2**width - 1
        values = (2 * codes - np.float32(top)) * np.float32(1 / top)
        values = np.broadcast_to(parts["gamma"], shape).ravel()[where] * values + np.float32(0)
    else:
        values = parts["values"]
    leaf[where] = values
    return leaf.reshape(shape)


def read(path):
    """Return the header of a packed file and all leaves, "params/..." and "stats/..."."""
    tensors = load_file(path)
    header = json.loads(zlib.decompress(tensors.pop("jaxsnn").tobytes()))
    for name, leaf in header["leaves"].items():
        tensors[name] = decode(leaf["form"], leaf["shape"], leaf["bytes"], tensors[name])
    return header, tensors | {n: np.float32(x) for n, x in header["numbers"].items()}


if __name__ == "__main__":
    for name, leaf in (found := read(sys.argv[1])[1]).items():
        print(f"{name:40} {leaf.shape!s:20} {np.count_nonzero(leaf) / max(leaf.size, 1):8.2%}")
    if len(sys.argv) > 2:
        np.savez(sys.argv[2], **found)
