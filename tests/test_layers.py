"""Layers over the whole time axis, one at a time, and what they write on the tape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsnn import layers
from jaxsnn.encode import Signal, direct
from jaxsnn.errors import UserError
from jaxsnn.layers import Integrator, Neurons, Tape
from jaxsnn.neurons import LIF, Membrane, unroll
from jaxsnn.surrogate import stdb, triangle

KEY = jax.random.key(0)


def tape(*, train=False, key=None, membranes=None):
    return Tape(train=train, key=key, membranes=membranes or {})


def spikes(*shape, seed=0, rate=0.4):
    """Return random spikes `[T, B, ...]`."""
    return jnp.asarray(np.random.default_rng(seed).random(shape) < rate, jnp.float32)


def run(layer, value, record=None, name="layer"):
    signal = value if isinstance(value, Signal) else Signal(value, value.shape[0])
    return layer(signal, record or tape(), name)


# --- The record ---


def test_behind_an_average_pooling_arrivals_are_the_steps_with_an_input():
    chain = layers.Chain({
        "pool1": layers.AveragePool(2), "flatten1": layers.Flatten(),
        "dense1": layers.Dense(1, 2, Integrator(), rngs=nnx.Rngs(0)),
    })  # fmt: skip
    steps = jnp.asarray([[1, 1, 0, 0], [0, 0, 0, 0], [0, -1, 1, 1]], jnp.float32)
    record = tape()
    chain(Signal(steps.reshape(3, 1, 2, 2, 1), 3), record)
    assert record.activity.arrivals["dense1/kernel"].tolist() == [[2.0]]
    assert record.activity.events["dense1/kernel"].tolist() == [[3.0]]
    plain = tape()
    run(layers.Dense(4, 2, Integrator(), rngs=nnx.Rngs(0)), steps[:, None], plain)
    assert plain.activity.arrivals == {}


def test_watched_neurons_record_their_spikes():
    chain = layers.Chain({"dense1": layers.Dense(3, 4, Neurons(LIF()), rngs=nnx.Rngs(0))})
    record, x = tape(), spikes(5, 2, 3, rate=0.9)
    out = layers.watch(chain)(Signal(4 * x, 5), record)
    assert 0 < out.value.sum() < out.value.size
    np.testing.assert_array_equal(record.activity.trains["dense1"], out.value)


# --- Weighted layers ------------------------------------------------------------------------------


def test_a_dense_layer_weighs_every_step_by_itself():
    layer = layers.Dense(3, 4, Integrator(), rngs=nnx.Rngs(0))
    x, kernel = spikes(5, 2, 3), np.asarray(layer.kernel[...])
    out = run(layer, x)
    expected = np.asarray(x) @ kernel + np.asarray(layer.bias[...])
    np.testing.assert_allclose(out.value, expected, rtol=1e-6)
    np.testing.assert_array_equal(layer.weigh(x[0], kernel), x[0] @ kernel)


def test_a_convolution_keeps_its_stride_and_padding():
    options = {"use_bias": False, "rngs": nnx.Rngs(0)}
    layer = layers.Conv(2, 3, Integrator(), size=3, stride=2, padding="VALID", **options)
    x, kernel = spikes(2, 1, 5, 7, 2), np.asarray(layer.kernel[...])
    out = run(layer, x).value
    assert out.shape == (2, 1, 2, 3, 3) and layer.bias is None
    window = np.asarray(x)[1, 0, 2:5, 4:7]
    np.testing.assert_allclose(out[1, 0, 1, 2], np.tensordot(window, kernel, 3), rtol=1e-5)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_residual_block_adds_its_input_to_the_current_of_its_second_convolution(constant, stride):
    neuron, rngs = LIF(0.5, 0.3), nnx.Rngs(0)
    convs = [
        layers.Conv(2, 5, Neurons(neuron), stride=stride, rngs=rngs),
        layers.Conv(5, 5, Neurons(neuron), rngs=rngs),
    ]
    x = direct(spikes(2, 4, 6, 2)[1:], 3) if constant else Signal(spikes(3, 1, 4, 6, 2), 3)
    record = tape()
    found = run(layers.Residual(*convs), x, record, "block1")
    hidden = run(convs[0], x)
    current = jnp.stack([convs[1].current(h, tape()) for h in hidden.value])
    # Three channels are missing: one of zeros in front, two behind.
    current = current.at[..., 1:3].add(x.over_time()[:, :, ::stride, ::stride])
    np.testing.assert_array_equal(found.value, run(Neurons(neuron), current).value)
    assert found.value.any() and set(record.activity.spikes) == {"block1/conv1", "block1/conv2"}
    assert set(record.activity.events) == {"block1/conv1/kernel", "block1/conv2/kernel"}


def test_a_constant_input_stays_one_copy_through_a_sum():
    total = direct(jnp.ones((1, 2)), 3).plus(direct(jnp.ones((1, 2)), 3))
    assert total.constant and total.value.tolist() == [[2.0, 2.0]]


def test_start_values_lie_within_one_over_the_root_of_the_fan_in():
    layer = layers.Conv(4, 64, Integrator(), size=3, rngs=nnx.Rngs(0))
    bound = (3 * 3 * 4) ** -0.5
    for leaf in (layer.kernel[...], layer.bias[...]):
        assert 0.9 * bound < jnp.abs(leaf).max() <= bound
        # Five standard deviations of the mean of a uniform variable.
        assert jnp.abs(leaf.mean()) < 5 * bound / (3 * leaf.size) ** 0.5


def test_a_synapse_of_no_kind_cannot_weigh():
    layer = layers.Synapse((2, 2), 2, Integrator(), rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="Synapse does not define how it weighs"):
        run(layer, spikes(1, 1, 2))


def test_short_synapses_keep_potentials_in_float32():
    neurons = Neurons(LIF(0.5, 0.5))
    layer = layers.Dense(16, 4, neurons, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    record, x = tape(), spikes(3, 2, 16)
    out = run(layer, x, record)
    assert layer.kernel[...].dtype == jnp.float32
    assert out.value.dtype == record.membranes["layer"].potential.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(record.activity)} == {jnp.dtype("float32")}
    product = layer.weigh(x[0].astype(jnp.bfloat16), layer.kernel[...].astype(jnp.bfloat16))
    assert product.dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        layer.current(x[0], tape()), product.astype(jnp.float32) + layer.bias[...].reshape(1, 4)
    )


# --- Recurrence -----------------------------------------------------------------------------------


def by_hand(layer, x, decay, threshold, potential, last):
    """Run a recurrent layer in numpy; hard reset, strict."""
    weights, recurrent, bias = (
        np.asarray(w[...]) for w in (layer.kernel, layer.recurrent, layer.bias)
    )
    series, heard = [], np.zeros_like(last)
    for now in np.asarray(x):
        heard += last
        current = now @ weights + last @ recurrent + bias
        potential = decay * potential * (1 - (potential > threshold)) + current
        last = (potential > threshold).astype(np.float32)
        series.append((last, potential))
    return *(np.stack(part) for part in zip(*series, strict=True)), heard


def recurrent():
    layer = layers.Recurrent(5, 4, Neurons(LIF(0.75, 0.25)), rngs=nnx.Rngs(1))
    layer.bias[...] = jnp.full(4, 0.2)
    return layer


def test_a_recurrent_layer_is_the_written_loop():
    layer, x, record = recurrent(), spikes(9, 2, 5), tape()
    out = run(layer, x, record)
    rest = np.zeros((2, 4), np.float32)
    fired, potential, heard = by_hand(layer, x, 0.75, 0.25, rest, rest)
    assert 0.1 < fired.mean() < 0.9
    np.testing.assert_array_equal(out.value, fired)
    activity = record.activity
    np.testing.assert_array_equal(activity.spikes["layer"], fired.sum(0))
    np.testing.assert_allclose(activity.potential["layer"], potential.sum(0), rtol=1e-5)
    np.testing.assert_array_equal(activity.events["layer/kernel"], x.sum(0))
    np.testing.assert_array_equal(activity.events["layer/recurrent"], heard)
    assert (heard == fired[:-1].sum(0)).all()


def test_a_continued_recurrent_layer_hears_the_last_spikes_before():
    layer, x = recurrent(), spikes(9, 2, 5)
    whole, first, second = tape(), tape(), None
    out = run(layer, x, whole)
    run(layer, x[:4], first)
    second = tape(membranes=first.membranes)
    rest = run(layer, x[4:], second)
    np.testing.assert_array_equal(out.value[4:], rest.value)
    assert first.membranes["layer"].potential.max() > 0.25
    for name in ("layer/kernel", "layer/recurrent"):
        parts = first.activity.events[name] + second.activity.events[name]
        np.testing.assert_array_equal(parts, whole.activity.events[name])


# --- Neurons and integrators ----------------------------------------------------------------------


def test_constants_are_parameters_only_if_trained():
    fixed = Neurons(LIF(0.5, jnp.asarray([1.0, 2.0])))
    trained = Neurons(LIF(0.5, jnp.asarray([1.0, 2.0])), ("threshold",))
    assert nnx.state(fixed, nnx.Param) == nnx.State({})
    assert list(nnx.state(trained, nnx.Param)) == ["threshold"]
    assert trained.constants().threshold.tolist() == [1, 2]


def test_trained_constants_are_held_in_their_range():
    neurons = Neurons(LIF(0.5, 1.0, reset="soft", surrogate=triangle()), ("decay", "threshold"))
    neurons.decay[...] = jnp.asarray(1.5)
    neurons.threshold[...] = jnp.asarray(-3.0)
    constants = neurons.constants()
    assert constants.decay == 1.0 and constants.threshold == np.float32(layers.SMALLEST_THRESHOLD)
    assert constants.reset == "soft" and constants.surrogate == triangle()
    assert jnp.isfinite(run_neurons(neurons, jnp.ones((3, 1, 2))).value).all()


def run_neurons(neurons, current):
    return neurons(Signal(current, current.shape[0]), tape(), "layer")


def test_an_integrator_reads_out_currents_or_potentials():
    current = jnp.full((4, 1, 2), 0.5)
    signal = Signal(current, 4)
    assert Integrator()(signal, tape(), "out").value is current
    assert Integrator(1.0)(signal, tape(), "out").value[:, 0, 0].tolist() == [0.5, 1, 1.5, 2]
    leaky = Integrator(jnp.asarray([0.5, 0.0]))(direct(current[0], 2), tape(), "out").value
    assert leaky[:, 0].tolist() == [[0.5, 0.5], [0.75, 0.5]]
    # Continued, it starts where it ended.
    record = tape()
    halves = [
        Integrator(0.5)(Signal(part, 2), record, "out").value for part in (current[:2], current[2:])
    ]
    whole = Integrator(0.5)(signal, tape(), "out").value
    np.testing.assert_array_equal(jnp.concatenate(halves), whole)
    # The accumulated potential T c of a constant current, divided by T, is the current again.
    assert Integrator()(signal, tape(), "out").value.mean(0).tolist() == [[0.5, 0.5]]


def test_rectified_neurons_give_the_positive_part_and_record_it():
    record, current = tape(), jnp.asarray([[-1.0, 2.0], [0.5, -3.0]])
    out = layers.Rectified()(direct(current, 1), record, "layer")
    assert out.constant and out.value.tolist() == [[0, 2], [0.5, 0]]
    activity = record.activity
    assert activity.spikes["layer"].tolist() == out.value.tolist()
    assert activity.potential["layer"].tolist() == current.tolist()
    assert activity.magnitude["layer"].tolist() == [[1, 2], [0.5, 3]]
    assert jax.grad(lambda x: run(layers.Rectified(), x).value.sum())(current[None]).tolist() == [
        [[0, 1], [1, 0]]
    ]


def test_watched_neurons_record_their_current_and_the_original_does_not():
    chain = layers.Chain({"dense1": layers.Dense(2, 3, Neurons(LIF()), rngs=nnx.Rngs(0))})
    watched, signal = layers.watch(chain), direct(jnp.ones((1, 2)), 4)
    records = [tape(), tape()]
    outputs = [net(signal, record) for net, record in zip((chain, watched), records, strict=True)]
    np.testing.assert_array_equal(outputs[0].value, outputs[1].value)
    assert records[0].activity.current == {}
    current = np.asarray(chain.dense1.kernel[...]).sum(0) + np.asarray(chain.dense1.bias[...])
    found = records[1].activity.current["dense1"]
    np.testing.assert_allclose(found, np.broadcast_to(current, (4, 1, 3)), rtol=1e-5)


def timed(order, detached=True):
    return LIF(0.75, 0.5, reset="soft", order=order, detach_reset=detached, surrogate=stdb())


@pytest.mark.parametrize("order", ["integrate_then_fire", "fire_then_integrate"])
def test_stdb_gradients_know_when_the_neuron_last_fired_also_across_chunks(order):
    """Sum of weighted spikes: d/dx[s] = sum_t weight[t] h[t] / v decay^(t - s) for s up to t."""
    steps, late = 12, order == "fire_then_integrate"
    rng = np.random.default_rng(0)
    current = jnp.asarray(rng.uniform(0, 0.6, (steps, 1, 3)), jnp.float32)
    weight = jnp.asarray(rng.normal(size=(steps, 1, 3)), jnp.float32)
    neurons = Neurons(timed(order))

    def loss(current, cut):
        record, parts = tape(), (current[:cut], current[cut:]) if cut else (current,)
        outputs = [neurons(Signal(part, len(part)), record, "layer").value for part in parts]
        fired = jnp.concatenate(outputs)
        return (weight * fired).sum(), fired

    whole, fired = jax.grad(loss, has_aux=True)(current, 0)
    plain = unroll(LIF(0.75, 0.5, reset="soft", order=order), current)[0]
    np.testing.assert_array_equal(fired, plain)
    assert 0.1 < fired.mean() < 0.6
    expected = np.zeros((steps, 1, 3))
    for n in range(3):
        last = -999
        for t in range(steps):
            height = 0.3 * np.exp(-0.01 * (t - last)) / 0.5
            last = t if fired[t, 0, n] else last
            for s in range(t + 1 - late):
                decayed = 0.75 ** (t - late - s)
                expected[s, 0, n] += float(weight[t, 0, n]) * height * decayed
    np.testing.assert_allclose(whole, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(jax.grad(loss, has_aux=True)(current, 5)[0], whole, rtol=1e-5)


def test_stdb_needs_a_detached_reset():
    with pytest.raises(UserError, match="surrogate stdb needs neurons with detach_reset=True"):
        Neurons(timed("integrate_then_fire", detached=False))


def test_stdb_does_not_learn_through_recurrence():
    neurons = Neurons(timed("integrate_then_fire"))
    with pytest.raises(UserError, match="layer 'layer' is recurrent: surrogate stdb"):
        run(layers.Recurrent(2, 3, neurons, rngs=nnx.Rngs(0)), jnp.ones((2, 1, 2)))


# --- Pooling, reshaping, voting -------------------------------------------------------------------


def test_pools_take_windows_and_drop_what_is_left_over():
    x = jnp.arange(2 * 5 * 7 * 1.0).reshape(1, 2, 5, 7, 1)
    average, largest = run(layers.AveragePool(2), x), run(layers.MaxPool(2), x)
    assert average.value.shape == largest.value.shape == (1, 2, 2, 3, 1)
    window = np.asarray(x)[0, 1, 2:4, 4:6]
    assert float(average.value[0, 1, 1, 2, 0]) == window.mean()
    assert float(largest.value[0, 1, 1, 2, 0]) == window.max()
    assert average.events_per_unit == 4 and largest.events_per_unit == 1
    assert run(layers.AveragePool(3), average).events_per_unit == 36


@pytest.mark.parametrize("window", [2, 3])
def test_events_are_whole_numbers_of_spikes_before_pooling(window):
    dense = layers.Dense(4, 2, Neurons(LIF()), rngs=nnx.Rngs(0))
    x, record = spikes(7, 2, 2 * window, window, 2), tape()
    pooled = run(layers.Flatten(), run(layers.AveragePool(window), x))
    out = run(dense, pooled, record)
    expected = x.reshape(7, 2, 2, window, window, 2).sum((0, 3, 4)).reshape(2, -1)
    # A third is no binary fraction: whole up to rounding.
    np.testing.assert_allclose(record.activity.events["layer/kernel"], expected, rtol=1e-6)
    assert out.events_per_unit == 1


def test_events_of_a_constant_input_are_its_sum_over_time():
    dense, record = layers.Dense(3, 2, Neurons(LIF()), rngs=nnx.Rngs(0)), tape()
    values = jnp.asarray([[0.5, -1.0, 0.25]])
    run(dense, direct(values, 6), record)
    np.testing.assert_array_equal(record.activity.events["layer/kernel"], 6 * values)


def test_the_record_holds_magnitudes_of_potentials_and_spikes_behind_a_maximum():
    neurons = Neurons(LIF(0.5, 0.4))
    current = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2, 4, 6, 3)), jnp.float32)
    record = tape()
    fired = neurons(Signal(current, 5), record, "conv1")
    run(layers.MaxPool(2), fired, record, "pool1")
    potential = np.asarray(unroll(LIF(0.5, 0.4), current)[1])
    assert (potential < 0).any() and (potential > 0.4).any()
    magnitude = np.abs(potential).sum(0)
    np.testing.assert_allclose(record.activity.magnitude["conv1"], magnitude, rtol=1e-6)
    # A window fires at the steps where any of its four neurons does.
    corners = [np.asarray(fired.value)[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    pooled = np.maximum.reduce(corners).sum(0)
    assert pooled.shape == (2, 2, 3, 3) and 0 < pooled.mean() < 5
    np.testing.assert_array_equal(record.activity.pooled["pool1"], pooled)


def test_what_a_maximum_of_a_constant_input_lets_through_counts_every_step():
    record, image = tape(), jnp.arange(8.0).reshape(1, 2, 4, 1)
    assert run(layers.MaxPool(2), direct(image, 3), record).constant
    assert record.activity.pooled["layer"].ravel().tolist() == [3 * 5, 3 * 7]


def test_flattening_keeps_channels_fastest():
    x = jnp.arange(24.0).reshape(1, 1, 2, 3, 4)
    assert run(layers.Flatten(), x).value[0, 0].tolist() == list(range(24))


def test_groups_of_consecutive_neurons_vote():
    x = jnp.asarray([[[1.0, 1, 1, 0, 0, 0, 1, 0]]])
    assert run(layers.Vote(2), x).value.tolist() == [[[0.75, 0.25]]]
    assert run(layers.Vote(4), x).value.tolist() == [[[1, 0.5, 0, 0.5]]]


# --- Dropout --------------------------------------------------------------------------------------


def test_dropout_is_held_over_time_and_differs_between_samples():
    ones = jnp.ones((6, 4, 50))
    out = run(layers.Dropout(0.75), ones, tape(train=True, key=KEY)).value
    assert (out == out[:1]).all()
    assert set(np.unique(out)) == {0, 4}
    assert (out[0, 0] != out[0, 1]).any()
    # Five standard deviations of the share kept of 200.
    assert abs(float((out[0] > 0).mean()) - 0.25) < 5 * (0.1875 / 200) ** 0.5


def test_dropout_of_a_constant_input_stays_constant():
    out = run(layers.Dropout(0.5), direct(jnp.ones((2, 30)), 4), tape(train=True, key=KEY))
    assert out.constant and set(np.unique(out.value)) == {0, 2}


def test_dropout_does_nothing_in_evaluation_or_at_rate_zero():
    signal = Signal(jnp.ones((2, 1, 3)), 2)
    assert layers.Dropout(0.5)(signal, tape(), "drop") is signal
    assert layers.Dropout(0.0)(signal, tape(train=True), "drop") is signal


def test_dropout_layers_draw_apart_and_need_a_key():
    record, ones = tape(train=True, key=KEY), jnp.ones((1, 1, 100))
    first, second = (run(layers.Dropout(0.5), ones, record).value for _ in range(2))
    assert (first != second).any()
    again = run(layers.Dropout(0.5), ones, tape(train=True, key=KEY)).value
    np.testing.assert_array_equal(first, again)
    with pytest.raises(ValueError, match="pass key="):
        run(layers.Dropout(0.5), ones, tape(train=True))


# --- Chains ---------------------------------------------------------------------------------------


def test_a_chain_names_its_kernels_in_order():
    def run_chain():
        rngs = nnx.Rngs(0)
        chain = layers.Chain({
            "first": layers.Conv(1, 2, Neurons(LIF()), rngs=rngs),
            "flat": layers.Flatten(),
            "loop": layers.Recurrent(8, 3, Neurons(LIF()), rngs=rngs),
        })  # fmt: skip
        record = tape()
        out = chain(Signal(spikes(3, 2, 2, 2, 1), 3), record)
        names = ["first/kernel", "loop/kernel", "loop/recurrent"]
        assert list(chain.maps()) == list(record.activity.events) == names
        assert list(record.membranes) == list(record.activity.spikes) == ["first", "loop"]
        assert all(isinstance(membrane, Membrane) for membrane in record.membranes.values())
        # Each map, given the events and the kernel, gives a current for each neuron.
        maps, events = chain.maps(), record.activity.events
        kernels = {
            "first/kernel": chain.first.kernel[...],
            "loop/kernel": chain.loop.kernel[...],
            "loop/recurrent": chain.loop.recurrent[...],
        }
        return out.value, [maps[name](events[name], kernels[name]) for name in names]

    out, currents = jax.eval_shape(run_chain)
    assert out.shape == (3, 2, 3)
    assert [current.shape for current in currents] == [(2, 2, 2, 2), (2, 3), (2, 3)]
