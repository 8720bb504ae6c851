"""Losses: of the read-out against the labels, and of the spikes that it took.

Read-outs are `[T, B, classes]`; the score of a class is its mean over time (the firing rate, or the
accumulated potential divided by T). Labels are integers `[B]`.
"""

from collections.abc import Callable, Collection

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxsnn.errors import UserError
from jaxsnn.layers import Activity


def rate(readout: Array) -> Array:
    """Return the scores of the classes, the mean over time, `[B, classes]`."""
    return readout.mean(0)


def mean_squared_error(readout: Array, labels: Array) -> Array:
    """Return `mean (rate - onehot)^2` over batch and classes (Wu et al., STBP, 2018)."""
    scores = rate(readout)
    return jnp.mean(jnp.square(scores - jax.nn.one_hot(labels, scores.shape[-1])))


def cross_entropy(readout: Array, labels: Array) -> Array:
    """Return the softmax cross-entropy of the scores, its mean over the batch."""
    return optax.softmax_cross_entropy_with_integer_labels(rate(readout), labels).mean()


READOUT = {"mse": mean_squared_error, "ce": cross_entropy}


def by_name(name: str) -> Callable[[Array, Array], Array]:
    """Return the read-out loss of that name, "mse" or "ce"."""
    if name not in READOUT:
        raise UserError(f"loss {name!r} is unknown; choose one of {', '.join(READOUT)}")
    return READOUT[name]


def spike_count(activity: Activity, timesteps: int, *, exclude: Collection[str] = ()) -> Array:
    """Return the mean firing rate, spikes per neuron and step: the activity regularizer.

        R = 1 / (B T sum_l N_l) * sum over batch, time, layers and neurons of o

    Input spikes are data, not activity, and do not count. Deng et al., 1911.00822; the paper's
    normalisation is not public, this one is ours.

    Args:
      activity: what the network did.
      timesteps: T.
      exclude: layers that are free to fire, such as the output, whose target is a spike.

    Returns:
      A scalar in [0, 1]; its gradient is the spikes' surrogate.
    """
    layers = [spikes for name, spikes in activity.spikes.items() if name not in exclude]
    if not layers:
        raise UserError(f"no spiking layer is left after excluding {sorted(exclude)}")
    total = jnp.stack([spikes.sum() for spikes in layers]).sum()
    return total / (timesteps * sum(spikes.size for spikes in layers))
