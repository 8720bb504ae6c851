"""Our own norms and poolings against XLA's: values and derivatives, in every kind of program.

These tests need the extra `native`; without it each says why it was left out.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from jaxsnn import models, native
from jaxsnn.encode import Signal
from jaxsnn.layers import AveragePool, norms
from jaxsnn.layers.pooling import mean, most
from jaxsnn.layers.tape import Tape
from jaxsnn.native import channels, convolutions

pytestmark = pytest.mark.skipif(not convolutions.available(jnp.float32), reason=native.describe())
TOLERANCE = {jnp.float32: 1e-4, jnp.bfloat16: 2e-2}


def draw(shape, dtype=jnp.float32, seed=0, center=1.0):
    return jnp.asarray(np.random.default_rng(seed).normal(center, 2.0, shape), dtype)


def normed(x, scale, offset, bias, train):
    """Return a weighted sum of the normalised current; and it, the running mean and variance."""
    norm = norms.make_norm("batch", x.shape[-1], nnx.Rngs(0))
    norm.scale[...], norm.bias[...], norm.mean[...] = scale, offset, 0.3 * offset
    found = norms.normalise(norm, x, bias, train, x.dtype)
    weights = jnp.cos(jnp.arange(x.size)).reshape(x.shape)
    return (weights * found.astype(jnp.float32)).sum(), (found, norm.mean[...], norm.var[...])


def by_norm(x, train, *, biased=False):
    """Return what `normed` finds, and its derivatives by everything but a bias in training."""
    count = x.shape[-1]
    scale, offset = draw(count, seed=1) ** 2 + 0.5, draw(count, seed=2)
    bias = draw(count, seed=3) if biased else None

    def run(x, scale, offset, bias):
        return normed(x, scale, offset, bias, train)

    arguments = (0, 1, 2) + ((3,) if biased and not train else ())
    value = jax.jit(jax.value_and_grad(run, argnums=arguments, has_aux=True))
    return jax.tree.map(np.asarray, value(x, scale, offset, bias))


def check_close(ours, xla, tolerance):
    for found, wanted in zip(jax.tree.leaves(ours), jax.tree.leaves(xla), strict=True):
        found, wanted = found.astype(np.float64), wanted.astype(np.float64)
        scale = max(np.abs(wanted).max(), 1e-2)
        np.testing.assert_allclose(found, wanted, atol=tolerance * scale)


SHAPES = [(3, 5, 7), (40, 28, 28, 12), (400, 128), (6, 3, 3, 1000), (50, 1), (9, 300)]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_batch_norm_equals_xla(shape, biased, train, dtype):
    x = draw(shape, dtype)
    ours = by_norm(x, train, biased=biased)
    with convolutions.off():
        xla = by_norm(x, train, biased=biased)
    check_close(ours[0][1], xla[0][1], TOLERANCE[dtype])
    check_close(ours[1], xla[1], TOLERANCE[dtype])


def test_a_bias_that_a_norm_takes_away_learns_nothing():
    gradient = jax.grad(lambda bias: normed(draw((9, 4)), 1.0, 0.5, bias, True)[0])
    np.testing.assert_array_equal(gradient(draw(4)), np.zeros(4))


def test_a_constant_channel_has_no_derivative_through_its_variance():
    found = by_norm(jnp.ones((8, 3)), True)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    np.testing.assert_allclose(found[0][1][2], 0.9, rtol=1e-6)  # of the variance, 0.9 of 1


def test_sums_of_millions_are_exact_to_float32():
    x = draw((1_000_000, 2), center=100.0)
    sums, products = jax.jit(channels._sum)(x, x, jnp.full(2, 100.0))
    wide = np.asarray(x, np.float64)
    np.testing.assert_allclose(sums, wide.sum(0), rtol=1e-6)
    np.testing.assert_allclose(products, (wide * (wide - 100)).sum(0), rtol=2e-5)


POOLINGS = {
    "mean": mean, "first": partial(most, ties="first"), "shared": partial(most, ties="shared"),
}  # fmt: skip


def by_windows(images, size, pooling):
    """Return what a pooling finds, and the derivative of a weighted sum of it."""

    def run(images):
        found = POOLINGS[pooling](images, size)
        weights = jnp.cos(jnp.arange(found.size)).reshape(found.shape)
        return (weights * found.astype(jnp.float32)).sum(), found

    (_, found), derivative = jax.jit(jax.value_and_grad(run, has_aux=True))(images)
    return np.asarray(found), np.asarray(derivative)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("height, width, size", [(8, 8, 2), (9, 11, 2), (7, 8, 3), (5, 6, 5)])
@pytest.mark.parametrize("count", [1, 12, 33])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_windows_equal_xla(pooling, height, width, size, count, dtype):
    images = draw((4, height, width, count), dtype)
    spikes = jnp.where(images > 2, 1, 0).astype(dtype)  # nearly every window is a tie
    for each in (images, spikes):
        ours = by_windows(each, size, pooling)
        with convolutions.off():
            xla = by_windows(each, size, pooling)
        check_close(ours, xla, TOLERANCE[dtype] / 2)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_nothing_hides_a_nan(pooling):
    images = jnp.ones((1, 4, 4, 2)).at[0, 1, 2, 1].set(jnp.nan)
    found = by_windows(images, 2, pooling)[0]
    np.testing.assert_array_equal(np.isnan(found), [[[[0, 0], [0, 1]], [[0, 0], [0, 0]]]])


def test_lanes_of_a_sweep_are_single_runs():
    x, scales = draw((3, 6, 4, 4, 5)), draw((3, 5), seed=1)

    def run(x, scale):
        value, (found, *running) = normed(x, scale, 0.5, None, True)
        pooled = channels.average(found, 2) + channels.largest(found, 2, False)
        return value + (pooled**2).sum(), (found, running)

    both = jax.value_and_grad(run, argnums=(0, 1), has_aux=True)
    lanes = jax.jit(jax.vmap(both))(x, scales)
    singles = [jax.jit(both)(*each) for each in zip(x, scales, strict=True)]
    for found, wanted in zip(
        jax.tree.leaves(lanes), jax.tree.leaves(jax.tree.map(lambda *x: jnp.stack(x), *singles)),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_devices_that_share_a_batch_share_its_statistics():
    mesh = jax.make_mesh((1,), ("data",))
    x = draw((8, 3, 5))

    def run(axis, x):
        found, center, _ = channels.standardise(1e-5, axis, x, jnp.ones(5), jnp.zeros(5))
        return (found**3).sum(), center

    def on_devices(x):
        value = jax.value_and_grad(lambda x: run("data", x), has_aux=True)
        parts, whole = PartitionSpec("data"), PartitionSpec()
        return jax.shard_map(
            value, mesh=mesh, in_specs=parts, out_specs=((whole, whole), parts), check_vma=False
        )(x)

    wanted = jax.value_and_grad(lambda x: run(None, x), has_aux=True)(x)
    shared = jax.device_put(x, jax.NamedSharding(mesh, PartitionSpec("data")))
    for found, each in zip(
        jax.tree.leaves(jax.jit(on_devices)(shared)), jax.tree.leaves(wanted), strict=True
    ):
        np.testing.assert_allclose(found, each, rtol=1e-5, atol=1e-5)


def test_a_network_takes_this_way_where_it_is_open():
    net = models.build("4C3-AP2-3", (8, 8, 1), norm=True)

    def program():
        return str(
            jax.make_jaxpr(lambda x: net(Signal(x, timesteps=2)).readout)(jnp.ones((2, 1, 8, 8, 1)))
        )

    assert "jaxsnn_mix" in program()
    assert "jaxsnn_average" in program()
    with convolutions.off():
        assert "jaxsnn_" not in program()


def test_windows_larger_than_the_images_are_left_to_xla():
    pooled = AveragePool(3)(Signal(jnp.ones((1, 1, 2, 5, 1)), timesteps=1), Tape())
    assert pooled.shape == (0, 1, 1)


def test_other_numbers_are_left_to_xla():
    assert not channels.available(jnp.zeros((3, 4), jnp.float16))
    assert not channels.available(jnp.zeros((0, 4)))
