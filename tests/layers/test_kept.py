"""Spikes that wait for the reverse pass as bytes: the same gradients, a quarter of the memory."""

import importlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import layers, models, neurons, surrogate
from jaxsnn.encode import Signal
from jaxsnn.layers import kept
from jaxsnn.layers.convolution import convolve

synapses = importlib.import_module("jaxsnn.layers.synapses")  # a function hides it

T, B = 3, 5


@pytest.fixture
def as_on_gpu(monkeypatch):
    """Let JAX say that it computes on a GPU."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def random(*shape):
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("weigh", [jnp.matmul, convolve], ids=["product", "convolution"])
def test_gradients_are_the_same_bit_for_bit(weigh):
    shapes = [(B, 6), (6, 4)] if weigh is jnp.matmul else [(B, 6, 6, 2), (3, 3, 2, 4)]
    spikes, kernel = jnp.asarray(random(*shapes[0]) > 0.3, jnp.float32), random(*shapes[1])

    def gradients(function):
        def loss(spikes, kernel):
            return jnp.sin(function(spikes, kernel)).sum()

        return jax.jit(jax.grad(loss, (0, 1)))(spikes, kernel)

    plain, ours = gradients(weigh), gradients(partial(kept.weigh_spikes, weigh))
    jax.tree.map(np.testing.assert_array_equal, plain, ours)
    assert float(jnp.abs(plain[1]).max()) > 0


def network(dtype=jnp.float32):
    """Return a loss of parameters, and these, of a network with layers of all kinds."""
    lif = neurons.LIF(0.5, 0.5, surrogate=surrogate.triangle(2.0))
    net = models.build("4C3-3C3-MP2-4C3-AP2-6-3", (8, 8, 2), lif, seed=1, dtype=dtype)
    x = jnp.asarray(random(T, B, 8, 8, 2) > 0.2, jnp.float32)

    def loss(params):
        return jnp.square(net.replace(params=params)(x, train=True).readout.mean(0) - 0.3).sum()

    return loss, net.params


def residuals(loss, params):
    """Return what the forward pass keeps of every step: [(dtype, shape)]."""
    found = jax.tree.leaves(jax.eval_shape(lambda p: jax.vjp(loss, p)[1], params))
    return [(each.dtype, each.shape) for each in found if each.size >= T * B * 2]


@pytest.mark.usefixtures("as_on_gpu")
def test_a_network_keeps_bytes_and_one_potential_a_layer():
    loss, params = network()
    wide = [shape for dtype, shape in residuals(loss, params) if dtype == jnp.float32]
    potentials = [shape for shape in wide if shape[:2] == (T, B)]
    assert len(potentials) == 5  # of each layer
    # Else only the input, and what the average pooling gives, whose numbers are no spikes.
    assert [shape for shape in wide if shape[0] == T * B] == [(T * B, 8, 8, 2), (T * B, 16)]
    bits = [shape for dtype, shape in residuals(loss, params) if dtype == jnp.bool_]
    assert {(T * B, 8, 8, 4), (T * B, 4, 4, 3), (T * B, 6)} <= set(bits)


@pytest.mark.slow  # compiles a network twice; the function itself is above
def test_a_network_learns_the_same_from_bytes(monkeypatch):
    loss, params = network()
    plain = jax.jit(jax.value_and_grad(loss))(params)
    monkeypatch.setattr(synapses, "pays", lambda dtype: True)
    ours = jax.jit(jax.value_and_grad(lambda p: loss(p)))(params)
    jax.tree.map(np.testing.assert_array_equal, plain, ours)


def test_what_is_made_of_spikes_is_not_taken_for_spikes():
    tape, value = layers.Tape(train=True), jnp.ones((T, B, 4))
    tape.note_spikes(value)
    assert tape.are_spikes(value) and not tape.are_spikes(2 * value)
    tape.note_spikes(3 * value, of=2 * value)
    assert len(tape.spikes) == 1


@pytest.mark.usefixtures("as_on_gpu")
def test_other_neurons_may_emit_what_they_like():
    """Only what fires as LIF neurons do is known to be 0 or 1."""
    for neuron, known in ((neurons.LIF(0.5), True), (neurons.SynapticLIF(), False)):
        tape = layers.Tape(train=True)
        current = Signal(jnp.ones((T, B, 4)), T)
        layers.Neurons(neuron)(current, tape, "layer")
        assert bool(tape.spikes) == known


def test_a_pass_without_a_gradient_notes_nothing():
    tape = layers.Tape()
    tape.note_spikes(jnp.ones(3))
    assert tape.spikes == []
