"""The ADMM method: a planted sparse teacher, recovered; what `compress` does with which options."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsnn import compress, data, models, train, tree
from jaxsnn.compress import transforms
from jaxsnn.compress.masks import kept_share
from jaxsnn.compress.phase import as_phase
from jaxsnn.errors import UserError
from jaxsnn.methods import admm
from jaxsnn.options import replaced

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


def run(phase, params, loss, num_steps):
    """Return the parameters after a phase on a loss, and the optimizer's state."""
    phase = as_phase(phase)

    def loop(params, state):
        def step(_, carry):
            params, state = carry
            updates, state = phase.optimizer.update(jax.grad(loss)(params), state, params)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, num_steps, step, (phase.begin(params), state))

    params, state = jax.jit(loop)(params, phase.optimizer.init(params))
    return phase.finish(params, state), state


def normal(seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(8, 3)), jnp.float32)


def dense_solution(loss):
    start = {"out": {"bias": jnp.ones(3), "kernel": 0.3 * normal(2)}}
    return run(optax.adam(optax.cosine_decay_schedule(0.05, 400)), start, loss, 400)[0].params


@pytest.mark.long
def test_pruning_pulls_the_weights_to_the_set_and_beats_one_shot():
    loss = loss_with(normal(3))
    dense = dense_solution(loss)
    recipe = admm.prune_recipe(0.5)
    penalty = admm.penalty_schedule(NUM_STEPS, initial=0.1)
    adam = optax.adam(optax.cosine_decay_schedule(0.02, NUM_STEPS))
    pulled, state = run(compress.pulled(adam, recipe, penalty, every=EVERY), dense, loss, NUM_STEPS)
    np.testing.assert_allclose(
        compress.states.find(state, transforms.PullState).penalty, 10.0, rtol=1e-6
    )
    assert transforms.residuals(state, pulled.params)["out/kernel"].primal < 1e-2

    found, masks = compress.prune(pulled.params, recipe)
    rival, rival_masks = compress.prune(dense, recipe)
    assert kept_share(masks, found) == kept_share(rival_masks, rival) == 0.5
    assert masks["out"]["bias"].shape == ()
    assert loss(found) < loss(rival)
    # The same budget again, on each one's own masks.
    found = run(compress.pruned(optax.adam(0.02), masks), found, loss, 200)[0].params
    rival_phase = compress.pruned(optax.adam(0.02), rival_masks)
    rival = run(rival_phase, rival, loss, 200 + NUM_STEPS)[0].params
    assert not jnp.any(jnp.where(masks["out"]["kernel"], 0, found["out"]["kernel"]))
    assert loss(found) < loss(rival)


@pytest.mark.long
@pytest.mark.parametrize(("levels", "bits"), [("ternary", None), ("pow2", 3)])
def test_joint_pruning_and_quantization_recovers_a_planted_network(levels, bits):
    support = jnp.asarray(np.random.default_rng(4).permutation(24).reshape(8, 3) < 12)
    teacher = 0.7 * jnp.where(support, jnp.sign(normal(5)), 0)
    loss = loss_with(teacher)
    pruned, masks = compress.prune(dense_solution(loss), admm.prune_recipe(0.5))
    np.testing.assert_array_equal(masks["out"]["kernel"], support)

    recipe = admm.quantize_recipe(levels, bits, masks=masks)
    pulling = compress.pulled(optax.adam(0.01), recipe, 1.0, every=EVERY, masks=masks)
    near = run(pulling, pruned, loss, 60)[0].params
    assert not jnp.any(jnp.where(support, 0, near["out"]["kernel"]))

    (exported, steps), _ = run(compress.quantized(optax.adam(0.01), recipe), near, loss, 60)
    kernel = exported["out"]["kernel"]
    np.testing.assert_allclose(kernel, teacher, atol=0.1)
    assert not jnp.any(jnp.where(support, 0, kernel))
    np.testing.assert_array_equal(steps["out/kernel"].encode(kernel).decode(), kernel)
    hard = compress.project(near, recipe)["out"]["kernel"]
    assert len(set(np.asarray(hard).ravel().tolist())) <= 7


def test_the_two_set_recipe_prunes_then_quantizes_the_survivors():
    leaf = jnp.asarray([[0.5, -2.0], [0.1, 4.0]])
    out = admm.joint_recipe(0.5, "binary")["*/kernel"](leaf)
    assert out.tolist() == [[0, -3], [0, 3]]


def test_the_penalty_grows_tenfold_after_each_third():
    schedule = admm.penalty_schedule(90)
    found = [schedule(count) for count in (0, 29, 30, 59, 60, 1000)]
    np.testing.assert_allclose(found, [1e-3, 1e-3, 1e-2, 1e-2, 1e-1, 1e-1], rtol=1e-6)


@pytest.mark.long
def test_bits_may_differ_from_layer_to_layer():
    leaf = jnp.asarray([[0.5, -2.0], [0.1, 4.0]])
    recipe = admm.joint_recipe({"a": 0.5}, "uniform", {"a": 2, "b": 3})
    pruned = compress.keep_largest(0.5)(leaf)
    expected = compress.uniform_grid(2, keep_zeros=True)(pruned)
    assert recipe["a"](leaf).tolist() == expected.tolist()
    assert recipe["b"](leaf).tolist() == compress.uniform_grid(3)(leaf).tolist()


def test_recipes_take_one_share_or_one_for_each_layer():
    params = {"conv1": {"kernel": jnp.ones(10)}, "out": {"kernel": jnp.arange(1.0, 11)}}
    for sparsity, kept in ((0.5, [5, 5]), ({"conv1/*": 0.2, "*": 0.9}, [8, 1])):
        pruned, _ = compress.prune(params, admm.prune_recipe(sparsity))
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


# --- The whole method -----------------------------------------------------------------------------

OPTIONS = admm.Options(sparsity=0.5, bits=2, spike_weight=0.25, pull_epochs=2, retrain_epochs=1,
                       batch_size=30)  # fmt: skip


@pytest.fixture(scope="module")
def problem():
    digits = data.load("digits", limit=100)
    return (
        models.build("16-10", digits.shape, seed=0),
        train.Task(digits.inputs(timesteps=2)),
        digits,
    )


class Untrained:
    """A `fit` that only begins and finishes its phases, and notes them."""

    def __init__(self):
        self.phases = []

    def __call__(self, task, phase, net, split, *, epochs, name, **options):
        phase = as_phase(phase)
        self.phases.append((name, epochs, task.spike_weight))
        state = phase.optimizer.init(net.params)
        params, steps = phase.finish(phase.begin(net.params), state)
        return net.replace(params=params, steps=steps)


SEQUENCE = [("prune pull", 2, 0.25), ("prune retrain", 1, 0.25), ("quantize pull", 2, 0.25),
            ("quantize retrain", 1, 0.25)]  # fmt: skip
CASES = {
    "sequence": ({}, SEQUENCE),
    "together": ({"order": "together"}, [("pull", 2, 0.25), ("retrain", 1, 0.25)]),
    "prune only": ({"bits": None}, SEQUENCE[:2]),
    "quantize only": ({"sparsity": 0.0}, SEQUENCE[2:]),
    "quieten only": ({"bits": None, "sparsity": 0.0}, [("activity", 1, 0.25)]),
    "per layer": ({"sparsity": {"dense1": 0.5}, "bits": {"dense*": 2}}, SEQUENCE),
}


@pytest.mark.long
@pytest.mark.parametrize(
    "case", [pytest.param(x, marks=[pytest.mark.slow] * (" only" in x)) for x in CASES]
)
def test_what_is_left_out_of_the_options_is_not_done(problem, case):
    changes, phases = CASES[case]
    options, fit = replaced(OPTIONS, **changes), Untrained()
    result = admm.compress(*problem, options, fit=fit)
    epochs = sum(epochs for _, epochs, _ in phases)
    assert fit.phases == [*phases, ("dense control", epochs, 0.0)]
    assert admm.epochs_of(options) == epochs
    assert list(result.networks) == ["dense", "dense control", "compressed"]
    dense, control, compressed = result.report.rows
    assert (dense.density, dense.bits) == (control.density, control.bits) == (1, 32)
    assert compressed.bits == (32 if options.bits is None else 2)
    layers = {layer.name: layer.density for layer in compressed.layers if layer.shape}
    if isinstance(options.sparsity, Mapping):
        assert layers["dense1"] <= 0.5 < layers["dense2"]
    elif options.bits is None:
        assert compressed.density == pytest.approx(1 - options.sparsity, abs=2e-3)
    else:  # the grid has a level 0, on which survivors may land
        assert compressed.density <= 1 - options.sparsity + 2e-3


@pytest.mark.long
def test_the_control_may_be_left_out_or_as_long_as_another_way(problem):
    fit = Untrained()
    result = admm.compress(*problem, replaced(OPTIONS, control=False), fit=fit)
    assert list(result.networks) == ["dense", "compressed"]
    assert fit.phases == SEQUENCE
    admm.control(*problem, OPTIONS, epochs=5, fit=fit)
    assert fit.phases[-1] == ("dense control", 5, 0.0)


@pytest.mark.long
def test_the_authors_script_has_one_penalty_and_one_step_size(problem):
    seen = {}

    def fit(task, phase, net, split, *, name, **options):
        params, state = net.params, phase.optimizer.init(net.params)
        for _ in range(2):  # Adam moves each weight by its step size
            updates = jax.tree.map(jnp.ones_like, params)
            updates, state = phase.optimizer.update(updates, state, params)
        seen[name] = (
            updates["dense1"]["bias"][0],
            compress.states.find(state, transforms.PullState) if "pull" in name else None,
        )
        return net

    script = replaced(OPTIONS, penalty_mode="norm", penalty_growth=1, schedule="constant",
                      learning_rate=0.125, pull_epochs=1, bits=None, control=False)  # fmt: skip
    admm.compress(*problem, script, fit=fit)
    assert seen["prune pull"][1].penalty == script.penalty
    for step, _ in seen.values():
        assert step == pytest.approx(-0.125, rel=1e-4)


def test_one_shot_pruning_trains_as_long_and_keeps_as_many(problem):
    fit = Untrained()
    cut, masks = admm.one_shot(*problem, OPTIONS, fit=fit)
    rival, _ = admm.prune(*problem, OPTIONS, fit=fit)
    assert fit.phases[0] == ("one-shot retrain", 3, 0.25)
    for one, other in zip(jax.tree.leaves(cut.params), jax.tree.leaves(rival.params), strict=True):
        assert int(jnp.count_nonzero(one)) == int(jnp.count_nonzero(other))
    assert kept_share(masks, cut.params) == pytest.approx(0.5, abs=2e-3)


def test_the_weight_on_spikes_is_added_to_that_of_the_task(problem):
    net, task, digits = problem
    fit = Untrained()
    quieter = train.Task(task.inputs, spike_weight=0.5)
    admm.quieten(net, quieter, digits, OPTIONS, fit=fit)
    assert fit.phases == [("activity", 1, 0.75)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sparsity": 1.5}, r"sparsity must be in \[0, 1\), found 1.5"),
        ({"bits": 0}, r"bits must be .*1.*8.* found 0"),
        ({"bits": 1}, r"bits of the levels uniform must be .*2.* found 1"),
        ({"levels": "pow2", "bits": 7}, r"bits of the levels pow2 must be .* found 7"),
        ({"penalty": 0}, r"penalty must be in \(0, inf\), found 0"),
        ({"pull_epochs": 0}, r"pull_epochs must be .* found 0"),
    ],
)
def test_options_out_of_range_are_refused_by_name(changes, message):
    with pytest.raises(UserError, match=message):
        admm.Options(**changes)


@pytest.mark.parametrize(
    ("sparsity", "message"),
    [(0.9999, "would empty 'dense"), ({"conv1": 0.5}, r"'conv1/\*' matches no leaf")],
)
def test_a_sparsity_that_does_not_fit_is_refused_before_training(problem, sparsity, message):
    fit = Untrained()
    with pytest.raises(UserError, match=message):
        admm.compress(*problem, replaced(OPTIONS, sparsity=sparsity), fit=fit)
    assert not fit.phases


@pytest.mark.long
@pytest.mark.parametrize(("levels", "bits"), [("ternary", None), ("uniform", 3)])
def test_levels_have_a_scale_for_each_output_channel_where_asked(levels, bits):
    leaf = normal(5) * jnp.asarray([[1.0, 10.0, 100.0]])
    kept = jnp.ones((8, 3), bool).at[0].set(False)
    (masked,) = admm.quantize_recipe(
        levels, bits, masks={"out": {"kernel": kept}}, per="channel"
    ).values()
    alone = admm.grid(levels, bits, keep_zeros=True)
    expected = jnp.stack([alone(leaf[1:, i]) for i in range(3)], 1)
    np.testing.assert_allclose(masked(leaf)[1:], expected, rtol=1e-5)
    np.testing.assert_array_equal(masked(leaf)[0], 0)
    joint = admm.joint_recipe(0.0, levels, bits, per="channel")["*/kernel"]
    assert joint.quantize(leaf).scale.shape == (1, 3)
