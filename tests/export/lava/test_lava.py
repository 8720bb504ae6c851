"""Networks for lava spike as the network of integers does, in every step, or are refused."""

import os
import subprocess
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import models, tree
from jaxsnn.cli import main
from jaxsnn.errors import UserError
from jaxsnn.export import run_integer, save, to_integer, to_lava
from jaxsnn.export.integer import SPIKES, IntegerGrid
from jaxsnn.export.integer.network import Joined, Weightless
from jaxsnn.export.lava import run_lava
from jaxsnn.inputs import Inputs
from jaxsnn.neurons import LIF
from tests.export.integer.integer_cases import reference
from tests.export.lava import lava_model

STEPS = 5
HALF = LIF(0.5, 0.5)
LAVA = "JAXSNN_LAVA_PYTHON"  # an interpreter that has lava
LAYOUTS = (
    "4C3-AP2-5-3", "4R-3", "AP2-4C3S2-5R-3", "4C3V-4C3-3", "4-6-V3", "4C2V-AP2-AP2-5-3", "4-3R",
)  # fmt: skip


def draw(seed):
    """Return a network with whole numbers in all places, and its inputs."""
    random = np.random.default_rng(seed)
    pick = lambda *options: options[random.integers(len(options))]  # noqa: E731
    layout = LAYOUTS[seed % len(LAYOUTS)]
    shape = (6, 7, 2) if "C" in layout else (9,)
    spiking = layout.endswith("R")
    orders = ("integrate_then_fire", "fire_then_integrate")[: 1 + ("R" not in layout)]
    neuron = LIF(
        pick(0.25, 0.5, 0.75, 0.875, 1.0), pick(0.5, 1.0, 1.5), order=pick(*orders),
        strict=bool(random.integers(2)),
    )  # fmt: skip
    readout = "spikes" if spiking else pick("spikes", "leaky", "current")
    biased = bool(random.integers(2))
    net = models.build(layout, shape, neuron, readout=readout, use_bias=biased)

    def numbers(name, leaf):
        if name.endswith("bias"):
            return jnp.asarray(random.integers(-3, 6, leaf.shape) / 16, jnp.float32)
        codes = random.integers(*pick((-3, 4), (0, 4), (-7, 8)), leaf.shape)
        codes.reshape(-1, leaf.shape[-1])[0] = 1
        return jnp.asarray(codes / 8, jnp.float32)

    net = net.replace(params=tree.map_named(numbers, net.params))
    encoding = pick("bernoulli", "bernoulli", "direct")
    inputs = Inputs(shape, STEPS, encoding)
    return net, inputs, random


def samples_of(inputs, random, count=2):
    if inputs.encoding == "direct":
        return random.integers(0, 3, (count, *inputs.shape))
    return random.integers(0, 2, (count, inputs.timesteps, *inputs.shape))


def over_time(inputs, samples):
    """Return samples `[T, N, *shape]`."""
    if inputs.encoding == "direct":
        return np.broadcast_to(samples, (inputs.timesteps, *samples.shape))
    return samples.swapaxes(0, 1)


def lava_spikes(network, arrays, sample):
    """Return each layer's output `[T, neurons]` of a sample in the written model of lava."""
    found = lava_model.run(network, arrays, run_lava.over_time(network, sample))
    firsts = [layer["first"] for layer in network["layers"]]
    return [each[first : first + STEPS] for each, first in zip(found, firsts, strict=True)]


def assert_equal(seed, folder):
    """Assert that scores, and each neuron's spikes up to each step, are those of the integers.

    Returns why a network has no form in lava.
    """
    net, inputs, random = draw(seed)
    try:
        integers = to_integer(net, inputs, state_bits=24)
        to_lava(integers, folder, inputs)
    except UserError as error:
        return str(error)
    network, arrays = run_lava.load(folder)
    samples = samples_of(inputs, random)
    x = over_time(inputs, samples)
    steps = [reference(integers, x[: t + 1]) for t in range(STEPS)]
    for n, sample in enumerate(samples):
        found = lava_spikes(network, arrays, sample)
        scores = run_lava.scores_of(network, found[-1])
        np.testing.assert_array_equal(scores, steps[-1][0][:, n].sum(0))
        for layer, spikes in zip(network["layers"], found, strict=True):
            if layer["name"] in steps[0][1]:
                right = [counts[layer["name"]][n].ravel() for _, counts, _ in steps]
                np.testing.assert_array_equal(spikes.cumsum(0), right)
    return None


@pytest.mark.parametrize("seed", [1, 2, 4])
def test_random_networks_spike_the_same_in_every_step(seed, tmp_path):
    """Recurrence and a leaky read-out; pools, strides; biases, votes and the other order."""
    assert assert_equal(seed, tmp_path) is None


@pytest.mark.slow
def test_many_random_networks_spike_the_same_in_every_step(tmp_path):
    refused = [assert_equal(seed, tmp_path / str(seed)) for seed in range(150)]
    assert sum(reason is None for reason in refused) >= 100, refused


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(7))
def test_lava_itself_gives_the_scores(seed, tmp_path):
    python = os.environ.get(LAVA)
    if python is None:
        pytest.skip(f"name a Python 3.10 that has lava in ${LAVA}: pip install lava-nc")
    net, inputs, random = draw(seed)
    integers = to_integer(net, inputs, state_bits=24)
    to_lava(integers, tmp_path, inputs)
    samples = samples_of(inputs, random)
    np.save(tmp_path / "samples.npy", samples)
    line = [python, "run_lava.py", "samples.npy", "scores.npy"]
    subprocess.run(line, cwd=tmp_path, check=True, timeout=300)
    x = jnp.asarray(over_time(inputs, samples), jnp.int32)
    right = run_integer(integers, x).readout.sum(0)
    np.testing.assert_array_equal(np.load(tmp_path / "scores.npy"), right)


def small(neuron=HALF, largest=3, shape=(9,), layout="4R-3", **options):
    """Return the integers of a network whose weights are whole numbers."""
    net = models.build(layout, shape, neuron, readout="leaky", use_bias=False)
    random = np.random.default_rng(0)

    def numbers(name, leaf):
        codes = random.integers(-largest, largest + 1, leaf.shape)
        codes.reshape(-1, leaf.shape[-1])[0] = 1
        return jnp.asarray(codes / 8, jnp.float32)

    net = net.replace(params=tree.map_named(numbers, net.params))
    return to_integer(net, options.pop("grid", SPIKES), options.pop("timesteps", 4), **options)


@pytest.mark.parametrize(
    ("integers", "message"),
    [
        ({"neuron": LIF(0.5, 0.5, reset="soft")}, "'dense1' .* resets by subtraction"),
        ({"neuron": LIF(0.0, 0.5)}, "'dense1' .* it forgets at once"),
        ({"neuron": LIF(0.9, 0.5), "timesteps": 8, "state_bits": 16}, "'dense1' .* leak drops"),
        ({"largest": 200}, "'dense1' .* weights need 9 bits beside the sign, Loihi has 8"),
        ({"timesteps": 22, "state_bits": 32}, "'dense1' .* potentials need .. bits, Loihi has 24"),
        ({"grid": IntegerGrid(1.0, -1, 1)}, "inputs of 0 and more, found -1 to 1"),
        ({"grid": IntegerGrid(1.0, 0, 2500), "timesteps": 1}, "'dense1' .* 17 bits; Loihi has 16"),
    ],
)
def test_what_loihi_cannot_express_is_refused_by_the_layers_name(integers, message, tmp_path):
    found = small(**integers)
    with pytest.raises(UserError, match=message):
        to_lava(found, tmp_path / "out", Inputs((9,), found.timesteps, "bernoulli"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("max", "'dense1' .* maximum pooling comes before it"),
        ("joined", "'block/conv2' adds a shortcut, which would arrive a step too early"),
        ("decays", "'dense1' .* its channels decay by 0.5, 0.75 ..., lava's LIF has one dv"),
        ("bias", "'dense1' .* a bias needs more than 13 bits"),
        ("level", "'dense1' .* it fires at a potential of 0"),
        ("early", "'dense2' .* bias would make it fire before the first input arrives"),
    ],
)
def test_stages_without_a_counterpart_are_refused(stage, message, tmp_path):
    integers = small()
    first, last = integers.stages
    if stage == "max":
        stages = Weightless("max", 2), first, last
    elif stage == "joined":
        block = Joined(first, replace(first, name="block/conv2"), first.bias, first.bias)
        stages = (block, last)
    elif stage == "decays":
        right = first.neurons.right.at[1].set(2)
        factor = first.neurons.factor.at[1].set(3)
        stages = replace(first, neurons=replace(first.neurons, right=right, factor=factor)), last
    elif stage == "level":
        stages = replace(first, neurons=replace(first.neurons, level=first.bias)), last
    elif stage == "bias":
        stages = replace(first, bias=first.bias + (1 << 13) + 1), last
    else:  # it would have to fall from above the threshold
        second = replace(first, name="dense2", kernel=first.recurrent, recurrent=None)
        stages = first, replace(second, bias=first.bias - first.neurons.level), last
    report = (*integers.report, integers.report[0]._replace(layer="dense2"))
    with pytest.raises(UserError, match=message):
        to_lava(
            replace(integers, stages=stages, report=report), tmp_path, Inputs((9,), 4, "bernoulli")
        )


def test_inputs_of_another_kind_are_refused(tmp_path):
    integers = small()
    for inputs, message in (
        (Inputs((8,), 4, "bernoulli"), r"'dense1' does not fit an input of \(8,\)"),
        (Inputs((9,), 5, "bernoulli"), "made for 4 timesteps, inputs has 5"),
        ((9,), "inputs must be an Inputs, found tuple"),
    ):
        with pytest.raises(UserError, match=message):
            to_lava(integers, tmp_path, inputs)


def test_the_command_writes_a_folder_and_wants_to_be_asked_for_rounding(tmp_path, capsys):
    net, inputs = models.build("4-3", (9,), HALF, readout="leaky"), Inputs((9,), 4, "bernoulli")
    save(tmp_path / "net", net, inputs)
    line = ["export", str(tmp_path / "net"), "--to", "lava", "--out", str(tmp_path / "out")]
    assert main(line) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "weights by" in error and "dense1: " in error
    assert not (tmp_path / "out").exists()
    assert main([*line[:3], "npz", *line[4:], "--allow-rounding"]) == 2
    assert "--allow-rounding is for --to lava, not for npz" in capsys.readouterr().err
    net = net.replace(params=small_params(net))
    save(tmp_path / "net", net, inputs)
    assert main(line) == 0
    size = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert f"{tmp_path / 'out'}: {size:,} bytes" in capsys.readouterr().out
    network, arrays = run_lava.load(tmp_path / "out")
    assert [layer["name"] for layer in network["layers"]] == ["dense1", "dense2"]
    assert all(array.dtype == np.int32 for name, array in arrays.items() if name != "names")


def small_params(net):
    """Return whole numbers over 8 in the place of weights, no biases."""
    random = np.random.default_rng(0)

    def numbers(name, leaf):
        codes = random.integers(-3, 4, leaf.shape) * name.endswith("kernel")
        return jnp.asarray(codes / 8, jnp.float32)

    return tree.map_named(numbers, net.params)
