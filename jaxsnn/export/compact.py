"""The packed file, version 3: every byte that is not a weight costs as little as it can.

The file is a safetensors file with one tensor of bytes, `jaxsnn3`, so that it keeps its ending and
every tool that moves, shows or scans such files takes it. That costs 80 bytes, all of which follow
from the size of the tensor: a reader makes them anew and compares. In the tensor stand

    4 bytes     CRC-32 of all that follows, little-endian
    a number    of bytes of the text
    the text    JSON, compressed by deflate (raw, with the dictionary `WORDS`)
    numbers     for each leaf: its form, an index into `FORMS`, and the bytes of each part of the
                form whose size is not in `FIXED`
    the leaves  the parts of the forms, one after the other

A number has 7 bits a byte, the lowest first, the eighth bit set but in its last byte. The text is

    {"by": {"jaxsnn": release, "jax": release}, "metadata": {...}, "inputs": {...} or null,
     "layers": [{"name": "conv1", "kind": "conv", ...,
                 "params": {"kernel": shape, ...}, "stats": {"neurons/decay": 0.5, ...}}, ...]}

with the layers as `architecture.describe` has them, the shape of each leaf, null for one number for
each output of the kernel above it (`_outputs`), and the constants that are single numbers. An array
that is no float32, or not finite, is `[dtype, shape]` and stands among the leaves as it is. A layer
is written as what differs from the last one of its kind, unless it says `"new": true`; what the
shape of its kernel tells (`_told`) is left out. Numbers of a network that is code are those of one
layer without a name or a kind.

Reading executes nothing and allocates no more than the file's size, besides the text of at most
4 MiB. The older files, version 2, are those of `jaxsnn.export.container`.
"""

import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxsnn import coding, fields, foreign
from jaxsnn.errors import UserError, shortened, shown
from jaxsnn.export.container import HEADER_LIMIT, Contents

__all__ = ["from_bytes", "is_compact", "to_bytes"]

VERSION = 3
FORMS = (  # new ones go to the end
    *("raw", "floats", "coded_floats", "coded_codes", "coded_grid_codes"),
    *("coded_channel_codes", "coded_near_grid_codes", "short_floats", "points"),
)
FIXED = {"unit": 4, "low": 2, "grid": 3, "point": 2}  # bytes of parts that always have as many
ROOTS = ("params", "stats")
PREFIX = re.compile(
    rb'\{"jaxsnn(\d{1,9})":\{"dtype":"U8","shape":\[\d+\],"data_offsets":\[0,\d+\]\}\} *'
)
LONGEST = 256  # bytes of the prefix
LARGEST = 3.4028235e38  # of float32
FIELDS = 1 << 20  # of all layers; a thousand have some sixty thousand
TEXT = {
    "by": fields.each(fields.TEXT),
    "metadata": fields.each(fields.TEXT),
    "inputs": fields.maybe(fields.OBJECT),
    "layers": fields.several(fields.OBJECT),
}
RAW = tuple(f"{kind}{8 * size}" for kind in ("int", "uint", "float") for size in (1, 2, 4, 8))
# What deflate knows before it begins: a layer of each frequent kind, as the text has them.
WORDS = (
    b'"conv1":{"kind":"residual","norm":{"momentum":0.9,"epsilon":1e-05},"norm/bias":[64],"norm/sca'
    b'le":[128],"norm/mean":[256],"norm/var":[512],"kind":"integrator","decay":null},"max_pool","so'
    b'ft","triangle"{"by":{"jaxsnn":"0.2.0","jax":"0.10.2"},"metadata":{"accuracy":"0.98","dataset"'
    b':"cifar10","mnist","digits","name":"compressed"},"inputs":{"shape":[28,28,1],"timesteps":4,"e'
    b'ncoding":"direct","mean":null,"std":null},"layers":[{"name":"conv1","kind":"conv","norm":null'
    b',"dtype":"float32","neurons":{"kind":"lif","reset":"hard","strict":true,"detach_reset":false,'
    b'"order":"integrate_then_fire","surrogate":{"curve":"rectangle","width":1.0,"peak":1.0,"normal'
    b'ized":false},"trained":[],"decay":[],"threshold":[]},"stride":1,"padding":"SAME","params":{"b'
    b'ias":[32],"kernel":[3,3,1,32]},"stats":{"neurons/decay":0.5,"neurons/threshold":0.5}},{"name"'
    b':"pool1","kind":"average_pool","size":2},{"name":"conv2","kind":"conv","params":{"bias":[64],'
    b'"kernel":[3,3,64,128]}},{"name":"pool2","kind":"average_pool"},{"name":"flatten1","kind":"fla'
    b'tten"},{"name":"dense1","kind":"dense","norm":null,"dtype":"float32",'
)


def is_compact(content: bytes) -> bool:
    """Return whether a file that begins with these bytes is one of this format, of any version."""
    return PREFIX.match(content[8 : 8 + LONGEST]) is not None


def to_bytes(
    tensors: Mapping[str, np.ndarray],
    header: Mapping[str, Any],
    metadata: Mapping[str, str],
) -> bytes:
    """Return the file of a network.

    Args:
      tensors: "params/..." and "stats/..." -> bytes of a packed leaf, or an array as it is.
      header: `leaves`, `numbers`, `architecture`, `inputs` and `written_by`, as `export.pack` has
        them.
      metadata: strings to keep.
    """
    layers, table, leaves = [], bytearray(), []
    last: dict[str, dict[str, Any]] = {}
    for layer in header["architecture"] or [{"name": "", "kind": ""}]:
        record = dict(layer)
        for root in ROOTS:
            start = f"{root}/{layer['name']}/" if layer["name"] else f"{root}/"
            named = {
                name: _entry(name, header, tensors)
                for name in sorted([*header["numbers"], *tensors])
                if name.startswith(start)
            }
            if named:
                record[root] = {name.removeprefix(start): each for name, each in named.items()}
                shapes = record.get("params", {})
                for name, each in record[root].items():
                    if each == _outputs(name, shapes):
                        record[root][name] = None
            for name in named:
                if name in tensors:
                    leaf = header["leaves"].get(name)
                    table += _numbers(_sizes(leaf["form"], leaf["bytes"])) if leaf else b"\0"
                    leaves.append(np.ascontiguousarray(tensors[name]).tobytes())
        record = _lean(record, record.get("params", {}))
        before = last.get(layer["kind"])
        last[layer["kind"]] = record
        layers.append(record if before is None else _difference(record, before))
    text = {"by": header["written_by"], "metadata": dict(sorted(metadata.items()))}
    packed = _deflated(text | {"inputs": header["inputs"], "layers": layers})
    content = _numbers([len(packed)]) + packed + bytes(table) + b"".join(leaves)
    content = zlib.crc32(content).to_bytes(4, "little") + content
    return _prefix(len(content)) + content


def from_bytes(path: str | Path, content: bytes) -> Contents:
    """Return what such a file holds, after every byte of it was checked.

    Args:
      path: the file, for messages.
      content: its bytes.

    Raises:
      UserError: if it is damaged, cut short, or of another version; one line with what was found.
    """
    what = "a jaxsnn network"
    found = PREFIX.match(content[8 : 8 + LONGEST])
    version = int(found[1]) if found else 0
    if version != VERSION:
        raise UserError(
            f"{path}: expected version {VERSION} of the format, found {str(version)!r}; "
            "read it with the release of jaxsnn that wrote it"
        )
    with foreign.reading(path, what):
        size = int.from_bytes(content[:8], "little") + 8
        inside = memoryview(content)[size:]
        if content[:size] != _prefix(len(inside)):
            raise ValueError(f"its beginning is not that of a file of {len(content):,} bytes")
        if zlib.crc32(inside[4:]) != int.from_bytes(inside[:4], "little"):
            raise ValueError("the checksum differs")
        (length,), start = _read(inside, 4, 1)
        text = _inflated(inside[start : start + length])
    data = fields.check(f"{path}: the text", foreign.parse_json(path, what, text), TEXT)
    with foreign.reading(path, what):
        layers = list(_whole(data["layers"]))
        header, tensors = _unpacked(layers, inside, start + length)
    is_code = len(layers) == 1 and not layers[0]["kind"]
    header["architecture"] = None if is_code else layers
    header |= {"inputs": data["inputs"], "written_by": data["by"]}
    return Contents(header, tensors, data["metadata"], len(content))


def _entry(name: str, header: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Any:
    """Return what the text says of a leaf."""
    if name in header["numbers"]:
        return float(str(np.float32(header["numbers"][name])))  # the shortest of this float32
    if name in header["leaves"]:
        return header["leaves"][name]["shape"]
    return [tensors[name].dtype.name, list(tensors[name].shape)]


def _sizes(form: str, sizes: list[int]) -> list[int]:
    """Return the number of a form, and the bytes of those of its parts that vary."""
    kinds = zip(coding.PARTS[form], sizes, strict=True)
    return [FORMS.index(form), *(size for part, size in kinds if part not in FIXED)]


def _unpacked(
    layers: list[dict[str, Any]], inside: memoryview, start: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the fields `leaves` and `numbers` of the header, and the tensors.

    Args:
      layers: as the text has them, whole; their `params` and `stats` are taken out.
      inside: the bytes of the file's one tensor.
      start: where the numbers of the leaves begin.
    """
    leaves, numbers = {}, {}
    cut: dict[str, tuple[int, Any, list[int]]] = {}  # bytes, type and shape of a tensor
    for layer in layers:
        shapes = layer.get("params", {})
        for root in ROOTS:
            for short, said in sorted(layer.pop(root, {}).items()):
                name = f"{root}/{layer['name']}/{short}" if layer["name"] else f"{root}/{short}"
                if name in cut or name in numbers:
                    raise ValueError(f"{shortened(name)} stands there twice")
                entry: Any = _outputs(short, shapes) if said is None else said
                if not isinstance(entry, list):
                    is_float = type(entry) in (int, float) and abs(entry) < LARGEST
                    numbers[name] = float(np.float32(entry)) if is_float else entry
                    continue
                (number,), start = _read(inside, start, 1)
                form = FORMS[number]
                if form == "raw":
                    kind, shape = entry
                    if kind not in RAW or not fields.SHAPE.fits(shape):
                        raise ValueError(f"{shortened(name)} is {shown(entry)}")
                    cut[name] = np.dtype(kind).itemsize * math.prod(shape), np.dtype(kind), shape
                    continue
                parts = coding.PARTS[form]
                varied, start = _read(inside, start, sum(part not in FIXED for part in parts))
                sizes = [FIXED[part] if part in FIXED else varied.pop(0) for part in parts]
                leaves[name] = {"form": form, "shape": entry, "bytes": sizes}
                cut[name] = sum(sizes), np.dtype(np.uint8), [sum(sizes)]
    if start + sum(size for size, *_ in cut.values()) != len(inside):
        raise ValueError(f"its leaves take {sum(size for size, *_ in cut.values()):,} bytes")
    tensors = {}
    for name, (size, kind, shape) in cut.items():
        tensors[name] = np.frombuffer(inside[start : start + size], kind).reshape(shape)
        start += size
    return {"leaves": leaves, "numbers": numbers}, tensors


# Layers as few words


def _lean(layer: dict[str, Any], shapes: Mapping[str, Any], start: str = "") -> dict[str, Any]:
    """Return a layer without what the shape of its kernel tells, in its parts likewise."""
    told = _told(shapes, start)
    kept = {key: x for key, x in layer.items() if key not in told or told[key] != x}
    return {
        key: _lean(x, shapes, f"{start}{key}/") if isinstance(x, dict) and key not in ROOTS else x
        for key, x in kept.items()
    }


def _full(layer: dict[str, Any], shapes: Mapping[str, Any], start: str = "") -> dict[str, Any]:
    """Return a layer with what `_lean` left out."""
    found = {
        key: _full(x, shapes, f"{start}{key}/") if isinstance(x, dict) and key not in ROOTS else x
        for key, x in layer.items()
    }
    return found | {key: x for key, x in _told(shapes, start).items() if key not in found}


def _outputs(name: str, shapes: Mapping[str, Any]) -> list[int] | None:
    """Return the shape of one number for each output of the kernel above a leaf, None if none is.

    Above `conv1/norm/mean` are `conv1/norm/kernel`, `conv1/kernel` and `kernel`.
    """
    parts = name.split("/")
    for depth in range(len(parts) - 1, -1, -1):
        kernel = shapes.get("/".join([*parts[:depth], "kernel"]))
        if isinstance(kernel, list) and len(kernel) > 1:
            return kernel[-1:]
    return None


def _told(shapes: Mapping[str, Any], start: str) -> dict[str, Any]:
    """Return what the leaves below a name tell of their layer; nothing if it has no kernel."""
    kernel = shapes.get(f"{start}kernel")
    if not isinstance(kernel, list) or len(kernel) < 2:
        return {}
    told = {"inputs": kernel[-2], "outputs": kernel[-1], "bias": f"{start}bias" in shapes}
    return told | ({"size": kernel[0]} if len(kernel) > 2 else {})


def _difference(layer: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """Return what differs from another layer of its kind, or all of it and that it is new."""
    changed = _changed(layer, before)
    if changed is None:
        return {"name": layer["name"], "kind": layer["kind"], "new": True} | layer
    return {"name": layer["name"], "kind": layer["kind"]} | changed


def _changed(new: dict[str, Any], old: dict[str, Any]) -> dict[str, Any] | None:
    """Return the fields that changed, None if a field of the old one is gone."""
    if not old.keys() <= new.keys():
        return None
    found = {}
    for key, value in new.items():
        if key not in old or type(value) is not type(old[key]):
            found[key] = value
        elif isinstance(value, dict):
            inner = _changed(value, old[key])
            if inner is None:
                return None
            if inner:
                found[key] = inner
        elif value != old[key]:
            found[key] = value
    return found


def _whole(records: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the layers of their differences, each with all of its fields."""
    last: dict[str, dict[str, Any]] = {}
    room = FIELDS
    for record in records:
        kind = record.get("kind")
        if not isinstance(kind, str) or not isinstance(record.get("name"), str):
            raise ValueError(f"a layer without a name or a kind: {shown(record)}")
        before = {} if record.get("new") is True else last.get(kind, {})
        room -= _count(before)
        if room < 0:
            raise ValueError("its layers have too many fields")
        layer = _merged(before, record)
        layer.pop("new", None)
        last[kind] = layer
        params = layer.get("params", {})
        if not all(isinstance(layer.get(root, {}), dict) for root in ROOTS):
            raise ValueError(f"layer {shown(layer['name'])}: params or stats are no objects")
        yield _full(layer, params)


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return an object with the changes of another one."""
    found = dict(old)
    for key, value in new.items():
        inside = old.get(key)
        both = isinstance(value, dict) and isinstance(inside, dict)
        found[key] = _merged(inside, value) if both and inside is not None else value
    return found


def _count(data: Any) -> int:
    """Return the number of fields of an object, those of objects in it included."""
    return 1 + sum(map(_count, data.values())) if isinstance(data, dict) else 1


# Bytes


def _prefix(size: int) -> bytes:
    """Return what a safetensors file begins with that has this one tensor of so many bytes."""
    tensor = f'"dtype":"U8","shape":[{size}],"data_offsets":[0,{size}]'
    text = f'{{"jaxsnn{VERSION}":{{{tensor}}}}}'.encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text


def _deflated(data: Any) -> bytes:
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, WORDS)
    return packer.compress(text) + packer.flush()


def _inflated(packed: memoryview) -> bytes:
    unpacker = zlib.decompressobj(-15, WORDS)
    text = unpacker.decompress(packed, HEADER_LIMIT)
    if not unpacker.eof or unpacker.unused_data:
        raise ValueError(f"its text has no end within {HEADER_LIMIT} bytes")
    return text


def _numbers(numbers: list[int]) -> bytes:
    """Return numbers of 7 bits a byte, the lowest first."""
    found = bytearray()
    for number in numbers:
        while number >= 128:
            found.append(number & 127 | 128)
            number >>= 7
        found.append(number)
    return bytes(found)


def _read(content: memoryview, start: int, count: int) -> tuple[list[int], int]:
    """Return so many numbers and where they end."""
    numbers = []
    for _ in range(count):
        number, shift = 0, 0
        while (byte := content[start]) >= 128:
            number |= (byte & 127) << shift
            start, shift = start + 1, shift + 7
            if shift > 56:
                raise ValueError("a number has too many bytes")
        numbers.append(number | byte << shift)
        start += 1
    return numbers, start
