"""What weights and decays are as integers: the scale of a grid, a decay of shifts, digits."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsnn import coding
from jaxsnn.coding import finding

__all__ = [
    "FLOAT_ROUNDING",
    "decays",
    "int32",
    "narrowest",
    "nearest",
    "odd_part",
    "scales",
    "signed_bits",
]

FLOAT_ROUNDING = finding.ROUNDING


def scales(rows: np.ndarray, weight_bits: int) -> np.ndarray:
    """Return the scale of each column of weights `[m, O]`: found in them, or for rounding them.

    One for all columns where all weights are on one grid of so many bits: a column of few weights
    may lie on a coarser one, in whose units its neuron's constants are no whole numbers.

    Args:
      rows: float64, numbers of float32.
      weight_bits: of the columns on no grid of whole numbers up to 255 or powers of two.
    """
    top = np.abs(rows).max(0)
    one = coding.columns(coding.distinct(rows.reshape(-1, 1).astype(np.float32))).scale[0]
    if 0 < one and top.max() <= one * (2 ** (weight_bits - 1) - 1):
        return np.full(top.shape, one)
    found = coding.columns(coding.distinct(rows.astype(np.float32))).scale
    scale = np.where(found > 0, found, top / (2 ** (weight_bits - 1) - 1))
    return np.where(top == 0, scale.max() or 1.0, scale)


def decays(way: str, bits: int) -> np.ndarray:
    """Return the decays that can be had, `[N, 4]`: decay, keep, factor, right."""
    rows = []
    if way == "power_of_two":
        rows = [(0, 0, 0), (1, 0, 0)]
        for right in range(1, bits + 1):
            rows += [(0, 1, right), (1, -1, right)]
    else:
        for share in range(2**bits + 1):
            keep = int(2 * share > 2**bits)
            factor, right = share - keep * 2**bits, bits
            while right and factor % 2 == 0:
                factor, right = factor // 2, right - 1
            rows.append((keep, factor, right))
    return np.array([(keep + k / 2**right, keep, k, right) for keep, k, right in rows])


def nearest(
    leaks: np.ndarray, decay: Array | np.ndarray | float, channels: int
) -> tuple[np.ndarray, float]:
    """Return the nearest of some leaks for each channel, `[O, 4]`, and how far off they are.

    Args:
      leaks: from `decays`.
      decay: a scalar or `[O]`.
      channels: O.
    """
    wanted = np.broadcast_to(np.asarray(decay, np.float64), (channels,))
    found = leaks[np.abs(wanted.reshape(-1, 1) - leaks[:, 0]).argmin(1)]
    return found, float(np.abs(found[:, 0] - wanted).max())


def odd_part(x: np.ndarray | float) -> np.ndarray:
    """Return the odd integer that a float64 is, times a power of two."""
    digits = (np.frexp(np.asarray(x))[0] * 2.0**53).astype(np.int64)
    odd: np.ndarray = digits / (digits & -digits)
    return odd


def signed_bits(magnitude: float) -> int:
    """Return the bits of a signed integer of that magnitude."""
    return int(magnitude).bit_length() + 1


def narrowest(integers: np.ndarray) -> Array:
    """Return whole numbers as int8, or int16 or int32 where they need it."""
    bits = signed_bits(np.abs(integers).max())
    return jnp.asarray(integers, jnp.int8 if bits <= 8 else jnp.int16 if bits <= 16 else jnp.int32)


def int32(x: np.ndarray) -> Array:
    """Return whole numbers as int32."""
    return jnp.asarray(np.asarray(x).astype(np.int32))
