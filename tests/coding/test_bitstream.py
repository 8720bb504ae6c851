"""A mask returns from its gaps, of every width."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsnn.coding import bitstream


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
