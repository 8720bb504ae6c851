"""Read a packed network with numpy alone: all that a reader on a device must do.

    python decode_numpy.py FILE [OUT.npz]

prints a line for each leaf and, if asked to, writes all of them as floats. `decode_parts.py` has
to be beside it. The format is described in `jaxsnn/export/compact.py` and `jaxsnn/coding/forms.py`.
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from decode_parts import inflate, read_stream  # noqa: E402

TYPES = {"values": "<f4", "codebook": "<f4", "scale": "<f4", "unit": "<f4", "low": "<i2"}
TYPES |= {"halves": "<u2", "point": "<i1"}
FORMS = "raw,values,values stream,codebook stream,scale unit low grid stream,"
FORMS += "scale unit widths stream,scale unit low grid ulps stream,halves,point low codes"
FIXED = {"unit": 4, "low": 2, "grid": 3, "point": 2}  # bytes of these parts


def decode(parts, shape):
    """Return a leaf of the parts of its form, as float32."""
    if "point" in parts:
        power, bits = parts["point"].tolist()
        digits = np.unpackbits(parts["codes"], count=int(np.prod(shape)) * bits).reshape(-1, bits)
        whole = parts["low"] + digits @ (1 << np.arange(bits)[::-1])
        return np.ldexp(whole.astype(np.float32), power).reshape(shape)
    if "halves" in parts:
        return (parts["halves"].astype(np.uint32) << 16).view(np.float32).reshape(shape)
    if "stream" not in parts:
        return parts["values"].reshape(shape)
    channels, values = parts.get("widths", 0), parts.get("values")
    kept, codes = read_stream(parts["stream"], shape, channels, values is None)
    if "codebook" in parts:
        values = parts["codebook"][codes]
    elif values is None:  # scale (c unit), with whole numbers c
        if "widths" in parts:
            c = codes - (1 << int(channels.max(initial=0)) >> 1)
        else:  # c = low + stride k; or powers of two, if stride is 0
            c, stride = int(parts["low"][0]), int(parts["grid"][0])
            c = c + (stride or 1) * codes
            c = c if stride else np.sign(c) * (1 << np.maximum(np.abs(c) - 1, 0))
        scale = np.broadcast_to(parts["scale"], shape).ravel()[kept]
        values = scale * (c.astype(np.float32) * parts["unit"][0]) + np.float32(0)
    if "ulps" in parts:  # moved by some units in the last place
        most, bits, rows = np.abs(c).max(initial=0), int(parts["ulps"][0]), parts["scale"].size
        digits = np.unpackbits(parts["ulps"][1:], count=rows * most * bits).reshape(-1, bits)
        moves = (digits @ (1 << np.arange(bits)[::-1])).reshape(rows, most) - (1 << bits >> 1)
        row = np.broadcast_to(np.arange(rows), shape).ravel()[kept]
        moves = np.pad(moves, ((0, 0), (1, 0)))[row, np.abs(c)]
        values = (values.view(np.int32) + moves.astype(np.int32)).view(np.float32)
    leaf = np.zeros(kept.size, np.float32)
    leaf[kept] = values
    return leaf.reshape(shape)


def outputs(name, shapes):
    """Return the shape of a leaf that has one number for each output of the kernel above it."""
    above = name.rpartition("/")[0]
    kernel = shapes.get(f"{above}/kernel".lstrip("/"))
    return kernel[-1:] if kernel and len(kernel) > 1 else outputs(above, shapes)


def merged(old, new):
    """Return an object with the changes of another one."""
    both = isinstance(old, dict) and isinstance(new, dict)
    return {**old, **{k: merged(old.get(k), x) for k, x in new.items()}} if both else new


def read(path):
    """Return the text of a packed file, and all leaves, "params/..." and "stats/..."."""
    content = np.frombuffer(Path(path).read_bytes(), np.uint8)
    place = 12 + int.from_bytes(content[:8].tobytes(), "little")  # of safetensors, and a checksum

    def number():
        nonlocal place
        place += 1
        byte = int(content[place - 1])
        return byte if byte < 128 else byte - 128 + 128 * number()

    def take(size):
        nonlocal place
        place += size
        return content[place - size : place]

    text = json.loads(inflate(take(number()).tobytes()))
    found, last, leaves = {}, {}, {}
    for layer in text["layers"]:
        before = {} if layer.pop("new", False) else last.get(layer["kind"], {})
        layer = last[layer["kind"]] = merged(before, layer)
        for root in ("params", "stats"):
            for name, entry in sorted(layer.get(root, {}).items()):
                entry = outputs(name, layer["params"]) if entry is None else entry
                name = f"{root}/{layer['name']}/{name}" if layer["name"] else f"{root}/{name}"
                if not isinstance(entry, list):
                    found[name] = np.float32(entry)
                    continue
                form = FORMS.split(",")[number()].split()
                if form == ["raw"]:
                    kind, entry = entry
                    sizes = {"values": np.dtype(kind).itemsize * int(np.prod(entry))}
                else:
                    kind, sizes = None, {part: FIXED.get(part) or number() for part in form}
                leaves[name] = entry, kind, sizes
    for name, (shape, kind, sizes) in leaves.items():
        parts = {x: take(size).view(kind or TYPES.get(x, "u1")) for x, size in sizes.items()}
        found[name] = decode(parts, shape)
    return text, found


if __name__ == "__main__":
    for name, leaf in (found := read(sys.argv[1])[1]).items():
        print(f"{name:40} {leaf.shape!s:20} {np.count_nonzero(leaf) / max(leaf.size, 1):8.2%}")
    if len(sys.argv) > 2:
        np.savez(sys.argv[2], **found)
