"""A leaf as few bytes: floats, codes of a codebook or of a scale, with or without zeros.

A leaf of `n` weights, `z` of them not zero, in `O` output channels (the last axis), is written in
the smallest of twelve forms. All weights, or only those that are not zero, are

| form           | parts                        | bytes          |                        |
|----------------|------------------------------|----------------|------------------------|
| `floats`       | values                       | 4n             |                        |
| `codes`        | codebook, codes              | 4d + nk/8      | d values, k bits       |
| `scaled_codes` | gamma, width, codes          | 4O + 1 + nb/8  | b bits                 |
| `grid_codes`   | scale, unit, low, grid, codes | 4S + 9 + nb/8 | S scales, 1 or O       |

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

Grid codes are for a leaf whose grid is known (`compress.Quantized`): nobody looks for it. A weight
is `scale (c unit)`, float32, with the whole number `c = low + stride k` and the code `k`; the part
`grid` is stride, width of a code, and the bits that the grid was made for. All other forms are
found in the numbers.

`-0.0` is stored as `0.0`; everything else returns bit for bit. The packed file writes exactly these
parts, and the metrics count exactly these bytes.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxsnn.coding import bitstream

__all__ = ["MAX_VALUES", "PARTS", "OnGrid", "bits", "decode", "encode", "num_bytes", "step"]

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
    "grid_codes": {
        "scale": np.float32,
        "unit": np.float32,
        "low": np.int16,
        "grid": np.uint8,
        "codes": np.uint8,
    },
}
PARTS: dict[str, dict[str, Any]] = {
    where + what: places | values
    for what, values in _VALUES.items()
    for where, places in _PLACES.items()
}


Parts = dict[str, np.ndarray]


class OnGrid(Protocol):
    """What is known of a leaf on a grid: a `compress.Quantized`."""

    @property
    def codes(self) -> Any:
        """Whole numbers, `[...]`."""

    @property
    def scale(self) -> Any:
        """`[]`, or `[1, ..., 1, O]`."""

    @property
    def unit(self) -> Any:
        """`[]`."""

    @property
    def offset(self) -> Any:
        """`[]`."""

    @property
    def bits(self) -> Any:
        """`[]`."""


def code_bits(num_values: int) -> int:
    """Return the bits of a code that distinguishes `num_values` values: at least 1."""
    return max(1, math.ceil(math.log2(num_values))) if num_values > 1 else 1


def bits(leaf: Any, known: OnGrid | None = None) -> int:
    """Return the bits of one weight: those of its grid, or `ceil(log2 d)` of `d` distinct values.

    Without a known grid, a leaf counts as quantized when it has at most 256 distinct values, zero
    included, and codes with a codebook take fewer bytes than its floats do; otherwise a weight has
    32 bits. So a small kernel of full precision, all of whose few values differ, has 32 bits and
    not 8. A leaf in scaled codes has the bits of those, `b`, and its zeros are apart in the bitmap.

    >>> bits(np.tile(np.float32([-1, 0.5, 1]), 100))
    2

    Args:
      leaf: weights of any shape.
      known: their grid, if it is known.

    Returns:
      1 to 8, the bits of the known grid, or 32.
    """
    if known is not None:
        return int(known.bits)
    weights = _weights(leaf)
    scaled = _scaled(weights)
    form = _form(weights, scaled, None)
    if scaled is not None and "gamma" in PARTS[form]:
        return scaled.width
    return code_bits(_distinct(weights.ravel())) if "codebook" in PARTS[form] else FLOAT_BITS


def num_bytes(leaf: Any, known: OnGrid | None = None) -> int:
    """Return the bytes of a leaf in its smallest form, all parts included.

    >>> num_bytes(np.zeros(800, np.float32))
    5

    Args:
      leaf: weights of any shape.
      known: their grid, if it is known.
    """
    weights = _weights(leaf)
    return min(_sizes(weights, _scaled(weights), _grid(weights, known)).values())


def encode(leaf: Any, known: OnGrid | None = None) -> tuple[str, Parts]:
    """Write a leaf in its smallest form.

    >>> form, parts = encode(np.tile(np.float32([-1, 0.5, 1]), 100))
    >>> form, parts["codebook"].tolist()
    ('codes', [-1.0, 0.5, 1.0])

    Args:
      leaf: float32 weights of any shape.
      known: their grid, if it is known.

    Returns:
      The name of the form and its parts, flat arrays; their bytes sum to `num_bytes(leaf, known)`.
    """
    weights = _weights(leaf)
    scaled, grid = _scaled(weights), _grid(weights, known)
    form = _form(weights, scaled, grid)
    flat = weights.ravel()
    parts = {}
    everywhere = form in _VALUES
    stored = np.full(flat.size, True) if everywhere else flat != 0
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
    elif grid is not None and "grid" in PARTS[form]:
        span = grid.whole if everywhere else grid.others
        parts |= {"scale": grid.scale, "unit": grid.unit, "low": np.array([span.low], np.int16)}
        parts["grid"] = np.array([span.stride, span.width, grid.bits], np.uint8)
        codes = (grid.codes[stored] - span.low) // span.stride
        parts["codes"] = bitstream.pack(codes, span.width)
    else:
        parts["values"] = flat[stored]
    return form, parts


def decode(form: str, parts: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
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
    stored = _places(form, parts, size)
    count = size if stored is None else int(stored.sum())
    if "codebook" in PARTS[form]:
        values = _from_codebook(parts, count)
    elif "gamma" in PARTS[form]:
        values = _from_gamma(form, parts, shape, stored, count)
    elif "grid" in PARTS[form]:
        values = _from_grid(parts, shape, stored, count)
    else:
        values = parts["values"]
        _check_size("values", values.size, count)
    if stored is None:
        return values.reshape(shape)
    leaf = np.zeros(stored.size, np.float32)
    leaf[stored] = values
    return leaf.reshape(shape)


def step(
    form: str, parts: Mapping[str, np.ndarray], shape: tuple[int, ...]
) -> tuple[np.ndarray, ...] | None:
    """Return scale, unit, offset and bits of the grid of a form that holds them, or None.

    Args:
      form: name of a form whose parts `decode` takes.
      parts: the arrays of that form.
      shape: shape of the leaf.

    Returns:
      Scale `[]` or `[1, ..., 1, O]`, unit, offset and bits `[]`, all float32: the fields of a
      `compress.Step`, by which each weight is `scale (c unit)`.
    """
    if "gamma" in PARTS[form]:
        width = int(parts["width"][0])
        scale, unit, bits = parts["gamma"], np.float32(1 / (2**width - 1)), width
    elif "grid" in PARTS[form]:
        scale, unit, bits = parts["scale"], parts["unit"][0], int(parts["grid"][2])
    else:
        return None
    channels = scale.size > 1 or "gamma" in PARTS[form]
    scale = scale.reshape((1,) * (len(shape) - 1) + (-1,)) if channels else scale.reshape(())
    return scale, np.asarray(unit, np.float32), np.zeros((), np.float32), np.float32(bits)


def _from_codebook(parts: Mapping[str, np.ndarray], count: int) -> np.ndarray:
    codebook = parts["codebook"]
    if codebook.size > MAX_VALUES:
        raise ValueError(f"codebook has {codebook.size} values, at most {MAX_VALUES} allowed")
    codes = _codes(parts, code_bits(codebook.size), count)
    if count and codes.max() >= codebook.size:
        raise ValueError(f"codes reach {codes.max()}, the codebook has {codebook.size} values")
    return codebook[codes]


def _from_gamma(
    form: str,
    parts: Mapping[str, np.ndarray],
    shape: tuple[int, ...],
    stored: np.ndarray | None,
    count: int,
) -> np.ndarray:
    if len(shape) < 2:
        raise ValueError(f"{form} need two axes or more, the leaf has the shape {shape}")
    _check_size("gamma", parts["gamma"].size, shape[-1])
    _check_size("width", parts["width"].size, 1)
    width = int(parts["width"][0])
    codes = _codes(parts, width, count)
    gamma = _of_stored(parts["gamma"], shape, stored)
    return _unscale(codes, gamma, width) + np.float32(0)  # -0.0 of a channel of zeros


def _from_grid(
    parts: Mapping[str, np.ndarray],
    shape: tuple[int, ...],
    stored: np.ndarray | None,
    count: int,
) -> np.ndarray:
    for part, size in (("unit", 1), ("low", 1), ("grid", 3)):
        _check_size(part, parts[part].size, size)
    scale = parts["scale"]
    if scale.size != 1:
        _check_size("scale", scale.size, shape[-1] if shape else 1)
    stride, width, _ = (int(number) for number in parts["grid"])
    codes = int(parts["low"][0]) + stride * _codes(parts, width, count).astype(np.int64)
    scale = scale[0] if scale.size == 1 else _of_stored(scale, shape, stored)
    return _on_grid(codes, scale, parts["unit"][0])


def _codes(parts: Mapping[str, np.ndarray], width: int, count: int) -> np.ndarray:
    """Return `count` codes, after their width and their bytes were checked."""
    if not 1 <= width <= MAX_WIDTH:
        raise ValueError(f"width is {width}, allowed are 1 to {MAX_WIDTH}")
    _check_size("codes", parts["codes"].size, -(-count * width // 8))
    return bitstream.unpack(parts["codes"], width, count)


def _of_stored(
    channels: np.ndarray, shape: tuple[int, ...], stored: np.ndarray | None
) -> np.ndarray:
    """Return the number of its channel for each weight that is stored."""
    spread = np.broadcast_to(channels, shape).ravel()
    return spread if stored is None else spread[stored]


def _places(form: str, parts: Mapping[str, np.ndarray], size: int) -> np.ndarray | None:
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


class _Span(NamedTuple):
    """Whole numbers as `low + stride k`, `k` of `width` bits."""

    low: int
    stride: int
    width: int

    @classmethod
    def of(cls, codes: np.ndarray) -> "_Span":
        """Return the narrowest."""
        if codes.size == 0:
            return cls(0, 1, 1)
        low = int(codes.min())
        stride = max(int(np.gcd.reduce(codes - low)), 1)
        return cls(low, stride, code_bits((int(codes.max()) - low) // stride + 1))

    @property
    def fits(self) -> bool:
        """Return whether the parts of grid codes have room for it."""
        return self.width <= MAX_WIDTH and self.stride < 256 and abs(self.low) < 2**15


class _Grid(NamedTuple):
    """A leaf on a known grid."""

    scale: np.ndarray  # float32 [1] or [O]
    unit: np.ndarray  # float32 [1]
    bits: int
    codes: np.ndarray  # int64 [n]
    whole: _Span  # of all codes
    others: _Span  # of those of weights that are not zero


def _grid(weights: np.ndarray, known: OnGrid | None) -> _Grid | None:
    """Return the known grid of a leaf if grid codes return its weights bit for bit."""
    if known is None or weights.size == 0 or np.any(np.asarray(known.offset)):
        return None
    scale, unit, codes = np.asarray(known.scale), np.asarray(known.unit), np.asarray(known.codes)
    per_channel = scale.shape == (1,) * (weights.ndim - 1) + weights.shape[-1:]
    if scale.dtype != np.float32 or unit.size != 1 or not (scale.ndim == 0 or per_channel):
        return None
    if not np.array_equal(_on_grid(codes, scale, unit.reshape(())), weights):
        return None
    flat = codes.ravel().astype(np.int64)
    spans = _Span.of(flat), _Span.of(flat[weights.ravel() != 0])
    bits = min(int(known.bits), FLOAT_BITS)
    return _Grid(scale.ravel(), unit.reshape(1).astype(np.float32), bits, flat, *spans)


def _on_grid(codes: np.ndarray, scale: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Return `scale (codes unit)`, float32, rounded after each product; no negative zeros."""
    return scale * (codes.astype(np.float32) * unit.astype(np.float32)) + np.float32(0)


def _form(weights: np.ndarray, scaled: _Scaled | None, grid: _Grid | None) -> str:
    """Return the name of the smallest form; of equal ones the first."""
    sizes = _sizes(weights, scaled, grid)
    return min(sizes, key=sizes.__getitem__)


def _sizes(weights: np.ndarray, scaled: _Scaled | None, grid: _Grid | None) -> dict[str, int]:
    """Return the bytes of each form that the leaf can be written in, those with codes first."""
    flat = weights.ravel()
    nonzero, distinct = int(np.count_nonzero(flat)), _distinct(flat)
    places = {"sparse_": -(-flat.size // 8)}
    if 2 * nonzero < flat.size:  # each gap takes 2 bits or more
        places["indexed_"] = 1 + bitstream.gap_size(flat != 0)[0]
    whole, others = {}, {}  # bytes of all weights, and of those that are not zero
    if grid is not None:
        numbers = 4 * grid.scale.size + 9
        if grid.whole.fits:
            whole["grid_codes"] = numbers + -(-flat.size * grid.whole.width // 8)
        if grid.others.fits:
            others["grid_codes"] = numbers + -(-nonzero * grid.others.width // 8)
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
    """Return the number of distinct values; past 256, those of a part of the leaf stand for all."""
    part = np.unique(flat[:SAMPLE]).size
    return part if part > MAX_VALUES else np.unique(flat).size


def _check_size(part: str, found: int, expected: int) -> None:
    if found != expected:
        raise ValueError(f"{part} has {found} elements, expected {expected}")
