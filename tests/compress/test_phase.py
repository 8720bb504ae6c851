"""Phases against the calls that they stand for, number for number."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsnn import tree
from jaxsnn.compress import (
    grids,
    latent,
    latent_weights,
    phase,
    rescaling,
    rewiring,
    schedules,
    starting,
    transforms,
)
from jaxsnn.compress import projections as pr
from jaxsnn.errors import UserError

DRAW = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(DRAW.normal(size=shape), jnp.float32)


PARAMS = {"a": {"bias": normal(3), "kernel": normal(4, 3)}, "b": {"kernel": normal(3, 2)}}
TARGET = jax.tree.map(lambda p: normal(*p.shape), PARAMS)
RECIPE = {"*/kernel": pr.compose(pr.keep_largest(0.5), grids.uniform_grid(3, sweeps=3))}
EPOCHS, STEPS = 3, 4


def gradient(params):
    return jax.tree.map(lambda p, t: p - t, params, TARGET)


def steps_of(optimizer, params, state, num_steps=STEPS):
    def step(_, carry):
        params, state = carry
        updates, state = optimizer.update(gradient(params), state, params)
        return optax.apply_updates(params, updates), state

    return jax.lax.fori_loop(0, num_steps, step, (params, state))


def fit(this, params=PARAMS):
    """Run a phase as its module says; return what it leaves and the last parameters and state."""
    state, params = this.optimizer.init(params), this.begin(params)

    def epoch(carry, _):
        params, state = steps_of(this.optimizer, *carry)
        if this.after_epoch is not None:
            params, state = this.after_epoch(params, state)
        return (params, state), None

    (params, state), _ = jax.lax.scan(epoch, (params, state), length=EPOCHS)
    return this.finish(params, state), params, state


def assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.long
def test_quantized_is_latent_begun_visibly_and_snapped_at_last():
    optimizer = latent(optax.adam(0.1), RECIPE)

    @jax.jit
    def ritual():
        state, params = optimizer.init(PARAMS), pr.project(PARAMS, RECIPE)
        params, state = steps_of(optimizer, params, state, EPOCHS * STEPS)
        free = latent_weights.free_params(state, params)
        return latent_weights.snap(state, params, RECIPE), free, params

    @jax.jit
    def phases():
        (snapped, steps), params, _ = fit(phase.quantized(optax.adam(0.1), RECIPE))
        (free, none), _, _ = fit(phase.quantized(optax.adam(0.1), RECIPE, keep_free=True))
        return (snapped, free, params), steps, none

    found, steps, none = phases()
    assert_same(found, ritual())
    assert set(steps) == {"a/kernel", "b/kernel"} and none == {}
    for name, leaf in tree.named_leaves(found[0]).items():
        if name in steps:
            again = steps[name].encode(leaf)
            np.testing.assert_array_equal(again.decode(), leaf)
            assert jnp.max(jnp.abs(again.codes)) <= 3 and steps[name].bits == 3


@pytest.mark.long
def test_only_leaves_on_a_grid_get_a_step():
    recipe = {"a/kernel": grids.ternary_grid(), "*": pr.keep_largest(0.2)}
    this = phase.quantized(optax.sgd(0.1), recipe)
    finished = this.finish(PARAMS, this.optimizer.init(PARAMS))
    assert set(finished.steps) == {"a/kernel"}
    assert_same(finished.params, pr.project(PARAMS, recipe))


@pytest.mark.long
def test_the_rule_for_the_gradient_reaches_latent():
    quantizer = rescaling.rescaled(2)
    rule = rescaling.gradient_rule("inv_gamma", quantizer)
    recipe = {"*/kernel": quantizer}
    with_rule = fit(phase.quantized(optax.sgd(0.1), recipe, straight_through=rule))[0].params
    without = fit(phase.quantized(optax.sgd(0.1), recipe))[0].params
    assert jnp.any(with_rule["a"]["kernel"] != without["a"]["kernel"])


@pytest.mark.long
def test_pruned_is_a_chain_with_confine_begun_inside_the_masks():
    pruned, masks = pr.prune(PARAMS, {"*/kernel": pr.keep_largest(0.5)})
    optimizer = optax.chain(optax.adam(0.1), transforms.confine(masks))

    @jax.jit
    def ritual():
        return steps_of(optimizer, pruned, optimizer.init(pruned), EPOCHS * STEPS)[0]

    found, steps = jax.jit(lambda: fit(phase.pruned(optax.adam(0.1), masks))[0])()
    assert_same(found, ritual())
    assert steps == {} and jnp.count_nonzero(found["a"]["kernel"]) == 6


@pytest.mark.long
def test_pulled_is_a_chain_and_logs_its_residuals():
    recipe = {"*/kernel": pr.keep_largest(0.5)}
    _, masks = pr.prune(PARAMS, {"*/kernel": pr.keep_largest(0.2)})
    penalty = schedules.stepwise([0.1, 0.5], [6])
    pull = transforms.pull(recipe, penalty, STEPS)
    optimizer = optax.chain(pull, optax.adam(0.1), transforms.confine(masks))
    this = phase.pulled(optax.adam(0.1), recipe, penalty, every=STEPS, masks=masks)

    @jax.jit
    def ritual():
        params, state = steps_of(optimizer, PARAMS, optimizer.init(PARAMS), EPOCHS * STEPS)
        return params, transforms.residuals(state, params)

    (params, steps), _, state = jax.jit(lambda: fit(this))()
    expected, residuals = ritual()
    assert_same(params, expected)
    seen = jax.jit(this.observe)(params, state)
    assert steps == {} and seen.pop("penalty") == 0.5
    for name in ("a/kernel", "b/kernel"):
        np.testing.assert_allclose(seen.pop(f"primal/{name}"), residuals[name].primal, rtol=1e-6)
        np.testing.assert_allclose(seen.pop(f"dual/{name}"), residuals[name].dual, rtol=1e-6)
    assert not seen


@pytest.mark.long
@pytest.mark.parametrize("growth", [rewiring.by_momentum, rewiring.at_random])
def test_rewired_moves_masks_after_each_epoch_but_the_last(growth):
    masks, key = starting.random_masks(jax.random.key(0), PARAMS, 0.5), jax.random.key(1)
    inner, total = optax.sgd(0.1, momentum=0.9), EPOCHS * STEPS
    optimizer, rate = rewiring.sparse(inner, masks), rewiring.prune_rate(total)

    epoch_of = jax.jit(lambda params, state: steps_of(optimizer, params, state))

    @jax.jit
    def rewire(state, params, count):
        drawn = jax.random.fold_in(key, count)
        return rewiring.rewire(state, params, rate(count), growth=growth, key=drawn)

    def ritual():
        params = phase.pruned(inner, masks).begin(PARAMS)
        state = optimizer.init(PARAMS)
        for epoch in range(EPOCHS):
            params, state = epoch_of(params, state)
            if epoch < EPOCHS - 1:
                state, params = rewire(state, params, (epoch + 1) * STEPS)
        return params, state.confined.masks

    this = phase.rewired(inner, masks, total, growth=growth, key=key)
    (params, steps), _, state = jax.jit(lambda: fit(this))()
    found = state.confined.masks
    others, expected = ritual()
    assert_same(found, expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), params, others)
    assert steps == {} and jnp.any(found["a"]["kernel"] != masks["a"]["kernel"])
    seen = this.observe(params, state)
    assert set(seen) == {"prune_rate", "density/a/kernel", "density/b/kernel"}
    np.testing.assert_allclose(seen["prune_rate"], rate(total), rtol=1e-6)
    np.testing.assert_allclose(seen["density/a/kernel"], jnp.mean(found["a"]["kernel"]))


def test_gradually_pruned_ends_at_its_sparsity_and_logs_densities():
    final = {"*/kernel": 0.5}
    this = phase.gradually_pruned(optax.adam(0.1), final, begin=0, end=8, every=2)
    (params, _), _, state = jax.jit(lambda: fit(this))()
    assert jnp.count_nonzero(params["a"]["kernel"]) == 6
    assert this.observe(params, state) == {"density/a/kernel": 0.5, "density/b/kernel": 0.5}


@pytest.mark.long
def test_phases_with_traced_numbers_are_swept():
    def lane(bits, sparsity):
        recipe = {"*/kernel": pr.compose(pr.keep_largest(sparsity), grids.uniform_grid(bits))}
        return fit(phase.quantized(optax.sgd(0.1), recipe))[0]

    bits, sparsities = jnp.asarray([2, 4]), jnp.asarray([0.5, 0.25])
    swept = jax.jit(jax.vmap(lane))(bits, sparsities)
    for i in range(2):
        alone = jax.jit(lane)(bits[i], sparsities[i])
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-5), swept, alone)


@pytest.mark.long
def test_the_state_may_come_from_a_wrapper_of_the_optimizer():
    this = phase.quantized(optax.sgd(0.1), {"*/kernel": grids.binary_grid()})
    optimizer = optax.MultiSteps(this.optimizer, 2)
    state, params = optimizer.init(PARAMS), this.begin(PARAMS)
    params, state = jax.jit(lambda p, s: steps_of(optimizer, p, s))(params, state)
    inner, shown = this.optimizer.init(PARAMS), this.begin(PARAMS)
    shown, inner = jax.jit(lambda p, s: steps_of(this.optimizer, p, s, 2))(shown, inner)
    found, expected = this.finish(params, state).params, this.finish(shown, inner).params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)


# ---- networks ----


class Net(NamedTuple):
    params: Any
    steps: dict[str, Any] = {}

    def replace(self, **parts):
        return self._replace(**parts)


@pytest.mark.long
def test_projecting_a_network_keeps_its_steps_in_order():
    net = pr.project(Net(PARAMS), {"*/kernel": grids.ternary_grid()})
    assert set(net.steps) == {"a/kernel", "b/kernel"}
    pruned, masks = pr.prune(net, {"a/kernel": pr.keep_largest(0.75)})
    assert set(pruned.steps) == {"b/kernel"}
    assert jnp.count_nonzero(pruned.params["a"]["kernel"]) == jnp.sum(masks["a"]["kernel"]) <= 3
    assert masks["b"]["kernel"].shape == ()
    assert pruned.params["b"]["kernel"] is net.params["b"]["kernel"]


def test_pruning_a_tree_gives_a_tree_and_its_masks():
    pruned, masks = pr.prune(PARAMS, {"*/kernel": pr.keep_largest(0.5)})
    assert_same(pruned["a"]["kernel"] != 0, masks["a"]["kernel"])
    assert pruned["a"]["bias"] is PARAMS["a"]["bias"] and masks["a"]["bias"].item() is True


# ---- what is no phase ----


def test_a_plain_optimizer_is_a_phase_that_adds_nothing():
    plain = phase.as_phase(optax.adam(0.1))
    assert phase.as_phase(plain) is plain
    (params, steps), shown, _ = fit(plain)
    assert params is shown and steps == {} and plain.begin(PARAMS) is PARAMS
    assert plain.observe is None and plain.after_epoch is None


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: phase.as_phase(0.1), "optimizer must be an optax optimizer or a Phase .*float"),
        (lambda: phase.as_phase(RECIPE, name="tune"), "tune must be .* found dict"),
        (lambda: phase.quantized(RECIPE, RECIPE), "inner must be an optax optimizer, found dict"),
        (
            lambda: phase.pruned(phase.as_phase(optax.sgd(0.1)), {}),
            "inner must be an optax optimizer, found Phase",
        ),
    ],
)
def test_mistakes_are_named(run, message):
    with pytest.raises(UserError, match=message):
        run()
