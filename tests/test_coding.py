"""A leaf returns from its smallest form bit for bit, in the bytes that were promised."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsnn import coding
from jaxsnn.coding import bitstream
from jaxsnn.compress.rescaling import rescaled

DRAW = np.random.default_rng(0).normal(size=600).astype(np.float32)


def sparse_grid(seed, size, density, bits):
    """Return weights on `2**bits` levels, a share of them set to zero."""
    rng = np.random.default_rng(seed)
    codebook = rng.normal(size=2**bits).astype(np.float32)
    leaf = codebook[rng.integers(0, 2**bits, size)]
    return np.where(rng.random(size) < density, leaf, 0).astype(np.float32)


def rescaled_kernel(seed, shape, bits, kept=None, gamma="mean"):
    """Return weights on a grid of `2**bits` levels for each channel."""
    leaf = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return np.asarray(rescaled(bits, gamma=gamma, kept=kept)(leaf))


def same_bits(first, second):
    return (
        first.dtype == second.dtype
        and first.shape == second.shape
        and (np.asarray(first).tobytes() == np.asarray(second).tobytes())
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(0, 900),
    density=st.floats(0, 1),
    bits=st.integers(1, 8),
)
def test_every_density_and_width_returns_bit_for_bit(seed, size, density, bits):
    leaf = sparse_grid(seed, size, density, bits)
    form, parts = coding.encode(leaf)
    assert same_bits(coding.decode(form, parts, leaf.shape), leaf)
    assert sum(part.nbytes for part in parts.values()) == coding.num_bytes(leaf)
    assert coding.num_bytes(leaf) <= 4 * size
    assert coding.bits(leaf) in (*range(1, 9), 32)


@pytest.mark.parametrize(
    "form, leaf, num_bytes",
    [
        ("codes", np.tile(np.float32([-1, 0.5, 1]), 100), 300 * 2 // 8 + 12),
        ("sparse_codes", np.tile(np.float32([0, 1, 0, 2, 0, 3, 0, 4]), 200), 200 + 16 + 200),
        # Two gaps of 6 bits for each pair: 39 and 0.
        ("indexed_codes", np.tile(np.float32([0] * 39 + [0.5, -0.5]), 40), 1 + 60 + 10 + 8),
        ("floats", np.linspace(1, 2, 300, dtype=np.float32), 1200),
        ("sparse_floats", np.stack([np.zeros(600, np.float32), DRAW]), 150 + 2400),
        # 300 gaps of 5 bits, 53 fillers in front, 54 behind.
        ("indexed_floats", np.pad(np.linspace(1, 2, 300, dtype=np.float32), 1650), 1 + 255 + 1200),
        ("indexed_codes", np.zeros(800, np.float32), 1 + 4),  # 255, 255, 255 zeros, and the rest
        ("floats", np.full((), 2.0, np.float32), 4),  # smaller than a codebook of one value
    ],
)
def test_the_smallest_form_is_taken(form, leaf, num_bytes):
    assert coding.encode(leaf)[0] == form
    assert coding.num_bytes(leaf) == num_bytes


# Few shapes, because each compiles; bits and masks do not.
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
    scaled = 4 * shape[-1] + 1 + -(-leaf.size * bits // 8)
    assert coding.num_bytes(leaf) <= (scaled if density == 1 else scaled + -(-leaf.size // 8))


@pytest.mark.parametrize("bits", range(1, 9))
def test_a_gamma_for_each_channel_takes_the_bits_of_its_codes(bits):
    leaf = rescaled_kernel(0, (3, 3, 16, 8), bits)
    assert coding.encode(leaf)[0] == "scaled_codes"
    assert coding.bits(leaf) == bits
    assert coding.num_bytes(leaf) == 4 * 8 + 1 + 144 * bits
    channels = np.arange(8) != 3  # a pruned channel needs no bitmap
    assert coding.encode(leaf * channels)[0] == "scaled_codes"
    for density, form in [(0.6, "sparse_scaled_codes"), (0.1, "indexed_scaled_codes")]:
        kept = np.random.default_rng(1).random(leaf.shape) < density
        pruned = rescaled_kernel(0, leaf.shape, bits, kept)
        assert coding.encode(pruned)[0] == form
        assert coding.bits(pruned) == bits


def test_one_weight_off_the_grid_is_enough_to_stay_exact():
    leaf = rescaled_kernel(0, (3, 3, 200, 8), 4).copy()
    assert coding.encode(leaf)[0] == "scaled_codes"
    leaf[-1, -1, -1, -1] *= 1 + 1e-6  # behind the part that is looked at first
    form, parts = coding.encode(leaf)
    assert form == "codes" and same_bits(coding.decode(form, parts, leaf.shape), leaf)


def test_floats_of_any_shape_are_not_taken_for_scaled_codes():
    draw = np.random.default_rng(0)
    for shape in [(), (1,), (64,), (1, 64), (2, 64), (64, 1), (3, 3, 4, 4)]:
        leaf = draw.normal(size=shape).astype(np.float32)
        assert coding.encode(leaf)[0] == "floats" and coding.bits(leaf) == 32


SCALED = {"gamma": np.ones(2, np.float32), "width": np.uint8([3]), "codes": np.uint8([0, 0])}


@pytest.mark.parametrize(
    "shape, change, message",
    [
        ((4,), {}, r"need two axes or more, the leaf has the shape \(4,\)"),
        ((2, 2), {"gamma": np.ones(3, np.float32)}, "gamma has 3 elements, expected 2"),
        ((2, 2), {"width": np.uint8([3, 3])}, "width has 2 elements, expected 1"),
        ((2, 2), {"width": np.uint8([9])}, "width is 9, allowed are 1 to 8"),
        ((2, 2), {"width": np.uint8([0])}, "width is 0, allowed are 1 to 8"),
        ((2, 2), {"codes": np.uint8([0])}, "codes has 1 elements, expected 2"),
    ],
)
def test_scaled_parts_that_do_not_fit_are_refused(shape, change, message):
    with pytest.raises(ValueError, match=message):
        coding.decode("scaled_codes", SCALED | change, shape)
    np.testing.assert_array_equal(coding.decode("scaled_codes", SCALED, (2, 2)), -1)


def test_negative_zero_becomes_zero_and_small_numbers_stay():
    leaf = np.array([-0.0, 1e-45, -1e-45, 3e38, -0.0], np.float32)
    form, parts = coding.encode(leaf)
    assert same_bits(coding.decode(form, parts, (5,)), np.where(leaf == 0, np.float32(0), leaf))


@pytest.mark.parametrize(
    "form, parts, message",
    [
        ("zip", {}, "form is 'zip'"),
        (
            "indexed_floats",
            {"gap_width": np.uint8([9]), "gaps": np.uint8([0]), "values": np.ones(1, np.float32)},
            "gap width is 9, allowed are 2 to 8",
        ),
        (
            "indexed_floats",
            {"gap_width": np.uint8([8]), "gaps": np.uint8([4]), "values": np.ones(1, np.float32)},
            "gaps reach 5 weights, expected 4",
        ),
        (
            "indexed_floats",
            {"gap_width": np.uint8([8]), "gaps": np.uint8([2]), "values": np.ones(1, np.float32)},
            "gaps reach 3 weights, expected 4",
        ),
        (
            "indexed_floats",
            {"gap_width": np.uint8([8]), "gaps": np.uint8([3]), "values": np.ones(2, np.float32)},
            "values has 2 elements, expected 1",
        ),
        ("floats", {}, "values is missing"),
        ("floats", {"values": np.ones(3)}, "values is float64"),
        ("floats", {"values": np.ones(3, np.float32)}, "values has 3 elements, expected 4"),
        (
            "codes",
            {"codebook": np.ones(3, np.float32), "codes": np.uint8([255])},
            "codes reach 3, the codebook has 3",
        ),
        ("codes", {"codebook": np.ones(300, np.float32), "codes": np.uint8([0])}, "at most 256"),
        (
            "sparse_floats",
            {"bitmap": np.uint8([0, 0]), "values": np.ones(0, np.float32)},
            "bitmap has 2 elements, expected 1",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(form, parts, message):
    with pytest.raises(ValueError, match=message):
        coding.decode(form, parts, (4,))


@pytest.mark.parametrize(
    "mask, width, packed",
    [
        ([0, 0, 1, 0, 1], 2, [0b10_01_11_11]),  # 2, 1, and ones
        ([0, 0, 0, 0, 1], 2, [0b11_01_11_11]),  # a filler and 1
        ([1, 0, 0, 0], 2, [0b00_11_11_11]),  # 0, and a filler behind it
        ([1, 1, 1], 3, [0b000_000_00, 0b0_1111111]),
        ([], 8, []),
        ([0] * 300, 8, [255, 255]),
    ],
)
def test_gaps_are_as_computed_by_hand(mask, width, packed):
    mask = np.array(mask, bool)
    np.testing.assert_array_equal(bitstream.pack_gaps(mask, width), packed)
    found = bitstream.unpack_gaps(np.array(packed, np.uint8), width, mask.size)
    np.testing.assert_array_equal(found, mask)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(0, 2000), density=st.floats(0, 1))
def test_a_mask_returns_from_gaps_of_every_width(seed, size, density):
    mask = np.random.default_rng(seed).random(size) < density
    sizes = {}
    for width in bitstream.GAP_WIDTHS:
        packed = bitstream.pack_gaps(mask, width)
        assert np.array_equal(bitstream.unpack_gaps(packed, width, size), mask)
        sizes[width] = packed.size
    best, width = bitstream.gap_size(mask)
    assert best == min(sizes.values()) == sizes[width]


@pytest.mark.parametrize("form", coding.PARTS)
def test_few_bytes_cannot_claim_to_be_a_long_leaf(form):
    """A shape of 4 TB must be refused before it is made."""
    parts = {name: np.zeros(1, dtype) for name, dtype in coding.PARTS[form].items()}
    parts |= {name: np.uint8([4]) for name in ("width", "gap_width") if name in parts}
    with pytest.raises(ValueError, match="expected"):
        coding.decode(form, parts, (2**40, 1))
