"""Every kind of layer on every floor of the house: it works there, or is refused by its name."""

import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsnn import compress, encode, export, layers, tree
from jaxsnn.compile import to_c
from jaxsnn.errors import UserError
from jaxsnn.export import stablehlo
from jaxsnn.inputs import Inputs
from jaxsnn.layers import Integrator
from jaxsnn.network import Network
from jaxsnn.neurons import LIF, AdaptiveLIF, SynapticLIF
from tests.compile import random_networks
from tests.export.integer.integer_cases import reference

NEURON = LIF(0.5, 0.5)
IMAGE, LINE = (4, 4, 2), (6, 2)


def options(**more):
    return {"neurons": NEURON, "use_bias": False, "rngs": nnx.Rngs(0)} | more


def chain(shape, features, /, **hidden):
    """Return a network of layers in a chain, a read-out of three classes behind them."""
    rest = {
        "flatten": layers.Flatten(),
        "out": layers.Dense(features, 3, neurons=Integrator(), rngs=nnx.Rngs(1)),
    }
    return Network.of(layers.Chain(hidden | rest), shape)


class Joined(nnx.Module):
    """Two convolutions of one input, added, and a third beside them."""

    def __init__(self):
        self.a, self.b, self.c = (layers.Conv(2, 4, **options()) for _ in range(3))
        self.flatten = layers.Flatten()
        self.out = layers.Dense(128, 3, neurons=Integrator(), rngs=nnx.Rngs(1))

    def __call__(self, x, tape):
        both = self.a(x, tape) + self.b(x, tape)
        return self.out(self.flatten(encode.concatenate(both, self.c(x, tape)), tape), tape)


def grouped():
    first = layers.Conv(2, 4, groups=2, **options())
    return chain(IMAGE, 16, mix=first, deep=layers.Conv(4, 4, groups=4, stride=2, **options()))


def sequences():
    first = layers.Conv1d(2, 4, 3, **options())
    return chain(LINE, 12, line=first, deep=layers.Conv1d(4, 4, groups=2, stride=2, **options()))


def normed():
    return chain(IMAGE, 64, norm=layers.Conv(2, 4, norm="layer", **options()))


def attended():
    first = layers.Conv(2, 4, stride=2, **options())
    return chain(IMAGE, 16, first=first, look=layers.Attention(4, heads=2, **options()))


def projected():
    shortcut = layers.Conv(2, 4, 1, stride=2, **options(neurons=Integrator()))
    first, second = (layers.Conv(c, 4, stride=s, **options()) for c, s in ((2, 2), (4, 1)))
    return chain(IMAGE, 16, block=layers.Residual(first, second, projection=shortcut))


def carrying():
    """Return a network whose neurons carry more than a potential."""
    first, second = SynapticLIF(0.5, 0.125, 0.5), AdaptiveLIF(0.5, 0.125, 0.25, 0.5)
    slow = layers.Dense(4, 8, **options(neurons=first))
    return chain((4,), 8, slow=slow, tired=layers.Dense(8, 8, **options(neurons=second)))


NETWORKS = {
    "projected": projected,
    "carrying": carrying,
    "normed": normed,
    "attended": attended,
    "grouped": grouped,
    "sequences": sequences,
    "joined": lambda: Network.of(Joined(), IMAGE),
}


def inputs(net):
    return Inputs(net.input_shape, timesteps=2, encoding="events")


def gradient(net):
    x = jnp.ones((2, 1, *net.input_shape))
    loss = lambda net: net(x, train=True, key=jax.random.key(0)).readout.sum()  # noqa: E731
    found = jax.eval_shape(jax.grad(lambda params: loss(net.replace(params=params))), net.params)
    assert jax.tree.structure(found) == jax.tree.structure(net.params)


def lanes(net):
    """Trace a sweep: one network for each of two sets of weights."""
    run = lambda params: net.replace(params=params)(jnp.ones((2, 1, *net.input_shape)))  # noqa: E731
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), net.params)
    assert jax.eval_shape(jax.vmap(run), two).readout.shape == (2, 2, 1, 3)


def sparse(net):
    """Trace pruning and quantization."""
    recipe = {"*/kernel": compress.compose(compress.keep_largest(0.5), compress.uniform_grid(4))}
    small = jax.eval_shape(lambda net: compress.project(net, recipe), net)
    assert small.steps.keys() == net.synapses.keys()


def counted(net):
    """Trace what an event of each input reaches."""
    for name, feed in net.flow(inputs(net)).feeds.items():
        kernel, x = tree.named_leaves(net.params)[name], jnp.ones((1, *feed.shape))
        assert jax.eval_shape(net.synapses[name], x, kernel).shape == (1, *feed.outputs)


def whole(net):
    """Cut a network down to all of its channels."""
    small = export.shrink(net, {})
    jax.tree.map(np.testing.assert_array_equal, small.params, net.params)


def packed(net, path):
    export.save(path / "net", net)
    like = export.load(path / "net", like=net).network
    jax.tree.map(np.testing.assert_array_equal, like.params, net.params)
    again = export.load(path / "net").network
    jax.tree.map(np.testing.assert_array_equal, again.params, net.params)


FLOORS = {
    "train": gradient,
    "sweep": lanes,
    "compress": sparse,
    "count": counted,
    "shrink": whole,
    "fold": lambda net: export.fold_norms(net),
    "program": lambda net: stablehlo.to_stablehlo(net, inputs(net)),
    "integers": lambda net: export.to_integer(net, inputs(net)),
    "C": lambda net: to_c(net, inputs(net), allow_rounding=True),
    "nir": lambda net: export.to_nir(net, inputs=inputs(net)),
}  # fmt: skip

FILES = {
    "pack": packed,
    "lava": lambda net, path: export.to_lava(net, path, inputs(net), allow_rounding=True),
}

OWN = {
    **dict.fromkeys(("integers", "C", "lava", "nir"), "the topology of Joined: write it as layers"),
    "pack": "holds no architecture, expected one: its network is code",
}
# network -> floor -> what refuses it; where there is nothing, it works.
REFUSED = {
    "projected": dict.fromkeys(
        ("integers", "C", "lava"), "'block' has a projected shortcut, which"
    ),
    "carrying": {
        "lava": "'slow' has no exact form in lava: its neurons carry a synaptic current",
        "nir": "tired: neurons AdaptiveLIF, its threshold adapts: NIR for target 'nir' cannot",
    },
    "grouped": {},
    "sequences": {},
    "joined": OWN,
    "normed": {
        **dict.fromkeys(("fold", "integers", "C", "lava"), "'norm' has a LayerNorm.*StableHLO"),
        "nir": "norm: a LayerNorm: NIR for target 'nir' cannot express it, StableHLO can",
    },
    "attended": {
        **dict.fromkeys(
            ("integers", "C", "lava"), "'look', Attention, has no counterpart of .*StableHLO"
        ),
        "nir": "look: a layer Attention: NIR for target 'nir' cannot express it, StableHLO can",
    },
}


@pytest.fixture(scope="module")
def networks():
    return {name: on_a_grid(make()) for name, make in NETWORKS.items()}


@pytest.mark.parametrize("floor", [*FLOORS, *FILES])
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_layer_works_or_is_refused_by_name(networks, kind, floor, tmp_path):
    visit = FLOORS.get(floor) or partial(FILES[floor], path=tmp_path)
    if (message := REFUSED[kind].get(floor)) is None:
        visit(networks[kind])
    else:
        with pytest.raises(UserError, match=message):
            visit(networks[kind])


def on_a_grid(net):
    """Return a network whose sums are exact."""
    random = np.random.default_rng(3)
    draw = lambda leaf: jnp.asarray(random.integers(-8, 10, leaf.shape) / 16, jnp.float32)  # noqa: E731
    return net.replace(params=jax.tree.map(draw, net.params))


@pytest.mark.long
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.parametrize("kind", ["grouped", "sequences", "carrying"])
def test_integers_and_their_c_are_the_network(networks, kind):
    net = networks[kind]
    integers = export.to_integer(net, inputs(net))
    assert integers.exact
    x = np.random.default_rng(0).integers(0, 2, (3, 2, *net.input_shape))
    case = random_networks.Case(kind, integers, net.input_shape, x, constant=False)
    random_networks.assert_equal(case, random_networks.compiled(case))
    found = jax.jit(lambda net, x: net(x))(net, jnp.asarray(case.over_time, jnp.float32))
    ours = export.run_integer(integers, jnp.asarray(case.over_time, jnp.int32))
    np.testing.assert_array_equal(ours.readout * integers.unit, found.readout)
    np.testing.assert_array_equal(reference(integers, case.over_time)[0], ours.readout)
    for name, spikes in ours.spikes.items():
        np.testing.assert_array_equal(spikes, found.activity.spikes[name])
        assert spikes.any()


def test_integers_of_a_sequence_without_borders_are_refused():
    conv = layers.Conv1d(2, 3, padding="VALID", **options())
    with pytest.raises(UserError, match="'line', Conv1d, has integers with padding 'SAME' only"):
        export.to_integer(chain(LINE, 12, line=conv), Inputs(LINE, 2))
