"""HGQ: widths as the grids have them, the gradient by differences, the budget in every step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsnn import coding
from jaxsnn.compress import grids, learned_bits, states
from jaxsnn.compress.trained import TrainedState
from jaxsnn.compress.widths import LearnedWidths
from jaxsnn.errors import UserError

DRAW = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(DRAW.normal(size=shape), jnp.float32)


FREE = {"a": normal(6, 4), "b": normal(4, 3) / 10}
GRADIENTS = {"a": normal(6, 4), "b": normal(4, 3)}
PRICES = {"*": 1 / 8}


@pytest.mark.long
def test_each_group_stands_on_the_grid_of_its_rounded_bits():
    numbers = {"a": jnp.asarray([[2.4, 3.6, 0.9, 9.3]]), "b": jnp.asarray([[1.6, 1.4, 3.0]])}
    shown = LearnedWidths(PRICES, 100.0).quantize(FREE, numbers)
    expected = {"a": [2, 4, 0, 8], "b": [2, 0, 3]}
    for name, found in shown.items():
        assert found.bits.ravel().tolist() == expected[name]
        assert not jnp.any(found.codes[:, np.array(expected[name]) == 0])
        whole = grids.uniform_grid(3, per="channel").quantize(FREE[name])
        same = np.array(expected[name]) == 3
        np.testing.assert_array_equal(found.decode()[:, same], whole.decode()[:, same])
        top = 2 ** (np.maximum(expected[name], 1) - 1) - 1
        assert np.all(np.abs(found.codes).max(0) <= top)


def test_a_group_without_bits_costs_nothing():
    numbers = {"a": jnp.asarray([[0.5, 1.4, 2.0, 3.0]])}
    cost = LearnedWidths(PRICES, 100.0).cost({"a": FREE["a"]}, numbers)
    assert float(cost) == 6 * (2 + 3) / 8


@pytest.mark.long
def test_the_widest_group_of_each_leaf_keeps_two_bits():
    numbers = {name: jnp.full((1, leaf.shape[1]), 0.5) for name, leaf in FREE.items()}
    for found in LearnedWidths(PRICES, 100.0).quantize(FREE, numbers).values():
        assert sorted(found.bits.ravel().tolist())[-2:] == [0, 2]


@pytest.mark.long
def test_the_start_spends_the_budget_where_the_error_asks():
    leaf = jnp.asarray(np.array([[4.0, 1.0], [-4.0, 1.0], [4.0, -1.0], [4.0, -1.0]]), jnp.float32)
    learned = LearnedWidths(PRICES, 4 * (4 + 2) / 8)
    assert learned.quantize({"a": leaf}, learned.start({"a": leaf}))["a"].bits.tolist() == [[4, 2]]


@pytest.mark.long
def test_gradients_are_the_surrogate_along_the_budget():
    """Two roads: the formula, and differences of errors that shrink as `2**-b` on the budget."""
    learned = LearnedWidths({"a": 1 / 8, "b": 2.0}, 1e9)
    numbers = {"a": jnp.asarray([[1.0, 2.0, 3.0, 2.0]]), "b": jnp.asarray([[5.0, 4.0, 2.0]])}
    for_free, found = learned.gradients(GRADIENTS, FREE, numbers)
    shown = learned.quantize(FREE, numbers)
    prices = {"a": np.full(4, 6 / 8), "b": np.full(3, 4 * 2.0)}

    def loss(moves):
        """Return the loss, linear in the weights, after `b` moved and fell back on the budget."""
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
    learned = LearnedWidths(PRICES, budget, per, masks=masks)
    state, shown = phase.optimizer.init(FREE), phase.begin(FREE)

    def step(carry, _):
        shown, state = carry
        gradients = jax.tree.map(lambda a, b: a - b, shown, FREE)
        updates, state = phase.optimizer.update(gradients, state, shown)
        found = states.find(state, TrainedState)
        return (optax.apply_updates(shown, updates), state), learned.cost(found.free, found.numbers)

    (shown, state), costs = jax.lax.scan(step, (shown, state), length=steps)
    return phase.finish(shown, state), costs


single = jax.jit(run)


@pytest.mark.slow
def test_budgets_are_swept():
    budgets = jnp.asarray([4.0, 9.0, 14.0])
    (landed, steps), costs = jax.jit(jax.vmap(run))(budgets)
    assert jnp.all(costs <= budgets.reshape(3, 1) + 1e-4)
    assert jnp.all(costs[:, -1] >= 0.6 * budgets)  # and it is used
    errors = [
        sum(float(jnp.sum((landed[n][lane] - FREE[n]) ** 2)) for n in FREE) for lane in range(3)
    ]
    assert errors[0] > errors[1] > errors[2]
    alone = single(budgets[1])[0]
    for name in FREE:
        np.testing.assert_array_equal(steps[name].bits[1], alone.steps[name].bits)
        np.testing.assert_allclose(landed[name][1], alone.params[name], atol=1e-6)


@pytest.mark.long
def test_no_step_costs_more_than_the_budget_and_the_end_is_packed_by_channels():
    (landed, steps), costs = single(9.0)
    assert jnp.all(costs <= 9.0 + 1e-4) and costs[-1] > 6
    found = steps["a"].encode(landed["a"])
    np.testing.assert_array_equal(found.decode(), landed["a"])
    widths = np.asarray(found.bits, int).ravel()
    assert len(set(widths.tolist())) > 1
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
