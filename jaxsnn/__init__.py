"""jaxsnn: train spiking neural networks and make them small, as pure functions over pytrees.

`import jaxsnn` is light: a submodule is loaded when it is touched first.

| module     | what is in it                                                             |
|------------|---------------------------------------------------------------------------|
| `models`   | networks from a layout such as "32C3-AP2-10", and those of the papers      |
| `layers`   | the modules that a network of your own is made of                          |
| `neurons`  | LIF and others, or your own; `surrogate`, their gradients; `encode`, inputs |
| `data`     | data sets; `inputs`, how samples become the input of a network             |
| `train`    | `Task`, `fit`, `evaluate`; `losses`, what is minimised                      |
| `compress` | sets to stay in, and the optax transformations that hold weights there     |
| `methods`  | whole methods, one page a paper                                            |
| `metrics`  | what a network is worth and what it costs                                  |
| `sweep`    | many trainings as one compiled program                                     |
| `export`   | smaller networks, and files for other programs; `report`, tables and plots |
| `compile`  | a network of integers as one C file                                        |
| `chips`    | whether a network fits a chip                                              |
| `zoo`      | compressed networks to take as they are                                    |
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxsnn.errors import UserError
from jaxsnn.release import RELEASE

if TYPE_CHECKING:
    from jaxsnn import (
        chips,
        compile,
        compress,
        data,
        encode,
        export,
        inputs,
        layers,
        losses,
        methods,
        metrics,
        models,
        neurons,
        report,
        surrogate,
        sweep,
        train,
        zoo,
    )
    from jaxsnn.network import Network

__version__ = RELEASE

__all__ = [
    "Network",
    "UserError",
    "chips",
    "compile",
    "compress",
    "data",
    "encode",
    "export",
    "inputs",
    "layers",
    "losses",
    "methods",
    "metrics",
    "models",
    "neurons",
    "report",
    "surrogate",
    "sweep",
    "train",
    "zoo",
]


def __getattr__(name: str) -> Any:
    """Load a submodule, or the class `Network`, when it is touched first (PEP 562)."""
    if name == "Network":
        return importlib.import_module("jaxsnn.network").Network
    if name in __all__:
        return importlib.import_module(f"jaxsnn.{name}")
    raise AttributeError(f"module 'jaxsnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
