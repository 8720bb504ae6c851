"""Codes and steps: every grid's leaf decodes to the projected one, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn.compress import codes, grids, rescaling
from jaxsnn.compress import projections as pr
from jaxsnn.errors import UserError

LEAF = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 6, 4)), jnp.float32)
MASK = jnp.asarray(np.random.default_rng(1).random(LEAF.shape) < 0.4)

# Family -> widths, and how to make it: with bits, for the leaf or for each channel.
FAMILIES = {
    "binary": ([1], lambda bits, per: grids.binary_grid(per=per)),
    "ternary": ([2], lambda bits, per: grids.ternary_grid(per=per)),
    "uniform": ([2, 4, 8, 16], lambda bits, per: grids.uniform_grid(bits, per=per)),
    "pow2": ([2, 4, 6], lambda bits, per: grids.pow2_grid(bits, per=per)),
    "symmetric": ([2, 4, 8, 16], lambda bits, per: grids.symmetric_uniform(bits, per=per)),
    "quantile": ([4], lambda bits, per: grids.symmetric_uniform(bits, quantile=0.9, per=per)),
    "vanilla": ([1, 4, 8], lambda bits, per: rescaling.vanilla(bits)),
    "rescaled": (
        [1, 4, 8],
        lambda bits, per: rescaling.rescaled(bits, per="layer" if per == "leaf" else per),
    ),
    "kept": ([1, 4, 8], lambda bits, per: rescaling.rescaled(bits, kept=MASK)),
    "masked": (
        [4],
        lambda bits, per: pr.compose(pr.on_mask(MASK), grids.uniform_grid(bits, per=per)),
    ),
    "pruned binary": (
        [1],
        lambda bits, per: pr.compose(
            pr.keep_largest(0.7), grids.binary_grid(keep_zeros=True, per=per)
        ),
    ),
}
# Every width of every family; those between the narrowest and the widest are slow.
CASES = [
    pytest.param(name, bits, per, marks=[pytest.mark.slow] * (bits != widths[0]))
    for name, (widths, _) in FAMILIES.items()
    for bits in widths
    for per in ("leaf", "channel")
    if per == "leaf" or name not in ("vanilla", "kept")  # which have no choice
]


def make(name, bits, per):
    return FAMILIES[name][1](bits, per)


def same_bits(found, expected):
    """Compare all bits, the sign of zero too."""
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(np.asarray(found).view("V4"), np.asarray(expected).view("V4"))


@pytest.mark.parametrize(("name", "bits", "per"), CASES)
def test_codes_decode_to_the_projected_leaf_bit_for_bit_compiled_or_not(name, bits, per):
    projection = make(name, bits, per)

    def everything(leaf):
        found = pr.quantize(projection, leaf)
        projected = projection(leaf)
        return projected, found, found.decode(), found.step.encode(projected)

    projected, found, decoded, again = jax.jit(everything)(LEAF)
    assert found.codes.dtype == jnp.int32 and found.codes.shape == LEAF.shape
    assert found.bits == bits and found.offset == 0
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(found.step))
    same_bits(decoded, projected)
    same_bits(found.decode(), projected)
    np.testing.assert_array_equal(again.codes, found.codes)
    # With everything known to the compiler, and from the step that stands beside the weights.
    same_bits(jax.jit(lambda: found.decode())(), projected)
    same_bits(found.step.encode(projected).decode(), projected)
    by_hand = np.asarray(found.scale) * (
        np.asarray(found.codes, np.float32) * np.asarray(found.unit)
    )
    same_bits(by_hand, projected)


@pytest.mark.long
@pytest.mark.parametrize("per", ["leaf", "channel"])
def test_a_leaf_of_zeros_and_dead_channels_have_zero_codes(per):
    leaf = LEAF.at[..., 1].set(0)
    for name in ("ternary", "uniform", "pow2", "symmetric"):
        found = make(name, 4, per).quantize(leaf)
        assert not jnp.any(found.codes[..., 1]) and jnp.all(jnp.isfinite(found.decode()))
        nothing = make(name, 4, per).quantize(jnp.zeros_like(leaf))
        assert not jnp.any(nothing.codes) and not jnp.any(nothing.scale)
        same_bits(nothing.step.encode(jnp.zeros_like(leaf)).decode(), jnp.zeros_like(leaf))


@pytest.mark.long
def test_weights_that_are_not_finite_stay_visible():
    leaf = LEAF.at[0, 0, 0, 0].set(jnp.nan)
    for name, (widths, _) in FAMILIES.items():
        if name not in ("kept", "masked", "pruned binary"):
            assert not jnp.all(jnp.isfinite(make(name, widths[-1], "channel")(leaf))), name


@pytest.mark.long
def test_short_floats_find_codes_up_to_127_again():
    leaf = LEAF.astype(jnp.bfloat16)
    for projection in (grids.uniform_grid(8), rescaling.rescaled(7)):
        found, projected = projection.quantize(leaf), projection(leaf)
        np.testing.assert_array_equal(found.decode().astype(jnp.bfloat16), projected)
        np.testing.assert_array_equal(found.step.encode(projected).codes, found.codes)


@pytest.mark.long
def test_codes_come_from_a_sweep_over_traced_bits():
    bits = jnp.asarray([2, 3, 6])
    swept = jax.jit(jax.vmap(lambda b: grids.uniform_grid(b, per="channel").quantize(LEAF)))(bits)
    decoded = jax.vmap(codes.Quantized.decode)(swept)
    np.testing.assert_array_equal(swept.bits, bits)
    for i, b in enumerate((2, 3, 6)):
        single = jax.jit(grids.uniform_grid(b, per="channel").quantize)(LEAF)
        np.testing.assert_array_equal(swept.codes[i], single.codes)
        np.testing.assert_allclose(decoded[i], single.decode(), rtol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=[pytest.mark.slow] * (i % 4 > 0)) for i, x in enumerate(FAMILIES)],
)
def test_double_precision_is_kept_where_it_is_on(name):
    projection = make(name, FAMILIES[name][0][-1], "channel")
    with jax.enable_x64(True):
        for leaf in (jnp.asarray(LEAF), jnp.asarray(LEAF, jnp.float64)):
            found, projected = pr.quantize(projection, leaf), projection(leaf)
            assert projected.dtype == found.decode().dtype == leaf.dtype
            np.testing.assert_array_equal(found.decode(), projected)
            np.testing.assert_array_equal(found.step.encode(projected).codes, found.codes)


@pytest.mark.long
def test_gradients_pass_a_tree_that_holds_steps():
    step = grids.uniform_grid(3).quantize(LEAF).step
    tree = {"weights": LEAF, "steps": {"w": step}}
    slope = jax.grad(lambda tree: jnp.sum(tree["weights"] ** 2))(tree)
    np.testing.assert_allclose(slope["weights"], 2 * LEAF, rtol=1e-6)
    assert not any(jnp.any(x) for x in jax.tree.leaves(slope["steps"]))


# ---- a scale for each channel ----

CHANNELS = {name: FAMILIES[name] for name in ("binary", "ternary", "uniform", "pow2", "symmetric")}


@pytest.mark.long
@pytest.mark.parametrize("name", CHANNELS)
def test_a_grid_for_each_channel_is_the_leaf_s_grid_on_each_channel_alone(name):
    bits = CHANNELS[name][0][-1] if name != "uniform" else 4
    # Channels of very different size, which one scale would flatten.
    leaf = LEAF * jnp.asarray([1.0, 100.0, 0.01, 3.0]).reshape(1, 1, 1, 4)
    found = jax.jit(make(name, bits, "channel").quantize)(leaf)
    assert found.scale.shape == (1, 1, 1, 4)
    alone = jax.jit(make(name, bits, "leaf").quantize)
    for channel in range(4):
        single = alone(leaf[..., channel])
        np.testing.assert_array_equal(found.codes[..., channel], single.codes)
        # Sums may be added up in another order.
        np.testing.assert_allclose(found.scale[..., channel].item(), single.scale, rtol=1e-6)
    together = make(name, bits, "leaf")(leaf)
    assert jnp.sum((found.decode() - leaf) ** 2) < jnp.sum((together - leaf) ** 2)


@pytest.mark.long
def test_each_code_is_the_nearest_level_at_the_scale_of_its_channel():
    found = grids.uniform_grid(3, per="channel").quantize(LEAF)
    levels = np.arange(-3, 4) * np.asarray(found.scale, np.float64)[..., None]
    nearest = np.abs(np.asarray(LEAF, np.float64)[..., None] - levels).min(-1)
    distance = np.abs(np.asarray(LEAF, np.float64) - np.asarray(found.decode(), np.float64))
    np.testing.assert_allclose(distance, nearest, atol=1e-6)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: grids.uniform_grid(4, per="row"), "per must be 'leaf' or 'channel', found 'row'"),
        (
            lambda: pr.resolve({"b": grids.ternary_grid(per="channel")}, {"b": jnp.ones(3)}),
            r"two axes or more, but 'b' has shape \(3,\)",
        ),
        (lambda: pr.quantize(pr.keep_largest(0.5), LEAF), "is no grid and has no codes"),
        (lambda: pr.quantize(jnp.abs, LEAF), "is no grid and has no codes"),
    ],
)
def test_mistakes_are_named(run, message):
    with pytest.raises(UserError, match=message):
        run()
