"""Sensitivities against single losses, allocations against all that there are."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn.compress import grids, mixed
from jaxsnn.compress import projections as pr
from jaxsnn.errors import UserError

DRAW = np.random.default_rng(0)
PARAMS = {
    "a": {"kernel": jnp.asarray(DRAW.normal(size=(4, 3)), jnp.float32)},
    "b": {"bias": jnp.ones(2), "kernel": jnp.asarray(DRAW.normal(size=(3, 2)), jnp.float32)},
}
X = jnp.asarray(DRAW.normal(size=(8, 4)), jnp.float32)
WIDTHS = (0, 2, 4)


def loss(params):
    hidden = jnp.tanh(X @ params["a"]["kernel"])
    return jnp.sum((hidden @ params["b"]["kernel"] + params["b"]["bias"].reshape(1, -1) - 1) ** 2)


@pytest.mark.long
@pytest.mark.parametrize("at_once", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_rise_is_the_loss_with_one_leaf_quantized(at_once):
    found = mixed.sensitivity(loss, PARAMS, widths=WIDTHS, at_once=at_once)
    assert set(found) == {"a/kernel", "b/kernel"}
    for name, rises in found.items():
        for bits, rise in zip(WIDTHS, rises, strict=True):
            recipe = {name: grids.uniform_grid(bits) if bits else lambda leaf: 0 * leaf}
            expected = loss(pr.project(PARAMS, recipe)) - loss(PARAMS)
            np.testing.assert_allclose(rise, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.long
def test_a_rise_by_channel_is_the_loss_with_one_channel_quantized():
    found = mixed.sensitivity(loss, PARAMS, where="a/*", widths=(2, 4), per="channel")["a/kernel"]
    kernel = PARAMS["a"]["kernel"]
    assert found.shape == (2, 3)
    for i, channel in itertools.product(range(2), range(3)):
        shown = grids.uniform_grid((2, 4)[i], per="channel")(kernel)
        tried = kernel.at[:, channel].set(shown[:, channel])
        expected = loss({"a": {"kernel": tried}, "b": PARAMS["b"]}) - loss(PARAMS)
        np.testing.assert_allclose(found[i, channel], expected, rtol=1e-4, atol=1e-4)


def best_of_all(rises, sizes, widths, budget):
    """Return the least sum of rises of all allocations within the budget."""
    choices = itertools.product(range(len(widths)), repeat=len(rises))
    return min(
        sum(rises[g][b] for g, b in enumerate(choice))
        for choice in choices
        if sum(sizes[g] * widths[b] for g, b in enumerate(choice)) <= budget * 8
    )


def weights_of(sizes):
    return {f"w{g}": jnp.zeros(size) for g, size in enumerate(sizes)}


def test_allocations_are_within_the_budget_and_near_the_best_of_all():
    sizes, widths = (10, 30, 20, 50, 5), (2, 3, 4, 8)
    weights = weights_of(sizes)
    solve = jax.jit(lambda rises, budget: mixed.allocate(rises, weights, budget, widths=widths))
    for seed in range(6):
        draw = np.random.default_rng(seed)
        rises = -np.sort(-draw.exponential(size=(5, 4)), axis=1)
        budget = draw.uniform(sum(sizes) * 2 / 8, sum(sizes))
        named = {name: jnp.asarray(row) for name, row in zip(weights, rises, strict=True)}
        bits = [int(each) for each in solve(named, budget).values()]
        assert np.dot(bits, sizes) <= 8 * budget
        found = sum(rises[g][widths.index(b)] for g, b in enumerate(bits))
        best = best_of_all(rises, sizes, widths, budget)
        # The relaxed problem is no better than greedy by more than the one step that did not fit.
        assert best - 1e-5 <= found <= best + rises.max()
        at_least = best_of_all(rises, sizes, (2,) * 4, budget) if seed < 0 else rises[:, 0].sum()
        assert found <= at_least


@pytest.mark.long
def test_with_equal_sizes_and_rises_that_flatten_greedy_is_best():
    widths, sizes = (2, 3, 4), (8,) * 5
    rises = np.array([[4.0, 1.0, 0.0], [9, 2, 1], [1, 0.2, 0.1], [5, 1.5, 1], [2, 1, 0.9]])
    weights = weights_of(sizes)
    named = {name: jnp.asarray(row) for name, row in zip(weights, rises, strict=True)}
    budgets = jnp.arange(10.0, 21.0)
    found = jax.vmap(lambda b: mixed.allocate(named, weights, b, widths=widths))(budgets)
    for i, budget in enumerate(budgets):
        total = sum(rises[g][widths.index(int(b[i]))] for g, b in enumerate(found.values()))
        np.testing.assert_allclose(total, best_of_all(rises, sizes, widths, budget), rtol=1e-5)


def test_prices_make_the_budget_one_of_operations():
    weights = weights_of((10, 10))
    rises = {name: jnp.asarray([1.0, 0.0]) for name in weights}
    bits = mixed.allocate(
        rises, weights, 10 * 2 * 100 + 10 * 4, widths=(2, 4), prices={"w0": 100.0, "w1": 1.0}
    )
    assert {name: int(each) for name, each in bits.items()} == {"w0": 2, "w1": 4}


@pytest.mark.long
def test_channels_get_bits_of_their_own_and_the_recipe_takes_them():
    rises = {"a/kernel": jnp.asarray([[1.0, 9.0, 5.0], [0.5, 1.0, 4.9], [0.0, 0.0, 0.0]])}
    bits = mixed.allocate(rises, PARAMS, (4 * 4 + 4 * 4) / 8, widths=WIDTHS)
    assert bits["a/kernel"].tolist() == [0, 4, 4]
    recipe = mixed.recipe(bits, per="channel")
    shown = pr.quantize(recipe["a/kernel"], PARAMS["a"]["kernel"])
    assert shown.bits.tolist() == [[0, 4, 4]] and not jnp.any(shown.codes[:, 0])
    whole = grids.uniform_grid(4, per="channel").quantize(PARAMS["a"]["kernel"])
    np.testing.assert_array_equal(shown.codes[:, 1:], whole.codes[:, 1:])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: mixed.allocate({"w0": [1.0, 0.0], "w1": [1, 0]}, W, 24.9, widths=(2, 4)),
            r"budget 24.9 cannot be met: with 2 bits everywhere it takes 25, of which 'w1' 20;",
        ),
        (lambda: mixed.allocate({"x": [1.0]}, W, 1, widths=(2,)), "rises name 'x', the leaves are"),
        (
            lambda: mixed.allocate({"w0": [1.0, 2.0]}, W, 1, widths=(2,)),
            r"the rises of 'w0' have the shape \(2,\), expected \(1,\)",
        ),
        (lambda: mixed.allocate({"w0": [1.0]}, W, 0, widths=(2,)), "budget must be in"),
        (lambda: mixed.allocate({"w0": [1.0]}, W, 9, widths=(1,)), "widths must rise and be"),
        (lambda: mixed.sensitivity(loss, PARAMS, widths=(4, 2)), "widths must rise and be"),
        (lambda: mixed.sensitivity(loss, PARAMS, where="x"), "'x' matches no leaf"),
        (
            lambda: mixed.sensitivity(loss, PARAMS, where="b/bias", per="channel"),
            "needs a leaf of two axes or more, but 'b/bias'",
        ),
        (
            lambda: mixed.allocate(
                {"w0": [1.0], "w1": [1.0]}, W, 99, widths=(2,), prices={"w0": 1.0}
            ),
            "prices: there is none for 'w1'",
        ),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


W = weights_of((20, 80))
