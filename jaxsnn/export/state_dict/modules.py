"""The modules that a state dictionary is of: what each is, and what its numbers mean here.

| library      | modules                                                                       |
|--------------|-------------------------------------------------------------------------------|
| all          | `Linear`, `Conv1d`, `Conv2d`: `weight`, `bias`; norms, with `running_mean`    |
| snnTorch     | `Leaky`, `RLeaky`, `Synaptic`: `beta`, `alpha`, `threshold`, `recurrent`, `V` |
| SpikingJelly | `ParametricLIFNode`: `w`; its other neurons keep their constants to themselves |
| sinabs       | `LIF`, `ALIF`: `tau_mem` or `alpha_mem`, `spike_threshold`, `rec_connect`     |
| Norse        | recurrent cells: `input_weights`, `recurrent_weights`; no constants           |

A constant of neurons is a share that is left after one step here, whatever it is there:

    decay = beta                      snnTorch, which clips it to [0, 1] as it runs; so alpha
          = 1 - 1 / (1 + exp(-w))     SpikingJelly's PLIF, whose `w` is `PLIF.leak` here
          = exp(-1 / tau_mem)         sinabs; likewise tau_syn and tau_adapt
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["CONSTANTS", "Module", "modules_of"]

Array = np.ndarray[Any, Any]


class Module(NamedTuple):
    """A module of a state dictionary."""

    name: str
    kind: str  # "weights", "norm", "neurons" or "" of what is none of them
    fields: Mapping[str, Array]  # rest of the name -> numbers

    def entry(self, field: str) -> str:
        """Return the name of a field in the state dictionary."""
        return f"{self.name}.{field}" if self.name else field


def _clipped(values: Array) -> Array:
    return np.clip(values, 0.0, 1.0)


def _same(values: Array) -> Array:
    return values


def _by_logit(values: Array) -> Array:
    return 1.0 / (1.0 + np.exp(values))


def _by_time(values: Array) -> Array:
    return np.exp(-1.0 / values)


# Field of a neuron there, constants here that may be it, and what they are of it.
CONSTANTS: Sequence[tuple[str, str, Callable[[Array], Array]]] = (
    ("beta", "decay", _clipped),
    ("alpha", "synaptic_decay", _clipped),
    ("w", "leak", _same),
    ("w", "decay", _by_logit),
    ("tau_mem", "decay", _by_time),
    ("alpha_mem", "decay", _same),
    ("tau_syn", "synaptic_decay", _by_time),
    ("alpha_syn", "synaptic_decay", _same),
    ("tau_adapt", "adaptation_decay", _by_time),
    ("alpha_adapt", "adaptation_decay", _same),
    ("threshold", "threshold", _same),
    ("spike_threshold", "threshold", _same),
)
MARKS = {*(field for field, _, _ in CONSTANTS), "reset_mechanism_val"}
CELL = ("input_weights", "recurrent_weights")
# Modules within neurons, whose weights are those by which they hear themselves.
INNER = ("recurrent", "rec_connect", "rec_connect.0", "rec_connect.1")


def modules_of(arrays: Mapping[str, Array]) -> list[Module]:
    """Return the modules of a state dictionary, in its order.

    Args:
      arrays: name -> numbers.

    >>> arrays = {"fc.weight": np.ones((3, 4)), "lif.beta": np.float32(0.9)}
    >>> [(module.name, module.kind) for module in modules_of(arrays)]
    [('fc', 'weights'), ('lif', 'neurons')]
    """
    fields: dict[str, dict[str, Array]] = {}
    for name, array in arrays.items():
        module, _, field = name.rpartition(".")
        fields.setdefault(module, {})[field] = array
    neurons = [name for name, each in fields.items() if _kind(each) == "neurons"]
    for outer in neurons:
        for part in INNER:
            inner = fields.pop(f"{outer}.{part}" if outer else part, {})
            word = part.partition(".")[0]
            fields[outer] |= {f"{word}.{field}": array for field, array in inner.items()}
    return [Module(name, _kind(each), each) for name, each in fields.items()]


def _kind(fields: Mapping[str, Array]) -> str:
    if any(field in fields and fields[field].ndim <= 3 for field in MARKS):
        return "neurons"
    if "running_mean" in fields:
        return "norm"
    weight = fields.get("weight")
    if all(name in fields for name in CELL) or (weight is not None and weight.ndim > 1):
        return "weights"
    return "" if weight is None else "norm"
