"""A leaf as few bytes: which weights are not zero, and codes of a codebook or of a scale.

A leaf of `n` weights in `O` output channels (the last axis) is written in the smallest of these
forms. A `stream` (`coding.stream`) says which weights are not zero and, where there are codes, the
code of each of those, in about as many bits as their entropy:

| form                    | parts                                | bytes                       |
|-------------------------|--------------------------------------|-----------------------------|
| `floats`                | values                               | 4n                          |
| `short_floats`          | halves                               | 2n                          |
| `points`                | point, low, codes                    | 4 + nb/8                    |
| `coded_floats`          | values, stream                       | 4z + stream                 |
| `coded_codes`           | codebook, stream                     | 4d + stream                 |
| `coded_grid_codes`      | scale, unit, low, grid, stream       | 4S + 9 + stream             |
| `coded_near_grid_codes` | scale, unit, low, grid, ulps, stream | 4S + 10 + SKu/8 + stream    |
| `coded_channel_codes`   | scale, unit, widths, stream          | 4S + 4 + O + stream         |

with `z` weights that are not zero, `d` distinct values of theirs (at most 256), S scales (1 or O),
K levels and u bits. Short floats are the upper halves of float32 numbers whose lower ones are zero,
that is of bfloat16, in leaves of one axis or none: biases, and constants of norms and neurons.

Points are for such leaves, too: whole numbers times a power of two, `(low + c) 2**e` with codes of
`b` bits. The part `point` is `e` and `b`.

Older files, version 2, have other forms, which are read and no longer written. All weights, or only
those that are not zero, are

| form           | parts                        | bytes          |                        |
|----------------|------------------------------|----------------|------------------------|
| `floats`       | values                       | 4n             |                        |
| `codes`        | codebook, codes              | 4d + nk/8      | d values, k bits       |
| `scaled_codes` | gamma, width, codes          | 4O + 1 + nb/8  | b bits                 |
| `grid_codes`   | scale, unit, low, grid, codes | 4S + 9 + nb/8 | S scales, 1 or O       |
| `near_grid_codes` | and ulps                  | and 1 + SKu/8  | K levels, u bits       |
| `channel_codes` | scale, unit, widths, codes  | 4S + 4 + O + nb/8 | b bits, mean of O   |

and which ones these are is a bitmap, or the gaps in front of them (`bitstream`), or the patterns of
their groups (`groups`):

| form                                   | more parts      | more bytes, with z in the place of n |
|----------------------------------------|-----------------|--------------------------------------|
| `sparse_floats`, `sparse_codes`, ...   | bitmap          | n/8                                  |
| `indexed_floats`, `indexed_codes`, ... | gap_width, gaps | 1 + those of the gaps                |
| `grouped_floats`, `grouped_codes`, ... | group, patterns | 2 + gp/8, g groups, p bits a pattern |

with `k = max(1, ceil(log2 d))` bits for each code, and fractions of a byte rounded up. The codes
are these, of the fewest bits (a stream has the same ones, of those weights that are not zero):

Scaled codes `c` are `gamma ((2c - s) (1 / s))` with `s = 2**b - 1` and a gamma for each channel,
computed in float32 in this order: the grid of `compress.rescaling`, whose values differ between
channels. They are for leaves of two axes or more, and gamma is the largest magnitude of the
channel, as that grid always has it.

Grid codes are for a leaf on a grid: a known one (`compress.Quantized`), or one that was found in
the numbers (`levels.find_grid`). A weight is `scale (c unit)`, float32, with a level `c` and the
code `k`: `c = low + stride k`, or with the stride 0 powers of two, `sign(e) 2**(|e| - 1)` of
`e = low + k`, and 0 of `e = 0`. The part `grid` is stride, width of a code, and bits of a weight.

Weights that saw more than this one rounding are near the grid: `ulps` says by how many units in the
last place those of each channel and each level `|c| = 1, ..., K` are off, in `u` bits. Its first
byte is `u`; then come the numbers plus `2**(u - 1)`, channel by channel.

Channel codes are for a known grid whose channels have different widths: `b` bits of 0 to 8 for each
channel. In a stream the level is `k - 2**(B - 1)` with the most bits `B`. In older files it is
`k - 2**(b - 1)`, or 0 without a code, of 0 bits, and the codes of all channels of 1 bit come first,
those of 2 bits next, ..., each width filled up to whole bytes.

`-0.0` is stored as `0.0`; everything else returns bit for bit. The packed file writes exactly these
parts, and the metrics count exactly these bytes.
"""

import math
from typing import Any

import numpy as np

__all__ = [
    "FLOAT_BITS",
    "MAX_VALUES",
    "MAX_WIDTH",
    "OLD",
    "PARTS",
    "POWERS",
    "SAMPLE",
    "VALUES",
    "WRITTEN",
    "code_bits",
]

MAX_VALUES = 256  # the most values that codes of one byte can tell apart
MAX_WIDTH = 8  # bits of the widest code
FLOAT_BITS = 32
POWERS = (-126, 100)  # of two, of points: all numbers are finite and normal
SAMPLE = 4096  # weights that are looked at before all are

# The arrays that a form consists of, with the types in which they are stored.
PLACES: dict[str, dict[str, Any]] = {
    "": {},
    "sparse_": {"bitmap": np.uint8},
    "indexed_": {"gap_width": np.uint8, "gaps": np.uint8},
    "grouped_": {"group": np.uint8, "patterns": np.uint8},
}
VALUES: dict[str, dict[str, Any]] = {
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
VALUES["channel_codes"] = {
    "scale": np.float32,
    "unit": np.float32,
    "widths": np.uint8,
    "codes": np.uint8,
}
VALUES["near_grid_codes"] = VALUES["grid_codes"] | {"ulps": np.uint8}
OLD = {
    where + what: places | values
    for what, values in VALUES.items()
    for where, places in PLACES.items()
}
# The forms that are written: floats, and those with a `stream` in the place of bitmap and codes.
POINTS = {"point": np.int8, "low": np.int16, "codes": np.uint8}
WRITTEN = {
    "floats": VALUES["floats"],
    "short_floats": {"halves": np.uint16},
    "points": POINTS,
} | {
    f"coded_{what}": {part: kind for part, kind in values.items() if part != "codes"}
    | {"stream": np.uint8}
    for what, values in VALUES.items()
    if what != "scaled_codes"
}
PARTS: dict[str, dict[str, Any]] = OLD | WRITTEN


def code_bits(num_values: int) -> int:
    """Return the bits of a code that distinguishes `num_values` values: at least 1."""
    return max(1, math.ceil(math.log2(num_values))) if num_values > 1 else 1
