"""What is done to the pixels of 8-bit images, with parameters of their own for every sample.

Each operation is one of three kinds, and each kind is one pass over a batch: *move* pixels
(`move`), *look* values up in a table (`look_up` and the `..._table` functions), or *blend* with a
plainer image (`blend` with `grey` or `smooth`). So a batch in which every sample asks for another
operation takes one pass of each kind, whatever is asked for: there is no branch that a `vmap` would
turn into the computation of all.

All of it computes what Pillow's `Image.transform`, `ImageOps` and `ImageEnhance` compute, up to one
grey level where those round floats of another width. Letters in shapes: `B` images, `H` rows, `W`
columns, `C` channels. Images are uint8 `[B, H, W, C]`; tables are int32 `[B or 1, C or 1, 256]`.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsnn.errors import UserError

__all__: list[str] = []  # nothing here is promised to users

_ONE = 1 << 16  # 1 in the fixed-point numbers of Pillow's nearest-neighbour transforms
FILL = 128  # what moves in from outside


def fixed_point(matrix: np.ndarray) -> np.ndarray:
    """Turn affine maps into whole numbers, `round(2^16 x)`, as Pillow does.

    A map `(a, b, c, d, e, f)` takes the output pixel at column `x` and row `y` from the input's
    column `a x + b y + c` and row `d x + e y + f`. Pixels are taken at their centres: half of
    `a + b` and of `d + e` is added to the offsets.

    Args:
      matrix: `[..., 6]`, offsets below 2^14.

    Returns:
      int32 `[..., 6]`.
    """
    a, b, c, d, e, f = np.moveaxis(np.asarray(matrix, np.float64), -1, 0)
    centred = np.stack([a, b, c + (a + b) / 2, d, e, f + (d + e) / 2], -1)
    return np.floor(centred * _ONE + 0.5).astype(np.int32)


def rotation(degrees: float, height: int, width: int) -> tuple[float, ...]:
    """Return the map that turns an image counter-clockwise about its centre."""
    angle = -math.radians(degrees)
    a, b = math.cos(angle), math.sin(angle)
    x, y = width / 2, height / 2
    return a, b, x - a * x - b * y, -b, a, y + b * x - a * y


def move(images: Array, matrix: Array) -> Array:
    """Take every pixel from where an affine map points, by nearest neighbour.

    Args:
      images: uint8 `[B, H, W, C]`.
      matrix: `fixed_point` maps, int32 `[B, 6]`.

    Returns:
      Images of the same shape; what comes from outside is grey (`FILL`).
    """
    size, height, width, channels = images.shape
    a, b, c, d, e, f = (matrix[:, i].reshape(size, 1, 1) for i in range(6))
    x = jnp.arange(width, dtype=jnp.int32).reshape(1, 1, width)
    y = jnp.arange(height, dtype=jnp.int32).reshape(1, height, 1)
    column, row = (a * x + b * y + c) >> 16, (d * x + e * y + f) >> 16
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    source = jnp.where(inside, row * width + column, 0).reshape(size, height * width, 1)
    flat = images.reshape(size, height * width, channels)
    moved = jnp.take_along_axis(flat, source, 1, mode="clip").reshape(images.shape)
    return jnp.where(inside[..., None], moved, jnp.uint8(FILL))


def look_up(images: Array, tables: Sequence[Array], which: Array) -> Array:
    """Replace every value by its entry in the table that its sample asks for.

    One gather from all tables, laid out one after the other: choosing among them entry by entry
    first is four times slower on a CPU, because XLA computes them again for every pixel.

    Args:
      images: uint8 `[B, H, W, C]`.
      tables: each `[B, C, 256]`, or 1 in place of B or C; entries 0 to 255.
      which: position of a sample's table among them, int32 `[B]`.
    """
    size, _, _, channels = images.shape
    entries = jnp.stack(
        [jnp.broadcast_to(table, (size, channels, 256)).astype(jnp.uint8) for table in tables]
    )
    sample = which.reshape(size, 1, 1, 1) * size + jnp.arange(size).reshape(size, 1, 1, 1)
    row = sample * channels + jnp.arange(channels).reshape(1, 1, 1, channels)
    return entries.reshape(-1).at[row * 256 + images].get(mode="promise_in_bounds")


def values() -> Array:
    """Return the table that changes nothing, `[1, 1, 256]`."""
    return jnp.arange(256, dtype=jnp.int32).reshape(1, 1, 256)


def solarize_table(threshold: Array) -> Array:
    """Invert the values from a threshold on, `v -> 255 - v if v >= threshold`; `[B]`."""
    return jnp.where(values() < threshold.reshape(-1, 1, 1), values(), 255 - values())


def posterize_table(bits: Array) -> Array:
    """Keep the highest bits of every value; how many: `[B]`, 0 to 8."""
    dropped = 8 - bits.astype(jnp.int32).reshape(-1, 1, 1)
    return (values() >> dropped) << dropped


def brightness_table(factor: Array) -> Array:
    """Blend with black; factor `[B]`, at least 0, 1 changes nothing."""
    return blend(jnp.zeros_like(values()), values(), factor.reshape(-1, 1, 1))


def contrast_table(images: Array, factor: Array) -> Array:
    """Blend with the mean grey level of the sample; factor `[B]`, at least 0."""
    level = grey(images)
    count = level.shape[1] * level.shape[2]
    mean = (2 * level.sum((1, 2, 3)) + count) // (2 * count)
    return blend(mean.reshape(-1, 1, 1), values(), factor.reshape(-1, 1, 1))


def autocontrast_table(images: Array) -> Array:
    """Stretch every channel from its own extremes to 0 and 255; a constant channel stays."""
    low = images.min((1, 2)).astype(jnp.int32)[..., None]
    high = images.max((1, 2)).astype(jnp.int32)[..., None]
    stretched = (values() - low) * 255 // jnp.maximum(high - low, 1)
    return jnp.where(high > low, jnp.clip(stretched, 0, 255), values())


def equalize_table(images: Array) -> Array:
    """Flatten the histogram of every channel.

    With the histogram `h`, `s = (sum h - h[largest value found]) // 255`:

        v -> min(255, (s // 2 + h[0] + ... + h[v - 1]) // s)        unchanged if s = 0
    """
    size, height, width, channels = images.shape
    row = jnp.arange(size * channels, dtype=jnp.int32).reshape(size, 1, 1, channels)
    counts = jnp.zeros(size * channels * 256, jnp.int32)
    counts = counts.at[row * 256 + images].add(1, mode="promise_in_bounds")
    counts = counts.reshape(size, channels, 256)
    up_to = jnp.cumsum(counts, 2)
    is_full = up_to == height * width  # from the largest value found on; its count is the last
    last = jnp.max(jnp.where(is_full, counts, 0), 2, keepdims=True)
    step = (height * width - last) // 255
    flat = jnp.minimum((step // 2 + up_to - counts) // jnp.maximum(step, 1), 255)
    return jnp.where(step > 0, flat, values())


def blend(plain: Array, images: Array, factor: Array) -> Array:
    """Return `plain + factor (images - plain)`, limited to [0, 255] and cut to whole levels.

    Args:
      plain: what a factor of 0 gives.
      images: what a factor of 1 gives.
      factor: at least 0; all three broadcast against each other.

    Returns:
      int32, 0 to 255.
    """
    start, end = plain.astype(jnp.float32), images.astype(jnp.float32)
    return jnp.clip(start + factor * (end - start), 0, 255).astype(jnp.int32)


def grey(images: Array) -> Array:
    """Return the luma of colour images, `0.299 R + 0.587 G + 0.114 B`, int32 `[B, H, W, 1]`.

    Images of one channel are grey already.

    Raises:
      UserError: for another number of channels.
    """
    channels = images.shape[-1]
    if channels == 1:
        return images.astype(jnp.int32)
    if channels != 3:
        raise UserError(f"images of 1 or 3 channels expected, {channels} found")
    weights = jnp.array([19595, 38470, 7471], jnp.int32).reshape(1, 1, 1, 3)
    total = (images.astype(jnp.int32) * weights).sum(-1, keepdims=True)
    return (total + (1 << 15)) >> 16


def smooth(images: Array) -> Array:
    """Average with the eight neighbours, the centre five times; the border stays. int32."""
    wide = images.astype(jnp.int32)
    height, width = wide.shape[1:3]
    total = 4 * wide[:, 1:-1, 1:-1]
    for row in range(3):
        for column in range(3):
            total += wide[:, row : height - 2 + row, column : width - 2 + column]
    return wide.at[:, 1:-1, 1:-1].set((2 * total + 13) // 26)
