"""Gradual pruning against a loop in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsnn.arrays import keep_count
from jaxsnn.compress import gradual, states
from jaxsnn.errors import UserError

DRAW = np.random.default_rng(0)
START = DRAW.normal(size=(6, 5)).astype(np.float32)
TARGET = DRAW.normal(size=(6, 5)).astype(np.float32)
BEGIN, END, EVERY, STEPS = 2, 11, 3, 15


def written(initial, final):
    """Run the paper's algorithm as a loop; return weights and sparsities after each update."""
    weights, mask = START.copy(), np.ones(START.shape, bool)
    found = []
    for t in range(STEPS):
        if BEGIN <= t <= END and (t - BEGIN) % EVERY == 0:
            rest = 1 - (t - BEGIN) / (END - BEGIN)
            sparsity = final + (initial - final) * rest**3
            kept = int(np.round((1 - np.float32(sparsity)) * START.size))
            order = np.argsort(-np.abs(weights).ravel(), kind="stable")
            mask = np.zeros(START.size, bool)
            mask[order[:kept]] = True
            mask = mask.reshape(START.shape)
        weights = np.where(mask, weights - np.float32(0.2) * (weights - TARGET), 0)
        found.append((weights.astype(np.float32), mask.mean()))
    return found


def run(initial, final, inner=None, steps=STEPS):
    """Return the weights after each update, and the last state."""
    inner = optax.sgd(0.2) if inner is None else inner
    optimizer = optax.chain(
        inner,
        gradual.prune_gradually({"w": final}, begin=BEGIN, end=END, every=EVERY, initial=initial),
    )
    params = {"w": jnp.asarray(START)}

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update({"w": params["w"] - TARGET}, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params["w"]

    (_, state), history = jax.lax.scan(step, (params, optimizer.init(params)), length=steps)
    return history, state


single = jax.jit(run, static_argnums=(2, 3))


@pytest.mark.parametrize(("initial", "final"), [(0.0, 0.9), (0.3, 0.8)])
def test_weights_and_masks_are_those_of_the_loop(initial, final):
    history, state = jax.jit(lambda: run(initial, final))()
    for found, (expected, _) in zip(history, written(initial, final), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found == 0, expected == 0)
    masks = states.find(state, gradual.GradualState).masks
    assert int(masks["w"].sum()) == np.count_nonzero(history[-1]) == keep_count(final, START.size)


def test_nothing_is_pruned_before_the_ramp_and_nothing_changes_after_it():
    history, _ = single(0.0, 0.9)
    zeros = np.sum(np.asarray(history) == 0, (1, 2))
    assert zeros[:BEGIN].tolist() == [0] * BEGIN and np.all(np.diff(zeros) >= 0)
    after = np.asarray(history[END:]) != 0
    assert np.all(after == after[0])


def test_sparsities_can_be_swept():
    initial, final = jnp.asarray([0.0, 0.2]), jnp.asarray([0.5, 0.9])
    swept = jax.jit(jax.vmap(lambda i, f: run(i, f)[0]))(initial, final)
    for lane in range(2):
        alone, _ = single(initial[lane], final[lane])
        np.testing.assert_allclose(swept[lane], alone, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(swept[lane] == 0, alone == 0)


def test_ramps_can_be_swept():
    def counts(begin, end, every):
        optimizer = gradual.prune_gradually({"w": 0.8}, begin=begin, end=end, every=every)
        params = {"w": jnp.asarray(START)}

        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update({"w": jnp.zeros((6, 5))}, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), jnp.count_nonzero(params["w"])

        return jax.lax.scan(step, (params, optimizer.init(params)), length=9)[1]

    ramps = np.array([[0, 6, 3], [2, 8, 2]])
    swept = jax.jit(jax.vmap(counts))(*jnp.asarray(ramps).T)
    for (begin, end, every), found in zip(ramps, swept, strict=True):
        kept, expected = START.size, []
        for t in range(9):
            if begin <= t <= end and (t - begin) % every == 0:
                kept = keep_count(0.8 - 0.8 * (1 - (t - begin) / (end - begin)) ** 3, START.size)
            expected.append(kept)
        assert found.tolist() == expected


def test_momentum_and_weight_decay_do_not_revive_what_is_pruned():
    inner = optax.adamw(0.05, weight_decay=0.1)
    history, _ = jax.jit(lambda: run(0.0, 0.9, inner))()
    assert jnp.count_nonzero(history[-1]) == 3


def test_other_leaves_are_left_alone():
    optimizer = gradual.prune_gradually({"a": 0.5}, begin=0, end=1, every=1)
    params = {"a": jnp.ones(4), "b": jnp.ones(4)}
    state = optimizer.init(params)
    assert set(state.masks) == {"a"}
    updates, _ = optimizer.update({"a": jnp.ones(4), "b": jnp.ones(4)}, state, params)
    np.testing.assert_array_equal(updates["b"], jnp.ones(4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"final": {"w": 1.5}}, r"sparsity of 'w' must be in \[0, 1\], found 1.5"),
        ({"final": {"w": 0.99}}, "sparsity 0.99 would empty 'w'"),
        ({"final": {"x": 0.5}}, "'x' matches no leaf"),
        ({"end": 10}, "end must be begin 2 plus a multiple of every 3, found 10"),
        ({"end": 2}, "end must be begin 2 plus"),
        ({"every": 0}, "every must be in"),
        ({"begin": -1}, "begin must be in"),
        ({"initial": 2.0}, "initial sparsity must be in"),
    ],
)
def test_mistakes_are_named(options, message):
    options = {"final": {"w": 0.5}, "begin": BEGIN, "end": END, "every": EVERY} | options
    with pytest.raises(UserError, match=message):
        gradual.prune_gradually(**options).init({"w": jnp.asarray(START)})
