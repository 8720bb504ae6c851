"""Accuracy, spikes and events: what a network did, counted exactly.

Shapes: `T` time steps, `B` samples, `C` classes. Fractions are in [0, 1], counts of spikes and
operations are sums over all time steps. Inside a compiled evaluation `accumulate` adds the activity
of each batch to `Counts`, whole numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from jaxsnn.layers import Activity

__all__ = [
    "Counts",
    "accumulate",
    "accuracy",
    "accuracy_over_time",
    "no_counts",
    "saturated_neurons",
    "silent_neurons",
    "spike_rate",
    "spike_rates",
    "spikes_per_sample",
]

OFF_WHOLE = 1e-4  # sums of spikes behind an average pooling are whole up to so much rounding


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


def spike_rates(activity: Activity) -> dict[str, jax.Array]:
    """Return the spikes per neuron and time step of each layer, float32 `[]` in [0, 1]."""
    return {name: jnp.mean(spikes) / activity.steps for name, spikes in activity.spikes.items()}


def spike_rate(activity: Activity) -> jax.Array:
    """Return the spikes per neuron and time step of the whole network, float32 `[]` in [0, 1]."""
    layers = activity.spikes.values()
    neurons = sum(spikes[0].size for spikes in layers)
    return spikes_per_sample(activity) / (float(max(neurons, 1)) * activity.steps)


def spikes_per_sample(activity: Activity) -> jax.Array:
    """Return the spikes of the whole network for one sample, mean over the batch, float32 `[]`."""
    layers = activity.spikes.values()
    return jnp.asarray(sum(jnp.sum(spikes) / spikes.shape[0] for spikes in layers), jnp.float32)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Counts:
    """Spikes and events of many samples, whole numbers summed over samples and time.

    Attributes:
      spikes: layer -> spikes of each neuron, int32 `[*neurons]`.
      events: kernel -> events at each input, int32 `[*input]`; 0 where the input is analog.
      num_samples: int32 `[]`.
      steps: time steps that were counted, summed over the samples, int32 `[]`.
      arrivals: kernel behind an average pooling -> steps at which an input was not 0, int32
        `[*input]`.
      products: product of spikes with spikes -> additions at each token, int32 `[L]`.
      broken: kernel -> whether an event of it was no whole number, bool `[]`.
      analog: kernels whose input is real valued; they cost multiplications.
      cached: those of them that are computed once a sample and not T times.
    """

    spikes: dict[str, jax.Array]
    events: dict[str, jax.Array]
    num_samples: jax.Array
    steps: jax.Array
    arrivals: dict[str, jax.Array]
    products: dict[str, jax.Array]
    broken: dict[str, jax.Array]
    analog: tuple[str, ...] = field(metadata={"static": True})
    cached: tuple[str, ...] = field(metadata={"static": True})

    @property
    def timesteps(self) -> int | float:
        """Return T, the time steps that count of a sample; their mean if samples stop early."""
        steps, samples = int(self.steps), max(int(self.num_samples), 1)
        return steps / samples if steps % samples else steps // samples

    @property
    def multiplied(self) -> tuple[str, ...]:
        """Return the kernels that cost multiplications: analog ones, and those not whole.

        An event that is no whole number is no spike, whoever forgot to call the input analog; its
        kernel multiplies at every step.
        """
        broken = (name for name, found in self.broken.items() if np.any(np.asarray(found)))
        return tuple(dict.fromkeys([*self.analog, *broken]))


def no_counts(activity: Activity) -> Counts:
    """Return zeros for the layers of `activity`, which may be made of shapes (`jax.eval_shape`)."""
    counted = activity.spikes, activity.events, activity.arrivals, activity.products
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], jnp.int32), counted)
    spikes, events, arrivals, products = zeros
    return Counts(
        spikes=spikes,
        events=events,
        num_samples=jnp.zeros((), jnp.int32),
        steps=jnp.zeros((), jnp.int32),
        arrivals=arrivals,
        products=products,
        broken={kernel: jnp.zeros((), bool) for kernel in events},
        analog=activity.analog,
        cached=activity.cached,
    )


def accumulate(counts: Counts, activity: Activity, *, valid: jax.Array | None = None) -> Counts:
    """Add the activity of a batch to the counts; pure, for use in a scan.

    Counts are exact up to `2**31` for each neuron; signed events count by magnitude. An event that
    is no whole number, of an input that nobody called analog, is noted in `broken`.

    Args:
      counts: from `no_counts`, or of the batches before.
      activity: of a batch of `B` samples.
      valid: boolean `[B]`, False for samples that only fill up the batch; None for none.

    Returns:
      The new counts.
    """
    leaves = jax.tree.leaves((activity.events, activity.spikes))
    size = leaves[0].shape[0] if leaves else (0 if valid is None else valid.shape[0])
    valid = jnp.ones(size, bool) if valid is None else valid

    def add(total: jax.Array, leaf: jax.Array) -> jax.Array:
        chosen = valid.reshape((-1,) + (1,) * (leaf.ndim - 1))
        whole = jnp.rint(jnp.abs(leaf)).astype(jnp.int32)
        return total + jnp.sum(jnp.where(chosen, whole, 0), axis=0)

    spiking = {k: x for k, x in activity.events.items() if k not in activity.analog}
    events = {
        kernel: add(total, spiking[kernel]) if kernel in spiking else total
        for kernel, total in counts.events.items()
    }
    counted = jnp.sum(valid, dtype=jnp.int32)
    off = {k: _off_whole(x) for k, x in spiking.items()}
    broken = {k: b | jnp.any(off[k]) if k in off else b for k, b in counts.broken.items()}
    return replace(
        counts,
        spikes=jax.tree.map(add, counts.spikes, activity.spikes),
        events=events,
        num_samples=counts.num_samples + counted,
        steps=counts.steps + counted * activity.steps,
        arrivals=jax.tree.map(add, counts.arrivals, activity.arrivals),
        products=jax.tree.map(add, counts.products, activity.products),
        broken=broken,
    )


def _off_whole(events: jax.Array) -> jax.Array:
    """Return where events are no whole numbers; large sums may be off by as many times more."""
    return jnp.abs(events - jnp.rint(events)) > OFF_WHOLE * jnp.maximum(jnp.abs(events), 1.0)


def silent_neurons(counts: Counts) -> dict[str, int]:
    """Count the neurons of each layer that never fired."""
    return {name: int(np.sum(np.asarray(s) == 0)) for name, s in counts.spikes.items()}


def saturated_neurons(counts: Counts) -> dict[str, int]:
    """Count the neurons of each layer that fired at every time step of every sample."""
    always = int(counts.steps)
    return {name: int(np.sum(np.asarray(s) == always)) for name, s in counts.spikes.items()}
