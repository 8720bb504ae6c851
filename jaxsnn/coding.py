"""A leaf as few bytes: floats or codes of a codebook, with or without a bitmap of the zeros.

A leaf of `n` weights, `z` of them not zero, is written in the smallest of four forms:

| form             | parts                          | bytes                              |
|------------------|--------------------------------|------------------------------------|
| `floats`         | values                         | 4n                                 |
| `sparse_floats`  | bitmap, values                 | n/8 + 4z                           |
| `codes`          | codebook, codes                | 4d + nk/8      (d values, k bits)  |
| `sparse_codes`   | bitmap, codebook, codes        | n/8 + 4d' + zk'/8  (zero left out) |

with `d` distinct values, `k = max(1, ceil(log2 d))` bits for each code, fractions of a byte rounded
up, and codes only for `d <= 256`. `-0.0` is stored as `0.0`; everything else returns bit for bit.
The packed file writes exactly these parts, and the metrics count exactly these bytes.
"""

import math
from typing import Any

import numpy as np

MAX_VALUES = 256  # the most values that codes of one byte can tell apart
FLOAT_BITS = 32

# The arrays that a form consists of, with the types in which they are stored.
PARTS: dict[str, dict[str, Any]] = {
    "floats": {"values": np.float32},
    "sparse_floats": {"bitmap": np.uint8, "values": np.float32},
    "codes": {"codebook": np.float32, "codes": np.uint8},
    "sparse_codes": {"bitmap": np.uint8, "codebook": np.float32, "codes": np.uint8},
}


def code_bits(num_values: int) -> int:
    """Return the bits of a code that tells `num_values` values apart: at least 1."""
    return max(1, math.ceil(math.log2(num_values))) if num_values > 1 else 1


def bits(leaf: Any) -> int:
    """Measure the bits of one weight: `ceil(log2 d)` for `d` distinct values, zero included.

    A leaf counts as quantized when it has at most 256 distinct values and codes with a codebook
    take fewer bytes than its floats do; otherwise a weight has 32 bits. So a small kernel of
    full precision, all of whose few values differ, has 32 bits and not 8.

    Args:
      leaf: weights of any shape.

    Returns:
      1 to 8, or 32.
    """
    flat = _flat(leaf)
    return FLOAT_BITS if "floats" in _form(flat) else code_bits(_distinct(flat))


def num_bytes(leaf: Any) -> int:
    """Return the bytes of a leaf in its smallest form, codebook and bitmap included."""
    flat = _flat(leaf)
    return min(_sizes(flat).values())


def encode(leaf: Any) -> tuple[str, dict[str, np.ndarray]]:
    """Write a leaf in its smallest form.

    Args:
      leaf: float32 weights of any shape.

    Returns:
      The name of the form and its parts, flat arrays; their bytes sum to `num_bytes(leaf)`.
    """
    flat = _flat(leaf)
    form = _form(flat)
    parts = {}
    if "bitmap" in PARTS[form]:
        parts["bitmap"] = np.packbits(flat != 0)
        flat = flat[flat != 0]
    if "codebook" in PARTS[form]:
        codebook, codes = np.unique(flat, return_inverse=True)
        parts["codebook"] = codebook
        parts["codes"] = _pack_codes(codes, code_bits(codebook.size))
    else:
        parts["values"] = flat
    return form, parts


def decode(form: str, parts: dict[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Read a leaf back from the parts that `encode` made.

    Args:
      form: name of the form, a key of `PARTS`.
      parts: the arrays of that form.
      shape: shape of the leaf.

    Returns:
      The float32 leaf.

    Raises:
      ValueError: if the parts do not make up a leaf of this shape; the message says which part.
    """
    if form not in PARTS:
        raise ValueError(f"form is {form!r}, known are {', '.join(PARTS)}")
    for part, dtype in PARTS[form].items():
        if part not in parts:
            raise ValueError(f"{part} is missing")
        if parts[part].dtype != dtype or parts[part].ndim != 1:
            found = f"{parts[part].dtype} with {parts[part].ndim} axes"
            raise ValueError(f"{part} is {found}, expected flat {np.dtype(dtype).name}")
    size = math.prod(shape)
    kept = None
    count = size
    if "bitmap" in PARTS[form]:
        _check_size("bitmap", parts["bitmap"].size, -(-size // 8))
        kept = np.unpackbits(parts["bitmap"], count=size).astype(bool)
        count = int(kept.sum())
    if "codebook" in PARTS[form]:
        codebook = parts["codebook"]
        if codebook.size > MAX_VALUES:
            raise ValueError(f"codebook has {codebook.size} values, at most {MAX_VALUES} allowed")
        width = code_bits(codebook.size)
        _check_size("codes", parts["codes"].size, -(-count * width // 8))
        codes = _unpack_codes(parts["codes"], width, count)
        if count and codes.max() >= codebook.size:
            raise ValueError(f"codes reach {codes.max()}, the codebook has {codebook.size} values")
        values = codebook[codes]
    else:
        values = parts["values"]
        _check_size("values", values.size, count)
    if kept is None:
        return values.reshape(shape)
    leaf = np.zeros(size, np.float32)
    leaf[kept] = values
    return leaf.reshape(shape)


def _flat(leaf: Any) -> np.ndarray:
    """Return the leaf as a flat float32 array without negative zeros."""
    return np.asarray(leaf, np.float32).reshape(-1) + np.float32(0)


def _form(flat: np.ndarray) -> str:
    """Name the smallest form; of equal ones the first."""
    sizes = _sizes(flat)
    return min(sizes, key=sizes.__getitem__)


def _sizes(flat: np.ndarray) -> dict[str, int]:
    """Return the bytes of each form that the leaf can be written in, those with codes first."""
    nonzero, distinct = int(np.count_nonzero(flat)), _distinct(flat)
    bitmap = -(-flat.size // 8)
    sizes = {}
    if distinct <= MAX_VALUES:
        others = distinct - (nonzero < flat.size)
        sizes["codes"] = 4 * distinct + -(-flat.size * code_bits(distinct) // 8)
        sizes["sparse_codes"] = bitmap + 4 * others + -(-nonzero * code_bits(others) // 8)
    return sizes | {"floats": 4 * flat.size, "sparse_floats": bitmap + 4 * nonzero}


def _distinct(flat: np.ndarray) -> int:
    """Count the distinct values; of more than 256, those in a part of the leaf stand for all."""
    part = np.unique(flat[:4096]).size
    return part if part > MAX_VALUES else np.unique(flat).size


def _pack_codes(codes: np.ndarray, width: int) -> np.ndarray:
    """Write codes below `2**width` one after the other, each with its highest bit first."""
    digits = np.unpackbits(codes.astype(np.uint8).reshape(-1, 1), axis=1)[:, 8 - width :]
    return np.packbits(digits)


def _unpack_codes(packed: np.ndarray, width: int, count: int) -> np.ndarray:
    """Read `count` codes of `width` bits."""
    digits = np.zeros((count, 8), np.uint8)
    digits[:, 8 - width :] = np.unpackbits(packed, count=count * width).reshape(count, width)
    return np.packbits(digits, axis=1).reshape(-1)


def _check_size(part: str, found: int, expected: int) -> None:
    if found != expected:
        raise ValueError(f"{part} has {found} elements, expected {expected}")
