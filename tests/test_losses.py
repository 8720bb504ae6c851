"""Losses of read-outs and of spikes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import losses
from jaxsnn.errors import UserError
from jaxsnn.layers import Activity

READOUT = jnp.asarray([[[1.0, 0, 0], [0, 1, 1]], [[1, 0, 1], [0, 1, 0]]])  # [T=2, B=2, 3]
LABELS = jnp.asarray([0, 2])


def test_scores_are_means_over_time():
    assert losses.rate(READOUT).tolist() == [[1, 0, 0.5], [0, 1, 0.5]]


def test_mean_squared_error_is_that_of_rates_and_onehot_targets():
    # Errors (0, 0, 0.5) and (0, 1, -0.5) over 6 numbers.
    assert float(losses.mean_squared_error(READOUT, LABELS)) == pytest.approx(1.5 / 6)


def test_cross_entropy_is_that_of_the_softmax_of_rates():
    scores = np.asarray(losses.rate(READOUT), np.float64)
    expected = np.mean(np.log(np.exp(scores).sum(1)) - scores[[0, 1], [0, 2]])
    assert float(losses.cross_entropy(READOUT, LABELS)) == pytest.approx(expected, rel=1e-6)


def test_losses_by_name():
    assert losses.by_name("mse") is losses.mean_squared_error
    assert losses.by_name("ce") is losses.cross_entropy
    with pytest.raises(UserError, match="loss 'hinge' is unknown; choose one of mse, ce"):
        losses.by_name("hinge")


def activity(spikes):
    return Activity(spikes, {}, {}, {}, {})


def test_activity_trace_all_ones():
    """All-ones spikes give R = 1, and dR/do = 1/(B T N) for each of them."""
    timesteps, batch = 5, 2
    spikes = {
        "conv1": jnp.ones((timesteps, batch, 3, 4)),
        "dense1": jnp.ones((timesteps, batch, 8)),
    }

    def regularizer(spikes):
        return losses.spike_count(activity({k: v.sum(0) for k, v in spikes.items()}), timesteps)

    value, gradients = jax.value_and_grad(regularizer)(spikes)
    assert float(value) == 1.0
    for gradient in gradients.values():
        np.testing.assert_allclose(gradient, 1 / (batch * timesteps * 20), rtol=1e-6)


def test_excluded_layers_are_free_to_fire():
    spikes = activity({"dense1": jnp.full((2, 3), 1.0), "dense2": jnp.full((2, 5), 4.0)})
    assert float(losses.spike_count(spikes, 4)) == pytest.approx((6 + 40) / (4 * 16))
    assert float(losses.spike_count(spikes, 4, exclude=("dense2",))) == pytest.approx(0.25)
    with pytest.raises(UserError, match=r"after excluding \['dense1', 'dense2'\]"):
        losses.spike_count(spikes, 4, exclude=("dense1", "dense2"))


def test_silence_costs_nothing():
    assert float(losses.spike_count(activity({"dense1": jnp.zeros((2, 3))}), 4)) == 0.0
