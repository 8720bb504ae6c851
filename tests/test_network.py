"""The noun Network: a pytree that jit, vmap, grad and donation take, of our layers or foreign."""

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxsnn import Network, compress, layers, models, train
from jaxsnn.compress.codes import Step
from jaxsnn.data import Split
from jaxsnn.errors import UserError
from jaxsnn.inputs import Inputs
from jaxsnn.layers import Activity, Integrator
from jaxsnn.network import Output
from jaxsnn.neurons import LIF

X = jnp.asarray(np.random.default_rng(0).random((3, 2, 6)) < 0.5, jnp.float32)


def network(seed=0, layout="5-4", shape=(6,), **options):
    return models.build(layout, shape, LIF(0.5, 0.3), seed=seed, **options)


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


# --- Its parts ------------------------------------------------------------------------------------


def test_parameters_are_a_plain_tree_with_outputs_last():
    net = jax.eval_shape(lambda: network(layout="4C3-AP2-6R-5", shape=(4, 4, 2), norm=True))
    shapes = jax.tree.map(lambda leaf: leaf.shape, net.params)
    norm = {"scale": (4,), "bias": (4,)}
    assert shapes["conv1"] == {"kernel": (3, 3, 2, 4), "bias": (4,), "norm": norm}
    assert set(shapes) == {"conv1", "dense1", "dense2"}
    assert shapes["dense1"]["recurrent"] == (6, 6) and shapes["dense2"]["kernel"] == (6, 5)
    assert type(shapes) is type(shapes["conv1"]) is dict
    assert set(net.synapses) == {
        "conv1/kernel", "dense1/kernel", "dense1/recurrent", "dense2/kernel",
    }  # fmt: skip
    assert set(net.stats["conv1"]) == {"norm", "neurons"} and net.has_norms
    assert net.order == ("conv1", "dense1", "dense2") and not network().has_norms


@pytest.mark.long
def test_an_array_is_taken_as_time_first_and_whole_numbers_as_spikes():
    net = network()
    out = net(X)
    assert out.readout.shape == (3, 2, 4)
    assert out.activity.spikes["dense1"].shape == (2, 5) and out.activity.timesteps == 3
    assert jax.tree.structure(out.stats) == jax.tree.structure(net.stats)
    for dtype in (jnp.uint8, bool):
        assert_same(net(X.astype(dtype)), out)


def test_the_module_holds_the_values_and_makes_the_same_network_again():
    net = network()
    assert_same(Network.of(net.module, net.input_shape), net)
    moved = net.replace(params=jax.tree.map(lambda leaf: 2 * leaf, net.params))
    np.testing.assert_array_equal(
        moved.module.dense1.kernel[...], 2 * net.params["dense1"]["kernel"]
    )


def test_new_weights_drop_the_steps_of_the_old_ones():
    step = Step.of(jnp.float32(0.25), bits=3)
    params = {"dense1": {"kernel": jnp.asarray([[0.5, -0.25]])}}
    net = Network.wrap(params, lambda params, x: x).replace(steps={"dense1/kernel": step})
    assert net.quantized["dense1/kernel"].codes.tolist() == [[2, -1]]
    assert jax.jit(lambda net: net)(net).quantized.keys() == {"dense1/kernel"}
    assert net.replace(params=params).quantized == {}
    assert net.replace(params=params, steps=net.steps).quantized.keys() == {"dense1/kernel"}
    assert net.replace(stats={}).quantized.keys() == {"dense1/kernel"}


# --- A pytree -------------------------------------------------------------------------------------


def test_a_network_is_taken_apart_and_put_together_by_tree_functions():
    net = network()
    leaves, structure = jax.tree.flatten(net)
    again = jax.tree.unflatten(structure, leaves)
    assert isinstance(again, Network)
    assert_same(again, net)
    half = jax.tree.map(lambda leaf: leaf / 2, net)
    assert isinstance(half, Network) and (half.params["dense1"]["bias"] != 0).any()
    np.testing.assert_array_equal(half.params["dense1"]["bias"], net.params["dense1"]["bias"] / 2)
    assert len(leaves) == 4 + 4  # kernels and biases; a decay and a threshold for each layer


def test_gradients_come_as_a_network():
    net = network()
    gradient = jax.jit(jax.grad(lambda net: jnp.square(net(X).readout - 0.3).sum()))(net)
    assert isinstance(gradient, Network) and jnp.any(gradient.params["dense1"]["kernel"] != 0)
    assert jax.tree.structure(gradient) == jax.tree.structure(net)


def test_stacked_networks_are_mapped_over():
    nets = [network(seed) for seed in (0, 1)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets)
    run = jax.jit(lambda net: net(X).readout)
    mapped = jax.jit(jax.vmap(lambda net: net(X).readout))(stacked)
    for i, net in enumerate(nets):
        np.testing.assert_array_equal(mapped[i], run(net))


def test_a_network_can_be_donated():
    net = network()
    kept = jax.tree.map(np.array, net.params)
    twice = jax.jit(lambda net: jax.tree.map(lambda leaf: 2 * leaf, net), donate_argnums=0)
    doubled = twice(net)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(net))
    np.testing.assert_array_equal(doubled.params["dense1"]["bias"], 2 * kept["dense1"]["bias"])


@pytest.mark.long
def test_networks_of_one_architecture_share_one_compiled_program():
    traces = []

    @jax.jit
    def run(net):
        traces.append(net.order)
        return net(X).readout

    def own(seed):
        rngs = nnx.Rngs(seed)
        options = {"neurons": LIF(0.5, 0.3), "rngs": rngs}
        return layers.Chain({
            "dense1": layers.Dense(6, 5, **options), "dense2": layers.Dense(5, 4, **options),
        })  # fmt: skip

    run(network(0))
    run(network(1))
    run(Network.of(own(2), (6,)))
    run(jax.tree.map(lambda leaf: leaf + 1, network(3)))
    assert len(traces) == 1
    run(network(0, layout="5-4", norm=True))
    run(models.build("5-4", (6,), LIF(0.5, 0.3, reset="soft"), seed=0))
    assert len(traces) == 3


# --- A module of one's own ------------------------------------------------------------------------


class Mine(nnx.Module):
    """Task 9 of what users must be able to write: a skip of one's own, and no pooling layer."""

    def __init__(self, rngs):
        self.a = layers.Conv((4, 4, 1), 3, 3, neurons=LIF(0.5, 0.2), rngs=rngs)
        self.b = layers.Conv((4, 4, 3), 3, 3, neurons=LIF(0.5, 0.2), rngs=rngs)
        self.out = layers.Dense(3, 2, neurons=Integrator(), rngs=rngs)

    def __call__(self, x, tape):
        a = self.a(x, tape)
        return self.out(layers.mean_pixels(self.b(a, tape) + a), tape)


def brightness(size=40):
    """Return images 4 x 4 of two classes: dark ones and bright ones."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, size).astype(np.int32)
    images = draw.integers(0, 60, (size, 4, 4, 1), dtype=np.uint8)
    return Split(images + (150 * labels).astype(np.uint8).reshape(-1, 1, 1, 1), labels)


@pytest.mark.long
def test_a_module_of_ones_own_trains_and_stays_as_it_was():
    module = Mine(nnx.Rngs(0))
    before = np.array(module.a.kernel[...])
    net, task = Network.of(module), train.Task(Inputs((4, 4, 1), 2), loss="ce")
    trained = train.fit(
        task, optax.adam(3e-2), net, brightness(), epochs=15, batch_size=20, show=False
    )  # fmt: skip
    assert train.evaluate(task, trained, brightness()).accuracy > 0.9
    np.testing.assert_array_equal(module.a.kernel[...], before)
    np.testing.assert_array_equal(net.params["a"]["kernel"], before)
    assert module.a.name == "" and set(trained.params) == {"a", "b", "out"}


def test_what_is_no_network_is_refused_in_one_line():
    class Silent(nnx.Module):
        def __call__(self, x, tape):
            return x

    class Bare(Mine):
        def __call__(self, x, tape):
            return super().__call__(x, tape).over_time()

    with pytest.raises(UserError, match="module must be a flax.nnx.Module, found dict"):
        Network.of({})
    with pytest.raises(UserError, match="Silent holds no layer with weights .*Network.wrap"):
        Network.of(Silent())
    with pytest.raises(UserError, match="Bare must return a Signal, found"):
        Network.of(Bare(nnx.Rngs(0))).flow(Inputs((4, 4, 1), 2))
    with pytest.raises(UserError, match=r"x must be \[T, B, ...\] or a Signal .* shape \(2, 6\)"):
        network()(X[0])
    with pytest.raises(UserError, match="params lack the leaf 'dense1/bias'"):
        net = network()
        net.replace(params={"dense1": {"kernel": 0}, "dense2": net.params["dense2"]})(X)
    with pytest.raises(UserError, match="stats have besides the leaf 'more'"):
        net.replace(stats={**net.stats, "more": jnp.ones(1)})(X)


# --- A function of another framework --------------------------------------------------------------


def dictionary(draw):
    return {"w": draw(6, 4)}, lambda params, x: x @ params["w"]


def linen_like(draw):
    params = {"params": {"Dense_0": {"kernel": draw(6, 4), "bias": draw(4)}}}
    return (
        params,
        lambda params, x: (
            jnp.einsum("tbi,io->tbo", x, params["params"]["Dense_0"]["kernel"])
            + params["params"]["Dense_0"]["bias"].reshape(1, 1, -1)
        ),
    )


def haiku_like(draw):
    params = {"mlp/~/linear_0": {"w": draw(6, 4)}}
    return params, lambda params, x: x @ params["mlp/~/linear_0"]["w"]


def equinox_module(draw):
    linear = equinox.nn.Linear(6, 4, key=jax.random.key(0))
    params, rest = equinox.partition(linear, equinox.is_array)
    return params, lambda params, x: jax.vmap(jax.vmap(equinox.combine(params, rest)))(x)


FOREIGN = {
    dictionary: "w", linen_like: "params/Dense_0/kernel", haiku_like: "mlp/~/linear_0/w",
    equinox_module: "weight",
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("make", FOREIGN, ids=lambda make: make.__name__)
def test_a_foreign_function_trains_and_is_quantized(make):
    draw = np.random.default_rng(0)
    params, apply = make(lambda *shape: jnp.asarray(draw.normal(size=shape), jnp.float32))
    net, leaf = Network.wrap(params, apply), FOREIGN[make]
    images = draw.integers(0, 256, (12, 6), dtype=np.uint8)
    split = Split(images, (images.sum(1) % 4).astype(np.int32))
    phase = compress.quantized(optax.adam(1e-2), {leaf: compress.uniform_grid(3)})
    task = train.Task(Inputs((6,), 2))
    small = train.fit(task, phase, net, split, epochs=1, batch_size=6, show=False)
    assert jax.tree.structure(small.params) == jax.tree.structure(params)
    codes = small.quantized[leaf]
    assert jnp.abs(codes.codes).max() <= 4 and codes.codes.any()
    assert train.evaluate(task, small, split).counts.num_samples == 12
    assert train.predict(task, small, images).shape == (12, 4)


def test_a_foreign_function_is_told_what_it_asks_for_by_name():
    seen = []

    def apply(params, stats, x, *, train, key):
        seen.append((train, key is None))
        return x * params, {"runs": stats["runs"] + 1}

    net = Network.wrap(jnp.float32(2), apply, {"runs": jnp.int32(0)})
    out = net(X, train=True, key=jax.random.key(0))
    assert seen == [(True, False)] and out.stats == {"runs": 1}
    assert out.readout.shape == X.shape and out.activity.timesteps == 3

    def whole(params, x):
        return Output(x * params, {}, Activity({"own": x.sum(0)}, timesteps=3))

    assert set(Network.wrap(jnp.float32(2), whole)(X).activity.spikes) == {"own"}


def test_what_a_foreign_function_must_keep_to():
    with pytest.raises(UserError, match="apply must be a function, found dict"):
        Network.wrap({}, {})
    mlp = equinox.nn.MLP(3, 2, 4, 1, key=jax.random.key(0))
    with pytest.raises(UserError, match="leaf 'activation' is .*, expected an array; split off"):
        Network.wrap(mlp, lambda params, x: x)
    net = Network.wrap({}, lambda params, x: x.mean(0))
    with pytest.raises(UserError, match=r"must return the read-out .*classes\], found .*2, 6"):
        net(X)
    with pytest.raises(UserError, match="remat cuts the time of our layers"):
        net(X, remat=1)
