"""Residual blocks: what the shortcut adds, by position or through a convolution of 1 x 1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsnn import layers
from jaxsnn.encode import Signal, direct
from jaxsnn.errors import UserError
from jaxsnn.layers import Neurons, Tape, layer
from jaxsnn.neurons import LIF

NEURON = LIF(0.5, 0.3)


def spikes(*shape):
    """Return random spikes `[T, B, ...]`."""
    return jnp.asarray(np.random.default_rng(0).random(shape) < 0.4, jnp.float32)


def block(conv1, conv2, **options):
    chain = layers.Chain({"block1": layers.Residual(conv1, conv2, **options)})
    return layer.named(chain).block1


def conv(inputs, outputs, neurons=NEURON, **options):
    return layers.Conv(inputs, outputs, neurons=neurons, rngs=nnx.Rngs(outputs), **options)


def by_hand(conv1, conv2, signal, shortcut):
    """Return the output of a block whose shortcut is `[T, B, H, W, O]`."""
    hidden = conv1(signal, Tape()).over_time()
    current = jnp.stack([conv2.current(h, Tape()) for h in hidden]) + shortcut
    return Neurons(NEURON)(Signal(current, len(current)), Tape(), "alone").value


@pytest.mark.long
@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_residual_block_adds_its_input_to_the_current_of_its_second_convolution(constant, stride):
    conv1, conv2 = conv(2, 5, stride=stride), conv(5, 5)
    x = direct(spikes(2, 4, 6, 2)[1:], 3) if constant else Signal(spikes(3, 1, 4, 6, 2), 3)
    record = Tape()
    found = block(conv1, conv2)(x, record)
    # Three channels are missing: one of zeros in front, two behind.
    shortcut = jnp.pad(x.over_time()[:, :, ::stride, ::stride], [(0, 0)] * 4 + [(1, 2)])
    np.testing.assert_array_equal(found.value, by_hand(conv1, conv2, x, shortcut))
    assert found.value.any() and set(record.activity.spikes) == {"block1/conv1", "block1/conv2"}
    assert set(record.activity.events) == {"block1/conv1/kernel", "block1/conv2/kernel"}


@pytest.mark.long
def test_sources_and_weights_say_which_channels_the_shortcut_adds():
    assert layers.residual.by_position(2, 5) == (-1, 0, 1, -1, -1)
    x, sources = Signal(spikes(3, 1, 4, 4, 2), 3), (1, -1, 0, 1)
    conv1, conv2 = conv(2, 3), conv(3, 4)
    weight = jnp.asarray([1.0, 1.0, 0.5, 2.0])
    found = block(conv1, conv2, sources=sources, weight=weight)(x, Tape())
    added = np.zeros((3, 1, 4, 4, 4), np.float32)
    for output, source in enumerate(sources):
        if source >= 0:
            added[..., output] = np.asarray(weight)[output] * np.asarray(x.value)[..., source]
    np.testing.assert_array_equal(found.value, by_hand(conv1, conv2, x, added))
    with pytest.raises(UserError, match=r"sources must be 4 numbers from -1 to 1, found \[0, 2"):
        layers.Residual(conv1, conv2, sources=(0, 2, 0, 0))
    with pytest.raises(UserError, match="a shortcut cannot add 3 channels to 2 by position"):
        layers.Residual(conv(3, 3), conv(3, 2))


@pytest.mark.long
def test_the_projection_of_the_input_is_added_to_the_current_of_the_second_convolution():
    conv1, conv2 = conv(2, 5, stride=2), conv(5, 1)
    projection = conv(2, 1, layers.Integrator(), size=1, stride=2, use_bias=False)
    x, record = Signal(spikes(3, 2, 4, 6, 2), 3), Tape()
    whole = block(conv1, conv2, projection=projection)
    found = whole(x, record)
    added = np.asarray(x.value)[:, :, ::2, ::2] @ np.asarray(projection.kernel[...])[0, 0]
    np.testing.assert_array_equal(found.value, by_hand(conv1, conv2, x, added))
    assert found.value.any() and set(record.activity.spikes) == {"block1/conv1", "block1/conv2"}
    events = record.activity.events
    assert list(layers.synapses(whole)) == [
        "block1/conv1", "block1/conv2", "block1/projection",
    ]  # fmt: skip
    np.testing.assert_array_equal(events["block1/projection/kernel"], events["block1/conv1/kernel"])


def test_a_projection_that_does_not_fit_is_refused():
    plain = {"size": 1, "use_bias": False}
    pair = conv(2, 4, stride=2), conv(4, 4)
    fitting = conv(2, 4, layers.Integrator(), stride=2, **plain)
    for projection, message in (
        (conv(2, 4, layers.Integrator(), **plain), r"kernel \(1, 1, 2, 4\), the stride 2"),
        (conv(2, 4, layers.Integrator(), stride=2, size=1), "no bias and no norm"),
        (conv(2, 4, stride=2, **plain), "hands its current on"),
    ):
        with pytest.raises(UserError, match=message):
            layers.Residual(*pair, projection=projection)
    with pytest.raises(UserError, match="a projected shortcut has no sources"):
        layers.Residual(*pair, projection=fitting, sources=(0, 1, 0, 1))


def test_a_block_can_be_differentiated_through_both_ways():
    whole = block(conv(2, 2), conv(2, 2))
    x = spikes(2, 1, 4, 4, 2)
    gradient = jax.jit(jax.grad(lambda x: whole(Signal(x, 2), Tape()).value.sum()))(x)
    assert jnp.isfinite(gradient).all() and gradient.any()
