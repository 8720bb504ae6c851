"""Products of inputs with a matrix, through oneDNN and through XLA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import native
from jaxsnn.layers import products
from jaxsnn.layers.products import multiply
from jaxsnn.native import convolutions as onednn

needs_short = pytest.mark.skipif(
    not onednn.available(jnp.bfloat16) or native.choose_dtype("auto")[0] == "float32",
    reason=f"{native.describe()}; {native.choose_dtype('auto')[1]}",
)


def outcome(x, kernel):
    """Return a wave of the product, and its derivatives."""

    def loss(x, kernel):
        found = multiply(x, kernel, jnp.float32)
        return (found * jnp.cos(jnp.arange(found.size)).reshape(found.shape)).sum()

    return jax.jit(jax.value_and_grad(loss, (0, 1)))(x, kernel), str(
        jax.make_jaxpr(loss)(x, kernel)
    )


def check(x, kernel, tolerance):
    """Compare both ways."""
    found, program = outcome(x, kernel)
    assert "jaxsnn_convolve" in program
    with onednn.off():
        wanted, program = outcome(x, kernel)
    assert "jaxsnn_convolve" not in program
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert ours.dtype == theirs.dtype
        ours, theirs = ours.astype(jnp.float32), theirs.astype(jnp.float32)
        scale = float(jnp.abs(theirs).max())
        np.testing.assert_allclose(ours, theirs, atol=tolerance * scale)


def draw(*shape):
    """Return normal numbers."""
    return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape), jnp.float32)


@pytest.mark.skipif(
    not onednn.available(jnp.float32) or onednn.instructions() not in ("AVX-512", "AMX"),
    reason=native.describe(),
)
def test_large_products_equal_xla(monkeypatch):
    monkeypatch.setattr(products, "MANY_PRODUCTS", 1)
    check(draw(5, 3, 7), draw(7, 4), 1e-5)


@needs_short
def test_short_products_equal_xla():
    check(draw(5, 3, 7).astype(jnp.bfloat16), draw(7, 4), 1e-2)


@needs_short
def test_short_products_in_lanes_and_the_whole_batch():
    x, kernels = draw(6, 8).astype(jnp.bfloat16), draw(3, 8, 4)
    lanes = jax.jit(jax.vmap(multiply, (None, 0)))(x, kernels)
    np.testing.assert_array_equal(lanes, jnp.stack([multiply(x, kernel) for kernel in kernels]))


def test_small_products_in_float32_are_xlas():
    program = jax.make_jaxpr(multiply)(draw(5, 7), draw(7, 4))
    assert "jaxsnn_convolve" not in str(program)
