"""Whether a network fits a chip: a table of limits with sources, and a report in numbers."""

from jaxsnn.chips.fitting import Fit, check_fit
from jaxsnn.chips.limits import CHIPS, Chip

__all__ = ["CHIPS", "Chip", "Fit", "check_fit"]
