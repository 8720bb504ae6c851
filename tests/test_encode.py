"""Encodings, and the signal that flows between layers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import encode
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError

KEY = jax.random.key(0)


def test_direct_coding_is_kept_as_one_copy():
    values = jnp.arange(6.0).reshape(2, 3)
    signal = encode.direct(values, 5)
    assert signal.constant and signal.timesteps == 5 and signal.value is values
    assert signal.over_time().shape == (5, 2, 3)
    np.testing.assert_array_equal(signal.total(), signal.over_time().sum(0))


def test_a_function_is_folded_over_time_once():
    shapes = []

    def double(x):
        shapes.append(x.shape)
        return jnp.concatenate([x, x], -1)

    values = jnp.arange(24.0).reshape(4, 2, 3)
    moving = Signal(values, 4, events_per_unit=4).fold(double)
    still = encode.direct(values[0], 4).fold(double)
    assert shapes == [(8, 3), (2, 3)]
    np.testing.assert_array_equal(moving.value, jnp.concatenate([values, values], -1))
    assert moving.events_per_unit == 4 and moving.value.shape == (4, 2, 6)
    assert still.constant and still.value.shape == (2, 6)


def test_a_signal_passes_through_transformations():
    signal = encode.direct(jnp.ones((2, 3)), 4)
    doubled = jax.jit(lambda s: jax.tree.map(lambda x: 2 * x, s))(signal)
    assert isinstance(doubled, Signal) and doubled.constant and doubled.timesteps == 4
    assert doubled.total().tolist() == [[8] * 3] * 2


def test_bernoulli_never_fires_at_zero_and_always_at_one():
    values = jnp.asarray([[0.0, 1.0, 0.25]])
    spikes = encode.bernoulli(KEY, values, 20_000)
    assert spikes.shape == (20_000, 1, 3) and spikes.dtype == jnp.float32
    assert set(np.unique(spikes)) == {0, 1}
    # Five standard deviations of a mean of n draws.
    np.testing.assert_allclose(spikes.mean(0)[0], [0, 1, 0.25], atol=5 * (0.1875 / 2e4) ** 0.5)
    assert spikes[:, 0, 0].sum() == 0 and spikes[:, 0, 1].sum() == 20_000


def test_draws_differ_between_steps_and_repeat_for_a_key():
    values = jnp.full((1, 64), 0.5)
    spikes = encode.bernoulli(KEY, values, 2)
    assert (spikes[0] != spikes[1]).any()
    np.testing.assert_array_equal(spikes, encode.bernoulli(KEY, values, 2))
    assert (spikes != encode.bernoulli(jax.random.key(1), values, 2)).any()


@pytest.mark.long
def test_signed_poisson_trace():
    """0 never fires, +1 and -1 always with their sign; the mean of -0.3 is -0.3 +- 0.005."""
    spikes = encode.signed_poisson(KEY, jnp.asarray([0.0, 1.0, -1.0, -0.3]), 100_000)
    assert spikes[:, 0].any() == False  # noqa: E712, an array
    assert (spikes[:, 1] == 1).all() and (spikes[:, 2] == -1).all()
    assert set(np.unique(spikes[:, 3])) == {-1, 0}
    # Standard deviation of the mean is 0.00145; 0.005 is more than three of them.
    assert float(spikes[:, 3].mean()) == pytest.approx(-0.3, abs=0.005)


def test_latency_places_one_spike_the_earlier_the_larger():
    spikes = encode.latency(jnp.asarray([[1.0, 0.75, 0.5, 0.25, 1e-6, 0.0]]), 5)
    expected = np.eye(5)[[0, 1, 2, 3, 4, 4]].T
    expected[:, 5] = 0
    np.testing.assert_array_equal(spikes[:, 0], expected)
    assert encode.latency(jnp.asarray([[0.3, 0.0]]), 1).tolist() == [[[1, 0]]]


@pytest.mark.parametrize("timesteps", [0, -1, 2.5, float("nan")])
def test_impossible_timesteps_are_errors(timesteps):
    values = jnp.ones((1, 2))
    with pytest.raises(UserError, match="timesteps must be"):
        encode.direct(values, timesteps)
    with pytest.raises(UserError, match="timesteps must be"):
        encode.bernoulli(KEY, values, timesteps)
    with pytest.raises(UserError, match="timesteps must be"):
        encode.signed_poisson(KEY, values, timesteps)
    with pytest.raises(UserError, match="timesteps must be"):
        encode.latency(values, timesteps)


@pytest.mark.parametrize("draw", [
    partial(encode.bernoulli, KEY), partial(encode.signed_poisson, KEY), encode.latency,
])  # fmt: skip
def test_pixels_that_nobody_scaled_are_refused(draw):
    with pytest.raises(UserError, match=r"floats on the scale of \[0, 1\], found uint8: divide"):
        draw(jnp.ones((1, 2), jnp.uint8), 3)


def test_direct_coding_takes_whole_numbers_as_real_ones():
    signal = encode.direct(np.full((1, 2), 200, np.uint8), 4)
    assert signal.analog and signal.total().tolist() == [[800.0, 800.0]]
