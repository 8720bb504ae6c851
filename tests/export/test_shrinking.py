"""Shrinking: the smaller network computes what the larger one does with muted channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsnn import compress, layers, models, tree
from jaxsnn.encode import direct
from jaxsnn.errors import UserError
from jaxsnn.export import shrink, silence
from jaxsnn.network import Network
from jaxsnn.neurons import LIF

SOFT = LIF(0.5, 0.4, reset="soft", order="fire_then_integrate")
SHAPE = (8, 8, 2)
CONV = "4C3-MP2-6C3V-AP2-D0.5-7-5-3"
RESNET = "4C3-5B3M3-8B3S2M6-8B3-AP2-3"


def lively(net, seed=0):
    """Return a network of random numbers: norms with statistics, constants for channels.

    Weights, biases and inputs are multiples of 1/16, so that sums are exact in any order.
    """
    rng = np.random.default_rng(seed)

    def draw(name, leaf):
        if name.endswith(("var", "scale")):
            return jnp.asarray(rng.uniform(0.5, 2, leaf.shape), jnp.float32)
        if "norm" in name:
            return jnp.asarray(rng.normal(0, 0.5, leaf.shape), jnp.float32)
        if "neurons" in name:
            return leaf
        return jnp.asarray(rng.integers(-8, 10, leaf.shape) / 16, jnp.float32)

    params, stats = (tree.map_named(draw, each) for each in (net.params, net.stats))
    return net.replace(params=params, stats=stats)


def network(layout, neuron=SOFT, shape=SHAPE, **options):
    return lively(models.build(layout, shape, neuron, readout="current", **options))


def image(*shape):
    return jnp.asarray(np.random.default_rng(5).integers(-16, 17, shape) / 16, jnp.float32)


@jax.jit
def run(net, x):
    return net(x)


def logits(net, x=None):
    """Return the read-out and all spikes of a network on two images, three steps."""
    out = run(net, direct(image(2, *SHAPE) if x is None else x, 3))
    return np.asarray(out.readout), out.activity.spikes


def assert_shrunk_is_silenced(net, keep, *, exact=True, x=None):
    """Compare the read-outs, and the spikes of the kept channels."""
    found, found_spikes = logits(shrink(net, keep), x)
    expected, spikes = logits(silence(net, keep), x)
    for name, kept in keep.items():
        chosen = np.zeros(spikes[name].shape[-1], bool)
        chosen[np.asarray(kept)] = True
        assert not spikes[name][..., ~chosen].any()
        np.testing.assert_array_equal(found_spikes[name], spikes[name][..., chosen])
    assert all(s.any() for s in found_spikes.values())
    if exact:
        np.testing.assert_array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize(
    "neuron", [SOFT, LIF(0.5, 0.3, reset="hard"), LIF(0.75, 0.4, reset="soft_undecayed")]
)
def test_a_shrunk_convolutional_network_is_the_silenced_one(neuron):
    keep = {
        "conv1": [0, 3],
        "conv2": np.array([True, False, True, True, False, True]),
        "dense1": jnp.array([6, 0, 2]),
        "dense2": [1, 2, 4],
    }
    net = network(CONV, neuron)
    assert_shrunk_is_silenced(net, keep)
    small = shrink(net, keep).params
    assert small["conv2"]["kernel"].shape == (3, 3, 2, 4)
    # Images of 1 x 1: 2 x 2 pixels of 6 channels, averaged.
    assert small["dense1"]["kernel"].shape == (4, 3) and small["dense2"]["bias"].shape == (3,)


def test_behind_a_flattening_the_channels_of_every_pixel_go():
    net = network("3C3-5", shape=(2, 2, 1))
    params = net.params
    small = shrink(net, {"conv1": [0, 2]}).params
    rows = params["dense1"]["kernel"].reshape(4, 3, 5)[:, np.array([0, 2])]
    np.testing.assert_array_equal(small["dense1"]["kernel"], rows.reshape(8, 5))
    np.testing.assert_array_equal(
        small["conv1"]["bias"], params["conv1"]["bias"][jnp.array([0, 2])]
    )


@pytest.mark.long
def test_norms_are_shrunk_with_their_statistics():
    net = network("4C3-6C3-MP2-7-3", norm=True, use_bias="readout")
    keep = {"conv1": [1, 2], "conv2": [0, 1, 5], "dense1": [0, 1, 3, 4]}
    assert_shrunk_is_silenced(net, keep, exact=False)
    small = shrink(net, keep)
    np.testing.assert_array_equal(
        small.stats["conv1"]["norm"]["var"], net.stats["conv1"]["norm"]["var"][jnp.array([1, 2])]
    )
    x = direct(image(2, *SHAPE), 3)
    trained = jax.eval_shape(lambda: small(x, train=True))
    assert trained.stats["conv2"]["norm"]["mean"].shape == (3,)


RESNET_KEEP = {
    "conv1": [0, 3],
    "block1/conv1": [1, 2],
    "block1/conv2": [1, 2, 4],
    "block2/conv1": [0, 2, 3, 5],
    "block2/conv2": [0, 2, 3, 4, 6],
    "block3/conv2": [0, 1, 3, 7],
}


@pytest.mark.long
@pytest.mark.parametrize("norm", [False, True])
def test_shortcuts_follow_their_channels(norm):
    net = network(RESNET, norm=norm, use_bias=not norm)
    assert_shrunk_is_silenced(net, RESNET_KEEP, exact=not norm)
    small = shrink(net, RESNET_KEEP).module
    # Four channels become five with none in front: outputs 1, 2, 4 come from 1, 2, none; of the
    # inputs 0 and 3 were kept, so that nothing is left.
    assert small.block1.sources == (-1, -1, -1)
    # Five become eight with one in front: outputs 0, 2, 3, 4, 6 come from none, 1, 2, 3, none.
    assert small.block2.sources == (-1, 0, 1, -1, -1)
    assert small.block3.sources == (0, -1, 2, -1)


@pytest.mark.long
def test_shrinking_twice_is_shrinking_once():
    net = network(RESNET, norm=True)
    once = shrink(net, RESNET_KEEP)
    first = {"block1/conv2": [1, 2, 3, 4], "block2/conv2": [0, 2, 3, 4, 6, 7], "conv1": [0, 1, 3]}
    half = shrink(net, first)
    rest = RESNET_KEEP | {
        "conv1": [0, 2],
        "block1/conv2": [0, 1, 3],
        "block2/conv2": [True] * 5 + [False],
    }
    twice = shrink(half, rest)
    jax.tree.map(np.testing.assert_array_equal, twice.params, once.params)
    jax.tree.map(np.testing.assert_array_equal, twice.stats, once.stats)
    np.testing.assert_array_equal(logits(once)[0], logits(twice)[0])


@pytest.mark.long
def test_whole_blocks_keep_their_plain_shortcut():
    net = network(RESNET)
    same = shrink(net, {"block2/conv1": [0, 1], "block1/conv2": range(5)}).module
    assert same.block1.sources is None and same.block2.sources is None


@pytest.mark.long
def test_padded_shortcuts_join_by_position():
    whole = network("2C3-3B3-3", shape=(1, 1, 1))
    keep = {"conv1": [1], "block1/conv2": [0, 2]}
    padded, followed = shrink(whole, keep, shortcuts="padded"), shrink(whole, keep)
    small, follow = padded.module, followed.module
    assert small.block1.sources is None and follow.block1.sources == (-1, -1)
    # By hand: one input, two outputs, so that the only channel is added to the first.
    x, tape = image(1, 1, 1, 1), layers.Tape()
    shortcuts = [net.block1.shortcut(direct(x, 1), tape).value for net in (small, follow)]
    np.testing.assert_array_equal(shortcuts[0].ravel(), [x.item(), 0])
    np.testing.assert_array_equal(shortcuts[1].ravel(), [0, 0])
    jax.tree.map(np.testing.assert_array_equal, padded.params, followed.params)


@pytest.mark.long
def test_recurrent_layers_forget_the_channels_on_both_sides():
    net = network("6R-5R-3", LIF(0.5, 0.4, reset="soft"), (4,))
    keep = {"dense1": [0, 1, 2, 3, 5], "dense2": [1, 4]}
    assert_shrunk_is_silenced(net, keep, x=image(8, 4) * 4)
    small = shrink(net, keep).params["dense2"]["recurrent"]
    np.testing.assert_array_equal(small, net.params["dense2"]["recurrent"][1::3, 1::3])


@pytest.mark.long
@pytest.mark.parametrize("trained", [(), ("threshold", "decay")])
def test_constants_of_channels_are_shrunk_and_scalars_stay(trained):
    net = network("4C3-6C3-3", trained=trained)
    rng = np.random.default_rng(1)
    constants = {
        "conv1/neurons/decay": jnp.asarray([0.25, 0.5, 0.75, 1.0]),
        "conv1/neurons/threshold": jnp.asarray(rng.uniform(0.3, 0.6, 4), jnp.float32),
    }
    params, stats = (tree.substitute(each, constants) for each in (net.params, net.stats))
    net = net.replace(params=params, stats=stats)
    keep = {"conv1": [1, 3], "conv2": [0, 1, 4]}
    assert_shrunk_is_silenced(net, keep)
    small = shrink(net, keep)
    constants = (small.params if trained else small.stats)["conv1"]["neurons"]
    assert constants["decay"].tolist() == [0.5, 1.0]
    assert (small.params if trained else small.stats)["conv2"]["neurons"]["decay"].shape == ()


@pytest.fixture(scope="module")
def mixed():
    """Return a network with every kind of layer, for images of 4 x 4."""
    return network("3C3-MP2-4B3S2M2-5B3-4-2", shape=(4, 4, 1))


@pytest.mark.slow
@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.data())
def test_whatever_is_kept_shrunk_is_silenced(mixed, data):
    keep = {}
    for name, layer in list(layers.synapses(mixed.module).items())[:-1]:
        kept = st.sets(st.integers(0, layer.kernel.shape[-1] - 1), min_size=1)
        keep[name] = data.draw(kept.map(sorted), label=name)
    found, _ = logits(shrink(mixed, keep), image(2, 4, 4, 1))
    expected, _ = logits(silence(mixed, keep), image(2, 4, 4, 1))
    np.testing.assert_array_equal(found, expected)


def test_the_given_network_stays_as_it_is():
    net = network(CONV)
    before = jax.tree.map(np.array, net)
    for change in (shrink, silence):
        change(net, {"conv1": [0]})
        jax.tree.map(np.testing.assert_array_equal, net, before)
    np.testing.assert_array_equal(logits(shrink(net, {}))[0], logits(net)[0])


@pytest.mark.long
@pytest.mark.parametrize("grid", [compress.rescaled(4), compress.uniform_grid(4)])
def test_steps_of_known_grids_are_cut_with_their_channels(grid):
    net = network(CONV)
    net = jax.jit(lambda net: compress.project(net, {"*/kernel": grid}))(net)
    steps = net.steps
    keep = {"conv1": [0, 3], "conv2": [1, 2, 5], "dense1": [0, 6]}
    small, mute = shrink(net, keep), silence(net, keep)
    assert small.steps.keys() == mute.steps.keys() == steps.keys()
    for name, found in jax.jit(lambda net: net.quantized)(small).items():
        leaf = tree.named_leaves(small.params)[name]
        np.testing.assert_array_equal(found.decode(), leaf)
        scale = mute.steps[name].scale
        if scale.ndim:
            outputs = np.asarray(keep.get(name.removesuffix("/kernel"), range(leaf.shape[-1])))
            scale = scale[..., outputs]
        np.testing.assert_array_equal(found.scale, scale)


class Mine(nnx.Module):
    """A topology of one's own."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.a = layers.Dense(4, 6, neurons=SOFT, rngs=rngs)
        self.b = layers.Dense(6, 6, neurons=SOFT, rngs=rngs)
        self.out = layers.Dense(6, 3, neurons=layers.Integrator(), rngs=rngs)

    def __call__(self, signal, tape):
        hidden = self.a(signal, tape)
        return self.out(self.b(hidden, tape) + hidden, tape)


@pytest.mark.long
def test_another_topology_is_silenced_and_shrunk():
    net = lively(Network.of(Mine(), (4,)))
    with pytest.raises(UserError, match="channel 1 of 'a' and channel 1 of 'b' are added: keep bo"):
        shrink(net, {"a": [0]})
    x = image(9, 4) * 4
    spikes, muted = logits(net, x)[1], logits(silence(net, {"a": [0, 2, 3]}), x)[1]
    gone = np.array([1, 4, 5])
    assert np.any(spikes["a"][:, gone]) and not np.any(muted["a"][:, gone])
    np.testing.assert_array_equal(muted["a"][:, 2], spikes["a"][:, 2])
    assert_shrunk_is_silenced(net, {"a": [0, 2, 3], "b": [0, 2, 3]}, x=x)
    foreign = Network.wrap({"w": jnp.ones((4, 3))}, lambda params, x: x @ params["w"])
    with pytest.raises(UserError, match="a wrapped foreign function has no module"):
        shrink(foreign, {"a": [0]})


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"conv3": [0]}, "no layer 'conv3' to shrink; there are: conv1, conv2, dense1, dense2"),
        ({"pool1": [0]}, "no layer 'pool1' to shrink"),
        ({"dense3": [0]}, "'dense3' is the read-out"),
        ({"conv1": [True, False]}, r"'conv1' has 4 channels, but its mask is \(2,\)"),
        ({"conv1": [4]}, r"'conv1' keeps \[4\]: give a boolean mask or indices from 0 to 3"),
        ({"conv1": [-1]}, r"'conv1' keeps \[-1\]"),
        ({"conv1": [0.0, 1.0]}, r"'conv1' keeps \[0. 1.\]"),
        ({"conv1": [1, 1]}, "'conv1' keeps a channel twice"),
        ({"conv1": []}, "'conv1' keeps no channel; one must stay"),
        ({"conv2": 6 * [False]}, "'conv2' keeps no channel"),
    ],
)
def test_what_cannot_be_kept_is_named(keep, message):
    with pytest.raises(UserError, match=message):
        shrink(network(CONV), keep)


def test_unknown_and_impossible_shortcuts_are_errors():
    net = network("4C3-5B3-3")
    with pytest.raises(UserError, match="shortcuts 'own' is unknown; choose follow or padded"):
        shrink(net, {}, shortcuts="own")
    with pytest.raises(UserError, match="padded shortcut of 'block1' cannot add 4 channels to 2"):
        shrink(net, {"block1/conv2": [0, 1]}, shortcuts="padded")
    conv = layers.Conv(2, 3, neurons=SOFT, rngs=nnx.Rngs(0))
    back = layers.Conv(3, 2, neurons=SOFT, rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="sources must be 2 numbers from -1 to 1, found"):
        layers.Residual(conv, back, sources=(0, 2))
    wide = layers.Conv(2, 1, neurons=SOFT, rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="cannot add 2 channels to 1 by position"):
        layers.Residual(conv, wide)


def test_channels_are_not_followed_through_unknown_layers():
    dense = [layers.Dense(4, 4, neurons=SOFT, rngs=nnx.Rngs(0)) for _ in range(2)]
    chain = layers.Chain({"dense1": dense[0], "vote": layers.Vote(4), "dense2": dense[1]})
    with pytest.raises(UserError, match="cannot be followed through 'vote', Vote"):
        shrink(Network.of(chain), {"dense1": [0]})


def test_trees_of_another_network_are_errors():
    net = network("4C3-3")
    less = net.params | {"conv1": {"kernel": net.params["conv1"]["kernel"]}}
    with pytest.raises(UserError, match="params lack the leaf 'conv1/bias'"):
        shrink(net.replace(params=less), {})
    with pytest.raises(UserError, match="stats have besides the leaf 'more'"):
        shrink(net.replace(stats=net.stats | {"more": jnp.zeros(1)}), {})
    with pytest.raises(UserError, match="no layer 'dense1' of spiking neurons to silence"):
        silence(net, {"dense1": [0]})
