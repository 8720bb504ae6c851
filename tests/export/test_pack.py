"""The packed file returns the same bits and the same network, or says what is wrong with it."""

import os
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsnn import coding, compress, layers, models, tree
from jaxsnn.cli import facts
from jaxsnn.errors import UserError
from jaxsnn.export import Model, fold_norms, load, pack, save, save_npz
from jaxsnn.inputs import Inputs
from jaxsnn.network import Network
from jaxsnn.neurons import LIF

NAME = "net.safetensors"


def sparse_grid(seed, size, density, bits):
    """Return weights on `2**bits` levels, a share of them set to zero."""
    rng = np.random.default_rng(seed)
    codebook = rng.normal(size=2**bits).astype(np.float32)
    leaf = codebook[rng.integers(0, 2**bits, size)]
    return np.where(rng.random(size) < density, leaf, 0).astype(np.float32)


def unused(params, stats, x):
    """Stand for a function that never runs here."""


def network(seed=0, density=0.1, bits=2, stats=None):
    rng = np.random.default_rng(seed)
    params = {
        "conv1": {
            "kernel": sparse_grid(seed, 576, density, bits).reshape(3, 3, 8, 8),
            "bias": rng.normal(size=8).astype(np.float32),
        },
        "out": {"kernel": rng.normal(size=(40, 10)).astype(np.float32)},
    }
    return Network.wrap(params, unused, stats)


STATS = {"conv1": {"norm": {"mean": np.arange(3.0)}, "neurons": {"decay": np.float32(0.1)}}}


def same_bits(first, second):
    return (
        first.dtype == second.dtype
        and first.shape == second.shape
        and (np.asarray(first).tobytes() == np.asarray(second).tobytes())
    )


def assert_same_leaves(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert all(map(same_bits, jax.tree.leaves(first), jax.tree.leaves(second)))


def test_numbers_return_with_metadata_and_in_place_of_an_old_file(tmp_path):
    net = network(stats=STATS | {"n": {"count": np.array(7), "bound": np.float32(np.inf)}})
    path = tmp_path / "deep" / NAME
    size = save(path, jax.tree.map(jnp.asarray, net), metadata={"dataset": "digits", "größe": "8"})
    assert size == path.stat().st_size
    assert [each.name for each in path.parent.iterdir()] == [NAME]
    again = load(path, like=net)
    assert again.metadata == {"dataset": "digits", "größe": "8"} and again.inputs is None
    assert_same_leaves(again.network.params, net.params)
    assert_same_leaves(again.network.stats, jax.tree.map(jnp.asarray, net.stats))
    save(path, network())
    assert load(path, like=network()).metadata == {}


@pytest.mark.long
def test_the_same_network_gives_the_same_bytes(tmp_path):
    about = {name: name.upper() for name in "qwertyuiop"}
    contents = set()
    for number in range(4):
        path = tmp_path / f"net{number}"
        save(path, small(), INPUTS, dict(sorted(about.items(), reverse=number % 2 == 1)))
        contents.add(path.read_bytes())
    assert len(contents) == 1
    assert load(path).metadata == about


PACKED = """
from jaxsnn import compress, export, models
from jaxsnn.inputs import Inputs

net = models.build("4C3-8-6", (8, 8, 2), norm=True, seed=0)
recipe = {"*/kernel": compress.uniform_grid(3)}
net = net.replace(params=compress.project(net.params, recipe))
export.save(path, net, Inputs((8, 8, 2), 3), {name: name for name in "qwertyuiop"})
"""


@pytest.mark.thorough
@pytest.mark.run
def test_every_process_packs_a_network_to_the_same_bytes(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    exec(PACKED, {"path": here})
    command = [sys.executable, "-c", f"path = {str(there)!r}{PACKED}"]
    subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": "1"}, check=True)
    assert here.read_bytes() == there.read_bytes()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), density=st.floats(0, 1), bits=st.integers(1, 8))
@pytest.mark.long
def test_any_network_returns_and_its_bytes_are_those_promised(
    tmp_path_factory, seed, density, bits
):
    path, net = tmp_path_factory.mktemp("pack") / NAME, network(seed, density, bits, STATS)
    save(path, net)
    assert_same_leaves(load(path, like=net).network.params, net.params)
    written = {name: tensor.nbytes for name, tensor in pack.read(path).tensors.items()}
    for name, leaf in tree.named_leaves(net.params).items():
        assert written[f"params/{name}"] == coding.num_bytes(leaf)
    assert path.stat().st_size < sum(written.values()) + 300


class Pair(NamedTuple):
    """Stand for a module of another framework: leaves under the names of attributes."""

    weight: jax.Array
    bias: jax.Array


def haiku_like(draw):
    return {"mlp/~/linear_0": {"w": draw(4, 3), "b": draw(3)}}


def equinox(draw):
    eqx = pytest.importorskip("equinox")
    module = eqx.nn.Linear(4, 3, key=jax.random.key(0))
    return eqx.tree_at(lambda each: each.weight, module, draw(3, 4))


@pytest.mark.long
@pytest.mark.parametrize(
    "make",
    [
        haiku_like,
        equinox,
        lambda draw: [draw(4, 3), [draw(3), None]],
        lambda draw: Pair(draw(4, 3), draw(3)),
        lambda draw: draw(4, 3),
    ],
)
def test_any_pytree_is_packed_and_put_back_into_a_network_like_it(tmp_path, make):
    rng = np.random.default_rng(0)
    params = make(lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32))
    net = Network.wrap(params, unused)
    save(tmp_path / NAME, net)
    blank = net.replace(params=jax.tree.map(jnp.zeros_like, params))
    again = load(tmp_path / NAME, like=blank).network
    assert_same_leaves(again.params, params)
    assert type(again.params) is type(params)
    with pytest.raises(UserError, match=f"{NAME}: holds no architecture.*like=net"):
        load(tmp_path / NAME)
    save_npz(tmp_path / "net.npz", net)
    with np.load(tmp_path / "net.npz") as file:
        for name, leaf in tree.named_leaves(params).items():
            np.testing.assert_array_equal(file[f"params/{name}"], leaf)
    rows = facts.of_file(tmp_path / NAME)[0]["layers"]
    assert sum(row["bytes"] for row in rows) > 0
    assert sum(len(row["shape"] or ()) == 2 for row in rows) == 1


class Mine(nnx.Module):
    """A topology of one's own: a skip over a layer."""

    def __init__(self, seed, width=6):
        rngs, neuron = nnx.Rngs(seed), LIF(0.5, 0.2)
        self.a = layers.Dense(4, width, neurons=neuron, rngs=rngs)
        self.b = layers.Dense(width, width, neurons=neuron, rngs=rngs)
        self.out = layers.Dense(width, 3, neurons=layers.Integrator(), rngs=rngs)

    def __call__(self, signal, tape):
        hidden = self.a(signal, tape)
        return self.out(self.b(hidden, tape) + hidden, tape)


@pytest.mark.long
def test_a_network_of_ones_own_is_saved_as_numbers_and_filled_again(tmp_path):
    net, other = Network.of(Mine(0)), Network.of(Mine(1))
    inputs = Inputs((4,), 3)
    save(tmp_path / NAME, net, inputs)
    with pytest.raises(UserError, match="holds no architecture, expected one: its network is code"):
        load(tmp_path / NAME)
    model = load(tmp_path / NAME, like=other)
    images = np.random.default_rng(0).integers(0, 256, (5, 4)).astype(np.uint8)
    expected = Model(net, inputs).scores(images)
    assert np.abs(expected - Model(other, inputs).scores(images)).max() > 0
    np.testing.assert_array_equal(model.scores(images), expected)
    with pytest.raises(
        UserError, match=r"params/a/bias: the network given as like has \(7,\), the.*; params/b/bi"
    ):
        load(tmp_path / NAME, like=Network.of(Mine(0, width=7)))


def small(layout="4C3S2-8B3M3-MP2-16R-6-V3", norm=True, **options):
    neuron = LIF(0.3, 0.25, reset="soft")
    options = {"trained": ("threshold",)} | options
    return models.build(layout, (8, 8, 2), neuron, norm=norm, **options)


INPUTS = Inputs((8, 8, 2), 3, mean=(0.4, 0.5), std=(0.2, 0.3))
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 2)).astype(np.uint8)


@pytest.mark.long
def test_a_loaded_network_gives_identical_scores(tmp_path):
    net = small()
    net = net.replace(stats=jax.tree.map(lambda leaf: leaf * 1.5, net.stats))
    save(tmp_path / NAME, net, INPUTS, {"accuracy": "0.5"})
    model = load(tmp_path / NAME)
    assert model.inputs == INPUTS and model.metadata == {"accuracy": "0.5"}
    assert model.written_by["jax"] == jax.__version__ and model.classes == 3
    assert_same_leaves(model.network.params, net.params)
    assert_same_leaves(model.network.stats, net.stats)
    assert model.network.program == net.program  # so that they share compiled programs
    x = INPUTS.prepare(jax.random.key(0), jnp.asarray(IMAGES))
    expected = jax.jit(lambda net, x: net(x).readout.mean(0))(net, x)
    assert np.abs(expected).max() > 0
    np.testing.assert_array_equal(model.scores(IMAGES, batch_size=6), expected)
    labels = np.asarray(expected.argmax(-1))
    assert model.evaluate((IMAGES, labels), batch_size=6).accuracy == 1.0


@pytest.mark.long
@pytest.mark.parametrize("grid", [compress.uniform_grid(3), compress.rescaled(4)])
def test_the_steps_of_known_grids_return(tmp_path, grid):
    net, recipe = small("4C3-8-6", trained=()), {"*/kernel": grid}
    _, steps = compress.quantized(optax.sgd(0.1), recipe).finish(
        *started(compress.quantized(optax.sgd(0.1), recipe), net.params)
    )
    net = net.replace(params=compress.project(net.params, recipe), steps=steps)
    size, guessed = save(tmp_path / NAME, net), save(tmp_path / "guess", net.replace(steps={}))
    assert size <= guessed
    again = load(tmp_path / NAME).network
    assert_same_leaves(again.params, net.params)
    assert again.steps.keys() == net.steps.keys() == {f"{name}/kernel" for name in net.order}
    for name, found in again.quantized.items():
        np.testing.assert_array_equal(found.codes, net.quantized[name].codes)
        assert found.bits == net.steps[name].bits
        np.testing.assert_array_equal(found.decode(), tree.named_leaves(net.params)[name])


def started(phase, params):
    return params, phase.optimizer.init(params)


def test_a_network_without_norms_keeps_the_threshold_of_each_channel(tmp_path):
    net = fold_norms(small("4C3-AP2-6", trained=()), into="neuron")
    save(tmp_path / NAME, net, INPUTS)
    model = load(tmp_path / NAME)
    assert model.network.stats["conv1"]["neurons"]["threshold"].shape == (4,)
    expected = Model(net, INPUTS).scores(IMAGES, batch_size=6)
    assert np.abs(expected).max() > 0
    np.testing.assert_array_equal(model.scores(IMAGES, batch_size=6), expected)


@pytest.mark.long
def test_layers_that_do_not_fit_their_input_are_refused():
    with pytest.raises(UserError, match=r"'conv1' takes images \[H, W, 2\], found .* \(9, 9, 5\)"):
        _ = Model(small(), Inputs((9, 9, 5), 2)).classes
    foreign = Network.wrap({"w": jnp.ones((3, 2))}, lambda params, x: x @ params["w"])
    with pytest.raises(UserError, match=r"layers do not fit an input \(9,\)"):
        _ = Model(foreign, Inputs((9,), 2)).classes
    with pytest.raises(UserError, match="nothing is known of the network's input"):
        _ = Model(small()).classes


@pytest.mark.parametrize(
    "params, metadata, message",
    [
        ({"a": np.ones(2)}, {}, "params/a is float64"),
        ({"a": np.float32([1, np.nan])}, {}, "params/a holds NaN"),
        (
            {"a/b": np.float32([1]), "a": {"b": np.float32([2])}},
            {},
            "two leaves are called 'a/b': rename",
        ),
        ({"a": np.ones(2, np.float32)}, {"jaxsnn": "x"}, "metadata key 'jaxsnn' is taken"),
        ({"a": np.ones(2, np.float32)}, {"accuracy": 0.5}, "'accuracy' is 0.5; both must be str"),
    ],
)
def test_what_cannot_be_packed_is_refused_before_a_file_is_made(
    tmp_path, params, metadata, message
):
    with pytest.raises(UserError, match=message):
        save(tmp_path / NAME, Network.wrap(params, unused), metadata=metadata)
    with pytest.raises(UserError, match="net must be a Network .* found dict"):
        save(tmp_path / NAME, params)
    with pytest.raises(UserError, match="inputs must be an Inputs, .* found dict"):
        save(tmp_path / NAME, small("6"), {"name": "demo"})
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=f"cannot write .*{NAME}"):
        save(tmp_path / "file" / NAME, network())
