"""What a GPU does in a step: its trace read, its kernels told apart, and the way through it all."""

import gzip
import json

import pytest
from rich.console import Console

from experiments.bench.contenders import Interpreters
from experiments.bench.rounds import Effort
from experiments.bench.studies import gpu_kernels
from experiments.bench.studies.gpu_kernels import Kernel
from jaxsnn.errors import UserError

CONVOLUTION = "sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc"


def event(name, dur, pid=1, **arguments):
    return {"ph": "X", "pid": pid, "name": name, "dur": dur, "args": arguments}


TRACE = [
    {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "/device:GPU:0"}},
    {"ph": "M", "pid": 2, "name": "process_name", "args": {"name": "/host:CPU"}},
    event("loop_add_fusion_2", 30.0, hlo_op="command_buffer_1"),
    event(CONVOLUTION, 100.0, hlo_op="cudnn-conv.1"),
    event(CONVOLUTION, 60.0, hlo_op="cudnn-conv.2"),
    event("a stream's annotation", 500.0),
    event("jit_train_step", 900.0, pid=2, hlo_op="x"),
]


def test_a_trace_is_read_by_kernel_and_step(tmp_path):
    file = tmp_path / "host.trace.json.gz"
    file.write_bytes(gzip.compress(json.dumps({"traceEvents": TRACE}).encode()))
    assert gpu_kernels.read_trace(file, 2) == [
        Kernel(CONVOLUTION, 80.0),
        Kernel("loop_add_fusion_2", 15.0),
    ]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (CONVOLUTION, "convolutions"),
        ("void wgrad_alg0_engine_NHWC<float, 128, 5, 5, 3, 3, 3, false, 512>(int", "convolutions"),
        ("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_NNT", "products"),
        ("input_concatenate_fusion_6", "concatenations"),
        ("MemcpyD2D", "copies"),
        ("input_reduce_fusion_1", "sums"),
        ("loop_add_fusion_4", "the rest"),
    ],
)
def test_kernels_are_told_apart_by_what_they_do(name, kind):
    assert gpu_kernels.kind_of(name) == kind


def test_a_profiler_that_sees_no_kernel_is_said(tmp_path):
    with pytest.raises(UserError, match="saw no kernel"):
        gpu_kernels.watch(lambda steps: None)


@pytest.mark.long
def test_a_step_is_timed_and_its_rate_counted(monkeypatch):
    """On the processor, with a small network in the place of VGG-16 and of the profiler."""
    build, taken = gpu_kernels.problem, []
    monkeypatch.setattr(gpu_kernels, "problem", lambda _, *options: build("4C3-AP32-10", *options))
    monkeypatch.setattr(gpu_kernels, "WATCHED", 1)

    def seen(run):
        run(1)
        taken.append(run)
        return [Kernel("loop_add", 3.0), Kernel(CONVOLUTION, 4.0), Kernel("loop_x", 1.0)]

    monkeypatch.setattr(gpu_kernels, "watch", seen)
    monkeypatch.setattr(gpu_kernels, "GROUP", 1)
    found = gpu_kernels.study("float32", False, 2, 1e6, Effort(2, 0.0, Interpreters()))
    assert taken and found["kernels_us"] == 8.0
    assert found["kinds_us"] == {"the rest": 4.0, "convolutions": 4.0}
    assert found["flops_per_second"] * found["median_ms"] == pytest.approx(1e9)


def test_without_a_gpu_nothing_is_timed(monkeypatch):
    monkeypatch.setattr(gpu_kernels.machine, "gpu", lambda: None)
    with pytest.raises(UserError, match="no GPU"):
        gpu_kernels.gpu_kernels(Console(), {}, Effort(1, 0.1, Interpreters()), 0)
