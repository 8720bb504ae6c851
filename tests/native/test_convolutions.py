"""oneDNN's convolutions against XLA's: every direction, in every kind of program.

These tests need the extra `native`; without it each says why it was left out. A machine that has
it can be told to go without (JAXSNN_NATIVE=0), and the line that says so is tested everywhere.
"""

import os
import resource
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec

from jaxsnn import native
from jaxsnn.layers.convolution import convolve
from jaxsnn.native import convolutions as onednn

needs_onednn = pytest.mark.skipif(not onednn.available(jnp.float32), reason=native.describe())


def by_xla(images, kernel, stride, borders, groups=1):
    """Convolve with XLA's own operation, in float32."""
    names = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        images, kernel, (stride, stride), borders, dimension_numbers=names,
        feature_group_count=groups, precision=lax.Precision.HIGHEST,
    )  # fmt: skip


def arrays(random, dtype, *shapes):
    return [jnp.asarray(random.standard_normal(shape), dtype) for shape in shapes]


def random_case(seed):
    """Return a convolution of random sizes: batch, stride, borders, groups (depthwise too)."""
    random = np.random.default_rng(seed)
    stride, taps = random.integers(1, 4), random.integers(1, 6, 2)
    borders = tuple((int(a), int(b)) for a, b in (random.integers(0, k, 2) for k in taps))
    size = [int(k) + int(random.integers(0, 9)) for k in taps]
    groups = int(random.choice([1, 1, 2, 4]))
    channels = groups * int(random.choice([1, 2, 3, 9]))
    outputs = groups * int(random.choice([1, 3, 8, 17]))
    images = (int(random.integers(1, 7)), *size, channels)
    return int(stride), borders, groups, images, (*map(int, taps), channels // groups, outputs)


def close(found, right, dtype):
    scale = float(jnp.abs(right).max()) or 1.0
    error = float(jnp.abs(found.astype(jnp.float32) - right).max()) / scale
    assert error < (5e-6 if dtype == jnp.float32 else 2e-2)


TYPES = [jnp.float32] + [jnp.bfloat16] * onednn.available(jnp.bfloat16)


@needs_onednn
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("seed", range(12))
def test_all_directions_of_random_convolutions(seed, dtype):
    stride, borders, groups, of_images, of_kernel = random_case(seed)
    random = np.random.default_rng(100 + seed)
    images, kernel = arrays(random, dtype, of_images, of_kernel)

    def right(images, kernel):
        return by_xla(images, kernel, stride, borders, groups)

    exact = [x.astype(jnp.float32) for x in (images, kernel)]
    outputs, pull = jax.vjp(right, *exact)
    (cotangent,) = arrays(random, dtype, outputs.shape)
    to_images, to_kernel = pull(cotangent.astype(jnp.float32))
    found = onednn.convolve(stride, borders, images, kernel)
    assert found.dtype == dtype
    close(found, outputs, dtype)
    size = of_images[1:3]
    close(
        onednn.gradient_of_images(stride, borders, size, cotangent, kernel, groups),
        to_images,
        dtype,
    )
    of_weights = partial(onednn.gradient_of_kernel, stride, borders, of_kernel)
    close(of_weights(images, cotangent)[0], to_kernel, dtype)
    found, of_bias = of_weights(images, cotangent, biased=True)
    close(found, to_kernel, dtype)
    close(of_bias, np.asarray(cotangent, np.float64).sum((0, 1, 2)), dtype)


@pytest.fixture
def problem():
    random = np.random.default_rng(0)
    return arrays(random, jnp.float32, (4, 6, 6, 3), (3, 3, 3, 5))


def score(images, kernel):
    return jnp.sum(jnp.sin(convolve(images, kernel, stride=2)))


def both_ways(function, *arguments):
    """Return a jitted function's result through oneDNN and through XLA."""
    ours = jax.jit(function)(*arguments)
    with onednn.off():
        return ours, jax.jit(lambda *a: function(*a))(*arguments)


@needs_onednn
@pytest.mark.skipif(not onednn.available(jnp.bfloat16), reason="bfloat16 is not at hand")
@pytest.mark.parametrize("seed", range(12))
def test_patches_and_a_product_are_the_gradient_of_a_kernel(seed):
    stride, borders, _, of_images, of_kernel = random_case(seed)
    of_kernel = (*of_kernel[:2], of_images[3], of_kernel[3])
    random = np.random.default_rng(200 + seed)
    images = jnp.asarray(random.standard_normal(of_images), jnp.bfloat16)
    wide = images.astype(jnp.float32)
    outputs, back = jax.vjp(
        lambda kernel: by_xla(wide, kernel, stride, borders), jnp.zeros(of_kernel)
    )
    cotangent = jnp.asarray(random.standard_normal(outputs.shape), jnp.bfloat16)
    found = onednn.gradient_of_kernel_by_patches(stride, borders, of_kernel, images, cotangent)
    close(found, back(cotangent.astype(jnp.float32))[0], jnp.float32)


@needs_onednn
@pytest.mark.skipif(not onednn.available(jnp.bfloat16), reason="bfloat16 is not at hand")
def test_many_patches_are_laid_out_in_parts():
    borders = ((1, 1), (1, 1))
    images, cotangent = (
        jnp.asarray(np.random.default_rng(seed).integers(-2, 3, (70, 8, 8, 64)), jnp.bfloat16)
        for seed in (0, 1)
    )  # 5 MB of patches; sums of whole numbers are exact
    found = onednn.gradient_of_kernel_by_patches(1, borders, (3, 3, 64, 64), images, cotangent)
    with_all = onednn.gradient_of_kernel(1, borders, (3, 3, 64, 64), images, cotangent)[0]
    np.testing.assert_array_equal(found, with_all)


@needs_onednn
@pytest.mark.parametrize(
    "program",
    [
        jax.value_and_grad(score, (0, 1)),
        lambda x, k: lax.scan(lambda s, _: (s - 0.1 * jax.grad(score, 1)(x, s), None), k, None, 3),
        jax.grad(jax.checkpoint(score), (0, 1)),
    ],
    ids=["gradient", "scan", "remat"],
)
def test_every_kind_of_program(program, problem):
    ours, right = both_ways(program, *problem)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@needs_onednn
def test_lanes_with_a_kernel_each(problem):
    images, kernel = problem
    lanes = jnp.stack([kernel, 2 * kernel, kernel - 1])
    ours = jax.vmap(jax.grad(score, 1), (None, 0))(images, lanes)
    for lane, found in zip(lanes, ours, strict=True):
        np.testing.assert_allclose(found, jax.grad(score, 1)(images, lane), rtol=1e-5, atol=1e-5)


@needs_onednn
def test_shards_and_donated_buffers(problem):
    images, kernel = problem
    mesh = jax.make_mesh((1,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
    shard = jax.shard_map(
        convolve, mesh=mesh, in_specs=(PartitionSpec("devices"), PartitionSpec()),
        out_specs=PartitionSpec("devices"), check_vma=False,
    )  # fmt: skip
    right = convolve(images, kernel)
    np.testing.assert_allclose(jax.jit(shard)(images, kernel), right, rtol=1e-6)
    same = jax.jit(lambda x: convolve(x, jnp.ones((1, 1, 3, 3))), donate_argnums=0)
    np.testing.assert_allclose(same(images + 0), images.sum(-1, keepdims=True) + 0 * images,
                               rtol=1e-5, atol=1e-5)  # fmt: skip


@needs_onednn
def test_a_program_for_any_batch_size_takes_xlas_way(problem):
    images, kernel = problem
    (batch,) = jax.export.symbolic_shape("b")
    free = jax.ShapeDtypeStruct((batch, *images.shape[1:]), jnp.float32)
    program = jax.export.export(jax.jit(lambda x: convolve(x, kernel)))(free)
    assert "jaxsnn_" not in program.mlir_module()
    np.testing.assert_allclose(program.call(images), convolve(images, kernel), rtol=1e-4, atol=1e-5)


@needs_onednn
def test_ten_thousand_calls_leak_nothing(problem):
    images, kernel = problem

    @jax.jit
    def many(x, count):
        def call(_, x):
            d = onednn.gradient_of_images(1, ((1, 1), (1, 1)), (6, 6), x, kernel.swapaxes(2, 3))
            return onednn.convolve(1, ((1, 1), (1, 1)), d, kernel.swapaxes(2, 3)) * 1e-3

        return lax.fori_loop(0, count, call, x)

    many(images, 500).block_until_ready()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    many(images, 5_000).block_until_ready()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4_000  # kB


def line_with(**environment):
    code = "from jaxsnn import native; print(native.describe())"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout


@pytest.mark.long
def test_what_is_missing_is_one_line(tmp_path):
    line = line_with(JAXSNN_ONEDNN=str(tmp_path))
    assert line.startswith("convolutions: XLA ($JAXSNN_ONEDNN = ")
    assert line.count("\n") == 1


@pytest.mark.long
def test_it_can_be_switched_off():
    assert line_with(JAXSNN_NATIVE="0") == "convolutions: XLA ($JAXSNN_NATIVE is 0)\n"


@needs_onednn
def test_the_table_sends_gradients_of_large_kernels_to_xla(monkeypatch):
    def program(channels, stride):
        shapes = (2, 3, 3, channels), (3, 3, channels, channels)
        images, kernel = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
        gradient = jax.grad(lambda k, x: convolve(x, k, stride=stride).sum())
        return str(jax.make_jaxpr(gradient)(kernel, images))

    for name, large in (("AVX2", False), ("AVX-512", True)):
        monkeypatch.setattr(onednn, "instructions", lambda name=name: name)
        assert "jaxsnn_to_kernel" in program(128, 1) and "jaxsnn_convolve" in program(256, 1)
        assert ("jaxsnn_to_kernel" in program(256, 1)) == large
        assert "jaxsnn_to_kernel" in program(256, 2)


@pytest.mark.parametrize(
    "isa, name",
    # Values of dnnl_cpu_isa_t in oneDNN's dnnl_types.h.
    [(0x1, "SSE"), (0x7, "AVX2"), (0x1F, "AVX2"), (0x27, "AVX-512"), (0xE7, "AVX-512")]
    + [(0x1EF, "AVX-512"), (0xFEF, "AMX"), (0x1FEF, "AMX")],
)
def test_instructions_are_named_as_onednn_orders_them(monkeypatch, isa, name):
    monkeypatch.setattr(onednn.onednn, "instruction_set", lambda: isa)
    assert onednn.instructions.__wrapped__() == name


@pytest.mark.skipif(onednn.available(jnp.bfloat16), reason="this processor multiplies bfloat16")
def test_without_its_instructions_bfloat16_is_computed_in_float32():
    assert not onednn.available(jnp.float16)
    images, kernel = jnp.ones((1, 3, 3, 1), jnp.bfloat16), jnp.ones((3, 3, 1, 1), jnp.bfloat16)
    assert convolve(images, kernel)[0, 1, 1, 0] == 9
    program = jax.make_jaxpr(convolve)(images, kernel)
    assert "f32[1,3,3,1]" in str(program)


@needs_onednn
@pytest.mark.parametrize("dtype", TYPES)
def test_a_bias_is_added_to_the_sums(dtype):
    draw = np.random.default_rng(0)
    images = jnp.asarray(draw.normal(size=(4, 6, 5, 3)), dtype)
    kernel = jnp.asarray(draw.normal(size=(3, 3, 3, 6)), jnp.float32)
    bias = jnp.asarray(draw.normal(size=6), jnp.float32)

    def loss(images, kernel, bias):
        outputs = convolve(images, kernel, bias=bias).astype(jnp.float32)
        return (outputs * jnp.cos(jnp.arange(outputs.size)).reshape(outputs.shape)).sum(), outputs

    run = jax.jit(jax.value_and_grad(lambda *x: loss(*x), (0, 1, 2), has_aux=True))
    found = run(images, kernel, bias)
    assert "jaxsnn_convolve" in str(jax.make_jaxpr(lambda *x: loss(*x))(images, kernel, bias))
    with onednn.off():
        wanted = jax.jit(jax.value_and_grad(lambda *x: loss(*x), (0, 1, 2), has_aux=True))(
            images, kernel, bias
        )
    tolerance = 1e-5 if dtype == jnp.float32 else 1e-2
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        ours, theirs = ours.astype(jnp.float32), theirs.astype(jnp.float32)
        scale = float(jnp.abs(theirs).max())
        np.testing.assert_allclose(ours, theirs, atol=tolerance * scale)
