"""What becomes of weights, inputs and layers in a network of integers, and what is refused."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import compress, layers, tree
from jaxsnn.encode import Signal, direct
from jaxsnn.errors import UserError
from jaxsnn.export import fold_norms, run_integer, shrink, to_integer
from jaxsnn.export.integer import PIXELS, SPIKES, IntegerGrid, pixel_table, split_before
from jaxsnn.export.integer.units import decays, scales
from jaxsnn.inputs import Inputs
from jaxsnn.network import Network
from jaxsnn.neurons import LIF
from tests.export.integer.integer_cases import (
    CONV,
    SHAPE,
    STEPS,
    assert_bit_exact,
    assert_same_spikes,
    dyadic,
    network,
    spikes,
    with_leaf,
)


def test_integers_of_rescaled_weights_are_their_codes():
    rng = np.random.default_rng(0)
    free = jnp.asarray(rng.normal(size=(3, 3, 8, 6)), jnp.float32)
    for bits in range(1, 9):
        found = compress.rescaled(bits).quantize(free)
        rows = np.asarray(found.decode(), np.float64).reshape(-1, 6)
        levels = np.asarray(found.codes, int).reshape(-1, 6)
        np.testing.assert_array_equal(np.rint(rows / scales(rows, 8)), levels)


def test_known_codes_are_the_integers_whatever_a_search_would_find():
    # Even codes alone: a search finds a coarser grid, and 12 bits are more than it looks for.
    net = network("3-2", LIF(0.5, 0.5), lambda name, shape: np.zeros(shape), (4,))
    draw = np.random.default_rng(0)
    codes = jnp.asarray(2 * draw.integers(-1000, 1001, (4, 3)))
    step = compress.Step.of(jnp.asarray([[0.5, 0.25, 0.125]]), bits=12)
    known = net.replace(
        params=tree.substitute(net.params, {"dense1/kernel": step.with_codes(codes).decode()}),
        steps={"dense1/kernel": step},
    )
    kernel = to_integer(known, SPIKES, STEPS).stages[0].kernel
    np.testing.assert_array_equal(kernel, codes)
    guessed = to_integer(known.replace(steps={}), SPIKES, STEPS).stages[0].kernel
    assert not np.array_equal(guessed, codes)


def test_the_inputs_of_a_task_say_what_its_integers_stand_for():
    net = network("3-2", LIF(0.5, 0.5), dyadic(4), (4,))
    for encoding, grid in (
        ("direct", PIXELS), ("bernoulli", SPIKES), ("poisson", (1, -1, 1)), ("events", (1, 0, 255)),
    ):  # fmt: skip
        integers = to_integer(net, Inputs((4,), 3, encoding))
        assert integers.inputs == grid and integers.timesteps == 3
    with pytest.raises(UserError, match="normalised pixels are no integers"):
        to_integer(net, Inputs((4,), 3, mean=(0.5,) * 4, std=(0.5,) * 4))
    with pytest.raises(UserError, match="timesteps is missing: pass it, or the inputs of the task"):
        to_integer(net, SPIKES)
    with pytest.raises(UserError, match="inputs must be an Inputs or an IntegerGrid, found int"):
        to_integer(net, 3)


def test_the_nearest_decay_is_taken():
    for way, far in (("multiply", 2.0**-6), ("power_of_two", 0.125)):
        table = decays(way, 5)
        value, keep, factor, right = table.T
        np.testing.assert_array_equal(value, keep + factor / 2**right)
        gaps = np.diff(np.unique(value)).max() / 2
        assert gaps == far and (np.abs(factor) <= 2.0 ** np.maximum(right - 1, 0)).all()
    assert np.abs(factor).max() == 1


@cache
def small_qp_snn():
    """Return a shrunk network with 4-bit weights and norms, and pixels."""
    rng = np.random.default_rng(0)

    def draw(name, shape):
        return rng.uniform(0.5, 2, shape) if "scale" in name else rng.normal(0, 0.5, shape)

    layout, options = "6C3-8B3S2M6-AP3-5", {"norm": True, "use_bias": "readout"}
    wide = network(layout, LIF(0.5, 0.5), draw, readout="current", **options)
    small = shrink(wide, {"conv1": [0, 1, 3, 5], "block1/conv1": [0, 2, 3, 5]})
    recipe = {"block1/*/kernel": compress.rescaled(4)}
    small = small.replace(params=compress.project(small.params, recipe))
    return small, rng.integers(0, 256, (16, *SHAPE), dtype=np.uint8)


def agreement(found, expected):
    """Return the share of neurons with the same number of spikes, in the worst layer."""
    return min(np.mean(found.spikes[name] == s) for name, s in expected.activity.spikes.items())


@pytest.mark.long
def test_qp_snn_runs_on_integers():
    net, pixels = small_qp_snn()
    expected = net(direct(jnp.asarray(pixels / np.float32(255)), STEPS))
    integers = to_integer(net, PIXELS, STEPS, weight_bits=16)
    by_name = {layer.layer: dict(layer.rounded) for layer in integers.report}
    assert "weights" in by_name["conv1"] and "weights" in by_name["dense1"]  # full precision
    for name in ("block1/conv1", "block1/conv2"):  # levels -15, -13, ..., 15; a norm's numbers
        assert next(x for x in integers.report if x.layer == name).weight_bits == 5
        assert "weights" not in by_name[name] and 0 < by_name[name]["bias"] < 1e-5
    found = run_integer(integers, Signal(jnp.asarray(pixels), STEPS, constant=True))
    assert agreement(found, expected) > 0.999
    np.testing.assert_allclose(
        found.readout.mean(0) * integers.unit, expected.readout.mean(0), atol=0.01
    )


@pytest.mark.long
def test_the_first_layer_may_stay_in_floats():
    net, pixels = small_qp_snn()
    whole = fold_norms(net, "neuron")
    first, rest = split_before(whole, "block1")
    signal = direct(jnp.asarray(pixels / np.float32(255)), STEPS)
    encoded = first(signal).readout
    integers = to_integer(rest, SPIKES, STEPS, weight_bits=16)
    found = run_integer(integers, encoded.astype(jnp.int32))
    expected = whole(signal)
    np.testing.assert_array_equal(encoded.sum(0), expected.activity.spikes["conv1"])
    expected.activity.spikes.pop("conv1")
    assert agreement(found, expected) > 0.999


def test_normalised_pixels_are_looked_up():
    mean, std = (0.5, 0.25), (0.5, 0.125)
    look_up = pixel_table(mean, std, bits=8)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 2), dtype=np.uint8)
    codes = look_up(jnp.asarray(pixels))
    values = (pixels / 255 - np.array(mean)) / np.array(std)
    unit, low, high = look_up.grid
    assert unit == 2.0**-4 and (low, high) == (-32, 96)  # values up to 6
    np.testing.assert_array_equal(codes, np.rint(values / unit))


def test_the_program_has_no_floats():
    net = network(CONV, LIF(0.9, 0.5), dyadic(4), readout="leaky")
    integers = to_integer(net, SPIKES, STEPS)
    assert all(jnp.issubdtype(leaf.dtype, jnp.integer) for leaf in jax.tree.leaves(integers))
    shape = jax.ShapeDtypeStruct((STEPS, 2, *SHAPE), jnp.int32)
    program = jax.jit(run_integer).lower(integers, shape).as_text()
    assert "xi32>" in program and "f32" not in program and "f64" not in program


@pytest.mark.long
def test_a_constant_input_is_the_same_at_every_step():
    net = network(CONV, LIF(0.5, 0.5), dyadic(4), readout="leaky")
    integers = to_integer(net, IntegerGrid(0.25, 0, 3), STEPS)
    images = np.random.default_rng(0).integers(0, 4, (2, *SHAPE))
    once = run_integer(integers, Signal(jnp.asarray(images), STEPS, constant=True))
    often = run_integer(integers, jnp.asarray(np.broadcast_to(images, (STEPS, *images.shape))))
    jax.tree.map(np.testing.assert_array_equal, once, often)


@pytest.mark.long
def test_muted_and_empty_channels_are_exact_too():
    thresholds = jnp.asarray([0.5, 3e38, 0.5, 0.5])
    net = network("4C3-3", LIF(1.0, thresholds), dyadic(4), readout="current")
    net = with_leaf(net, "conv1/kernel", net.params["conv1"]["kernel"].at[..., 2:].set(0))
    net = with_leaf(net, "conv1/bias", jnp.asarray([0.0, 0.0, 0.25, -0.25]))  # 3 * 0.25 > 0.5
    integers = to_integer(net, SPIKES, STEPS)
    assert integers.exact
    x = spikes()
    found = assert_bit_exact(integers, x)
    assert_same_spikes(found, net(x.astype(np.float32)), integers)
    totals = np.asarray(found.spikes["conv1"]).mean((0, 1, 2))
    assert totals[0] > 0 and totals[1:].tolist() == [0, 1, 0]


@pytest.mark.long
def test_pruned_channels_are_no_wider_than_the_others():
    # Of 3 eighths alone, of 7 eighths alone, and of nothing: in units of their own weights the
    # threshold is 8 / 3 and 8 / 7, no whole number behind any point.
    codes = jnp.asarray([[1, 3, 7, 0], [-2, -3, 0, 0], [3, 0, 7, 0], [5, 3, -7, 0]], jnp.float32)
    net = network("4-3", LIF(0.5, 1.0, reset="soft"), dyadic(4), (4,))
    net = with_leaf(net, "dense1/bias", jnp.zeros(4))
    whole = with_leaf(net, "dense1/kernel", codes.at[:, 1:].set(codes[:, :1]) / 8)
    pruned = with_leaf(net, "dense1/kernel", codes / 8)
    expected, found = (to_integer(each, SPIKES, STEPS).report[0] for each in (whole, pruned))
    assert (found.verdict, found.rounded) == (expected.verdict, ()) == ("exact", ())
    assert found.fraction_bits == expected.fraction_bits
    assert found.state_bits <= expected.state_bits + 1  # 7 + 7 is more than 1 + 3 + 5
    integers, x = to_integer(pruned, SPIKES, STEPS), spikes((4,))
    assert_same_spikes(assert_bit_exact(integers, x), pruned(x.astype(np.float32)), integers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"leak": "shift"}, "leak 'shift' is unknown; choose multiply or power_of_two"),
        ({"weight_bits": 1}, r"weight_bits must be in \[2, 16\]"),
        ({"state_bits": 64}, "state_bits must be in"),
        ({"timesteps": 0}, "timesteps must be in"),
        ({"fraction_bits": 31}, "fraction_bits must be in"),
        ({"fraction_bits": 30}, "'conv1': potentials of channel .* does not fit 32 bits"),
        ({"inputs": IntegerGrid(1.0, 2, 1)}, "the smallest input must be in"),
        ({"inputs": IntegerGrid(0.0, 0, 1)}, "unit of the inputs must be in"),
    ],
)
def test_bad_options_are_errors(options, message):
    net = network("4C3-3", LIF(0.5, 0.5), dyadic(4), readout="current")
    with pytest.raises(UserError, match=message):
        to_integer(net, **{"timesteps": STEPS} | options)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((STEPS, 1, 7), np.float32), "takes integers, found float32"),
        (np.full((STEPS, 1, 7), 2), "inputs of 0 to 1, found 2 to 2"),
        (np.zeros((STEPS + 1, 1, 7), int), f"made for {STEPS} timesteps, found {STEPS + 1}"),
    ],
)
def test_bad_inputs_are_errors(x, message):
    net = network("4-3", LIF(0.5, 0.5), dyadic(4), (7,))
    with pytest.raises(UserError, match=message):
        run_integer(to_integer(net, SPIKES, STEPS), Signal(jnp.asarray(x), len(x)))


def test_layers_without_integers_are_refused_by_name():
    net = network("4-3", LIF(0.5, 0.5), dyadic(4), (7,))
    for neurons, message in (
        (layers.Rectified(), "'dense1', Rectified, has no counterpart"),
        (layers.Integrator(), "'dense1' does not spike, but is followed by 'dense2'"),
    ):
        module = net.module
        module.dense1.neurons = neurons
        with pytest.raises(UserError, match=message):
            to_integer(Network.of(module), SPIKES, STEPS)
    with pytest.raises(UserError, match="cannot split before 'dense1'; choose dense2"):
        split_before(net, "dense1")
    broken = net.params["dense2"]["kernel"].at[0, 0].set(jnp.nan)
    with pytest.raises(UserError, match="'dense2' has weights that are no finite numbers"):
        to_integer(with_leaf(net, "dense2/kernel", broken), SPIKES, STEPS)
    foreign = Network.wrap({"w": jnp.ones((7, 3))}, lambda params, x: x @ params["w"])
    with pytest.raises(UserError, match="a wrapped foreign function has no a module|no module"):
        to_integer(foreign, SPIKES, STEPS)
