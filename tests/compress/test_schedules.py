"""Schedules against their formulas, at the ends and outside; fewer timesteps against short runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import encode, losses, models, neurons
from jaxsnn.compress import schedules
from jaxsnn.errors import UserError
from jaxsnn.neurons import LIF
from jaxsnn.neurons.lif import ORDERS


def test_steps_change_at_their_boundaries():
    schedule = schedules.stepwise([1.0, 10.0, 100.0], [3, 6])
    found = jax.jit(jax.vmap(schedule))(jnp.arange(9))
    np.testing.assert_array_equal(found, [1, 1, 1, 10, 10, 10, 100, 100, 100])
    assert schedules.stepwise([5.0], [])(jnp.asarray(7)) == 5


def test_cubic_sparsity_follows_zhu_and_gupta():
    schedule = schedules.cubic_sparsity(0.1, 0.9, 10, 20)
    t = np.asarray([0, 10, 12, 15, 20, 99])
    expected = 0.9 - 0.8 * (1 - np.clip((t - 10) / 10, 0, 1)) ** 3
    np.testing.assert_allclose(jax.vmap(schedule)(jnp.asarray(t)), expected, rtol=1e-6)


def test_linear_ramp_is_straight_and_flat_outside():
    schedule = schedules.linear_ramp(4.0, 2.0, 2, 6)
    found = jax.vmap(schedule)(jnp.arange(9))
    np.testing.assert_allclose(found, [4, 4, 4, 3.5, 3, 2.5, 2, 2, 2], rtol=1e-6)


def test_values_may_be_traced():
    swept = jax.vmap(lambda final: schedules.cubic_sparsity(0.0, final, 0, 2)(1))(jnp.ones(2) / 2)
    np.testing.assert_allclose(swept, 0.5 * (1 - 0.125), rtol=1e-6)
    swept = jax.vmap(lambda value: schedules.stepwise([value, 0.0], [2])(1))(jnp.arange(3.0))
    np.testing.assert_array_equal(swept, [0, 1, 2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.stepwise([1.0], [1]), "one value more than boundaries"),
        (lambda: schedules.stepwise([1.0, 2.0, 3.0], [5, 2]), "must rise"),
        (lambda: schedules.cubic_sparsity(0, 1.5, 0, 1), r"final sparsity must be in \[0, 1\]"),
        (lambda: schedules.linear_ramp(0, 1, 5, 5), "0 <= begin < end"),
    ],
)
def test_impossible_schedules_are_errors(make, message):
    with pytest.raises(UserError, match=message):
        make()


# --- Timesteps: the chain of stages ---------------------------------------------------------------


def test_stages_follow_the_schedule_until_one_loses_too_much():
    def after(*accuracies):
        return schedules.next_timesteps(100, (50, 20, 10), accuracies, tolerance=0.01)

    assert [after(0.9), after(0.9, 0.92), after(0.9, 0.92, 0.895)] == [50, 20, 10]
    assert after(0.9, 0.92, 0.895, 0.9) is None  # through
    assert after(0.9, 0.8898) is None and after(0.9, 0.92, 0.88) is None
    # Against T0, not the best so far; a loss of the tolerance itself is allowed.
    assert after(0.9, 0.95, 0.89) == 10


def test_each_stage_starts_from_the_one_before_and_the_last_accepted_is_kept():
    accuracies, calls = {75: 0.91, 50: 0.90, 40: 0.70, 30: 0.99}, []

    def train(network, timesteps):
        calls.append((network, timesteps))
        return network + (timesteps,), accuracies[timesteps]

    found = schedules.shorten(train, (100,), 0.905, 100, (75, 50, 40, 30))
    assert calls == [((100,), 75), ((100, 75), 50), ((100, 75, 50), 40)]
    stages = [(75, 0.91, True), (50, 0.90, True), (40, 0.70, False)]
    assert found == ((100, 75, 50), 50, stages)
    assert schedules.shorten(train, (100,), 1.0, 100, (40,)) == ((100,), 100, [(40, 0.70, False)])


def test_stages_without_training_keep_every_bit():
    weights = jnp.arange(3.0)
    kept, timesteps, stages = schedules.shorten(lambda w, t: (w, 0.5), weights, 0.5, 100)
    assert kept is weights and timesteps == 10
    assert tuple(stage.timesteps for stage in stages) == schedules.TIMESTEPS


def test_a_chain_taken_up_again_decides_as_one_that_was_not_interrupted():
    accuracies, done = [0.9, 0.9, 0.895, 0.893, 0.5, 0.9], []
    while t := schedules.next_timesteps(100, (80, 60, 40, 20, 8), accuracies[: len(done) + 1]):
        done.append(t)
    assert done == [80, 60, 40, 20]


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ((50, 75), r"timesteps \[50, 75\] after 100 must fall, found 75 after 50"),
        ((50, 50), "must fall, found 50 after 50"),
        ((100,), "must fall, found 100 after 100"),
        ((10, 0), r"timesteps \[10, 0\] after 100 has 0: give whole numbers of at least 1"),
        ((10, 2.5), "has 2.5: give whole numbers"),
    ],
)
def test_a_schedule_of_timesteps_must_fall_and_stay_above_0(schedule, message):
    with pytest.raises(UserError, match=message):
        schedules.falling_timesteps(100, schedule)


def test_impossible_accuracies_are_errors():
    with pytest.raises(UserError, match="1 stages after 9 timesteps need 1 to 2 accuracies"):
        schedules.next_timesteps(9, (5,), [])
    with pytest.raises(UserError, match=r"accuracy must be in \[0, 1\], found nan"):
        schedules.next_timesteps(9, (5,), [0.9, float("nan")])
    with pytest.raises(UserError, match="tolerance of lost accuracy must be in"):
        schedules.is_accepted(0.9, 0.9, 1.5)


# --- Timesteps: a mask over time ------------------------------------------------------------------

T = 6


def test_weights_of_the_readout_make_a_constant_current_its_own_mean_at_every_length():
    current = jnp.full((T, 2, 3), 0.7)
    for active in (1, 4, T):
        weighted = schedules.over_time(schedules.time_weights(active, T), current)
        np.testing.assert_allclose(weighted.mean(0), current[0], rtol=1e-6)


@pytest.mark.long
def test_a_masked_network_has_the_loss_and_gradient_of_the_truncated_run():
    neuron = LIF(0.9, 0.3, order="fire_then_integrate")
    net = models.mlp((5, 6, 3), neuron, readout="current")
    x = encode.bernoulli(jax.random.key(0), jnp.full((4, 5), 0.8), T)
    labels = jnp.array([0, 1, 2, 0])

    def masked(params, active):
        readout = net.replace(params=params)(x, train=True).readout
        weights = schedules.time_weights(active, T)
        return losses.cross_entropy(schedules.over_time(weights, readout), labels)

    def truncated(params, x):
        return losses.cross_entropy(net.replace(params=params)(x, train=True).readout, labels)

    compiled = jax.jit(jax.value_and_grad(masked))
    gradients = []
    for active in (3, T):
        found = compiled(net.params, active)
        expected = jax.jit(jax.value_and_grad(truncated))(net.params, x[:active])
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), found, expected
        )
        gradients.append(found[1]["dense1"]["kernel"])
    assert compiled._cache_size() == 1 and np.abs(gradients[0] - gradients[1]).max() > 1e-3


@pytest.mark.long
@pytest.mark.parametrize("order", ORDERS)
def test_silenced_layers_have_the_sums_over_time_of_the_truncated_run(order):
    neuron = LIF(0.9, 0.5, reset="soft", order=order)
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 6)), jnp.float32)
    x = encode.bernoulli(jax.random.key(1), jnp.full((4, 6), 0.8), T)

    def sums(x, mask):
        found = []
        for kernel in weights:
            x, potential, _ = neurons.unroll(neuron, x @ kernel + 0.4)
            x, potential = (schedules.over_time(mask, each) for each in (x, potential))
            found += [x.sum(0), potential.sum(0)]
        return jnp.stack(found)

    lengths = jnp.array([4, T])
    over_lengths = jax.jit(jax.vmap(lambda active: sums(x, schedules.time_mask(active, T))))
    found = over_lengths(lengths)
    for i, active in enumerate((4, T)):
        short = jax.jit(sums)(x[:active], jnp.ones(active))
        np.testing.assert_allclose(found[i], short, rtol=1e-5, atol=1e-6)
    assert (found[0] != found[1]).any()


def test_no_step_or_more_than_all_cannot_be_active():
    for active in (0, T + 1, 2.5):
        with pytest.raises(UserError, match="active timesteps must be"):
            schedules.time_mask(active, T)
