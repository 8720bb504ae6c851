"""Spikes of other libraries, each rewritten in numpy from its source, for 50 steps.

The libraries themselves are compared in the optional tests.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn.neurons import PLIF, AdaptiveLIF, SynapticLIF, unroll

STEPS = 50
CURRENT = np.random.default_rng(0).normal(0.25, 0.5, (STEPS, 2, 4))


def synaptic(current, alpha, beta, threshold):
    """snnTorch 0.9, `Synaptic`, reset_mechanism="subtract"."""
    syn = mem = np.zeros(current.shape[1:])
    for x in current:
        reset = mem - threshold > 0
        syn = alpha * syn + x
        mem = beta * mem + syn - reset * threshold
        yield mem - threshold


def norse_lif(current, tau_mem, tau_syn, threshold, *, jump_first):
    """Norse, `lif_feed_forward_step`, dt = 1; older releases take the jump last."""
    v = i = np.zeros(current.shape[1:])
    for x in current:
        i_jump = i + x if jump_first else i
        v_decayed = v + (-v + i_jump) / tau_mem
        i_decayed = i_jump - i_jump / tau_syn
        z = v_decayed - threshold > 0
        yield v_decayed - threshold
        v = (1 - z) * v_decayed
        i = i_decayed if jump_first else i_decayed + x


def norse_lsnn(current, tau_mem, tau_adapt, beta, threshold):
    """Norse, `lsnn_feed_forward_step`, dt = 1 and tau_syn = 1, so that i is the last input."""
    v = i = np.zeros(current.shape[1:])
    b = np.full(current.shape[1:], threshold)
    for x in current:
        v_decayed = v + (-v + i) / tau_mem
        b_decayed = b + (threshold - b) / tau_adapt
        z = v_decayed - b_decayed > 0
        yield v_decayed - b_decayed
        v, b, i = (1 - z) * v_decayed, b_decayed + z * beta, x


def parametric(current, w, threshold, *, decay_input, v_reset):
    """SpikingJelly 0.0.0.0.14, `ParametricLIFNode`."""
    v, share = np.zeros(current.shape[1:]), 1 / (1 + np.exp(-w))
    for x in current:
        v = v + (x - v) * share if decay_input else v - v * share + x
        spike = v - threshold >= 0
        yield v - threshold
        v = (1 - spike) * v if v_reset is not None else v - spike * threshold


def sinabs_alif(current, alpha_mem, alpha_adapt, adapt_scale, b0):
    """sinabs 2, `alif_forward_single` with `SingleSpike` and `MembraneSubtract`."""
    v = b = np.zeros(current.shape[1:])
    for x in current:
        v = alpha_mem * v + (1 - alpha_mem) * x
        threshold = b0 + adapt_scale * b
        spike = v - threshold >= 0
        yield v - threshold
        v = v - spike * threshold
        b = alpha_adapt * b + (1 - alpha_adapt) * spike


def shifted(current):
    """Return a current that comes a step late."""
    return np.concatenate([np.zeros_like(current[:1]), current[:-1]])


W = np.asarray([-1.0, 0.0, 0.5, 1.0])
RHO = np.asarray([0.9, 0.95, 0.5, 0.0])
ROWS = {
    "snnTorch Synaptic": (
        synaptic(CURRENT, 0.7, 0.8, 1.0),
        SynapticLIF(0.8, 1.0, 0.7, "soft_undecayed"),
        CURRENT,
    ),
    "Norse LIF": (
        norse_lif(2 * CURRENT, 4.0, 2.0, 0.5, jump_first=True),
        SynapticLIF(0.75, 0.5, 0.5),
        CURRENT / 2,
    ),
    "Norse LIF, older": (
        norse_lif(2 * CURRENT, 4.0, 2.0, 0.5, jump_first=False),
        SynapticLIF(0.75, 0.5, 0.5, delayed=True),
        CURRENT / 2,
    ),
    "Norse LSNN": (
        norse_lsnn(2 * CURRENT, 2.0, 10.0, 0.3, 0.5),
        AdaptiveLIF(0.5, 0.5, adaptation=0.9 * 0.3, adaptation_decay=0.9),
        shifted(CURRENT),
    ),
    "SpikingJelly PLIF": (
        parametric(CURRENT, W, 0.25, decay_input=True, v_reset=0.0),
        PLIF(W, 0.25, strict=False),
        CURRENT,
    ),
    "SpikingJelly PLIF, soft": (
        parametric(CURRENT, W, 0.5, decay_input=False, v_reset=None),
        PLIF(W, 0.5, "soft", strict=False, input_gain=False),
        CURRENT,
    ),
    "sinabs ALIF": (
        sinabs_alif(CURRENT, 0.5, RHO, 0.8, 0.3),
        AdaptiveLIF(0.5, 0.3, (1 - RHO) * 0.8, RHO, "soft", strict=False),
        CURRENT / 2,
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_spikes_are_those_of_the_library(name):
    distances, neuron, current = ROWS[name]
    distances = np.stack(list(distances))
    assert np.abs(distances).min() > 1e-5  # rounding decides no spike
    spikes = unroll(neuron, jnp.asarray(current, jnp.float32))[0]
    np.testing.assert_array_equal(spikes, distances > 0)
    assert 0.05 < spikes.mean() < 0.6
