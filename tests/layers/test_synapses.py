"""Layers with weights, one at a time, and what they write on the tape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsnn import layers
from jaxsnn.encode import Signal
from jaxsnn.layers import Integrator, Neurons, Tape
from jaxsnn.neurons import LIF


def spikes(*shape, seed=0, rate=0.4):
    """Return random spikes `[T, B, ...]`."""
    return jnp.asarray(np.random.default_rng(seed).random(shape) < rate, jnp.float32)


def run(layer, value, record=None, name="layer"):
    signal = value if isinstance(value, Signal) else Signal(value, value.shape[0])
    layer.name = name
    return layer(signal, record or Tape())


def test_a_dense_layer_weighs_every_step_by_itself():
    layer = layers.Dense(3, 4, neurons=Integrator(), rngs=nnx.Rngs(0))
    x, kernel = spikes(5, 2, 3), np.asarray(layer.kernel[...])
    out = run(layer, x)
    expected = np.asarray(x) @ kernel + np.asarray(layer.bias[...])
    np.testing.assert_allclose(out.value, expected, rtol=1e-6)
    np.testing.assert_array_equal(layer.weigh(x[0], kernel), x[0] @ kernel)


def test_a_convolution_keeps_its_stride_and_padding():
    options = {"use_bias": False, "rngs": nnx.Rngs(0)}
    layer = layers.Conv(2, 3, neurons=Integrator(), size=3, stride=2, padding="VALID", **options)
    x, kernel = spikes(2, 1, 5, 7, 2), np.asarray(layer.kernel[...])
    out = run(layer, x).value
    assert out.shape == (2, 1, 2, 3, 3) and layer.bias is None
    window = np.asarray(x)[1, 0, 2:5, 4:7]
    np.testing.assert_allclose(out[1, 0, 1, 2], np.tensordot(window, kernel, 3), rtol=1e-5)


def test_start_values_lie_within_one_over_the_root_of_the_fan_in():
    layer = layers.Conv(4, 64, neurons=Integrator(), size=3, rngs=nnx.Rngs(0))
    bound = (3 * 3 * 4) ** -0.5
    for leaf in (layer.kernel[...], layer.bias[...]):
        assert 0.9 * bound < jnp.abs(leaf).max() <= bound
        # Five standard deviations of the mean of a uniform variable.
        assert jnp.abs(leaf.mean()) < 5 * bound / (3 * leaf.size) ** 0.5


def test_a_synapse_of_no_kind_cannot_weigh():
    layer = layers.Synapse((2, 2), 2, neurons=Integrator(), rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="Synapse does not define how it weighs"):
        run(layer, spikes(1, 1, 2))


@pytest.mark.long
def test_short_synapses_keep_weights_potentials_and_sums_in_float32():
    neurons = Neurons(LIF(0.5, 0.5))
    layer = layers.Dense(16, 4, neurons=neurons, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    record, x = Tape(), spikes(3, 2, 16)
    out = run(layer, x, record)
    assert out.value.dtype == jnp.bfloat16
    assert layer.kernel[...].dtype == record.membranes["layer"].potential.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(record.activity)} == {jnp.dtype("float32")}
    product = layer.weigh(x[0].astype(jnp.bfloat16), layer.kernel[...])
    assert product.dtype == jnp.bfloat16
    exact = x[0] @ layer.kernel[...].astype(jnp.bfloat16).astype(jnp.float32)
    np.testing.assert_allclose(product.astype(jnp.float32), exact, rtol=2**-8, atol=1e-6)
    np.testing.assert_array_equal(
        layer.current(x[0], Tape(), jnp.bfloat16),
        (product.astype(jnp.float32) + layer.bias[...].reshape(1, 4)).astype(jnp.bfloat16),
    )


def by_hand(layer, x, decay, threshold, potential, last):
    """Run a recurrent layer in numpy; hard reset, strict."""
    weights, recurrent, bias = (
        np.asarray(w[...]) for w in (layer.kernel, layer.recurrent, layer.bias)
    )
    series, heard = [], np.zeros_like(last)
    for now in np.asarray(x):
        heard += last
        current = now @ weights + last @ recurrent + bias
        potential = decay * potential * (1 - (potential > threshold)) + current
        last = (potential > threshold).astype(np.float32)
        series.append((last, potential))
    return *(np.stack(part) for part in zip(*series, strict=True)), heard


def recurrent():
    layer = layers.Recurrent(5, 4, neurons=Neurons(LIF(0.75, 0.25)), rngs=nnx.Rngs(1))
    layer.bias[...] = jnp.full(4, 0.2)
    return layer


@pytest.mark.long
def test_a_recurrent_layer_is_the_written_loop():
    layer, x, record = recurrent(), spikes(9, 2, 5), Tape()
    out = run(layer, x, record)
    rest = np.zeros((2, 4), np.float32)
    fired, potential, heard = by_hand(layer, x, 0.75, 0.25, rest, rest)
    assert 0.1 < fired.mean() < 0.9
    np.testing.assert_array_equal(out.value, fired)
    activity = record.activity
    np.testing.assert_array_equal(activity.spikes["layer"], fired.sum(0))
    np.testing.assert_allclose(activity.potential["layer"], potential.sum(0), rtol=1e-5)
    np.testing.assert_array_equal(activity.events["layer/kernel"], x.sum(0))
    np.testing.assert_array_equal(activity.events["layer/recurrent"], heard)
    assert (heard == fired[:-1].sum(0)).all()


@pytest.mark.long
def test_a_continued_recurrent_layer_hears_the_last_spikes_before():
    layer, x = recurrent(), spikes(9, 2, 5)
    whole, first, second = Tape(), Tape(), None
    out = run(layer, x, whole)
    run(layer, x[:4], first)
    second = Tape(membranes=first.membranes)
    rest = run(layer, x[4:], second)
    np.testing.assert_array_equal(out.value[4:], rest.value)
    assert first.membranes["layer"].potential.max() > 0.25
    for name in ("layer/kernel", "layer/recurrent"):
        parts = first.activity.events[name] + second.activity.events[name]
        np.testing.assert_array_equal(parts, whole.activity.events[name])
