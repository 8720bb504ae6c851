"""Draws are those of JAX, number for number, whatever the shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import draws

KEY = jax.random.key(7)


@pytest.mark.long
@pytest.mark.parametrize("shape", [(1,), (5, 3, 2), (1024,), (1025,), (0,)])
def test_they_are_the_numbers_of_jax(shape):
    bound = np.float32(7.3**-0.5)
    expected = jax.random.uniform(KEY, shape, jnp.float32, -bound, bound)
    np.testing.assert_array_equal(draws.uniform(KEY, shape, -bound, bound), expected)
    expected = 0.3 * jax.random.normal(KEY, shape)
    np.testing.assert_array_equal(draws.normal(KEY, shape, 0.3), expected)
    np.testing.assert_array_equal(draws.bits(KEY, shape[0]), jax.random.bits(KEY, shape[:1]))


def test_shapes_of_one_size_share_a_program():
    draws.normal(KEY, (600,))
    programs = draws._normal._cache_size()
    for shape in [(31, 33), (2, 3, 5), (1024,)]:
        draws.normal(KEY, shape)
    assert draws._normal._cache_size() == programs


def test_they_are_drawn_inside_a_program_too():
    inside = jax.jit(lambda key: draws.uniform(key, (2, 3), 0.0, 1.0))(KEY)
    np.testing.assert_array_equal(inside, draws.uniform(KEY, (2, 3), 0.0, 1.0))


def test_the_older_generator_draws_by_shape():
    with jax.threefry_partitionable(False):
        expected = jax.random.normal(KEY, (3, 5))
        np.testing.assert_array_equal(draws.normal(KEY, (3, 5)), expected)
