"""Neurons of each paper, step by step: short traces worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import surrogate
from jaxsnn.neurons import LIF, unroll
from jaxsnn.neurons.lif import ORDERS, integrate_and_fire
from jaxsnn.neurons.resets import RESETS

NORMALIZED = surrogate.triangle(1.0, 0.5, normalized=True)
PLAIN = surrogate.triangle(2.0)


def trace(neuron, drive, steps):
    """Return spikes and potentials before reset of one neuron under a constant drive."""
    spikes, potential, _ = unroll(neuron, jnp.full((1, 1), drive), timesteps=steps)
    return spikes[:, 0, 0].astype(int).tolist(), potential[:, 0, 0]


@pytest.mark.long
def test_admm_traces():
    """Hard reset, decay 0.5, threshold 0.5: drive 0.3 fires at step 3, 0.4 at every second one."""
    neuron = LIF(0.5, 0.5)
    spikes, potential = trace(neuron, 0.3, 5)
    assert spikes == [0, 0, 1, 0, 0]
    np.testing.assert_allclose(potential, [0.3, 0.45, 0.525, 0.3, 0.45], rtol=1e-6)
    spikes, potential = trace(neuron, 0.4, 4)
    assert spikes == [0, 1, 0, 1]
    np.testing.assert_allclose(potential, [0.4, 0.6, 0.4, 0.6], rtol=1e-6)


def test_spatiotemporal_trace_integrate_then_fire():
    """Soft reset and decay after it; the paper prints potentials after the reset."""
    neuron = LIF(0.9901, 1.0, reset="soft")
    spikes, before = trace(neuron, 0.6, 4)
    assert spikes == [0, 1, 0, 1]
    after = before - jnp.asarray(spikes)
    np.testing.assert_allclose(after, [0.6, 0.19406, 0.792139, 0.384297], atol=1e-6)


def test_spatiotemporal_trace_fire_then_integrate():
    neuron = LIF(0.9901, 1.0, reset="soft_undecayed", order="fire_then_integrate")
    spikes, potential = trace(neuron, 0.6, 4)
    assert spikes == [0, 0, 1, 0]
    np.testing.assert_allclose(potential, [0.6, 1.19406, 0.782239, 1.374495], atol=1e-6)


def test_spike_thrift_traces_exact_in_binary():
    """IF, threshold 1, drive 0.625: spikes at steps 3, 5, 6 one step late, else at 2, 4, 5."""
    late = integrate_and_fire(reset="soft_undecayed", order="fire_then_integrate")
    spikes, potential = trace(late, 0.625, 6)
    assert [t + 1 for t, o in enumerate(spikes) if o] == [3, 5, 6]
    # What a step sees when it decides is what the step before left.
    assert [0.0, *potential.tolist()[:-1]] == [0, 0.625, 1.25, 0.875, 1.5, 1.125]
    for reset in ("soft", "soft_undecayed"):  # without a leak they are the same
        spikes, potential = trace(integrate_and_fire(reset=reset), 0.625, 6)
        assert [t + 1 for t, o in enumerate(spikes) if o] == [2, 4, 5]
        assert potential.tolist() == [0.625, 1.25, 0.875, 1.5, 1.125, 0.75]


@pytest.mark.long
@pytest.mark.parametrize("order", ORDERS)
def test_spike_thrift_rates(order):
    """A drive of 0.25 gives 24 spikes in 100 steps; one of 2 or more never more than one a step."""
    neuron = integrate_and_fire(order=order)
    assert sum(trace(neuron, 0.25, 100)[0]) == 24
    for drive in (2.0, 5.0):
        spikes, potential = trace(neuron, drive, 40)
        late = 1 if order == "fire_then_integrate" else 0
        assert spikes == [0] * late + [1] * (40 - late)
        assert float(potential[-1]) == 40 * drive - 39  # the residual grows


def test_qp_snn_traces():
    """Hard reset, decay 0.5, threshold 1: drive 0.6 fires every third step, 1.2 at each."""
    neuron = LIF(0.5, 1.0, surrogate=surrogate.triangle())
    spikes, potential = trace(neuron, 0.6, 6)
    assert spikes == [0, 0, 1, 0, 0, 1]
    np.testing.assert_allclose(potential, [0.6, 0.9, 1.05] * 2, rtol=1e-6)
    assert trace(neuron, 1.2, 8)[0] == [1] * 8


def test_qp_snn_trace_on_the_threshold():
    """Drive 0.5 climbs to 1 and reaches it in float32: silent if strict, a spike if not."""
    spikes, potential = trace(LIF(0.5, 1.0), 0.5, 40)
    assert float(potential[-1]) == 1.0 and sum(spikes) == 0
    spikes, potential = trace(LIF(0.5, 1.0, strict=False), 0.5, 40)
    assert sum(spikes) == 1 and float(potential[spikes.index(1)]) == 1.0


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("reset", RESETS)
def test_scaling_drive_and_threshold_leaves_spikes(order, reset):
    current = jax.random.normal(jax.random.key(0), (12, 2, 5)) + 0.3
    neuron = LIF(0.75, 1.0, reset=reset, order=order)
    spikes, potential, _ = unroll(neuron, current)
    scaled, larger, _ = unroll(LIF(0.75, 4.0, reset=reset, order=order), 4 * current)
    np.testing.assert_array_equal(spikes, scaled)  # a power of two, so exactly
    np.testing.assert_array_equal(4 * potential, larger)
    assert 0 < spikes.mean() < 1
