"""The packed file returns the same bits, in the bytes that were promised, or says what is wrong."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from jaxsnn import coding
from jaxsnn.errors import UserError
from jaxsnn.export import load, save


def sparse_grid(seed, size, density, bits):
    """Return weights on `2**bits` levels, a share of them set to zero."""
    rng = np.random.default_rng(seed)
    codebook = rng.normal(size=2**bits).astype(np.float32)
    leaf = codebook[rng.integers(0, 2**bits, size)]
    return np.where(rng.random(size) < density, leaf, 0).astype(np.float32)


def network(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "conv1": {
            "kernel": sparse_grid(seed, 576, 0.1, 2).reshape(3, 3, 8, 8),
            "bias": rng.normal(size=8).astype(np.float32),
        },
        "out": {"kernel": rng.normal(size=(40, 10)).astype(np.float32)},
    }


def same_bits(first, second):
    return (
        first.dtype == second.dtype
        and first.shape == second.shape
        and (np.asarray(first).tobytes() == np.asarray(second).tobytes())
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(0, 900),
    density=st.floats(0, 1),
    bits=st.integers(1, 8),
)
def test_every_density_and_width_returns_bit_for_bit(seed, size, density, bits):
    leaf = sparse_grid(seed, size, density, bits)
    form, parts = coding.encode(leaf)
    assert same_bits(coding.decode(form, parts, leaf.shape), leaf)
    assert sum(part.nbytes for part in parts.values()) == coding.num_bytes(leaf)
    assert coding.num_bytes(leaf) <= 4 * size
    assert coding.bits(leaf) in (*range(1, 9), 32)


@pytest.mark.parametrize(
    "form, leaf, num_bytes",
    [
        ("codes", np.tile(np.float32([-1, 0.5, 1]), 100), 300 * 2 // 8 + 12),
        ("sparse_codes", np.tile(np.float32([0] * 39 + [0.5, -0.5]), 40), 205 + 10 + 8),
        ("floats", np.linspace(1, 2, 300, dtype=np.float32), 1200),
        ("sparse_floats", np.pad(np.linspace(1, 2, 300, dtype=np.float32), 1650), 450 + 1200),
        ("sparse_codes", np.zeros(800, np.float32), 100),  # the bitmap alone says it all
        ("floats", np.full((), 2.0, np.float32), 4),  # smaller than a codebook of one value
    ],
)
def test_the_smallest_form_is_taken(form, leaf, num_bytes):
    assert coding.encode(leaf)[0] == form
    assert coding.num_bytes(leaf) == num_bytes


def test_negative_zero_becomes_zero_and_small_numbers_stay():
    leaf = np.array([-0.0, 1e-45, -1e-45, 3e38, -0.0], np.float32)
    form, parts = coding.encode(leaf)
    assert same_bits(coding.decode(form, parts, (5,)), np.where(leaf == 0, np.float32(0), leaf))


def test_a_network_returns_with_statistics_and_metadata(tmp_path):
    params = network()
    stats = {"norm1": {"mean": np.arange(3.0), "count": np.array(7)}}
    path = tmp_path / "deep" / "net.safetensors"
    size = save(path, jax.tree.map(jnp.asarray, params), stats, {"dataset": "digits", "größe": "8"})
    assert size == path.stat().st_size
    assert [each.name for each in path.parent.iterdir()] == ["net.safetensors"]
    again, statistics, metadata = load(path)
    assert metadata == {"dataset": "digits", "größe": "8"}
    assert jax.tree.structure(again) == jax.tree.structure(params)
    assert all(map(same_bits, jax.tree.leaves(again), jax.tree.leaves(params)))
    assert all(map(same_bits, jax.tree.leaves(statistics), jax.tree.leaves(stats)))
    save(path, params)  # in place of the old one
    assert load(path)[1:] == ({}, {})


def test_the_bytes_of_a_leaf_are_those_in_the_file(tmp_path):
    path, params = tmp_path / "net.safetensors", network()
    save(path, params)
    with safe_open(path, framework="numpy") as file:
        written = {name: file.get_tensor(name).nbytes for name in file.keys()}
    for layer, leaves in params.items():
        for leaf, array in leaves.items():
            prefix = f"params/{layer}/{leaf}#"
            parts = [size for name, size in written.items() if name.startswith(prefix)]
            assert sum(parts) == coding.num_bytes(array)


def test_a_flipped_bit_anywhere_is_noticed(tmp_path):
    path, params = tmp_path / "net.safetensors", network()
    save(path, params, {"norm": {"mean": np.ones(4, np.float32)}}, {"dataset": "digits"})
    content = path.read_bytes()
    rng = np.random.default_rng(1)
    positions = {*range(12), *rng.integers(0, len(content), 300).tolist(), len(content) - 1}
    for position in positions:
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="net.safetensors"):
            load(path)


@pytest.mark.parametrize("share", [0, 0.001, 0.2, 0.9, 0.999])
def test_a_file_cut_short_is_named(tmp_path, share):
    path = tmp_path / "net.safetensors"
    save(path, network())
    content = path.read_bytes()
    path.write_bytes(content[: math.floor(len(content) * share)])
    with pytest.raises(UserError, match="net.safetensors: damaged, or not a packed model"):
        load(path)


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(UserError, match="none.safetensors: no such file"):
        load(tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": np.ones(3, np.float32)}, foreign)
    with pytest.raises(UserError, match="foreign.safetensors: not a packed model"):
        load(foreign)
    foreign.write_text("once upon a time")
    with pytest.raises(UserError, match="foreign.safetensors: damaged, or not"):
        load(foreign)


def rewrite(path, change):
    """Read a packed file, let `change` edit its tensors and header, and write it again."""
    with safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        header = json.loads(file.metadata()["jaxsnn"])
    change(tensors, header)
    save_file(tensors, path, {"jaxsnn": json.dumps(header)})


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda tensors, header: header.update(version=99), "field 'version' is 99"),
        (lambda tensors, header: header.pop("version"), "damaged field 'jaxsnn'"),
        (lambda tensors, header: header["leaves"].clear(), "damaged field 'jaxsnn'"),
        (
            lambda tensors, header: tensors.pop("params/out/kernel#values"),
            "field params/out/kernel#values is missing",
        ),
        (
            lambda tensors, header: tensors.update(extra=np.ones(2)),
            "field extra is not listed",
        ),
        (
            lambda tensors, header: tensors["params/conv1/bias#values"].__setitem__(0, 9.0),
            "damaged field params/conv1/bias#values",
        ),
    ],
)
def test_the_field_that_is_wrong_is_named(tmp_path, change, message):
    path = tmp_path / "net.safetensors"
    save(path, network())
    rewrite(path, change)
    with pytest.raises(UserError, match=message):
        load(path)


@pytest.mark.parametrize(
    "form, parts, message",
    [
        ("zip", {}, "form is 'zip'"),
        ("floats", {}, "values is missing"),
        ("floats", {"values": np.ones(3)}, "values is float64"),
        ("floats", {"values": np.ones(3, np.float32)}, "values has 3 elements, expected 4"),
        (
            "codes",
            {"codebook": np.ones(3, np.float32), "codes": np.uint8([255])},
            "codes reach 3, the codebook has 3",
        ),
        ("codes", {"codebook": np.ones(300, np.float32), "codes": np.uint8([0])}, "at most 256"),
        (
            "sparse_floats",
            {"bitmap": np.uint8([0, 0]), "values": np.ones(0, np.float32)},
            "bitmap has 2 elements, expected 1",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(form, parts, message):
    with pytest.raises(ValueError, match=message):
        coding.decode(form, parts, (4,))


@pytest.mark.parametrize(
    "params, metadata, message",
    [
        ({"a": np.ones(2)}, {}, "params/a is float64"),
        ({"a": np.float32([1, np.nan])}, {}, "params/a holds NaN"),
        ([np.ones(2, np.float32)], {}, "nested dictionaries of names"),
        ({"a/b": np.ones(2, np.float32)}, {}, "nested dictionaries of names"),
        ({"a": np.ones(2, np.float32)}, {"jaxsnn": "x"}, "metadata key 'jaxsnn' is taken"),
    ],
)
def test_what_cannot_be_packed_is_refused_before_a_file_is_made(
    tmp_path, params, metadata, message
):
    with pytest.raises(UserError, match=message):
        save(tmp_path / "net.safetensors", params, metadata=metadata)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write .*net.safetensors"):
        save(tmp_path / "file" / "net.safetensors", network())
