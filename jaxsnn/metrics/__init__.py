"""What a network is worth and what it costs.

`measure` and `compare` evaluate networks and return the noun `Report`; `Counts` are what it is made
from. A name is loaded when it is touched first, so that training, which counts spikes, does not
load what measures trained networks.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxsnn.metrics.counts import Counts
    from jaxsnn.metrics.exits import early_exit
    from jaxsnn.metrics.facts import density
    from jaxsnn.metrics.measuring import compare, measure
    from jaxsnn.metrics.report import Comparison, Report

_HOME = {
    "Comparison": "report",
    "Counts": "counts",
    "Report": "report",
    "compare": "measuring",
    "density": "facts",
    "early_exit": "exits",
    "measure": "measuring",
}

__all__ = ["Comparison", "Counts", "Report", "compare", "density", "early_exit", "measure"]


def __getattr__(name: str) -> Any:
    """Load the module that a name is defined in, when it is touched first (PEP 562)."""
    if name in _HOME:
        return getattr(importlib.import_module(f"jaxsnn.metrics.{_HOME[name]}"), name)
    raise AttributeError(f"module 'jaxsnn.metrics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
