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
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn import coding, tree
from jaxsnn.errors import UserError
from jaxsnn.metrics import operations

if TYPE_CHECKING:
    from jaxsnn.layers import Activity

Row = dict[str, Any]  # one network in results.json

# The fields of a layer in `report`: those of its kernel, None for a layer of neurons without one,
# and those of its neurons, None for a synapse whose sums no neuron of its own turns into spikes.
LAYER_FIELDS = (
    *("shape", "density", "bits", "bytes", "synops", "macs"),
    *("neurons", "rate", "silent", "saturated"),
)


def accuracy(readout: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the share of samples whose largest read-out, averaged over time, is the label's.

    Args:
      readout: `[T, B, C]`.
      labels: whole numbers `[B]`.

    Returns:
      float32 `[]` in [0, 1].
    """
    return jnp.mean(jnp.argmax(jnp.mean(readout, axis=0), axis=-1) == labels)


def accuracy_over_time(readout: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the accuracy of a decision after 1, 2, ..., T time steps.

    Args:
      readout: `[T, B, C]`; the decision after step t averages the first t.
      labels: whole numbers `[B]`.

    Returns:
      float32 `[T]` in [0, 1]; the last one is `accuracy`.
    """
    decisions = jnp.argmax(jnp.cumsum(readout, axis=0), axis=-1)
    return jnp.mean(decisions == jnp.expand_dims(labels, 0), axis=1)


def spike_rates(activity: Activity, timesteps: int) -> dict[str, jax.Array]:
    """Return the spikes per neuron and time step of each layer, float32 `[]` in [0, 1]."""
    return {name: jnp.mean(spikes) / timesteps for name, spikes in activity.spikes.items()}


def spike_rate(activity: Activity, timesteps: int) -> jax.Array:
    """Return the spikes per neuron and time step of the whole network, float32 `[]` in [0, 1]."""
    layers = activity.spikes.values()
    neurons = sum(spikes[0].size for spikes in layers)
    return spikes_per_sample(activity) / (max(neurons, 1) * timesteps)


def spikes_per_sample(activity: Activity) -> jax.Array:
    """Return the spikes of the whole network for one sample, mean over the batch, float32 `[]`."""
    layers = activity.spikes.values()
    return jnp.asarray(sum(jnp.sum(spikes) / spikes.shape[0] for spikes in layers), jnp.float32)


class Counts(NamedTuple):
    """Spikes and events of many samples, whole numbers summed over samples and time."""

    spikes: dict[str, jax.Array]  # layer -> spikes of each neuron, int32 [*neurons]
    events: dict[str, jax.Array]  # kernel -> events at each input, int32 [*input]; see `accumulate`
    num_samples: jax.Array  # int32 []
    # kernel behind an average pooling -> steps at which an input was not 0, int32 [*input]
    arrivals: dict[str, jax.Array] = {}


def no_counts(activity: Activity) -> Counts:
    """Return zeros for the layers of `activity`, which may be made of shapes (`jax.eval_shape`)."""
    counted = activity.spikes, activity.events, activity.arrivals
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], jnp.int32), counted)
    spikes, events, arrivals = zeros
    return Counts(spikes, events, jnp.zeros((), jnp.int32), arrivals)


def accumulate(counts: Counts, activity: Activity, *, valid: jax.Array | None = None) -> Counts:
    """Add the activity of a batch to the counts; pure, for use in a scan.

    Counts are exact up to `2**31` for each neuron; signed events count by magnitude. The events of
    a synapse with real-valued input are no counts: they are rounded towards zero here, and nothing
    reads them.

    Args:
      counts: from `no_counts`, or of the batches before.
      activity: of a batch of `B` samples.
      valid: boolean `[B]`, False for samples that only fill up the batch; None for none.

    Returns:
      The new counts.
    """
    size = next(iter(activity.events.values())).shape[0]
    valid = jnp.ones(size, bool) if valid is None else valid

    def add(total: jax.Array, leaf: jax.Array) -> jax.Array:
        chosen = valid.reshape((-1,) + (1,) * (leaf.ndim - 1))
        return total + jnp.sum(jnp.where(chosen, leaf, 0), axis=0, dtype=jnp.int32)

    return Counts(
        jax.tree.map(add, counts.spikes, activity.spikes),
        jax.tree.map(add, counts.events, jax.tree.map(jnp.abs, activity.events)),
        counts.num_samples + jnp.sum(valid, dtype=jnp.int32),
        jax.tree.map(add, counts.arrivals, activity.arrivals),
    )


def silent_neurons(counts: Counts) -> dict[str, int]:
    """Count the neurons of each layer that never fired."""
    return {name: int(np.sum(np.asarray(s) == 0)) for name, s in counts.spikes.items()}


def saturated_neurons(counts: Counts, timesteps: int) -> dict[str, int]:
    """Count the neurons of each layer that fired at every time step of every sample."""
    always = timesteps * int(counts.num_samples)
    return {name: int(np.sum(np.asarray(s) == always)) for name, s in counts.spikes.items()}


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
    firing = _firing(counts, timesteps)
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


def _firing(counts: Counts, timesteps: int) -> dict[str, Row]:
    """Return what each spiking layer's neurons did."""
    silent, saturated = silent_neurons(counts), saturated_neurons(counts, timesteps)
    steps = timesteps * int(counts.num_samples)
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
