"""What a GPU does in a training step: its time, its rate, and the kernels that it runs.

VGG-16 on images of CIFAR-10, T = 4, in batches of 128. The step is timed by itself; then JAX's
profiler watches some steps, and its trace names each kernel with its microseconds.
"""

import gzip
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from experiments.bench import limits, machine
from experiments.bench.contenders import Contender
from experiments.bench.problems import WORKLOADS
from experiments.bench.rounds import Effort
from experiments.bench.studies.gpu_program import problem
from experiments.bench.tables import new_table
from jaxsnn.errors import UserError
from jaxsnn.train import host, loop

FORMS = (("bfloat16", False), ("bfloat16", True))  # numbers, with norms
GROUP, WATCHED = 20, 5  # steps that are timed together, steps that are watched

# What a kernel's name holds -> what it ends in; the first that fits. XLA fuses what comes before:
# all steps of neurons end in a concatenation, Adam's update of a convolution in a transposition.
KINDS = (
    (("xmma", "cudnn", "wgrad", "dgrad", "fprop"), "convolutions"),
    (("gemm", "cublas", "cutlass", "nvjet"), "products"),
    (("memcpy", "Memcpy"), "copies"),
    (("reduce",), "sums"),
    (("concatenate",), "concatenations"),
    (("transpose",), "transpositions"),
)


class Kernel(NamedTuple):
    """A kernel of a step: what XLA calls it, and its microseconds in a step."""

    name: str
    microseconds: float


def kind_of(name: str) -> str:
    """Return the kind of a kernel: what it does, or what the steps fused in it end in.

    >>> kind_of("input_transpose_fusion_3"), kind_of("loop_add_fusion")
    ('transpositions', 'the rest')
    """
    found = (kind for words, kind in KINDS if any(word in name for word in words))
    return next(found, "the rest")


def read_trace(path: Path, steps: int) -> list[Kernel]:
    """Return the kernels of a trace of JAX's profiler, over so many steps, the longest first."""
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    devices = {
        event["pid"]
        for event in events
        if event.get("name") == "process_name" and "GPU" in event["args"].get("name", "")
    }
    taken = Counter[str]()
    for event in events:
        if event.get("ph") == "X" and event["pid"] in devices and "hlo_op" in event.get("args", {}):
            taken[event["name"]] += event["dur"]
    return [Kernel(name, total / steps) for name, total in taken.most_common()]


def watch(run: Callable[[int], None]) -> list[Kernel]:
    """Return the kernels of a step.

    Raises:
      UserError: if the profiler sees no kernel.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run(WATCHED)
        files = sorted(Path(folder).rglob("*.trace.json.gz"))
        kernels = read_trace(files[0], WATCHED) if files else []
    if not kernels:
        raise UserError("--studies gpu-kernels: JAX's profiler saw no kernel; it needs CUPTI")
    return kernels


def study(dtype: str, norm: bool, batch: int, flops: float, effort: Effort) -> dict[str, Any]:
    """Compile a step, time it, watch it."""
    net, task, phase = problem("vgg16", dtype, norm)
    state = jax.jit(lambda net: loop.init(net, phase, jax.random.key(0)))(net)
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8))
    labels = jnp.asarray(draw.integers(0, 10, batch), jnp.int32)
    began = time.perf_counter()
    jitted = jax.jit(loop.train_step, static_argnums=1, donate_argnums=2)
    step = jitted.lower(task, phase.optimizer, state, x, labels).compile()
    compiled = time.perf_counter() - began

    def run(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state, _ = step(task, state, x, labels)
        jax.block_until_ready(state)

    run(GROUP)  # warm
    times, until = list[float](), time.perf_counter() + effort.seconds
    while len(times) < effort.rounds or time.perf_counter() < until:
        began = time.perf_counter()
        run(GROUP)
        times.append((time.perf_counter() - began) / GROUP)
    seconds, memory = statistics.median(times), step.memory_analysis()
    kernels, kinds = watch(run), dict[str, float]()
    for kernel in kernels:
        kind = kind_of(kernel.name)
        kinds[kind] = kinds.get(kind, 0.0) + kernel.microseconds
    return {
        "dtype": dtype,
        "norm": norm,
        "median_ms": 1e3 * seconds,
        "flops_per_second": flops / seconds,
        "compile_seconds": compiled,
        "temporaries": 0 if memory is None else memory.temp_size_in_bytes,
        "kernels_us": sum(kinds.values()),
        "kinds_us": dict(sorted(kinds.items(), key=lambda each: -each[1])),
        "kernels": kernels,
    }


def gpu_kernels(
    console: Console, peers: dict[str, Contender], effort: Effort, seed: int
) -> list[dict[str, Any]]:
    """Time VGG-16's step on the GPU at hand, and show where its time goes.

    Raises:
      UserError: without a GPU.
    """
    del peers, seed
    machine.check_gpu()
    workload = WORKLOADS["vgg16-gpu"]
    rate = limits.measure_rates({}, effort.interpreters)["bfloat16"]
    host.tune()
    records = []
    table = new_table(
        f"A step of VGG-16, T = {workload.timesteps}, batch {workload.batch}",
        "", "ms", "TFLOP/s", "of products", "s to compile", "us of kernels",
    )  # fmt: skip
    for dtype, norm in FORMS:
        name = dtype + (", norms" if norm else "")
        effort.say(name)
        found = study(dtype, norm, workload.batch, limits.operations(workload), effort)
        share = found["flops_per_second"] / rate
        records.append(found | {"of_products": share})
        table.add_row(
            name, f"{found['median_ms']:.3g}", f"{found['flops_per_second'] / 1e12:.0f}",
            f"{share:.0%}", f"{found['compile_seconds']:.0f}",
            ", ".join(f"{kind} {us:.0f}" for kind, us in found["kinds_us"].items()),
        )  # fmt: skip
    console.print(table)
    return records
