"""What the integers of an input stand for, and how analog inputs become integers."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsnn import layers
from jaxsnn.arrays import check_range, check_whole
from jaxsnn.errors import UserError


class Grid(NamedTuple):
    """Say which values an integer `n` of `low..high` stands for: `n * unit`."""

    unit: float
    low: int
    high: int


SPIKES = Grid(1.0, 0, 1)
PIXELS = Grid(1 / 255, 0, 255)  # uint8 pixels, divided by 255 and no more


def cut(net: layers.Chain, before: str) -> tuple[layers.Chain, layers.Chain]:
    """Cut a network in two: what stays in floats, such as a first layer, and what follows.

    Args:
      net: the network, with its numbers.
      before: name of the first layer of the second part.

    Raises:
      UserError: if no layer has that name, or none is before it.
    """
    if before not in net.names[1:]:
        raise UserError(f"cannot cut before {before!r}; choose {', '.join(net.names[1:])}")
    place = net.names.index(before)
    parts = net.names[:place], net.names[place:]
    first, second = (layers.Chain({name: getattr(net, name) for name in part}) for part in parts)
    return first, second


class PixelTable(NamedTuple):
    """Look up the integer of a normalised pixel: uint8 `[..., C]` -> int32 `[..., C]`."""

    table: Array  # int32 [256, C]
    grid: Grid  # for `to_integer(..., inputs=)`

    def __call__(self, pixels: Array) -> Array:
        """Return the integers."""
        channels = jnp.arange(self.table.shape[1]).reshape((1,) * (pixels.ndim - 1) + (-1,))
        return self.table[pixels.astype(jnp.int32), jnp.broadcast_to(channels, pixels.shape)]


def pixel_table(mean: Any, std: Any, bits: int = 8) -> PixelTable:
    """Tabulate `(pixel / 255 - mean) / std` in signed integers times a power of two.

    Args:
      mean: of each channel, `[C]`, on the scale of [0, 1].
      std: likewise, > 0.
      bits: of an integer, in [2, 16]. A value is off by half a unit at most.

    Raises:
      UserError: if a number is out of range.
    """
    check_whole("bits", bits, 2, 16)
    check_range("std", std, 0, float("inf"), open_low=True)
    middle, spread = (np.asarray(x, np.float64).reshape(1, -1) for x in (mean, std))
    values = (np.arange(256).reshape(-1, 1) / 255 - middle) / spread
    top = 2.0 ** (bits - 1) - 1
    unit = 2.0 ** np.ceil(np.log2(np.abs(values).max() / top))
    codes = np.rint(values / unit).astype(np.int32)
    return PixelTable(jnp.asarray(codes), Grid(float(unit), int(codes.min()), int(codes.max())))
