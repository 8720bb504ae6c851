"""Counts against hand counts; rounding is forgiven, real values are noticed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsnn import Network, layers
from jaxsnn.encode import bernoulli
from jaxsnn.layers import Activity
from jaxsnn.metrics import counts as counting
from jaxsnn.neurons import LIF


def activity(spikes=None, events=None, **facts):
    return Activity(spikes=spikes or {}, events=events or {}, **{"timesteps": 4} | facts)


def counted(activity):
    return counting.accumulate(counting.no_counts(activity), activity)


def test_accuracy_takes_the_mean_over_time():
    readout = jnp.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 3.0], [0.0, 1.0]]])  # T=2, B=2, C=2
    labels = jnp.array([1, 1])
    assert counting.accuracy(readout, labels) == 1.0
    np.testing.assert_array_equal(counting.accuracy_over_time(readout, labels), [0.5, 1.0])


def test_rates_of_spikes_per_layer_and_whole():
    found = activity({"a": jnp.ones((2, 3)), "b": 4 * jnp.ones((2, 1))})
    assert counting.spike_rates(found) == {"a": 0.25, "b": 1.0}
    assert counting.spikes_per_sample(found) == 7.0
    assert counting.spike_rate(found) == 7 / 16
    assert counting.spike_rate(activity()) == 0.0


def test_all_ones_is_a_rate_of_one():  # admm.md, oracle 11
    assert counting.spike_rate(activity({"a": jnp.full((3, 5), 8.0)}, timesteps=8)) == 1.0


def test_counts_leave_out_filling_samples_and_find_silent_and_saturated_neurons():
    spikes = jnp.array([[4.0, 0.0, 1.0], [4.0, 0.0, 3.0], [2.0, 2.0, 2.0]])
    batch = activity({"a": spikes}, {"a/kernel": spikes})
    shapes = jax.eval_shape(lambda: batch)
    add = jax.jit(counting.accumulate)
    counts = add(counting.no_counts(shapes), batch, valid=jnp.array([True, True, False]))
    counts = add(counts, batch, valid=jnp.array([True, False, False]))
    np.testing.assert_array_equal(counts.spikes["a"], [12, 0, 5])
    np.testing.assert_array_equal(counts.events["a/kernel"], [12, 0, 5])
    assert counts.num_samples == 3
    assert counting.silent_neurons(counts) == {"a": 1}
    assert counting.saturated_neurons(counts) == {"a": 1}
    assert counting.accumulate(counts, batch).num_samples == 6


def test_signed_events_count_by_magnitude():
    counts = counted(activity(events={"dense1/kernel": jnp.asarray([[3.0], [-2.0]])}))
    assert counts.events["dense1/kernel"].tolist() == [5] and counts.num_samples == 2


def test_real_values_that_nobody_called_analog_are_noticed():
    events = {"a/kernel": jnp.asarray([[0.25, 1.0]]), "b/kernel": jnp.asarray([[3.0, 1.0]])}
    assert counted(activity(events=events)).multiplied == ("a/kernel",)
    known = counted(activity(events=events, analog=("a/kernel",), cached=("a/kernel",)))
    assert known.multiplied == ("a/kernel",) and not known.broken["a/kernel"]
    assert known.events["a/kernel"].tolist() == [0, 0]


@pytest.mark.parametrize("value", [1.0 - 1e-6, 7.00003, 204_800.03])
def test_an_event_that_is_whole_up_to_rounding_counts_as_whole(value):
    counts = counted(activity(events={"a/kernel": jnp.full((3, 1), value)}))
    assert not counts.broken["a/kernel"] and counts.multiplied == ()
    assert counts.events["a/kernel"].tolist() == [3 * round(value)]


class Pooled(nnx.Module):
    """A convolution, an average over 3 x 3 neurons or over all pixels, a read-out."""

    def __init__(self, pool, inputs):
        rngs, neuron = nnx.Rngs(0), LIF(0.5)
        self.conv = layers.Conv((9, 9, 1), 4, neurons=neuron, rngs=rngs)
        self.pool = pool
        self.out = layers.Dense(inputs, 3, neurons=layers.Integrator(), rngs=rngs)
        self.conv.kernel[...] = self.conv.kernel[...] * 6

    def __call__(self, x, tape):
        spikes = self.conv(x, tape)
        if self.pool is None:
            return self.out(layers.mean_pixels(spikes), tape)
        return self.out(layers.Flatten()(self.pool(spikes, tape), tape), tape)


@pytest.mark.long
@pytest.mark.parametrize(
    ("pool", "inputs"), [(layers.AveragePool(3), 36), (None, 4)], ids=["3x3", "all pixels"]
)
def test_behind_an_average_every_spike_is_one_event(pool, inputs):
    net = Network.of(Pooled(pool, inputs))
    x = bernoulli(jax.random.key(1), jnp.full((5, 9, 9, 1), 0.4), 40)
    counts = counted(jax.jit(net)(x).activity)
    spikes = np.asarray(counts.spikes["conv"])
    assert spikes.sum() > 100 and counts.multiplied == ()
    assert np.sum(counts.events["out/kernel"]) == spikes.sum()
    if pool is None:
        np.testing.assert_array_equal(counts.events["out/kernel"], spikes.sum((0, 1)))
    else:
        windows = spikes.reshape(3, 3, 3, 3, 4).sum((1, 3))
        np.testing.assert_array_equal(counts.events["out/kernel"], windows.reshape(-1))
