"""Residual blocks whose shortcut is a convolution of 1 x 1, through the whole house."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsnn import encode, export, layers, models
from jaxsnn import network as functional
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.export.architecture import describe, rebuild
from jaxsnn.export.modules import filled
from jaxsnn.layers import Neurons, Tape
from jaxsnn.methods import conversion
from jaxsnn.neurons import LIF
from jaxsnn.train import calibrate

OPTIONS = {"readout": "current", "use_bias": False}


def network(layout="3C3-4B3S2P-3", shape=(4, 4, 1), **options):
    neuron = conversion.neuron("integrate_then_fire")
    return models.build(layout, shape, neuron, rngs=nnx.Rngs(0), **OPTIONS | options)


def test_the_projection_of_the_input_is_added_to_the_current_of_the_second_convolution():
    rngs, options = nnx.Rngs(0), {"use_bias": False}
    neurons = Neurons(LIF(0.5, 0.3))
    first = layers.Conv(2, 5, neurons, stride=2, rngs=rngs)
    second = layers.Conv(5, 1, neurons, rngs=rngs)
    projection = layers.Conv(2, 1, layers.Integrator(), size=1, stride=2, rngs=rngs, **options)
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.random((3, 2, 4, 6, 2)) < 0.5, jnp.float32)
    record = Tape(train=False, key=None, membranes={})
    block = layers.Residual(first, second, projection=projection)
    found = block(Signal(x, 3), record, "block1")
    hidden = first(Signal(x, 3), Tape(train=False, key=None, membranes={}), "a").value
    plain = Tape(train=False, key=None, membranes={})
    current = jnp.stack([second.current(h, plain) for h in hidden])
    added = np.asarray(x)[:, :, ::2, ::2] @ np.asarray(projection.kernel[...])[0, 0]
    expected = neurons(Signal(current + added, 3), plain, "b").value
    np.testing.assert_array_equal(found.value, expected)
    assert found.value.any() and set(record.activity.spikes) == {"block1/conv1", "block1/conv2"}
    events = record.activity.events
    assert list(block.synapses()) == ["conv1", "conv2", "projection"]
    np.testing.assert_array_equal(events["block1/projection/kernel"], events["block1/conv1/kernel"])


def test_a_converted_block_with_a_projection_comes_near_to_its_ann():
    snn, ann = network(), functional.split(network(activation="relu"))
    watched, net = functional.split(layers.watch(snn)), functional.split(snn)
    params = models.he_start(jax.random.key(2), ann.params)
    images = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 1), dtype=np.uint8)

    def direct(timesteps):
        return lambda key, images, training: encode.direct(images / 255.0, timesteps)

    names = conversion.spiking_layers(net.synapses, net.params, net.stats)
    assert names == ("conv1", "block1/conv1", "block1/conv2")
    found = calibrate.thresholds(
        watched.apply, direct(400), params, net.params, net.stats, images, names,
        batches=1, batch_size=4,
    )  # fmt: skip
    converted, stats = conversion.convert(params, net.params, net.stats, found)
    scores = np.asarray(ann.apply(params, {}, direct(1)(None, images, False)).readout[0])

    def error(params):
        out = net.apply(params, stats, direct(400)(None, images, False)).readout.mean(0)
        # The scores of a spiking network are in a unit of their own.
        out = np.asarray(out) * np.vdot(out, scores) / np.vdot(out, out)
        return np.linalg.norm(out - scores) / np.linalg.norm(scores)

    # Without the factor on the second kernel the two ways into the sum are in different units.
    assert 4 * error(converted) < 0.05 < error(params)


def test_a_block_is_rescaled_with_its_projection():
    net = functional.split(network("3C3-4B3S2P-3"))
    factors = {"block1/conv1": 4.0, "block1/conv2": 2.0}
    params, stats = conversion.rescale(net.params, net.stats, factors)
    x = jnp.asarray(np.random.default_rng(0).random((9, 2, 4, 4, 1)) < 0.7, jnp.float32)
    x = 4 * x
    before, after = net.apply(net.params, net.stats, x), net.apply(params, stats, x)
    assert before.activity.spikes["block1/conv2"].any()
    np.testing.assert_array_equal(after.readout, before.readout)
    with pytest.raises(UserError, match="'block1/projection' has no threshold: .*block1/conv2"):
        conversion.rescale(net.params, net.stats, {"block1/projection": 2.0})


def test_a_file_describes_it_and_nir_holds_its_weights():
    module = network()
    text = json.loads(json.dumps(describe(module)))
    net = functional.split(module)
    again = filled(rebuild(text), net.params, net.stats)
    assert describe(again) == text and text[1]["kind"] == "projected_residual"
    x = encode.direct(jnp.ones((1, 4, 4, 1)), 3)
    other = functional.split(again)
    np.testing.assert_array_equal(
        other.apply(other.params, other.stats, x).readout,
        net.apply(net.params, net.stats, x).readout,
    )
    hard = models.build("3C3-4B3S2P-3", (4, 4, 1), LIF(0.5), rngs=nnx.Rngs(0), **OPTIONS)
    graph = export.to_nir(hard, net.params, functional.split(hard).stats, (4, 4, 1))
    kernel = np.asarray(net.params["block1"]["projection"]["kernel"])[0, 0]
    found = np.asarray(graph.nodes["block1_shortcut"].weight)[:, :, 0, 0]
    np.testing.assert_allclose(found / found.flat[0], kernel.T / kernel.flat[0], rtol=1e-5)


def test_what_a_projection_cannot_do_is_said():
    module = network()
    net = functional.split(module)
    with pytest.raises(UserError, match="'block1' has a projected shortcut, which cannot be shr"):
        export.shrink(module, net.params, net.stats, {"conv1": [0, 1]})
    rngs = nnx.Rngs(0)

    def conv(inputs, outputs, neurons, **options):
        return layers.Conv(inputs, outputs, neurons, rngs=rngs, **options)

    neurons, plain = Neurons(LIF()), {"size": 1, "use_bias": False}
    pair = conv(2, 4, neurons, stride=2), conv(4, 4, neurons)
    fitting = conv(2, 4, layers.Integrator(), stride=2, **plain)
    for projection, message in (
        (conv(2, 4, layers.Integrator(), **plain), r"kernel \(1, 1, 2, 4\), the stride 2"),
        (conv(2, 4, layers.Integrator(), stride=2, size=1), "no bias and no norm"),
        (conv(2, 4, neurons, stride=2, **plain), "hands its current on"),
    ):
        with pytest.raises(UserError, match=message):
            layers.Residual(*pair, projection=projection)
    with pytest.raises(UserError, match="a projected shortcut has no sources"):
        layers.Residual(*pair, projection=fitting, sources=(0, 1, 0, 1))
    with pytest.raises(UserError, match="'2B3' cannot add its input to its output"):
        network("4C3-2B3-3")
    assert network("4C3-2B3P-3").block1.projection.kernel.shape == (1, 1, 4, 2)
