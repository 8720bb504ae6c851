"""A leaf as few bytes: floats, codes of a codebook or of a scale, with or without zeros.

A leaf of `n` weights, `z` of them not zero, in `O` output channels (the last axis), is written in
the smallest of six forms:

| form                  | parts                        | bytes                              |
|-----------------------|------------------------------|------------------------------------|
| `floats`              | values                       | 4n                                 |
| `sparse_floats`       | bitmap, values               | n/8 + 4z                           |
| `codes`               | codebook, codes              | 4d + nk/8      (d values, k bits)  |
| `sparse_codes`        | bitmap, codebook, codes      | n/8 + 4d' + zk'/8  (zero left out) |
| `scaled_codes`        | gamma, width, codes          | 4O + 1 + nb/8  (b bits)            |
| `sparse_scaled_codes` | bitmap, gamma, width, codes  | n/8 + 4O + 1 + zb/8                |

with `d` distinct values, `k = max(1, ceil(log2 d))` bits for each code, fractions of a byte rounded
up, and codebooks only for `d <= 256`. Scaled codes `c` are `gamma ((2c - s) (1 / s))` with
`s = 2**b - 1` and a gamma for each channel, computed in float32 in this order: the grid of
`compress.rescaled`, whose values differ from channel to channel. They are for leaves of two axes or
more, and gamma is the largest magnitude of the channel, as that grid always has it.

`-0.0` is stored as `0.0`; everything else returns bit for bit. The packed file writes exactly these
parts, and the metrics count exactly these bytes.
"""

import math
from typing import Any, NamedTuple

import numpy as np

MAX_VALUES = 256  # the most values that codes of one byte can tell apart
MAX_WIDTH = 8  # bits of the widest code
FLOAT_BITS = 32
SAMPLE = 4096  # weights that are looked at before all are

# The arrays that a form consists of, with the types in which they are stored.
PARTS: dict[str, dict[str, Any]] = {
    "floats": {"values": np.float32},
    "sparse_floats": {"bitmap": np.uint8, "values": np.float32},
    "codes": {"codebook": np.float32, "codes": np.uint8},
    "sparse_codes": {"bitmap": np.uint8, "codebook": np.float32, "codes": np.uint8},
    "scaled_codes": {"gamma": np.float32, "width": np.uint8, "codes": np.uint8},
    "sparse_scaled_codes": {
        "bitmap": np.uint8,
        "gamma": np.float32,
        "width": np.uint8,
        "codes": np.uint8,
    },
}


def code_bits(num_values: int) -> int:
    """Return the bits of a code that tells `num_values` values apart: at least 1."""
    return max(1, math.ceil(math.log2(num_values))) if num_values > 1 else 1


def bits(leaf: Any) -> int:
    """Measure the bits of one weight: `ceil(log2 d)` for `d` distinct values, zero included.

    A leaf counts as quantized when it has at most 256 distinct values and codes with a codebook
    take fewer bytes than its floats do; otherwise a weight has 32 bits. So a small kernel of
    full precision, all of whose few values differ, has 32 bits and not 8. A leaf in scaled codes
    has the bits of those, `b`, and its zeros are apart in the bitmap.

    Args:
      leaf: weights of any shape.

    Returns:
      1 to 8, or 32.
    """
    weights = _weights(leaf)
    scaled = _scaled(weights)
    form = _form(weights, scaled)
    if scaled is not None and "gamma" in PARTS[form]:
        return scaled.width
    return code_bits(_distinct(weights.ravel())) if "codebook" in PARTS[form] else FLOAT_BITS


def num_bytes(leaf: Any) -> int:
    """Return the bytes of a leaf in its smallest form, codebook, gamma and bitmap included."""
    weights = _weights(leaf)
    return min(_sizes(weights, _scaled(weights)).values())


def encode(leaf: Any) -> tuple[str, dict[str, np.ndarray]]:
    """Write a leaf in its smallest form.

    Args:
      leaf: float32 weights of any shape.

    Returns:
      The name of the form and its parts, flat arrays; their bytes sum to `num_bytes(leaf)`.
    """
    weights = _weights(leaf)
    scaled = _scaled(weights)
    form = _form(weights, scaled)
    flat = weights.ravel()
    parts = {}
    stored = np.full(flat.size, True)
    if "bitmap" in PARTS[form]:
        stored = flat != 0
        parts["bitmap"] = np.packbits(stored)
    if "codebook" in PARTS[form]:
        codebook, codes = np.unique(flat[stored], return_inverse=True)
        parts["codebook"] = codebook
        parts["codes"] = _pack_codes(codes, code_bits(codebook.size))
    elif scaled is not None and "gamma" in PARTS[form]:
        parts["gamma"] = scaled.gamma
        parts["width"] = np.array([scaled.width], np.uint8)
        parts["codes"] = _pack_codes(scaled.codes.ravel()[stored], scaled.width)
    else:
        parts["values"] = flat[stored]
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
    stored = np.full(size, True)
    if "bitmap" in PARTS[form]:
        _check_size("bitmap", parts["bitmap"].size, -(-size // 8))
        stored = np.unpackbits(parts["bitmap"], count=size).astype(bool)
    count = int(stored.sum())
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
    elif "gamma" in PARTS[form]:
        if len(shape) < 2:
            raise ValueError(f"{form} need two axes or more, the leaf has the shape {shape}")
        _check_size("gamma", parts["gamma"].size, shape[-1])
        _check_size("width", parts["width"].size, 1)
        width = int(parts["width"][0])
        if not 1 <= width <= MAX_WIDTH:
            raise ValueError(f"width is {width}, allowed are 1 to {MAX_WIDTH}")
        _check_size("codes", parts["codes"].size, -(-count * width // 8))
        codes = _unpack_codes(parts["codes"], width, count)
        gamma = np.broadcast_to(parts["gamma"], shape).ravel()[stored]
        values = _unscale(codes, gamma, width) + np.float32(0)  # -0.0 of a channel of zeros
    else:
        values = parts["values"]
        _check_size("values", values.size, count)
    leaf = np.zeros(size, np.float32)
    leaf[stored] = values
    return leaf.reshape(shape)


def _weights(leaf: Any) -> np.ndarray:
    """Return the leaf as a float32 array without negative zeros."""
    return np.asarray(leaf, np.float32) + np.float32(0)


class _Scaled(NamedTuple):
    """A leaf whose channels stand on the grid of scaled codes, up to zeros."""

    gamma: np.ndarray  # float32 [O]
    width: int
    codes: np.ndarray  # [n / O, O]; without meaning where the leaf is zero
    only_codes: bool  # whether the codes say everything: zeros are in channels of zeros alone


def _scaled(weights: np.ndarray) -> _Scaled | None:
    """Find the narrowest scaled codes that return every weight but zeros bit for bit."""
    if weights.ndim < 2 or weights.size == 0:
        return None
    rows = weights.reshape(-1, weights.shape[-1])
    gamma = np.maximum(rows.max(0), -rows.min(0))
    if not np.isfinite(gamma).all():
        return None
    part = rows[: max(1, SAMPLE // gamma.size)]
    for width in range(1, MAX_WIDTH + 1):
        if _codes_on_grid(part, gamma, width) is None:
            continue
        if (codes := _codes_on_grid(rows, gamma, width)) is not None:
            stray = np.count_nonzero(rows) < rows.shape[0] * np.count_nonzero(gamma)
            return _Scaled(gamma, width, codes, not stray)
    return None


def _codes_on_grid(rows: np.ndarray, gamma: np.ndarray, width: int) -> np.ndarray | None:
    """Return the codes of rows `[m, O]` if they return every entry but zeros, or None."""
    half = np.float32((2**width - 1) / 2)
    codes = np.round(half * (rows / np.where(gamma == 0, np.float32(1), gamma) + np.float32(1)))
    same = (_unscale(codes, gamma, width) == rows) | (rows == 0)
    return codes.astype(np.uint8) if same.all() else None


def _unscale(codes: np.ndarray, gamma: np.ndarray, width: int) -> np.ndarray:
    """Return `gamma ((2 codes - s) (1 / s))`, float32, rounded after each operation."""
    top = 2**width - 1
    return gamma * ((2 * codes.astype(np.float32) - np.float32(top)) * np.float32(1 / top))


def _form(weights: np.ndarray, scaled: _Scaled | None) -> str:
    """Name the smallest form; of equal ones the first."""
    sizes = _sizes(weights, scaled)
    return min(sizes, key=sizes.__getitem__)


def _sizes(weights: np.ndarray, scaled: _Scaled | None) -> dict[str, int]:
    """Return the bytes of each form that the leaf can be written in, those with codes first."""
    flat = weights.ravel()
    nonzero, distinct = int(np.count_nonzero(flat)), _distinct(flat)
    bitmap = -(-flat.size // 8)
    sizes = {}
    if distinct <= MAX_VALUES:
        others = distinct - (nonzero < flat.size)
        sizes["codes"] = 4 * distinct + -(-flat.size * code_bits(distinct) // 8)
        sizes["sparse_codes"] = bitmap + 4 * others + -(-nonzero * code_bits(others) // 8)
    if scaled is not None:
        scales = 4 * scaled.gamma.size + 1
        if scaled.only_codes:
            sizes["scaled_codes"] = scales + -(-flat.size * scaled.width // 8)
        sizes["sparse_scaled_codes"] = bitmap + scales + -(-nonzero * scaled.width // 8)
    return sizes | {"floats": 4 * flat.size, "sparse_floats": bitmap + 4 * nonzero}


def _distinct(flat: np.ndarray) -> int:
    """Count the distinct values; of more than 256, those in a part of the leaf stand for all."""
    part = np.unique(flat[:SAMPLE]).size
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
