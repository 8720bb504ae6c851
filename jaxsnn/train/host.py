"""Settings of a whole process that make JAX fast on a CPU: an opt-in, to be made before JAX starts.

Three things cost more than arithmetic there. XLA asks for its temporary memory anew in every call,
and the C library gives large blocks back to the system at once, so that each call pays for fresh
pages. Many of XLA's operations run on one core; with one device for each core, and the batch
shared between them (`Task.devices`), all of them do. And XLA's newer way to write the code of a
fused loop takes twice as long as the older one, for programs that are no faster.
"""

import ctypes
import os
from importlib.metadata import version

import jax

from jaxsnn.errors import UserError

__all__ = ["cores", "tune", "untuned"]

# Parameters of glibc's mallopt, from malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8

MOST_DEVICES = 2  # by default: what more are worth was not measured

# A flag that a release of XLA does not know ends the process: it is given to those it was tried on.
QUICK_TO_COMPILE = "--xla_cpu_use_fusion_emitters=false"
TRIED = ("0.10.",)  # of jaxlib


def tune(devices: int | None = None) -> None:
    """Set this process up for speed on a CPU; call it once, before JAX computes anything.

    Freed memory stays with the process instead of going back to the system (Linux with glibc;
    elsewhere left as it is), the CPU becomes several JAX devices, and programs for it compile in
    about half of the time (a flag in $XLA_FLAGS; one that is there already stays). Accelerators
    are not touched.
    The programs of `experiments` call it; `import jaxsnn` never does.

    Args:
      devices: number of devices to make of the CPU, 1 to the number of cores; if left out, what
        $JAX_NUM_CPU_DEVICES says, or 2 if there are as many cores.

    Raises:
      UserError: if JAX has started, or there are fewer cores.
    """
    present = jax.config.values["jax_num_cpu_devices"]
    if devices is None:
        devices = present if present > 0 else min(cores(), MOST_DEVICES)
    elif not 1 <= devices <= cores():
        raise UserError(f"devices = {devices}: choose 1 to {cores()}, the number of cores here")
    try:
        if devices != present:
            jax.config.update("jax_num_cpu_devices", devices)
    except RuntimeError:
        raise UserError("host.tune comes too late: call it before JAX computes anything") from None
    _keep_freed_memory()
    _compile_quickly()


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def untuned() -> dict[str, str]:
    """Return the environment without what `tune` put there, for programs with another JAX."""
    flags = os.environ.get("XLA_FLAGS", "").replace(QUICK_TO_COMPILE, "").strip()
    others = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return others | ({"XLA_FLAGS": flags} if flags else {})


def _keep_freed_memory() -> None:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # another C library, or another system
    mallopt(M_ARENA_MAX, 1)  # threads' own arenas would fall back to fresh pages
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_TOP_PAD, 64 << 20)


def _compile_quickly() -> None:
    given = os.environ.get("XLA_FLAGS", "")
    name = QUICK_TO_COMPILE.partition("=")[0]
    if name not in given and version("jaxlib").startswith(TRIED):
        os.environ["XLA_FLAGS"] = f"{given} {QUICK_TO_COMPILE}".strip()
