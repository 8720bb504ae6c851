"""LSQ against the paper's formulas, written out by hand and as finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsnn import coding
from jaxsnn.compress import learned_scales, mixed, states
from jaxsnn.compress.scales import LEAST, LearnedScales
from jaxsnn.compress.trained import TrainedState
from jaxsnn.errors import UserError

DRAW = np.random.default_rng(0)
LEAF = DRAW.normal(size=(5, 3)).astype(np.float32)
GRADIENT = DRAW.normal(size=(5, 3)).astype(np.float32)


def by_hand(values, gradient, scale, bits):
    """Return the gradients of weights and scale, Eq. 3 and 5 with `g`, one weight at a time."""
    low, high, total = 2 ** (bits - 1), 2 ** (bits - 1) - 1, 0.0
    for_weights = np.zeros_like(values)
    for i, (v, g) in enumerate(zip(values.ravel(), gradient.ravel(), strict=True)):
        ratio = float(v) / scale
        if ratio <= -low:
            total += g * -low
        elif ratio >= high:
            total += g * high
        else:
            total += g * (np.round(ratio) - ratio)
            for_weights.ravel()[i] = g
    return for_weights, total / np.sqrt(values.size * high)


@pytest.mark.parametrize("bits", [2, 4])
def test_gradients_are_those_of_the_paper(bits):
    grids, scale = LearnedScales({"w": bits}), 0.3
    found, for_scale = grids.gradients({"w": GRADIENT}, {"w": LEAF}, {"w": jnp.float32(scale)})
    weights, expected = by_hand(LEAF, GRADIENT, scale, bits)
    np.testing.assert_array_equal(found["w"], weights)
    np.testing.assert_allclose(for_scale["w"], expected, rtol=1e-5)


def test_gradients_are_finite_differences_of_each_piece():
    """Inside, a line of slope 1 stands for the rounding (straight-through)."""
    scale, low, high = 0.3, 4, 3
    ratios = np.array([-5.2, -3.3, -0.4, 0.2, 1.7, 2.9, 3.6])
    pieces = np.clip(ratios, -low, high)
    rounded = np.round(pieces)

    def shown(v, s):
        ratio = v / s
        line = rounded + (ratio - ratios)
        return s * np.where((ratios > -low) & (ratios < high), line, pieces)

    v, e = ratios * scale, 1e-5
    by_scale = (shown(v, scale + e) - shown(v, scale - e)) / (2 * e)
    by_weight = (shown(v + e, scale) - shown(v - e, scale)) / (2 * e)
    grids = LearnedScales({"w": 3})
    for i in range(len(v)):
        one = jnp.zeros(len(v)).at[i].set(1.0)
        found, for_scale = grids.gradients(
            {"w": one}, {"w": jnp.float32(v)}, {"w": jnp.float32(scale)}
        )
        np.testing.assert_allclose(found["w"][i], by_weight[i], atol=1e-4)
        expected = by_scale[i] / np.sqrt(len(v) * high)
        np.testing.assert_allclose(for_scale["w"], expected, atol=1e-4)


def test_a_scale_for_each_channel_is_that_of_the_channel_alone():
    both = LearnedScales({"w": 3}, "channel")
    start = both.start({"w": LEAF})["w"]
    assert start.shape == (1, 3)
    found = both.gradients({"w": GRADIENT}, {"w": LEAF}, {"w": start})[1]["w"]
    for channel in range(3):
        leaf, gradient = LEAF[:, channel], GRADIENT[:, channel]
        np.testing.assert_allclose(
            start[0, channel], 2 * np.abs(leaf).mean() / np.sqrt(3), rtol=1e-6
        )
        _, expected = by_hand(leaf, gradient, float(start[0, channel]), 3)
        np.testing.assert_allclose(found[0, channel], expected, rtol=1e-4)


def fitted(phase, params, steps=40):
    """Fit the weights to where they were, and return what the phase leaves."""
    state, shown = phase.optimizer.init(params), phase.begin(params)

    def step(_, carry):
        shown, state = carry
        gradients = jax.tree.map(lambda a, b: a - b, shown, params)
        updates, state = phase.optimizer.update(gradients, state, shown)
        return optax.apply_updates(shown, updates), state

    shown, state = jax.lax.fori_loop(0, steps, step, (shown, state))
    return phase.finish(shown, state), shown, state


@pytest.mark.long
def test_learning_the_scale_lowers_the_error_and_leaves_codes():
    params = {"w": jnp.asarray(DRAW.normal(size=(20, 4)), jnp.float32)}
    phase = learned_scales(optax.sgd(0.0), {"w": 4}, per="channel", scales=optax.sgd(0.05))
    (landed, steps), shown, state = jax.jit(lambda: fitted(phase, params))()
    before = jnp.sum((phase.begin(params)["w"] - params["w"]) ** 2)
    assert jnp.sum((landed["w"] - params["w"]) ** 2) < 0.9 * before
    np.testing.assert_allclose(landed["w"], shown["w"], atol=1e-6)
    found = steps["w"].encode(landed["w"])
    assert jnp.min(found.codes) >= -8 and jnp.max(found.codes) <= 7
    np.testing.assert_array_equal(found.decode(), landed["w"])
    assert coding.bits(landed["w"], found) == 4
    seen = phase.observe(shown, state)
    np.testing.assert_allclose(seen["scale/w"], jnp.mean(steps["w"].scale), rtol=1e-6)


def test_what_is_masked_stays_zero_and_does_not_count():
    mask = jnp.asarray(DRAW.random((5, 3)) < 0.5)
    grids = LearnedScales({"w": 3}, masks={"w": mask})
    scale = grids.start({"w": LEAF})
    mean = np.abs(LEAF[np.asarray(mask)]).mean()
    np.testing.assert_allclose(scale["w"], 2 * mean / np.sqrt(3), rtol=1e-6)
    phase = learned_scales(optax.adam(0.1), {"w": 3}, masks={"w": mask})
    (landed, _), _, _ = jax.jit(lambda: fitted(phase, {"w": jnp.asarray(LEAF)}, 3))()
    assert not jnp.any(landed["w"][~mask]) and jnp.any(landed["w"])


@pytest.mark.long
def test_bits_are_swept_and_may_differ_between_channels():
    def lane(bits):
        phase = learned_scales(optax.sgd(0.1), {"w": bits}, per="channel")
        return fitted(phase, {"w": jnp.asarray(LEAF)}, 2)[0]

    lanes = jnp.asarray([[2, 3, 4], [0, 4, 4]])
    swept = jax.jit(jax.vmap(lane))(lanes)
    alone = jax.jit(lane)(lanes[1])
    np.testing.assert_allclose(swept.params["w"][1], alone.params["w"], rtol=1e-6)
    assert not jnp.any(alone.params["w"][:, 0]) and jnp.all(jnp.any(alone.params["w"][:, 1:], 0))
    assert alone.steps["w"].bits.tolist() == [[0, 4, 4]]
    found = alone.steps["w"].encode(alone.params["w"])
    assert coding.encode(alone.params["w"], found)[0] == "coded_channel_codes"


def test_a_leaf_of_zeros_can_learn():
    phase = learned_scales(optax.sgd(0.1), {"w": 3})
    params = {"w": jnp.zeros((2, 2))}
    state = phase.optimizer.init(params)
    updates, state = phase.optimizer.update({"w": -jnp.ones((2, 2))}, state, phase.begin(params))
    after = states.find(state, TrainedState)
    assert jnp.all(jnp.isfinite(updates["w"])) and after.numbers["w"] >= LEAST
    assert jnp.all(after.free["w"] > 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: learned_scales(optax.sgd(1.0), {"*": 1}), "bits of 'w' must be 0, or 2 to 16"),
        (lambda: learned_scales(optax.sgd(1.0), {"*": 17}), r"bits of 'w' must be in \[0, 16\]"),
        (lambda: learned_scales(optax.sgd(1.0), {"*": BITS}), "per='channel'"),
        (lambda: learned_scales(optax.sgd(1.0), {"x": 3}), "'x' matches no leaf"),
        (
            lambda: learned_scales(optax.sgd(1.0), {"*": 3}, masks={"v": jnp.ones(3, bool)}),
            "masks: there is none for 'w'",
        ),
        (lambda: learned_scales(optax.sgd(1.0), {"*": 3}, scales=0.1), "the grids' optimizer must"),
        (lambda: learned_scales(None, {"*": 3}), "inner must be an optax optimizer"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make().optimizer.init({"w": jnp.ones((2, 3))})


BITS = np.array([2, 3, 4])


def test_mixed_grids_take_what_lsq_takes():
    with pytest.raises(UserError, match="bits of 'w' must be 0, or 2 to 16, found 1"):
        mixed.recipe({"w": 1})["w"].check("w", jnp.ones((2, 3)))
