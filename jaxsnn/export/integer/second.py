"""What neurons of integers carry beside their potential: a synaptic current, or an adaptation.

LIF neurons carry nothing else. With a leak of its own, `leak'`, and the input `x`, one number more

    "current"      i[t] = leak'(i[t-1]) + x[t]             and u[t] = rest(u[t-1]) + i[t]
    "delayed"      the same i[t]                           and u[t] = rest(u[t-1]) + i[t-1]
    "adaptation"   a[t] = leak'(a[t-1]) + jump o[t-1]      and o[t] = 1[u[t] - a[t] >= level]

where a reset by subtraction takes `theta + a[t-1]`. All else is as in `network`.

Letters in shapes: `O` output channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxsnn.errors import UserError
from jaxsnn.export.integer.units import nearest
from jaxsnn.neurons import LIF, AdaptiveLIF, Neuron, SynapticLIF

__all__ = ["ADAPTATION", "CURRENT", "DELAYED", "Carried", "SecondInUnits", "in_units", "parts_of"]

CURRENT, DELAYED, ADAPTATION = "current", "delayed", "adaptation"


class Carried(NamedTuple):
    """What a float neuron carries beside its potential."""

    kind: str
    constant: str  # the neuron's name of its decay
    decay: Any  # a scalar or `[O]`
    jump: Any  # that a spike adds


@dataclass(frozen=True)
class SecondInUnits:
    """What neurons carry beside their potential, in a layer's own units; float64 `[O]` each."""

    kind: str
    keep: np.ndarray  # the leak: keep s + (factor s >> right)
    factor: np.ndarray
    right: np.ndarray
    jump: np.ndarray  # 0 of a current

    @property
    def rises(self) -> bool:
        """Return whether it raises the threshold."""
        return self.kind == ADAPTATION

    def leak(self, value: np.ndarray) -> np.ndarray:
        """Return what is left of it after a step."""
        left: np.ndarray = self.keep * value + np.floor(self.factor * value / 2.0**self.right)
        return left

    def leaks(self, timesteps: int) -> int:
        """Return how many leaks an input may go through, its own and then the potential's."""
        late = 0 if self.kind == CURRENT else 1  # the first number comes a step after the input
        return max(timesteps - 1 - late, 0)


def parts_of(name: str, neuron: Neuron) -> tuple[LIF, Carried | None]:
    """Return a layer's neuron as LIF, and what it carries besides.

    >>> lif, carried = parts_of("dense1", SynapticLIF(0.5, synaptic_decay=0.25))
    >>> lif.decay, carried.kind, carried.decay
    (0.5, 'current', 0.25)

    Raises:
      UserError: naming the layer and what sets its neuron apart.
    """
    carried = None
    if isinstance(neuron, SynapticLIF):
        kind = DELAYED if neuron.delayed else CURRENT
        carried = Carried(kind, "synaptic_decay", neuron.synaptic_decay, 0.0)
    elif isinstance(neuron, AdaptiveLIF):
        constants = neuron.adaptation_decay, neuron.adaptation
        carried = Carried(ADAPTATION, "adaptation_decay", *constants)
    found = neuron.as_lif() if carried is None else _plain(neuron)
    if not isinstance(found, LIF):
        kind, why = type(neuron).__name__, neuron.not_lif
        raise UserError(
            f"layer {name!r} fires by {kind}: {why}, and integers know LIF, PLIF, SynapticLIF and "
            "AdaptiveLIF only: give the layer one of these"
        )
    return found, carried


def in_units(
    carried: Carried | None, unit: np.ndarray, leaks: np.ndarray
) -> tuple[SecondInUnits | None, dict[str, float]]:
    """Return what neurons carry besides in units `[O]`, and how far off its decay is, by name.

    Args:
      carried: from `parts_of`.
      unit: what 1 stands for, `[O]`.
      leaks: those that can be had, from `units.decays`.
    """
    if carried is None:
        return None, {}
    found, off = nearest(leaks, carried.decay, unit.size)
    keep, factor, right = found[:, 1:].T
    jump = np.asarray(carried.jump, np.float64) / unit
    return SecondInUnits(carried.kind, keep, factor, right, jump), {carried.constant: off}


def _plain(neuron: Any) -> LIF:
    """Return the LIF neuron that is left of a neuron which carries nothing else."""
    names = ("reset", "strict", "detach_reset", "surrogate")
    options: Mapping[str, Any] = {name: getattr(neuron, name) for name in names}
    constants = {"decay": neuron.decay, "threshold": neuron.threshold}
    return LIF.unchecked(constants, {**options, "order": "integrate_then_fire"})
