"""A packed file that is damaged, forged or foreign is refused, and what is wrong is named."""

import json
import math
import tracemalloc
import zlib

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from jaxsnn import layers
from jaxsnn.errors import UserError
from jaxsnn.export import container, load, pack, save
from jaxsnn.export.container import VERSION
from jaxsnn.inputs import Inputs
from jaxsnn.layers import Integrator
from jaxsnn.network import Network
from jaxsnn.neurons import LIF

NAME = "net.safetensors"
INPUTS = Inputs((4,), 3)


def network():
    """Return a network of a dictionary: weights on a grid with zeros, and floats."""
    draw = np.random.default_rng(0)
    grid = draw.choice(np.float32([-1.5, -0.5, 0.25, 2]), (3, 3, 8, 8))
    kernel = np.where(draw.random((3, 3, 8, 8)) < 0.1, grid, 0).astype(np.float32)
    bias, out = draw.normal(size=8), draw.normal(size=(40, 10))
    params = {
        "conv1": {"kernel": kernel, "bias": bias.astype(np.float32)},
        "out": {"kernel": out.astype(np.float32)},
    }
    return Network.wrap(params, unused)


def unused(params, x):
    """Stand for a function that never runs here."""


def load_numbers(path):
    return load(path, like=network())


def test_a_flipped_bit_anywhere_is_noticed(tmp_path):
    path = tmp_path / NAME
    small = Network.wrap(
        {"a": np.tile(np.float32([0, 1, 0, 2]), 40)}, unused, {"b": np.arange(3.0)}
    )
    save(path, small, metadata={"dataset": "digits"})
    content = path.read_bytes()
    bits, unnoticed = np.random.default_rng(1).integers(8, size=len(content)), []
    for position, bit in enumerate(bits):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(bit)
        path.write_bytes(damaged)
        try:
            found = load(path, like=small)
        except UserError as error:
            assert NAME in str(error)
            continue
        unnoticed.append((position, found))
    assert not unnoticed


@pytest.mark.parametrize("share", [0, 0.001, 0.2, 0.9, 0.999])
def test_a_file_cut_short_or_grown_is_named(tmp_path, share):
    path = tmp_path / NAME
    save(path, network())
    content = path.read_bytes()
    path.write_bytes(content[: math.floor(len(content) * share)])
    told = (
        r"expected a jaxsnn network, found an empty file|damaged or cut short: .*a jaxsnn network"
    )
    with pytest.raises(UserError, match=f"{NAME}: ({told})"):
        load_numbers(path)
    path.write_bytes(content + b"0")
    with pytest.raises(UserError, match=f"{NAME}: damaged or cut short: .* a jaxsnn network"):
        load_numbers(path)


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(UserError, match="none.safetensors: no such file, expected a jaxsnn"):
        load_numbers(tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="a folder, expected a jaxsnn network"):
        load_numbers(tmp_path)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": np.ones(3, np.float32)}, foreign)
    with pytest.raises(UserError, match="foreign.safetensors: .* found another safetensors file"):
        load_numbers(foreign)
    foreign.write_text("once upon a time")
    with pytest.raises(UserError, match="foreign.safetensors: damaged or cut short: "):
        load_numbers(foreign)


def test_a_tensor_larger_than_the_file_is_refused_before_it_is_made(tmp_path):
    path = tmp_path / NAME
    size = 2**45
    header = {"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    text = json.dumps({"__metadata__": {"jaxsnn": str(VERSION)}} | header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(100))
    with pytest.raises(UserError, match="damaged or cut short: "):
        load_numbers(path)
    path.write_bytes((2**60).to_bytes(8, "little") + text)
    with pytest.raises(UserError, match="damaged or cut short: "):
        load_numbers(path)


def save_older(path, *arguments):
    """Write a packed file in the container of version 2."""
    save(path, *arguments)
    contents = pack.read(path)
    header = {name: contents.header[name] for name in pack.HEADER}
    container.write(path, "network", contents.tensors, header, contents.metadata)


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
            "params/out/kernel: the network given as like has .40, 10., the numbers have .21474",
        ),
        (other_cut, "tensor params/out/kernel is damaged: it has 1600 bytes"),
        (other_type, "tensor params/out/kernel is damaged: it has 1600 bytes"),
        (lambda tensors, header: header["leaves"].update(x=1), "leaf x is 1, expected an object"),
        (as_number, "the numbers: field 'stats/x' is '1.0', expected a number in"),
        (under_a_leaf, "params/conv1/kernel/x: the network given as like has no such leaf"),
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
    save_older(path, network())
    rewrite(path, change)
    with pytest.raises(UserError, match=f"{NAME}: .*{message}"):
        load_numbers(path)


def nothing(tensors, header):
    pass


@pytest.mark.parametrize(
    "version, repack, message",
    [
        (99, zlib.compress, "expected version 2 of the format, found '99'; read it with"),
        (VERSION, lambda text: text, "damaged or cut short: .*the header of"),
        (
            VERSION,
            lambda text: zlib.compress(text)[:-1],
            "damaged or cut short: .*the header of",
        ),
        (
            VERSION,
            lambda text: zlib.compress(text) + b"x",
            "damaged or cut short: .*the header of",
        ),
        (
            VERSION,
            lambda text: zlib.compress(b"[" * 10**6),
            "damaged or cut short: .*the header of",
        ),
        (VERSION, lambda text: zlib.compress(b"3"), "is damaged: int found"),
        (VERSION, lambda text: zlib.compress(bytes(10**8)), "no end within 4194304 bytes"),
    ],
)
def test_another_version_and_a_header_that_is_none_are_refused(tmp_path, version, repack, message):
    save_older(tmp_path / NAME, network())
    rewrite(tmp_path / NAME, nothing, version, repack)
    with pytest.raises(UserError, match=message):
        load_numbers(tmp_path / NAME)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_weight_that_is_not_finite_is_refused_though_the_checksums_are_right(tmp_path, value):
    def change(tensors, header):
        weights = tensors["params/out/kernel"].view(np.float32).copy()
        weights[7] = value
        tensors["params/out/kernel"] = weights.view(np.uint8)
        resum(tensors, header)

    save_older(tmp_path / NAME, network())
    rewrite(tmp_path / NAME, change)
    with pytest.raises(UserError, match=f"{NAME}: params/out/kernel holds NaN, infinity or no num"):
        load_numbers(tmp_path / NAME)


def test_few_bytes_that_say_many_zeros_are_refused_before_they_are_made(tmp_path):
    size = 1 << 27  # weights: 512 MiB, from 526 kB of gaps that never end
    gaps = np.full(1 + -(-size // 255), 255, np.uint8)
    gaps[0] = 8  # bits of a gap
    dense = layers.Dense(4, 6, neurons=Integrator(), use_bias=False, rngs=nnx.Rngs(0))
    save_older(tmp_path / NAME, Network.of(layers.Chain({"dense1": dense})))

    def change(tensors, header):
        header["architecture"][0] |= {"inputs": 1 << 13, "outputs": 1 << 14}
        header["leaves"]["params/dense1/kernel"] = {
            "form": "indexed_floats",
            "shape": [1 << 13, 1 << 14],
            "bytes": [1, gaps.size - 1, 0],
        }
        tensors["params/dense1/kernel"] = gaps
        resum(tensors, header)

    rewrite(tmp_path / NAME, change)
    tracemalloc.start()
    with pytest.raises(UserError, match=f"{NAME}: its leaves take 536,870,912 bytes, and a file"):
        load(tmp_path / NAME)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 24


@pytest.mark.parametrize(
    ("constant", "value", "message"),
    [
        ("decay", 1.5, r"neurons/decay must be in \[0, 1\]"),
        ("threshold", -0.25, r"neurons/threshold must be in \(0, inf"),
    ],
)
def test_a_constant_out_of_its_range_is_refused(tmp_path, constant, value, message):
    dense = layers.Dense(4, 6, neurons=LIF(0.5), rngs=nnx.Rngs(0))
    save_older(tmp_path / NAME, Network.of(layers.Chain({"dense1": dense})))

    def change(tensors, header):
        header["numbers"][f"stats/dense1/neurons/{constant}"] = value

    rewrite(tmp_path / NAME, change)
    with pytest.raises(UserError, match=f"{NAME}: dense1/{message}"):
        load(tmp_path / NAME)


def more_outputs(tensors, header):
    header["architecture"][0]["outputs"] = 2**31


def unknown_layer(tensors, header):
    header["architecture"][0]["kind"] = "oracle"


def no_architecture(tensors, header):
    header["architecture"] = None


def no_steps(tensors, header):
    header["inputs"]["timesteps"] = 0


@pytest.mark.parametrize(
    "change, message",
    [
        (more_outputs, r"params/dense1/bias: the architecture has \(2147483648,\), the numbers"),
        (unknown_layer, "layer 'dense1': field 'kind' is 'oracle', expected one of conv"),
        (no_architecture, "holds no architecture, expected one: its network is code"),
        (no_steps, "the input: field 'timesteps' is 0, expected a whole number from 1 on"),
    ],
)
def test_a_network_that_cannot_be_made_is_refused(tmp_path, change, message):
    dense = layers.Dense(4, 6, neurons=Integrator(), rngs=nnx.Rngs(0))
    net = Network.of(layers.Chain({"dense1": dense, "vote": layers.Vote(3)}))
    save_older(tmp_path / NAME, net, INPUTS)
    rewrite(tmp_path / NAME, change)
    with pytest.raises(UserError, match=f"{NAME}: .*{message}"):
        load(tmp_path / NAME)
