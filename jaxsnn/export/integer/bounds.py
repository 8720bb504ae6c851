"""How many bits behind the point a layer of integers gets, and the proof that they fit.

All numbers are integers or become some, held in float64, which is exact up to 2**53 and still
right about what is too large beyond. `[O]` are the output channels.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxsnn.errors import UserError
from jaxsnn.export.integer.second import CURRENT, SecondInUnits

__all__ = ["MOST_FRACTION_BITS", "Choice", "Fixed", "InUnits", "States", "bits_lost", "choose"]

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
    second: SecondInUnits | None = None

    @property
    def rises(self) -> bool:
        """Return whether the threshold rises."""
        return self.second is not None and self.second.rises

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
    jump: np.ndarray


class States(NamedTuple):
    """What a layer's neurons carry in the worst case, `[O]` each."""

    size: np.ndarray  # magnitude of a potential, also above a risen threshold, and of a current
    largest: np.ndarray  # magnitude of what has to fit a word on the way there


def fix(layer: InUnits, fraction_bits: np.ndarray | int, top: float) -> Fixed:
    """Return the numbers of a layer with `fraction_bits`, `[O]` or `[]`.

    Args:
      layer: the layer.
      fraction_bits: bits behind the point.
      top: a potential that is never reached; a higher threshold is put there.
    """
    one = 2.0**fraction_bits
    jump = np.zeros_like(layer.theta) if layer.second is None else layer.second.jump
    bias, theta, shortcut, recurrent, jump = (
        np.rint(x * one) for x in (layer.bias, layer.theta, layer.shortcut, layer.recurrent, jump)
    )
    above = np.floor(layer.theta * one) + 1 if layer.strict else np.ceil(layer.theta * one)
    above = np.minimum(above, top)
    return Fixed(bias, np.minimum(theta, top), above, shortcut, recurrent, jump)


def states(layer: InUnits, fixed: Fixed, fraction_bits: np.ndarray | int, timesteps: int) -> States:
    """Return what the states of `timesteps` steps lie between, whatever the input."""
    one, second = 2.0**fraction_bits, layer.second
    added = np.stack([fixed.shortcut * end for end in layer.shortcut_range])
    heard = fixed.recurrent
    drive_low = layer.low * one + fixed.bias + added.min(0) + np.minimum(heard, 0).sum(0)
    drive_high = layer.high * one + fixed.bias + added.max(0) + np.maximum(heard, 0).sum(0)
    drive = np.stack([drive_low, drive_high])
    ends = np.zeros_like(drive)  # of the potential, the least and the largest
    others = np.zeros_like(drive)  # of what is carried besides
    size, other = ends[0], ends[0]
    for _ in range(timesteps):
        before = ends, others
        ends = _rested(layer, fixed, ends, others[1] if layer.rises else 0.0)
        if second is None:
            ends = ends + drive
        elif second.rises:
            ends = ends + drive
            others = np.stack([others[0], second.leak(others[1]) + fixed.jump])
        else:
            others = np.stack([second.leak(end) for end in others]) + drive
            ends = ends + (others if second.kind == CURRENT else before[1])
        other = np.maximum(other, np.abs(others).max(0))
        size = np.maximum(size, np.abs(ends).max(0))
        if np.array_equal(before, (ends, others)):
            break
    largest = np.maximum(1, np.abs(layer.factor)) * size
    if second is None:
        return States(size, largest)
    largest = np.maximum(largest, np.maximum(1, np.abs(second.factor)) * other)
    # Above a risen threshold, u - a is compared.
    whole = size + other if second.rises else np.maximum(size, other)
    return States(whole, np.maximum(largest, whole))


def _rested(
    layer: InUnits, fixed: Fixed, ends: np.ndarray, risen: np.ndarray | float
) -> np.ndarray:
    """Return the ends of what reset and leak leave of potentials, `[2, O]`.

    The leak never falls with `u`, and by no more than `u` does: what is left above a threshold that
    has risen by up to `risen` is least where it has.
    """

    def leak(u: np.ndarray) -> np.ndarray:
        left: np.ndarray = layer.keep * u + np.floor(layer.factor * u / 2.0**layer.right)
        return left

    low, high = ends
    if layer.reset is None:
        return np.stack([leak(low), leak(high)])
    fires = high >= fixed.level
    low, silent = np.minimum(low, 0), np.minimum(high, fixed.level - 1 + risen)
    if layer.reset == "hard":
        return np.stack([leak(low), leak(np.maximum(silent, 0))])
    if layer.reset == "soft":
        most = np.where(fires, np.maximum(silent, high - fixed.theta), silent)
        return np.stack([leak(low), leak(most)])
    least = np.where(fires, leak(fixed.level + risen) - fixed.theta - risen, 0)
    most = np.where(fires, leak(high) - fixed.theta, 0)
    return np.stack([np.minimum(leak(low), least), np.maximum(leak(silent), most)])


def bits_lost(layer: InUnits, timesteps: int) -> np.ndarray:
    """Return the bits that leaks need behind those of what is added up, to drop none, `[O]`."""
    own = np.where(layer.factor == 0, 0, layer.right)
    if layer.second is None:
        return np.asarray(own * (timesteps - 1))
    both = np.maximum(own, np.where(layer.second.factor == 0, 0, layer.second.right))
    return np.asarray(np.maximum(own * (timesteps - 1), both * layer.second.leaks(timesteps)))


class Choice(NamedTuple):
    """The bits behind the point, and what follows from them."""

    fraction_bits: np.ndarray  # [O]
    whole: np.ndarray  # [O] bits with which all that is added up is whole, or infinite
    fixed: Fixed
    largest: np.ndarray  # [O] magnitude that a potential, or a current, may have


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
        found = states(layer, fix(layer, f, top), f, timesteps)
        fits.append((found.size < top) & (found.largest <= word) & (found.size * summed <= word))
    most = np.logical_and.accumulate(fits).sum(0) - 1
    least = wanted or 0
    if most.min() < least:
        channel = int(most.argmin())
        needed = states(layer, fix(layer, least, np.inf), least, timesteps)
        size = max(float(needed.largest[channel]), 1.0)
        raise UserError(
            f"{name!r}: potentials of channel {channel} may reach {size:.3g} in {timesteps} "
            f"timesteps with {least} fraction bits, which does not fit {state_bits} bits "
            "(and sums 32): take fewer timesteps, fraction, leak or weight bits, or more state bits"
        )
    idle = layer.idle
    whole = np.where(idle, 0, _whole_from(layer, bits))
    enough = whole + np.where(idle, 0, bits_lost(layer, timesteps))
    if layer.rises:  # so that floats add the rise to a whole threshold
        wish = _fewest(layer.theta[None], bits)
        enough = np.maximum(enough, np.where(np.isfinite(wish) & ~idle, wish, 0))
    if wanted is not None:
        bits_behind = np.full(most.shape, wanted)
    elif summed:
        bits_behind = np.full(most.shape, min(most.min(), enough.max()))
    else:
        bits_behind = np.minimum(most, enough)
        bits_behind[idle] = 0 if idle.all() else bits_behind[~idle].min()
    fixed = fix(layer, bits_behind, top)
    return Choice(bits_behind, whole, fixed, states(layer, fixed, bits_behind, timesteps).size)


def _whole_from(layer: InUnits, bits: range) -> np.ndarray:
    """Return the fewest bits with which all numbers that are added up are whole, `[O]`."""
    numbers = [layer.bias, layer.shortcut, *layer.recurrent]
    if layer.reset in ("soft", "soft_undecayed"):
        numbers.append(layer.theta)
    if layer.second is not None:
        numbers.append(layer.second.jump)
    return _fewest(np.stack(numbers), bits)


def _fewest(numbers: np.ndarray, bits: range) -> np.ndarray:
    """Return the fewest bits with which each column `[m, O]` is whole, or infinite, `[O]`."""
    whole = np.stack([(numbers * 2.0**f == np.rint(numbers * 2.0**f)).all(0) for f in bits])
    return np.where(whole.any(0), whole.argmax(0), np.inf)
