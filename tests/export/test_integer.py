"""Integer networks: bit by bit those of int64, and the float network where they say so."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsnn import layers, models, tree
from jaxsnn.compress import rescaling as rescaled
from jaxsnn.encode import Signal, direct
from jaxsnn.errors import UserError
from jaxsnn.export import fold_norms, run_integer, shrink, to_integer
from jaxsnn.export.integer import PIXELS, Grid, cut, pixel_table
from jaxsnn.export.integer.units import decays, find_scales
from jaxsnn.layers.neurons import Rectified
from jaxsnn.methods import qp_snn
from jaxsnn.network import split
from jaxsnn.neurons import LIF, ORDERS, RESETS

SHAPE, STEPS, BATCH = (6, 6, 2), 4, 3
CONV = "4C3-AP2-5C3V-6-3"


def network(layout, neuron, draw, shape=SHAPE, **options):
    """Return a network whose parameters `draw(name, shape)` gives."""
    module = models.build(layout, shape, neuron, rngs=nnx.Rngs(0), **options)
    net = split(module)

    def replace(name, leaf):
        return jnp.asarray(draw(name, leaf.shape), jnp.float32)

    return module, tree.map_named(replace, net.params), net.stats


def spikes(shape=SHAPE, rate=0.5, steps=STEPS, seed=3):
    return (np.random.default_rng(seed).random((steps, BATCH, *shape)) < rate).astype(np.int32)


def reference(network, x):
    """Run a network step by step in int64; return read-outs, spike counts, largest potentials."""
    memory, counts, largest, outputs = {}, {}, {}, []

    def weigh(layer, x, extra):
        kernel = np.asarray(layer.kernel, np.int64)
        if kernel.ndim == 4:
            k = kernel.shape[0]
            if layer.padding == "SAME":
                border = ((k - 1) // 2, k // 2)
                x = np.pad(x, ((0, 0), border, border, (0, 0)))
            view = np.lib.stride_tricks.sliding_window_view(x, (k, k), (1, 2))
            view = view[:, :: layer.stride, :: layer.stride]
            total = np.einsum("bhwcij,ijco->bhwo", view, kernel)
        else:
            total = np.einsum("bi,io->bo", x, kernel)
        total = total * 2 ** np.asarray(layer.shift, np.int64) + np.asarray(layer.bias) + extra
        n = layer.neurons
        level, theta, keep, factor, right = (
            np.asarray(c, np.int64) for c in (n.level, n.theta, n.keep, n.factor, n.right)
        )
        leak = lambda u: keep * u + np.floor_divide(factor * u, 2**right)  # noqa: E731
        u = memory.get(layer.name, np.zeros_like(total))
        fired = u >= level
        if layer.recurrent is not None:
            total = total + fired @ np.asarray(layer.recurrent, np.int64)
        if n.reset == "hard":
            rested = np.where(fired, 0, leak(u))
        elif n.reset == "soft":
            rested = leak(np.where(fired, u - theta, u))
        else:
            rested = leak(u) - np.where(fired & (n.reset is not None), theta, 0)
        u = memory[layer.name] = rested + total
        largest[layer.name] = max(largest.get(layer.name, 0), np.abs(u).max())
        if n.reset is None:
            return u
        fired = (fired if n.fires_first else u >= level).astype(np.int64)
        counts[layer.name] = counts.get(layer.name, 0) + fired
        return fired

    for x_t in np.asarray(x, np.int64):
        for stage in network.stages:
            if hasattr(stage, "first"):
                inner = weigh(stage.first, x_t, 0)
                s = stage.first.stride
                added = x_t[:, ::s, ::s][..., np.asarray(stage.sources)] * np.asarray(stage.weight)
                x_t = weigh(stage.second, inner, added)
            elif hasattr(stage, "kernel"):
                x_t = weigh(stage, x_t, 0)
            elif stage.kind in ("sum", "max"):
                b, h, w, c = x_t.shape
                rows = [
                    [
                        x_t[:, i : i + stage.size, j : j + stage.size]
                        for j in range(0, w, stage.size)
                    ]
                    for i in range(0, h, stage.size)
                ]
                pool = np.sum if stage.kind == "sum" else np.max
                x_t = np.stack([np.stack([pool(p, (1, 2)) for p in row], 1) for row in rows], 1)
            elif stage.kind == "flatten":
                x_t = x_t.reshape(len(x_t), -1)
            else:
                x_t = np.stack([g.sum(1) for g in np.split(x_t, stage.size, 1)], 1)
        outputs.append(x_t)
    return np.stack(outputs), counts, largest


def assert_bit_exact(network, x):
    """Compare with int64, and the potentials with the proof."""
    readout, counts, largest = reference(network, x)
    found = run_integer(network, jnp.asarray(x))
    np.testing.assert_array_equal(found.readout, readout)
    jax.tree.map(np.testing.assert_array_equal, found.spikes, counts)
    for layer in network.report:
        assert largest[layer.layer] < 2 ** (layer.state_bits - 1)
    return found


def float_run(module, params, stats, x):
    return split(module).apply(params, stats, x)  # operations compiled for one serve the next


def assert_same_spikes(found, expected, network):
    jax.tree.map(np.testing.assert_array_equal, found.spikes, expected.activity.spikes)
    np.testing.assert_array_equal(found.readout * np.float64(network.unit), expected.readout)


def dyadic(bits, seed=0):
    """Draw odd integers of so many bits times powers of two, one for each channel, and zeros."""
    rng = np.random.default_rng(seed)

    def draw(name, shape):
        if name.endswith("bias"):
            return rng.integers(-4, 9, shape) / 64
        fine = 2.0 ** rng.integers(-1, 2, shape[-1:])
        if name.startswith("dense2"):  # the read-out: one scale
            fine = fine[:1]
        codes = 2 * rng.integers(0, 2**bits, shape) - (2**bits - 1)
        codes = codes * rng.choice([0, 1], shape)
        codes.reshape(-1, shape[-1])[0] = 1  # so that the scale found is that power of two
        return codes * fine * 2.0**-bits

    return draw


CASES = {
    "bits": st.integers(1, 8),
    "reset": st.sampled_from(RESETS),
    "order": st.sampled_from(ORDERS),
    "decay": st.sampled_from([0.25, 0.5, 0.75, 1.0]),
    "seed": st.integers(0, 1000),
}


@settings(max_examples=7, deadline=None, derandomize=True)
@given(**CASES, strict=st.booleans(), pool=st.sampled_from(["AP2", "MP2"]))
def test_dyadic_networks_are_spike_exact(bits, reset, order, decay, seed, strict, pool):
    neuron = LIF(decay, 0.25, reset=reset, order=order, strict=strict)
    layout = CONV.replace("AP2", pool)
    net = network(layout, neuron, dyadic(bits, seed), readout="leaky")
    integers = to_integer(*net, STEPS)
    assert integers.exact, integers.report
    assert all(layer.weight_bits <= bits + 1 for layer in integers.report)
    x = spikes(seed=seed)
    found = assert_bit_exact(integers, x)
    assert_same_spikes(found, float_run(*net, x.astype(np.float32)), integers)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(**CASES, leak=st.sampled_from(["multiply", "power_of_two"]), width=st.sampled_from([26, 32]))
def test_any_network_is_bit_exact_with_int64(bits, reset, order, decay, seed, leak, width):
    rng = np.random.default_rng(seed)
    decays = jnp.asarray(rng.uniform(0, decay, 4), jnp.float32)
    neuron = LIF(decays, 0.4, reset=reset, order=order)
    dense = "4R" if order == "integrate_then_fire" else "4"
    layout = f"4C3-4B3S2M4-MP3-{dense}-4-V2"
    net = network(layout, neuron, lambda _, shape: rng.normal(0.1, 0.4, shape), norm=True)
    integers = to_integer(
        *net, STEPS, inputs=PIXELS, weight_bits=bits + 1, leak=leak,
        leak_bits=bits, state_bits=width,
    )  # fmt: skip
    assert not integers.exact and all(layer.state_bits <= width for layer in integers.report)
    assert_bit_exact(integers, rng.integers(0, 256, (STEPS, BATCH, *SHAPE)))


def test_recurrent_and_voting_networks_are_exact():
    net = network("9R-6-V3", LIF(0.5, 0.5), dyadic(3), (7,))
    integers = to_integer(*net, STEPS)
    assert integers.exact and integers.unit == 0.5
    x = spikes((7,))
    found = assert_bit_exact(integers, x)
    assert found.spikes["dense1"].any()
    assert_same_spikes(found, float_run(*net, x.astype(np.float32)), integers)


def test_residual_networks_are_exact():
    module, params, stats = network("4C3-6B3S2-5-3", LIF(0.5, 0.5), dyadic(4), readout="current")
    block = module.block1
    weight = jnp.asarray([0.5, 1, 2, 0.25, 1, 1])
    module.block1 = layers.Residual(
        block.conv1, block.conv2, sources=[3, -1, 0, 1, 2, -1], weight=weight
    )
    stats = split(module).stats
    integers = to_integer(module, params, stats, STEPS)
    assert integers.exact
    assert integers.stages[1].weight[1] == 0 and integers.stages[1].weight[0] > 0
    x = spikes()
    found = assert_bit_exact(integers, x)
    assert_same_spikes(found, float_run(module, params, stats, x.astype(np.float32)), integers)


def test_a_neuron_by_hand():
    # Weights 0.75 [1, -1] in a grid of 0.75; u > 1 is n > 1 for whole n, half units with a leak.
    net = network("1-1", LIF(0.5, 1.0), lambda name, _: [[0.75], [-0.75]] if name == "dense1/kernel"
                  else [0.0] if name.endswith("bias") else [[1.0]], (2,))  # fmt: skip
    integers = to_integer(*net, 3)
    layer = integers.stages[0]
    assert np.asarray(layer.kernel).tolist() == [[1], [-1]] and layer.kernel.dtype == jnp.int8
    # Two bits behind the point, for two leaks: theta = 4/3 * 4 = 5.33, so the least spike is 6.
    neurons = layer.neurons
    assert [int(c[0]) for c in (layer.shift, neurons.level, neurons.factor, neurons.right)] == [
        2, 6, 1, 1,
    ]  # fmt: skip
    x = jnp.asarray([[[1, 0]], [[1, 0]], [[0, 1]]])  # u = 4, then 4 + 2 = 6: spike, then -4
    assert run_integer(integers, x).spikes["dense1"].tolist() == [[1]]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"decay": 0.9, "leak_bits": 2}, "decay"),
        ({"decay": 0.75, "leak": "power_of_two", "leak_bits": 1}, "decay"),
        ({"decay": 0.5, "fraction_bits": 0}, "leak"),
        ({"bias": 0.123, "state_bits": 24}, "bias"),
        ({"reset": "soft", "threshold": 0.3, "fraction_bits": 0}, "threshold"),
        ({"weight_bits": 3, "rough": 0.01}, "weights"),
    ],
)
def test_what_is_rounded_is_said_and_is_different(options, parts):
    options = dict(options)
    bias, rough = options.pop("bias", 0.0), options.pop("rough", 0.0)
    constants = {"decay": 1.0, "threshold": 0.5} | {
        name: options.pop(name) for name in ("decay", "threshold", "reset") if name in options
    }
    draw, rng = dyadic(3), np.random.default_rng(0)

    def rounded(name, shape):
        return bias if name.endswith("bias") else draw(name, shape) + rough * rng.normal(size=shape)

    def full(name, shape):
        return np.broadcast_to(rounded(name, shape), shape)

    net = network("40-3", LIF(**constants), full, (7,), readout="current")
    integers = to_integer(*net, 12, **options)
    report = integers.report[0]
    assert report.verdict == "rounded" and [name for name, _ in report.rounded] == parts.split()
    assert all(0 < share < 12 for _, share in report.rounded)
    if parts == "bias":  # by less than changes a spike here
        assert dict(report.rounded)["bias"] < 1e-4
        return
    x = spikes((7,), steps=12)
    found = assert_bit_exact(integers, x)
    expected = float_run(*net, x.astype(np.float32)).activity.spikes["dense1"]
    assert (np.asarray(found.spikes["dense1"]) != np.asarray(expected)).any()


def test_decimal_scales_leave_the_rounding_to_float32():
    draw = dyadic(4)
    net = network(CONV, LIF(0.5, 0.5), lambda n, s: np.zeros(s) if n.endswith("bias")
                  else 0.7 * draw(n, s), readout="current")  # fmt: skip
    integers = to_integer(*net, STEPS)
    assert {layer.verdict for layer in integers.report} == {"float"} and not integers.exact
    x = spikes()
    found = assert_bit_exact(integers, x)
    expected = float_run(*net, x.astype(np.float32))
    same = [np.mean(found.spikes[n] == s) for n, s in expected.activity.spikes.items()]
    assert min(same) > 0.98


def test_a_norm_is_no_proof_until_it_is_folded():
    net = network("4C3-3", LIF(0.5, 0.25), dyadic(2), norm=True, readout="current")
    assert to_integer(*net, STEPS).report[0].verdict != "exact"


def test_the_proof_is_tight_and_refuses_one_step_more():
    net = network("1-2", LIF(1.0, 200.0), lambda name, shape: np.full(shape, 127.0 if "1/k" in name
                  else 0), (2,), readout="current")  # fmt: skip
    integers = to_integer(*net, 1, state_bits=9)
    _, _, largest = reference(integers, np.ones((1, 1, 2)))
    assert largest["dense1"] == 2 and integers.report[0].state_bits == 3  # 127 is 1 of its unit
    net[1]["dense1"]["kernel"] = jnp.asarray([[127.0], [1.0]])
    integers = to_integer(*net, 1, state_bits=9)
    assert reference(integers, np.ones((1, 1, 2)))[2]["dense1"] == 128
    with pytest.raises(UserError, match="'dense1'.*channel 0 may reach 256 in 2 timesteps"):
        to_integer(*net, 2, state_bits=9)


def test_a_read_out_sums_up_without_overflow():
    draw = lambda name, shape: np.full(shape, 1 / 3) if "bias" in name else np.ones(shape)  # noqa: E731
    net = network("2-3", LIF(1.0, 0.5), draw, (2,), readout="leaky")
    network_ = to_integer(*net, 100)
    readout = run_integer(network_, jnp.ones((100, 1, 2), jnp.int32)).readout
    total = np.asarray(readout, np.int64).sum(0)
    assert 2**28 < total.max() < 2**31
    np.testing.assert_allclose(total * network_.unit, (2 + 1 / 3) * 5050, rtol=1e-5)


def test_integers_of_rescaled_weights_are_their_codes():
    rng = np.random.default_rng(0)
    free = jnp.asarray(rng.normal(size=(3, 3, 8, 6)), jnp.float32)
    for bits in range(1, 9):
        quantizer = rescaled.rescaled(bits)
        rows = np.asarray(quantizer(free), np.float64).reshape(-1, 6)
        scale = find_scales(rows, 8)
        codes = rescaled.integers(quantizer, free).codes
        levels = 2 * np.asarray(codes, int).reshape(-1, 6) - (2**bits - 1)
        np.testing.assert_array_equal(np.rint(rows / scale), levels)


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
    small = shrink(*wide, {"conv1": [0, 1, 3, 5], "block1/conv1": [0, 2, 3, 5]})
    params, stats, *_ = split(small)
    leaves = tree.named_leaves(params)
    hidden = qp_snn.quantized_leaves(params)
    params = tree.substitute(params, {n: rescaled.rescaled(4)(leaves[n]) for n in hidden})
    return small, params, stats, rng.integers(0, 256, (16, *SHAPE), dtype=np.uint8)


def agreement(found, expected):
    """Return the share of neurons with the same number of spikes, in the worst layer."""
    return min(np.mean(found.spikes[name] == s) for name, s in expected.activity.spikes.items())


def test_qp_snn_runs_on_integers():
    module, params, stats, pixels = small_qp_snn()
    expected = float_run(module, params, stats, direct(pixels / np.float32(255), STEPS))
    integers = to_integer(module, params, stats, STEPS, inputs=PIXELS, weight_bits=16)
    by_name = {layer.layer: dict(layer.rounded) for layer in integers.report}
    assert "weights" in by_name["conv1"] and "weights" in by_name["dense1"]  # full precision
    for name in ("block1/conv1", "block1/conv2"):  # levels -15, -13, ..., 15; a norm's numbers
        assert next(x for x in integers.report if x.layer == name).weight_bits == 5
        assert "weights" not in by_name[name] and 0 < by_name[name]["bias"] < 1e-5
    found = run_integer(integers, direct(jnp.asarray(pixels), STEPS))
    assert agreement(found, expected) > 0.999
    np.testing.assert_allclose(
        found.readout.mean(0) * integers.unit, expected.readout.mean(0), atol=0.01
    )


def test_the_first_layer_may_stay_in_floats():
    module, params, stats, pixels = small_qp_snn()
    whole = fold_norms(module, params, stats, "neuron")
    first, rest = cut(whole, "block1")
    signal = direct(jnp.asarray(pixels / np.float32(255)), STEPS)
    encoder = split(first)
    encoded = encoder.apply(encoder.params, encoder.stats, signal).readout
    integers = to_integer(rest, *split(rest)[:2], STEPS, weight_bits=16)
    found = run_integer(integers, encoded.astype(jnp.int32))
    expected = float_run(whole, *split(whole)[:2], signal)
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
    integers = to_integer(*net, STEPS)
    assert all(jnp.issubdtype(leaf.dtype, jnp.integer) for leaf in jax.tree.leaves(integers))
    shape = jax.ShapeDtypeStruct((STEPS, 2, *SHAPE), jnp.int32)
    program = jax.jit(run_integer).lower(integers, shape).as_text()
    assert "xi32>" in program and "f32" not in program and "f64" not in program


def test_a_constant_input_is_the_same_at_every_step():
    net = network(CONV, LIF(0.5, 0.5), dyadic(4), readout="leaky")
    integers = to_integer(*net, STEPS, inputs=Grid(0.25, 0, 3))
    images = np.random.default_rng(0).integers(0, 4, (2, *SHAPE))
    once = run_integer(integers, direct(jnp.asarray(images), STEPS))
    often = run_integer(integers, jnp.asarray(np.broadcast_to(images, (STEPS, *images.shape))))
    jax.tree.map(np.testing.assert_array_equal, once, often)


def test_muted_and_empty_channels_are_exact_too():
    thresholds = jnp.asarray([0.5, 3e38, 0.5, 0.5])
    net = network("4C3-3", LIF(1.0, thresholds), dyadic(4), readout="current")
    layer = net[1]["conv1"]
    layer["kernel"] = layer["kernel"].at[..., 2:].set(0)
    layer["bias"] = jnp.asarray([0.0, 0.0, 0.25, -0.25])  # 3 * 0.25 > 0.5
    integers = to_integer(*net, STEPS)
    assert integers.exact
    x = spikes()
    found = assert_bit_exact(integers, x)
    assert_same_spikes(found, float_run(*net, x.astype(np.float32)), integers)
    totals = np.asarray(found.spikes["conv1"]).mean((0, 1, 2))
    assert totals[0] > 0 and totals[1:].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"leak": "shift"}, "leak 'shift' is unknown; choose multiply or power_of_two"),
        ({"weight_bits": 1}, r"weight_bits must be in \[2, 16\]"),
        ({"state_bits": 64}, "state_bits must be in"),
        ({"timesteps": 0}, "timesteps must be in"),
        ({"fraction_bits": 31}, "fraction_bits must be in"),
        ({"fraction_bits": 30}, "'conv1': potentials of channel .* does not fit 32 bits"),
        ({"inputs": Grid(1.0, 2, 1)}, "the smallest input must be in"),
        ({"inputs": Grid(0.0, 0, 1)}, "unit of the inputs must be in"),
    ],
)
def test_bad_options_are_errors(options, message):
    net = network("4C3-3", LIF(0.5, 0.5), dyadic(4), readout="current")
    with pytest.raises(UserError, match=message):
        to_integer(*net, **{"timesteps": STEPS} | options)


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
        run_integer(to_integer(*net, STEPS), Signal(jnp.asarray(x), len(x)))


def test_layers_without_integers_are_refused_by_name():
    module, params, stats = network("4-3", LIF(0.5, 0.5), dyadic(4), (7,))
    module.dense1.neurons = Rectified()
    with pytest.raises(UserError, match="'dense1', Rectified, has no counterpart"):
        to_integer(module, params, split(module).stats, STEPS)
    module.dense1.neurons = layers.Integrator()
    with pytest.raises(UserError, match="'dense1' does not spike, but is followed by 'dense2'"):
        to_integer(module, params, split(module).stats, STEPS)
    with pytest.raises(UserError, match="cannot cut before 'dense1'; choose dense2"):
        cut(module, "dense1")
    params["dense2"]["kernel"] = params["dense2"]["kernel"].at[0, 0].set(jnp.nan)
    with pytest.raises(UserError, match="'dense2' has weights that are no finite numbers"):
        module.dense1.neurons = layers.Neurons(LIF(0.5, 0.5))
        to_integer(module, params, split(module).stats, STEPS)
