"""ReScaW and the vanilla quantizer: worked examples, laws, and two roads to the same training."""

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsnn.compress import latent_weights
from jaxsnn.compress import rescaling as rs
from jaxsnn.compress.projections import project, resolve
from jaxsnn.errors import UserError

FILTER = jnp.asarray([[0.1], [-0.2], [0.05], [-0.4]])  # mean magnitude 0.1875
KERNEL = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 6, 4)), jnp.float32)

STATISTICS = ("mean", "max", "percentile")
ALL_BITS = jnp.arange(1, 9)


def quantizers(bits):
    return {
        "vanilla": rs.vanilla(bits),
        "layer": rs.rescaled(bits, per="layer"),
        **{gamma: rs.rescaled(bits, gamma=gamma) for gamma in STATISTICS},
    }


each_quantizer = pytest.mark.parametrize("name", quantizers(4))

# One program for every width: the bits are an argument.
PROJECT = {
    name: jax.jit(lambda bits, leaf, name=name: quantizers(bits)[name](leaf))
    for name in quantizers(4)
}

# Multiples of 1/64: exact in float32, with many ties and zeros.
kernels = hnp.arrays(np.float32, (6, 2), elements=st.integers(-800, 800).map(lambda n: n / 64))
widths = st.integers(1, 8)
laws = settings(deadline=None, max_examples=25)


# ---- worked examples ----


def numbered(found):
    """Return the codes as the paper counts them, 0 to `2**b - 1`."""
    return (np.asarray(found.codes) + 2 ** int(found.bits) - 1) // 2


@pytest.mark.parametrize(
    ("bits", "codes", "values"),
    [
        (2, [2, 0, 2, 0], [0.0625, -0.1875, 0.0625, -0.1875]),
        (4, [12, 0, 10, 0], [0.1125, -0.1875, 0.0625, -0.1875]),
        (8, [196, 0, 162, 0], [0.1875 * 137 / 255, -0.1875, 0.1875 * 69 / 255, -0.1875]),
    ],
)
def test_one_filter_of_four_weights(bits, codes, values):
    # With 8 bits 0.1 stands half-way, at 195.5, and goes to the even code.
    found = rs.rescaled(bits).quantize(FILTER)
    assert numbered(found).ravel().tolist() == codes
    np.testing.assert_allclose(found.scale, [[0.1875]], rtol=1e-6)
    np.testing.assert_allclose(rs.rescaled(bits)(FILTER).ravel(), values, rtol=1e-6)


@pytest.mark.parametrize(
    ("bits", "codes", "values"),
    [(2, [2, 1, 2, 1], [1 / 3, -1 / 3] * 2), (4, [8, 6, 8, 4], [1 / 15, -0.2, 1 / 15, -7 / 15])],
)
def test_the_vanilla_quantizer_of_the_same_filter(bits, codes, values):
    found = rs.vanilla(bits).quantize(FILTER)
    assert numbered(found).ravel().tolist() == codes and found.scale == 1
    np.testing.assert_allclose(rs.vanilla(bits)(FILTER).ravel(), values, rtol=1e-6)


@pytest.mark.long
def test_each_channel_has_its_own_gamma_unless_the_layer_has_one():
    leaf = jnp.asarray([[1.0, 1, 1, 1], [0, 0, 0, 8]]).T
    two_thirds = 2 / 3
    by_channel = [[1, 1, 1, 1], [two_thirds, two_thirds, two_thirds, 2]]
    by_layer = [[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 1.5]]
    np.testing.assert_allclose(rs.rescaled(2)(leaf).T, by_channel, rtol=1e-6)
    np.testing.assert_allclose(rs.rescaled(2, per="layer")(leaf).T, by_layer, rtol=1e-6)


def test_gamma_is_the_statistic_that_was_asked_for():
    leaf = np.asarray(KERNEL, np.float64).reshape(-1, 4)
    tails = np.abs(np.quantile(leaf, [0.1, 0.9], axis=0)).max(0)
    for quantizer, expected in (
        (rs.rescaled(4), np.abs(leaf).mean(0)),
        (rs.rescaled(4, gamma="max"), np.abs(leaf).max(0)),
        (rs.rescaled(4, gamma="percentile", quantile=0.9), tails),
        (rs.rescaled(4, gamma="percentile", quantile=1), np.abs(leaf).max(0)),
    ):
        assert quantizer.gammas(KERNEL).shape == (1, 1, 1, 4)
        np.testing.assert_allclose(quantizer.gammas(KERNEL).ravel(), expected, rtol=1e-6)
    whole = rs.rescaled(4, per="layer").gammas(KERNEL)
    assert whole.shape == ()
    np.testing.assert_allclose(whole, np.abs(leaf).mean(), rtol=1e-6)


def test_a_zero_becomes_the_smallest_positive_level():
    for bits in range(2, 9):
        np.testing.assert_allclose(rs.vanilla(bits)(jnp.zeros(1)), 1 / (2**bits - 1), rtol=1e-6)


@pytest.mark.long
def test_a_filter_of_zeros_stays_finite_and_short_floats_stay_short():
    leaf = jnp.asarray([[0, 1], [0, -3]], jnp.bfloat16)
    for quantizer in quantizers(4).values():
        out = quantizer(leaf)
        assert out.dtype == jnp.bfloat16 and jnp.all(jnp.isfinite(out))
    assert jnp.max(jnp.abs(rs.rescaled(4)(leaf)[:, 0])) <= 1e-8


@pytest.mark.long
def test_codes_in_use_follow_the_range_of_the_weights():
    weights = jnp.linspace(-0.14, 0.14, 4001)
    share = rs.utilisation(rs.vanilla(8).quantize(weights))
    np.testing.assert_allclose(share, (1 + 0.14 * 255) / 256, atol=1 / 256)
    step = rs.vanilla(2).quantize(jnp.ones((2, 2))).step
    # Of the levels -3, -1, 1, 3 two occur; a pruned entry is no level.
    assert rs.utilisation(step.with_codes(jnp.asarray([[-3, 3], [0, -3]]))) == 0.5


# ---- laws ----


def written(leaf, bits, gamma):
    """Return ReScaW in float64 as the paper prints it, and how far from a tie each code is."""
    leaf, steps = np.asarray(leaf, np.float64), 2**bits - 1
    position = steps / 2 * (np.clip(leaf / gamma, -1, 1) + 1)
    return gamma * (2 / steps * np.round(position) - 1), np.abs(position % 1 - 0.5)


@each_quantizer
@given(leaf=kernels, bits=widths)
@laws
def test_values_are_those_of_the_printed_formula(name, leaf, bits):
    magnitude = np.abs(leaf.astype(np.float64))
    gamma = {
        "vanilla": 1.0,
        "layer": magnitude.mean(),
        "mean": magnitude.mean(0),
        "max": magnitude.max(0),
        "percentile": np.abs(np.quantile(leaf.astype(np.float64), [0.01, 0.99], axis=0)).max(0),
    }[name]
    gamma = np.maximum(gamma, 1e-8)
    expected, from_tie = written(leaf, bits, gamma)
    found = PROJECT[name](bits, leaf)
    clear = from_tie > 1e-3
    np.testing.assert_allclose(found[clear], expected[clear], rtol=1e-5)
    step = np.broadcast_to(2 * gamma / (2**bits - 1), leaf.shape)
    assert np.all(np.abs(found - expected) <= 1.001 * step)


@each_quantizer
@given(leaf=kernels, bits=widths)
@laws
def test_a_filter_has_few_values_none_beyond_gamma(name, leaf, bits):
    found = np.asarray(PROJECT[name](bits, leaf))
    for values, weights in zip(found.T, leaf.T, strict=True):
        assert len(set(values.tolist())) <= 2**bits
        largest = {"vanilla": 1.0, "layer": np.abs(leaf).max()}.get(name, np.abs(weights).max())
        assert np.abs(values).max() <= max(largest * (1 + 1e-6), 1e-8)


@pytest.mark.parametrize("name", ["layer", *STATISTICS])
@given(leaf=kernels, bits=widths)
@laws
def test_rescaled_weights_follow_scale_and_sign(name, leaf, bits):
    project = PROJECT[name]
    found = np.asarray(project(bits, leaf))
    # Up to the bound on gamma, which does not follow the scale of a filter of zeros.
    np.testing.assert_allclose(project(bits, 4 * leaf), 4 * found, rtol=0, atol=1e-7)
    gamma = np.asarray(quantizers(4)[name].gammas(leaf), np.float64)
    _, from_tie = written(leaf, bits, gamma)
    clear = from_tie > 1e-3
    mirrored = np.asarray(project(bits, -leaf))
    np.testing.assert_allclose(mirrored[clear], -found[clear], rtol=1e-6)


@given(leaf=kernels, bits=widths)
@laws
def test_only_the_largest_magnitude_makes_a_fixed_point(leaf, bits):
    once = np.asarray(PROJECT["max"](bits, leaf))
    np.testing.assert_array_equal(PROJECT["max"](bits, once), once)


def test_the_mean_shrinks_again_when_it_is_applied_again():
    once = rs.rescaled(4)(KERNEL)
    assert jnp.max(jnp.abs(rs.rescaled(4)(once))) < jnp.max(jnp.abs(once))


@each_quantizer
def test_a_sweep_over_bits_equals_the_loop_in_one_program(name):
    traces = []

    @jax.jit
    def single(bits, leaf):
        traces.append(1)
        return quantizers(bits)[name](leaf)

    swept = jax.jit(jax.vmap(lambda bits: quantizers(bits)[name](KERNEL)))(ALL_BITS)
    looped = [single(bits, KERNEL) for bits in range(1, 9)]
    assert len(traces) == 1
    np.testing.assert_allclose(swept, jnp.stack(looped), rtol=1e-6)


# ---- codes ----


@each_quantizer
@pytest.mark.parametrize(
    "bits", [pytest.param(n, marks=[pytest.mark.slow] * (n not in (1, 4, 8))) for n in range(1, 9)]
)
def test_codes_return_the_quantized_leaf_bit_for_bit(name, bits):
    quantizer = quantizers(bits)[name]

    def both(leaf):
        found = quantizer.quantize(leaf)
        return quantizer(leaf), found, found.decode()

    for run in (both, jax.jit(both)):
        projected, found, decoded = run(KERNEL)
        codes = np.asarray(found.codes)
        assert np.all(codes % 2 == 1) and np.max(np.abs(codes)) <= 2**bits - 1
        np.testing.assert_array_equal(decoded, projected)
        np.testing.assert_array_equal(found.decode(), projected)
        # The formula once more, in numpy's float32: what a reader of an export computes.
        steps = np.float32(2**bits - 1)
        levels = codes.astype(np.float32)
        by_hand = np.asarray(found.scale) * (levels * (np.float32(1) / steps))
        np.testing.assert_array_equal(by_hand, projected)


# ---- masks ----


@pytest.mark.long
@pytest.mark.parametrize("gamma", STATISTICS)
def test_what_is_not_kept_is_as_if_it_were_cut_out(gamma):
    inputs = np.asarray([True, False, True, True, False, True])
    masked = rs.rescaled(3, gamma=gamma, kept=inputs.reshape(6, 1))
    out = jax.jit(masked)(KERNEL)
    narrow = rs.rescaled(3, gamma=gamma)(KERNEL[:, :, inputs])
    np.testing.assert_allclose(out[:, :, inputs], narrow, rtol=1e-6)
    assert not jnp.any(out[:, :, ~inputs])
    assert not jnp.allclose(narrow, rs.rescaled(3, gamma=gamma)(KERNEL)[:, :, inputs])


@pytest.mark.parametrize("gamma", STATISTICS)
@pytest.mark.long
def test_a_channel_of_which_nothing_is_kept_is_zero(gamma):
    channels = jnp.asarray([True, False, True, True])
    quantizer = rs.rescaled(3, gamma=gamma, kept=channels)
    out = quantizer(KERNEL)
    np.testing.assert_array_equal(out[..., 1], 0)
    expected = rs.rescaled(3, gamma=gamma)(KERNEL)
    np.testing.assert_array_equal(out[..., channels], expected[..., channels])
    found = quantizer.quantize(KERNEL)
    np.testing.assert_array_equal(found.decode(), out)
    assert not jnp.any(found.codes[..., 1]) and jnp.all(found.codes[..., channels] != 0)
    slope = rs.gradient_rule("inv_gamma", quantizer)(jnp.ones_like(KERNEL), KERNEL)
    np.testing.assert_array_equal(slope[..., 1], 0)
    assert jnp.all(slope[..., channels] > 0)


# ---- gradients ----


@pytest.mark.parametrize(
    ("name", "expected"),
    [("identity", [1, 1, 1, 1]), ("inv_gamma", [1 / 0.1875] * 4), ("mask", [1, 0, 1, 0])],
)
def test_the_three_rules_on_one_filter(name, expected):
    quantizer = rs.rescaled(2)
    rule = rs.gradient_rule(name, quantizer)
    np.testing.assert_allclose(rule(jnp.ones((4, 1)), FILTER).ravel(), expected, rtol=1e-6)
    through = rs.differentiable(quantizer, rule)
    np.testing.assert_array_equal(through(FILTER), quantizer(FILTER))
    slope = jax.grad(lambda leaf: jnp.sum(through(leaf)))(FILTER)
    np.testing.assert_allclose(slope.ravel(), expected, rtol=1e-6)


def test_the_vanilla_rules_have_gamma_one():
    leaf, gradient = jnp.asarray([0.5, -1.0, 1.5]), jnp.full(3, 2.0)
    for name, expected in (("identity", [2, 2, 2]), ("inv_gamma", [2, 2, 2]), ("mask", [2, 2, 0])):
        assert rs.gradient_rule(name, rs.vanilla(4))(gradient, leaf).tolist() == expected


# Each quantizer with each rule, each rule with each optimizer; the other half is slow.
COMBINATIONS = [
    pytest.param(quantizer, rule, optimizer, marks=[pytest.mark.slow] * ((i + j + k) % 2))
    for i, quantizer in enumerate([rs.vanilla(3), rs.rescaled(3)])
    for j, rule in enumerate(["mask", "inv_gamma", "identity"])
    for k, optimizer in enumerate([optax.sgd(0.02, momentum=0.9), optax.adam(0.05)])
]


@pytest.mark.parametrize(("quantizer", "rule_name", "optimizer"), COMBINATIONS)
def test_latent_equals_training_through_the_quantizer(quantizer, rule_name, optimizer):
    draw = np.random.default_rng(1)
    target, start = (jnp.asarray(draw.normal(size=(6, 4)), jnp.float32) for _ in range(2))
    rule = rs.gradient_rule(rule_name, quantizer)
    recipe, free = {"w": quantizer}, {"w": start}
    outer = latent_weights.latent(optimizer, recipe, straight_through=rule)
    through = rs.differentiable(quantizer, rule)

    def loss(params, forward=lambda w: w):
        return 0.5 * jnp.sum((forward(params["w"]) - target) ** 2)

    def step(carry, _):
        params, state, free, inner_state = carry
        updates, state = outer.update(jax.grad(loss)(params), state, params)
        others, inner_state = optimizer.update(jax.grad(loss)(free, through), inner_state, free)
        carry = optax.apply_updates(params, updates), state
        return (*carry, optax.apply_updates(free, others), inner_state), None

    carry = (project(free, recipe), outer.init(free), free, optimizer.init(free))
    (params, state, free, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, length=6))(carry)
    np.testing.assert_allclose(state.free["w"], free["w"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(params["w"], quantizer(free["w"]), rtol=1e-5, atol=1e-6)
    assert jnp.max(jnp.abs(free["w"] - start)) > 0.05


# ---- mistakes ----


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rs.vanilla(0), r"bits must be in \[1, 8\], found 0"),
        (lambda: rs.rescaled(2.5), "bits must be a whole number, found 2.5"),
        (lambda: rs.rescaled(9), r"bits must be in \[1, 8\], found 9"),
        (lambda: rs.rescaled(4, quantile=0.1), r"quantile must be in \[0.5, 1\], found 0.1"),
        (lambda: rs.rescaled(4, gamma="median"), "gamma must be 'mean', 'max'.*'median'"),
        (lambda: rs.rescaled(4, per="row"), "per must be 'channel' or 'layer', found 'row'"),
        (
            lambda: rs.gradient_rule("none", rs.vanilla(4)),
            "rule must be 'mask', 'inv_gamma', 'identity', found 'none'",
        ),
        (
            lambda: resolve({"bias": rs.rescaled(4)}, {"bias": jnp.ones(3)}),
            r"two axes or more, but 'bias' has shape \(3,\)",
        ),
        (
            lambda: resolve({"w": rs.rescaled(4, kept=jnp.ones(5, bool))}, {"w": FILTER}),
            r"the mask of 'w' has shape \(5,\)",
        ),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()
