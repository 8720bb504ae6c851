"""The parts of the fast recipe: rates, kernels that turn, what stays, and the order of phases."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsnn import data, losses, models, tree
from jaxsnn.errors import UserError
from jaxsnn.methods import fast, optimizers
from jaxsnn.train import Task


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", limit=100)


def network(digits, layout="8C2V-8C3-AP2-10", norm=True):
    return models.build(layout, digits.shape, norm=norm, readout="current", seed=0)


# --- Muon -----------------------------------------------------------------------------------------


def turned(gradients, weights, rate, momentum):
    """Return where muon leads a matrix, by singular values and no iteration."""
    buffer = np.zeros_like(weights)
    for gradient in gradients:
        buffer = momentum * buffer + gradient
        left, _, right = np.linalg.svd(gradient + momentum * buffer, full_matrices=False)
        weights = weights - rate * left @ right
        weights *= np.sqrt(weights.shape[1]) / np.linalg.norm(weights)
    return weights


@pytest.mark.long
def test_muon_turns_kernels_along_the_orthogonal_part_of_their_momentum():
    draw = np.random.default_rng(0)
    start, gradients = draw.normal(size=(2, 2, 3, 4)), draw.normal(size=(3, 2, 2, 3, 4))
    rule = optimizers.muon(0.05, ("a/kernel",), optax.sgd(0.5), momentum=0.6)
    params = {"a": {"kernel": jnp.asarray(start), "bias": jnp.ones(4)}}
    state = rule.init(params)
    step = jax.jit(rule.update)
    for gradient in gradients:
        updates = {"a": {"kernel": jnp.asarray(gradient), "bias": jnp.ones(4)}}
        updates, state = step(updates, state, params)
        params = optax.apply_updates(params, updates)
    found = np.asarray(params["a"]["kernel"]).reshape(12, 4)
    expected = turned(gradients.reshape(3, 12, 4), start.reshape(12, 4), 0.05, 0.6)
    assert np.linalg.norm(found) == pytest.approx(2.0, rel=1e-5)
    # The iteration leaves singular values between 0.7 and 1.2 in the place of 1: three steps of
    # 0.05 of matrices of norm 2 are off by a third of 0.3 at most.
    assert np.linalg.norm(found - expected) < 0.1
    unturned = start.reshape(12, 4) * 2 / np.linalg.norm(start)
    assert np.linalg.norm(found - expected) < 0.35 * np.linalg.norm(unturned - expected)
    np.testing.assert_allclose(params["a"]["bias"], 1 - 3 * 0.5)


def test_names_without_a_leaf_are_refused():
    rule = optimizers.frozen(optax.sgd(0.1), ("b/kernel",))
    with pytest.raises(UserError, match="there is no leaf 'b/kernel'; choose of a/kernel"):
        rule.init({"a": {"kernel": jnp.ones(2)}})


# --- The rate -------------------------------------------------------------------------------------


def test_one_cycle_goes_on_over_both_phases():
    whole = fast.one_cycle(2.0, 20, 0.25)
    expected = [2.0 * min((step + 1) / 5, (20 - step) / 15) for step in range(20)]
    np.testing.assert_allclose([whole(jnp.int32(step)) for step in range(20)], expected, rtol=1e-5)
    later = fast.one_cycle(2.0, 20, 0.25, done=15)
    np.testing.assert_allclose([later(jnp.int32(step)) for step in range(5)], expected[15:], 1e-5)


# --- The whole ------------------------------------------------------------------------------------


def followed(calls):
    """Return a `fit` that trains nothing and notes what it is asked for."""

    def fit(task, phase, net, split, *, epochs, batch_size, seed, name):
        calls.append((name, task.inputs.timesteps, epochs, task.loss))
        updates, _ = phase.optimizer.update(
            jax.tree.map(jnp.ones_like, net.params), phase.optimizer.init(net.params), net.params
        )
        norms = {n: x + 1 for n, x in tree.named_leaves(net.stats).items() if "norm" in n}
        return net.replace(
            params=optax.apply_updates(net.params, updates),
            stats=tree.substitute(net.stats, norms),
        )

    return fit


def test_an_ann_and_one_step_come_first_and_the_whitened_layer_stays(digits):
    calls, net = [], network(digits)
    task = Task(digits.inputs(timesteps=3), loss="ce")
    options = fast.Options(
        ann_epochs=3, short_epochs=2, epochs=1, smoothing=0.2, optimizer="sgd", batch_size=30
    )
    after = fast.train_fast(net, task, digits, options, fit=followed(calls))
    smoothed = losses.Smoothed(0.2)
    assert calls == [("ann", 1, 3, smoothed), ("short", 1, 2, smoothed), ("long", 3, 1, smoothed)]
    before, stats = tree.named_leaves(net.stats), tree.named_leaves(after.stats)
    assert stats.keys() == before.keys()
    for name, leaf in stats.items():  # each phase added 1 to the norms, none to the thresholds
        np.testing.assert_allclose(leaf, before[name] + 3 * ("norm" in name))
    begun = fast.started(net, task, digits, options).params["conv1"]["kernel"]
    np.testing.assert_array_equal(after.params["conv1"]["kernel"], begun)
    assert jnp.any(begun != net.params["conv1"]["kernel"])
    assert jnp.all(after.params["conv1"]["norm"]["bias"] != net.params["conv1"]["norm"]["bias"])


def test_without_a_phase_the_other_has_the_whole_cycle(digits):
    calls, task = [], Task(digits.inputs(timesteps=2), loss="mse")
    options = fast.Options(
        ann_epochs=0, short_epochs=0, epochs=2, smoothing=0.0, whiten=False, optimizer="sgd"
    )
    fast.train_fast(network(digits), task, digits, options, fit=followed(calls))
    assert calls == [("long", 2, 2, "mse")]


def test_what_does_not_fit_is_refused_before_anything_is_trained(digits):
    task = Task(digits.inputs(timesteps=2), loss="ce")
    with pytest.raises(UserError, match="it needs layers with norms"):
        fast.check(network(digits, norm=False), task)
    with pytest.raises(UserError, match="loss 'ce', found 'mse'; take smoothing=0"):
        fast.check(network(digits), Task(digits.inputs(timesteps=2)))
    with pytest.raises(UserError, match="both 0"):
        fast.Options(short_epochs=0, epochs=0)
