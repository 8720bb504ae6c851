"""Measures against hand counts, and operations against a loop over single events."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import metrics
from jaxsnn.errors import UserError
from jaxsnn.metrics import operations


class Activity(NamedTuple):
    """The record of `jaxsnn.layers`, without its layers."""

    spikes: dict
    potential: dict
    events: dict
    arrivals: dict = {}


def dense(x, kernel):
    return x @ kernel


def conv(stride, padding):
    def apply(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    return apply


def events_one_by_one(events, kernel, stride, padding):
    """Walk through every event and every tap of the kernel; count additions of non-zero weights."""
    height, width, _ = events.shape
    size = kernel.shape[0]
    out = [-(-n // stride) if padding == "SAME" else (n - size) // stride + 1 for n in events.shape]
    total = [
        max((out[i] - 1) * stride + size - (height, width)[i], 0) if padding == "SAME" else 0
        for i in range(2)
    ]
    before = [each // 2 for each in total]
    operations_done = 0
    for (row, column, channel), count in np.ndenumerate(events):
        for _ in range(int(count)):
            for i in range(out[0]):
                for j in range(out[1]):
                    a, b = row + before[0] - i * stride, column + before[1] - j * stride
                    if 0 <= a < size and 0 <= b < size:
                        operations_done += int(np.sum(kernel[a, b, channel] != 0))
    return operations_done


def test_accuracy_takes_the_mean_over_time():
    readout = jnp.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 3.0], [0.0, 1.0]]])  # T=2, B=2, C=2
    labels = jnp.array([1, 1])
    assert metrics.accuracy(readout, labels) == 1.0
    np.testing.assert_array_equal(metrics.accuracy_over_time(readout, labels), [0.5, 1.0])


def test_rates_of_spikes_per_layer_and_whole():
    activity = Activity({"a": jnp.ones((2, 3)), "b": 4 * jnp.ones((2, 1))}, {}, {})
    assert metrics.spike_rates(activity, 4) == {"a": 0.25, "b": 1.0}
    assert metrics.spikes_per_sample(activity) == 7.0
    assert metrics.spike_rate(activity, 4) == 7 / 16
    assert metrics.spike_rate(Activity({}, {}, {}), 4) == 0.0


def test_all_ones_is_a_rate_of_one():  # admm.md, oracle 11
    assert metrics.spike_rate(Activity({"a": jnp.full((3, 5), 8.0)}, {}, {}), 8) == 1.0


def test_counts_leave_out_filling_samples_and_find_silent_and_saturated_neurons():
    spikes = jnp.array([[4.0, 0.0, 1.0], [4.0, 0.0, 3.0], [2.0, 2.0, 2.0]])
    activity = Activity({"a": spikes}, {"a": spikes}, {"a/kernel": spikes})
    shapes = jax.eval_shape(lambda: activity)
    add = jax.jit(metrics.accumulate)
    counts = add(metrics.no_counts(shapes), activity, valid=jnp.array([True, True, False]))
    counts = add(counts, activity, valid=jnp.array([True, False, False]))
    np.testing.assert_array_equal(counts.spikes["a"], [12, 0, 5])
    np.testing.assert_array_equal(counts.events["a/kernel"], [12, 0, 5])
    assert counts.num_samples == 3
    assert metrics.silent_neurons(counts) == {"a": 1}
    assert metrics.saturated_neurons(counts, timesteps=4) == {"a": 1}
    assert metrics.accumulate(counts, activity).num_samples == 6


def test_density_of_the_released_mnist_network():  # admm.md, oracle 10
    sizes = {"conv1": 288, "conv2": 9216, "fc1": 200704, "fc2": 1280}
    kept = {"conv1": 49, "conv2": 738, "fc1": 1807, "fc2": 90}
    params = {
        name: {"kernel": (np.arange(size) < kept[name]).astype(np.float32), "bias": np.ones(7)}
        for name, size in sizes.items()
    }
    assert metrics.density(params) == 2684 / 211488
    assert math.isclose(metrics.density(params), 0.012691, abs_tol=5e-7)
    assert metrics.densities(params)["conv1/kernel"] == 49 / 288
    assert metrics.density(params, where="*/bias") == 1.0


def test_operations_of_a_dense_layer():  # admm.md, oracle 12
    kernel = np.array([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0], [0.0, 0.0, 4.0], [5.0, 0.0, 0.0]])
    names = {"fc/kernel": dense}, {"fc/kernel": kernel}
    assert operations.synops(*names, {"fc/kernel": np.eye(4)[:1]}) == {"fc/kernel": 2}
    assert operations.synops(*names, {"fc/kernel": np.ones((1, 4))}) == {"fc/kernel": 5}
    assert operations.macs(*names, {"fc/kernel": (4,)}) == {"fc/kernel": 5}


@pytest.mark.parametrize(
    "stride, padding, size", [(1, "SAME", 3), (2, "SAME", 3), (1, "VALID", 2), (2, "VALID", 3)]
)
def test_operations_of_a_convolution_are_those_of_a_loop_over_events(stride, padding, size):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(size, size, 2, 3)) * (rng.random((size, size, 2, 3)) < 0.4)
    spikes = rng.integers(0, 4, size=(3, 12, 10, 2))
    pooled = spikes.reshape(3, 6, 2, 5, 2, 2).sum(axis=(2, 4))  # what average pooling lets through
    names = {"c/kernel": conv(stride, padding)}, {"c/kernel": kernel.astype(np.float32)}
    loop = sum(events_one_by_one(sample, kernel, stride, padding) for sample in pooled)
    counted = operations.synops(*names, {"c/kernel": pooled.astype(np.float32)})
    assert counted == {"c/kernel": loop}
    ones = events_one_by_one(np.ones((6, 5, 2)), kernel, stride, padding)
    assert operations.macs(*names, {"c/kernel": (6, 5, 2)}) == {"c/kernel": ones}


def test_operations_stay_whole_where_float32_would_round():
    kernel = np.ones((3, 2), np.float32)
    events = {"fc/kernel": np.array([2**24 + 1, 1, 0])}
    counted = operations.synops_of_totals({"fc/kernel": dense}, {"fc/kernel": kernel}, events)
    assert counted["fc/kernel"] == 2 * (2**24 + 2)


def test_fractional_events_and_unknown_kernels_are_refused():
    names = {"fc/kernel": dense}, {"fc/kernel": np.ones((2, 2))}
    with pytest.raises(UserError, match="fc/kernel are not whole numbers"):
        operations.synops(*names, {"fc/kernel": np.array([[0.25, 1.0]])})
    with pytest.raises(UserError, match="'fc2/kernel'; known kernels: fc/kernel"):
        operations.macs(*names, {"fc2/kernel": (2,)})


def test_energy_of_one_layer():  # spike_thrift.md, oracle E1
    ops = 9 * 64 * 64 * 32 * 32
    for table, mac, ac, ratio in (
        (operations.ENERGY_45NM_FLOAT32, 0.17364, 0.06795, 2.556),
        (operations.ENERGY_45NM_INT32, 0.12080, 0.00755, 16.0),
    ):
        ann = operations.energy(0, ops, table=table)
        snn = operations.energy(2 * ops, 0, table=table)
        assert round(ann * 1e-9, 5) == mac and round(snn * 1e-9, 5) == ac  # pJ -> mJ
        assert math.isclose(ann / snn, ratio, abs_tol=5e-4)


def test_energy_of_one_layer_from_its_shapes():  # spatiotemporal.md, oracle 12
    synapses = {"c/kernel": conv(1, "SAME")}
    kernel = {"c/kernel": np.ones((3, 3, 64, 128), np.float32)}
    counted = operations.macs(synapses, kernel, {"c/kernel": (16, 16, 64)})["c/kernel"]
    ops = 18_874_368  # with the taps that fall beyond the border, which ours leaves out
    assert counted == 64 * 128 * (3 * 16 - 2) ** 2
    assert round(operations.energy(0, ops) * 1e-6, 2) == 86.82  # pJ -> uJ
    assert round(operations.energy(2 * ops, 0) * 1e-6, 2) == 33.97
    assert round(operations.energy(0, ops) / operations.energy(5.111 * ops, 0), 3) == 1.0


@pytest.mark.parametrize("values, expected", [(2, 1), (3, 2), (7, 3), (8, 3), (256, 8), (257, 32)])
def test_bits_of_a_leaf_are_those_of_its_distinct_values(values, expected):
    leaf = np.arange(4096) % values - 1.0
    assert metrics.bits(leaf.reshape(64, 64).T) == expected  # many values in each channel


def test_a_small_leaf_of_full_precision_is_not_quantized():
    leaf = np.random.default_rng(0).normal(size=(3, 3, 1, 8)).astype(np.float32)
    assert metrics.bits(leaf) == 32
    assert metrics.weight_bytes(leaf) == 4 * 72
    assert metrics.bits(np.sign(leaf)) == 1
    assert metrics.weight_bytes(np.sign(leaf)) == 72 // 8 + 2 * 4


def two_layers(timesteps):
    """Return a net of 4 real inputs, 3 neurons and 2 read-outs, and counts of 2 samples."""
    first = np.array([[1.0, 0, 2], [0, 3, 0], [0, 0, 4], [5, 0, 0]], np.float32)
    second = np.where(np.arange(64).reshape(32, 2) < 48, 0.5, 0.0).astype(np.float32)
    second = np.tile(second, (4, 1))
    params = {
        "fc1": {"kernel": first, "bias": np.zeros(3, np.float32)},
        "out": {"kernel": second, "bias": np.ones(2, np.float32)},
    }
    spikes = np.zeros((2, 128), np.float32)
    spikes[:, :3] = [[0, timesteps, 1], [0, timesteps, 2]]
    events = {"fc1/kernel": np.full((2, 4), 0.3, np.float32), "out/kernel": spikes}
    activity = jax.tree.map(jnp.asarray, Activity({"fc1": spikes}, {"fc1": spikes}, events))
    counts = metrics.accumulate(metrics.no_counts(activity), activity)
    return {"fc1/kernel": dense, "out/kernel": dense}, params, counts


def test_report_counts_per_sample():
    synapses, params, counts = two_layers(timesteps=4)
    row = metrics.report(
        "dense",
        synapses=synapses,
        params=params,
        counts=counts,
        timesteps=4,
        accuracy=0.75,
        analog_input=["fc1/kernel"],
        cached_input=False,
        seed=3,
        file_bytes=999,
    )
    assert row["spikes_per_sample"] == (8 + 3) / 2
    assert row["spike_rate"] == 11 / 2 / (128 * 4)
    assert row["macs"] == 5 * 4
    assert row["synops"] == 2 * 11 / 2
    assert row["energy_pj"] == pytest.approx(20 * 4.6 + 11 * 0.9)
    assert row["energy_pj_int32"] == pytest.approx(20 * 3.2 + 11 * 0.1)
    assert row["density"] == (5 + 192) / (12 + 256)
    assert row["bits"] == (5 * 32 + 192 * 1) / 197
    assert row["bit_ops"] == 11 * 1
    assert row["weight_bytes"] == sum(map(metrics.weight_bytes, jax.tree.leaves(params)))
    assert (row["accuracy"], row["seed"], row["file_bytes"]) == (0.75, 3, 999)
    first, out = row["layers"]
    assert first["name"] == "fc1" and first["shape"] == [4, 3] and first["macs"] == 20
    assert first["silent"] == 126 and first["saturated"] == 1 and first["neurons"] == 128
    assert out["rate"] is None and out["synops"] == 11 and out["bits"] == 1
    assert out["bytes"] == 256 // 8 + 8


def test_a_constant_input_is_multiplied_once():
    synapses, params, counts = two_layers(timesteps=4)
    fixed = dict(synapses=synapses, params=params, counts=counts, analog_input=["fc1/kernel"])
    once = metrics.report("a", timesteps=4, cached_input=True, **fixed)
    always = metrics.report("b", timesteps=4, cached_input=False, **fixed)
    assert always["macs"] == 4 * once["macs"]
    assert once["accuracy"] is None


def test_report_names_what_is_wrong():
    synapses, params, counts = two_layers(timesteps=4)
    fixed = dict(synapses=synapses, params=params, timesteps=4)
    with pytest.raises(UserError, match="analog input fc9/kernel is no kernel"):
        metrics.report("a", counts=counts, analog_input=["fc9/kernel"], **fixed)
    with pytest.raises(UserError, match="no sample was counted"):
        metrics.report("a", counts=counts._replace(num_samples=0), **fixed)
    with pytest.raises(UserError, match="no events were counted for out/kernel"):
        metrics.report("a", counts=counts._replace(events={"fc1/kernel": 0}), **fixed)


def test_signed_events_count_by_magnitude():
    activity = Activity({}, {}, {"dense1/kernel": jnp.asarray([[3.0], [-2.0]])})
    counts = metrics.accumulate(metrics.no_counts(activity), activity)
    assert counts.events["dense1/kernel"].tolist() == [5] and counts.num_samples == 2
