"""How faithful a layer of integers is to the float layer that it was made of.

Letters in shapes: `m` inputs of one output, `O` output channels.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxsnn.errors import UserError
from jaxsnn.export.integer.bounds import Choice, InUnits, bits_lost
from jaxsnn.export.integer.inputs import IntegerGrid
from jaxsnn.export.integer.units import FLOAT_ROUNDING, odd_part, signed_bits

__all__ = ["IntegerWeights", "LayerVerdict", "judge", "refuse_rounding"]

FLOAT_DIGITS = 24


class LayerVerdict(NamedTuple):
    """How faithful a layer of integers is to the float layer.

    `verdict` is one of

    - "exact": from the same input, every spike or read-out is the float layer's. Nothing is rounded
      here, and float32 (products of full precision) is proved to round nothing either: units of
      few binary digits, sums below `2**24` of them, no norm;
    - "float": the same numbers, but float32 rounds on its side. Spikes differ only where that
      carries a potential over its threshold;
    - "rounded": what `rounded` lists is not the float layer's.
    """

    layer: str
    verdict: str
    # What is rounded, and by how much at most: "weights" as a share of the channel's largest,
    # "decay", "synaptic_decay" and "adaptation_decay" as they are, all else as a share of the
    # threshold (of the largest output, if read-out); "adaptation" is the jump at a spike.
    rounded: tuple[tuple[str, float], ...]
    weight_bits: int  # of a signed weight
    fraction_bits: tuple[int, int]  # least and most over the channels
    state_bits: int  # of a signed potential or synaptic current, in the worst case


def refuse_rounding(report: Sequence[LayerVerdict]) -> None:
    """Refuse a network whose integers are not its own numbers.

    Raises:
      UserError: names each rounded layer, what is rounded, and by how much.

    Example:
      >>> refuse_rounding([LayerVerdict("dense1", "float", (), 4, (0, 0), 9)])
    """
    rounded = [layer for layer in report if layer.verdict == "rounded"]
    if rounded:
        found = "; ".join(
            f"{layer.layer}: " + ", ".join(f"{part} by {off:.2g}" for part, off in layer.rounded)
            for layer in rounded
        )
        raise UserError(
            f"the integers of this network are not its own numbers ({found}): quantize these, or "
            "allow rounding"
        )


class IntegerWeights(NamedTuple):
    """A kernel and its integers; float64."""

    rows: np.ndarray  # [m, O]
    integers: np.ndarray  # [m, O]
    scale: np.ndarray  # [O]
    grid: IntegerGrid  # of the input

    @property
    def unit(self) -> np.ndarray:
        """Return the current that a weight of 1 makes of an input of 1, `[O]`."""
        return self.scale * self.grid.unit


def judge(
    name: str,
    weights: IntegerWeights,
    layer: InUnits,
    choice: Choice,
    *,
    timesteps: int,
    decays_off: Mapping[str, float],
    rounds_more: bool,
) -> LayerVerdict:
    """Return the report of a layer.

    Args:
      name: of the layer.
      weights: its kernel.
      layer: the layer in its units.
      choice: of the bits behind the point.
      timesteps: T.
      decays_off: constant -> how far that decay is from the float one.
      rounds_more: whether the float layer has a norm or works in short floats.
    """
    rounded = _rounded(layer, choice, timesteps)
    top = np.abs(weights.rows).max(0)
    off = np.abs(weights.rows - weights.integers * weights.scale).max(0)
    share = float((off / np.where(top == 0, 1.0, top)).max())
    if share > FLOAT_ROUNDING:
        rounded["weights"] = share
    rounded |= {constant: off for constant, off in decays_off.items() if off > 0}
    if rounded:
        verdict = "rounded"
    else:
        verdict = (
            "exact" if not rounds_more and _float_is_exact(weights, layer, choice) else "float"
        )
    bits = choice.fraction_bits
    return LayerVerdict(
        layer=name,
        verdict=verdict,
        rounded=tuple(sorted(rounded.items())),
        weight_bits=signed_bits(np.abs(weights.integers).max()),
        fraction_bits=(int(bits.min()), int(bits.max())),
        state_bits=signed_bits(choice.largest.max()),
    )


def _rounded(layer: InUnits, choice: Choice, timesteps: int) -> dict[str, float]:
    """Return what was rounded to the bits behind the point, and by how much at most."""
    one, fixed = 2.0**choice.fraction_bits, choice.fixed
    reference = layer.theta if layer.reset else np.maximum(choice.largest / one, 1.0)
    off = {
        "bias": layer.bias * one - fixed.bias,
        "shortcut": layer.shortcut * one - fixed.shortcut,
        "recurrent": np.abs(layer.recurrent * one - fixed.recurrent).max(0, initial=0.0),
    }
    if layer.reset in ("soft", "soft_undecayed"):
        reached = choice.largest >= fixed.level
        off["threshold"] = np.where(reached, layer.theta * one - fixed.theta, 0.0)
    if layer.second is not None:
        off["adaptation"] = layer.second.jump * one - fixed.jump
    needed = np.minimum(choice.whole, choice.fraction_bits) + bits_lost(layer, timesteps)
    drops = ~layer.idle & (needed > choice.fraction_bits)
    most = timesteps - 1.0  # at most one of the last bit a step
    if layer.second is not None:
        most += most * timesteps / 2  # and what it carries besides is added up
    off["leak"] = np.where(drops, most, 0.0)
    shares = {part: float((np.abs(x) / one / reference).max()) for part, x in off.items()}
    return {part: share for part, share in shares.items() if share > 0}


def _float_is_exact(weights: IntegerWeights, layer: InUnits, choice: Choice) -> bool:
    """Return whether float32 rounds nothing, given that nothing is rounded here.

    All that it adds up are multiples of one unit's last bit; they must be short enough.
    """
    fixed, grid = choice.fixed, weights.grid
    sums = np.abs(weights.integers).sum(0) * max(-grid.low, grid.high) * 2.0**choice.fraction_bits
    added = np.abs(fixed.shortcut) * max(-layer.shortcut_range[0], layer.shortcut_range[1])
    sums = sums + np.abs(fixed.bias) + added + np.abs(fixed.recurrent).sum(0)
    digits = odd_part(weights.scale) * odd_part(grid.unit)
    short = digits * np.maximum(sums, choice.largest) < 2.0**FLOAT_DIGITS
    same = np.array_equal(weights.integers * weights.scale, weights.rows)
    theta = layer.theta * 2.0**choice.fraction_bits
    # A float threshold that rises is a sum; one that nothing reaches may be rounded.
    apart = layer.rises & (theta != np.rint(theta)) & (choice.largest >= fixed.level)
    return bool(same and short.all() and not apart.any())
