"""Schedules against their formulas, at the ends and outside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn.compress import schedules
from jaxsnn.errors import UserError


def test_steps_change_at_their_boundaries():
    schedule = schedules.steps([1.0, 10.0, 100.0], [3, 6])
    found = jax.jit(jax.vmap(schedule))(jnp.arange(9))
    np.testing.assert_array_equal(found, [1, 1, 1, 10, 10, 10, 100, 100, 100])
    assert schedules.steps([5.0], [])(jnp.asarray(7)) == 5


def test_cubic_sparsity_follows_zhu_and_gupta():
    schedule = schedules.cubic_sparsity(0.1, 0.9, 10, 20)
    t = np.asarray([0, 10, 12, 15, 20, 99])
    expected = 0.9 - 0.8 * (1 - np.clip((t - 10) / 10, 0, 1)) ** 3
    np.testing.assert_allclose(jax.vmap(schedule)(jnp.asarray(t)), expected, rtol=1e-6)


def test_linear_ramp_is_straight_and_flat_outside():
    schedule = schedules.linear_ramp(4.0, 2.0, 2, 6)
    found = jax.vmap(schedule)(jnp.arange(9))
    np.testing.assert_allclose(found, [4, 4, 4, 3.5, 3, 2.5, 2, 2, 2], rtol=1e-6)


def test_values_may_be_traced():
    swept = jax.vmap(lambda final: schedules.cubic_sparsity(0.0, final, 0, 2)(1))(jnp.ones(2) / 2)
    np.testing.assert_allclose(swept, 0.5 * (1 - 0.125), rtol=1e-6)
    swept = jax.vmap(lambda value: schedules.steps([value, 0.0], [2])(1))(jnp.arange(3.0))
    np.testing.assert_array_equal(swept, [0, 1, 2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.steps([1.0], [1]), "one value more than boundaries"),
        (lambda: schedules.steps([1.0, 2.0, 3.0], [5, 2]), "must rise"),
        (lambda: schedules.cubic_sparsity(0, 1.5, 0, 1), r"final sparsity must be in \[0, 1\]"),
        (lambda: schedules.linear_ramp(0, 1, 5, 5), "0 <= begin < end"),
    ],
)
def test_impossible_schedules_are_errors(make, message):
    with pytest.raises(UserError, match=message):
        make()
