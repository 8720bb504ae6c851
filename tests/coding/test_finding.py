"""Grids are found in weights that other tools quantized, and are those that grids of ours know."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import coding, compress
from jaxsnn.compress import projections as pr
from jaxsnn.export.integer.units import scales
from jaxsnn.export.npz import integers

SHAPE = (3, 3, 8, 16)
DRAW = np.random.default_rng(0)
WEIGHTS = DRAW.normal(size=SHAPE) * DRAW.uniform(0.2, 3, SHAPE[-1])  # float64
KEPT = (DRAW.random(SHAPE) < 0.3) | (np.abs(WEIGHTS) == np.abs(WEIGHTS).max())
FACTOR = DRAW.uniform(0.3, 2, SHAPE[-1])


def rounded(levels, scale, dtype):
    """Return `scale * levels` computed in a precision, as float32."""
    return (levels.astype(dtype) * np.asarray(scale, dtype)).astype(np.float32)


def whole(bits, axis):
    """Return symmetric whole numbers with a zero, and their scale, as most tools make them."""
    top = 2 ** (bits - 1) - 1
    scale = np.abs(WEIGHTS).max(axis=axis, keepdims=True) / top
    return np.clip(np.round(WEIGHTS / scale), -top, top), scale.reshape(scale.shape[-1:])


def of_tool(name, bits, axis):
    """Return the float32 weights that a tool makes of whole numbers."""
    levels, scale = whole(bits, axis)
    if name == "float32 scale":
        return rounded(levels, scale, np.float32), levels
    if name == "float64 scale":
        return rounded(levels, scale, np.float64), levels
    if name == "norm folded in":
        return rounded(rounded(levels, scale, np.float32), FACTOR, np.float32), levels
    if name == "shares of the largest":
        shares = levels.astype(np.float32) / np.float32(2 ** (bits - 1) - 1)
        return shares * np.float32(scale * (2 ** (bits - 1) - 1)), levels
    assert name == "zero point"  # 0 to 2**bits - 1, of which one stands for zero
    levels = np.clip(levels + 2 ** (bits - 1), 0, 2**bits - 1) - 2 ** (bits - 1) + 1
    return rounded(levels, scale, np.float32), levels


TOOLS = ["float32 scale", "float64 scale", "norm folded in", "shares of the largest", "zero point"]


@pytest.mark.parametrize("axis", [None, (0, 1, 2)], ids=["leaf", "channel"])
@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("tool", TOOLS)
def test_whole_numbers_of_other_tools_are_found(tool, bits, pruned, axis):
    leaf, levels = of_tool(tool, bits, axis)
    if pruned:
        leaf, levels = leaf * KEPT, levels * KEPT
    form, parts = coding.encode(leaf)
    np.testing.assert_array_equal(coding.decode(form, parts, SHAPE), leaf)
    cost = coding.cost(leaf)
    assert cost.bits == bits and cost.num_bytes == sum(part.nbytes for part in parts.values())
    per_channel = axis is not None or tool == "norm folded in"
    ideal = leaf.size * bits / 8 + 4 * (SHAPE[-1] if per_channel else 1)
    # Eight bits see as many levels as a channel of so few weights has weights: a byte in five more.
    exact = tool in ("float32 scale", "zero point")
    assert cost.num_bytes <= ideal + 9 if exact else 1.35 * ideal + 9
    found = integers(leaf)
    factors = levels[leaf != 0] / found["integers"][leaf != 0]
    assert np.all(found["integers"][leaf == 0] == 0)
    np.testing.assert_allclose(found["integers"] * found["scale"], leaf, rtol=2e-6)
    assert np.all(factors == np.rint(factors)) and factors.min() >= 1  # the coarsest, the same
    rows = leaf.reshape(-1, SHAPE[-1]).astype(np.float64)
    alone = np.rint(rows / scales(rows, 8)).astype(int)
    shares = found["integers"].reshape(rows.shape)[alone != 0] / alone[alone != 0]
    assert np.all(shares == np.rint(shares))  # the integer network has the same integers


GRIDS = {
    "binary": lambda per: compress.binary_grid(per=per),
    "ternary": lambda per: compress.ternary_grid(per=per),
    "uniform 3": lambda per: compress.uniform_grid(3, per=per),
    "uniform 4": lambda per: compress.uniform_grid(4, per=per),
    "uniform 8": lambda per: compress.uniform_grid(8, per=per),
    "pow2 3": lambda per: compress.pow2_grid(3, per=per),
    "pow2 4": lambda per: compress.pow2_grid(4, per=per),
    "pow2 5": lambda per: compress.pow2_grid(5, per=per),
    "symmetric 4": lambda per: compress.symmetric_uniform(4, per=per),
    "rescaled 2": lambda per: compress.rescaled(2, per=per.replace("leaf", "layer")),
    "rescaled 8": lambda per: compress.rescaled(8, per=per.replace("leaf", "layer")),
    "vanilla 4": lambda per: compress.vanilla(4),
}
PRUNED = {
    "uniform 4": lambda per: pr.compose(pr.on_mask(KEPT), compress.uniform_grid(4, per=per)),
    "pow2 4": lambda per: pr.compose(pr.on_mask(KEPT), compress.pow2_grid(4, per=per)),
    "rescaled 4": lambda per: compress.rescaled(4, per=per.replace("leaf", "layer"), kept=KEPT),
}
CASES = [(name, per, False) for name in GRIDS for per in ("leaf", "channel")]
CASES += [(name, per, True) for name in PRUNED for per in ("leaf", "channel")]


@pytest.mark.parametrize(("name", "per", "pruned"), CASES)
def test_the_grid_that_is_found_is_the_one_that_is_known(name, per, pruned):
    grid = (PRUNED if pruned else GRIDS)[name](per)
    weights = np.asarray(WEIGHTS / 2, np.float32)
    known = pr.quantize(grid, jnp.asarray(weights))
    leaf = np.asarray(known.decode()) + np.float32(0)
    np.testing.assert_array_equal(leaf, grid(jnp.asarray(weights)))
    told, found = coding.cost(leaf, known), coding.cost(leaf)
    np.testing.assert_array_equal(coding.decode(*coding.encode(leaf), SHAPE), leaf)
    # A codebook may be smaller; powers of two begin in each channel with its own smallest.
    assert found.num_bytes <= (1.15 if "pow2" in name else 1) * told.num_bytes
    assert found.bits <= told.bits == known.bits
    whole, codes = (integers(leaf, each)["integers"] for each in (None, known))
    by_channel = (np.abs(x).reshape(-1, SHAPE[-1]) for x in (whole, codes))
    for one, other in zip(*(x.T for x in by_channel), strict=True):
        there = one > 0
        assert np.array_equal(there, other > 0)
        assert len(set(other[there] / one[there])) <= 1  # the same up to a common factor
    extreme = [np.abs(x.reshape(-1, SHAPE[-1])).max(0) for x in (whole, codes)]
    if np.array_equal(*extreme):
        np.testing.assert_array_equal(whole, codes)
        assert found.bits == told.bits or name == "uniform 8"


def test_powers_of_two_take_the_bits_of_their_exponents():
    leaf = (2.0 ** DRAW.integers(0, 15, SHAPE) * DRAW.choice([-1, 1], SHAPE)).astype(np.float32)
    leaf *= np.float32(FACTOR) * KEPT
    assert coding.cost(leaf).bits == 5
    form, parts = coding.encode(leaf)
    assert form == "coded_grid_codes"
    assert parts["grid"].tolist() == [0, 5, 5]
    np.testing.assert_array_equal(coding.decode(form, parts, SHAPE), leaf + 0)


def test_floats_are_on_no_grid_and_small_leaves_count_as_floats():
    for shape in [(3,), (1, 40), (2, 40), (30, 2), SHAPE]:
        leaf = DRAW.normal(size=shape).astype(np.float32)
        assert coding.known_or_found(leaf) is None and coding.bits(leaf) == 32
    assert coding.known_or_found(np.zeros(SHAPE, np.float32)) is None


def test_one_weight_off_is_enough():
    leaf, _ = of_tool("float32 scale", 4, (0, 1, 2))
    leaf = leaf.copy()
    leaf[2, 2, 7, 15] *= 1.001
    form, parts = coding.encode(leaf)
    assert "grid" not in form and coding.known_or_found(leaf) is None
    np.testing.assert_array_equal(coding.decode(form, parts, SHAPE), leaf)
