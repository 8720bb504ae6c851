"""Networks made of others: an ANN of the same layout, other widths, weights in other units."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsnn import Network, layers, models
from jaxsnn.compress import quantize, symmetric_uniform
from jaxsnn.encode import direct
from jaxsnn.errors import UserError
from jaxsnn.inputs import Inputs
from jaxsnn.layers import walk
from jaxsnn.methods import balancing
from jaxsnn.models.variants import ann_of, rescale, resized, spiking_of, uniform_widths

CONVERTED = dict(models.CONVERTED)
SHAPE = (8, 8, 1)


# --- Other neurons --------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["4C3-AP2-D0.1-6C3-10", "4C3-4B3-6B3S2P-AP4-10"])
def test_an_ann_and_a_spiking_network_of_one_layout_become_each_other(layout):
    neuron = balancing.neuron()
    spiking = models.build(layout, SHAPE, neuron, **CONVERTED)
    ann = models.build(layout, SHAPE, neuron, activation="relu", **CONVERTED)
    assert ann_of(spiking).program == ann.program
    assert spiking_of(ann, neuron).program == spiking.program
    assert spiking_of(spiking, balancing.neuron("integrate_then_fire")).program != spiking.program
    jax.tree.map(np.testing.assert_array_equal, ann_of(spiking).params, spiking.params)
    jax.tree.map(np.testing.assert_array_equal, spiking_of(ann, neuron).stats, spiking.stats)


class Mine(nnx.Module):
    """Two branches under names that say nothing."""

    def __init__(self, rngs):
        fire = balancing.neuron()
        self.z = layers.Dense(4, 6, neurons=fire, use_bias=False, rngs=rngs)
        self.a = layers.Dense(6, 3, neurons=layers.Integrator(), use_bias=False, rngs=rngs)

    def __call__(self, signal, tape):
        return self.a(self.z(signal, tape), tape)


def test_a_module_of_ones_own_becomes_an_ann_too():
    net = Network.of(Mine(nnx.Rngs(0)))
    x = direct(jnp.ones((2, 4)), 1)
    hidden = jax.nn.relu(jnp.ones((2, 4)) @ net.params["z"]["kernel"])
    scores = ann_of(net)(x).readout[0]
    np.testing.assert_allclose(scores, hidden @ net.params["a"]["kernel"], rtol=1e-5)


# --- Other widths ---------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [1, 130, 250, 900, 10**6])
def test_widths_that_fall_by_one_factor_come_nearest_to_a_size(weights):
    net = models.build("6C3-AP2-9C3-AP4-10", SHAPE, **CONVERTED)
    pairs = [(max(6 * part // 9, 1), part) for part in range(1, 10)]
    sizes = [9 * a + 9 * a * b + 10 * b for a, b in pairs]
    best = min(range(9), key=lambda i: abs(sizes[i] - weights))
    found = uniform_widths(net, ("conv1", "conv2"), Inputs(SHAPE, 2), weights)
    assert tuple(found.values()) == pairs[best]


@pytest.mark.long
def test_a_resized_network_is_the_one_that_its_layout_would_build():
    net = models.build("4C3-AP2-D0.2-6C5S2V-12-10", (16, 16, 2), norm=True, use_bias="readout")
    thin = resized(net, {"conv1": 3, "conv2": 5, "dense1": 7}, Inputs((16, 16, 2), 4))
    built = models.build("3C3-AP2-D0.2-5C5S2V-7-10", (16, 16, 2), norm=True, use_bias="readout")
    assert thin.program == built.program
    same = resized(net, {}, Inputs((16, 16, 2), 4))
    assert same.program == net.program


def test_left_out_convolutions_take_their_dropout_away_but_not_the_poolings():
    net = models.build("4C3-AP2-6C3-D0.2-AP2-8C3-D0.3-10", SHAPE, **CONVERTED)
    inputs = Inputs(SHAPE, 4)
    thin = resized(net, {"conv1": 2}, inputs, left_out=("conv2", "conv3"), dropout=0.1)
    assert thin.module.names == ("conv1", "pool1", "pool2", "flatten1", "dense1")
    assert thin.params["dense1"]["kernel"].shape == (2 * 2 * 2, 10)
    kept = resized(net, {}, inputs, dropout=0.05)
    rates = [x.rate for x in walk.layers_of(kept.module) if isinstance(x, layers.Dropout)]
    assert rates == [0.05, 0.05]


def test_what_cannot_be_resized_is_named():
    inputs = Inputs(SHAPE, 4)
    with pytest.raises(UserError, match="layer 'block1', a Residual, cannot get another width"):
        resized(models.build("4C3-4B3-10", SHAPE), {"conv1": 2}, inputs)
    net = models.build("4C3-10", SHAPE)
    with pytest.raises(UserError, match="the network has no layer 'conv7' with weights"):
        resized(net, {"conv7": 2}, inputs)
    with pytest.raises(UserError, match="width of conv1"):
        resized(net, {"conv1": 0}, inputs)
    with pytest.raises(UserError, match="only a layers.Chain can get other widths, found Mine"):
        resized(Network.of(Mine(nnx.Rngs(0))), {}, Inputs((4,), 1))


# --- Other units ----------------------------------------------------------------------------------

SPIKES = jnp.asarray(np.random.default_rng(3).random((20, 4, 6, 6, 1)) < 0.5, jnp.float32)


def busy(layout, **options):
    """Return a spiking network with thresholds so low that all layers fire."""
    neuron = replace(balancing.neuron("integrate_then_fire"), threshold=0.05)
    return models.build(layout, (6, 6, 1), neuron, readout="current", seed=0, **options)


def same_spikes(one, other):
    before, after = one(SPIKES), other(SPIKES)
    assert all(0 < count.mean() < 20 for count in before.activity.spikes.values())
    jax.tree.map(np.testing.assert_array_equal, after.activity.spikes, before.activity.spikes)
    return before, after


@pytest.mark.long
def test_weights_and_thresholds_rescaled_together_give_the_same_spikes():
    snn = busy("3C3-AP2-6-4")
    rescaled = rescale(snn, {"conv1": 4.0, "dense1": 0.5, "dense2": 8.0})
    before, after = same_spikes(snn, rescaled)
    np.testing.assert_array_equal(after.readout, 8.0 * before.readout)
    assert rescaled.program == snn.program


@pytest.mark.long
def test_quantized_weights_become_whole_numbers_with_the_same_spikes():
    snn, grid = busy("3C3-AP2-6-4", use_bias=False), symmetric_uniform(5)
    quantized = snn.replace(params=jax.tree.map(grid, snn.params))
    factors = {
        name: 1.0 / quantize(grid, snn.params[name]["kernel"]).scale for name in ("conv1", "dense1")
    }
    whole = rescale(quantized, factors)
    for name in factors:
        kernel = np.asarray(whole.params[name]["kernel"])
        np.testing.assert_allclose(kernel, np.round(kernel), atol=1e-4)
        assert np.abs(kernel).max() == pytest.approx(15)
    same_spikes(quantized, whole)


@pytest.mark.long
def test_a_block_is_rescaled_with_the_factor_of_its_shortcut():
    rngs = nnx.Rngs(0)
    convs = [
        layers.Conv(2, 2, neurons=balancing.neuron(), use_bias=False, rngs=rngs) for _ in range(2)
    ]
    block = layers.Residual(*convs, weight=jnp.ones(2))
    net = Network.of(layers.Chain({"block1": block}))
    x = jnp.asarray(np.random.default_rng(1).random((12, 2, 4, 4, 2)) < 0.5, jnp.float32)
    rescaled = rescale(net, {"block1/conv2": 4.0})
    assert rescaled.stats["block1"]["weight"].tolist() == [4, 4] and net(x).readout.any()
    np.testing.assert_array_equal(rescaled(x).readout, net(x).readout)


@pytest.mark.long
def test_a_projection_is_rescaled_with_its_block():
    net = models.build("2C3-3B3S2P-4", (6, 6, 1), balancing.neuron(), **CONVERTED)
    rescaled = rescale(net, {"block1/conv2": 2.0})
    for part in ("conv2", "projection"):
        one, other = (n.params["block1"][part]["kernel"] for n in (net, rescaled))
        np.testing.assert_array_equal(other, 2.0 * one)
    with pytest.raises(UserError, match="'block1/projection' has no threshold: give the factor to"):
        rescale(net, {"block1/projection": 2.0})


def test_what_cannot_be_rescaled_is_named():
    plain = models.build("2C3-2B3-3", (4, 4, 1), **CONVERTED)
    normed = models.build("2C3-3", (4, 4, 1), norm=True)
    for net, layer, message in (
        (plain, "block1/conv2", "layer 'block1/conv2' adds a shortcut that has no factor"),
        (plain, "conv7", "layer 'conv7' has no weights to rescale"),
        (normed, "conv1", "layer 'conv1' has a norm, which undoes a factor: fold it first"),
    ):
        with pytest.raises(UserError, match=message):
            rescale(net, {layer: 2.0})
    with pytest.raises(UserError, match="factor of layer 'conv1' must be in"):
        rescale(plain, {"conv1": -1.0})
