"""Layers without weights, and what they do to the events that are counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

from jaxsnn import layers
from jaxsnn.encode import Signal, direct
from jaxsnn.errors import UserError
from jaxsnn.layers import Integrator, Neurons, Tape
from jaxsnn.layers.layer import named
from jaxsnn.native import convolutions
from jaxsnn.neurons import LIF, unroll

KEY = jax.random.key(0)


def spikes(*shape, seed=0, rate=0.4):
    """Return random spikes `[T, B, ...]`."""
    return jnp.asarray(np.random.default_rng(seed).random(shape) < rate, jnp.float32)


def run(layer, value, record=None, name="layer"):
    signal = value if isinstance(value, Signal) else Signal(value, value.shape[0])
    layer.name = name
    return layer(signal, record or Tape())


def test_pools_take_windows_and_drop_what_is_left_over():
    x = jnp.arange(2 * 5 * 7 * 1.0).reshape(1, 2, 5, 7, 1)
    average, largest = run(layers.AveragePool(2), x), run(layers.MaxPool(2), x)
    assert average.value.shape == largest.value.shape == (1, 2, 2, 3, 1)
    window = np.asarray(x)[0, 1, 2:4, 4:6]
    assert float(average.value[0, 1, 1, 2, 0]) == window.mean()
    assert float(largest.value[0, 1, 1, 2, 0]) == window.max()
    assert average.events_per_unit == 4 and largest.events_per_unit == 1
    assert run(layers.AveragePool(3), average).events_per_unit == 36


def slope_by_hand(x, cotangent, size, ties):
    """Return the gradient of a max pooling, window by window."""
    gradient = np.zeros_like(x)
    for n, row, column, channel in np.ndindex(cotangent.shape):
        at = (n, slice(row * size, (row + 1) * size), slice(column * size, (column + 1) * size))
        window = x[(*at, channel)]
        hits = np.argwhere(window == window.max())
        share = cotangent[n, row, column, channel]
        for i, j in hits[:1] if ties == "first" else hits:
            each = share if ties == "first" else share / len(hits)
            gradient[n, row * size + i, column * size + j, channel] += each
    return gradient


@pytest.mark.long
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("size", "ties"), [(2, "first"), (3, "first"), (2, "shared")])
def test_the_gradient_of_a_tie_goes_to_the_first_or_to_all_in_equal_shares(size, ties, dtype):
    """On spikes and on real values, with rows and columns left over."""
    draw = np.random.default_rng(0)
    for x in (draw.integers(0, 2, (2, 5, 7, 3)), draw.integers(-2, 3, (2, 5, 7, 3)) / 2):
        x = jnp.asarray(x, dtype)[None]
        pooled, pull = jax.vjp(lambda x: run(layers.MaxPool(size, ties), x).value, x)
        cotangent = jnp.asarray(2.0 ** draw.integers(-2, 3, pooled.shape), dtype)
        expected = slope_by_hand(
            np.asarray(x[0], np.float32), np.asarray(cotangent[0], np.float32), size, ties
        )
        found = pull(cotangent)[0]
        assert found.dtype == pooled.dtype == dtype
        # A third has no end in binary, and 8 digits in bfloat16.
        rtol = 2.0**-8 if dtype == jnp.bfloat16 else 1e-6
        np.testing.assert_allclose(np.asarray(found[0], np.float32), expected, rtol=rtol)
        other = run(layers.MaxPool(size, "shared"), x).value
        np.testing.assert_array_equal(pooled, other)


@pytest.mark.parametrize("ties", ["first", "shared"])
def test_a_maximum_has_tangents_second_derivatives_and_gradients_of_what_is_no_number(ties):
    distinct = np.random.default_rng(1).permutation(96).reshape(1, 2, 4, 4, 3)
    x = jnp.asarray(distinct / 48 - 1, jnp.float32)

    def cubed(x):
        return (run(layers.MaxPool(2, ties), x).value ** 3).sum()

    with convolutions.off():  # our own code knows first derivatives alone
        check_grads(cubed, (x,), order=2, rtol=1e-2)
    slope = jax.grad(lambda x: run(layers.MaxPool(2, ties), x).value.sum())
    broken = slope(x.at[0, 0, 1, 0, 0].set(jnp.nan))
    if ties == "first":
        assert broken[0, 0, :2, :2, 0].tolist() == [[0, 0], [1, 0]]
    np.testing.assert_array_equal(broken[..., 1:], slope(x)[..., 1:])


def test_a_maximum_hands_on_what_is_no_number_and_knows_two_kinds_of_ties():
    x = jnp.asarray([jnp.nan, 1, 2, 0, 0, 1, jnp.nan, 0]).reshape(1, 1, 2, 4, 1)
    assert np.isnan(run(layers.MaxPool(2), x).value).all()
    with pytest.raises(UserError, match="ties 'last' are unknown; choose one of first, shared"):
        layers.MaxPool(2, "last")


@pytest.mark.long
def test_behind_an_average_pooling_arrivals_are_the_steps_with_an_input():
    chain = named(layers.Chain({
        "pool1": layers.AveragePool(2), "flatten1": layers.Flatten(),
        "dense1": layers.Dense(1, 2, neurons=Integrator(), rngs=nnx.Rngs(0)),
    }))  # fmt: skip
    steps = jnp.asarray([[1, 1, 0, 0], [0, 0, 0, 0], [0, -1, 1, 1]], jnp.float32)
    record = Tape()
    chain(Signal(steps.reshape(3, 1, 2, 2, 1), 3), record)
    assert record.activity.arrivals["dense1/kernel"].tolist() == [[2.0]]
    assert record.activity.events["dense1/kernel"].tolist() == [[3.0]]
    plain = Tape()
    run(layers.Dense(4, 2, neurons=Integrator(), rngs=nnx.Rngs(0)), steps[:, None], plain)
    assert plain.activity.arrivals == {}


@pytest.mark.long
@pytest.mark.parametrize("window", [2, 3])
def test_events_are_whole_numbers_of_spikes_before_pooling(window):
    dense = layers.Dense(4, 2, neurons=Neurons(LIF()), rngs=nnx.Rngs(0))
    x, record = spikes(7, 2, 2 * window, window, 2), Tape()
    pooled = run(layers.Flatten(), run(layers.AveragePool(window), x))
    out = run(dense, pooled, record)
    expected = x.reshape(7, 2, 2, window, window, 2).sum((0, 3, 4)).reshape(2, -1)
    # A third is no binary fraction: whole up to rounding.
    np.testing.assert_allclose(record.activity.events["layer/kernel"], expected, rtol=1e-6)
    assert out.events_per_unit == 1


def test_events_of_a_constant_input_are_its_sum_over_time():
    dense, record = layers.Dense(3, 2, neurons=Neurons(LIF()), rngs=nnx.Rngs(0)), Tape()
    values = jnp.asarray([[0.5, -1.0, 0.25]])
    run(dense, direct(values, 6), record)
    np.testing.assert_array_equal(record.activity.events["layer/kernel"], 6 * values)


@pytest.mark.long
def test_the_record_holds_magnitudes_of_potentials_and_spikes_behind_a_maximum():
    neurons = Neurons(LIF(0.5, 0.4))
    current = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2, 4, 6, 3)), jnp.float32)
    record = Tape()
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
    record, image = Tape(), jnp.arange(8.0).reshape(1, 2, 4, 1)
    assert run(layers.MaxPool(2), direct(image, 3), record).constant
    assert record.activity.pooled["layer"].ravel().tolist() == [3 * 5, 3 * 7]


def test_flattening_keeps_channels_fastest():
    x = jnp.arange(24.0).reshape(1, 1, 2, 3, 4)
    assert run(layers.Flatten(), x).value[0, 0].tolist() == list(range(24))


def test_groups_of_consecutive_neurons_vote():
    x = jnp.asarray([[[1.0, 1, 1, 0, 0, 0, 1, 0]]])
    assert run(layers.Vote(2), x).value.tolist() == [[[0.75, 0.25]]]
    assert run(layers.Vote(4), x).value.tolist() == [[[1, 0.5, 0, 0.5]]]


@pytest.mark.long
def test_dropout_is_held_over_time_and_differs_between_samples():
    ones = jnp.ones((6, 4, 50))
    out = run(layers.Dropout(0.75), ones, Tape(train=True, key=KEY)).value
    assert (out == out[:1]).all()
    assert set(np.unique(out)) == {0, 4}
    assert (out[0, 0] != out[0, 1]).any()
    # Five standard deviations of the share kept of 200.
    assert abs(float((out[0] > 0).mean()) - 0.25) < 5 * (0.1875 / 200) ** 0.5


def test_dropout_of_a_constant_input_stays_constant():
    out = run(layers.Dropout(0.5), direct(jnp.ones((2, 30)), 4), Tape(train=True, key=KEY))
    assert out.constant and set(np.unique(out.value)) == {0, 2}


def test_dropout_does_nothing_in_evaluation_or_at_rate_zero():
    signal = Signal(jnp.ones((2, 1, 3)), 2)
    assert run(layers.Dropout(0.5), signal) is signal
    assert run(layers.Dropout(0.0), signal, Tape(train=True)) is signal


def test_dropout_layers_draw_apart_and_need_a_key():
    record, ones = Tape(train=True, key=KEY), jnp.ones((1, 1, 100))
    first, second = (run(layers.Dropout(0.5), ones, record).value for _ in range(2))
    assert (first != second).any()
    again = run(layers.Dropout(0.5), ones, Tape(train=True, key=KEY)).value
    np.testing.assert_array_equal(first, again)
    with pytest.raises(ValueError, match="pass key="):
        run(layers.Dropout(0.5), ones, Tape(train=True))
