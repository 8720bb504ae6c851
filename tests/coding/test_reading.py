"""Parts that do not make up a leaf are refused, before anything of its size is made."""

import numpy as np
import pytest

from jaxsnn import coding

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


GRID = {
    "scale": np.ones(2, np.float32),
    "unit": np.ones(1, np.float32),
    "low": np.int16([-1]),
    "grid": np.uint8([1, 2, 2]),
    "codes": np.uint8([0]),
}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"scale": np.ones(3, np.float32)}, "scale has 3 elements, expected 2"),
        ({"unit": np.ones(0, np.float32)}, "unit has 0 elements, expected 1"),
        ({"low": np.int16([0, 0])}, "low has 2 elements, expected 1"),
        ({"grid": np.uint8([1, 2])}, "grid has 2 elements, expected 3"),
        ({"grid": np.uint8([1, 9, 2])}, "width is 9, allowed are 1 to 8"),
        ({"codes": np.uint8([0, 0])}, "codes has 2 elements, expected 1"),
    ],
)
def test_grid_parts_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        coding.decode("grid_codes", GRID | change, (2, 2))
    np.testing.assert_array_equal(coding.decode("grid_codes", GRID, (2, 2)), -1)


CHANNELS = {
    "scale": np.ones(2, np.float32),
    "unit": np.ones(1, np.float32),
    "widths": np.uint8([2, 0]),
    "codes": np.uint8([0b01000000]),
}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"scale": np.ones(3, np.float32)}, "scale has 3 elements, expected 2"),
        ({"unit": np.ones(0, np.float32)}, "unit has 0 elements, expected 1"),
        ({"widths": np.uint8([2])}, "widths has 1 elements, expected 2"),
        ({"widths": np.uint8([9, 2])}, "widths reach 9"),
        ({"codes": np.uint8([0, 0])}, "codes has 2 elements, expected 1"),
    ],
)
def test_channel_parts_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        coding.decode("channel_codes", CHANNELS | change, (2, 2))
    found = coding.decode("channel_codes", CHANNELS, (2, 2))
    np.testing.assert_array_equal(found, [[-1, 0], [-2, 0]])


@pytest.mark.parametrize(
    "form, parts",
    [
        ("scaled_codes", SCALED | {"gamma": np.float32([1, np.inf])}),
        ("scaled_codes", SCALED | {"gamma": np.float32([np.nan, 1])}),
        ("grid_codes", GRID | {"scale": np.float32([1, 3e38]), "low": np.int16([-2])}),
        ("grid_codes", GRID | {"unit": np.float32([3e38]), "low": np.int16([-2])}),
        ("grid_codes", GRID | {"unit": np.float32([np.nan])}),
        ("channel_codes", CHANNELS | {"scale": np.float32([3e38, 1])}),
        ("channel_codes", CHANNELS | {"unit": np.float32([np.inf])}),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_scale_that_leads_out_of_float32_is_refused_without_a_warning(form, parts):
    with pytest.raises(ValueError, match="scale times level is not finite in float32"):
        coding.decode(form, parts, (2, 2))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("form", ["coded_grid_codes", "points", "floats"])
def test_leaves_at_the_ends_of_float32_are_told_of_without_a_warning(form):
    largest, least = np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal
    for numbers in ([largest], [-largest, largest / 3], [0, largest, least], [2e38, 1e38, least]):
        leaf = np.resize(np.float32(numbers), (3, 4))
        found, parts = coding.encode(leaf)
        np.testing.assert_array_equal(coding.decode(found, parts, leaf.shape), leaf)
        assert coding.bits(leaf) > 0 and coding.least(leaf, form) >= 0


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


@pytest.mark.parametrize("form", coding.PARTS)
def test_few_bytes_cannot_claim_to_be_a_long_leaf(form):
    """A shape of 4 TB must be refused before it is made."""
    parts = {name: np.zeros(1, dtype) for name, dtype in coding.PARTS[form].items()}
    parts |= {name: np.uint8([4]) for name in ("width", "gap_width") if name in parts}
    with pytest.raises(ValueError, match="expected"):
        coding.decode(form, parts, (2**40, 1))
