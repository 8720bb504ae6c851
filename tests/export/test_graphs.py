"""Shrinking random graphs: what is cut computes what is silenced, and starving changes nothing."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsnn import encode, layers, tree
from jaxsnn.errors import UserError
from jaxsnn.export import shrink, silence
from jaxsnn.layers import Integrator
from jaxsnn.network import Network
from jaxsnn.neurons import LIF
from tests.export import graphs

LIF_HALF = LIF(0.5, 0.4)
CHUNK = 20


def size(net):
    return sum(leaf.size for leaf in tree.named_leaves(net.params).values())


def assert_shrunk_is_silenced(seed):
    net, steps, random = graphs.network(seed)
    x, keep = graphs.inputs(random), graphs.draw_keep(steps, random)
    small, mute = shrink(net, keep), silence(net, keep)
    np.testing.assert_array_equal(graphs.run(small.module, x), graphs.run(mute.module, x))
    for name, kept in keep.items():
        layer = layers.synapses(small.module)[name]
        assert layer.kernel.shape[-1] == layer.bias.shape[0] == sum(kept)
    return net, small, mute, x


@pytest.mark.parametrize("seed", range(CHUNK))
def test_a_shrunk_graph_is_the_silenced_one(seed):
    assert_shrunk_is_silenced(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(CHUNK, 200, CHUNK))
def test_many_shrunk_graphs_are_the_silenced_ones(first):
    for seed in range(first, first + CHUNK):
        net, small, mute, x = assert_shrunk_is_silenced(seed)
        if seed % 5 == 0:  # the numpy of this test is the network
            for each in (net, small, mute):
                np.testing.assert_array_equal(graphs.run(each.module, x), graphs.by_jax(each, x))


def starve(net, random):
    """Return a network in which some channels have no weights in, or none out."""

    def change(name, leaf):
        found = np.array(leaf)
        chosen = random.random(found.shape[-1]) < 0.5
        if name.endswith("kernel") and not name.startswith("n1/"):
            found[..., chosen] = 0
            found[..., random.random(found.shape[-2]) < 0.4, :] = 0
        elif name.endswith("bias"):
            found = -np.abs(found)
        return jnp.asarray(found)

    return net.replace(params=tree.map_named(change, net.params))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(12))
def test_what_the_read_out_does_without_goes_in_one_call(seed):
    net, _, random = graphs.network(seed)
    net, x = starve(net, random), graphs.inputs(random)
    small = shrink(net)
    np.testing.assert_array_equal(graphs.run(small.module, x), graphs.run(net.module, x))
    assert size(small) <= size(net)


def chain(**options):
    """Return a network of three convolutions, in groups, without a bias."""
    plain = {"neurons": LIF_HALF, "use_bias": False, "rngs": nnx.Rngs(0)}
    return layers.Chain(
        {
            "a": layers.Conv(1, 4, **plain),
            "b": layers.Conv(4, 4, groups=4, **plain),
            "c": layers.Conv(4, 6, groups=2, **plain, **options),
            "flatten": layers.Flatten(),
            "out": layers.Dense(24, 2, neurons=Integrator(), rngs=nnx.Rngs(1)),
        }
    )


def network():
    return Network.of(chain(), (2, 2, 1))


def test_dead_channels_starve_what_they_feed():
    net = network()
    kernel = net.params["a"]["kernel"].at[..., 2:].set(0.0)
    starved = shrink(net.replace(params=net.params | {"a": {"kernel": kernel}}))
    # Without channels 2 and 3 the second half of each layer never fires.
    shapes = {name: layer.kernel.shape for name, layer in layers.synapses(starved.module).items()}
    assert shapes == {"a": (3, 3, 1, 2), "b": (3, 3, 1, 2), "c": (3, 3, 2, 3), "out": (12, 2)}
    assert starved.module.c.groups == 1 and starved.module.b.groups == 2


def test_channels_that_nobody_hears_go_and_one_of_a_layer_stays():
    net = network()
    params = net.params | {"out": {"kernel": jnp.zeros((24, 2)), "bias": jnp.ones(2)}}
    small = shrink(net.replace(params=params))
    assert {name: layer.inputs for name, layer in layers.synapses(small.module).items()} == {
        "a": 1, "b": 2, "c": 2, "out": 12,
    }  # fmt: skip


def test_groups_are_cut_evenly_or_as_a_whole():
    net = network()
    even = shrink(net, {"a": [0, 2], "b": [0, 2], "c": [0, 1, 4, 5]})
    assert even.module.c.groups == 2 and even.params["c"]["kernel"].shape == (3, 3, 1, 4)
    whole = shrink(net, {"a": [2, 3], "b": [2, 3], "c": [3, 5]})
    assert whole.module.c.groups == 1 and whole.module.b.groups == 2
    np.testing.assert_array_equal(
        whole.params["c"]["kernel"], net.params["c"]["kernel"][..., jnp.array([3, 5])]
    )


class Mine(nnx.Module):
    """A topology of one's own, in which much is joined."""

    def __init__(self, fold=None):
        options = {"neurons": LIF_HALF, "rngs": nnx.Rngs(0)}
        self.a = layers.Dense(4, 6, **options)
        self.b = layers.Dense(6, 6, **options)
        self.c = layers.Dense(4, 5, **options)
        self.out = layers.Dense(11, 3, neurons=Integrator(), rngs=nnx.Rngs(0))
        self.fold = fold

    def __call__(self, x, tape):
        a, c = self.a(x, tape), self.c(x, tape)
        both = self.b(a, tape) + a
        if self.fold:
            c = c.fold(lambda x: 2 * x, channelwise=self.fold == "channelwise")
        return self.out(encode.concatenate(both, c), tape)


class Shortcut(nnx.Module):
    """A convolution whose current a signal is added to."""

    def __init__(self):
        options = {"neurons": LIF_HALF, "rngs": nnx.Rngs(0)}
        self.a, self.b = layers.Dense(4, 3, **options), layers.Dense(3, 3, **options)
        self.out = layers.Dense(3, 2, neurons=Integrator(), rngs=nnx.Rngs(0))

    def __call__(self, x, tape):
        a = self.a(x, tape)
        return self.out(self.b(a, tape, shortcut=a), tape)


def test_what_is_added_to_a_current_goes_with_it():
    net = Network.of(Shortcut(), (4,))
    with pytest.raises(UserError, match="channel 1 of 'a' and channel 1 of 'b' are added: keep b"):
        shrink(net, {"a": [0, 2]})
    small = shrink(net, {"a": [0, 2], "b": [0, 2]})
    assert small.params["b"]["kernel"].shape == (2, 2)
    # Neither is quiet where the other one drives it.
    kernel = jnp.zeros((3, 3))
    params = net.params | {"b": {"kernel": kernel, "bias": jnp.zeros(3)}}
    assert shrink(net.replace(params=params)).params["a"]["kernel"].shape == (4, 3)


def test_sums_and_concatenations_of_ones_own_are_followed():
    net = Network.of(Mine("channelwise"), (4,))
    small = shrink(net, {"a": [0, 1, 5], "b": [0, 1, 5], "c": [1, 4]})
    expected = net.params["out"]["kernel"][jnp.array([0, 1, 5, 7, 10])]
    np.testing.assert_array_equal(small.params["out"]["kernel"], expected)
    assert small.params["b"]["kernel"].shape == (3, 3) and small.params["c"]["bias"].shape == (2,)


@pytest.mark.parametrize(
    ("net", "keep", "message"),
    [
        (network, {"c": [0, 1, 2, 3]}, "'c' has 2 groups, .* its outputs that stay are 3, 1 of 2"),
        (network, {"a": [0, 1]}, "'b' has 4 groups, .* inputs that stay are 1, 1, 0, 0 of 4"),
        (lambda: Network.of(Mine(), (4,)), {"a": [0]}, "channel 1 of 'a' and channel 1 of 'b' are"),
        (lambda: Network.of(Mine(), (4,)), {"out": [0]}, "'out' is the read-out"),
        (lambda: Network.of(Mine("own"), (4,)), {"c": [0]}, "followed through a function of one's"),
        (lambda: Network.of(Mine()), {"c": [0]}, "nothing is known of the network's input: pass"),
    ],
)  # fmt: skip
def test_what_cannot_be_cut_is_named_with_the_reason(net, keep, message):
    with pytest.raises(UserError, match=message):
        shrink(net(), keep)
