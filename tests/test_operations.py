"""Published energies from rates, against the published sizes and sums by hand."""

import math

import jax
import numpy as np
import pytest

from jaxsnn.errors import UserError
from jaxsnn.metrics import operations

# The VGG9 of Chowdhury et al. 2021 with pooling behind the convolutions 1, 3, 5 and 8.
WIDTHS = (64, 128, 128, 256, 256, 512, 512, 512)
SIDES = (32, 16, 16, 8, 8, 4, 4, 4)


def dense(x, kernel):
    return x @ kernel


def conv(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def vgg9(factor=1.0):
    """Return synapses, shapes of the kernels and input shapes of VGG9 on CIFAR-10."""
    widths = [int(width * factor) for width in WIDTHS]
    kernels, inputs = {}, {}
    for i, (a, b, side) in enumerate(zip([3, *widths], widths, SIDES, strict=False), 1):
        kernels[f"conv{i}/kernel"] = jax.ShapeDtypeStruct((3, 3, a, b), np.float32)
        inputs[f"conv{i}/kernel"] = (side, side, a)
    kernels["dense1/kernel"] = jax.ShapeDtypeStruct((4 * widths[-1], 10), np.float32)
    inputs["dense1/kernel"] = (4 * widths[-1],)
    return {name: conv if "conv" in name else dense for name in kernels}, kernels, inputs


def test_operations_of_the_published_network():  # spatiotemporal.md, oracle 11
    synapses, kernels, inputs = vgg9()
    sizes = [math.prod(kernel.shape) for kernel in kernels.values()]
    assert sizes == [1728, 73728, 147456, 294912, 589824, 1179648, 2359296, 2359296, 20480]
    counted = operations.ann_operations(synapses, kernels, inputs)
    assert sum(counted.values()) == 209_408_000
    assert round(operations.energy(0, sum(counted.values())) * 1e-6, 2) == 963.28  # pJ -> uJ
    half = [math.prod(kernel.shape) for kernel in vgg9(0.5)[1].values()]
    assert half == [864, *(size // 4 for size in sizes[1:-1]), 10240]


def test_a_layer_saves_energy_below_a_rate_of_5_11():  # spatiotemporal.md, oracle 12
    name = "conv2/kernel"
    shape = jax.ShapeDtypeStruct((3, 3, 64, 128), np.float32)
    counted = operations.ann_operations({name: conv}, {name: shape}, {name: (16, 16, 64)})
    assert counted == {name: 18_874_368}
    ann = operations.energy(0, counted[name])
    for rate, ratio in ((2.0, 2.556), (4.6 / 0.9, 1.0)):
        added = operations.rate_operations(counted, {name: rate})[name]
        assert math.isclose(ann / operations.energy(added, 0), ratio, abs_tol=5e-4)
    assert operations.rate_operations(counted, {name: 2.0}) == {name: 37_748_736}


def test_rates_are_those_of_what_feeds_a_kernel():
    kernels = ["conv1/kernel", "conv2/kernel", "dense1/kernel"]
    spikes = {"conv1": np.full((4, 4, 2), 6), "conv2": np.array([[[3, 0, 0]]])}
    events = {"conv1/kernel": np.full((4, 4, 1), 10), "conv2/kernel": np.zeros((2, 2, 2))}
    rates = operations.chain_rates(kernels, spikes, events, samples=4)
    assert rates == {"conv1/kernel": 2.5, "conv2/kernel": 1.5, "dense1/kernel": 0.25}
    with pytest.raises(UserError, match="dense1/kernel is fed by 'conv2', whose spikes"):
        operations.chain_rates(kernels, {"conv1": spikes["conv1"]}, events, samples=4)


def test_a_projection_hears_what_its_block_does():
    kernels = [f"{x}/kernel" for x in ("conv1", "b/conv1", "b/conv2", "b/projection", "dense1")]
    spikes = {"conv1": np.full(4, 3), "b/conv1": np.full(8, 5), "b/conv2": np.full(2, 7)}
    rates = operations.chain_rates(kernels, spikes, {"conv1/kernel": np.full(2, 9)}, samples=1)
    assert list(rates.values()) == [9, 3, 5, 3, 7]


def test_three_ways_to_count_spikes_behind_an_average_pooling():
    rng = np.random.default_rng(0)
    spikes = rng.random((5, 4, 4, 3)) < 0.4  # [T, H, W, C]
    windows = spikes.reshape(5, 2, 2, 2, 2, 3).sum((2, 4))  # spikes of each pooled entry and step
    synapses, kernels = {"d/kernel": dense}, {"d/kernel": np.ones((12, 7), np.float32)}
    dense_count = operations.ann_operations(synapses, kernels, {"d/kernel": (12,)})
    rates = operations.chain_rates(["c/kernel", "d/kernel"], {"c": spikes.sum(0)},
                                   {"c/kernel": np.zeros(1)}, 1)  # fmt: skip
    by_rate = operations.rate_operations(dense_count, {"d/kernel": rates["d/kernel"]})["d/kernel"]

    def by_events(events):
        totals = {"d/kernel": events.sum(0).reshape(12)}
        return operations.synops_of_totals(synapses, kernels, totals)["d/kernel"]

    assert math.isclose(by_rate, spikes.sum() / 4 * 7)
    assert by_events(windows) == spikes.sum() * 7
    assert by_events(windows > 0) == (windows > 0).sum() * 7
    assert by_rate < by_events(windows > 0) < by_events(windows)


def test_signed_spikes_cost_as_much_as_others():
    events = {"d/kernel": np.array([[3.0, -2.0], [-3.0, 0.0]])}
    names = {"d/kernel": dense}, {"d/kernel": np.ones((2, 5), np.float32)}
    assert operations.synops(*names, events) == {"d/kernel": 8 * 5}


def test_rates_that_are_none_and_unknown_kernels_are_refused():
    for rate in (-0.1, math.nan, math.inf):
        with pytest.raises(UserError, match="rate of d/kernel must be in"):
            operations.rate_operations({"d/kernel": 3}, {"d/kernel": rate})
    with pytest.raises(UserError, match="rates name 'e/kernel'; known kernels: d/kernel"):
        operations.rate_operations({"d/kernel": 3}, {"e/kernel": 1.0})
    with pytest.raises(UserError, match="input shapes name 'e/kernel'"):
        operations.ann_operations(
            {"d/kernel": dense}, {"d/kernel": np.ones((2, 5))}, {"e/kernel": (2,)}
        )
