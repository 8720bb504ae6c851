"""The highest scores against a sort, ties included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxsnn import arrays
from jaxsnn.compress import ranking

few_values = st.sampled_from([-np.inf, -2.0, -1e-30, -0.0, 0.0, 0.5, 1.0, 3e38, np.inf])


@given(hnp.arrays(np.float32, (6,), elements=few_values), st.floats(0, 1, width=16))
@settings(deadline=None, max_examples=100)
def test_top_fraction_agrees_with_sorting_and_breaks_ties_by_index(scores, sparsity):
    count = arrays.keep_count(sparsity, scores.size)
    order = sorted(range(scores.size), key=lambda i: (-scores[i], i))
    expected = np.isin(np.arange(scores.size), order[:count])
    mask = jax.jit(ranking.top_fraction)(scores, sparsity)
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int8])
def test_top_fraction_keeps_the_shape_for_every_type_of_score(dtype):
    scores = jnp.asarray([[1, -5], [3, 2]], dtype)
    assert ranking.top_fraction(scores, 0.5).tolist() == [[False, False], [True, True]]


def test_top_count_agrees_with_ranks_on_many_scores():
    scores = np.random.default_rng(0).integers(-9, 9, 3000).astype(np.float32)
    np.testing.assert_array_equal(ranking.top_count(scores, 1234), arrays.ranks(scores) < 1234)
