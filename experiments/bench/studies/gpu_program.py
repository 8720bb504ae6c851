"""The program that an H100 gets for a training step, compiled without one, and what it moves.

JAX compiles for a GPU that is described to it, if its CUDA plugin is installed
(`pip install jax-cuda12-plugin jax-cuda12-pjrt`, of the version of jaxlib); no GPU, driver or CUDA
library is needed. Kernels are not tuned then, and nothing is run. Counted are the kernels, the
bytes that they read and write, each operand and result once a kernel, and the temporaries.
"""

import re
from collections import Counter
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich.console import Console

from experiments.bench import limits
from experiments.bench.contenders import Contender
from experiments.bench.problems import WORKLOADS
from experiments.bench.rounds import Effort
from experiments.bench.tables import new_table
from jaxsnn import models, surrogate, train
from jaxsnn.compress.phase import Phase, as_phase
from jaxsnn.errors import UserError
from jaxsnn.inputs import Inputs
from jaxsnn.network import Network
from jaxsnn.neurons import LIF
from jaxsnn.train import loop

MIB = 2**20
FORMS = (("bfloat16", True), ("float32", True), ("float32", False))  # numbers, with norms

# An H100 SXM as JAX describes one (`get_topology_for_devices(...).target_config`).
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
runtime_version { major: 12 minor: 8 } platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 } device_description_str: "NVIDIA H100 80GB HBM3"
"""

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f64": 8, "s64": 8, "u64": 8}  # else 4
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast"}
LINE = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*?)\)")
ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")


def device() -> jax.Device:
    """Return an H100 that is not there.

    Raises:
      UserError: without JAX's CUDA plugin.
    """
    jax.devices()
    try:
        found = topologies.get_topology_desc("1x1x1", "cuda", target_config=H100, topology="1x1x1")
    except (NotImplementedError, RuntimeError, ValueError) as error:
        raise UserError(
            "--studies gpu-program: JAX has no CUDA plugin here: pip install jax-cuda12-plugin "
            f"jax-cuda12-pjrt of jaxlib's version ({str(error).splitlines()[0]})"
        ) from None
    return found.devices[0]


def traffic(text: str) -> tuple[Counter[str], int]:
    """Return the kernels of a compiled program by kind, and the bytes that they read and write."""
    entry = text[text.index("\nENTRY") :]
    sizes: dict[str, int] = {}
    kinds: Counter[str] = Counter()
    moved = 0
    for name, shape, kind, operands in map(re.Match.groups, LINE.finditer(entry)):
        sizes[name] = sum(
            BYTES.get(dtype, 4) * int(np.prod([int(n) for n in dims.split(",") if n]))
            for dtype, dims in ARRAY.findall(shape)
        )
        if kind not in FREE:
            kinds[kind] += 1
            names = (each.split(" ")[-1].lstrip("%") for each in operands.split(", "))
            moved += sizes[name] + sum(sizes.get(each, 0) for each in names)
    return kinds, moved


def problem(network: str, dtype: str, norm: bool) -> tuple[Network, train.Task, Phase]:
    """Return a network for images of CIFAR-10 at T = 4, its task, and how it is trained."""
    neuron = LIF(0.5, 1.0, surrogate=surrogate.triangle())
    options: dict[str, Any] = {
        "norm": norm,
        "readout": "current",
        "use_bias": "readout",
        "dtype": jnp.dtype(dtype),
    }
    if network == "vgg16":
        net = models.vgg16((32, 32, 3), neuron, classes=10, **options)
    else:
        net = models.build(network, (32, 32, 3), neuron, **options)
    task = train.Task(Inputs((32, 32, 3), timesteps=4), loss="ce")
    return net, task, as_phase(optax.adam(1e-3))


def compiled(
    network: str, dtype: str, norm: bool, batch: int, where: jax.Device
) -> jax.stages.Compiled:
    """Compile a training step on images of CIFAR-10 for a device."""
    everywhere = NamedSharding(Mesh(np.array([where]), ("devices",)), PartitionSpec())
    net, task, phase = problem(network, dtype, norm)
    with mock.patch.object(jax, "default_backend", lambda: "gpu"):
        arguments = (
            jax.eval_shape(lambda net: loop.init(net, phase, jax.random.key(0)), net),
            jax.ShapeDtypeStruct((batch, 32, 32, 3), jnp.uint8),
            jax.ShapeDtypeStruct((batch,), jnp.int32),
        )
        placed = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), arguments
        )
        step = jax.jit(loop.train_step, static_argnums=1, donate_argnums=2)
        lowered = step.lower(task, phase.optimizer, *placed)
        return lowered.compile(compiler_options={"xla_gpu_autotune_level": "0"})


def gpu_program(
    console: Console, peers: dict[str, Contender], effort: Effort, seed: int
) -> list[dict[str, object]]:
    """Compile VGG-16's step for an H100 in each form, and show what it takes."""
    del peers, seed
    workload, where = WORKLOADS["vgg16-gpu"], device()
    title = f"A step of VGG-16 for an H100, T = {workload.timesteps}, batch {workload.batch}"
    table = new_table(title, "", "kernels", "moved MiB", "least MiB", "temporaries MiB")
    records: list[dict[str, object]] = []
    for dtype, norm in FORMS:
        name = dtype + (", norms" if norm else "")
        effort.say(name)
        program = compiled("vgg16", dtype, norm, workload.batch, where)
        kinds, moved = traffic(program.as_text() or "")
        least = limits.traffic(workload, dtype)
        memory = program.memory_analysis()
        temporaries = 0 if memory is None else memory.temp_size_in_bytes
        table.add_row(
            name, str(kinds.total()), *(f"{n / MIB:.0f}" for n in (moved, least, temporaries))
        )
        records.append(
            {
                "dtype": dtype, "norm": norm, "kernels": dict(kinds), "moved": moved,
                "least": least, "temporaries": temporaries,
            }
        )  # fmt: skip
    console.print(table)
    return records
