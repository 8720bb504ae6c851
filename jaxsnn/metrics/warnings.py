"""What a compression must not do in silence: take nearly all weights of a layer, or its spikes.

A layer is named if less than a thousandth of its weights is left, or its neurons fire less than
once in a thousand steps, and the network that it is compared with was above that. Both limits are
ours; no published network comes near them.
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

Measures = Mapping[str, float | None]  # name of a layer -> a measure of it


def of_rows(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each layer that a network lost, the first network being the baseline.

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
        lines += [f"{row['name']}: {line}" for line in [*thinned(*density), *silenced(*rate)]]
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


def _known(measures: Measures, name: str) -> float:
    """Return a measure; 1 where nobody took it."""
    found = measures.get(name)
    return 1.0 if found is None else found


def _of(row: Mapping[str, Any], field: str) -> dict[str, float | None]:
    return {layer["name"]: layer.get(field) for layer in row.get("layers") or ()}
