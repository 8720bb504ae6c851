"""One contract for all transformations, and the doors of other people's loops."""

from functools import cache, partial

import equinox as eqx
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from flax import nnx

from jaxsnn import tree
from jaxsnn.compress import (
    averaging,
    confine,
    grids,
    latent,
    learned_bits,
    learned_scales,
    masks,
    mixed,
    n_of_m,
    prune_gradually,
    pull,
    rescaling,
    rewiring,
    snap,
)
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

BITS = np.array([0, 2, 4])  # of the channels of a/kernel
RESCALED = rescaling.rescaled(2)
INV_GAMMA = rescaling.gradient_rule("inv_gamma", RESCALED)

# One row for each transformation; a new one is a new row.
CONTRACT = {
    "pull": lambda rate=0.1: pull(RECIPE, rate, 2),
    "pull norm": lambda rate=0.1: pull(RECIPE, rate, 2, mode="norm"),
    "latent": lambda rate=0.1: latent(optax.sgd(rate, momentum=0.9), RECIPE),
    "latent rescaled": lambda rate=0.1: latent(
        optax.adam(rate), {"*/kernel": RESCALED}, straight_through=INV_GAMMA
    ),
    "latent per channel": lambda rate=0.1: latent(
        optax.sgd(rate), {"*/kernel": grids.uniform_grid(3, per="channel")}
    ),
    "confine": lambda rate=0.1: optax.chain(optax.scale(-rate), confine(MASKS)),
    "gradual": lambda rate=0.1: optax.chain(
        optax.scale(-rate), prune_gradually({"*/kernel": 0.5}, begin=0, end=2, every=1)
    ),
    "sparse": lambda rate=0.1: rewiring.sparse(
        optax.sgd(rate, momentum=0.9), MASKS, keep_gradient=True
    ),
    "latent n of m": lambda rate=0.1: latent(
        optax.sgd(rate), pr.restrict({"*/kernel": n_of_m(1, 3)}, MASKS)
    ),
    "learned scales": lambda rate=0.1: (
        learned_scales(
            optax.sgd(rate, momentum=0.9),
            {"*/kernel": 3},
            per="channel",
            masks=MASKS,
            scales=optax.sgd(rate),
        ).optimizer
    ),
    "learned bits": lambda rate=0.1: (
        learned_bits(optax.sgd(rate), {"*/kernel": 1 / 8}, 6.0).optimizer
    ),
    "averaged": lambda rate=0.1: averaging.averaged(optax.sgd(rate), 0.5).optimizer,
    "mixed": lambda rate=0.1: latent(
        optax.sgd(rate), mixed.recipe({"a/kernel": BITS, "b/kernel": 4}, per="channel")
    ),
}
SLOW = {"averaged", "latent n of m", "learned bits", "mixed"}  # as the rows before, with other sets


def rows(values):
    """Return the cases of a test, one for each row."""
    marks = (pytest.mark.slow if name in SLOW else () for name in CONTRACT)
    return [
        pytest.param(value, id=name, marks=mark)
        for value, name, mark in zip(values, CONTRACT, marks, strict=True)
    ]


every_transform = pytest.mark.parametrize("make", rows(CONTRACT.values()))
every_name = pytest.mark.parametrize("name", rows(CONTRACT))
RATE = 0.25  # not the default


@cache
def trained(name):
    """Return what some updates of a row make of the parameters: what the doors are held against."""
    return steps_of(CONTRACT[name](RATE), PARAMS, GRADIENTS)[0]


# ---- the contract ----


@every_transform
def test_contract_unknown_extra_arguments_are_ignored(make):
    optimizer = make()

    @jax.jit
    def run():
        state = optimizer.init(PARAMS)
        extra = optimizer.update(GRADIENTS, state, PARAMS, loss=1.0, activity=None)
        return extra, optimizer.update(GRADIENTS, state, PARAMS)

    assert_trees_close(*run())


@every_transform
def test_contract_a_second_call_does_not_recompile_and_types_stay(make):
    optimizer = make()
    traces = []

    @jax.jit
    def step(params, state):
        traces.append(1)
        updates, state = optimizer.update(GRADIENTS, state, params)
        return optax.apply_updates(params, updates), state, updates

    state = jax.jit(optimizer.init)(PARAMS)
    params, after, updates = step(PARAMS, state)
    step(params, after)
    assert len(traces) == 1
    assert jax.tree.structure(after) == jax.tree.structure(state)
    types, types_after = (
        [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(each)] for each in (state, after)
    )
    assert types_after == types
    assert [u.dtype for u in jax.tree.leaves(updates)] == [p.dtype for p in jax.tree.leaves(PARAMS)]


@every_transform
def test_contract_the_state_passes_through_a_cond(make):
    optimizer = make()
    state = jax.jit(optimizer.init)(PARAMS)

    def update(operand):
        return optimizer.update(GRADIENTS, operand, PARAMS)

    out = jax.jit(lambda on: jax.lax.cond(on, update, lambda s: (GRADIENTS, s), state))(True)
    assert_trees_close(out, jax.jit(update)(state))


@every_name
def test_contract_hyperparameters_can_be_injected(name):
    injected = optax.inject_hyperparams(CONTRACT[name])(rate=RATE)
    params, state = steps_of(injected, PARAMS, GRADIENTS)
    assert_trees_close(params, trained(name))
    assert state.hyperparams["rate"] == RATE


@pytest.mark.long
@every_transform
def test_contract_vmap_equals_a_loop(make):
    rates = jnp.asarray([0.05, 0.2])
    stacked = jax.vmap(lambda rate: steps_of(make(rate), PARAMS, GRADIENTS)[0])(rates)
    loop = jax.lax.map(lambda rate: steps_of(make(rate), PARAMS, GRADIENTS)[0], rates)
    assert_trees_close(stacked, loop)


@every_transform
def test_contract_parameters_and_state_can_be_donated_together(make):
    params = jax.tree.map(jnp.array, PARAMS)
    state = optax.inject_hyperparams(make)(rate=jnp.float32(0.1)).init(params)
    buffers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves((params, state))]
    assert len(set(buffers)) == len(buffers)


@every_transform
def test_contract_missing_parameters_are_a_clear_error(make):
    optimizer = make()
    with pytest.raises(UserError, match="needs the parameters"):
        optimizer.update(GRADIENTS, optimizer.init(PARAMS))


def linen_tree():
    layers = flax.linen.Sequential([flax.linen.Dense(4), flax.linen.Dense(2)])
    return layers.init(jax.random.key(0), jnp.zeros((1, 3))), "*/kernel"


def equinox_arrays():
    return eqx.filter(eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0)), eqx.is_array), "*/weight"


@pytest.mark.long
@pytest.mark.parametrize("make", [linen_tree, equinox_arrays, lambda: (PARAMS, "*/kernel")])
def test_all_three_work_on_any_tree_of_arrays(make):
    params, where = make()
    recipe = {where: pr.keep_largest(0.5)}
    kept = masks.keep_fraction(params, {where: 0.5})
    optimizer = optax.chain(
        pull(recipe, 0.1, 2),
        latent(optax.adam(0.01), recipe),
        confine(kept),
    )
    params, _ = steps_of(optimizer, params, jax.tree.map(jnp.ones_like, params))
    selected = tree.match({where: True}, params)
    for name, leaf in tree.named_leaves(params).items():
        if name in selected:
            assert 0 < jnp.count_nonzero(leaf) <= leaf.size // 2


# ---- the doors ----


KERNELS = tree.map_named(lambda name, _: name.endswith("kernel"), PARAMS)
LABELS = jax.tree.map(lambda kernel: "kernels" if kernel else "others", KERNELS)


class Two(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.a = nnx.Linear(4, 3, rngs=rngs)
        self.b = nnx.Linear(3, 2, use_bias=False, param_dtype=jnp.bfloat16, rngs=rngs)


def only_kernels(params):
    return {name: leaf for name, leaf in tree.named_leaves(params).items() if "kernel" in name}


@pytest.mark.long
@every_name
def test_doors_nnx_optimizer(name):
    model, gradients = Two(), Two()
    nnx.update(model, PARAMS)
    nnx.update(gradients, GRADIENTS)
    optimizer = nnx.Optimizer(model, CONTRACT[name](RATE), wrt=nnx.Param)
    update = nnx.jit(lambda optimizer, model, gradients: optimizer.update(model, gradients))
    for _ in range(3):
        update(optimizer, model, nnx.state(gradients, nnx.Param))
    found = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    assert_trees_close(found, trained(name))


def test_doors_the_state_of_an_nnx_optimizer_can_be_snapped():
    model = Two()
    nnx.update(model, PARAMS)
    optimizer = nnx.Optimizer(model, CONTRACT["latent"](), wrt=nnx.Param)
    state, params = nnx.as_pure(optimizer.opt_state), nnx.as_pure(nnx.state(model, nnx.Param))
    snapped = snap(state, params, RECIPE)
    assert_trees_close(only_kernels(snapped), only_kernels(pr.project(PARAMS, RECIPE)))


@pytest.mark.long
@every_name
def test_doors_masked_and_partition(name):
    make, expected = partial(CONTRACT[name], RATE), trained(name)
    parts = {"kernels": make(), "others": optax.sgd(0.1)}
    for optimizer in (optax.masked(make(), KERNELS), optax.partition(parts, LABELS)):
        found, _ = steps_of(optimizer, PARAMS, GRADIENTS)
        assert_trees_close(only_kernels(found), only_kernels(expected))


@every_transform
def test_doors_tree_map_params_sees_the_stored_leaves_and_nothing_else(make):
    optimizer = make()
    state = optimizer.init(PARAMS)
    doubled = optax.tree_map_params(optimizer, lambda leaf: 2 * leaf, state)
    assert jax.tree.structure(doubled) == jax.tree.structure(state)
    stored = {"auxiliary", "dual", "free", "mean", "trace", "mu", "nu", "gradient"}
    for (path, before), (_, after) in zip(
        *(jax.tree_util.tree_flatten_with_path(each)[0] for each in (state, doubled)), strict=True
    ):
        is_stored = any(getattr(key, "name", None) in stored for key in path)
        if before.dtype != bool:
            np.testing.assert_array_equal(after, before * 2 if is_stored else before)


@every_name
def test_doors_multi_steps(name):
    optimizer = optax.MultiSteps(CONTRACT[name](RATE), 2)
    found, _ = steps_of(optimizer, PARAMS, GRADIENTS, num_steps=6)
    assert_trees_close(found, trained(name))


@every_transform
def test_doors_apply_if_finite(make):
    optimizer = optax.apply_if_finite(make(), 3)

    @jax.jit
    def run():
        state = optimizer.init(PARAMS)
        bad, state = optimizer.update(jax.tree.map(lambda g: g * jnp.nan, GRADIENTS), state, PARAMS)
        return bad, optimizer.update(GRADIENTS, state, PARAMS)[0]

    bad, good = run()
    assert not any(jnp.any(u) for u in jax.tree.leaves(bad))
    plain = make()
    update = jax.jit(lambda: plain.update(GRADIENTS, plain.init(PARAMS), PARAMS)[0])
    assert_trees_close(good, update())


def test_doors_ema_and_schedule_free_go_inside():
    recipe = {"w": pr.keep_largest(0.5)}
    params, gradient = {"w": normal(6)}, {"w": normal(6)}
    free = optax.contrib.schedule_free(optax.sgd(0.1), 0.1)
    smooth = optax.chain(optax.ema(0.9), optax.sgd(0.1))
    for inner in (free, smooth):
        found, state = steps_of(latent(inner, recipe), pr.project(params, recipe), gradient)
        np.testing.assert_allclose(found["w"], recipe["w"](state.free["w"]), rtol=1e-6)
        expected, _ = steps_of(inner, pr.project(params, recipe), gradient)
        np.testing.assert_allclose(state.free["w"], expected["w"], rtol=1e-5, atol=1e-7)


def test_doors_schedule_free_keeps_pruned_weights_zero():
    kept = {"w": jnp.asarray([True, False, True])}
    params = {"w": jnp.asarray([1.0, 0.0, 2.0])}
    inside = optax.chain(optax.sgd(0.1), confine(kept))
    optimizer = optax.contrib.schedule_free(inside, 0.1)
    params, state = steps_of(optimizer, params, {"w": jnp.ones(3)})
    shown = optax.contrib.schedule_free_eval_params(state, params)
    assert (params["w"] != 0).tolist() == (shown["w"] != 0).tolist() == [True, False, True]
