"""Compare what a network needs with the limits of a chip."""

from dataclasses import dataclass
from typing import Any

from jaxsnn.chips.limits import CHIPS, Chip, Limit
from jaxsnn.chips.measures import Need, memory, needs_of
from jaxsnn.compile.plan import make_plan
from jaxsnn.errors import UserError
from jaxsnn.export.integer import IntegerGrid, pixel_table, to_integer
from jaxsnn.inputs import Inputs
from jaxsnn.network import Network

__all__ = ["Checked", "Fit", "check_fit"]


@dataclass(frozen=True)
class Checked:
    """A limit, and what came closest to it or is beyond."""

    limit: Limit
    need: Need

    @property
    def fits(self) -> bool:
        """Return whether it is kept."""
        return self.limit.admits(self.need.value)


@dataclass(frozen=True)
class Fit:
    """A network beside a chip's limits.

    Attributes:
      chip: the chip.
      rows: for each limit, what is beyond it, or else the one that comes closest.
    """

    chip: Chip
    rows: tuple[Checked, ...]

    @property
    def fits(self) -> bool:
        """Return whether all limits are kept."""
        return not self.broken

    @property
    def broken(self) -> tuple[Checked, ...]:
        """Return what does not fit."""
        return tuple(row for row in self.rows if not row.fits)

    def to_data(self) -> dict[str, Any]:
        """Return it as plain data, for JSON."""
        return {
            "chip": self.chip.name,
            "fits": self.fits,
            "limits": [
                {
                    "what": row.limit.what,
                    "where": row.need.where,
                    "found": row.need.value,
                    "allowed": row.limit.allowed,
                    "fits": row.fits,
                    "note": row.need.note,
                    "source": row.limit.source,
                }
                for row in self.rows
            ],
            "unchecked": list(self.chip.unchecked),
        }


def check_fit(net: Network, inputs: Inputs, chip: str) -> Fit:
    """Compare a network with the limits of a chip.

    The numbers are those of the network of integers (`export.to_integer`), as the chips compute
    with integers: weights on a grid are its codes, and potentials have the fewest bits that hold
    them in the worst case. Weights that only rounding would bring on a grid count as 32 bits.

    Args:
      net: the network, a chain of layers.
      inputs: of the task.
      chip: "cortex-m4", "loihi2", "speck" or "xylo3".

    Raises:
      UserError: for another chip, and a network without integers, or of neurons that the chip's
        limits say nothing about, by its layer.

    Example:
      >>> from jaxsnn import models
      >>> net = models.build("6-3", (4,))
      >>> [row.limit.what for row in check_fit(net, Inputs((4,), timesteps=2), "loihi2").broken]
      ['weight bits', 'weight bits']
    """
    if chip not in CHIPS:
        raise UserError(f"chip {chip!r} is unknown; choose one of {', '.join(sorted(CHIPS))}")
    if not isinstance(inputs, Inputs):
        raise UserError(f"inputs must be an Inputs, found {type(inputs).__name__}")
    grid = _grid(inputs)
    integers = to_integer(net, grid, inputs.timesteps)
    coarse = to_integer(net, grid, inputs.timesteps, fraction_bits=0)
    plan = make_plan(integers, inputs.shape, constant=inputs.encoding == "direct")
    others = [layer.name for layer in plan.layers if layer.neurons.second is not None]
    if others and chip != "cortex-m4":
        raise UserError(
            f"layer {others[0]!r} has a synaptic current or a threshold that rises, and what is "
            f"known of {chip} is about LIF neurons: choose 'cortex-m4'"
        )
    verdicts = {report.layer: report for report in integers.report}
    fewest = {report.layer: report.state_bits for report in coarse.report}
    needs = needs_of(plan, inputs.shape, verdicts, fewest)
    if chip == "cortex-m4":
        needs |= memory(plan)
    rows = [row for limit in CHIPS[chip].limits for row in _check(limit, needs[limit.what])]
    return Fit(CHIPS[chip], tuple(rows))


def _check(limit: Limit, needs: list[Need]) -> list[Checked]:
    """Return all that is beyond a limit, or what comes closest to it."""
    beyond = [Checked(limit, need) for need in needs if not limit.admits(need.value)]
    return beyond or [Checked(limit, need) for need in _closest(needs)]


def _closest(needs: list[Need]) -> list[Need]:
    return [max(needs, key=lambda need: need.value)] if needs else []


def _grid(inputs: Inputs) -> Inputs | IntegerGrid:
    """Return what the integers of an input stand for; normalised pixels go through a table."""
    if inputs.mean is None or inputs.encoding != "direct":
        return inputs
    return pixel_table(inputs.mean, inputs.std).grid
