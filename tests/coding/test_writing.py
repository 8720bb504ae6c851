"""A leaf returns from its smallest form bit for bit, in the bytes that were promised."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsnn import coding
from jaxsnn.coding import comparing
from jaxsnn.coding.forms import WRITTEN
from jaxsnn.compress import rescaled, uniform_grid
from jaxsnn.compress.codes import Step
from tests.coding.older_forms import parts_of

DRAW = np.random.default_rng(0).normal(size=600).astype(np.float32)


def sparse_grid(seed, size, density, bits):
    """Return weights on `2**bits` levels, a share of them set to zero."""
    rng = np.random.default_rng(seed)
    codebook = rng.normal(size=2**bits).astype(np.float32)
    leaf = codebook[rng.integers(0, 2**bits, size)]
    return np.where(rng.random(size) < density, leaf, 0).astype(np.float32)


def draw_of(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def rescaled_kernel(seed, shape, bits, kept=None, gamma="mean"):
    """Return weights on a grid of `2**bits` levels for each channel."""
    return np.asarray(rescaled(bits, gamma=gamma, kept=kept)(draw_of(shape, seed)))


def same_bits(first, second):
    return (
        first.dtype == second.dtype
        and first.shape == second.shape
        and (np.asarray(first).tobytes() == np.asarray(second).tobytes())
    )


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(0, 900),
    density=st.floats(0, 1),
    bits=st.integers(1, 8),
)
def test_every_density_and_width_returns_bit_for_bit(seed, size, density, bits):
    leaf = sparse_grid(seed, size, density, bits)
    form, parts = coding.encode(leaf)
    assert form in WRITTEN
    assert same_bits(coding.decode(form, parts, leaf.shape), leaf)
    assert sum(part.nbytes for part in parts.values()) == coding.num_bytes(leaf)
    assert coding.num_bytes(leaf) <= 4 * size
    assert coding.bits(leaf) in (*range(1, 9), 32)


# Leaves, each with an older form that can hold it.
LEAVES = [
    ("codes", np.tile(np.float32([-1, 0.5, 1]), 100), "coded_codes"),
    ("sparse_codes", np.tile(np.sqrt(np.float32([0, 1, 0, 2, 0, 3, 0, 7])), 200), "coded_codes"),
    ("sparse_grid_codes", np.tile(np.float32([0, 1, 0, 2, 0, 3, 0, 4]), 200), "coded_grid_codes"),
    ("indexed_codes", np.tile(np.float32([0] * 39 + [0.5, -0.5]), 40), "coded_codes"),
    ("floats", np.linspace(1, 2, 300, dtype=np.float32), "floats"),
    ("sparse_floats", np.concatenate([np.zeros(600, np.float32), DRAW]), "coded_floats"),
    ("grouped_floats", np.stack([np.zeros(600, np.float32), DRAW]), "coded_floats"),
    ("indexed_floats", np.pad(np.linspace(1, 2, 300, dtype=np.float32), 1650), "coded_floats"),
    ("indexed_codes", np.zeros(800, np.float32), "coded_codes"),
    ("floats", np.full((), 2.1, np.float32), "floats"),  # smaller than a codebook of one value
    ("floats", np.full((), 2.0, np.float32), "short_floats"),
    ("floats", np.ldexp(np.arange(-9, 30, dtype=np.float32), -5), "points"),
    ("floats", (DRAW[:40].view(np.uint32) & 0xFFFF0000).view(np.float32), "short_floats"),
]


@pytest.mark.parametrize(("older", "leaf", "form"), LEAVES)
def test_the_smallest_form_is_taken_and_an_older_one_is_read(older, leaf, form):
    assert coding.encode(leaf)[0] == form
    known = comparing.sizes(leaf)
    assert coding.num_bytes(leaf) == known[form] <= min(known.values()) + 8
    parts = parts_of(older, leaf)
    assert sum(part.nbytes for part in parts.values()) == known[older]
    assert same_bits(coding.decode(older, parts, leaf.shape), leaf)


def test_short_floats_are_for_leaves_of_one_axis_and_not_for_kernels():
    leaf = np.float32([[1.5, -0.25], [3, 0.125]])
    assert coding.encode(leaf)[0] == "floats" and coding.encode(leaf.ravel())[0] == "points"
    leaf[0, 0] = 2.0**20
    assert coding.encode(leaf)[0] == "floats" and coding.encode(leaf.ravel())[0] == "short_floats"
    assert coding.bits(leaf.ravel() + np.float32(2**-20)) == 32


@pytest.mark.parametrize("low", [-(2**15) + 1, -300, -255, 0, 1, 2**15 - 256])
@pytest.mark.parametrize("power", [-126, -9, 0, 100])
def test_whole_numbers_times_a_power_of_two_return_bit_for_bit(low, power):
    whole = [low, low + 255, *np.random.default_rng(0).integers(low, low + 256, 40)]
    leaf = np.ldexp(np.float32(whole), power)
    form, parts = coding.encode(leaf)
    assert form == "points" and coding.num_bytes(leaf) == 4 + 42
    assert same_bits(coding.decode(form, parts, leaf.shape), leaf)


@pytest.mark.parametrize("leaf", [[1.0, 2.0**8], [2.0**15, 2.0**15 + 1], [2.0**-127], [2.0**101]])
def test_other_numbers_are_no_points(leaf):
    assert coding.encode(np.float32([*leaf] * 12))[0] != "points"


def test_the_entropy_is_that_of_the_shares_of_the_values():
    assert comparing.entropy(np.float32([0, 0, 0, 0, 1, 1, 2, 3])) == 14 / 8
    assert comparing.entropy(np.zeros(9, np.float32)) == comparing.entropy(np.zeros((0, 2))) == 0


# Few shapes, because each compiles; bits and masks do not.
@pytest.mark.long
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from([(30, 7), (3, 3, 8, 5), (5, 1), (2, 2)]),
    bits=st.integers(1, 8),
    gamma=st.sampled_from(["mean", "max"]),
    density=st.sampled_from([0.0, 0.1, 0.9, 1.0]),
)
def test_rescaled_weights_return_bit_for_bit(seed, shape, bits, gamma, density):
    kept = np.random.default_rng(seed + 1).random(shape) < density
    leaf = rescaled_kernel(seed, shape, bits, kept, gamma)
    form, parts = coding.encode(leaf)
    assert same_bits(coding.decode(form, parts, shape), leaf)
    assert sum(part.nbytes for part in parts.values()) == coding.num_bytes(leaf)
    known = comparing.sizes(leaf)
    # What the coder has to learn of few weights is more than nothing.
    assert coding.num_bytes(leaf) <= 1.1 * min(known.values()) + 32


@pytest.mark.parametrize("bits", range(1, 9))
def test_a_gamma_for_each_channel_takes_the_bits_of_its_codes(bits):
    leaf = rescaled_kernel(0, (3, 3, 16, 8), bits)
    assert coding.encode(leaf)[0] == "coded_grid_codes"
    assert coding.bits(leaf) == bits
    older = 4 * 8 + 1 + 144 * bits
    assert comparing.sizes(leaf)["scaled_codes"] == older and coding.num_bytes(leaf) < older + 20
    parts = parts_of("scaled_codes", leaf)
    assert same_bits(coding.decode("scaled_codes", parts, leaf.shape), leaf)
    channels = np.arange(8) != 3
    assert coding.num_bytes(leaf * channels) < coding.num_bytes(leaf)
    for density, older in [(0.6, "sparse_scaled_codes"), (0.1, "indexed_scaled_codes")]:
        kept = np.random.default_rng(1).random(leaf.shape) < density
        pruned, known = on_grid(rescaled(bits, kept=kept), draw_of(leaf.shape))
        assert coding.bits(pruned, known) == bits
        assert coding.num_bytes(pruned, known) < comparing.sizes(pruned, known)[older] + 16
        parts = parts_of(older, pruned, known)
        assert same_bits(coding.decode(older, parts, leaf.shape), pruned + np.float32(0))
        assert coding.bits(pruned) == max(bits, 2)


def test_channels_of_different_widths_take_their_own_bits():
    widths = np.array([0, 2, 3, 8, 2])
    codes = np.random.default_rng(0).integers(-128, 128, (40, 5)) >> (8 - widths)
    scale = jnp.asarray(np.linspace(0.1, 1, 5), jnp.float32).reshape(1, 5)
    step = Step.of(scale, bits=jnp.asarray(widths.reshape(1, 5)))
    known = step.with_codes(jnp.asarray(codes * (widths > 0)))
    leaf = np.asarray(known.decode()) + np.float32(0)
    form, parts = coding.encode(leaf, known)
    assert form == "coded_channel_codes"
    older = parts_of("channel_codes", leaf, known)
    assert same_bits(coding.decode("channel_codes", older, leaf.shape), leaf)
    assert coding.num_bytes(leaf, known) < sum(part.nbytes for part in older.values()) + 24
    assert same_bits(coding.decode(form, parts, leaf.shape), leaf)
    kept = np.count_nonzero(leaf, axis=0)
    assert coding.bits(leaf, known) == widths @ kept / kept.sum()
    _, _, _, bits = coding.stored_step(form, parts, leaf.shape)
    np.testing.assert_array_equal(bits, widths.reshape(1, 5))
    sparse = leaf * (np.random.default_rng(1).random(leaf.shape) < 0.2)
    known = step.encode(jnp.asarray(sparse))
    form, parts = coding.encode(sparse, known)
    assert form == "coded_channel_codes"
    assert same_bits(coding.decode(form, parts, leaf.shape), sparse + np.float32(0))


def test_one_weight_off_the_grid_is_enough_to_stay_exact():
    leaf = rescaled_kernel(0, (3, 3, 200, 8), 4).copy()
    assert coding.encode(leaf)[0] == "coded_grid_codes"
    leaf[-1, -1, -1, -1] *= 1 + 1e-6  # behind the part that is looked at first
    form, parts = coding.encode(leaf)
    assert form == "coded_codes" and same_bits(coding.decode(form, parts, leaf.shape), leaf)


def test_floats_of_any_shape_are_not_taken_for_scaled_codes():
    draw = np.random.default_rng(0)
    for shape in [(), (1,), (64,), (1, 64), (2, 64), (64, 1), (3, 3, 4, 4)]:
        leaf = draw.normal(size=shape).astype(np.float32)
        assert coding.encode(leaf)[0] == "floats" and coding.bits(leaf) == 32


def test_negative_zero_becomes_zero_and_small_numbers_stay():
    leaf = np.array([-0.0, 1e-45, -1e-45, 3e38, -0.0], np.float32)
    form, parts = coding.encode(leaf)
    assert same_bits(coding.decode(form, parts, (5,)), np.where(leaf == 0, np.float32(0), leaf))


def on_grid(projection, leaf):
    """Return a leaf on a grid, and what is known of it."""
    found = projection.quantize(jnp.asarray(leaf, jnp.float32))
    return np.asarray(found.decode()), found


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("density, shape", [(1.0, (300,)), (0.3, (3, 3, 9, 7)), (0.02, (300,))])
def test_a_known_grid_is_written_and_told_again(bits, density, shape):
    draw = np.random.default_rng(bits)
    leaf = draw.normal(size=shape).astype(np.float32) * (draw.random(shape) < density)
    leaf, found = on_grid(uniform_grid(bits), leaf)
    form, parts = coding.encode(leaf, found)
    assert form == "coded_grid_codes"
    assert sum(part.nbytes for part in parts.values()) == coding.num_bytes(leaf, found)
    assert coding.num_bytes(leaf, found) <= coding.num_bytes(leaf) + 13
    assert same_bits(coding.decode(form, parts, shape), leaf + np.float32(0))
    assert coding.bits(leaf, found) == bits
    again = Step(*(jnp.asarray(number) for number in coding.stored_step(form, parts, shape)))
    np.testing.assert_array_equal(again.encode(jnp.asarray(leaf)).codes, found.codes)
    for name in ("scale", "unit", "offset", "bits"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))


def test_a_scale_for_each_channel_with_a_zero_takes_the_bits_of_its_codes():
    draw = np.random.default_rng(0)
    codes = jnp.asarray(draw.integers(-7, 8, (3, 3, 16, 32)))
    scale = jnp.asarray(draw.uniform(0.1, 1, 32), jnp.float32).reshape(1, 1, 1, -1)
    found = Step.of(scale, bits=4).with_codes(codes)
    leaf = np.asarray(found.decode())
    for known in (found, None):
        assert coding.bits(leaf, known) == 4
        assert coding.num_bytes(leaf, known) < 4 * 32 + 9 + leaf.size // 2
        form, parts = coding.encode(leaf, known)
        assert same_bits(coding.decode(form, parts, leaf.shape), leaf + np.float32(0))


@pytest.mark.long
def test_rescaled_weights_of_a_known_grid_tell_their_step():
    leaf, found = on_grid(rescaled(4), np.random.default_rng(0).normal(size=(30, 8)))
    form, parts = coding.encode(leaf, found)
    assert form == "coded_grid_codes"
    again = Step(*(jnp.asarray(number) for number in coding.stored_step(form, parts, leaf.shape)))
    np.testing.assert_array_equal(again.encode(jnp.asarray(leaf)).codes, found.codes)
    assert coding.stored_step("floats", {}, (3,)) is None


@pytest.mark.long
def test_weights_off_the_grid_that_is_told_are_written_as_they_are():
    leaf, found = on_grid(uniform_grid(3), np.random.default_rng(0).normal(size=(40, 5)))
    leaf = leaf.copy()
    leaf[0, 0] += 0.1
    form, parts = coding.encode(leaf, found)
    assert "grid" not in form and same_bits(coding.decode(form, parts, leaf.shape), leaf + 0)
