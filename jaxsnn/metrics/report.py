"""What a network is worth and what it costs: accuracy, spikes, weights, operations, energy.

Shapes: `T` time steps, `B` samples, `C` classes. Fractions are in [0, 1], counts of spikes and
operations are sums over all time steps. Inside a compiled evaluation `accumulate` adds the activity
of each batch to `Counts`, whole numbers; on the host `report` turns the totals, the weights and the
synapses into one row of `results.json` and of the printed table.

Reference of the definitions: L. Deng et al., "Comprehensive SNN compression using ADMM optimization
and activity regularization", arXiv 1911.00822; S. Kundu et al., "Spike-Thrift", WACV 2021 (energy).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxsnn import coding, tree
from jaxsnn.errors import UserError
from jaxsnn.metrics import operations
from jaxsnn.metrics.counts import Counts, saturated_neurons, silent_neurons

if TYPE_CHECKING:
    pass

Row = dict[str, Any]  # one network in results.json

# The fields of a layer in `report`: those of its kernel, None for a layer of neurons without one,
# and those of its neurons, None for a synapse whose sums no neuron of its own turns into spikes.
LAYER_FIELDS = (
    *("shape", "density", "bits", "bytes", "synops", "macs"),
    *("neurons", "rate", "silent", "saturated"),
)


def densities(params: Any, where: str = "*/kernel") -> dict[str, float]:
    """Return the share of non-zero weights of each selected leaf, in [0, 1]."""
    return {
        name: np.count_nonzero(leaf) / leaf.size for name, leaf in _selected(params, where).items()
    }


def density(params: Any, where: str = "*/kernel") -> float:
    """Return the share of non-zero weights of all selected leaves together, in [0, 1]."""
    leaves = _selected(params, where).values()
    return sum(np.count_nonzero(leaf) for leaf in leaves) / sum(leaf.size for leaf in leaves)


def bits(leaf: Any) -> int:
    """Measure the bits of a weight, 1 to 8 or 32: see `coding.bits`."""
    return coding.bits(leaf)


def weight_bytes(leaf: Any) -> int:
    """Return the bytes that the packed file needs for a leaf: see `coding.num_bytes`."""
    return coding.num_bytes(leaf)


def report(
    name: str,
    *,
    synapses: Mapping[str, operations.Synapse],
    params: Any,
    counts: Counts,
    timesteps: int,
    accuracy: float | None = None,
    analog_input: Sequence[str] = (),
    cached_input: bool = True,
    seed: int | None = None,
    file_bytes: int | None = None,
) -> Row:
    """Measure a network: one row of `results.json`, counts per sample over all time steps.

    `density`, `bits` and the operations look at the kernels that `synapses` names; `bits` is the
    mean over their non-zero weights of the bits of each; `bit_ops` is the sum over kernels of
    SynOps times bits. `weight_bytes` sums all leaves, biases and norms included. `energy_pj` takes
    the float32 constants at 45 nm, `energy_pj_int32` the int32 ones.

    Args:
      name: of the row; `dense` for the baseline, `compressed` for the product.
      synapses: kernel name -> linear map (`Functional.synapses`).
      params: the weights, nested dictionary.
      counts: over the evaluation set, from `accumulate`.
      timesteps: number of time steps T.
      accuracy: on that set, in [0, 1].
      analog_input: names of the kernels whose input is real valued; they cost multiplications.
      cached_input: whether an analog input is constant in time, so that its layer is computed once
        and not T times.
      seed: of the run.
      file_bytes: size of the packed file.

    Returns:
      The row. What does not apply is None. Its field `layers` lists a dictionary for each layer:
      `name`, `LAYER_FIELDS`; there `bytes` counts the kernel alone.

    Raises:
      UserError: if an analog input is no kernel, nothing was counted, or a kernel has no events.
    """
    counts = jax.tree.map(np.asarray, counts)  # sums below are of int64, which is the host's
    samples = int(counts.num_samples)
    if samples == 0:
        raise UserError(f"report of {name!r}: no sample was counted, accumulate a batch first")
    if uncounted := sorted(set(synapses) - set(counts.events)):
        raise UserError(f"report of {name!r}: no events were counted for {', '.join(uncounted)}")
    if unknown := sorted(set(analog_input) - set(synapses)):
        known = ", ".join(synapses)
        raise UserError(f"analog input {', '.join(unknown)} is no kernel; kernels: {known}")
    leaves = {leaf: np.asarray(each) for leaf, each in tree.named_leaves(params).items()}
    shapes = {kernel: counts.events[kernel].shape for kernel in analog_input}
    events = {kernel: each for kernel, each in counts.events.items() if kernel not in shapes}
    additions = operations.synops_of_totals(synapses, leaves, events)
    products = operations.macs(synapses, leaves, shapes)
    uses = 1 if cached_input else timesteps

    width = {kernel: coding.bits(leaves[kernel]) for kernel in synapses}
    stored = {kernel: np.count_nonzero(leaves[kernel]) for kernel in synapses}
    neurons = sum(each.size for each in counts.spikes.values())
    spikes = sum(int(np.sum(each, dtype=np.int64)) for each in counts.spikes.values()) / samples
    synops = sum(additions.values()) / samples
    macs = uses * sum(products.values())
    firing = _firing(counts)
    layers = {
        kernel.removesuffix("/kernel"): {
            "shape": list(leaves[kernel].shape),
            "density": stored[kernel] / leaves[kernel].size,
            "bits": width[kernel],
            "bytes": coding.num_bytes(leaves[kernel]),
            "synops": additions.get(kernel, 0) / samples,
            "macs": uses * products.get(kernel, 0),
        }
        for kernel in synapses
    }
    return {
        "name": name,
        "accuracy": None if accuracy is None else float(accuracy),
        "density": sum(stored.values()) / sum(leaves[kernel].size for kernel in synapses),
        "bits": sum(stored[k] * width[k] for k in synapses) / max(sum(stored.values()), 1),
        "weight_bytes": sum(coding.num_bytes(leaf) for leaf in leaves.values()),
        "file_bytes": file_bytes,
        "timesteps": timesteps,
        "spike_rate": spikes / max(neurons * timesteps, 1),
        "spikes_per_sample": spikes,
        "synops": synops,
        "macs": macs,
        "bit_ops": sum(count * width[kernel] for kernel, count in additions.items()) / samples,
        "energy_pj": operations.energy(synops, macs, table=operations.ENERGY_45NM_FLOAT32),
        "energy_pj_int32": operations.energy(synops, macs, table=operations.ENERGY_45NM_INT32),
        "seed": seed,
        "layers": [
            {"name": layer}
            | dict.fromkeys(LAYER_FIELDS)
            | layers.get(layer, {})
            | firing.get(layer, {})
            for layer in layers | firing
        ],
    }


def _firing(counts: Counts) -> dict[str, Row]:
    """Return what each spiking layer's neurons did."""
    silent, saturated = silent_neurons(counts), saturated_neurons(counts)
    steps = counts.timesteps * int(counts.num_samples)
    return {
        name: {
            "neurons": spikes.size,
            "rate": float(np.mean(spikes, dtype=np.float64)) / steps,
            "silent": silent[name],
            "saturated": saturated[name],
        }
        for name, spikes in counts.spikes.items()
    }


def _selected(params: Any, where: str) -> dict[str, np.ndarray]:
    """Return the leaves that a pattern selects, on the host."""
    leaves = tree.named_leaves(params)
    return {name: np.asarray(leaves[name]) for name in tree.match({where: True}, params)}
