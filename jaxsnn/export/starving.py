"""Which channels a network does without: those that never fire, and those that nobody hears.

A unit is *quiet* if nothing can make it fire: its weights from all that is not quiet are zero, and
its constant current, a bias or the offset of a norm, is no more than 0. It is *unheard* if its
weights into all that stays are zero. Units that are tied (`dependencies`) go together; so do here
the inputs and outputs of a group of a convolution. Nothing of this changes the read-out.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from jaxsnn import layers
from jaxsnn.export.dependencies import Units, attentions
from jaxsnn.export.fold import values_of
from jaxsnn.layers.grouped import ordinary
from jaxsnn.layers.neurons import Firing
from jaxsnn.neurons import LIF

__all__ = ["needed"]

Heads = list[tuple[np.ndarray, np.ndarray, np.ndarray]]


def needed(units: Units, module: nnx.Module) -> np.ndarray:
    """Return which units the read-out needs, boolean `[units]`; one of each layer stays.

    Args:
      units: from `dependencies.walk_channels`.
      module: the network.
    """
    known = layers.synapses(module)
    everyone = np.arange(units.parents.size)
    links = {name: _links(layer) for name, layer in known.items()}
    ties = units.roots(everyone)
    heads = _heads(units, module)
    restless = [
        unit
        for layer in attentions(module)
        if not _stay_at_rest(layer.neurons, np.zeros(1)).all()
        for unit in units.own(layer.v.name)
    ]
    clusters, pinned = _clusters(units, known, heads)
    alive: np.ndarray = np.ones(everyone.size, bool)
    quiet = ~alive
    while True:
        before = alive.sum(), quiet.sum()
        quiet = quiet | _quiet(units, known, links, ties, quiet | ~alive)
        for q, k, v in heads:  # without a query, or a key, no value is passed on
            silent = quiet | ~alive
            quiet[v] |= silent[q].all() or silent[k].all()
        quiet[restless] = False
        heard = np.zeros(everyone.size, bool)  # of a tie
        for name, met in links.items():
            own, into = units.own(name), units.inputs.get(name)
            pairs = [] if into is None else [(into, met)]
            pairs += [(own, _own_links(known[name]))]
            if (added := units.shortcuts.get(name)) is not None:
                pairs.append((added, np.eye(own.size, dtype=bool)))
            for sources, reach in pairs:
                there = reach & alive[own].reshape(1, -1) & (sources >= 0).reshape(-1, 1)
                there &= clusters[sources].reshape(-1, 1) != clusters[own].reshape(1, -1)
                heard[ties[sources[there.any(1)]]] = True
        stays = heard[ties] & ~_all_of(ties, quiet | ~alive)
        gone = _all_of(clusters, ~stays | ~alive) & ~pinned
        for name in known:  # one must stay
            own = units.own(name)
            if gone[own].all():
                gone[clusters == clusters[own[alive[own]][0]]] = False
        alive = ~gone
        if (alive.sum(), quiet.sum()) == before:
            break
    return alive


def _all_of(classes: np.ndarray, holds: np.ndarray) -> np.ndarray:
    """Return for each unit whether something holds for all of its class."""
    broken = np.zeros(classes.size, bool)
    broken[classes[~holds]] = True
    whole: np.ndarray = ~broken[classes]
    return whole


def _clusters(
    units: Units, known: Mapping[str, layers.Synapse], heads: Heads
) -> tuple[np.ndarray, np.ndarray]:
    """Return the first unit of what goes together, ties and groups, and whether it is pinned."""
    joint = Units(units.first, units.widths, units.parents.copy(), pins=dict(units.pins))
    for name, layer in known.items():
        if not isinstance(layer, layers.Conv) or layer.groups == 1 or name not in units.inputs:
            continue
        parts = zip(
            np.split(units.inputs[name], layer.groups),
            np.split(units.own(name), layer.groups),
            strict=True,
        )
        for heard, fired in parts:
            members = np.concatenate([heard, fired])
            joint.tie(members[:-1], members[1:], "they form a group")
    for head in heads:
        members = np.concatenate(head)
        joint.tie(members[:-1], members[1:], "they form a head")
    clusters = joint.roots(np.arange(units.parents.size))
    return clusters, np.isin(clusters, clusters[list(joint.pins)])


def _heads(units: Units, module: nnx.Module) -> Heads:
    """Return the units of queries, keys and values of each head of each attention."""
    found = []
    for layer in attentions(module):
        parts = (np.split(units.own(x.name), layer.heads) for x in (layer.q, layer.k, layer.v))
        found += [*zip(*parts, strict=True)]
    return found


def _links(layer: layers.Synapse) -> np.ndarray:
    """Return which inputs have a weight into which outputs, boolean `[I, O]`."""
    kernel = np.asarray(layer.kernel[...]) != 0
    kernel = kernel.any(tuple(range(kernel.ndim - 2)))
    return ordinary(kernel, layer.groups) if isinstance(layer, layers.Conv) else kernel


def _own_links(layer: layers.Synapse) -> np.ndarray:
    """Return which outputs a recurrent layer hears itself, boolean `[O, O]`."""
    feedback = layer.feedback()
    outputs = layer.kernel.shape[-1]
    return np.zeros((outputs,) * 2, bool) if feedback is None else np.asarray(feedback) != 0


def _quiet(
    units: Units,
    known: Mapping[str, layers.Synapse],
    links: Mapping[str, np.ndarray],
    ties: np.ndarray,
    silent: np.ndarray,
) -> np.ndarray:
    """Return which units nothing can make fire, given those that are silent."""
    found = np.zeros_like(silent)
    silent = _all_of(ties, silent)
    for name, layer in known.items():
        if (into := units.inputs.get(name)) is None:
            continue
        own = units.own(name)
        loud = (into < 0) | ~silent[into]
        driven = (links[name] & loud.reshape(-1, 1)).any(0)
        driven |= (_own_links(layer) & ~silent[own].reshape(-1, 1)).any(0)
        if (added := units.shortcuts.get(name)) is not None:
            driven |= (added == -1) | ((added >= 0) & ~silent[added])
        found[own] = ~driven & _rests(layer)
    return found


def _rests(layer: layers.Synapse) -> np.ndarray:
    """Return which outputs are 0 where no weight drives them, boolean `[O]`."""
    constant = np.broadcast_to(values_of(layer.bias), layer.kernel.shape[-1:])
    norm: Any = layer.norm
    if isinstance(norm, nnx.LayerNorm):
        return np.zeros(constant.shape, bool)
    if norm is not None:
        factor = values_of(norm.scale, 1.0) / np.sqrt(values_of(norm.var) + norm.epsilon)
        constant = values_of(norm.bias) + factor * (constant - values_of(norm.mean))
    return _stay_at_rest(layer.neurons, constant)


def _stay_at_rest(firing: Firing, current: np.ndarray) -> np.ndarray:
    """Return which neurons a constant current leaves at 0, boolean; of unknown ones none."""
    spiking = isinstance(firing, layers.Neurons) and isinstance(firing.constants(), LIF)
    if spiking or isinstance(firing, layers.Rectified):
        return np.asarray(current <= 0)
    return np.asarray((current == 0) & isinstance(firing, layers.Integrator))
