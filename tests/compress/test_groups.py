"""N:M sparsity against brute force, with lengths that the groups do not divide, and masks."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsnn.compress import grids, groups, latent
from jaxsnn.compress import projections as pr
from jaxsnn.errors import UserError


def brute(leaf, n, m):
    """Return the nearest leaf of all that keep `n` of every `m` inputs, `[I, O]`."""
    best = np.zeros_like(leaf)
    for column in range(leaf.shape[1]):
        for start in range(0, len(leaf), m):
            group = leaf[start : start + m, column]
            choices = itertools.combinations(range(len(group)), min(n, len(group)))
            chosen = list(max(choices, key=lambda kept: np.sum(group[list(kept)] ** 2)))
            best[start : start + m, column][chosen] = group[chosen]
    return best


@pytest.mark.parametrize(("n", "m", "inputs"), [(2, 4, 7), (1, 4, 9), (2, 4, 3), (2, 3, 6)])
def test_nothing_that_keeps_n_of_every_m_is_nearer(n, m, inputs):
    leaf = np.random.default_rng(n).normal(size=(inputs, 3)).astype(np.float32)
    project = groups.n_of_m(n, m)
    found = np.asarray(project(jnp.asarray(leaf)))
    np.testing.assert_array_equal(found, brute(leaf, n, m))
    np.testing.assert_array_equal(project(found), found)
    np.testing.assert_array_equal(project(jnp.zeros_like(leaf)), 0)


def test_every_place_of_a_convolution_has_its_own_groups():
    leaf = np.random.default_rng(0).normal(size=(3, 2, 5, 2)).astype(np.float32)
    found = np.asarray(groups.n_of_m(2, 4)(leaf))
    for place in np.ndindex(3, 2):
        np.testing.assert_array_equal(found[place], brute(leaf[place], 2, 4))


def test_padding_is_never_kept_in_the_place_of_a_zero():
    ones = groups.n_of_m(2, 4)(jnp.ones((6, 1)))
    assert ones.ravel().tolist() == [1, 1, 0, 0, 1, 1]


def test_behind_a_mask_the_largest_of_what_it_leaves_are_kept():
    leaf = np.random.default_rng(1).normal(size=(7, 3)).astype(np.float32)
    mask = np.random.default_rng(2).random((7, 3)) < 0.6
    recipe = pr.restrict({"w": groups.n_of_m(1, 4)}, {"w": jnp.asarray(mask)})
    found = pr.project({"w": jnp.asarray(leaf)}, recipe)["w"]
    np.testing.assert_array_equal(found, brute(leaf * mask, 1, 4))


def test_how_many_are_kept_can_be_swept():
    leaf = np.random.default_rng(3).normal(size=(6, 2)).astype(np.float32)
    swept = jax.vmap(lambda n: groups.n_of_m(n, 4)(leaf))(jnp.arange(1, 4))
    for n, found in enumerate(swept, 1):
        np.testing.assert_array_equal(found, brute(leaf, n, 4))


@pytest.mark.long
def test_trained_weights_stay_in_the_set_and_on_the_grid_behind_it():
    recipe = {"w": pr.compose(groups.n_of_m(2, 4), grids.uniform_grid(3))}
    params = {"w": jnp.asarray(np.random.default_rng(4).normal(size=(7, 3)), jnp.float32)}
    optimizer = latent(optax.sgd(0.1), recipe)
    state, shown = optimizer.init(params), pr.project(params, recipe)
    updates, state = jax.jit(optimizer.update)({"w": params["w"] - 1}, state, shown)
    shown = optax.apply_updates(shown, updates)["w"]
    assert np.count_nonzero(shown[:4]) <= 6 and np.count_nonzero(shown[4:]) <= 6
    np.testing.assert_allclose(shown, recipe["w"](state.free["w"]), atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: groups.n_of_m(5, 4), r"n must be in \[1, 4\], found 5"),
        (lambda: groups.n_of_m(1.5, 4), "n must be a whole number"),
        (
            lambda: pr.resolve({"*": groups.n_of_m(1, 4)}, {"bias": jnp.ones(3)}),
            r"1:4 sparsity needs inputs .* 'bias' has shape \(3,\): leave it out",
        ),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()
