"""Whole methods as functions: `compress(net, task, data, options, *, fit) -> Result`, a page each.

| page             | paper                                                                        |
|------------------|------------------------------------------------------------------------------|
| `admm`           | Deng et al. 2019: prune, quantize and quieten by ADMM                         |
| `gradual`        | Zhu and Gupta 2017: prune while training, the rival everybody asks for        |
| `qp_snn`         | Wei et al. 2025: rescaled quantization, channels pruned by singular values    |
| `spatiotemporal` | Chowdhury et al. 2021: principal components, then fewer and fewer time steps  |
| `spike_thrift`   | Kundu et al. 2021: sparse from the start, attention-guided, few spikes        |
| `conversion`     | Rathi et al. 2020: from a trained ANN to a spiking network                    |
| `joint`          | all of it, one after the other or together                                   |

A page is loaded when it is touched first.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jaxsnn.methods.admm as admm
    import jaxsnn.methods.conversion as conversion
    import jaxsnn.methods.gradual as gradual
    import jaxsnn.methods.joint as joint
    import jaxsnn.methods.qp_snn as qp_snn
    import jaxsnn.methods.spatiotemporal as spatiotemporal
    import jaxsnn.methods.spike_thrift as spike_thrift
    from jaxsnn.methods.result import Result, Trained, Trainer

_NOUNS = ("Result", "Trained", "Trainer")

__all__ = [
    "Result",
    "Trained",
    "Trainer",
    "admm",
    "conversion",
    "gradual",
    "joint",
    "qp_snn",
    "spatiotemporal",
    "spike_thrift",
]


def __getattr__(name: str) -> Any:
    """Load a page, or the module of a noun, when it is touched first (PEP 562)."""
    if name in _NOUNS:
        return getattr(importlib.import_module("jaxsnn.methods.result"), name)
    if name in __all__:
        return importlib.import_module(f"jaxsnn.methods.{name}")
    raise AttributeError(f"module 'jaxsnn.methods' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
