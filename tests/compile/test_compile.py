"""The C of a network gives the integer network's scores and every neuron's spikes, bit for bit."""

import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import compile as compiling
from jaxsnn import models
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.export import run_integer, to_integer
from jaxsnn.inputs import Inputs
from jaxsnn.native.builder import find_compiler
from jaxsnn.neurons import LIF
from tests.compile.random_networks import assert_equal, compiled, draw, expected, run_program

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")

NETWORKS = 500  # of the marked test
CHUNK = 25
INPUTS = Inputs((6, 6, 1), timesteps=3)


@pytest.mark.parametrize("seed", [2, 7, 10, 11, 13, 24, 31, 36])
def test_random_networks_are_equal_bit_for_bit(seed):
    case = draw(seed)
    assert_equal(case, compiled(case))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, NETWORKS, CHUNK))
def test_many_random_networks(first):
    for seed in range(first, first + CHUNK):
        case = draw(seed)
        assert_equal(case, compiled(case, ("-O0",) if seed % 5 == 0 else ("-O3", "-march=native")))


@pytest.mark.parametrize(
    "flags",
    [
        ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover", "-DNET_BATCH"),
        ("-O2", "-DONE_WORD", "-DNET_BATCH"),
        ("-O2", "-m32"),
    ],
    ids=["sanitized", "plain words", "32 bits"],
)
@pytest.mark.long
def test_other_builds_are_equal(flags, tmp_path):
    compiler = [find_compiler()]
    probe = "#include <stdio.h>\nint main(void) { return 0; }\n"
    built = subprocess.run(
        [*compiler, *flags, "-x", "c", "-", "-o", str(tmp_path / "probe")],
        input=probe, text=True, capture_output=True, check=False,
    )  # fmt: skip
    if built.returncode:
        pytest.skip(f"{compiler[0]} cannot build with {' '.join(flags)}")
    case = draw(8)
    scores, counts = expected(case)
    rows = np.concatenate([scores, counts], 1)
    found = run_program(case, tmp_path, flags, compiler)
    np.testing.assert_array_equal(found, np.tile(rows, 2 if "-DNET_BATCH" in flags else 1))


@pytest.fixture(scope="module")
def net():
    return models.build("4C3-AP2-8-3", INPUTS.shape, LIF(0.5, 0.3), seed=1)


@pytest.fixture(scope="module")
def integers(net):
    return to_integer(net, INPUTS)


@pytest.fixture(scope="module")
def function(integers):
    return compiling.build(integers, INPUTS)


@pytest.fixture(scope="module")
def samples():
    return np.random.default_rng(0).integers(0, 256, (70, *INPUTS.shape)).astype(np.uint8)


def test_a_call_gives_the_scores_of_the_integer_network(integers, function, samples):
    x = Signal(jnp.asarray(samples, jnp.int32), INPUTS.timesteps, constant=True)
    right = run_integer(integers, x).readout.sum(0)
    for batched in (True, False):
        np.testing.assert_array_equal(function(samples, batched=batched), right)
    inside = jax.jit(lambda x: function(x).argmax(-1))(jnp.asarray(samples))
    np.testing.assert_array_equal(inside, right.argmax(-1))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((2, 6, 5, 1), np.uint8), r"36 values each, found the shape \(2, 6, 5, 1\)"),
        (np.zeros((2, 6, 6, 1)), "whole numbers, found float64"),
        (np.full((2, 6, 6, 1), 256), "of 0 to 255, found 256 to 256"),
        (np.uint8(3), r"found the shape \(\)"),
    ],
)
def test_unfit_samples_are_refused(bad, message, function):
    with pytest.raises(UserError, match=message):
        function(bad)


def test_source_is_the_same_each_time_and_says_what_it_is(integers):
    one, two = (compiling.to_c(integers, INPUTS, name="tiny", notes={"made": "here"}) for _ in "ab")
    assert one == two
    assert one.code.startswith("/* tiny: a spiking network of integers.\n   made: here\n")
    assert "int32_t scores[TINY_CLASSES]" in one.header
    assert "malloc" not in one.code
    assert "predict_batch" not in compiling.to_c(integers, INPUTS, target="mcu").code


def test_the_processor_decides_how_not_what():
    inputs = Inputs((8, 8, 3), timesteps=2)
    large = to_integer(models.build("32C3-32C3-3", inputs.shape, LIF(0.5, 0.3)), inputs)
    texts = {name: compiling.to_c(large, inputs, processor=name).code for name in ("amx", "other")}
    for name, text in texts.items():
        assert f"Made to be fast on: {name}, and right on any processor" in text
    assert "multiply_tiles" in texts["amx"] and "multiply_tiles" not in texts["other"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "no name"}, "name 'no name' is no C identifier"),
        ({"target": "gpu"}, "target 'gpu' is unknown; choose cpu or mcu"),
        ({"processor": "m1"}, "processor 'm1' is unknown; choose from amx, avx512_vnni, avx2, oth"),
    ],
)
def test_unfit_options_are_refused(integers, options, message):
    with pytest.raises(UserError, match=message):
        compiling.to_c(integers, INPUTS, **options)


def test_rounding_must_be_allowed(net):
    with pytest.raises(UserError, match=r"not its own numbers \(conv1: .*weights by 0.0.*dense1"):
        compiling.to_c(net, INPUTS)
    assert compiling.to_c(net, INPUTS, allow_rounding=True).name == "network"


def test_inputs_must_be_inputs(net):
    with pytest.raises(UserError, match="inputs must be an Inputs, found tuple"):
        compiling.to_c(net, (6, 6, 1))
