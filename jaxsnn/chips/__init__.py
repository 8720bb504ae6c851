"""Whether a network fits a chip: a table of limits with sources, and a report in numbers."""

from jaxsnn.chips.fitting import check_fit
from jaxsnn.chips.limits import CHIPS

__all__ = ["CHIPS", "check_fit"]
