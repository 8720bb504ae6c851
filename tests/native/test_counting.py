"""The native search of the highest scores against a sort, and against the one in JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import native
from jaxsnn.compress.ranking import top_count
from jaxsnn.native import convolutions

pytestmark = pytest.mark.skipif(not convolutions.available(jnp.float32), reason=native.describe())
DRAW = np.random.default_rng(0)
SCORES = {
    "normal": lambda size: DRAW.normal(size=size),
    "magnitudes": lambda size: np.abs(DRAW.normal(size=size)),
    "few values": lambda size: DRAW.integers(-3, 4, size) * 0.5,
    "zeros of both signs": lambda size: DRAW.choice([-0.0, 0.0], size),
    "close": lambda size: 1 + DRAW.integers(0, 9, size) * np.float32(2**-23),
    "wide": lambda size: DRAW.choice([-np.inf, -1e38, -1e-37, 1e-37, 1e38, np.inf], size),
}


@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("size", [1, 2, 17, 1000, 70_000])
def test_so_many_are_marked_and_they_are_the_highest(size, kind):
    scores = SCORES[kind](size).astype(np.float32)
    order = np.argsort(-scores, kind="stable")
    for count in {0, 1, size // 3, size - 1, size}:
        expected = np.zeros(size, bool)
        expected[order[:count]] = True
        np.testing.assert_array_equal(top_count(jnp.asarray(scores), count), expected)
        with convolutions.off():
            np.testing.assert_array_equal(top_count(jnp.asarray(scores), count), expected)


def test_lanes_have_counts_of_their_own():
    scores = jnp.asarray(DRAW.normal(size=(3, 8, 5)), jnp.float32)
    counts = jnp.asarray([0, 7, 40])
    together = jax.jit(jax.vmap(top_count))(scores, counts)
    same = jax.vmap(top_count, (None, 0))(scores[0], counts)
    for lane, count in enumerate((0, 7, 40)):
        np.testing.assert_array_equal(together[lane], top_count(scores[lane], count))
        np.testing.assert_array_equal(same[lane], top_count(scores[0], count))


def test_bfloat16_is_ranked_by_what_is_stored():
    scores = jnp.asarray(DRAW.normal(size=500), jnp.bfloat16)
    found = top_count(scores, 100)
    np.testing.assert_array_equal(found, top_count(scores.astype(jnp.float32), 100))
    assert int(found.sum()) == 100


def test_a_derivative_passes_by():
    def kept(x):
        return jnp.sum(jnp.where(top_count(jnp.abs(x), 2), x, 0.0))

    np.testing.assert_array_equal(jax.grad(kept)(jnp.asarray([1.0, -3.0, 2.0])), [0, 1, 1])
