"""Ranges, exact counts, safe division and straight-through derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsnn import arrays
from jaxsnn.errors import UserError


@pytest.mark.parametrize("value", [0.0, 0.5, np.float32(0.9), jnp.asarray([0.1, 0.2])])
def test_values_in_range_are_returned(value):
    assert arrays.check_range("sparsity", value, 0, 1, open_high=True) is value


@pytest.mark.parametrize("value", [-0.1, 1.0, 1.5, float("nan"), [0.5, 2.0], None, "much"])
def test_values_out_of_range_are_named_with_value_and_interval(value):
    with pytest.raises(UserError, match=r"sparsity must be .*\[0, 1\), found"):
        arrays.check_range("sparsity", value, 0, 1, open_high=True)


def test_open_ends_exclude_the_ends():
    with pytest.raises(UserError, match=r"rate must be in \(0, 1\], found 0"):
        arrays.check_range("rate", 0, 0, 1, open_low=True)
    assert arrays.check_range("rate", 1, 0, 1, open_low=True) == 1


def test_checks_let_tracers_through():
    def checked(value):
        return arrays.check_whole("x", arrays.check_range("x", value, 0, 1), 0, 1)

    assert jax.jit(checked)(5.5) == 5.5


def test_fractions_are_not_whole():
    assert arrays.check_whole("bits", 3, 2, 8) == 3
    with pytest.raises(UserError, match=r"bits must be a whole number, found 2.5"):
        arrays.check_whole("bits", 2.5, 2, 8)
    with pytest.raises(UserError, match=r"bits must be in \[2, 8\], found 0"):
        arrays.check_whole("bits", 0, 2, 8)


def test_short_types_are_widened_and_wide_ones_kept():
    assert arrays.at_least_float32(jnp.zeros(1, jnp.bfloat16)).dtype == jnp.float32
    assert arrays.at_least_float32(jnp.zeros(1, bool)).dtype == jnp.float32


@given(st.floats(0, 1, width=32), st.integers(1, 10**6))
@settings(deadline=None, max_examples=100)
def test_traced_and_concrete_sparsities_keep_the_same_count(sparsity, size):
    traced = jax.vmap(lambda s: arrays.keep_count(s, size))(jnp.asarray([sparsity]))[0]
    assert traced == arrays.keep_count(sparsity, size)


@pytest.mark.parametrize(
    ("sparsity", "size", "count"), [(0, 7, 7), (1, 7, 0), (0.5, 7, 4), (0.98, 1000, 20)]
)
def test_counts_are_rounded(sparsity, size, count):
    assert arrays.keep_count(sparsity, size) == count


def test_ranks_are_positions_in_stable_descending_order():
    assert arrays.ranks(jnp.asarray([1.0, 3.0, 1.0, 3.0, 2.0])).tolist() == [3, 0, 4, 1, 2]
    assert arrays.ranks(jnp.asarray([[1, 2], [2, 1]])).tolist() == [[1, 0], [0, 1]]


def test_division_by_zero_is_zero_with_zero_gradient():
    a, b = jnp.asarray([1.0, 0.0, 6.0]), jnp.asarray([0.0, 0.0, 3.0])
    np.testing.assert_array_equal(arrays.safe_divide(a, b), [0, 0, 2])
    da, db = jax.grad(lambda a, b: arrays.safe_divide(a, b).sum(), (0, 1))(a, b)
    np.testing.assert_allclose(da, [0, 0, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(db, [0, 0, -2 / 3], rtol=1e-6)


def test_straight_through_gives_one_value_and_the_other_gradient():
    x = jnp.asarray([0.1, 0.7])
    value, gradient = jax.value_and_grad(
        lambda x: (arrays.straight_through(jnp.round(x), x) * jnp.asarray([2.0, 3.0])).sum()
    )(x)
    assert value == 3.0
    np.testing.assert_array_equal(gradient, [2, 3])
    other = jax.grad(lambda f: arrays.straight_through(f, x).sum())(x)
    np.testing.assert_array_equal(other, [0, 0])


@pytest.mark.parametrize("steps", [0, 1, 3, 16, 17])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32])
def test_a_sum_over_time_is_exact_however_many_steps(steps, dtype):
    """Written out up to 16 steps, and a product behind."""
    random = np.random.default_rng(steps)
    x = jnp.asarray(random.integers(0, 3, (steps, 4, 5)), dtype)
    total = arrays.sum_over_time(x)
    assert total.dtype == (jnp.float32 if dtype == jnp.bfloat16 else dtype)
    np.testing.assert_array_equal(total, np.asarray(x, np.float64).sum(0))
    counted = jnp.arange(steps) % 2
    np.testing.assert_array_equal(
        arrays.sum_over_time(x, counted), np.asarray(x[1::2], float).sum(0)
    )
    if dtype == jnp.float32:
        wave = jnp.cos(jnp.arange(20.0)).reshape(4, 5)
        slope = jax.grad(lambda x: jnp.vdot(arrays.sum_over_time(x), wave))(x)
        np.testing.assert_allclose(slope, jnp.broadcast_to(wave, x.shape), rtol=1e-6)
