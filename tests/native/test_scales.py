"""The native search of a grid's scale against the one in JAX."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import compress, native
from jaxsnn.native import convolutions, scales

pytestmark = pytest.mark.skipif(not convolutions.available(jnp.float32), reason=native.describe())
DRAW = np.random.default_rng(0)


def shown(grid, leaf, *, natively=True):
    with contextlib.nullcontext() if natively else convolutions.off():
        return np.asarray(jax.jit(lambda x: grid(x))(jnp.asarray(leaf)), np.float64)


def errors(leaf, found):
    return np.sum((np.asarray(leaf, np.float64) - found) ** 2)


@pytest.mark.parametrize("per", ["leaf", "channel"])
@pytest.mark.parametrize("bits", [2, 3, 5, 8])
@pytest.mark.parametrize(
    "shape", [(1, 1), (7, 3), (3, 3, 4, 6), (64, 2), (70, 1), (300, 5), (5000, 2)]
)
def test_the_error_is_that_of_the_search_in_jax(shape, bits, per):
    for density in (0.2, 1.0):
        leaf = (DRAW.normal(size=shape) * (DRAW.random(shape) < density)).astype(np.float32)
        grid = compress.uniform_grid(bits, per=per)
        here, there = (errors(leaf, shown(grid, leaf, natively=each)) for each in (True, False))
        assert here <= 1.003 * there + 1e-9 * np.sum(leaf**2)


def test_what_is_on_the_grid_stays():
    codes = np.float32([[-3, 0, 1], [2, 1, 3], [3, -3, 0], [0, 1, -2]])
    for per in ("leaf", "channel"):
        leaf = codes * np.float32([0.25, 0.25, 0.25] if per == "leaf" else [0.1, 7.0, 1e-6])
        found = shown(compress.uniform_grid(3, per=per), leaf)
        np.testing.assert_allclose(found, leaf, rtol=1e-6)
        np.testing.assert_array_equal(np.sign(found), np.sign(codes))


def test_zeros_stay_zeros_and_what_is_not_finite_is_not_hidden():
    grid = compress.uniform_grid(3, per="channel")
    leaf = np.float32([[0, 1, np.nan], [0, 2, 1], [0, -3, 1]])
    found = shown(grid, leaf)
    assert not found[:, 0].any()
    np.testing.assert_allclose(found[:, 1], [1, 2, -3])
    assert np.isnan(found[:, 2]).all()


def test_lanes_with_bits_of_their_own_are_those_of_single_calls():
    leaves = DRAW.normal(size=(3, 40, 6)).astype(np.float32)
    bits = jnp.asarray([2, 3, 4])
    for per in ("leaf", "channel"):
        together = jax.jit(jax.vmap(lambda b, x, per=per: compress.uniform_grid(b, per=per)(x)))
        for lane, found in enumerate(together(bits, leaves)):
            single = shown(compress.uniform_grid(int(bits[lane]), per=per), leaves[lane])
            np.testing.assert_array_equal(found, single.astype(np.float32))


def test_each_channel_has_its_own_bits():
    leaf = DRAW.normal(size=(50, 3)).astype(np.float32)
    found = shown(compress.uniform_grid(np.array([2, 3, 5]), per="channel"), leaf)
    for channel, bits in enumerate((2, 3, 5)):
        single = shown(compress.uniform_grid(bits), leaf[:, channel])
        assert errors(leaf[:, channel], found[:, channel]) <= 1.003 * errors(
            leaf[:, channel], single
        )


def test_the_derivative_is_that_of_the_scale_at_fixed_levels():
    leaf = jnp.asarray(DRAW.normal(size=(30, 4)), jnp.float32)
    weight = jnp.asarray(DRAW.normal(size=(30, 4)), jnp.float32)
    grid = compress.uniform_grid(3, per="channel")
    codes = grid.quantize(leaf).codes.astype(jnp.float32)
    found = jax.grad(lambda x: jnp.sum(weight * grid(x)))(leaf)
    each = jnp.sum(weight * codes, 0) / jnp.sum(codes * codes, 0)  # d alpha / d v = q / <q, q>
    np.testing.assert_allclose(found, codes * each[None], rtol=1e-4, atol=1e-6)


def test_the_number_of_threads_changes_nothing(monkeypatch):
    for shape in ((4000, 1), (300, 7)):
        leaf = DRAW.normal(size=shape).astype(np.float32)
        found = []
        for count in (1, 2, 5):
            monkeypatch.setattr(scales, "threads", lambda count=count: count)
            found.append(shown(compress.uniform_grid(4, per="channel"), leaf))
            jax.clear_caches()
        np.testing.assert_array_equal(found[0], found[1])
        np.testing.assert_array_equal(found[0], found[2])
