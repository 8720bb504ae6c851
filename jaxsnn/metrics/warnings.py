"""What must not happen in silence: a layer without weights or spikes, a class that is never chosen.

A layer is named if less than a thousandth of its weights is left, or its neurons fire less than
once in a thousand steps, and the network that it is compared with was above that. A class is named
if a network that is right half of the time never decides for it: a spiking read-out neuron whose
potentials all lie outside of the surrogate has no gradient, and stays silent. The limits are ours;
no published network comes near them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jaxsnn.metrics import facts
from jaxsnn.metrics.counts import Counts
from jaxsnn.network import Network

__all__: list[str] = []  # nothing here is promised to users

FEW = 1e-3  # share of a layer's weights
SILENT = 1e-3  # spikes per neuron and time step
KNOWING = 0.5  # accuracy from which on a class that is never chosen is no lack of training

Measures = Mapping[str, float | None]  # name of a layer -> a measure of it


def of_rows(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each layer and class that a network lost.

    The first network is the baseline of the layers.

    >>> dense = {"name": "dense", "layers": [{"name": "conv1", "density": 1.0, "rate": 0.2}]}
    >>> small = {"name": "small", "layers": [{"name": "conv1", "density": 0.0, "rate": 0.2}]}
    >>> of_rows([dense, small])
    ['small: conv1 has no weight left']

    Args:
      rows: of `results.json`.
    """
    lines = []
    for row in rows:
        base = {} if row is rows[0] else rows[0]
        density, rate = ((_of(row, name), _of(base, name)) for name in ("density", "rate"))
        found = [*thinned(*density), *silenced(*rate), *never_chosen(row)]
        lines += [f"{row['name']}: {line}" for line in found]
    return lines


def after_training(before: Network, after: Network, counts: Counts | None) -> list[str]:
    """Return a line for each layer that a phase lost.

    Args:
      before: the network from which it started.
      after: the one that it hands over.
      counts: what that did on held-out samples; None if nobody looked.
    """
    now = facts.densities(after)
    few = {name: each for name, each in now.items() if each < FEW}
    lines = thinned(few, facts.densities(before)) if few else []
    if counts is not None:
        found = facts.fired(after, jax.device_get(counts)).layers
        lines += silenced({name: each.get("rate") for name, each in found.items()}, {})
    return lines


def thinned(now: Measures, before: Measures) -> list[str]:
    """Return a line for each layer with hardly a weight left, whose density was larger before."""
    return [
        f"{name} has {f'{100 * each:.2g} % of its weights' if each else 'no weight'} left"
        for name, each in now.items()
        if each is not None and each < FEW <= _known(before, name)
    ]


def silenced(now: Measures, before: Measures) -> list[str]:
    """Return a line for each layer that hardly fires, whose rate was larger before."""
    return [
        f"{name} is silent, {each:.2g} spikes a neuron and step"
        + (f" where it had {_known(before, name):.2g}" if before.get(name) is not None else "")
        for name, each in now.items()
        if each is not None and each < SILENT <= _known(before, name)
    ]


def never_chosen(row: Mapping[str, Any]) -> list[str]:
    """Return a line if there are samples of a class that a trained network never decides for.

    >>> never_chosen({"accuracy": 0.75, "confusion": [[1, 0, 0], [0, 2, 0], [0, 1, 0]]})
    ['never decides for class 2, whose read-out may have fallen silent']
    """
    confusion = row.get("confusion") or ()
    if not confusion or row["accuracy"] < KNOWING:
        return []
    chosen = [sum(column) for column in zip(*confusion, strict=True)]
    lost = [
        str(number)
        for number, (there, decided) in enumerate(zip(confusion, chosen, strict=True))
        if sum(there) and not decided
    ]
    if not lost:
        return []
    classes = "class" if len(lost) == 1 else "classes"
    return [f"never decides for {classes} {', '.join(lost)}, whose read-out may have fallen silent"]


def _known(measures: Measures, name: str) -> float:
    """Return a measure; 1 where nobody took it."""
    found = measures.get(name)
    return 1.0 if found is None else found


def _of(row: Mapping[str, Any], field: str) -> dict[str, float | None]:
    return {layer["name"]: layer.get(field) for layer in row.get("layers") or ()}
