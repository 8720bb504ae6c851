"""Pull, latent and confine: the mathematics of each. Their contract is in `test_contract.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsnn import arrays
from jaxsnn.compress import gradients, grids, latent_weights, states, transforms
from jaxsnn.compress import projections as pr
from jaxsnn.errors import UserError
from tests.compress.compress_cases import (
    GRADIENTS,
    MASKS,
    PARAMS,
    RECIPE,
    assert_trees_close,
    normal,
    steps_of,
)

LATENT = latent_weights.latent(optax.sgd(0.1), RECIPE)


# ---- pull ----


@pytest.mark.long
def test_pull_adds_the_gradient_of_the_written_penalty():
    state = transforms.pull(RECIPE, 0.3, None).init(PARAMS)
    state = state._replace(dual=jax.tree.map(lambda z: 0.1 * z + 0.2, state.auxiliary))
    kernel = "a/kernel"

    def penalty(mode):
        def written(leaf):
            gap = leaf - state.auxiliary[kernel] + state.dual[kernel]
            return 0.15 * jnp.sum(gap**2) if mode == "squared" else 0.3 * jnp.linalg.norm(gap)

        return jax.grad(written)(PARAMS["a"]["kernel"])

    for mode in ("squared", "norm"):
        optimizer = transforms.pull(RECIPE, 0.3, None, mode=mode)
        out, _ = optimizer.update(GRADIENTS, state, PARAMS)
        added = out["a"]["kernel"] - GRADIENTS["a"]["kernel"]
        np.testing.assert_allclose(added, penalty(mode), rtol=1e-5, atol=1e-6)
        assert out["a"]["bias"] is GRADIENTS["a"]["bias"]


def test_norm_pull_is_finite_on_the_set_and_of_constant_length_off_it():
    params = {"kernel": jnp.asarray([1.0, 0.0])}
    optimizer = transforms.pull({"*": pr.keep_largest(0.5)}, 0.3, 5, mode="norm")
    state = optimizer.init(params)
    zero, update = {"kernel": jnp.zeros(2)}, jax.jit(optimizer.update)
    np.testing.assert_array_equal(update(zero, state, params)[0]["kernel"], [0, 0])
    for distance in (1e-3, 1.0):
        away = {"kernel": jnp.asarray([1.0, distance])}
        pulled = update(zero, state, away)[0]["kernel"]
        np.testing.assert_allclose(pulled, [0, 0.3], rtol=1e-6)


def test_admm_on_a_quadratic_reaches_the_best_sparse_point():
    # f = 1/2 ||w - a||^2 with a = (3, 2), one weight kept, rho = 1, exact W-step.
    recipe, a = {"w": pr.keep_largest(0.5)}, jnp.asarray([3.0, 2.0])
    state = transforms.pull(recipe, 1.0, None).init({"w": jnp.asarray([3.0, 0.0])})
    second, dual = [], []
    for _ in range(6):
        w = (a + state.auxiliary["w"] - state.dual["w"]) / 2
        state = transforms.dual_step(state, {"w": w}, recipe)
        np.testing.assert_array_equal(state.auxiliary["w"], [3, 0])
        second.append(float(w[1]))
        dual.append(float(state.dual["w"][1]))
    np.testing.assert_allclose(second, [2.0**-k for k in range(6)])
    np.testing.assert_allclose(dual, [2 - 2.0**-k for k in range(6)])


@pytest.mark.long
def test_pull_to_the_whole_space_is_the_plain_gradient_after_each_dual_step():
    recipe = {"*/kernel": pr.identity}
    optimizer = transforms.pull(recipe, 10.0, 1)
    params, state = PARAMS, optimizer.init(PARAMS)
    for _ in range(3):
        updates, state = optimizer.update(GRADIENTS, state, params)
        assert_trees_close(updates, GRADIENTS)
        assert all(not jnp.any(u) for u in state.dual.values())
        np.testing.assert_array_equal(state.auxiliary["a/kernel"], params["a"]["kernel"])
        params = jax.tree.map(lambda p, u: p - u, params, updates)


def test_a_leaf_left_out_of_the_recipe_stores_nothing():
    state = transforms.pull({"a/kernel": pr.identity}, 1.0, 1).init(PARAMS)
    assert set(state.auxiliary) == set(state.dual) == {"a/kernel"}
    assert state.auxiliary["a/kernel"] is not PARAMS["a"]["kernel"]


@pytest.mark.long
def test_dual_steps_inside_and_outside_the_update_agree():
    schedule = lambda count: jnp.where(count < 4, 0.1, 0.5)  # noqa: E731
    inside = transforms.pull(RECIPE, schedule, 2)
    outside = transforms.pull(RECIPE, schedule, None)
    inside_step, outside_step = jax.jit(inside.update), jax.jit(outside.update)
    dual_step = jax.jit(
        lambda state, params: transforms.set_penalty(
            transforms.dual_step(state, params, RECIPE), schedule(state.count)
        )
    )
    params = PARAMS
    state, other = inside.init(params), outside.init(params)
    for count in range(7):
        if count > 0 and count % 2 == 0:
            other = dual_step(other, params)
        updates, state = inside_step(GRADIENTS, state, params)
        others, other = outside_step(GRADIENTS, other, params)
        assert_trees_close((updates, state), (others, other))
        params = jax.tree.map(lambda p, u: p - 0.1 * u, params, updates)
    assert state.penalty == 0.5 and state.count == 7
    assert any(jnp.any(u) for u in state.dual.values())


def test_a_new_penalty_leaves_the_multiplier():
    state = transforms.pull(RECIPE, 0.1, 2).init(PARAMS)
    state = state._replace(dual=state.auxiliary)
    after = transforms.set_penalty(state, 1.0)
    np.testing.assert_allclose(
        after.penalty * after.dual["a/kernel"], state.penalty * state.dual["a/kernel"], rtol=1e-6
    )
    assert after.dual["b/kernel"].dtype == jnp.bfloat16
    off = transforms.set_penalty(state, 0.0)
    assert not any(jnp.any(u) for u in off.dual.values())
    with pytest.raises(UserError, match="penalty must be in"):
        transforms.set_penalty(state, -1.0)


def test_residuals_measure_the_distance_in_units_of_the_weights():
    params = {"w": jnp.asarray([3.0, 4.0])}
    state = transforms.pull({"w": pr.keep_largest(0.5)}, 0.1, 2).init(params)
    found = transforms.residuals(state._replace(dual={"w": jnp.asarray([0.0, 1.0])}), params)
    np.testing.assert_allclose(found["w"], (3 / 5, 0, 1 / 5), rtol=1e-6)


def test_the_dual_residual_is_how_far_the_last_dual_step_moved():
    recipe = {"w": pr.keep_largest(0.5)}
    state = transforms.pull(recipe, 0.1, 2).init({"w": jnp.asarray([3.0, 4.0])})
    params = {"w": jnp.asarray([3.0, 0.0])}
    found = transforms.residuals(transforms.dual_step(state, params, recipe), params)
    np.testing.assert_allclose(found["w"], (0, 0.1 * 5, 0), rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: transforms.pull({"*/weight": pr.identity}, 1.0, 1), r"'\*/weight' matches no"),
        (lambda: transforms.pull({"*": pr.keep_largest(0.9)}, 1.0, 1), r"would empty 'a/bias'"),
        (lambda: transforms.pull(RECIPE, -1.0, 1), r"penalty must be in \[0, inf\], found -1"),
        (lambda: transforms.pull(RECIPE, 1.0, 0), r"every must be in \[1, inf\], found 0"),
        (lambda: transforms.pull(RECIPE, 1.0, 1, mode="cubed"), r"'squared' or 'norm'.*'cubed'"),
        (
            lambda: latent_weights.latent(optax.sgd(1.0), {"*": pr.on_mask(jnp.ones(7, bool))}),
            r"mask of 'a/bias' has shape \(7,\)",
        ),
        (lambda: transforms.confine({"a": True}), r"no mask for .*'a/kernel'"),
        (lambda: gradients.pass_within(0.0), r"bound must be in \(0, inf\]"),
    ],
)
def test_mistakes_are_named_at_the_start(make, message):
    with pytest.raises(UserError, match=message):
        make().init(PARAMS)


# ---- latent ----


TARGET = normal(6, 5)
START = normal(6, 5)


def quadratic(weights):
    return 0.5 * jnp.sum((weights - TARGET) ** 2)


@pytest.mark.long
@pytest.mark.parametrize(
    ("inner", "bound"),
    [(optax.sgd(0.05, momentum=0.9), None), (optax.adamw(0.05, weight_decay=0.1), 0.8)],
)
def test_latent_equals_straight_through_training_step_by_step(inner, bound):
    recipe, grid = {"w": grids.ternary_grid(sweeps=5)}, grids.ternary_grid(sweeps=5)
    rule = None if bound is None else gradients.pass_within(bound)
    optimizer = latent_weights.latent(inner, recipe, straight_through=rule)
    free = {"w": START}
    state, inner_state = optimizer.init(free), inner.init(free)
    params = pr.project(free, recipe)

    def written(w):
        through = (
            w if bound is None else jnp.where(jnp.abs(w) <= bound, w, jax.lax.stop_gradient(w))
        )
        return quadratic(arrays.straight_through(grid(w), through))

    @jax.jit
    def both_steps(params, state, free, inner_state):
        gradient = {"w": jax.grad(quadratic)(params["w"])}
        updates, state = optimizer.update(gradient, state, params)
        gradient = {"w": jax.grad(written)(free["w"])}
        free_updates, inner_state = inner.update(gradient, inner_state, free)
        return (
            optax.apply_updates(params, updates),
            state,
            optax.apply_updates(free, free_updates),
            inner_state,
        )

    for _ in range(8):
        params, state, free, inner_state = both_steps(params, state, free, inner_state)
        # The visible weights are sums, a rounding error off the grid, and so are their gradients.
        np.testing.assert_allclose(state.free["w"], free["w"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(params["w"], grid(free["w"]), rtol=1e-5, atol=1e-6)


@pytest.mark.long
def test_training_without_the_free_copy_is_something_else():
    recipe = {"w": grids.ternary_grid()}
    start = {"w": START}
    optimizer = latent_weights.latent(optax.sgd(0.01), recipe)
    start = pr.project(start, recipe)

    def step(_, carry):
        visible, state, naive = carry
        gradient = {"w": jax.grad(quadratic)(visible["w"])}
        updates, state = optimizer.update(gradient, state, visible)
        moved = {"w": naive["w"] - 0.01 * jax.grad(quadratic)(naive["w"])}
        visible = optax.apply_updates(visible, updates)
        return visible, state, pr.project(moved, recipe)

    carry = (start, optimizer.init(start), start)
    visible, _, naive = jax.jit(lambda c: jax.lax.fori_loop(0, 40, step, c))(carry)
    # Small steps never leave their rounding cell unless they are summed up in a free copy.
    np.testing.assert_array_equal(jnp.sign(naive["w"]), jnp.sign(start["w"]))
    assert jnp.any(jnp.sign(visible["w"]) != jnp.sign(start["w"]))


@pytest.mark.long
def test_visible_free_and_snapped_weights_belong_together():
    recipe = {"*/kernel": grids.uniform_grid(3)}
    optimizer = latent_weights.latent(optax.adam(0.1), recipe)
    params, state = steps_of(optimizer, PARAMS, GRADIENTS)
    free = latent_weights.free_params(state, params)
    snapped = jax.jit(lambda state, params: latent_weights.snap(state, params, recipe))(
        state, params
    )
    np.testing.assert_array_equal(free["a"]["kernel"], state.free["a/kernel"])
    expected = jax.jit(recipe["*/kernel"])(state.free["a/kernel"])
    np.testing.assert_array_equal(snapped["a"]["kernel"], expected)
    assert_trees_close(params["a"], snapped["a"])
    np.testing.assert_array_equal(snapped["a"]["bias"], params["a"]["bias"])
    assert len(set(np.asarray(snapped["a"]["kernel"]).ravel().tolist())) <= 7


def test_extra_arguments_reach_the_wrapped_optimizer():
    inner = optax.GradientTransformationExtraArgs(
        lambda params: optax.EmptyState(),
        lambda updates, state, params=None, *, scale: (
            jax.tree.map(lambda u: scale * u, updates),
            state,
        ),
    )
    optimizer = latent_weights.latent(inner, {"a/bias": pr.identity})
    updates, _ = optimizer.update(GRADIENTS, optimizer.init(PARAMS), PARAMS, scale=2)
    np.testing.assert_array_equal(updates["a"]["kernel"], 2 * GRADIENTS["a"]["kernel"])


# ---- pruned weights stay zero ----

OPTIMIZERS = {
    "adam": optax.adam(0.1),
    "adamw": optax.adamw(0.1, weight_decay=0.1),
    "momentum": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "weight decay": optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1)),
}


@pytest.mark.parametrize(
    ("name", "way"), [*((name, "confine") for name in OPTIMIZERS), ("adamw", "latent")]
)
def test_pruned_weights_stay_exactly_zero(name, way):
    inner = OPTIMIZERS[name]
    if way == "confine":
        optimizer = optax.chain(inner, transforms.confine(MASKS))
    else:
        grid = pr.restrict({"*/kernel": grids.binary_grid(keep_zeros=True)}, MASKS)
        optimizer = latent_weights.latent(inner, grid)

    @jax.jit
    def run(params, key):
        def step(carry, key):
            params, state = carry
            noise = jax.random.normal(key, (12,))
            gradients = jax.tree.map(
                lambda p: noise[: p.size].reshape(p.shape).astype(p.dtype), params
            )
            updates, state = optimizer.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
            stray = [
                jnp.sum(((leaf != 0) | (update != 0)) & ~mask)
                for leaf, update, mask in zip(
                    jax.tree.leaves(params),
                    jax.tree.leaves(updates),
                    jax.tree.leaves(MASKS),
                    strict=True,
                )
            ]
            return (params, state), sum(stray)

        pruned = jax.tree.map(lambda p, m: jnp.where(m, p, jnp.zeros_like(p)), params, MASKS)
        start = (pruned, optimizer.init(params))
        return jax.lax.scan(step, start, jax.random.split(key, 100))

    (params, _), stray = run(PARAMS, jax.random.key(0))
    assert not jnp.any(stray)
    assert jnp.count_nonzero(params["a"]["kernel"]) == 6


def test_masking_gradients_alone_revives_pruned_weights():
    pruned = jax.tree.map(lambda p, m: jnp.where(m, p, 0), PARAMS, MASKS)
    optimizer = optax.sgd(0.1, momentum=0.9)
    state = optimizer.init(PARAMS)
    _, state = optimizer.update(GRADIENTS, state, PARAMS)  # momentum from before the pruning
    masked = jax.tree.map(lambda g, m: jnp.where(m, g, 0), GRADIENTS, MASKS)
    updates, _ = optimizer.update(masked, state, pruned)
    revived = optax.apply_updates(pruned, updates)["a"]["kernel"]
    assert jnp.count_nonzero(revived) > jnp.count_nonzero(MASKS["a"]["kernel"])


def test_find_returns_the_one_state_in_a_chain_and_exchange_replaces_it():
    optimizer = optax.chain(optax.scale(1.0), transforms.pull(RECIPE, 0.1, 2), optax.adam(0.1))
    state = optimizer.init(PARAMS)
    assert states.find(state, transforms.PullState) is state[1]
    other = state[1]._replace(penalty=jnp.float32(7))
    changed = states.exchange(state, other)
    assert changed[1] is other and changed[2] is not None
    assert jax.tree.structure(changed) == jax.tree.structure(state)


def test_what_takes_a_state_finds_it_in_a_chain():
    optimizer = optax.chain(
        transforms.pull(RECIPE, 0.1, None), latent_weights.latent(optax.adam(0.1), RECIPE)
    )
    state = optimizer.init(PARAMS)
    visible = pr.project(PARAMS, RECIPE)
    assert_trees_close(latent_weights.snap(state, visible, RECIPE), visible)
    assert_trees_close(latent_weights.free_params(state, visible), PARAMS)
    assert set(transforms.residuals(state, PARAMS)) == {"a/kernel", "b/kernel"}
    moved = transforms.set_penalty(transforms.dual_step(state, PARAMS, RECIPE), 0.4)
    assert moved[0].penalty == jnp.float32(0.4) and moved[1] is not None
    assert jax.tree.structure(moved) == jax.tree.structure(state)


@pytest.mark.parametrize(
    "use",
    [
        lambda state: latent_weights.snap(state, PARAMS, RECIPE),
        lambda state: latent_weights.free_params(state, PARAMS),
        lambda state: states.find(state, latent_weights.LatentState),
    ],
)
@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: optax.adam(0.1).init(PARAMS), "found 0 in a tuple"),
        (lambda: PARAMS, "found 0 in a dict"),
        (lambda: optax.chain(*2 * [LATENT]).init(PARAMS), "found 2 in a tuple"),
    ],
)
def test_another_optimizer_s_state_is_one_clear_error(use, make, found):
    message = rf"opt_state: expected one LatentState in the state, {found}; .* one latent$"
    with pytest.raises(UserError, match=message):
        use(make())
