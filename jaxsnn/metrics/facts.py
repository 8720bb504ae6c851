"""The facts that a report is made of: what is stored, what is computed, what fires."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxsnn import coding, layers, tree
from jaxsnn.metrics import operations
from jaxsnn.metrics.counts import Counts, saturated_neurons, silent_neurons
from jaxsnn.network import Network

__all__ = ["OTHERS", "Facts", "computed", "densities", "density", "fired", "stored", "widths"]

OTHERS = "biases and norms"  # no name that a layer can have: it has spaces


class Facts(NamedTuple):
    """Fields of a `Report`, and of its `LayerReport`s."""

    network: dict[str, Any]
    layers: dict[str, dict[str, Any]]  # name of the layer -> its fields


def densities(weights: Any, where: str | None = None) -> dict[str, float]:
    """Return the share of non-zero weights of each leaf, in [0, 1].

    Args:
      weights: a network, or a tree of parameters.
      where: pattern of leaf names; None for the kernels that a network's synapses name, recurrent
        ones included, and of anything else for the leaves with two axes or more.

    Raises:
      UserError: if the pattern matches no leaf.
    """
    return {name: _kept(leaf) / leaf.size for name, leaf in _selected(weights, where).items()}


def density(weights: Any, where: str | None = None) -> float:
    """Return the share of non-zero weights of all leaves together, in [0, 1].

    The arguments are those of `densities`; with the default it is the density of a `Report`.

    >>> density({"conv1": {"kernel": np.eye(2), "bias": np.ones(2)}})
    0.5
    """
    leaves = _selected(weights, where).values()
    return sum(map(_kept, leaves)) / sum(leaf.size for leaf in leaves)


def stored(net: Network) -> Facts:
    """Return density and bits of the kernels, and bytes of all leaves.

    The bits of a leaf on a known grid (`net.steps`) are those of the grid; of another one, those
    that are found in its numbers (`coding.bits`). The layers are the kernels, with the bytes of
    each alone; the bytes of all other leaves are those of the layer `OTHERS`.
    """
    grids, leaves, kernels = net.quantized, _leaves(net.params), _selected(net)
    costs = {name: coding.cost(leaf, grids.get(name)) for name, leaf in leaves.items()}
    kept = {name: _kept(leaf) for name, leaf in kernels.items()}
    layers = {
        _layer(name): {
            "shape": leaf.shape,
            "density": kept[name] / leaf.size,
            "bits": costs[name].bits,
            "bytes": costs[name].num_bytes,
        }
        for name, leaf in kernels.items()
    }
    if others := [cost.num_bytes for name, cost in costs.items() if name not in kernels]:
        layers[OTHERS] = {"bytes": sum(others)}
    bits = sum(kept[name] * costs[name].bits for name in kernels) / max(sum(kept.values()), 1)
    num_bytes = sum(cost.num_bytes for cost in costs.values())
    return Facts({"density": density(net), "bits": bits, "weight_bytes": num_bytes}, layers)


def widths(net: Network, found: Facts) -> dict[str, Any]:
    """Return kernel -> bits of its weights: a number, or where channels differ `[1, ..., 1, O]`.

    Args:
      net: the network.
      found: what `stored` returned of it.
    """
    known = {name: np.asarray(step.bits) for name, step in net.steps.items()}
    return {
        name: known[name]
        if name in known and known[name].size > 1
        else found.layers[_layer(name)]["bits"]
        for name in _selected(net)
    }


def computed(net: Network, counts: Counts, bits: Mapping[str, Any]) -> Facts:
    """Return additions, multiplications and energy; nothing of a foreign function.

    Args:
      net: the network.
      counts: over a data set, arrays on the host.
      bits: kernel -> bits of its weights, of `widths`.
    """
    synapses, leaves, samples = net.synapses, _leaves(net.params), int(counts.num_samples)
    if not synapses:
        return Facts({}, {})
    events = {kernel: counts.events[kernel] for kernel in synapses}
    shapes = {kernel: events.pop(kernel).shape for kernel in counts.multiplied if kernel in events}
    additions = operations.synops_of_totals(synapses, leaves, events)
    products = {
        kernel: count * (1 if kernel in counts.cached else counts.timesteps)
        for kernel, count in operations.macs(synapses, leaves, shapes).items()
    }
    met = {name: int(np.sum(each, dtype=np.int64)) for name, each in counts.products.items()}
    synops = (sum(additions.values()) + sum(met.values())) / samples
    macs = sum(products.values())
    weighted = sum(
        operations.synops_of_totals(synapses, leaves, {kernel: total}, worth=bits[kernel])[kernel]
        if np.ndim(bits[kernel])
        else additions[kernel] * bits[kernel]
        for kernel, total in events.items()
    )
    return Facts(
        {
            "synops": synops,
            "macs": macs,
            "bit_ops": (weighted + sum(met.values())) / samples,  # a spike has a bit
            "energy_pj": operations.energy(synops, macs, table=operations.ENERGY_45NM_FLOAT32),
            "energy_pj_int32": operations.energy(synops, macs, table=operations.ENERGY_45NM_INT32),
        },
        {
            _layer(kernel): {
                "synops": additions.get(kernel, 0) / samples,
                "macs": products.get(kernel, 0),
            }
            for kernel in synapses
        }
        | {name: {"synops": count / samples, "macs": 0} for name, count in met.items()},
    )


def fired(net: Network, counts: Counts) -> Facts:
    """Return the spikes; none of an ANN's layers, and none of a function that records none.

    Args:
      net: the network.
      counts: over a data set, arrays on the host.
    """
    rectified = _rectified(net) if net.synapses else set()
    spiking = {name: each for name, each in counts.spikes.items() if name not in rectified}
    samples, steps = int(counts.num_samples), counts.timesteps
    silent, saturated = silent_neurons(counts), saturated_neurons(counts)
    found: dict[str, dict[str, Any]] = {}
    for name, spikes in counts.spikes.items():
        found[name] = {"neurons": spikes.size}
        if name in spiking:
            found[name] |= {
                "rate": float(np.mean(spikes, dtype=np.float64)) / (steps * samples),
                "silent": silent[name],
                "saturated": saturated[name],
            }
    if not spiking and (rectified or not net.synapses):
        return Facts({}, found)
    neurons = sum(each.size for each in spiking.values())
    spikes_of = sum(int(np.sum(each, dtype=np.int64)) for each in spiking.values()) / samples
    rate = spikes_of / max(neurons * steps, 1)
    return Facts({"spike_rate": rate, "spikes_per_sample": spikes_of}, found)


def _leaves(params: Any) -> dict[str, np.ndarray]:
    """Return the leaves by name, on the host."""
    return {name: np.asarray(leaf) for name, leaf in tree.named_leaves(params).items()}


def _selected(weights: Any, where: str | None = None) -> dict[str, np.ndarray]:
    """Return the leaves that a pattern, or the default of `densities`, selects."""
    params = tree.params_of(weights)
    leaves = _leaves(params)
    if where is not None:
        return {name: leaves[name] for name in tree.match({where: True}, params)}
    if isinstance(weights, Network) and weights.synapses:
        return {name: leaves[name] for name in weights.synapses}
    return {name: leaf for name, leaf in leaves.items() if leaf.ndim >= 2} or leaves


def _kept(leaf: np.ndarray) -> int:
    return int(np.count_nonzero(leaf))


def _layer(kernel: str) -> str:
    """Return the name of a kernel's line: its layer's, or its own if it is a second one there."""
    return kernel.removesuffix("/kernel")


def _rectified(net: Network) -> set[str]:
    """Return the layers whose neurons are those of an ANN."""
    found = layers.synapses(net.module).items()
    return {name for name, layer in found if isinstance(layer.neurons, layers.Rectified)}
