"""A network leaves as one program: same scores at every batch size, and damage is noticed."""

import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxsnn import models
from jaxsnn.errors import UserError
from jaxsnn.export import Model, container, load_stablehlo, save, save_stablehlo
from jaxsnn.export.stablehlo import to_stablehlo
from jaxsnn.inputs import Inputs
from jaxsnn.network import Network
from jaxsnn.neurons import LIF

RNG = np.random.default_rng(0)
INPUTS = Inputs((8, 8, 2), 6, mean=(0.4, 0.5), std=(0.2, 0.3))  # more steps than are written out
IMAGES = RNG.integers(0, 256, (5, 8, 8, 2)).astype(np.uint8)


def network():
    neuron, layout = LIF(0.5, 0.25, reset="soft"), "12C3-6C3-AP2-6B3S2-8R-5"
    return models.build(layout, (8, 8, 2), neuron, norm=True, readout="current")


def scores(samples, inputs=INPUTS):
    return Model(network(), inputs).scores(samples, batch_size=len(samples))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Return the file of one program."""
    path = tmp_path_factory.mktemp("stablehlo") / "net.stablehlo"
    assert save_stablehlo(path, network(), INPUTS, {"name": "demo"}) == path.stat().st_size
    return path


@pytest.mark.long
def test_the_loaded_program_gives_the_same_scores_for_every_batch(path):
    program, inputs = load_stablehlo(path)
    assert inputs == INPUTS
    for batch in (1, 5):
        expected = scores(IMAGES[:batch])
        assert np.abs(expected).max() > 0
        np.testing.assert_array_equal(program.call(IMAGES[:batch]), expected)


@pytest.mark.long
def test_the_program_runs_without_jaxsnn(path, tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    code = f"""
import sys, jax, jax.export, numpy, safetensors.numpy
program = safetensors.numpy.load_file({str(path)!r})["program"]
scores = jax.export.deserialize(bytearray(program)).call(numpy.load("images.npy"))
assert "jaxsnn" not in sys.modules
numpy.save("scores.npy", scores)
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    expected = scores(IMAGES)
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), expected, atol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("encoding", ["events", "bernoulli"])
def test_frames_and_spikes_enter_as_documented(encoding):
    frames = RNG.integers(0, 2, (3, 4, 8, 8, 2)).astype(np.uint8)
    program = to_stablehlo(network(), Inputs((8, 8, 2), 4, encoding))
    given = frames if encoding == "events" else frames.swapaxes(0, 1).astype(np.float32)
    expected = scores(frames, Inputs((8, 8, 2), 4, "events"))
    np.testing.assert_allclose(program.call(given), expected, atol=1e-6)


@pytest.mark.long
def test_a_program_can_be_written_for_other_platforms(tmp_path):
    save_stablehlo(tmp_path / "net", network(), INPUTS, platforms=("cuda", "tpu"))
    assert load_stablehlo(tmp_path / "net")[0].platforms == ("cuda", "tpu")


def test_a_network_of_unknown_input_is_refused(tmp_path):
    with pytest.raises(UserError, match="inputs must be an Inputs, .* found NoneType"):
        save_stablehlo(tmp_path / "net", network(), None)
    assert not list(tmp_path.iterdir())


def test_damaged_and_foreign_programs_are_named(path, tmp_path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(UserError, match="bad: the tensor program is damaged"):
        load_stablehlo(tmp_path / "bad")
    (tmp_path / "bad").write_bytes(content[:-5])
    with pytest.raises(UserError, match="bad: damaged or cut short: .* expected a jaxsnn program"):
        load_stablehlo(tmp_path / "bad")
    save(tmp_path / "bad", Network.wrap({"w": np.ones((2, 2), np.float32)}, lambda params, x: x))
    with pytest.raises(UserError, match="bad: expected a jaxsnn program, found a 'network'"):
        load_stablehlo(tmp_path / "bad")
    header = {"inputs": INPUTS.to_data(), "platforms": ["cpu"]}
    container.write(tmp_path / "bad", "program", {"program": np.zeros(99, np.uint8)}, header)
    with pytest.raises(UserError, match="bad: damaged .* that jax .* wrote and jax .* reads"):
        load_stablehlo(tmp_path / "bad")
    save_file(load_file(path), tmp_path / "bad", {"jaxsnn": "99"})
    with pytest.raises(UserError, match="expected version 2 of the format, found '99'"):
        load_stablehlo(tmp_path / "bad")
