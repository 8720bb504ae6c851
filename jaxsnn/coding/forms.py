"""A leaf as few bytes: floats, codes of a codebook or of a scale, with or without zeros.

A leaf of `n` weights, `z` of them not zero, in `O` output channels (the last axis), is written in
the smallest of nine forms. All weights, or only those that are not zero, are

| form           | parts               | bytes          |                   |
|----------------|---------------------|----------------|-------------------|
| `floats`       | values              | 4n             |                   |
| `codes`        | codebook, codes     | 4d + nk/8      | d values, k bits  |
| `scaled_codes` | gamma, width, codes | 4O + 1 + nb/8  | b bits            |

and which ones these are is a bitmap, or the gaps in front of them (`bitstream`):

| form                                   | more parts      | more bytes, with z in the place of n |
|----------------------------------------|-----------------|--------------------------------------|
| `sparse_floats`, `sparse_codes`, ...   | bitmap          | n/8                                  |
| `indexed_floats`, `indexed_codes`, ... | gap_width, gaps | 1 + those of the gaps                |

with `d` distinct values, `k = max(1, ceil(log2 d))` bits for each code, fractions of a byte rounded
up, and codebooks only for `d <= 256`. Gaps of weights pruned at random take half of the bitmap's
bytes at a density of 0.1, a third at 0.05 and a tenth at 0.01; above 0.4 the bitmap is smaller.

Scaled codes `c` are `gamma ((2c - s) (1 / s))` with `s = 2**b - 1` and a gamma for each channel,
computed in float32 in this order: the grid of `compress.rescaling`, whose values differ from channel
to channel. They are for leaves of two axes or more, and gamma is the largest magnitude of the
channel, as that grid always has it.

`-0.0` is stored as `0.0`; everything else returns bit for bit. The packed file writes exactly these
parts, and the metrics count exactly these bytes.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from jaxsnn.coding import bitstream

MAX_VALUES = 256  # the most values that codes of one byte can tell apart
MAX_WIDTH = 8  # bits of the widest code
FLOAT_BITS = 32
SAMPLE = 4096  # weights that are looked at before all are

# The arrays that a form consists of, with the types in which they are stored.
_PLACES: dict[str, dict[str, Any]] = {
    "": {},
    "sparse_": {"bitmap": np.uint8},
    "indexed_": {"gap_width": np.uint8, "gaps": np.uint8},
}
_VALUES: dict[str, dict[str, Any]] = {
    "floats": {"values": np.float32},
    "codes": {"codebook": np.float32, "codes": np.uint8},
    "scaled_codes": {"gamma": np.float32, "width": np.uint8, "codes": np.uint8},
}
PARTS: dict[str, dict[str, Any]] = {
    where + what: places | values
    for what, values in _VALUES.items()
    for where, places in _PLACES.items()
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
    """Return the bytes of a leaf in its smallest form, all parts included."""
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
    stored = flat != 0 if form not in _VALUES else np.full(flat.size, True)
    if "bitmap" in PARTS[form]:
        parts["bitmap"] = np.packbits(stored)
    elif "gaps" in PARTS[form]:
        width = bitstream.gap_size(stored)[1]
        parts["gap_width"] = np.array([width], np.uint8)
        parts["gaps"] = bitstream.pack_gaps(stored, width)
    if "codebook" in PARTS[form]:
        codebook, codes = np.unique(flat[stored], return_inverse=True)
        parts["codebook"] = codebook
        parts["codes"] = bitstream.pack(codes, code_bits(codebook.size))
    elif scaled is not None and "gamma" in PARTS[form]:
        parts["gamma"] = scaled.gamma
        parts["width"] = np.array([scaled.width], np.uint8)
        parts["codes"] = bitstream.pack(scaled.codes.ravel()[stored], scaled.width)
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
    stored = _places(form, parts, math.prod(shape))
    count = math.prod(shape) if stored is None else int(stored.sum())
    if "codebook" in PARTS[form]:
        codebook = parts["codebook"]
        if codebook.size > MAX_VALUES:
            raise ValueError(f"codebook has {codebook.size} values, at most {MAX_VALUES} allowed")
        width = code_bits(codebook.size)
        _check_size("codes", parts["codes"].size, -(-count * width // 8))
        codes = bitstream.unpack(parts["codes"], width, count)
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
        codes = bitstream.unpack(parts["codes"], width, count)
        gamma = np.broadcast_to(parts["gamma"], shape).ravel()
        gamma = gamma if stored is None else gamma[stored]
        values = _unscale(codes, gamma, width) + np.float32(0)  # -0.0 of a channel of zeros
    else:
        values = parts["values"]
        _check_size("values", values.size, count)
    if stored is None:
        return values.reshape(shape)
    leaf = np.zeros(stored.size, np.float32)
    leaf[stored] = values
    return leaf.reshape(shape)


def _places(form: str, parts: dict[str, np.ndarray], size: int) -> np.ndarray | None:
    """Return where the weights are that are stored, booleans `[size]`; None if all are.

    Nothing of that size is made before the parts were found to be of it.
    """
    if "bitmap" in PARTS[form]:
        _check_size("bitmap", parts["bitmap"].size, -(-size // 8))
        return np.unpackbits(parts["bitmap"], count=size).astype(bool)
    if "gaps" in PARTS[form]:
        _check_size("gap_width", parts["gap_width"].size, 1)
        return bitstream.unpack_gaps(parts["gaps"], int(parts["gap_width"][0]), size)
    return None


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
    places = {"sparse_": -(-flat.size // 8)}
    if 2 * nonzero < flat.size:  # each gap takes 2 bits or more
        places["indexed_"] = 1 + bitstream.gap_size(flat != 0)[0]
    whole, others = {}, {}  # bytes of all weights, and of those that are not zero
    if distinct <= MAX_VALUES:
        rest = distinct - (nonzero < flat.size)
        whole["codes"] = 4 * distinct + -(-flat.size * code_bits(distinct) // 8)
        others["codes"] = 4 * rest + -(-nonzero * code_bits(rest) // 8)
    if scaled is not None:
        scales = 4 * scaled.gamma.size + 1
        if scaled.only_codes:
            whole["scaled_codes"] = scales + -(-flat.size * scaled.width // 8)
        others["scaled_codes"] = scales + -(-nonzero * scaled.width // 8)
    whole["floats"], others["floats"] = 4 * flat.size, 4 * nonzero
    return whole | {
        where + what: more + size for what, size in others.items() for where, more in places.items()
    }


def _distinct(flat: np.ndarray) -> int:
    """Count the distinct values; of more than 256, those in a part of the leaf stand for all."""
    part = np.unique(flat[:SAMPLE]).size
    return part if part > MAX_VALUES else np.unique(flat).size


def _check_size(part: str, found: int, expected: int) -> None:
    if found != expected:
        raise ValueError(f"{part} has {found} elements, expected {expected}")
