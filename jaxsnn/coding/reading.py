"""Read a leaf back from the parts of its form."""

import math
from collections.abc import Mapping

import numpy as np

from jaxsnn.coding import bitstream, groups, stream
from jaxsnn.coding.finding import LARGEST_POWER
from jaxsnn.coding.forms import FLOAT_BITS, MAX_VALUES, MAX_WIDTH, PARTS, POWERS, code_bits
from jaxsnn.coding.levels import Span, move, on_grid
from jaxsnn.errors import shown

__all__ = ["decode", "stored_step", "widened"]


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
        raise ValueError(f"form is {shown(form)}, known are {', '.join(PARTS)}")
    for part, dtype in PARTS[form].items():
        if part not in parts:
            raise ValueError(f"{part} is missing")
        if parts[part].dtype != dtype or parts[part].ndim != 1:
            found = f"{parts[part].dtype} with {parts[part].ndim} axes"
            raise ValueError(f"{part} is {found}, expected flat {np.dtype(dtype).name}")
    _check_sides(form, parts, shape)
    stored, codes = _places_and_codes(form, parts, shape)
    if "codebook" in PARTS[form]:
        values = _from_codebook(parts, codes)
    elif "gamma" in PARTS[form]:
        values = _from_gamma(parts, shape, stored, codes)
    elif "widths" in PARTS[form]:
        values = _from_channels(parts, shape, stored, codes)
    elif "grid" in PARTS[form]:
        values = _from_grid(parts, shape, stored, codes)
    elif "point" in PARTS[form]:
        values = _from_point(parts, codes)
    else:
        name = "halves" if "halves" in parts else "values"
        count = math.prod(shape) if stored is None else int(stored.sum())
        _check_size(name, parts[name].size, count)
        values = parts[name] if name == "values" else widened(parts[name])
    if stored is None:
        return values.reshape(shape)
    leaf = np.zeros(stored.size, np.float32)
    leaf[stored] = values
    return leaf.reshape(shape)


def widened(halves: np.ndarray) -> np.ndarray:
    """Return the float32 numbers with these upper halves, and zeros below."""
    values: np.ndarray = (halves.astype(np.uint32) << 16).view(np.float32)
    return values


def stored_step(
    form: str, parts: Mapping[str, np.ndarray], shape: tuple[int, ...]
) -> tuple[np.ndarray, ...] | None:
    """Return scale, unit, offset and bits of the grid of a form that holds them, or None.

    Args:
      form: name of a form whose parts `decode` takes.
      parts: the arrays of that form.
      shape: shape of the leaf.

    Returns:
      Scale `[]` or `[1, ..., 1, O]`, unit and offset `[]`, bits as the scale, all float32: the
      fields of a `compress.Step`, by which each weight is `scale (c unit)`.
    """
    bits: int | np.ndarray
    channels = (1,) * (len(shape) - 1) + (-1,)
    if "gamma" in PARTS[form]:
        width = int(parts["width"][0])
        scale, unit, bits = parts["gamma"], np.float32(1 / (2**width - 1)), width
    elif "grid" in PARTS[form] and "ulps" not in PARTS[form]:
        scale, unit, bits = parts["scale"], parts["unit"][0], int(parts["grid"][2])
    elif "widths" in PARTS[form]:
        scale, unit, bits = parts["scale"], parts["unit"][0], parts["widths"].reshape(channels)
    else:
        return None
    scale = scale.reshape(channels if scale.size > 1 or "gamma" in PARTS[form] else ())
    numbers = (np.asarray(number, np.float32) for number in (unit, 0.0, bits))
    return scale, *numbers


def _check_sides(form: str, parts: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> None:
    """Refuse parts beside places and codes that are none of such a leaf."""
    kinds, channels = PARTS[form], shape[-1] if shape else 1
    if "codebook" in kinds and parts["codebook"].size > MAX_VALUES:
        found = parts["codebook"].size
        raise ValueError(f"codebook has {found} values, at most {MAX_VALUES} allowed")
    if "gamma" in kinds and len(shape) < 2:
        raise ValueError(f"{form} need two axes or more, the leaf has the shape {shown(shape)}")
    sizes = {"gamma": channels, "width": 1, "unit": 1, "low": 1, "grid": 3, "widths": channels}
    sizes["point"] = 2
    for part, size in sizes.items():
        if part in kinds:
            _check_size(part, parts[part].size, size)
    if "scale" in kinds:
        if parts["scale"].size != 1:
            _check_size("scale", parts["scale"].size, channels)
        if not np.isfinite(parts["scale"]).all():
            raise ValueError("a scale is not finite")
    if "widths" in kinds and parts["widths"].max(initial=0) > MAX_WIDTH:
        raise ValueError(f"widths reach {parts['widths'].max()}, at most {MAX_WIDTH} allowed")
    if "grid" in kinds and not 1 <= parts["grid"][2] <= FLOAT_BITS:
        raise ValueError(f"grid says {parts['grid'][2]} bits")


def _places_and_codes(
    form: str, parts: Mapping[str, np.ndarray], shape: tuple[int, ...]
) -> tuple[np.ndarray | None, np.ndarray]:
    """Return where the weights are that are stored, None if all are, and their codes, uint8.

    Codes of different widths (`_unpack_channels`) and values have none here.
    """
    kinds = PARTS[form]
    if "stream" in kinds:
        classes = parts["widths"].astype(np.int64) if "widths" in kinds else None
        return stream.read(parts["stream"], shape, classes, marks_alone="values" in kinds)
    stored = _places(form, parts, shape)
    count = math.prod(shape) if stored is None else int(stored.sum())
    if "codebook" in kinds:
        width = code_bits(parts["codebook"].size)
    elif "gamma" in kinds:
        width = int(parts["width"][0])
    elif "grid" in kinds:
        width = int(parts["grid"][1])
    elif "point" in kinds:
        width = int(parts["point"][1])
    else:
        return stored, np.zeros(0, np.uint8)
    return stored, _codes(parts, width, count)


def _from_codebook(parts: Mapping[str, np.ndarray], codes: np.ndarray) -> np.ndarray:
    codebook = parts["codebook"]
    if codes.size and codes.max() >= codebook.size:
        raise ValueError(f"codes reach {codes.max()}, the codebook has {codebook.size} values")
    values: np.ndarray = codebook[codes]
    return values


def _from_gamma(
    parts: Mapping[str, np.ndarray],
    shape: tuple[int, ...],
    stored: np.ndarray | None,
    codes: np.ndarray,
) -> np.ndarray:
    top = 2 ** int(parts["width"][0]) - 1
    gamma = _of_stored(parts["gamma"], shape, stored)
    return _on_grid(2 * codes.astype(np.int64) - top, gamma, np.float32(1 / top))


def _from_grid(
    parts: Mapping[str, np.ndarray],
    shape: tuple[int, ...],
    stored: np.ndarray | None,
    codes: np.ndarray,
) -> np.ndarray:
    scale = parts["scale"]
    stride, width, _ = (int(number) for number in parts["grid"])
    span = Span(int(parts["low"][0]), stride, width)
    if stride == 0 and np.any(np.abs(span.low + codes.astype(np.int64)) > LARGEST_POWER + 1):
        raise ValueError(f"grid says powers of two above 2**{LARGEST_POWER}")
    levels = span.levels(codes)
    each = scale[0] if scale.size == 1 else _of_stored(scale, shape, stored)
    values = _on_grid(levels, each, parts["unit"][0])
    return values if "ulps" not in parts else _moved(values, levels, parts, shape, stored)


def _on_grid(levels: np.ndarray, scale: np.ndarray, unit: np.float32) -> np.ndarray:
    """Return the values of levels, refuse those that no float32 is."""
    values = on_grid(levels, scale, unit)
    if not np.isfinite(values).all():
        raise ValueError("scale times level is not finite in float32")
    return values


def _from_point(parts: Mapping[str, np.ndarray], codes: np.ndarray) -> np.ndarray:
    """Return whole numbers times a power of two."""
    power, levels = int(parts["point"][0]), int(parts["low"][0]) + codes.astype(np.int64)
    if not POWERS[0] <= power <= POWERS[1]:
        raise ValueError(f"point says the power {power}, allowed are {POWERS[0]} to {POWERS[1]}")
    values: np.ndarray = np.ldexp(levels.astype(np.float32), power)
    return values


def _from_channels(
    parts: Mapping[str, np.ndarray],
    shape: tuple[int, ...],
    stored: np.ndarray | None,
    codes: np.ndarray,
) -> np.ndarray:
    """Return the values of codes whose width is that of their channel."""
    scale, widths = parts["scale"], parts["widths"]
    if "stream" in parts:  # there all codes begin with that of the widest channel
        levels = codes.astype(np.int64) - (1 << int(widths.max(initial=0)) >> 1)
    else:
        levels = _unpack_channels(parts, shape, stored)
    scales = scale[0] if scale.size == 1 else _of_stored(scale, shape, stored)
    return _on_grid(levels, scales, parts["unit"][0])


def _unpack_channels(
    parts: Mapping[str, np.ndarray], shape: tuple[int, ...], stored: np.ndarray | None
) -> np.ndarray:
    """Return the levels of codes that stand channel by channel, int64."""
    widths, channels = parts["widths"], shape[-1] if shape else 1
    counts = np.zeros(channels, np.int64) + math.prod(shape[:-1])
    if stored is not None:
        counts = stored.reshape(-1, channels).sum(0)
    sizes = [-(-int(counts[widths == b].sum()) * b // 8) for b in range(1, MAX_WIDTH + 1)]
    _check_size("codes", parts["codes"].size, sum(sizes))
    each = _of_stored(widths, shape, stored)
    levels = np.zeros(each.size, np.int64)
    for b, packed in enumerate(np.split(parts["codes"], np.cumsum(sizes)[:-1]), 1):
        count = int(np.count_nonzero(each == b))
        levels[each == b] = bitstream.unpack(packed, b, count).astype(np.int64) - 2 ** (b - 1)
    return levels


def _moved(
    values: np.ndarray,
    levels: np.ndarray,
    parts: Mapping[str, np.ndarray],
    shape: tuple[int, ...],
    stored: np.ndarray | None,
) -> np.ndarray:
    """Return the values, moved by the units in the last place of their channel and level."""
    scales, most = parts["scale"].size, int(np.abs(levels).max(initial=0))
    width = int(parts["ulps"][0]) if parts["ulps"].size else 0
    if not 1 <= width <= MAX_WIDTH:
        raise ValueError(f"width of ulps is {width}, allowed are 1 to {MAX_WIDTH}")
    _check_size("ulps", parts["ulps"].size, 1 - (-scales * most * width // 8))
    packed = bitstream.unpack(parts["ulps"][1:], width, scales * most).astype(np.int16)
    table = np.zeros((scales, most + 1), np.int8)
    table[:, 1:] = packed.reshape(scales, most) - 2 ** (width - 1)
    channel = np.arange(scales) if scales > 1 else np.zeros((), np.int64)
    return move(values, table[_of_stored(channel, shape, stored), np.abs(levels)])


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


def _places(
    form: str, parts: Mapping[str, np.ndarray], shape: tuple[int, ...]
) -> np.ndarray | None:
    """Return where the weights are that are stored, booleans, flat; None if all are.

    Nothing of that size is made before the parts were found to be of it.
    """
    size = math.prod(shape)
    if "bitmap" in PARTS[form]:
        _check_size("bitmap", parts["bitmap"].size, -(-size // 8))
        return np.unpackbits(parts["bitmap"], count=size).astype(bool)
    if "gaps" in PARTS[form]:
        _check_size("gap_width", parts["gap_width"].size, 1)
        return bitstream.unpack_gaps(parts["gaps"], int(parts["gap_width"][0]), size)
    if "patterns" in PARTS[form]:
        _check_size("group", parts["group"].size, 2)
        return groups.marked(parts["group"], parts["patterns"], shape)
    return None


def _check_size(part: str, found: int, expected: int) -> None:
    if found != expected:
        raise ValueError(f"{part} has {found} elements, expected {expected}")
