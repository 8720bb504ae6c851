"""The C of what neurons carry beside a potential `u`: `s`, a current or what a threshold rose by.

A current takes what a layer hears in the place of the potential, and then adds itself to it.
"""

from collections.abc import Mapping

import numpy as np

from jaxsnn.compile.plan import Constants
from jaxsnn.export.integer.second import DELAYED

__all__ = ["PREFIX", "hears", "leave", "reached", "second_numbers"]

PREFIX = "second_"


def second_numbers(neurons: Constants) -> dict[str, np.ndarray]:
    """Return the constants of what neurons carry besides, `[O]` each."""
    second = neurons.second
    if second is None:
        return {}
    numbers = {"keep": second.keep, "factor": second.factor, "right": second.right}
    if neurons.rises:
        numbers["jump"] = second.jump
    return {f"{PREFIX}{name}": each for name, each in numbers.items()}


def reached(neurons: Constants, level: str, u: str = "u", s: str = "s") -> str:
    """Return the C that tells whether a neuron fires.

    >>> from jaxsnn.compile.fit_costs import layer
    >>> reached(layer(1, 2, 2, 1.0).layers[0].neurons, "30")
    'u >= 30'
    """
    return f"{u} - {s} >= {level}" if neurons.rises else f"{u} >= {level}"


def leave(neurons: Constants, known: Mapping[str, str]) -> list[str]:
    """Return the C by which resets and leaks act on `u` and `s`, whose spike was `before`."""

    def leak(state: str, prefix: str) -> str:
        constants = ", ".join(known[prefix + part] for part in ("keep", "factor", "right"))
        return f"{state} = leak_one({state}, {constants});"

    less = [f"u -= before * {known['theta']};", *(["u -= before * s;"] if neurons.rises else [])]
    lines = {
        None: [leak("u", "")],
        "hard": [leak("u", ""), "u &= before - 1;"],
        "soft": [*less, leak("u", "")],
        "soft_undecayed": [leak("u", ""), *less],
    }[neurons.reset]
    if neurons.current == DELAYED:
        lines.append(hears("u", "s"))
    if neurons.second is not None:
        lines.append(leak("s", PREFIX))
    if neurons.rises:
        lines.append(f"s += before * {known[PREFIX + 'jump']};")
    return lines


def hears(state: str, added: str) -> str:
    """Return the C that adds to a state, where sums on the way may leave a word."""
    return f"{state} = (int32_t)((uint32_t){state} + (uint32_t){added});"
