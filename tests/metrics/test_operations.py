"""Operations against a loop over single events, energies against published numbers."""

import math

import jax
import numpy as np
import pytest

from jaxsnn.errors import UserError
from jaxsnn.metrics import operations


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


def test_signed_spikes_cost_as_much_as_others():
    events = {"d/kernel": np.array([[3.0, -2.0], [-3.0, 0.0]])}
    names = {"d/kernel": dense}, {"d/kernel": np.ones((2, 5), np.float32)}
    assert operations.synops(*names, events) == {"d/kernel": 8 * 5}


def test_an_operation_counts_as_much_as_its_weight_is_worth():
    kernel = np.float32([[1, 0, 2], [0, 3, 4]])
    worth, totals = np.array([[2, 4, 8]]), {"w": np.array([10, 100])}
    found = operations.synops_of_totals(
        {"w": lambda x, kernel: x @ kernel}, {"w": kernel}, totals, worth=worth
    )
    assert found == {"w": 10 * (2 + 8) + 100 * (4 + 8)}
