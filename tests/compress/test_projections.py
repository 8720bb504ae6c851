"""Sparse sets, composition and recipes: worked examples, and the laws of projections."""

import itertools

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsnn import arrays
from jaxsnn.compress import grids
from jaxsnn.compress import projections as pr
from jaxsnn.errors import UserError

PRUNE = jnp.asarray([0.3, -0.1, 0.05, -0.8, 0.2, 0])

# Multiples of 1/64: exact in float32, with many ties and zeros.
leaves = hnp.arrays(np.float32, (6,), elements=st.integers(-800, 800).map(lambda n: n / 64))
laws = settings(deadline=None, max_examples=60)


def test_keep_largest_keeps_the_two_largest_of_six():
    out = pr.keep_largest(4 / 6)(PRUNE)
    np.testing.assert_array_equal(out, np.float32([0.3, 0, 0, -0.8, 0, 0]))
    np.testing.assert_allclose(jnp.sum((PRUNE - out) ** 2), 0.0525, rtol=1e-6)


def test_percentile_rule_cuts_below_the_interpolated_quantile():
    out = pr.percentile_keep(0.5)(PRUNE)  # threshold 0.15
    np.testing.assert_array_equal(out, np.float32([0.3, 0, 0, -0.8, 0.2, 0]))
    np.testing.assert_array_equal(pr.percentile_keep(0.0)(PRUNE), PRUNE)
    np.testing.assert_array_equal(pr.percentile_keep(1.0)(PRUNE)[3], PRUNE[3])
    assert jnp.count_nonzero(pr.percentile_keep(1.0)(PRUNE)) == 1


def test_percentile_rule_lets_all_ties_survive_where_the_exact_count_does_not():
    ones = jnp.ones(10)
    assert jnp.count_nonzero(pr.percentile_keep(0.9)(ones)) == 10
    assert jnp.count_nonzero(pr.keep_largest(0.9)(ones)) == 1


@pytest.mark.parametrize(
    ("size", "sparsity", "kept"),
    [(288, 0.83, 49), (9216, 0.92, 738), (200704, 0.991, 1807), (1280, 0.93, 90)],
)
def test_percentile_rule_reproduces_the_counts_of_the_released_network(size, sparsity, kept):
    leaf = np.random.default_rng(size).normal(size=size).astype(np.float32)
    assert np.count_nonzero(jax.jit(pr.percentile_keep(sparsity))(leaf)) == kept


@jax.jit
def largest(sparsity, leaf):
    return pr.keep_largest(sparsity)(leaf)


@given(leaves, st.sampled_from([0.0, 0.2, 0.5, 0.8, 0.95, 1.0]))
@laws
def test_keep_largest_is_the_nearest_point_with_an_exact_count(leaf, sparsity):
    out = np.asarray(largest(sparsity, leaf))
    k = arrays.keep_count(sparsity, leaf.size)
    assert np.count_nonzero(out) == min(k, np.count_nonzero(leaf))
    assert set(out[out != 0]) <= set(leaf)
    np.testing.assert_array_equal(largest(sparsity, out), out)
    best = min(
        np.sum(np.delete(leaf.astype(np.float64), chosen) ** 2)
        for chosen in map(list, itertools.combinations(range(leaf.size), k))
    )
    np.testing.assert_allclose(np.sum((leaf.astype(np.float64) - out) ** 2), best, rtol=1e-12)


@pytest.mark.parametrize("project", [pr.keep_largest(0.5), pr.percentile_keep(0.5)])
def test_pruning_is_equivariant_under_scale_sign_and_permutation(project):
    project, draw = jax.jit(project), np.random.default_rng(0)
    leaf = draw.normal(size=24).astype(np.float32)
    permutation = draw.permutation(24)
    projected = np.asarray(project(leaf))
    np.testing.assert_array_equal(project(4 * leaf), 4 * projected)
    np.testing.assert_array_equal(project(-leaf), -projected)
    np.testing.assert_array_equal(project(leaf[permutation]), projected[permutation])


def test_counts_are_exact_when_all_scores_are_equal():
    out = pr.keep_largest(0.75)(jnp.ones((4, 5)))
    assert jnp.count_nonzero(out) == 5
    np.testing.assert_array_equal(out[0], jnp.ones(5))


def test_other_scores_choose_other_weights():
    out = pr.keep_largest(0.5, scores=lambda w: -jnp.abs(w))(PRUNE)
    assert (out != 0).tolist() == [False, True, True, False, False, False]


def test_on_mask_zeroes_the_outside_and_accepts_broadcast_masks():
    leaf = jnp.ones((2, 3))
    out = pr.on_mask(jnp.asarray([[True, False, True]]))(leaf)
    assert out.tolist() == [[1, 0, 1], [1, 0, 1]]
    np.testing.assert_array_equal(pr.on_mask(True)(leaf), leaf)


def test_traced_sparsities_give_the_masks_of_concrete_ones():
    leaf = jax.random.normal(jax.random.key(1), (25,))
    sparsities = [0.5, 0.9]
    for make in (pr.keep_largest, pr.percentile_keep):
        swept = jax.jit(jax.vmap(lambda s, make=make: make(s)(leaf)))(jnp.asarray(sparsities))
        for sparsity, row in zip(sparsities, swept, strict=True):
            np.testing.assert_array_equal(row, jax.jit(make(sparsity))(leaf))


def test_compose_applies_from_left_to_right_and_fits_on_the_last_grid():
    prune, grid = pr.keep_largest(0.5), grids.binary_grid(keep_zeros=True)
    both = pr.compose(prune, grid)
    np.testing.assert_array_equal(both(PRUNE), grid(prune(PRUNE)))
    assert not jnp.array_equal(both(PRUNE), pr.compose(grid, prune)(PRUNE))
    np.testing.assert_array_equal(pr.quantize(both, PRUNE).decode(), both(PRUNE))
    with pytest.raises(UserError, match="no grid"):
        pr.quantize(pr.compose(grid, prune), PRUNE)
    with pytest.raises(UserError, match="at least one"):
        pr.compose()


def test_project_touches_the_matched_leaves_only():
    params = {"conv1": {"kernel": PRUNE, "bias": PRUNE}}
    out = pr.project(params, {"*/kernel": pr.keep_largest(0.5)})
    assert jnp.count_nonzero(out["conv1"]["kernel"]) == 3
    assert out["conv1"]["bias"] is PRUNE


@pytest.mark.long
def test_restrict_puts_the_mask_first():
    other = jnp.asarray([1, 0.8, -0.9, 0.1, -0.05])
    params = {"a": {"kernel": PRUNE}, "b": {"kernel": other}}
    masks = {"a": {"kernel": PRUNE > 0}, "b": {"kernel": jnp.asarray(True)}}
    out = pr.project(params, pr.restrict({"*": grids.binary_grid(keep_zeros=True)}, masks))
    np.testing.assert_allclose(out["a"]["kernel"], 0.55 / 3 * (PRUNE > 0), rtol=1e-6)
    np.testing.assert_array_equal(out["b"]["kernel"], grids.binary_grid()(other))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pr.keep_largest(1.5), r"sparsity must be in \[0, 1\], found 1.5"),
        (lambda: pr.percentile_keep(float("nan")), r"sparsity must be in .* found nan"),
        (lambda: grids.uniform_grid(1), r"bits must be in \[2, 16\], found 1"),
        (lambda: grids.symmetric_uniform(0), r"bits must be in \[2, 16\], found 0"),
        (lambda: grids.pow2_grid(7), r"bits must be in \[2, 6\], found 7"),
        (lambda: grids.uniform_grid(2.5), r"bits must be a whole number, found 2.5"),
        (lambda: grids.symmetric_uniform(4, quantile=99.9), r"quantile must be in \(0, 1\]"),
    ],
)
def test_numbers_out_of_range_are_errors_at_once(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(
    ("projection", "message"),
    [
        (pr.keep_largest(0.95), r"sparsity 0.95 would empty 'out/kernel' \(6 weights\); use less"),
        (pr.compose(pr.keep_largest(1), grids.ternary_grid()), r"would empty 'out/kernel'"),
        (pr.on_mask(jnp.ones(4, bool)), r"mask of 'out/kernel' has shape \(4,\)"),
    ],
)
def test_a_projection_that_does_not_suit_its_leaf_names_the_leaf(projection, message):
    params = {"out": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}
    with pytest.raises(UserError, match=message):
        pr.resolve({"*/kernel": projection}, params)
