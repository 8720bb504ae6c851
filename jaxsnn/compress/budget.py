"""A budget of bits: whether the least that leaves can cost fits it."""

from collections.abc import Mapping

from jaxsnn.arrays import Number, is_traced
from jaxsnn.errors import UserError

__all__ = ["SLACK", "check_budget"]

SLACK = 1e-6  # relative: what the rounding of sums in float32 may be


def check_budget(budget: Number, least: Mapping[str, Number], how: str) -> None:
    """Raise a `UserError` if a concrete budget is below the least that leaves can cost.

    Args:
      budget: for all leaves.
      least: leaf name -> the least that it can cost.
      how: what it then has, for the message.
    """
    if is_traced(budget) or any(is_traced(cost) for cost in least.values()):
        return
    costs = {name: float(cost) for name, cost in least.items()}
    if float(budget) < sum(costs.values()) * (1 - SLACK):
        largest = max(costs, key=costs.__getitem__)
        raise UserError(
            f"budget {float(budget):,.6g} cannot be met: with {how} it takes "
            f"{sum(costs.values()):,.6g}, of which {largest!r} {costs[largest]:,.6g}; give more"
        )
