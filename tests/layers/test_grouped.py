"""Grouped, depthwise and one-dimensional convolutions, against JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from jaxsnn import layers
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.layers import Integrator, Tape
from jaxsnn.layers.convolution import convolve
from jaxsnn.layers.grouped import ordinary
from jaxsnn.layers.layer import named
from jaxsnn.metrics import operations


def numbers(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def by_jax(images, kernel, groups, stride, padding):
    border = [(0, 0) if padding == "VALID" else ((k - 1) // 2, k // 2) for k in kernel.shape[:2]]
    names = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        images, kernel, (stride,) * 2, border, dimension_numbers=names, feature_group_count=groups
    )


@pytest.mark.parametrize(
    ("groups", "outputs", "stride", "size", "padding"),
    [(2, 6, 1, 3, "SAME"), (4, 4, 2, 3, "SAME"), (4, 8, 2, 2, "VALID")],
    ids=["grouped", "depthwise", "multiplied"],
)
def test_values_and_gradients_are_those_of_jax(groups, outputs, stride, size, padding):
    images, kernel = numbers(2, 6, 5, 4), numbers(size, size, 4 // groups, outputs, seed=1)

    def ours(images, kernel):
        return convolve(images, kernel, stride=stride, padding=padding, groups=groups)

    def both(images, kernel):
        found = []
        for function in (ours, lambda x, k: by_jax(x, k, groups, stride, padding)):
            out, back = jax.vjp(function, images, kernel)
            found.append((out, *back(jnp.cos(out))))
        return found

    for ours, expected in zip(*jax.jit(both)(images, kernel), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_the_ordinary_kernel_does_the_same():
    images, kernel = numbers(1, 4, 4, 4), numbers(3, 3, 2, 6)
    found = by_jax(images, jnp.asarray(ordinary(np.asarray(kernel), 2)), 1, 1, "SAME")
    np.testing.assert_allclose(found, by_jax(images, kernel, 2, 1, "SAME"), rtol=1e-5, atol=1e-5)


@pytest.mark.long
def test_short_images_are_weighed_with_rounded_weights_and_the_gradient_is_not_rounded():
    images, kernel = numbers(1, 4, 4, 2).astype(jnp.bfloat16), numbers(3, 3, 1, 2)
    total = lambda kernel: convolve(images, kernel, groups=2, dtype=jnp.float32).sum()  # noqa: E731
    rounded = kernel.astype(jnp.bfloat16).astype(jnp.float32)
    exact = by_jax(images.astype(jnp.float32), rounded, 2, 1, "SAME")
    np.testing.assert_allclose(total(kernel), exact.sum(), rtol=1e-5)
    gradient = jax.grad(total)(kernel)
    assert gradient.dtype == jnp.float32
    assert (gradient != gradient.astype(jnp.bfloat16).astype(jnp.float32)).any()
    assert convolve(images, kernel, groups=2).dtype == jnp.bfloat16


def test_a_sequence_is_convolved_as_numpy_does():
    layer = layers.Conv1d(2, 3, 3, neurons=Integrator(), use_bias=False, rngs=nnx.Rngs(0))
    x, kernel = np.asarray(numbers(2, 1, 5, 2)), np.asarray(layer.kernel[...])
    out = layer(Signal(jnp.asarray(x), 2), Tape()).value
    assert out.shape == (2, 1, 5, 3)
    padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (0, 0)])
    expected = sum(padded[:, :, i : i + 5] @ kernel[i] for i in range(3))
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_an_event_meets_the_weights_of_its_group_only():
    options = {"neurons": Integrator(), "rngs": nnx.Rngs(0)}
    conv = layers.Conv(4, 6, 1, groups=2, **options)
    reach = operations.fan_out(conv.weigh, conv.kernel[...], (3, 3, 4))
    assert (reach == 3).all()  # of 6 outputs the 3 of its group, at one place
    line = layers.Conv1d(4, 4, 3, groups=4, **options)
    reach = operations.fan_out(line.weigh, line.kernel[...], (5, 4))
    np.testing.assert_array_equal(reach[:, 0], [2, 3, 3, 3, 2])


def test_what_does_not_fit_is_named():
    options = {"neurons": Integrator(), "rngs": nnx.Rngs(0)}
    with pytest.raises(UserError, match="3 groups do not divide 4 input and 6 output channels"):
        layers.Conv(4, 6, groups=3, **options)
    with pytest.raises(UserError, match=r"groups must be in \[1, 1048576\], found 0"):
        layers.Conv(4, 6, groups=0, **options)
    line = named(layers.Chain({"line": layers.Conv1d(4, 4, **options)}))
    with pytest.raises(UserError, match=r"layer 'line' takes sequences \[L, 4\], found an inp"):
        line(Signal(jnp.ones((2, 1, 4)), 2), Tape())
    conv = layers.Conv1d(4, 4, **options)
    with pytest.raises(UserError, match="a block is made of convolutions of images"):
        layers.Residual(conv, conv)
    pool = layers.AveragePool(2)
    with pytest.raises(UserError, match=r"pools images \[H, W, C\], found an input of the shape"):
        pool(Signal(jnp.ones((2, 1, 4, 2)), 2), Tape())
