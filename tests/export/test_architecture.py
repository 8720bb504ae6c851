"""An architecture becomes data and returns as the same network, or is refused by name."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsnn import layers, models, surrogate, tree
from jaxsnn.errors import UserError
from jaxsnn.export import load, save
from jaxsnn.export.architecture import describe, describe_network, rebuild
from jaxsnn.network import Network
from jaxsnn.neurons import LIF

RNGS = nnx.Rngs(0)
NEURON = LIF(
    0.25,
    jnp.asarray([0.5, 1.0, 2.0, 3.0]),
    reset="soft_undecayed",
    strict=False,
    detach_reset=True,
    surrogate=surrogate.triangle(0.5, 0.3, normalized=True),
)


def everything():
    """Return a network with every kind of layer and with options that are not the default."""
    firing = layers.Neurons(NEURON, trained=("threshold",))
    plain = layers.Neurons(LIF(surrogate=surrogate.atan(3.0), order="fire_then_integrate"))
    options = {"stride": 2, "padding": "VALID", "norm": True, "use_bias": False}
    first = layers.Conv(2, 4, 5, neurons=firing, rngs=RNGS, **options)
    first.norm.epsilon, first.norm.momentum = 1e-3, 0.8
    half = layers.Conv(4, 3, neurons=plain, dtype=jnp.bfloat16, rngs=RNGS)
    block = layers.Residual(
        half,
        layers.Conv(3, 5, neurons=LIF(), rngs=RNGS),
        sources=(3, -1, 0, 1, 2),
        weight=jnp.arange(5.0),
    )
    return layers.Chain(
        {
            "conv1": first,
            "pool1": layers.AveragePool(2),
            "block1": block,
            "pool2": layers.MaxPool(3, ties="shared"),
            "dropout1": layers.Dropout(0.25),
            "flatten1": layers.Flatten(),
            "dense1": layers.Recurrent(5, 6, neurons=LIF(0.5), rngs=RNGS),
            "dense2": layers.Dense(6, 4, neurons=layers.Integrator(0.7), use_bias=False, rngs=RNGS),
            "vote": layers.Vote(2),
        }
    )


def through_text(description):
    return json.loads(json.dumps(description, allow_nan=False))


@jax.jit
def run(net, x):
    return net(x)


@pytest.mark.long
def test_every_layer_and_option_returns_and_computes_the_same(tmp_path):
    net = Network.of(everything())
    assert describe(rebuild(through_text(describe(net.module)))) == describe(net.module)
    save(tmp_path / "net", net)
    again = load(tmp_path / "net").network
    x = np.random.default_rng(0).normal(size=(3, 2, 17, 17, 2)).astype(np.float32)
    first, second = run(net, x), run(again, x)
    assert again.program == net.program and run._cache_size() == 1
    assert float(jnp.sum(first.activity.spikes["block1/conv2"])) > 0
    assert jax.tree.all(jax.tree.map(jnp.array_equal, first, second))


@pytest.mark.parametrize(
    "make",
    [
        lambda: surrogate.rectangle(0.7),
        lambda: surrogate.triangle(0.7, 0.2, normalized=True),
        lambda: surrogate.atan(3.0),
        lambda: surrogate.fast_sigmoid(11.0),
        lambda: surrogate.sigmoid(3.0),
        surrogate.constant,
    ],
)
def test_every_named_surrogate_returns_equal(make):
    neurons = layers.Neurons(LIF(surrogate=make()))
    module = layers.Chain({"dense1": layers.Dense(2, 3, neurons=neurons, rngs=RNGS)})
    assert rebuild(through_text(describe(module))).dense1.neurons.options.surrogate == make()


def test_rebuilding_allocates_nothing():
    description = describe(models.build("8-4", (4,), LIF()).module)
    description[0]["inputs"] = description[0]["outputs"] = 2**32 - 1  # 2**66 bytes
    shapes = tree.named_leaves(nnx.to_pure_dict(nnx.state(rebuild(description), nnx.Param)))
    assert shapes["dense1/kernel"].shape == (2**32 - 1, 2**32 - 1)


class Mine(nnx.Module):
    """A layer that no file knows."""


def double(distance):
    return 2 * distance


@pytest.mark.parametrize(
    "layer, message",
    [
        (Mine(), "layer 'x' is a Mine: a file describes layers of jaxsnn only"),
        (
            layers.Dense(1, 1, neurons=LIF(surrogate=surrogate.custom(double)), rngs=RNGS),
            "layer 'x': its surrogate is a function of your own",
        ),
    ],
)
def test_what_is_code_is_refused_by_the_name_of_the_layer(layer, message):
    with pytest.raises(UserError, match=message):
        describe(layers.Chain({"x": layer}))


def test_neurons_that_no_file_knows_are_refused_by_the_name_of_the_layer():
    dense = layers.Dense(1, 1, neurons=LIF(), rngs=RNGS)
    dense.neurons = Mine()
    with pytest.raises(UserError, match="layer 'x' fires by a Mine"):
        describe(layers.Chain({"x": dense}))


def test_a_network_that_is_code_has_no_description():
    assert describe_network(Network.wrap({"w": jnp.ones(3)}, lambda params, x: x)) is None
    own = layers.Dense(1, 1, neurons=LIF(surrogate=surrogate.custom(double)), rngs=RNGS)
    assert describe_network(Network.of(layers.Chain({"dense1": own}))) is None
    assert describe_network(Network.of(own)) is None  # no chain
    net = models.build("8-4", (4,))
    assert describe_network(net) == describe(net.module)


def changed(layer, **change):
    """Return the description of a small network with fields of one layer changed."""
    data = describe(models.build("4C3-4B3-8-2", (4, 4, 1), LIF(), norm=True).module)
    data[layer] |= change
    return data


LIF_DATA = changed(0)[0]["neurons"]


@pytest.mark.parametrize(
    "data, message",
    [
        ({}, "no list of layers"),
        ([], "no list of layers"),
        ([3], "layer 1 has no name"),
        (changed(0, kind="convolve"), "layer 'conv1': field 'kind' is 'convolve', expected one of"),
        (changed(0, kind=[]), r"layer 'conv1': field 'kind' is \[\]"),
        (changed(0, groups=2), "layer 'conv1' has the field 'groups', unknown to this jaxsnn"),
        (changed(0, stride=0), "layer 'conv1': field 'stride' is 0, expected a whole number from"),
        (changed(0, stride=True), "field 'stride' is True"),
        (changed(0, outputs=1e9), "field 'outputs' is 1000000000.0, expected a whole number"),
        (changed(0, padding="os.system"), "field 'padding' is 'os.system', expected one of SAME"),
        (changed(0, dtype="object"), "field 'dtype' is 'object'"),
        (changed(0, norm={"momentum": 0.9}), "layer 'conv1', norm lacks the field 'epsilon'"),
        (changed(0, neurons={"kind": "adex"}), "neurons: field 'kind' is 'adex', expected one of"),
        (
            changed(0, neurons=LIF_DATA | {"reset": "none"}),
            "layer 'conv1', neurons: field 'reset' is 'none', expected one of hard",
        ),
        (
            changed(0, neurons=LIF_DATA | {"surrogate": LIF_DATA["surrogate"] | {"curve": "exec"}}),
            "layer 'conv1', neurons, surrogate: field 'curve' is 'exec'",
        ),
        (
            changed(0, neurons=LIF_DATA | {"surrogate": LIF_DATA["surrogate"] | {"width": -1.0}}),
            r"surrogate width must be in \(0, inf\)",
        ),
        (changed(0, name="conv1/kernel"), "cannot be called 'conv1/kernel'"),
        (changed(0, name="__class__"), "cannot be called '__class__'"),
        (changed(0, name="children"), "cannot be called 'children'"),
        (changed(0, name="block1"), "two layers are called 'block1'"),
        (changed(1, conv1={"kind": "dense"}), "layer 'block1', conv1: field 'kind' is 'dense'"),
        (changed(1, sources=[0, 0, 0, 9]), "sources must be 4 numbers from -1 to 3"),
        (changed(1, sources=[0] * 5000), "layer 'block1': sources must be 4 numbers from -1 to 3"),
        (
            changed(0, kind="x" * 5000),
            r"layer 'conv1': field 'kind' is 'x{59} \.\.\., expected one",
        ),
        (changed(0, name="é" * 5000), r"a layer cannot be called 'é{59} \.\.\.$"),
        (
            changed(0, name="x" * 5000, neurons={"kind": "x" * 5000}),
            r"layer 'x{59} \.\.\., neurons: field 'kind' is 'x{59} \.\.\., expected one of",
        ),
        (
            changed(3, kind="recurrent", neurons={"kind": "integrator", "decay": None}),
            "recurrent layer needs neurons that spike",
        ),
    ],
)
def test_the_field_that_is_wrong_is_named(data, message):
    with pytest.raises(UserError, match=message) as caught:
        rebuild(data)
    assert len(str(caught.value)) < 500
