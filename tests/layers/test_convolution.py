"""The convolution and its hand-written gradients, against JAX's own."""

import itertools
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxsnn.errors import UserError
from jaxsnn.layers import convolution
from jaxsnn.layers.convolution import convolve
from jaxsnn.native import convolutions as onednn

# Strides that divide the image and that leave rows over; an even kernel beside the odd ones.
CASES = [*itertools.product((1, 2, 3), (1, 3, 5), ("SAME", "VALID")), (2, 2, "SAME")]


@pytest.fixture(autouse=True)
def without_onednn():
    """Test the forms that are made of XLA's operations; tests/native has the other way."""
    with onednn.off():
        yield


def problem(size, *batch):
    """Return images of odd height and even width, and a kernel that is not square in channels."""
    random = np.random.default_rng(0)
    images = random.standard_normal((*batch, 2, 7, 6, 2))
    return jnp.asarray(images, jnp.float32), jnp.asarray(
        random.standard_normal((size, size, 2, 3)), jnp.float32
    )


def by_jax(images, kernel, stride, padding):
    """Convolve with explicit borders, `(k-1)//2` before and the rest after."""
    border = [(0, 0) if padding == "VALID" else ((k - 1) // 2, k // 2) for k in kernel.shape[:2]]
    names = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(images, kernel, (stride,) * 2, border, dimension_numbers=names)


def loss(conv, images, kernel, stride):
    """Return a scalar that weighs every output differently."""
    out = conv(images, kernel, stride=stride, padding="SAME")
    return jnp.vdot(out, jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape))


def both_gradients(function, images, kernel):
    """Return the gradients of `function(convolution, images, kernel)` for ours and for JAX's."""

    def both(*arguments):
        return [jax.grad(function, (1, 2))(conv, *arguments) for conv in (convolve, by_jax)]

    return jax.jit(both)(images, kernel)


def values_and_gradients(images, kernel, stride, padding):
    """Return [(value, gradients of a wave of it)] of our convolution and of JAX's own."""
    pairs = []
    for conv in (convolve, by_jax):
        value, pull = jax.vjp(partial(conv, stride=stride, padding=padding), images, kernel)
        wave = jnp.cos(jnp.arange(value.size, dtype=value.dtype)).reshape(value.shape)
        pairs.append((value, *pull(wave)))
    return pairs


@pytest.mark.parametrize(("stride", "size", "padding"), CASES)
def test_values_and_gradients_are_those_of_autodiff(stride, size, padding):
    compute = jax.jit(values_and_gradients, static_argnums=(2, 3))
    ours, theirs = compute(*problem(size), stride, padding)
    for a, b in zip(ours, theirs, strict=True):
        # Sums of up to a hundred terms of size one, in another order.
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_inside_a_scan(stride):
    images, kernel = problem(3, 3)

    def scanned(conv, images, kernel):
        def step(total, image):
            return total + loss(conv, image, kernel, stride), None

        return lax.scan(step, 0.0, images)[0]

    ours, theirs = both_gradients(scanned, images, kernel)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axes", [(0, None), (0, 0)])
def test_gradients_under_vmap(axes):
    images, kernel = problem(3, 3)
    if axes[1] == 0:
        kernel = jnp.stack([kernel, -kernel, 2 * kernel])

    def mapped(conv, images, kernel):
        return jax.vmap(lambda x, w: loss(conv, x, w, 2), axes)(images, kernel).sum()

    ours, theirs = both_gradients(mapped, images, kernel)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "shape, kernel_shape, stride, padding",
    [
        ((16, 9, 8, 9), (3, 3, 9, 6), 1, "SAME"),  # patches
        ((24, 8, 9, 15), (5, 5, 15, 7), 1, "VALID"),  # patches, sum of columns
        ((16, 11, 8, 16), (3, 3, 16, 8), 2, "SAME"),  # sum of columns with a stride
        ((16, 10, 7, 4), (3, 3, 4, 8), 3, "VALID"),
        ((17, 8, 8, 1), (5, 5, 1, 3), 1, "VALID"),  # few outputs; 17 cannot be cut
    ],
)
def test_every_form_on_a_cpu_is_jaxs_own_convolution(
    shape, kernel_shape, stride, padding, monkeypatch
):
    monkeypatch.setattr(convolution, "CHUNK_BYTES", 1)  # so that small problems are cut too
    random = np.random.default_rng(1)
    images, kernel = (
        jnp.asarray(random.standard_normal(s), jnp.float32) for s in (shape, kernel_shape)
    )

    compute = jax.jit(values_and_gradients, static_argnums=(2, 3))
    for a, b in zip(*compute(images, kernel, stride, padding), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_chunks_are_equal_parts_near_the_size_of_the_cache():
    array = jnp.zeros((320, 8, 8, 40))  # 10 KiB a sample, so that 52 samples are enough
    assert convolution._chunks(array, array).shape == (5, 64, 8, 8, 40)
    assert convolution._chunks(array[:7], array[:7]).shape == (1, 7, 8, 8, 40)
    large = jax.ShapeDtypeStruct((320, 1 << 20), jnp.float32)
    assert convolution._chunks(array, large).shape == (40, 8, 8, 8, 40)


def test_lanes_of_a_map_never_become_a_grouped_convolution():
    images, kernel = problem(3, 4)
    kernels = jnp.stack([kernel, -kernel, 2 * kernel, 3 * kernel])
    step = jax.vmap(jax.grad(lambda x, w: convolve(x, w).sum(), (0, 1)))
    text = str(jax.make_jaxpr(step)(images, kernels))
    assert "conv_general_dilated" in text
    assert set(re.findall(r"(?:feature|batch)_group_count=(\d+)", text)) == {"1"}


def test_same_padding_is_pytorchs_and_keeps_ceil_of_n_over_stride():
    images = jnp.arange(16.0).reshape(1, 4, 4, 1)
    kernel = jnp.zeros((3, 3, 1, 1)).at[0, 0].set(1.0)  # picks the upper left of each window
    out = convolve(images, kernel, stride=2)[0, :, :, 0]
    # XLA's own "SAME" would pad only after the image here, and pick pixels 0, 2, 8, 10.
    assert out.tolist() == [[0, 0], [0, 5]]
    for n, stride in itertools.product((4, 5, 6, 7), (1, 2, 3)):
        shape = jax.eval_shape(
            lambda x, s=stride: convolve(x, kernel, stride=s), jnp.ones((1, n, n, 1))
        )
        assert shape.shape[1:3] == (-(-n // stride),) * 2


@pytest.mark.long
def test_short_images_are_rounded_and_the_gradient_of_the_kernel_is_not():
    images, kernel = problem(3)
    images = images.astype(jnp.bfloat16)
    rounded = kernel.astype(jnp.bfloat16).astype(jnp.float32)
    outputs, pull = jax.vjp(convolve, images, kernel)
    wide = convolve(images, kernel, dtype=jnp.float32)
    right, pull_right = jax.vjp(partial(by_jax, stride=1, padding="SAME"),
                                images.astype(jnp.float32), rounded)  # fmt: skip
    np.testing.assert_allclose(wide, right, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(outputs, wide.astype(jnp.bfloat16))
    wave = jnp.cos(jnp.arange(outputs.size)).reshape(outputs.shape).astype(jnp.bfloat16)
    to_images, to_kernel = pull(wave)
    exact = pull_right(wave.astype(jnp.float32))
    assert to_images.dtype == jnp.bfloat16 and to_kernel.dtype == jnp.float32
    np.testing.assert_allclose(to_images.astype(jnp.float32), exact[0], rtol=2**-8, atol=1e-5)
    np.testing.assert_allclose(to_kernel, exact[1], rtol=1e-5, atol=1e-5)


def test_an_unknown_padding_is_an_error():
    with pytest.raises(UserError, match="padding 'same' is unknown; choose one of SAME, VALID"):
        convolve(*problem(3), padding="same")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_bias_is_added_before_the_sums_are_rounded(groups, dtype):
    draw = np.random.default_rng(0)
    images = jnp.asarray(draw.normal(size=(4, 6, 5, 4)), dtype)
    kernel = jnp.asarray(draw.normal(size=(3, 3, 4 // groups, 6)), jnp.float32)
    bias = jnp.asarray(draw.normal(size=6), jnp.float32)

    def biased(images, kernel, bias):
        return convolve(images, kernel, groups=groups, bias=bias)

    def apart(images, kernel, bias):
        wide = convolve(images, kernel, groups=groups, dtype=jnp.float32)
        return (wide + bias[None, None, None]).astype(dtype)

    found, pull = jax.vjp(biased, images, kernel, bias)
    wanted, pull_apart = jax.vjp(apart, images, kernel, bias)
    assert found.dtype == dtype
    # Groups on a CPU are rounded once more: to the type that is asked for.
    tolerance = 1e-6 if dtype == jnp.float32 else 1e-2 * (groups > 1)
    np.testing.assert_allclose(
        *(x.astype(jnp.float32) for x in (found, wanted)), rtol=tolerance, atol=10 * tolerance
    )
    for ours, theirs in zip(pull(found), pull_apart(found), strict=True):
        ours, theirs = ours.astype(jnp.float32), theirs.astype(jnp.float32)
        np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=2e-2 * jnp.abs(theirs).max())
    lanes = jax.vmap(biased, (None, None, 0))(images, kernel, jnp.stack([bias, -bias]))
    np.testing.assert_array_equal(lanes[0], found)
