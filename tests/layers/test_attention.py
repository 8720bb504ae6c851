"""Spiking self-attention: its sums, what they cost, and its heads."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsnn import export, layers, metrics
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.layers import Integrator, Tape
from jaxsnn.layers.layer import named
from jaxsnn.network import Network
from jaxsnn.neurons import LIF, PLIF

FEATURES = 4


def spikes(*shape, seed=0, rate=0.6):
    return (np.random.default_rng(seed).random(shape) < rate).astype(np.float32)


def attention(**options):
    options = {"heads": 2, "neurons": LIF(0.5, 0.4), "rngs": nnx.Rngs(0)} | options
    return layers.Attention(FEATURES, **options)


def by_hand(q, k, v, heads):
    """Return the counts of `(Q K^T) V` and what both products cost, with loops alone."""
    steps, batch, tokens, width = q.shape
    dim = width // heads
    out, scores, values = np.zeros_like(v), np.zeros((batch, tokens)), np.zeros((batch, tokens))
    for t, b, h in itertools.product(range(steps), range(batch), range(heads)):
        mine = slice(h * dim, (h + 1) * dim)
        for i, j in itertools.product(range(tokens), repeat=2):
            met = (q[t, b, i, mine] * k[t, b, j, mine]).sum()
            out[t, b, i, mine] += met * v[t, b, j, mine]
            scores[b, i] += met
            values[b, j] += (met != 0) * v[t, b, j, mine].sum()
    return out, scores, values


@pytest.mark.long
@pytest.mark.parametrize("tokens", [5, 2], ids=["values first", "scores first"])
def test_it_sums_and_counts_what_meets(tokens):
    layer, tape = attention(), Tape()
    layer.name = "attention"
    q, k, v = (spikes(2, 1, tokens, FEATURES, seed=i) for i in range(3))
    signals = [Signal(jnp.asarray(x), 2) for x in (q, k, v)]
    found = layer._attended(*signals, tape)
    out, scores, values = by_hand(q, k, v, 2)
    np.testing.assert_array_equal(found, out * 0.125)
    products = tape.activity.products
    np.testing.assert_array_equal(products["attention/scores"], scores)
    np.testing.assert_array_equal(products["attention/values"], values)
    empty, one = metrics.counts.no_counts(tape.activity), jnp.ones(1, bool)
    counts = metrics.counts.accumulate(empty, tape.activity, valid=one)
    assert int(counts.products["attention/values"].sum()) == values.sum()


def network(**options):
    """Return a network of one attention over sequences of 3."""
    parts = {
        "attention": attention(use_bias=False, scale=1.0, **options),
        "flatten": layers.Flatten(),
        "out": layers.Dense(3 * FEATURES, 2, neurons=Integrator(), rngs=nnx.Rngs(1)),
    }
    net = Network.of(layers.Chain(parts), (3, FEATURES))
    random = np.random.default_rng(0)
    draw = lambda leaf: jnp.asarray(random.integers(-4, 16, leaf.shape) / 16, jnp.float32)  # noqa: E731
    return net.replace(params=jax.tree.map(draw, net.params))


@pytest.mark.long
def test_a_head_is_cut_as_a_whole_and_computes_what_is_silenced():
    net, x = network(), jnp.asarray(spikes(3, 2, 3, FEATURES))
    small, mute = (cut(net, {"attention": [1]}) for cut in (export.shrink, export.silence))
    assert small.module.attention.heads == 1
    assert small.params["attention"]["projection"]["kernel"].shape == (1, 2, FEATURES)
    found, expected = (jax.jit(lambda net, x: net(x))(each, x) for each in (small, mute))
    np.testing.assert_array_equal(found.readout, expected.readout)
    assert found.activity.spikes["attention"].any() and found.activity.spikes["attention/q"].any()
    flow = net.flow(Signal(x, 3))
    assert flow.order == tuple(f"attention/{x}" for x in ("q", "k", "v", "projection")) + ("out",)
    assert flow.feeds["attention/projection/kernel"].sources == ("attention",)


def test_channels_of_heads_are_cut_evenly():
    even = {f"attention/{part}": [0, 3] for part in ("q", "k")}
    small = export.shrink(network(), even)
    assert small.module.attention.heads == 2
    assert small.params["attention"]["q"]["kernel"].shape == (1, FEATURES, 2)
    with pytest.raises(
        UserError, match="'attention' has 2 heads, .* queries that stay are 2, 1 of"
    ):
        export.shrink(network(), {f"attention/{part}": [0, 1, 2] for part in ("q", "k")})
    with pytest.raises(
        UserError, match="channel 2 of 'attention/q' and channel 2 of 'attention/k'"
    ):
        export.shrink(network(), {"attention/q": [0, 1]})
    with pytest.raises(UserError, match="'attention' keeps no channel; one must stay"):
        export.shrink(network(), {"attention": []})


def test_a_head_without_queries_is_starved():
    net = network()
    kernel = net.params["attention"]["q"]["kernel"].at[..., :2].set(0.0)
    parts = net.params["attention"] | {"q": {"kernel": kernel}}
    starved = export.shrink(net.replace(params=net.params | {"attention": parts}))
    assert starved.module.attention.heads == 1
    assert starved.params["attention"]["v"]["kernel"].shape == (1, FEATURES, 2)
    np.testing.assert_array_equal(
        starved.params["attention"]["k"]["kernel"], parts["k"]["kernel"][..., 2:]
    )


def test_neurons_that_may_fire_by_themselves_starve_nobody():
    net = network(attend=PLIF())
    kernel = net.params["attention"]["q"]["kernel"].at[..., :2].set(0.0)
    parts = net.params["attention"] | {"q": {"kernel": kernel}}
    small = export.shrink(net.replace(params=net.params | {"attention": parts}))
    assert small.module.attention.heads == 2


def test_pixels_are_tokens():
    layer = named(attention(width=6, heads=3))
    layer.name = "attention"
    shape = jax.eval_shape(
        lambda x: layer(Signal(x, 2), Tape()).value, jnp.ones((2, 1, 3, 2, FEATURES))
    )
    assert shape.shape == (2, 1, 3, 2, FEATURES)


def test_what_makes_no_heads_is_refused():
    with pytest.raises(UserError, match="3 heads do not divide a width of 4"):
        attention(heads=3)
    with pytest.raises(UserError, match=r"constants, such as LIF\(0.5\), found Neurons"):
        attention(neurons=layers.Neurons(LIF(0.5)))
