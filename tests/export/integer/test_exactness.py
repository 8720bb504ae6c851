"""Integer networks: bit by bit those of int64, and the float network where they say so."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsnn import layers
from jaxsnn.errors import UserError
from jaxsnn.export import run_integer, to_integer
from jaxsnn.export.integer import PIXELS, SPIKES
from jaxsnn.network import Network
from jaxsnn.neurons import LIF, AdaptiveLIF, SynapticLIF
from jaxsnn.neurons.lif import ORDERS
from jaxsnn.neurons.resets import RESETS
from tests.export.integer.integer_cases import (
    BATCH,
    CONV,
    SHAPE,
    STEPS,
    assert_bit_exact,
    assert_same_spikes,
    dyadic,
    network,
    reference,
    spikes,
    with_leaf,
)

CASES = {
    "bits": st.integers(1, 8),
    "reset": st.sampled_from(RESETS),
    "order": st.sampled_from(ORDERS),
    "decay": st.sampled_from([0.25, 0.5, 0.75, 1.0]),
    "seed": st.integers(0, 1000),
}


@pytest.mark.slow
@settings(max_examples=7, deadline=None, derandomize=True)
@given(**CASES, strict=st.booleans(), pool=st.sampled_from(["AP2", "MP2"]))
def test_dyadic_networks_are_spike_exact(bits, reset, order, decay, seed, strict, pool):
    neuron = LIF(decay, 0.25, reset=reset, order=order, strict=strict)
    layout = CONV.replace("AP2", pool)
    net = network(layout, neuron, dyadic(bits, seed), readout="leaky")
    integers = to_integer(net, SPIKES, STEPS)
    assert integers.exact, integers.report
    assert all(layer.weight_bits <= bits + 1 for layer in integers.report)
    x = spikes(seed=seed)
    found = assert_bit_exact(integers, x)
    assert_same_spikes(found, net(x.astype(np.float32)), integers)


@pytest.mark.long
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
        net, PIXELS, STEPS, weight_bits=bits + 1, leak=leak,
        leak_bits=bits, state_bits=width,
    )  # fmt: skip
    assert not integers.exact and all(layer.state_bits <= width for layer in integers.report)
    assert_bit_exact(integers, rng.integers(0, 256, (STEPS, BATCH, *SHAPE)))


@pytest.mark.long
def test_recurrent_and_voting_networks_are_exact():
    net = network("9R-6-V3", LIF(0.5, 0.5), dyadic(3), (7,))
    integers = to_integer(net, SPIKES, STEPS)
    assert integers.exact and integers.unit == 0.5
    x = spikes((7,))
    found = assert_bit_exact(integers, x)
    assert found.spikes["dense1"].any()
    assert_same_spikes(found, net(x.astype(np.float32)), integers)


def synaptic(reset="hard", decay=0.5, slow=0.5, **options):
    return SynapticLIF(decay, 0.25, slow, reset, **options)


def adaptive(reset="hard", jump=0.125, slow=0.75, decay=0.5, **options):
    return AdaptiveLIF(decay, 0.25, jump, slow, reset, **options)


OTHERS = {
    "a current first": {
        "conv1": synaptic(), "dense1": adaptive("soft"),
        "dense2": synaptic("soft_undecayed", delayed=True),
    },
    "a threshold first": {
        "conv1": adaptive("soft_undecayed", strict=False), "dense1": synaptic("soft", slow=0.75),
        "dense2": adaptive(),
    },
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("case", OTHERS)
def test_neurons_with_a_current_or_a_threshold_that_rises_are_exact(case):
    net = network("4C3-AP2-5R-3", OTHERS[case], dyadic(3))
    integers = to_integer(net, SPIKES, STEPS)
    assert integers.exact, integers.report
    x = spikes()
    found = assert_bit_exact(integers, x)
    assert all(spikes.any() for spikes in found.spikes.values())
    assert_same_spikes(found, net(x.astype(np.float32)), integers)


@pytest.mark.parametrize(
    ("neuron", "options", "part"),
    [
        (synaptic(slow=0.9), {}, "synaptic_decay"),
        (adaptive(slow=0.9), {}, "adaptation_decay"),
        (adaptive(jump=0.1, slow=1.0, decay=1.0), {"fraction_bits": 3}, "adaptation"),
        (synaptic(decay=0.0), {"fraction_bits": 0}, "leak"),
        (adaptive(), {"fraction_bits": 0}, "leak"),
    ],
)
def test_what_such_neurons_round_is_said(neuron, options, part):
    net = network("4-3", neuron, dyadic(3), (7,), readout="current", use_bias=False)
    report = to_integer(net, SPIKES, 12, leak_bits=2, **options).report[0]
    assert report.verdict == "rounded" and [name for name, _ in report.rounded] == [part]


def test_a_threshold_that_rises_from_no_whole_number_is_left_to_float32():
    neuron = AdaptiveLIF(0.5, 0.3, 0.125, 0.75)
    net = network("4-3", neuron, dyadic(3), (7,), readout="current", use_bias=False)
    report = to_integer(net, SPIKES, STEPS).report[0]
    assert (report.verdict, report.rounded) == ("float", ())


@pytest.mark.parametrize("neuron", [synaptic(slow=1.0), adaptive(slow=1.0)])
def test_what_is_carried_besides_must_fit_too(neuron):
    net = network("4-3", neuron, dyadic(3), (7,), readout="current", use_bias=False)
    assert to_integer(net, SPIKES, 4).report[0].state_bits > 8
    with pytest.raises(UserError, match="'dense1': potentials of channel .* does not fit 8 bits"):
        to_integer(net, SPIKES, 50, state_bits=8)


@pytest.mark.long
def test_residual_networks_are_exact():
    module = network("4C3-6B3S2-5-3", LIF(0.5, 0.5), dyadic(4), readout="current").module
    block = module.block1
    weight = jnp.asarray([0.5, 1, 2, 0.25, 1, 1])
    module.block1 = layers.Residual(
        block.conv1, block.conv2, sources=[3, -1, 0, 1, 2, -1], weight=weight
    )
    net = Network.of(module)
    integers = to_integer(net, SPIKES, STEPS)
    assert integers.exact
    assert integers.stages[1].weight[1] == 0 and integers.stages[1].weight[0] > 0
    x = spikes()
    found = assert_bit_exact(integers, x)
    assert_same_spikes(found, net(x.astype(np.float32)), integers)


def test_a_neuron_by_hand():
    # Weights 0.75 [1, -1] in a grid of 0.75; u > 1 is n > 1 for whole n, half units with a leak.
    net = network("1-1", LIF(0.5, 1.0), lambda name, _: [[0.75], [-0.75]] if name == "dense1/kernel"
                  else [0.0] if name.endswith("bias") else [[1.0]], (2,))  # fmt: skip
    integers = to_integer(net, SPIKES, 3)
    layer = integers.stages[0]
    assert np.asarray(layer.kernel).tolist() == [[1], [-1]] and layer.kernel.dtype == jnp.int8
    # Two bits behind the point, for two leaks: theta = 4/3 * 4 = 5.33, so the least spike is 6.
    neurons = layer.neurons
    assert [int(c[0]) for c in (layer.shift, neurons.level, neurons.factor, neurons.right)] == [
        2, 6, 1, 1,
    ]  # fmt: skip
    x = jnp.asarray([[[1, 0]], [[1, 0]], [[0, 1]]])  # u = 4, then 4 + 2 = 6: spike, then -4
    assert run_integer(integers, x).spikes["dense1"].tolist() == [[1]]


@pytest.mark.long
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
    integers = to_integer(net, SPIKES, 12, **options)
    report = integers.report[0]
    assert report.verdict == "rounded" and [name for name, _ in report.rounded] == parts.split()
    assert all(0 < share < 12 for _, share in report.rounded)
    if parts == "bias":  # by less than changes a spike here
        assert dict(report.rounded)["bias"] < 1e-4
        return
    x = spikes((7,), steps=12)
    found = assert_bit_exact(integers, x)
    expected = net(x.astype(np.float32)).activity.spikes["dense1"]
    assert (np.asarray(found.spikes["dense1"]) != np.asarray(expected)).any()


@pytest.mark.long
def test_decimal_scales_leave_the_rounding_to_float32():
    draw = dyadic(4)
    net = network(CONV, LIF(0.5, 0.5), lambda n, s: np.zeros(s) if n.endswith("bias")
                  else 0.7 * draw(n, s), readout="current")  # fmt: skip
    integers = to_integer(net, SPIKES, STEPS)
    assert {layer.verdict for layer in integers.report} == {"float"} and not integers.exact
    x = spikes()
    found = assert_bit_exact(integers, x)
    expected = net(x.astype(np.float32))
    same = [np.mean(found.spikes[n] == s) for n, s in expected.activity.spikes.items()]
    assert min(same) > 0.98


def test_a_norm_is_no_proof_until_it_is_folded():
    net = network("4C3-3", LIF(0.5, 0.25), dyadic(2), norm=True, readout="current")
    assert to_integer(net, SPIKES, STEPS).report[0].verdict != "exact"


def test_the_proof_is_tight_and_refuses_one_step_more():
    net = network("1-2", LIF(1.0, 200.0), lambda name, shape: np.full(shape, 127.0 if "1/k" in name
                  else 0), (2,), readout="current")  # fmt: skip
    integers = to_integer(net, SPIKES, 1, state_bits=9)
    _, _, largest = reference(integers, np.ones((1, 1, 2)))
    assert largest["dense1"] == 2 and integers.report[0].state_bits == 3  # 127 is 1 of its unit
    net = with_leaf(net, "dense1/kernel", jnp.asarray([[127.0], [1.0]]))
    integers = to_integer(net, SPIKES, 1, state_bits=9)
    assert reference(integers, np.ones((1, 1, 2)))[2]["dense1"] == 128
    with pytest.raises(UserError, match="'dense1'.*channel 0 may reach 256 in 2 timesteps"):
        to_integer(net, SPIKES, 2, state_bits=9)


def test_a_read_out_sums_up_without_overflow():
    draw = lambda name, shape: np.full(shape, 1 / 3) if "bias" in name else np.ones(shape)  # noqa: E731
    net = network("2-3", LIF(1.0, 0.5), draw, (2,), readout="leaky")
    network_ = to_integer(net, SPIKES, 100)
    readout = run_integer(network_, jnp.ones((100, 1, 2), jnp.int32)).readout
    total = np.asarray(readout, np.int64).sum(0)
    assert 2**28 < total.max() < 2**31
    np.testing.assert_allclose(total * network_.unit, (2 + 1 / 3) * 5050, rtol=1e-5)
