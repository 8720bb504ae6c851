"""HGQ: widths by hand, the gradient by finite differences, the budget in every step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsnn import coding
from jaxsnn.compress import learned_bits, states
from jaxsnn.compress.trained import TrainedState
from jaxsnn.compress.widths import LearnedWidths
from jaxsnn.errors import UserError

DRAW = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(DRAW.normal(size=shape), jnp.float32)


FREE = {"a": normal(6, 4), "b": normal(4, 3) / 10}
GRADIENTS = {"a": normal(6, 4), "b": normal(4, 3)}
PRICES = {"*": 1 / 8}


def by_hand(leaf, fractional):
    """Return codes and bits of one group, in Python."""
    codes = [round(float(v) * 2.0**fractional) for v in np.ravel(leaf)]
    largest = max(map(abs, codes))
    return codes, 1 + largest.bit_length() if largest else 0


@pytest.mark.parametrize("shift", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_codes_and_bits_are_those_of_the_formula(shift):
    grids = LearnedWidths(PRICES, 100.0)
    numbers = {"a": jnp.asarray([[0.4, 1.6, 3.0, -1.0]]) + shift, "b": jnp.asarray([[5.0, 4, 3]])}
    shown = grids.quantize(FREE, numbers)
    for name, found in shown.items():
        for channel in range(found.codes.shape[1]):
            fractional = round(float(numbers[name][0, channel]))
            codes, bits = by_hand(FREE[name][:, channel], fractional)
            assert found.codes[:, channel].tolist() == codes
            assert float(found.bits[0, channel]) == bits
            assert float(found.scale[0, channel]) == 2.0**-fractional


def test_a_group_whose_weights_round_to_zero_has_no_bits_and_costs_nothing():
    grids = LearnedWidths(PRICES, 100.0)
    numbers = {"a": jnp.asarray([[-5.0, -5.0, 2.0, 2.0]])}
    shown = grids.quantize({"a": FREE["a"]}, numbers)["a"]
    assert shown.bits[0, :2].tolist() == [0, 0] and not jnp.any(shown.codes[:, :2])
    cost = grids.cost({"a": FREE["a"]}, numbers)
    assert float(cost) == float(jnp.sum(shown.bits)) * 6 / 8


def test_the_widest_group_of_each_leaf_keeps_two_bits():
    grids = LearnedWidths(PRICES, 100.0)
    numbers = {name: jnp.full((1, leaf.shape[1]), -40.0) for name, leaf in FREE.items()}
    for found in grids.quantize(FREE, numbers).values():
        assert sorted(found.bits.ravel().tolist())[-2:] == [0, 2]


def test_gradients_are_the_surrogate_along_the_budget():
    """Two roads: the formula, and differences of errors that shrink as `2**-f` on the budget."""
    grids = LearnedWidths({"a": 1 / 8, "b": 2.0}, 1e9)
    numbers = {"a": jnp.asarray([[1.0, 2.0, 3.0, 2.0]]), "b": jnp.asarray([[5.0, 4.0, 6.0]])}
    for_free, found = grids.gradients(GRADIENTS, FREE, numbers)
    shown = grids.quantize(FREE, numbers)
    prices = {"a": np.full(4, 6 / 8), "b": np.full(3, 4 * 2.0)}

    def loss(moves):
        """Return the loss, linear in the weights, after `f` moved and fell back on the budget."""
        spent = sum(prices[n] @ moves[n] for n in prices)
        shift = spent / sum(prices[n].sum() for n in prices)
        total = 0.0
        for name in prices:
            error = np.asarray(FREE[name] - shown[name].decode(), np.float64)
            shrunk = error * 2.0 ** -(moves[name] - shift).reshape(1, -1)
            total += np.sum(np.asarray(GRADIENTS[name]) * (np.asarray(FREE[name]) - shrunk))
        return total

    for name, price in prices.items():
        for channel in range(price.size):
            moves = {n: np.zeros(p.size) for n, p in prices.items()}
            moves[name][channel] = 1e-5
            back = {n: -move for n, move in moves.items()}
            slope = (loss(moves) - loss(back)) / 2e-5
            np.testing.assert_allclose(found[name][0, channel], slope, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(for_free["a"], GRADIENTS["a"])


def run(budget, per="channel", steps=12, masks=None):
    """Fit the weights to where they were; return what is left, and the cost after each step."""
    phase = learned_bits(
        optax.sgd(0.05), PRICES, budget, per=per, masks=masks, widths=optax.adam(0.2)
    )
    grids = LearnedWidths(PRICES, budget, per, masks=masks)
    state, shown = phase.optimizer.init(FREE), phase.begin(FREE)

    def step(carry, _):
        shown, state = carry
        gradients = jax.tree.map(lambda a, b: a - b, shown, FREE)
        updates, state = phase.optimizer.update(gradients, state, shown)
        found = states.find(state, TrainedState)
        return (optax.apply_updates(shown, updates), state), grids.cost(found.free, found.numbers)

    (shown, state), costs = jax.lax.scan(step, (shown, state), length=steps)
    return phase.finish(shown, state), costs


def test_no_network_that_is_shown_costs_more_than_the_budget_in_a_sweep():
    budgets = jnp.asarray([4.0, 9.0, 14.0])
    (landed, steps), costs = jax.jit(jax.vmap(run))(budgets)
    assert jnp.all(costs <= budgets.reshape(3, 1) + 1e-4)
    assert jnp.all(costs[:, -1] >= 0.6 * budgets)  # and it is used
    errors = [
        sum(float(jnp.sum((landed[n][lane] - FREE[n]) ** 2)) for n in FREE) for lane in range(3)
    ]
    assert errors[0] > errors[1] > errors[2]
    alone = jax.jit(run)(budgets[1])[0]
    for name in FREE:
        np.testing.assert_array_equal(steps[name].bits[1], alone.steps[name].bits)
        np.testing.assert_allclose(landed[name][1], alone.params[name], atol=1e-6)


def test_what_is_left_is_packed_by_the_bits_of_each_channel():
    (landed, steps), _ = jax.jit(lambda: run(7.0))()
    found = steps["a"].encode(landed["a"])
    np.testing.assert_array_equal(found.decode(), landed["a"])
    widths = np.asarray(found.bits, int).ravel()
    codes = np.abs(np.asarray(found.codes)).max(0)
    assert [1 + int(c).bit_length() if c else 0 for c in codes] == widths.tolist()
    form, parts = coding.encode(landed["a"], found)
    assert form.endswith("channel_codes")
    np.testing.assert_array_equal(coding.decode(form, parts, (6, 4)), landed["a"])
    _, _, _, bits = coding.stored_step(form, parts, (6, 4))
    assert bits.ravel().tolist() == widths.tolist()


@pytest.mark.slow
def test_a_leaf_has_one_width_and_masked_weights_cost_nothing():
    masks = {"a": jnp.arange(24).reshape(6, 4) % 3 == 0, "b": jnp.asarray(True)}
    (landed, steps), costs = jax.jit(lambda: run(8.0, "leaf", 6, masks))()
    assert steps["a"].bits.shape == () and steps["a"].scale.shape == ()
    assert not jnp.any(landed["a"][~masks["a"]])
    expected = (8 * float(steps["a"].bits) + 12 * float(steps["b"].bits)) / 8
    assert float(costs[-1]) == expected <= 8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: learned_bits(SGD, PRICES, 0), r"budget must be in \(0, inf\]"),
        (lambda: learned_bits(SGD, PRICES, 9, most=1), r"most must be in \[2, 16\]"),
        (lambda: learned_bits(SGD, {"a": -1.0}, 9), "price of 'a' must be in"),
        (
            lambda: learned_bits(SGD, PRICES, 2.4),
            "budget 2.4 cannot be met: with 2 bits in one channel of each leaf it takes 2.5, of "
            "which 'a' 1.5",
        ),
        (
            lambda: learned_bits(SGD, PRICES, 8, per="leaf"),
            "with 2 bits in each leaf it takes 9, of which 'a' 6",
        ),
        (lambda: learned_bits(SGD, {"x": 1.0}, 9), "'x' matches no leaf"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make().optimizer.init(FREE)


SGD = optax.sgd(0.1)
