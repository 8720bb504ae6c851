"""Grids: worked examples, and the laws that every grid obeys."""

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsnn import arrays
from jaxsnn.compress import fitting, grids
from jaxsnn.compress.projections import quantize


def fit_of(grid):
    """Return `leaf -> (scale, levels)` of a grid."""

    def fit(leaf):
        found = quantize(grid, leaf)
        return found.scale, found.codes

    return fit


def nearest_of(grid):
    """Return `V / alpha -> levels` of a grid."""
    return lambda v: grid.nearest(v, jnp.asarray(grid.top, v.dtype))


V = jnp.asarray([1, 0.8, -0.9, 0.1, -0.05])

# Multiples of 1/64: exact in float32, with many ties and zeros.
leaves = hnp.arrays(np.float32, (6,), elements=st.integers(-800, 800).map(lambda n: n / 64))
laws = settings(deadline=None, max_examples=60)

GRIDS = {
    "binary": (grids.binary_grid(), [-1, 1]),
    "ternary": (grids.ternary_grid(), [-1, 0, 1]),
    "uniform 2": (grids.uniform_grid(2), [-1, 0, 1]),
    "uniform 3": (grids.uniform_grid(3), range(-3, 4)),
    "pow2 3": (grids.pow2_grid(3), [-4, -2, -1, 0, 1, 2, 4]),
    "pow2 4": (grids.pow2_grid(4), [0, *(s * 2**e for e in range(7) for s in (-1, 1))]),
    "symmetric 4": (grids.symmetric_uniform(4), range(-7, 8)),
}
FITS = {name: jax.jit(fit_of(grid)) for name, (grid, _) in GRIDS.items()}
each_grid = pytest.mark.parametrize("name", GRIDS)


def objective(leaf, fit):
    """The squared distance, in float64: float32 sums would blur `never rises`."""
    leaf, scale, levels = (np.asarray(x, np.float64) for x in (leaf, *fit))
    return np.sum((leaf - scale * levels) ** 2)


def test_ternary_fit_of_five_weights():
    scale, levels = fit_of(grids.ternary_grid())(V)
    assert levels.tolist() == [1, 1, -1, 0, 0]
    np.testing.assert_allclose(scale, 0.9, rtol=1e-6)
    np.testing.assert_allclose(objective(V, (scale, levels)), 0.0325, rtol=1e-5)


def test_ternary_fit_from_the_mean_takes_a_worse_path_to_the_same_point():
    def from_mean(sweeps):
        nearest = grids.ternary_grid().nearest
        return grids.Grid(
            nearest, 1, 2, sweeps=sweeps, first=lambda *_: jnp.mean(V, keepdims=True)
        ).quantize(V)

    first = from_mean(0)
    assert first.codes.tolist() == [1, 1, -1, 1, 0]
    np.testing.assert_allclose(first.scale, 0.19, rtol=1e-6)
    refit = fitting.best_scale(V, first.codes)
    np.testing.assert_allclose(refit, 0.7, rtol=1e-6)
    np.testing.assert_allclose(objective(V, (refit, first.codes)), 0.5025, rtol=1e-5)
    assert from_mean(2).codes.tolist() == [1, 1, -1, 0, 0]
    np.testing.assert_allclose(from_mean(2).scale, 0.9, rtol=1e-6)


def test_binary_fit_of_five_weights():
    fit = grids.binary_grid().quantize(V)
    assert fit.codes.tolist() == [1, 1, -1, 1, -1]
    np.testing.assert_allclose(fit.scale, 0.57, rtol=1e-6)
    np.testing.assert_allclose(objective(V, (fit.scale, fit.codes)), 0.838, rtol=1e-5)


@pytest.mark.long
def test_power_of_two_fit_of_five_weights():
    leaf = jnp.asarray([4.1, 2.2, -0.9, 0.1, -1.8])
    fit = grids.pow2_grid(3).quantize(leaf)
    assert fit.codes.tolist() == [4, 2, -1, 0, -2]
    np.testing.assert_allclose(fit.scale, 1.012, rtol=1e-6)
    np.testing.assert_allclose(objective(leaf, (fit.scale, fit.codes)), 0.1064, rtol=1e-4)


@pytest.mark.parametrize(
    ("bits", "expected"),
    [(5, [1 / 3, -1, 8 / 15, 0]), (3, [1 / 3, -1, 2 / 3, 0]), (2, [0, -1, 0, 0])],
)
def test_post_training_quantizer_of_four_weights(bits, expected):
    leaf = jnp.asarray([0.31, -1, 0.5, 0.02])
    out = grids.symmetric_uniform(bits)(leaf)
    np.testing.assert_allclose(out, expected, rtol=1e-6)
    half_step = 0.5 / (2 ** (bits - 1) - 1)
    assert jnp.max(jnp.abs(out - leaf)) <= half_step + 1e-6
    np.testing.assert_array_equal(grids.symmetric_uniform(bits)(-leaf), -out)
    np.testing.assert_allclose(grids.symmetric_uniform(bits)(out), out, rtol=1e-6)


@pytest.mark.long
def test_a_quantile_in_place_of_the_maximum_clips_outliers():
    leaf = jnp.asarray([100.0, *np.linspace(-1, 1, 99)])
    out = grids.symmetric_uniform(8, quantile=0.98)(leaf)
    assert jnp.max(out) < 1.01
    assert jnp.max(jnp.abs(out - leaf)[1:]) < 0.02


@pytest.mark.long
def test_power_of_two_midpoints_separate_the_levels():
    nearest = nearest_of(grids.pow2_grid(4))
    points = jnp.asarray([0.49, 0.51, 1.49, 1.51, 2.99, 3.01, 47.9, 48.1, 1000])
    assert nearest(points).tolist() == [0, 1, 1, 2, 2, 4, 32, 64, 64]
    assert nearest(-points).tolist() == [-x for x in nearest(points).tolist()]
    assert jnp.max(nearest_of(grids.pow2_grid(6))(jnp.asarray([1e30]))) == 2.0**30


@each_grid
@given(leaf=leaves)
@laws
def test_grids_land_on_the_nearest_levels_and_stay(name, leaf):
    levels = np.asarray(GRIDS[name][1], np.float64)
    scale, chosen = (np.asarray(x, np.float64) for x in FITS[name](leaf))
    assert np.isfinite(scale) and scale >= 0 and set(chosen) <= set(levels)
    nearest = np.min(np.abs(leaf[:, None] - scale * levels[None, :]), axis=1)
    # A few roundings of the largest product decide between two levels that are equally near.
    slack = 1e-5 * np.max(np.abs(leaf))
    np.testing.assert_array_less(np.abs(leaf - scale * chosen), nearest + slack + 1e-30)
    if name != "symmetric 4":
        again = nearest_of(GRIDS[name][0])(jnp.asarray(chosen, jnp.float32))
        np.testing.assert_array_equal(again, chosen)


@pytest.mark.long
@pytest.mark.parametrize("name", ["ternary", "uniform 3", "pow2 3"])
@given(leaf=leaves)
@laws
def test_the_objective_never_rises(name, leaf):
    values, grid = jnp.asarray(leaf), GRIDS[name][0]
    nearest = nearest_of(grid)
    scale = fitting.largest(jnp.abs(values), None, None, grid.top, None)
    slack = 1e-5 * np.sum(leaf.astype(np.float64) ** 2)
    before = np.inf
    for _ in range(4):
        levels = nearest(arrays.safe_divide(values, scale))
        assert (after := objective(leaf, (scale, levels))) <= before + slack
        scale = fitting.best_scale(values, levels)
        assert (before := objective(leaf, (scale, levels))) <= after + slack
    assert objective(leaf, FITS[name](leaf)) <= before + slack


@each_grid
def test_grids_follow_scale_sign_and_permutation(name):
    fit = FITS[name]
    leaf = np.float32([0.31, -1.2, 0.5, 2.1, -0.07, 0.9])
    permutation = np.asarray([5, 0, 3, 1, 4, 2])
    scale, levels = fit(leaf)
    np.testing.assert_array_equal(fit(4 * leaf)[1], levels)
    np.testing.assert_array_equal(fit(4 * leaf)[0], 4 * scale)
    np.testing.assert_array_equal(fit(-leaf)[1], -levels)
    np.testing.assert_array_equal(fit(leaf[permutation])[1], levels[permutation])


@each_grid
def test_grids_are_finite_on_zero_weights_and_keep_the_dtype(name):
    np.testing.assert_array_equal(FITS[name](jnp.zeros(6))[0], 0)
    project = jax.jit(GRIDS[name][0])
    leaf = jnp.asarray([[0, 0, 0], [0.31, -1.2, 0.5]], jnp.bfloat16)
    out = project(leaf)
    assert out.dtype == jnp.bfloat16
    scale, levels = FITS[name](leaf)
    np.testing.assert_array_equal((scale * levels).astype(jnp.bfloat16), out)
    np.testing.assert_array_equal(project(jnp.zeros_like(leaf)), jnp.zeros_like(leaf))


@pytest.mark.long
@pytest.mark.parametrize("make", [grids.binary_grid, grids.ternary_grid])
def test_grids_that_keep_zeros_fit_the_survivors_alone(make):
    leaf = jnp.asarray([0.0, 3.0, 0.0, -1.0, 0.0, 0.0])
    survivors = make(keep_zeros=False).quantize(jnp.asarray([3.0, -1.0]))
    fit = make(keep_zeros=True).quantize(leaf)
    np.testing.assert_array_equal(fit.scale, survivors.scale)
    np.testing.assert_array_equal(fit.codes[jnp.asarray([1, 3])], survivors.codes)
    assert not jnp.any(fit.codes[leaf == 0])


@pytest.mark.long
def test_a_binary_grid_revives_zeros_unless_told_to_keep_them():
    leaf = jnp.asarray([0.3, 0, -0.8, 0])
    assert jnp.all(grids.binary_grid()(leaf) != 0)
    assert jnp.count_nonzero(grids.binary_grid(keep_zeros=True)(leaf)) == 2


@pytest.mark.long
@pytest.mark.parametrize("make", [grids.uniform_grid, grids.pow2_grid, grids.symmetric_uniform])
def test_traced_bits_give_the_grid_of_concrete_bits(make):
    leaf = np.random.default_rng(1).normal(size=20).astype(np.float32)
    bits = [2, 5]
    swept = jax.jit(jax.vmap(lambda b: make(b).quantize(leaf)))(jnp.asarray(bits))
    for i, b in enumerate(bits):
        single = jax.jit(make(b).quantize)(leaf)
        np.testing.assert_array_equal(swept.codes[i], single.codes)
        # Sums may be added up in another order.
        np.testing.assert_allclose(swept.scale[i], single.scale, rtol=1e-6)
