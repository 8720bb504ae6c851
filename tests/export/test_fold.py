"""Folding norms: no spike changes, and integers stay integers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsnn import compress, layers, models, tree
from jaxsnn.encode import direct
from jaxsnn.errors import UserError
from jaxsnn.export import fold_norms, shrink
from jaxsnn.network import Network
from jaxsnn.neurons import LIF
from jaxsnn.neurons.lif import ORDERS
from jaxsnn.neurons.resets import RESETS

NEURON = LIF(0.75, 0.5)
SHAPE = (8, 8, 2)
VGG = "4C3-MP2-6C3-AP2-7-3"
RESNET = "4C3-5B3M3-8B3S2-AP4-3"


def network(layout, neuron=NEURON, shape=SHAPE, **options):
    """Return a network with norms of both signs, one of them zero."""
    options = {"norm": True, "readout": "current"} | options
    net = models.build(layout, shape, neuron, **options)
    rng = np.random.default_rng(0)

    def draw(name, leaf):
        if "norm" not in name:
            return leaf
        if name.endswith("var"):
            return jnp.asarray(rng.uniform(0.02, 0.1, leaf.shape), jnp.float32)
        if name.endswith("scale"):
            scale = rng.uniform(0.3, 1.5, leaf.shape) * rng.choice([-1, 1], leaf.shape)
            scale[1:2] = 0
            return jnp.asarray(scale, jnp.float32)
        return jnp.asarray(rng.normal(0, 0.4, leaf.shape), jnp.float32)

    params, stats = (tree.map_named(draw, each) for each in (net.params, net.stats))
    return net.replace(params=params, stats=stats)


def with_leaves(net, leaves):
    """Return a network with some leaves replaced, in its parameters or its statistics."""
    params, stats = (tree.substitute(each, leaves) for each in (net.params, net.stats))
    return net.replace(params=params, stats=stats)


def run(net, shape=SHAPE):
    x = jnp.asarray(np.random.default_rng(5).normal(size=(3, *shape)), jnp.float32)
    return jax.jit(lambda net, x: net(x))(net, direct(x, 4))


def assert_same(net, into, shape=SHAPE):
    folded = fold_norms(net, into)
    assert net.has_norms and not folded.has_norms
    found, expected = run(folded, shape), run(net, shape)
    jax.tree.map(np.testing.assert_array_equal, found.activity.spikes, expected.activity.spikes)
    for spikes in expected.activity.spikes.values():
        assert 0 < spikes.mean() < 4
    np.testing.assert_allclose(found.readout, expected.readout, rtol=1e-5, atol=1e-6)
    return folded


@pytest.mark.long
@pytest.mark.parametrize("into", ["kernel", "neuron"])
@pytest.mark.parametrize(
    ("layout", "options"), [(VGG, {"use_bias": True}), (RESNET, {"use_bias": "readout"})]
)
def test_folded_networks_spike_alike(layout, options, into):
    assert_same(network(layout, **options), into)


@pytest.mark.long
@pytest.mark.parametrize(
    ("order", "reset"),
    [
        pytest.param(order, reset, marks=[pytest.mark.slow] * ((i + j) % 2))
        for i, order in enumerate(ORDERS)
        for j, reset in enumerate(RESETS)
    ],
)
def test_every_neuron_may_be_divided(order, reset):
    neuron = LIF(jnp.asarray([0.5, 0.75, 0.25, 1.0, 0.9]), 0.5, reset=reset, order=order)
    assert_same(network("5C3-5B3-3", neuron, readout="current"), "neuron")


@pytest.mark.long
@pytest.mark.parametrize("into", ["kernel", "neuron"])
def test_recurrent_layers_are_folded(into):
    assert_same(network("9R-8R-3", shape=(6,)), into, shape=(6,))


@pytest.mark.long
def test_kernels_keep_their_integers_up_to_sign():
    net, rng = network(RESNET), np.random.default_rng(0)
    leaves = tree.named_leaves(net.params)
    names = ("conv1", "block1/conv2")
    kernels = {f"{name}/kernel": leaves[f"{name}/kernel"].shape for name in names}
    kernels = {k: jnp.asarray(rng.integers(-3, 4, s), jnp.float32) for k, s in kernels.items()}
    folded = assert_same(with_leaves(net, kernels), "neuron")
    after = tree.named_leaves(folded.params)
    for name in names:
        signs = np.sign(leaves[f"{name}/norm/scale"]).reshape(1, 1, 1, -1)
        np.testing.assert_array_equal(after[f"{name}/kernel"], kernels[f"{name}/kernel"] * signs)
        assert (signs == -1).any() and (signs == 0).any()


def decoded_of(net):
    """Return name -> the leaf that codes and scales give."""
    return {name: found.decode() for name, found in net.quantized.items()}


@pytest.mark.long
@pytest.mark.parametrize(
    ("grid", "into"), [(compress.rescaled(4), "neuron"), (compress.uniform_grid(4), "kernel")]
)
def test_known_grids_stay_known_and_exact(into, grid):
    net = network(RESNET)
    net = jax.jit(lambda net: compress.project(net, {"*/kernel": grid}))(net)
    names = {name for name in tree.named_leaves(net.params) if name.endswith("/kernel")}
    folded = fold_norms(net, into)
    assert folded.steps.keys() == net.steps.keys() == names
    before = jax.jit(lambda net: net.quantized)(net)
    found, decoded = jax.jit(lambda net: (net.quantized, decoded_of(net)))(folded)
    for name in names:
        kernel = np.asarray(tree.named_leaves(folded.params)[name])
        np.testing.assert_array_equal(np.asarray(decoded[name]) + 0.0, kernel + 0.0)
        kept = kernel.any((0, 1, 2)[: kernel.ndim - 1])
        codes = (abs(np.asarray(each[name].codes))[..., kept] for each in (found, before))
        np.testing.assert_array_equal(*codes)
    exact = fold_norms(net.replace(steps={}), into)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), folded.params, exact.params
    )


def test_a_channel_by_hand():
    net = with_leaves(
        network("1C1-2", LIF(0.5, 0.6), (1, 1, 1)),
        {
            "conv1/kernel": jnp.full((1, 1, 1, 1), 3.0),
            "conv1/bias": jnp.asarray([0.25]),
            "conv1/norm/scale": jnp.asarray([-1.0]),
            "conv1/norm/bias": jnp.asarray([0.5]),
            "conv1/norm/mean": jnp.asarray([0.75]),
            "conv1/norm/var": jnp.asarray([0.25 - 1e-5]),
        },
    )
    # g = -1 / 0.5 = -2, c = 0.5 - 2 (0.25 - 0.75) = 1.5
    kernel, neuron = (fold_norms(net, into) for into in ("kernel", "neuron"))
    found = [net.params["conv1"][leaf].item() for net in (kernel, neuron)
             for leaf in ("kernel", "bias")]  # fmt: skip
    np.testing.assert_allclose(found, [-6, 1.5, -3, 0.75], rtol=1e-6)
    thresholds = [net.stats["conv1"]["neurons"]["threshold"] for net in (kernel, neuron)]
    np.testing.assert_allclose(np.stack([thresholds[0], thresholds[1][0]]), [0.6, 0.3], rtol=1e-6)


@pytest.mark.long
def test_a_factor_next_to_nothing_counts_as_zero():
    scale = jnp.asarray([1.0, 1e-30, -1e-38, 0.5])
    folded = assert_same(with_leaves(network("4C3-3"), {"conv1/norm/scale": scale}), "neuron")
    assert all(jnp.isfinite(folded.params["conv1"][leaf]).all() for leaf in ("bias", "kernel"))


@pytest.mark.long
def test_trained_thresholds_are_constants_after_it():
    net = network("4C3-5-3", trained=("threshold", "decay"))
    held = {"conv1/neurons/threshold": jnp.asarray(-1.0)}  # held at the smallest
    folded = assert_same(with_leaves(net, held), "neuron")
    assert "neurons" not in folded.params["conv1"] and "neurons" in folded.stats["conv1"]


def test_a_silent_read_out_folds_into_its_kernel():
    readout = layers.Dense(4, 3, neurons=layers.Integrator(0.5), norm=True, rngs=nnx.Rngs(0))
    net = Network.of(layers.Chain({"dense1": readout}))
    net = with_leaves(net, {"dense1/norm/scale": jnp.asarray([2.0, -1.0, 0.5])})
    x = direct(jnp.asarray(np.random.default_rng(0).normal(size=(2, 4)), jnp.float32), 3)
    np.testing.assert_allclose(fold_norms(net, "neuron")(x).readout, net(x).readout, rtol=1e-5)


class Mine(nnx.Module):
    """A topology of one's own."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.a = layers.Dense(4, 6, neurons=NEURON, norm=True, rngs=rngs)
        self.out = layers.Dense(6, 3, neurons=layers.Integrator(), rngs=rngs)

    def __call__(self, signal, tape):
        return self.out(self.a(signal, tape), tape)


@pytest.mark.long
def test_another_topology_is_folded_into_its_kernels_alone():
    net = Network.of(Mine())
    net = with_leaves(net, {"a/norm/var": jnp.full(6, 0.1), "a/norm/mean": jnp.full(6, 0.2)})
    folded = fold_norms(net)
    assert not folded.has_norms
    np.testing.assert_allclose(run(folded, (4,)).readout, run(net, (4,)).readout, rtol=1e-5)
    with pytest.raises(UserError, match="known in a Chain, found the topology of Mine: choose 'k"):
        fold_norms(net, "neuron")


@pytest.mark.parametrize("into", ["kernel", "neuron"])
def test_folding_and_shrinking_go_together(into):
    net = network(RESNET, use_bias="readout")
    keep = {"conv1": [0, 2], "block1/conv2": [1, 2, 4], "block2/conv1": range(6)}
    first, second = shrink(fold_norms(net, into), keep), fold_norms(shrink(net, keep), into)
    for one, other in ((first.params, second.params), (first.stats, second.stats)):
        jax.tree.map(np.testing.assert_array_equal, one, other)
    assert first.module.block1.sources == second.module.block1.sources == (-1, 1, -1)


def test_unknown_ways_are_errors():
    with pytest.raises(UserError, match="into 'bias' is unknown; choose kernel or neuron"):
        fold_norms(network("4C3-3"), into="bias")
