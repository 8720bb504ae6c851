"""How many bits behind the point a layer of integers gets, and the proof that they fit.

All numbers are integers or become some, held in float64, which is exact up to 2**53 and still
right about what is too large beyond. `[O]` are the output channels.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxsnn.errors import UserError

__all__ = ["MOST_FRACTION_BITS", "Choice", "Fixed", "InUnits", "Potentials", "choose"]

MOST_FRACTION_BITS = 30
WORD = 32  # bits of a sum


@dataclass(frozen=True)
class InUnits:
    """A layer in its own units, the current that a weight of 1 makes of an input of 1."""

    low: np.ndarray  # [O] smallest weighted sum of inputs
    high: np.ndarray  # [O] largest
    bias: np.ndarray  # [O]
    theta: np.ndarray  # [O]
    shortcut: np.ndarray  # [O] factor of the integers that a shortcut adds
    shortcut_range: tuple[int, int]  # of those integers, 0 included
    recurrent: np.ndarray  # [I, O]; no rows if the layer does not hear itself
    keep: np.ndarray  # [O] the leak: keep u + (factor u >> right)
    factor: np.ndarray  # [O]
    right: np.ndarray  # [O]
    reset: str | None
    strict: bool

    @property
    def idle(self) -> np.ndarray:
        """Return which channels get nothing whatever the input, so that they stay at 0, `[O]`."""
        driven = self.high - self.low + np.abs(self.bias) + np.abs(self.shortcut)
        found: np.ndarray = driven + np.abs(self.recurrent).sum(0) == 0
        return found


class Fixed(NamedTuple):
    """The numbers of a layer with bits behind the point, whole float64."""

    bias: np.ndarray
    theta: np.ndarray
    level: np.ndarray
    shortcut: np.ndarray
    recurrent: np.ndarray


class Potentials(NamedTuple):
    """The range of a layer's potentials in the worst case, `[O]` each."""

    low: np.ndarray
    high: np.ndarray
    largest: np.ndarray  # magnitude of what has to fit a word on the way there


def fix(layer: InUnits, fraction_bits: np.ndarray | int, top: float) -> Fixed:
    """Return the numbers of a layer with `fraction_bits`, `[O]` or `[]`.

    Args:
      layer: the layer.
      fraction_bits: bits behind the point.
      top: a potential that is never reached; a higher threshold is put there.
    """
    one = 2.0**fraction_bits
    bias, theta, shortcut, recurrent = (
        np.rint(x * one) for x in (layer.bias, layer.theta, layer.shortcut, layer.recurrent)
    )
    above = np.floor(layer.theta * one) + 1 if layer.strict else np.ceil(layer.theta * one)
    return Fixed(bias, np.minimum(theta, top), np.minimum(above, top), shortcut, recurrent)


def potentials(
    layer: InUnits, fixed: Fixed, fraction_bits: np.ndarray | int, timesteps: int
) -> Potentials:
    """Return what the potentials of `timesteps` steps lie between, whatever the input."""

    def leak(u: np.ndarray) -> np.ndarray:
        left: np.ndarray = layer.keep * u + np.floor(layer.factor * u / 2.0**layer.right)
        return left

    def rest(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return a range of what is left; the leak never falls with `u`."""
        if layer.reset is None:
            return leak(low), leak(high)
        fires = high >= fixed.level
        low, silent = np.minimum(low, 0), np.minimum(high, fixed.level - 1)
        if layer.reset == "hard":
            return leak(low), leak(np.maximum(silent, 0))
        if layer.reset == "soft":
            return leak(low), leak(np.where(fires, np.maximum(silent, high - fixed.theta), silent))
        least = np.where(fires, leak(fixed.level) - fixed.theta, 0)
        most = np.where(fires, leak(high) - fixed.theta, 0)
        return np.minimum(leak(low), least), np.maximum(leak(silent), most)

    one = 2.0**fraction_bits
    added = np.stack([fixed.shortcut * end for end in layer.shortcut_range])
    heard = fixed.recurrent
    drive_low = layer.low * one + fixed.bias + added.min(0) + np.minimum(heard, 0).sum(0)
    drive_high = layer.high * one + fixed.bias + added.max(0) + np.maximum(heard, 0).sum(0)
    low = high = np.zeros_like(drive_low)
    least, most = low, high
    for _ in range(timesteps):
        before = low, high
        low, high = rest(low, high)
        low, high = low + drive_low, high + drive_high
        least, most = np.minimum(least, low), np.maximum(most, high)
        if np.array_equal(before, (low, high)):
            break
    magnitude = np.maximum(-least, most)
    return Potentials(least, most, np.maximum(1, np.abs(layer.factor)) * magnitude)


class Choice(NamedTuple):
    """The bits behind the point, and what follows from them."""

    fraction_bits: np.ndarray  # [O]
    whole: np.ndarray  # [O] bits with which all that is added up is whole, or infinite
    fixed: Fixed
    largest: np.ndarray  # [O] magnitude that a potential may have


def choose(
    name: str,
    layer: InUnits,
    timesteps: int,
    *,
    state_bits: int,
    wanted: int | None,
    summed: int,
) -> Choice:
    """Choose the fewest bits with which nothing is rounded, or as many as fit.

    Args:
      name: of the layer, for the message.
      layer: the layer.
      timesteps: T.
      state_bits: of a signed potential.
      wanted: bits that the user asks for.
      summed: for a read-out, how many of its potentials are summed up in a word after all; all
        its channels get the same bits. 0 for a layer that spikes.

    Raises:
      UserError: if a potential does not fit.
    """
    top = 2.0 ** (state_bits - 1) - 1
    word = 2.0 ** (WORD - 1) - 1
    bits = range(MOST_FRACTION_BITS + 1)
    fits = []
    for f in bits:
        found = potentials(layer, fix(layer, f, top), f, timesteps)
        magnitude = np.maximum(-found.low, found.high)
        fits.append((magnitude < top) & (found.largest <= word) & (magnitude * summed <= word))
    most = np.logical_and.accumulate(fits).sum(0) - 1
    least = wanted or 0
    if most.min() < least:
        channel = int(most.argmin())
        needed = potentials(layer, fix(layer, least, np.inf), least, timesteps)
        size = max(float(needed.largest[channel]), 1.0)
        raise UserError(
            f"{name!r}: potentials of channel {channel} may reach {size:.3g} in {timesteps} "
            f"timesteps with {least} fraction bits, which does not fit {state_bits} bits "
            "(and sums 32): take fewer timesteps, fraction, leak or weight bits, or more state bits"
        )
    idle = layer.idle
    whole = np.where(idle, 0, _whole_from(layer, bits))
    enough = whole + np.where(idle | (layer.factor == 0), 0, layer.right) * (timesteps - 1)
    if wanted is not None:
        bits_behind = np.full(most.shape, wanted)
    elif summed:
        bits_behind = np.full(most.shape, min(most.min(), enough.max()))
    else:
        bits_behind = np.minimum(most, enough)
        bits_behind[idle] = 0 if idle.all() else bits_behind[~idle].min()
    fixed = fix(layer, bits_behind, top)
    found = potentials(layer, fixed, bits_behind, timesteps)
    return Choice(bits_behind, whole, fixed, np.maximum(-found.low, found.high))


def _whole_from(layer: InUnits, bits: range) -> np.ndarray:
    """Return the fewest bits with which all numbers that are added up are whole, `[O]`."""
    numbers = [layer.bias, layer.shortcut, *layer.recurrent]
    if layer.reset in ("soft", "soft_undecayed"):
        numbers.append(layer.theta)
    stacked = np.stack(numbers)
    whole = np.stack([(stacked * 2.0**f == np.rint(stacked * 2.0**f)).all(0) for f in bits])
    return np.where(whole.any(0), whole.argmax(0), np.inf)
