"""Masks that move: exact shares, one constant total, and the three growth rules."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxsnn import tree
from jaxsnn.compress import rewiring, starting, states, transforms
from jaxsnn.errors import UserError

KEY = jax.random.key(0)
PARAMS = {
    "conv1": {"bias": jnp.ones(4), "kernel": jax.random.normal(KEY, (3, 3, 1, 4))},
    "conv2": {"kernel": jax.random.normal(jax.random.key(1), (3, 3, 4, 8))},
    "dense1": {"kernel": jax.random.normal(jax.random.key(2), (8, 3))},
}
GRADIENT = jax.tree.map(lambda p: jnp.sin(7 * p), PARAMS)
SIZES = {"conv1/kernel": 36, "conv2/kernel": 288, "dense1/kernel": 24}  # 348
LAYERS = 6


def counts(masks):
    leaves = tree.named_leaves(masks)
    return {name: int(np.count_nonzero(leaves[name])) for name in SIZES}


def trained(masks, params=PARAMS, inner=None, keep_gradient=False):
    """Return state and weights after one step."""
    optimizer = rewiring.sparse(
        inner or optax.sgd(0.1, momentum=0.9), masks, keep_gradient=keep_gradient
    )
    state = optimizer.init(params)
    updates, state = jax.jit(optimizer.update)(GRADIENT, state, params)
    return state, optax.apply_updates(params, updates)


def one_layer(weights, mask, momentum):
    """Return a state and weights as if trained, with a momentum of our choice."""
    params = {"w": jnp.asarray(weights)}
    optimizer = rewiring.sparse(optax.sgd(0.1, momentum=0.9), {"w": jnp.asarray(mask, bool)})
    state = optimizer.init(params)
    _, state = optimizer.update({"w": jnp.asarray(momentum)}, state, params)
    return state, params


# ---- where masks start ----


@pytest.mark.long
@pytest.mark.parametrize("density", [0.03, 0.1, 0.5, 1.0])
def test_starting_masks_have_one_density_and_an_exact_total(density):
    drawn = starting.random_masks(KEY, PARAMS, density)
    assert drawn["conv1"]["bias"].shape == ()
    found = counts(drawn)
    assert sum(found.values()) == round(density * 348)
    for name, size in SIZES.items():
        assert abs(found[name] - density * size) < 1
    assert counts(starting.magnitude_masks(PARAMS, density)) == found


@pytest.mark.long
def test_random_masks_differ_by_key_and_magnitude_masks_keep_the_largest():
    a, b = (starting.random_masks(jax.random.key(i), PARAMS, 0.5) for i in range(2))
    assert jnp.any(a["conv2"]["kernel"] != b["conv2"]["kernel"])
    kernel = PARAMS["conv2"]["kernel"]
    kept = starting.magnitude_masks(PARAMS, 0.25)["conv2"]["kernel"]
    assert jnp.min(jnp.abs(kernel[kept])) > jnp.max(jnp.abs(kernel[~kept]))


@pytest.mark.long
def test_erk_counts_grow_as_the_sum_of_the_axes_and_full_layers_pass_theirs_on():
    # Axes 3+3+1+4, 3+3+4+8 and 8+3, of 40; 20 and 174 weights.
    found = counts(starting.random_masks(KEY, PARAMS, 20 / 348, layers="erk"))
    assert found == {"conv1/kernel": 6, "conv2/kernel": 9, "dense1/kernel": 5}
    found = counts(starting.random_masks(KEY, PARAMS, 0.5, layers="erk"))
    assert found == {"conv1/kernel": 36, "conv2/kernel": 114, "dense1/kernel": 24}


@pytest.mark.long
def test_the_start_is_zero_outside_the_masks_and_keeps_the_variance():
    params = {"w": {"kernel": jax.random.normal(KEY, (100, 100)), "bias": jnp.ones(3)}}
    every_25th = jnp.arange(10_000).reshape(100, 100) % 25 == 0
    masks = {"w": {"kernel": every_25th, "bias": jnp.asarray(True)}}
    begun = starting.start(params, masks)
    kernel, kept = begun["w"]["kernel"], masks["w"]["kernel"]
    assert not jnp.any(kernel[~kept])
    np.testing.assert_allclose(kernel[kept], 5 * params["w"]["kernel"][kept], rtol=1e-5)
    assert float(jnp.mean(kernel**2)) == pytest.approx(1, rel=0.15)
    assert begun["w"]["bias"] is params["w"]["bias"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: starting.random_masks(KEY, PARAMS, 0.0), r"density must be in \(0, 1\], found 0"),
        (lambda: starting.magnitude_masks(PARAMS, 1.5), r"density must be in \(0, 1\], found 1.5"),
        (
            lambda: starting.random_masks(KEY, PARAMS, 0.01),
            r"density 0.01 leaves 'conv1/kernel' \(36 weights\) without any; use at least 0.0278",
        ),
        (jax.jit(lambda: starting.random_masks(KEY, PARAMS, 0.01)), "leaves 'conv1/kernel'"),
        (lambda: starting.magnitude_masks(PARAMS, 0.5, where="x"), "'x' matches no leaf"),
        (lambda: starting.magnitude_masks(PARAMS, 0.5, layers="er"), "'uniform' or 'erk'.*'er'"),
        (
            lambda: rewiring.sparse(optax.sgd(0.1), {"w": jnp.ones((1, 2), bool)}).init(
                {"w": jnp.ones((3, 2))}
            ),
            r"mask of 'w' has shape \(1, 2\); to be rewired it needs the leaf's own, \(3, 2\)",
        ),
        (lambda: rewiring.prune_rate(0), "steps must be in"),
        (lambda: rewiring.prune_rate(10, 1.5), "initial prune rate must be in"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.long
def test_the_least_density_of_the_message_is_enough():
    assert min(counts(starting.random_masks(KEY, PARAMS, 1 / 24)).values()) >= 1


# ---- one step ----


@pytest.mark.long
def test_steps_land_on_zero_outside_the_masks_and_momentum_is_dense():
    masks = starting.random_masks(KEY, PARAMS, 0.1)
    inner = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9))
    optimizer, params = rewiring.sparse(inner, masks), starting.start(PARAMS, masks)
    state, (free, free_state) = optimizer.init(params), (params, inner.init(params))
    step, free_step = jax.jit(optimizer.update), jax.jit(inner.update)
    for _ in range(3):
        updates, state = step(GRADIENT, state, params)
        params = optax.apply_updates(params, updates)
        free_updates, free_state = free_step(GRADIENT, free_state, free)
        free = optax.apply_updates(free, free_updates)
    for name, mask in tree.named_leaves(masks).items():
        leaf, unmasked = tree.named_leaves(params)[name], tree.named_leaves(free)[name]
        np.testing.assert_allclose(leaf, jnp.where(mask, unmasked, 0), rtol=1e-5, atol=1e-6)
    assert all(jnp.all(m != 0) for m in rewiring.momentum(state.inner).values())
    assert counts(state.confined.masks) == counts(masks)


@pytest.mark.long
@pytest.mark.parametrize("inner", [optax.adamw(0.1), optax.amsgrad(0.1)])
def test_adam_s_momentum_is_divided_by_its_scale(inner):
    state, _ = trained(starting.random_masks(KEY, PARAMS, 0.1), inner=inner)
    gradient = GRADIENT["dense1"]["kernel"]
    expected = 0.1 * gradient / (np.sqrt(0.001) * jnp.abs(gradient) + 1e-8)
    np.testing.assert_allclose(rewiring.momentum(state.inner)["dense1/kernel"], expected, rtol=1e-4)


def test_the_prune_rate_falls_as_a_cosine():
    rate = rewiring.prune_rate(8)
    found = [float(rate(count)) for count in (0, 2, 4, 6, 8, 20)]
    np.testing.assert_allclose(found, [0.5, 0.42751, 0.2525, 0.07749, 0.005, 0.005], atol=1e-5)


# ---- rewiring ----


def test_the_smallest_weights_are_pruned():
    state, params = one_layer([0.5, -0.1, 0.3, -0.7], [1, 1, 1, 1], [1.0, 1, 1, 1])
    _, params = rewiring.rewire(state, params, 0.5)
    np.testing.assert_array_equal(params["w"], np.float32([0.5, 0, 0, -0.7]))


def test_weights_grow_where_the_momentum_is_largest_and_start_at_zero():
    state, params = one_layer(
        [5.0, 0.1, 0.2, 9, 9, 9], [1, 1, 1, 0, 0, 0], [9.0, 0.1, 0, 0.2, -0.9, 0.4]
    )
    state, params = rewiring.rewire(state, params, 0.5)
    assert state.confined.masks["w"].tolist() == [True, False, False, False, True, True]
    assert params["w"].tolist() == [5, 0, 0, 0, 0, 0]


def test_active_zeros_die_first():
    state, params = one_layer([0.0, 2, 1, 0, 0], [1, 1, 1, 0, 0], [0.0, 1, 1, 5, 4])
    state, _ = rewiring.rewire(state, params, 0.3)
    assert state.confined.masks["w"].tolist() == [False, True, True, True, False]


def two_layers(momentum_a, momentum_b, active=(4, 6)):
    """Return state and weights of two layers of ten, with these momenta where weights are."""
    params = {name: jnp.arange(1.0, 11) for name in "ab"}
    masks = {name: jnp.arange(10) < k for name, k in zip("ab", active, strict=True)}
    optimizer = rewiring.sparse(optax.sgd(0.1, momentum=0.9), masks)
    state = optimizer.init(params)
    momenta = {"a": momentum_a, "b": momentum_b}
    gradient = {name: jnp.where(mask, momenta[name], 5.0) for name, mask in masks.items()}
    _, state = optimizer.update(gradient, state, params)
    return state, params


def per_layer(state):
    return [int(state.confined.masks[name].sum()) for name in "ab"]


@pytest.mark.parametrize(
    ("momenta", "expected"),
    [
        ((0.3, 0.1), [2 + 4, 3 + 1]),  # lost 2 and 3, shares 3 to 1: 3.75 and 1.25
        ((1.0, 0.0), [2 + 5, 3 + 0]),
        ((0.0, 1.0), [2 + 0, 3 + 5]),
        ((0.0, 0.0), [4, 6]),  # no shares: each gets back what it lost
    ],
)
def test_layers_grow_by_their_share_of_the_momentum(momenta, expected):
    state, params = two_layers(*momenta)
    assert per_layer(rewiring.rewire(state, params, 0.5)[0]) == expected


def test_a_layer_fills_no_more_than_99_percent_of_its_free_positions():
    # a loses 1 and b 8. All 9 go to a, which has 9 free positions, 99 % of which are 8.
    state, params = two_layers(1.0, 0.0, active=(2, 9))
    assert per_layer(rewiring.rewire(state, params, 0.8)[0]) == [1 + 8, 1 + 1]


def test_a_dense_layer_that_gains_loses_no_more_than_it_has_zeros():
    state, params = two_layers(1.0, 0.1, active=(9, 5))
    state, params = rewiring.rewire(state, params, 0.5)
    # a loses ceil(0.1 * 9) = 1, not 5, b 3; a's share is 3.6 of 4, its two free positions take 1.
    assert int(jnp.sum(params["a"] != 0)) == 8
    assert per_layer(state) == [8 + 1, 2 + 3]


def test_equal_layers_stay_equal():
    state, params = two_layers(0.2, 0.2, active=(5, 5))
    assert per_layer(rewiring.rewire(state, params, 0.5)[0]) == [5, 5]


@jax.jit
def life(key, density, rate):
    """Draw masks, then twice train a step and rewire: all in one program."""
    masks = starting.random_masks(key, PARAMS, density)
    optimizer = rewiring.sparse(optax.sgd(0.1, momentum=0.9), masks)

    def epoch(carry, _):
        params, state = carry
        updates, state = optimizer.update(GRADIENT, state, params)
        params = optax.apply_updates(params, updates)
        state, params = rewiring.rewire(state, params, rate)
        return (params, state), state.confined.masks

    (params, _), moved = jax.lax.scan(epoch, (PARAMS, optimizer.init(PARAMS)), length=2)
    return [masks, *(jax.tree.map(lambda mask, i=i: mask[i], moved) for i in range(2))], params


@pytest.mark.long
@example(0, 35, 0.0)
@example(0, 348, 0.5)
@example(0, 15, 1.0)
@given(st.integers(0, 99), st.integers(15, 348), st.floats(0, 1, width=32))
@settings(deadline=None, max_examples=60)
def test_the_number_of_weights_is_constant_to_the_last_one(seed, weights, rate):
    history, params = life(jax.random.key(seed), weights / 348, rate)
    for masks in history:
        assert sum(counts(masks).values()) == weights
        assert all(mask.dtype == bool for mask in jax.tree.leaves(masks))
        assert masks["conv1"]["bias"].shape == ()
        assert min(counts(masks).values()) > 0
    for name in SIZES:
        outside = ~np.asarray(tree.named_leaves(history[-1])[name])
        assert not np.any(np.asarray(tree.named_leaves(params)[name])[outside])
    if rate == 0:
        jax.tree.map(np.testing.assert_array_equal, history[0], history[-1])


@pytest.mark.long
def test_densities_and_rates_can_be_swept():
    keys, densities = jax.random.split(KEY, 3), jnp.asarray([0.05, 0.3, 1.0])
    rates = jnp.asarray([0.1, 0.5, 0.9])
    swept = jax.vmap(life)(keys, densities, rates)
    for i in range(3):
        single = life(keys[i], densities[i], rates[i])
        jax.tree.map(lambda x, y, i=i: np.testing.assert_array_equal(x[i], y), swept[0], single[0])
    moved = [x["conv2"]["kernel"] for x in swept[0]]
    assert jnp.any(moved[0][0] != moved[1][0]) and jnp.any(moved[1][0] != moved[2][0])


@pytest.mark.long
def test_random_growth_keeps_the_counts_of_all_layers():
    state, params = trained(starting.random_masks(KEY, PARAMS, 0.1), inner=optax.sgd(0.1))
    before = counts(state.confined.masks)

    def grown(seed):
        rewired, _ = rewiring.rewire(
            state,
            params,
            0.5,
            growth=rewiring.at_random,
            redistribute=False,
            key=jax.random.key(seed),
        )
        assert counts(rewired.confined.masks) == before
        return rewired.confined.masks["conv2"]["kernel"]

    assert jnp.any(grown(0) != grown(1))


@pytest.mark.long
def test_gradient_growth_takes_the_largest_gradients_of_each_layer():
    masks = starting.random_masks(KEY, PARAMS, 0.1)
    state, params = trained(masks, inner=optax.sgd(0.1), keep_gradient=True)
    rewired, after = rewiring.rewire(
        state, params, 0.5, growth=rewiring.by_gradient, redistribute=False
    )
    assert counts(rewired.confined.masks) == counts(masks)
    for name in SIZES:
        kept = np.asarray(tree.named_leaves(after)[name]) != 0
        born = np.asarray(tree.named_leaves(rewired.confined.masks)[name]) & ~kept
        gradient = np.abs(np.asarray(tree.named_leaves(GRADIENT)[name]))
        assert born.sum() == np.ceil(counts(masks)[name] / 2)
        assert gradient[born].min() >= gradient[~kept & ~born].max()


def test_the_masks_of_a_chain_can_be_found_and_a_growth_rule_is_a_function():
    masks = starting.random_masks(KEY, PARAMS, 0.1)
    optimizer = optax.chain(optax.clip(1.0), rewiring.sparse(optax.sgd(0.1), masks))
    chained = optimizer.init(PARAMS)
    state = states.find(chained, rewiring.SparseState)
    assert states.find(chained, transforms.ConfineState) is state.confined

    def to_the_end(state, key):
        leaves = tree.named_leaves(state.confined.masks)
        return {
            x: jnp.arange(m.size, dtype=jnp.float32).reshape(m.shape) for x, m in leaves.items()
        }

    state, _ = rewiring.rewire(state, PARAMS, 1.0, growth=to_the_end, redistribute=False)
    assert jnp.all(state.confined.masks["dense1"]["kernel"][-1, -1])


@pytest.mark.long
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs an optimizer with one momentum, found 0; use optax.sgd"),
        ({"growth": rewiring.by_gradient}, r"needs sparse\(..., keep_gradient=True\)"),
        ({"growth": rewiring.at_random}, r"needs a key: rewire\(..., key=key\)"),
        ({"rate": 1.5}, r"prune rate must be in \[0, 1\], found 1.5"),
    ],
)
def test_a_growth_rule_says_what_it_lacks(options, message):
    masks = starting.random_masks(KEY, PARAMS, 0.1)
    state = rewiring.sparse(optax.sgd(0.1), masks).init(PARAMS)
    with pytest.raises(UserError, match=message):
        rewiring.rewire(state, PARAMS, **{"rate": 0.5, **options})
