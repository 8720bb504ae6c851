"""The ADMM system on a problem whose answer is known: a sparse teacher, recovered."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsnn import tree
from jaxsnn.compress import find, fit, transforms
from jaxsnn.compress.masks import density
from jaxsnn.errors import UserError
from jaxsnn.methods import admm

# Inputs with correlations: which weights are small in the dense optimum does not tell which can go.
MIXED = np.random.default_rng(0).normal(size=(64, 8)) @ (
    np.eye(8) + 0.3 * np.random.default_rng(1).normal(size=(8, 8))
)
INPUTS = jnp.asarray(MIXED, jnp.float32)
EVERY, NUM_STEPS = 20, 600


def loss_with(teacher):
    return lambda params: (
        jnp.mean((INPUTS @ (params["out"]["kernel"] - teacher)) ** 2)
        + jnp.mean(params["out"]["bias"] ** 2)
    )


def train(optimizer, params, loss, num_steps):
    def run(params, state):
        def step(_, carry):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, num_steps, step, (params, state))

    return jax.jit(run)(params, optimizer.init(params))


def normal(seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(8, 3)), jnp.float32)


def dense_solution(loss):
    start = {"out": {"bias": jnp.ones(3), "kernel": 0.3 * normal(2)}}
    return train(optax.adam(optax.cosine_decay_schedule(0.05, 400)), start, loss, 400)[0]


def test_pruning_pulls_the_weights_to_the_set_and_beats_one_shot():
    loss = loss_with(normal(3))
    dense = dense_solution(loss)
    recipe = admm.prune_recipe(0.5)
    pulling = admm.optimizer(
        optax.cosine_decay_schedule(0.02, NUM_STEPS),
        recipe,
        penalty=admm.penalty_schedule(NUM_STEPS, initial=0.1),
        every=EVERY,
    )
    pulled, state = train(pulling, dense, loss, NUM_STEPS)
    pull_state = find(state, transforms.PullState)
    np.testing.assert_allclose(pull_state.penalty, 10.0, rtol=1e-6)
    assert transforms.residuals(pull_state, pulled)["out/kernel"].primal < 1e-2

    found, masks = admm.hard_prune(pulled, recipe)
    rival, rival_masks = admm.hard_prune(dense, recipe)
    assert density(masks, found) == density(rival_masks, rival) == 0.5
    assert masks["out"]["bias"].shape == ()
    assert loss(found) < loss(rival)
    # The same budget again, on each one's own masks.
    found, _ = train(admm.retrain_masked(0.02, masks), found, loss, 200)
    rival, _ = train(admm.retrain_masked(0.02, rival_masks), rival, loss, 200 + NUM_STEPS)
    assert not jnp.any(jnp.where(masks["out"]["kernel"], 0, found["out"]["kernel"]))
    assert loss(found) < loss(rival)


@pytest.mark.parametrize(("levels", "bits"), [("ternary", None), ("pow2", 3)])
def test_joint_pruning_and_quantization_recovers_a_planted_network(levels, bits):
    support = jnp.asarray(np.random.default_rng(4).permutation(24).reshape(8, 3) < 12)
    teacher = 0.7 * jnp.where(support, jnp.sign(normal(5)), 0)
    loss = loss_with(teacher)
    pruned, masks = admm.hard_prune(dense_solution(loss), admm.prune_recipe(0.5))
    np.testing.assert_array_equal(masks["out"]["kernel"], support)

    recipe = admm.quantize_recipe(levels, bits, masks=masks)
    pulling = admm.optimizer(0.01, recipe, penalty=1.0, every=EVERY, masks=masks)
    pulled, _ = train(pulling, pruned, loss, 60)
    assert not jnp.any(jnp.where(support, 0, pulled["out"]["kernel"]))

    quantized, state = train(admm.retrain_quantized(0.01, recipe), pulled, loss, 60)
    exported = transforms.snap(recipe, state, quantized)
    kernel = exported["out"]["kernel"]
    np.testing.assert_allclose(kernel, teacher, atol=0.1)
    assert not jnp.any(jnp.where(support, 0, kernel))
    scale, codes = fit(recipe["out/kernel"], state.free["out/kernel"])
    np.testing.assert_array_equal(scale * codes, kernel)
    hard = admm.hard_quantize(pulled, recipe)["out"]["kernel"]
    assert len(set(np.asarray(hard).ravel().tolist())) <= 7


def test_the_two_set_recipe_prunes_then_quantizes_the_survivors():
    leaf = jnp.asarray([[0.5, -2.0], [0.1, 4.0]])
    out = admm.joint_recipe(0.5, "binary")["*/kernel"](leaf)
    assert out.tolist() == [[0, -3], [0, 3]]


def test_the_penalty_grows_tenfold_after_each_third():
    schedule = admm.penalty_schedule(90)
    found = [schedule(count) for count in (0, 29, 30, 59, 60, 1000)]
    np.testing.assert_allclose(found, [1e-3, 1e-3, 1e-2, 1e-2, 1e-1, 1e-1], rtol=1e-6)


def test_recipes_take_one_share_or_one_for_each_layer():
    params = {"conv1": {"kernel": jnp.ones(10)}, "out": {"kernel": jnp.arange(1.0, 11)}}
    for sparsity, kept in ((0.5, [5, 5]), ({"conv1/*": 0.2, "*": 0.9}, [8, 1])):
        pruned, _ = admm.hard_prune(params, admm.prune_recipe(sparsity))
        assert [int(jnp.count_nonzero(x)) for x in tree.named_leaves(pruned).values()] == kept


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: admm.prune_recipe(1.5), r"sparsity must be in \[0, 1\], found 1.5"),
        (lambda: admm.quantize_recipe("pow2"), r"'pow2' need a number of bits"),
        (lambda: admm.quantize_recipe("uniform", 0), r"bits must be in \[2, 16\], found 0"),
        (lambda: admm.quantize_recipe("octal"), r"levels must be .* found 'octal'"),
    ],
)
def test_mistakes_are_one_clear_line(make, message):
    with pytest.raises(UserError, match=message):
        make()
