"""What the integers of an input stand for, and how analog inputs become integers."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsnn import layers
from jaxsnn.arrays import check_range, check_whole
from jaxsnn.errors import UserError
from jaxsnn.inputs import Inputs
from jaxsnn.network import Network


class IntegerGrid(NamedTuple):
    """Which values an integer `n` of `low..high` stands for: `n * unit`."""

    unit: float
    low: int
    high: int


__all__ = [
    "PIXELS",
    "SPIKES",
    "IntegerGrid",
    "PixelTable",
    "grid_of",
    "pixel_table",
    "split_before",
]

SPIKES = IntegerGrid(1.0, 0, 1)
PIXELS = IntegerGrid(1 / 255, 0, 255)  # uint8 pixels, divided by 255 and no more


def grid_of(inputs: Inputs | IntegerGrid) -> IntegerGrid:
    """Return what the integers of a task's input stand for, or the grid itself.

    Direct coding hands over pixels, events are counts of up to 255, and spikes are drawn else.

    Raises:
      UserError: for normalised pixels, which are no integers.
    """
    if isinstance(inputs, IntegerGrid):
        return inputs
    if not isinstance(inputs, Inputs):
        raise UserError(
            f"inputs must be an Inputs or an IntegerGrid, found {type(inputs).__name__}"
        )
    if inputs.mean is not None and inputs.encoding == "direct":
        raise UserError(
            "normalised pixels are no integers: choose them by integer.pixel_table(mean, std), and "
            "pass its grid as inputs with timesteps="
        )
    grids = {"direct": PIXELS, "events": IntegerGrid(1.0, 0, 255), "bernoulli": SPIKES}
    return grids.get(inputs.encoding, IntegerGrid(1.0, -1, 1))


def split_before(net: Network, layer: str) -> tuple[Network, Network]:
    """Split a network in two: what stays in floats, such as a first layer, and what follows.

    Args:
      net: the network, a chain of layers.
      layer: name of the first layer of the second part.

    Raises:
      UserError: if no layer of the chain has that name, or none is before it.

    Example:
      >>> from jaxsnn import models
      >>> [part.order for part in split_before(models.build("8-6-3", (4,)), "dense2")]
      [('dense1',), ('dense2', 'dense3')]
    """
    module = net.module
    names = module.names if isinstance(module, layers.Chain) else ()
    if layer not in names[1:]:
        raise UserError(f"cannot split before {layer!r}; choose {', '.join(names[1:])}")
    place = names.index(layer)
    first, second = (
        Network.of(layers.Chain({name: getattr(module, name) for name in part}), shape)
        for part, shape in ((names[:place], net.input_shape), (names[place:], None))
    )
    steps = [
        {name: step for name, step in net.steps.items() if name.partition("/")[0] in part}
        for part in (names[:place], names[place:])
    ]
    return first.replace(steps=steps[0]), second.replace(steps=steps[1])


class PixelTable(NamedTuple):
    """The integer of each normalised pixel: uint8 `[..., C]` -> int32 `[..., C]`."""

    table: Array  # int32 [256, C]
    grid: IntegerGrid  # for `to_integer(..., inputs=)`

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

    Example:
      >>> pixel_table((0.5,), (0.5,)).grid
      IntegerGrid(unit=0.015625, low=-64, high=64)
    """
    check_whole("bits", bits, 2, 16)
    check_range("std", std, 0, float("inf"), open_low=True)
    middle, spread = (np.asarray(x, np.float64).reshape(1, -1) for x in (mean, std))
    values = (np.arange(256).reshape(-1, 1) / 255 - middle) / spread
    top = 2.0 ** (bits - 1) - 1
    unit = 2.0 ** np.ceil(np.log2(np.abs(values).max() / top))
    codes = np.rint(values / unit).astype(np.int32)
    return PixelTable(
        jnp.asarray(codes), IntegerGrid(float(unit), int(codes.min()), int(codes.max()))
    )
