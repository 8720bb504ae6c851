"""The packed file returns the same bits and the same network, or says what is wrong with it."""

import json
import math
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from jaxsnn import coding, network as functional, layers, models, tree
from jaxsnn.errors import UserError
from jaxsnn.export.container import VERSION
from jaxsnn.export.fold import fold_norms
from jaxsnn.export.model import Inputs, Model
from jaxsnn.export.pack import load, load_model, save
from jaxsnn.neurons import LIF

NAME = "net.safetensors"


def sparse_grid(seed, size, density, bits):
    """Return weights on `2**bits` levels, a share of them set to zero."""
    rng = np.random.default_rng(seed)
    codebook = rng.normal(size=2**bits).astype(np.float32)
    leaf = codebook[rng.integers(0, 2**bits, size)]
    return np.where(rng.random(size) < density, leaf, 0).astype(np.float32)


def network(seed=0, density=0.1, bits=2):
    rng = np.random.default_rng(seed)
    return {
        "conv1": {
            "kernel": sparse_grid(seed, 576, density, bits).reshape(3, 3, 8, 8),
            "bias": rng.normal(size=8).astype(np.float32),
        },
        "out": {"kernel": rng.normal(size=(40, 10)).astype(np.float32)},
    }


STATS = {"conv1": {"norm": {"mean": np.arange(3.0)}, "neurons": {"decay": np.float32(0.1)}}}


def same_bits(first, second):
    return (
        first.dtype == second.dtype
        and first.shape == second.shape
        and (np.asarray(first).tobytes() == np.asarray(second).tobytes())
    )


def test_numbers_return_with_metadata_and_in_place_of_an_old_file(tmp_path):
    params = network()
    stats = STATS | {"n": {"count": np.array(7), "bound": np.float32(np.inf)}}
    path = tmp_path / "deep" / NAME
    size = save(path, jax.tree.map(jnp.asarray, params), stats, {"dataset": "digits", "größe": "8"})
    assert size == path.stat().st_size
    assert [each.name for each in path.parent.iterdir()] == [NAME]
    again, statistics, metadata = load(path)
    assert metadata == {"dataset": "digits", "größe": "8"}
    assert jax.tree.structure(again) == jax.tree.structure(params)
    assert all(map(same_bits, jax.tree.leaves(again), jax.tree.leaves(params)))
    assert jax.tree.structure(statistics) == jax.tree.structure(stats)
    assert all(map(same_bits, jax.tree.leaves(statistics), jax.tree.leaves(stats)))
    save(path, params)
    assert load(path)[1:] == ({}, {})


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), density=st.floats(0, 1), bits=st.integers(1, 8))
def test_any_network_returns_and_its_bytes_are_those_promised(
    tmp_path_factory, seed, density, bits
):
    path, params = tmp_path_factory.mktemp("pack") / NAME, network(seed, density, bits)
    save(path, params, STATS)
    again, _, _ = load(path)
    assert all(map(same_bits, jax.tree.leaves(again), jax.tree.leaves(params)))
    written = {name: tensor.nbytes for name, tensor in load_file(path).items()}
    for name, leaf in tree.named_leaves(params).items():
        assert written[f"params/{name}"] == coding.num_bytes(leaf)
    # 8 bytes say how long the safetensors header is.
    rest = int.from_bytes(path.read_bytes()[:8], "little")
    assert path.stat().st_size == 8 + rest + sum(written.values())


def small(layout="4C3S2-8B3M3-MP2-16R-6-V3", norm=True, **options):
    neuron = LIF(0.3, 0.25, reset="soft")
    options = {"trained": ("threshold",)} | options
    return models.build(layout, (8, 8, 2), neuron, norm=norm, rngs=nnx.Rngs(0), **options)


INPUTS = Inputs((8, 8, 2), 3, mean=(0.4, 0.5), std=(0.2, 0.3))
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 2)).astype(np.uint8)


def quantized(params):
    """Return weights of few values, most of them zero; all other leaves as they are."""

    def grid(name, leaf):
        step = np.asarray(leaf).std() / 2
        return jnp.round(leaf / step / 2).clip(-3, 3) * step + 0.0 if leaf.ndim > 1 else leaf

    return tree.map_named(grid, params)


def test_a_loaded_network_gives_identical_scores(tmp_path):
    module = small()
    net = functional.split(module)
    params = quantized(net.params)
    stats = jax.tree.map(lambda leaf: leaf * 1.5, net.stats)
    save(tmp_path / NAME, params, stats, {"accuracy": "0.5"}, module=module, inputs=INPUTS)
    model = load_model(tmp_path / NAME)
    assert model.inputs == INPUTS and model.metadata == {"accuracy": "0.5"}
    assert model.written_by["jax"] == jax.__version__ and model.classes == 3
    assert all(map(same_bits, jax.tree.leaves(model.net.params), jax.tree.leaves(params)))
    assert all(map(same_bits, jax.tree.leaves(model.net.stats), jax.tree.leaves(stats)))
    x = INPUTS.prepare(jax.random.key(0), jnp.asarray(IMAGES))
    expected = jax.jit(net.apply)(params, stats, x).readout.mean(0)
    assert np.abs(expected).max() > 0
    np.testing.assert_array_equal(model.scores(IMAGES, batch_size=6), expected)


def test_a_network_without_norms_keeps_the_threshold_of_each_channel(tmp_path):
    module = small("4C3-AP2-6", trained=())
    net = functional.split(module)
    module = fold_norms(module, net.params, net.stats, into="neuron")
    net = functional.split(module)
    save(tmp_path / NAME, net.params, net.stats, module=module, inputs=INPUTS)
    model = load_model(tmp_path / NAME)
    assert model.net.stats["conv1"]["neurons"]["threshold"].shape == (4,)
    expected = Model(module, INPUTS).scores(IMAGES, batch_size=6)
    assert np.abs(expected).max() > 0
    np.testing.assert_array_equal(model.scores(IMAGES, batch_size=6), expected)


def test_the_inputs_are_made_as_by_hand():
    direct = INPUTS.prepare(jax.random.key(0), jnp.asarray(IMAGES))
    expected = (IMAGES / 255 - np.array([0.4, 0.5])) / np.array([0.2, 0.3])
    assert direct.constant and direct.timesteps == 3
    np.testing.assert_allclose(direct.value, expected, rtol=1e-5, atol=1e-6)
    frames = np.stack([IMAGES, IMAGES // 2, IMAGES // 3], 1)
    events = Inputs((8, 8, 2), 3, "events").prepare(jax.random.key(0), jnp.asarray(frames))
    np.testing.assert_array_equal(events, frames.swapaxes(0, 1).astype(np.float32))
    white = Inputs((8, 8, 2), 5, "bernoulli").prepare(
        jax.random.key(0), jnp.full((1, 8, 8, 2), 255)
    )
    np.testing.assert_array_equal(white, np.ones((5, 1, 8, 8, 2)))
    # Black, grey and white on [-1, 1] are spikes of -1, none, and spikes of +1.
    grey = jnp.asarray([0, 255], jnp.uint8).reshape(1, 1, 1, 2)
    signed = Inputs((1, 1, 2), 4, "poisson", (0.5, 0.5), (0.5, 0.5))
    spikes = signed.prepare(jax.random.key(0), grey)
    np.testing.assert_array_equal(spikes, np.broadcast_to([-1, 1], (4, 1, 1, 1, 2)))
    draws = signed.encode(jax.random.key(1), jnp.full((2000, 1, 1, 2), -0.3))
    assert set(np.unique(draws)) == {-1, 0} and abs(float(draws.mean()) + 0.3) < 0.02


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"timesteps": 0}, "timesteps of the input must be in"),
        ({"encoding": "morse"}, "encoding 'morse' is unknown; choose one of direct"),
        ({"mean": (0.5,)}, "mean and std together"),
        ({"mean": (0.5,), "std": (0.5,)}, "need one number a channel"),
        ({"mean": (0.5, 0), "std": (0.5, 0)}, "std of the input must be in"),
        ({"mean": (0.5, 0), "std": (1, 1), "encoding": "events"}, "for the encodings direct"),
    ],
)
def test_inputs_out_of_range_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        Inputs(**{"shape": (8, 8, 2), "timesteps": 3} | fields)


def test_layers_that_do_not_fit_their_input_are_refused():
    with pytest.raises(UserError, match=r"layers do not fit an input \(9, 9, 5\)"):
        _ = Model(small(), Inputs((9, 9, 5), 2)).classes
    with pytest.raises(UserError, match="nothing is said about the network's input"):
        _ = Model(small()).classes


@pytest.mark.parametrize(
    "params, metadata, message",
    [
        ({"a": np.ones(2)}, {}, "params/a is float64"),
        ({"a": np.float32([1, np.nan])}, {}, "params/a holds NaN"),
        ([np.ones(2, np.float32)], {}, "nested dictionaries of names"),
        ({"a/b": np.ones(2, np.float32)}, {}, "nested dictionaries of names"),
        ({"a": np.ones(2, np.float32)}, {"jaxsnn": "x"}, "metadata key 'jaxsnn' is taken"),
        ({"a": np.ones(2, np.float32)}, {"accuracy": 0.5}, "'accuracy' is 0.5; both must be str"),
    ],
)
def test_what_cannot_be_packed_is_refused_before_a_file_is_made(
    tmp_path, params, metadata, message
):
    with pytest.raises(UserError, match=message):
        save(tmp_path / NAME, params, metadata=metadata)
    assert not list(tmp_path.iterdir())


def test_numbers_of_another_network_are_refused_before_a_file_is_made(tmp_path):
    module = small("6")
    net = functional.split(module)
    with pytest.raises(UserError, match="params lack the leaf"):
        save(tmp_path / NAME, {}, net.stats, module=module)
    wrong = {"dense1": net.params["dense1"] | {"bias": jnp.zeros(7)}}
    with pytest.raises(UserError, match=r"params/dense1/bias: the architecture has \(6,\), the"):
        save(tmp_path / NAME, wrong, net.stats, module=module)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=f"cannot write .*{NAME}"):
        save(tmp_path / "file" / NAME, network())


def test_a_flipped_bit_anywhere_is_noticed(tmp_path):
    path = tmp_path / NAME
    save(path, {"a": sparse_grid(0, 200, 0.2, 2)}, STATS, {"dataset": "digits"})
    content = path.read_bytes()
    bits = np.random.default_rng(1).integers(8, size=len(content))
    for position, bit in enumerate(bits):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(bit)
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=NAME):
            load(path)


@pytest.mark.parametrize("share", [0, 0.001, 0.2, 0.9, 0.999])
def test_a_file_cut_short_or_grown_is_named(tmp_path, share):
    path = tmp_path / NAME
    save(path, network())
    content = path.read_bytes()
    path.write_bytes(content[: math.floor(len(content) * share)])
    what = r"an empty file|\d+ bytes that are damaged, cut short"
    with pytest.raises(UserError, match=f"{NAME}: expected a jaxsnn network, found ({what})"):
        load(path)
    path.write_bytes(content + b"0")
    with pytest.raises(
        UserError, match=f"{NAME}: expected a jaxsnn network, found {len(content) + 1}"
    ):
        load(path)


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(UserError, match="none.safetensors: no such file, expected a jaxsnn"):
        load(tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="a folder, expected a jaxsnn network"):
        load(tmp_path)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": np.ones(3, np.float32)}, foreign)
    with pytest.raises(UserError, match="foreign.safetensors: .* found another safetensors file"):
        load(foreign)
    foreign.write_text("once upon a time")
    with pytest.raises(UserError, match="foreign.safetensors: .* found 16 bytes that are damaged"):
        load(foreign)


def test_a_tensor_larger_than_the_file_is_refused_before_it_is_made(tmp_path):
    path = tmp_path / NAME
    size = 2**45
    header = {"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    text = json.dumps({"__metadata__": {"jaxsnn": str(VERSION)}} | header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(100))
    with pytest.raises(UserError, match="bytes that are damaged, cut short"):
        load(path)
    path.write_bytes((2**60).to_bytes(8, "little") + text)
    with pytest.raises(UserError, match="bytes that are damaged, cut short"):
        load(path)


def rewrite(path, change, version=VERSION, repack=lambda text: zlib.compress(text)):
    """Read a packed file, let `change` edit its tensors and header, and write it again."""
    tensors = load_file(path)
    header = json.loads(zlib.decompress(tensors.pop("jaxsnn").tobytes()))
    change(tensors, header)
    packed = np.frombuffer(repack(json.dumps(header).encode()), np.uint8)
    save_file(tensors | {"jaxsnn": packed}, path, {"jaxsnn": str(version)})


def resum(tensors, header):
    """Make the checksums right again, as somebody who forges a file would."""
    for name, array in tensors.items():
        start = zlib.crc32(f"{array.dtype}{array.shape}".encode())
        header["checksums"][name] = zlib.crc32(array.tobytes(), start)


def as_number(tensors, header):
    header["numbers"]["stats/x"] = "1.0"


def under_a_leaf(tensors, header):
    header["numbers"]["params/conv1/kernel/x"] = 1.0


def beside_the_trees(tensors, header):
    header["numbers"]["elsewhere/x"] = 1.0


def long_shape(tensors, header):
    header["leaves"]["params/out/kernel"]["shape"] = [2**31, 2**31]


def other_cut(tensors, header):
    header["leaves"]["params/out/kernel"]["bytes"] = [1599, 1]


def other_type(tensors, header):
    tensors["params/out/kernel"] = tensors["params/out/kernel"].view(np.float32)
    resum(tensors, header)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda tensors, header: header.pop("leaves"), "header lacks the field 'leaves'"),
        (lambda tensors, header: header.update(more=1), "header has the field 'more', unknown"),
        (lambda tensors, header: header.update(holds="recipe"), "expected a jaxsnn network, found"),
        (lambda tensors, header: header.update(leaves=[]), "'leaves' is .., expected an object"),
        (
            lambda tensors, header: header["leaves"]["params/out/kernel"].update(form="pickle"),
            "leaf params/out/kernel: field 'form' is 'pickle', expected one of floats",
        ),
        (
            lambda tensors, header: header["leaves"]["params/out/kernel"].update(shape=[-1]),
            "field 'shape' is .-1., expected a list",
        ),
        (
            long_shape,
            "tensor params/out/kernel is damaged: values has 400 elements, expected 46116",
        ),
        (other_cut, "tensor params/out/kernel is damaged: it has 1600 bytes"),
        (other_type, "tensor params/out/kernel is damaged: it has 1600 bytes"),
        (lambda tensors, header: header["leaves"].update(x=1), "leaf x is 1, expected an object"),
        (as_number, "number stats/x is '1.0', expected a finite number"),
        (under_a_leaf, "params/conv1/kernel is no leaf of params or stats"),
        (beside_the_trees, "elsewhere/x is no leaf of params or stats"),
        (
            lambda tensors, header: tensors.pop("params/out/kernel"),
            "the tensor params/out/kernel is missing",
        ),
        (lambda tensors, header: tensors.update(extra=np.ones(2)), "tensor extra is not listed"),
        (
            lambda tensors, header: tensors["params/conv1/bias"].__setitem__(0, 9),
            "the tensor params/conv1/bias is damaged, its checksum differs",
        ),
    ],
)
def test_the_field_that_is_wrong_is_named(tmp_path, change, message):
    path = tmp_path / NAME
    save(path, network())
    rewrite(path, change)
    with pytest.raises(UserError, match=f"{NAME}: .*{message}"):
        load(path)


def nothing(tensors, header):
    pass


@pytest.mark.parametrize(
    "version, repack, message",
    [
        (99, zlib.compress, "expected version 2 of the format, found '99'; read it with"),
        (VERSION, lambda text: text, "its header, is damaged"),
        (VERSION, lambda text: zlib.compress(text)[:-1], "its header, is damaged"),
        (VERSION, lambda text: zlib.compress(text) + b"x", "its header, is damaged"),
        (VERSION, lambda text: zlib.compress(b"[" * 10**6), "its header, is damaged"),
        (VERSION, lambda text: zlib.compress(b"3"), "its header, is damaged"),
        (VERSION, lambda text: zlib.compress(bytes(10**8)), "no end within 16777216 bytes"),
    ],
)
def test_another_version_and_a_header_that_is_none_are_refused(tmp_path, version, repack, message):
    save(tmp_path / NAME, network())
    rewrite(tmp_path / NAME, nothing, version, repack)
    with pytest.raises(UserError, match=message):
        load(tmp_path / NAME)


def more_outputs(tensors, header):
    header["architecture"][0]["outputs"] = 2**31


def unknown_layer(tensors, header):
    header["architecture"][0]["kind"] = "attention"


def no_architecture(tensors, header):
    header["architecture"] = None


def no_steps(tensors, header):
    header["inputs"]["timesteps"] = 0


@pytest.mark.parametrize(
    "change, message",
    [
        (more_outputs, r"params/dense1/bias: the architecture has \(2147483648,\), the numbers"),
        (unknown_layer, "layer 'dense1': field 'kind' is 'attention', expected one of conv"),
        (no_architecture, "holds no architecture, expected one: save it with module="),
        (no_steps, "the input: field 'timesteps' is 0, expected a whole number from 1 on"),
    ],
)
def test_a_network_that_cannot_be_made_is_refused(tmp_path, change, message):
    module = layers.Chain({"dense1": small("6").dense1, "vote": layers.Vote(3)})
    net = functional.split(module)
    save(tmp_path / NAME, net.params, net.stats, module=module, inputs=INPUTS)
    rewrite(tmp_path / NAME, change)
    with pytest.raises(UserError, match=f"{NAME}: .*{message}"):
        load_model(tmp_path / NAME)
