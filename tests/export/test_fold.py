"""Folding norms: no spike changes, and integers stay integers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsnn import layers, models
from jaxsnn.encode import direct
from jaxsnn.errors import UserError
from jaxsnn.export import fold_norms, shrink
from jaxsnn.network import has_norms, split
from jaxsnn.neurons import LIF, ORDERS, RESETS

NEURON = LIF(0.75, 0.5)
SHAPE = (8, 8, 2)
VGG = "4C3-MP2-6C3-AP2-7-3"
RESNET = "4C3-5B3M3-8B3S2-AP4-3"


def network(layout, neuron=NEURON, shape=SHAPE, **options):
    """Return a network with norms of both signs, one of them zero, and its trees."""
    options = {"norm": True, "readout": "current"} | options
    module = models.build(layout, shape, neuron, rngs=nnx.Rngs(0), **options)
    rng, net = np.random.default_rng(0), split(module)

    def draw(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if "norm" not in name:
            return leaf
        if name.endswith("var"):
            return jnp.asarray(rng.uniform(0.02, 0.1, leaf.shape), jnp.float32)
        if name.endswith("scale"):
            scale = rng.uniform(0.3, 1.5, leaf.shape) * rng.choice([-1, 1], leaf.shape)
            scale[1:2] = 0
            return jnp.asarray(scale, jnp.float32)
        return jnp.asarray(rng.normal(0, 0.4, leaf.shape), jnp.float32)

    return module, *(jax.tree_util.tree_map_with_path(draw, tree) for tree in net[:2])


def run(module, params=None, stats=None, shape=SHAPE):
    net = split(module)
    params, stats = (net.params, net.stats) if params is None else (params, stats)
    x = jnp.asarray(np.random.default_rng(5).normal(size=(3, *shape)), jnp.float32)
    return jax.jit(net.apply)(params, stats, direct(x, 4))


def assert_same(module, params, stats, into, shape=SHAPE):
    folded = fold_norms(module, params, stats, into)
    assert not has_norms(split(folded).stats)
    found, expected = run(folded, shape=shape), run(module, params, stats, shape=shape)
    jax.tree.map(np.testing.assert_array_equal, found.activity.spikes, expected.activity.spikes)
    for spikes in expected.activity.spikes.values():
        assert 0 < spikes.mean() < 4
    np.testing.assert_allclose(found.readout, expected.readout, rtol=1e-5, atol=1e-6)
    return folded


@pytest.mark.parametrize("into", ["kernel", "neuron"])
@pytest.mark.parametrize(
    ("layout", "options"), [(VGG, {"use_bias": True}), (RESNET, {"use_bias": "readout"})]
)
def test_folded_networks_spike_alike(layout, options, into):
    assert_same(*network(layout, **options), into)


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("order", ORDERS)
def test_every_neuron_may_be_divided(reset, order):
    neuron = LIF(jnp.asarray([0.5, 0.75, 0.25, 1.0, 0.9]), 0.5, reset=reset, order=order)
    assert_same(*network("5C3-5B3-3", neuron, readout="current"), "neuron")


@pytest.mark.parametrize("into", ["kernel", "neuron"])
def test_recurrent_layers_are_folded(into):
    assert_same(*network("9R-8R-3", shape=(6,)), into, shape=(6,))


def test_kernels_keep_their_integers_up_to_sign():
    module, params, stats = network(RESNET)
    rng = np.random.default_rng(0)
    for layer in (params["conv1"], params["block1"]["conv2"]):
        layer["kernel"] = jnp.asarray(rng.integers(-3, 4, layer["kernel"].shape), jnp.float32)
    folded = assert_same(module, params, stats, "neuron")
    for layer, before in (
        (folded.conv1, params["conv1"]),
        (folded.block1.conv2, params["block1"]["conv2"]),
    ):
        signs = np.sign(before["norm"]["scale"]).reshape(1, 1, 1, -1)
        np.testing.assert_array_equal(layer.kernel[...], before["kernel"] * signs)
        assert (signs == -1).any() and (signs == 0).any()


def test_a_channel_by_hand():
    module, params, stats = network("1C1-2", LIF(0.5, 0.6), (1, 1, 1))
    params["conv1"] = {
        "kernel": jnp.full((1, 1, 1, 1), 3.0),
        "bias": jnp.asarray([0.25]),
        "norm": {"scale": jnp.asarray([-1.0]), "bias": jnp.asarray([0.5])},
    }
    stats["conv1"]["norm"] = {"mean": jnp.asarray([0.75]), "var": jnp.asarray([0.25 - 1e-5])}
    # g = -1 / 0.5 = -2, c = 0.5 - 2 (0.25 - 0.75) = 1.5
    kernel, neuron = (
        split(fold_norms(module, params, stats, into)) for into in ("kernel", "neuron")
    )
    found = [net.params["conv1"][leaf].item() for net in (kernel, neuron)
             for leaf in ("kernel", "bias")]  # fmt: skip
    np.testing.assert_allclose(found, [-6, 1.5, -3, 0.75], rtol=1e-6)
    thresholds = [net.stats["conv1"]["neurons"]["threshold"] for net in (kernel, neuron)]
    np.testing.assert_allclose(np.stack([thresholds[0], thresholds[1][0]]), [0.6, 0.3], rtol=1e-6)


def test_a_factor_next_to_nothing_counts_as_zero():
    module, params, stats = network("4C3-3")
    params["conv1"]["norm"]["scale"] = jnp.asarray([1.0, 1e-30, -1e-38, 0.5])
    folded = assert_same(module, params, stats, "neuron")
    assert (
        jnp.isfinite(folded.conv1.bias[...]).all() and jnp.isfinite(folded.conv1.kernel[...]).all()
    )


def test_trained_thresholds_are_constants_after_it():
    module, params, stats = network("4C3-5-3", trained=("threshold", "decay"))
    params["conv1"]["neurons"]["threshold"] = jnp.asarray(-1.0)  # held at the smallest
    folded = assert_same(module, params, stats, "neuron")
    assert not folded.conv1.neurons.trained and "neurons" not in split(folded).params["conv1"]


def test_a_silent_read_out_folds_into_its_kernel():
    readout = layers.Dense(4, 3, layers.Integrator(0.5), norm=True, rngs=nnx.Rngs(0))
    module = layers.Chain({"dense1": readout})
    _, params, stats = module, *split(module)[:2]
    params["dense1"]["norm"]["scale"] = jnp.asarray([2.0, -1.0, 0.5])
    folded = fold_norms(module, params, stats, "neuron")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4)), jnp.float32)
    net, whole = split(folded), split(module)
    np.testing.assert_allclose(
        net.apply(net.params, net.stats, direct(x, 3)).readout,
        whole.apply(params, stats, direct(x, 3)).readout,
        rtol=1e-5,
    )


@pytest.mark.parametrize("into", ["kernel", "neuron"])
def test_folding_and_shrinking_go_together(into):
    net = network(RESNET, use_bias="readout")
    keep = {"conv1": [0, 2], "block1/conv2": [1, 2, 4], "block2/conv1": range(6)}
    folded = fold_norms(*net, into)
    first, second = shrink(folded, *split(folded)[:2], keep), shrink(*net, keep)
    second = fold_norms(second, *split(second)[:2], into)
    jax.tree.map(np.testing.assert_array_equal, split(first)[:2], split(second)[:2])
    assert first.block1.sources == second.block1.sources == (-1, 1, -1)


def test_unknown_ways_are_errors():
    with pytest.raises(UserError, match="into 'bias' is unknown; choose kernel or neuron"):
        fold_norms(*network("4C3-3"), into="bias")
