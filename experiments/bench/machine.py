"""What is measured on: the names of the processor and of the GPU, and whether there is one."""

import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from jaxsnn.errors import UserError

CPUINFO = Path("/proc/cpuinfo")
ASK = ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")


@cache
def processor() -> str:
    """Return the processor's name where it can be read, its architecture elsewhere."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def instructions() -> list[str]:
    """Return the vector instructions of the processor that matter here, where they can be read."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]


@cache
def gpu() -> str | None:
    """Return the first GPU's name, None without one; JAX is not asked, which would take it."""
    try:
        done = subprocess.run(ASK, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    names = done.stdout.strip().splitlines() if done.returncode == 0 else []
    return names[0].strip() if names else None


def name() -> str:
    """Return what stands below each table: "NVIDIA H200; AMD EPYC, 2 cores"."""
    own = f"{processor()}, {os.cpu_count()} cores"
    found = gpu()
    return own if found is None else f"{found}; {own}"


def check_gpu() -> str:
    """Return the name of the GPU.

    Raises:
      UserError: if there is none.
    """
    found = gpu()
    if found is None:
        raise UserError(
            "--device gpu: no GPU: nvidia-smi finds none here; --device cpu measures the processor"
        )
    return found


def check_seen(rates: dict[str, Any]) -> None:
    """Refuse frameworks that do not see the GPU, before they are timed on the processor.

    Args:
      rates: of `limits.measure_rates`, with the device of each framework.

    Raises:
      UserError: naming the framework, and what it needs.
    """
    needs = {
        "jax": "this interpreter needs pip install 'jax[cuda12]'",
        "torch": "--peer-python needs a torch with CUDA",
    }
    for framework, found in rates["each"].items():
        if found["device"].lower() == "cpu":
            raise UserError(
                f"--device gpu: no GPU: {framework} sees the CPU only; {needs[framework]}"
            )
