"""Energies as published comparisons with ANNs count them: from shapes and firing rates.

    OPS_ANN(l) = k^2 C_in C_out H_out W_out      of a convolution, borders and zero weights counted
    OPS_SNN(l) = r_l OPS_ANN(l)                  r spikes of a neuron that feeds l, in one inference
    E = E_mac sum_real OPS_ANN(l) + E_ac sum_spiking OPS_SNN(l)

Layers with real input multiply, all of an ANN and the first one under direct coding; the others
add. Spikes save energy below `r = E_mac / E_ac`, 5.11 in float32. With weights removed, each layer
counts by its density `d_l`:

    E = E_mac sum_real d_l OPS_ANN(l) + E_ac sum_spiking d_l OPS_SNN(l)

Behind an average pooling over n neurons there are three ways to count S spikes: S events, as
`operations.synops` does; S / n, by the rate before the pooling, which is the published way; or the
entries of the pooled input that are not zero, each one event of its step, which lies between.

References: Chowdhury et al. 2021, https://arxiv.org/abs/2104.12528, and other work of the group;
the formulas are from there at second hand. Kundu et al., "Spike-Thrift", WACV 2021.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxsnn import tree
from jaxsnn.arrays import check_range
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.inputs import Inputs
from jaxsnn.layers.walk import Flow
from jaxsnn.metrics import operations
from jaxsnn.metrics.counts import Counts
from jaxsnn.metrics.facts import densities
from jaxsnn.metrics.report import Evaluated
from jaxsnn.network import Network

__all__ = ["ann_operations", "feeding_rates", "published_energy", "rate_operations"]

TABLES = {"": operations.ENERGY_45NM_FLOAT32, "_int32": operations.ENERGY_45NM_INT32}


def ann_operations(flow: Flow, params: Any) -> dict[str, int]:
    """Count the multiplications of each kernel as published tables do: `OPS_ANN`.

    That is `k^2 C_in C_out H_out W_out` of a convolution and `n_in n_out` of a dense layer: every
    weight at every output, zero or not, taps beyond the border too. `operations.macs` leaves both
    out.

    Args:
      flow: of the network, `net.flow(inputs)`.
      params: its parameters, or their shapes.

    Returns:
      Kernel name -> exact whole number for one sample in one time step.
    """
    leaves = tree.named_leaves(params)
    return {
        kernel: math.prod(leaves[kernel].shape[:-1]) * math.prod(feed.outputs)
        for kernel, feed in flow.feeds.items()
    }


def feeding_rates(flow: Flow, counts: Counts) -> dict[str, float]:
    """Return the spikes per neuron and inference of what feeds each kernel, before any pooling.

    A kernel that hears the sum of several layers has the sum of their rates. One that hears the
    network's input has the events at each of its entries; signed ones count by magnitude.

    Args:
      flow: of the network, `net.flow(inputs)`.
      counts: over a data set.

    Returns:
      Kernel name -> rate `r`, >= 0, of the kernels whose input is spikes.

    Raises:
      UserError: if no spikes were counted for a layer that feeds a kernel.
    """
    samples, real = int(counts.num_samples), counts.multiplied
    rates = {}
    for kernel, feed in flow.feeds.items():
        if kernel in real:
            continue
        if missing := [source for source in feed.sources if source not in counts.spikes]:
            raise UserError(f"{kernel} is fed by {missing[0]!r}, whose spikes were not counted")
        heard = [counts.spikes[source] for source in feed.sources] or [counts.events[kernel]]
        totals = [np.asarray(each, np.float64) for each in heard]
        rates[kernel] = sum(float(each.sum()) / (each.size * samples) for each in totals)
    return rates


def rate_operations(operations: Mapping[str, int], rates: Mapping[str, float]) -> dict[str, float]:
    """Return the additions of a spiking network from rates, `OPS_SNN = r OPS_ANN`.

    >>> rate_operations({"conv1/kernel": 1000}, {"conv1/kernel": 2.5})
    {'conv1/kernel': 2500.0}

    Args:
      operations: kernel name -> `OPS_ANN`, of `ann_operations`.
      rates: kernel name -> spikes per neuron and inference of what feeds it, >= 0
        (`feeding_rates`); the kernels to count.

    Returns:
      Kernel name -> additions for one sample.

    Raises:
      UserError: if an unknown kernel is named, or a rate is negative or no number.
    """
    for name, rate in rates.items():
        if name not in operations:
            raise UserError(f"rates name {name!r}; known kernels: {', '.join(operations)}")
        check_range(f"rate of {name}", rate, 0, float("inf"), open_high=True)
    return {name: rate * operations[name] for name, rate in rates.items()}


def published_energy(
    net: Network, inputs: Inputs | Signal | jax.ShapeDtypeStruct, found: Evaluated | Counts
) -> dict[str, Any]:
    """Return the published counts of operations and energies of a network, for `Report.extra`.

    Args:
      net: the network.
      inputs: of the task, or an input, or its shape: what `net.flow` takes.
      found: from `train.evaluate` on these inputs; or its counts.

    Returns:
      ann_operations: `sum OPS_ANN`, of one step.
      rate_operations: `sum OPS_SNN` over the kernels whose input is spikes; 0 of an ANN.
      arrival_synops: additions by non-zero weights per sample, where behind an average pooling an
        entry that is not 0 is one event of its step.
      input_rates: kernel -> rate of what feeds it (`feeding_rates`).
      published_energy_pj, published_energy_pj_int32: of all weights, pJ per sample.
      sparse_energy_pj, sparse_energy_pj_int32: of the weights that are not 0, by density.
      convolution_density: share of the weights of all convolutions that are not 0; None if there is
        no convolution.

    Raises:
      UserError: of a wrapped foreign function, whose layers are not known.
    """
    counts = found if isinstance(found, Counts) else found.counts
    flow, leaves = net.flow(inputs), tree.named_leaves(net.params)
    dense, fed = ann_operations(flow, net.params), feeding_rates(flow, counts)
    kernels = [kernel for kernel in net.synapses if kernel in dense]
    rates = {kernel: fed[kernel] for kernel in kernels if kernel in fed}
    density = densities(net)
    left = {kernel: density[kernel] * dense[kernel] for kernel in kernels}
    real = [kernel for kernel in kernels if kernel not in rates]
    added = sum(rate_operations(dense, rates).values())
    heard = {kernel: counts.arrivals.get(kernel, counts.events[kernel]) for kernel in rates}
    exact = operations.synops_of_totals(net.synapses, leaves, heard)
    facts: dict[str, Any] = {
        "ann_operations": sum(dense.values()),
        "rate_operations": added,
        "arrival_synops": sum(exact.values()) / int(counts.num_samples),
        "input_rates": rates,
    }
    for suffix, table in TABLES.items():
        facts[f"published_energy_pj{suffix}"] = operations.energy(
            added, sum(dense[kernel] for kernel in real), table=table
        )
    for suffix, table in TABLES.items():
        facts[f"sparse_energy_pj{suffix}"] = operations.energy(
            sum(left[kernel] * rate for kernel, rate in rates.items()),
            sum(left[kernel] for kernel in real),
            table=table,
        )
    return facts | {"convolution_density": _convolution_density(leaves)}


def _convolution_density(leaves: Mapping[str, Any]) -> float | None:
    convolutions = [np.asarray(leaf) for leaf in leaves.values() if leaf.ndim == 4]
    size = sum(leaf.size for leaf in convolutions)
    return sum(int(np.count_nonzero(leaf)) for leaf in convolutions) / size if size else None
