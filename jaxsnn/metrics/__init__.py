"""What a network is worth and what it costs.

`measure` and `compare` evaluate networks and return the noun `Report`; `Counts` are what it is made
from. A name is loaded when it is touched first, so that training, which counts spikes, does not
load what measures trained networks.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxsnn.metrics.counts import (
        Counts,
        accumulate,
        accuracy,
        accuracy_over_time,
        no_counts,
        saturated_neurons,
        silent_neurons,
        spike_rate,
        spike_rates,
        spikes_per_sample,
    )
    from jaxsnn.metrics.facts import densities, density
    from jaxsnn.metrics.measuring import compare, measure
    from jaxsnn.metrics.published import published_energy
    from jaxsnn.metrics.report import Comparison, LayerReport, Report

_HOME = {
    "Comparison": "report",
    "Counts": "counts",
    "LayerReport": "report",
    "Report": "report",
    "accumulate": "counts",
    "accuracy": "counts",
    "accuracy_over_time": "counts",
    "compare": "measuring",
    "densities": "facts",
    "density": "facts",
    "measure": "measuring",
    "no_counts": "counts",
    "published_energy": "published",
    "saturated_neurons": "counts",
    "silent_neurons": "counts",
    "spike_rate": "counts",
    "spike_rates": "counts",
    "spikes_per_sample": "counts",
}

__all__ = [
    "Comparison",
    "Counts",
    "LayerReport",
    "Report",
    "accumulate",
    "accuracy",
    "accuracy_over_time",
    "compare",
    "densities",
    "density",
    "measure",
    "no_counts",
    "published_energy",
    "saturated_neurons",
    "silent_neurons",
    "spike_rate",
    "spike_rates",
    "spikes_per_sample",
]


def __getattr__(name: str) -> Any:
    """Load the module that a name is defined in, when it is touched first (PEP 562)."""
    if name in _HOME:
        return getattr(importlib.import_module(f"jaxsnn.metrics.{_HOME[name]}"), name)
    raise AttributeError(f"module 'jaxsnn.metrics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
