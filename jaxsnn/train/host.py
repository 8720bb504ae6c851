"""Settings of a whole process that make JAX fast on a CPU: an opt-in, to be made before JAX starts.

Three things cost more than arithmetic there. XLA asks for its temporary memory anew in every call,
and the C library gives large blocks back to the system at once, so that each call pays for fresh
pages. Many of XLA's operations run on one core; with one device for each core, and the batch
shared between them (`Task.devices`), all of them do. And XLA's newer way to write the code of a
fused loop takes twice as long as the older one, for programs that are no faster.

One thing is wrong there: sums that XLA leaves to YNNPACK are now and then those of a part of their
numbers (https://github.com/google/XNNPACK/pull/11243, seen in JAX 0.10.2).
"""

import ctypes
import mmap
import os
from functools import cache
from importlib import resources
from importlib.metadata import version

import jax

from jaxsnn.errors import UserError

__all__ = ["cores", "tune", "untuned"]

# Parameters of glibc's mallopt, from malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8

MOST_DEVICES = 2  # by default: what more are worth was not measured

OWN_SUMS = "--xla_cpu_experimental_ynn_fusion_type=-LIBRARY_FUSION_TYPE_REDUCE"
QUICK_TO_COMPILE = "--xla_cpu_use_fusion_emitters=false"
TRIED = ("0.10.",)  # of jaxlib: with others the older way may be one that nobody keeps up


def tune(devices: int | None = None) -> None:
    """Set this process up for speed on a CPU; call it once, before JAX computes anything.

    Freed memory stays with the process instead of going back to the system (Linux with glibc;
    elsewhere left as it is), and the CPU becomes several JAX devices. Programs for it compile in
    about half of the time, and their sums are right (two flags in $XLA_FLAGS; one that is there
    already stays). Accelerators are not touched. The programs of `experiments` and the command line
    call it; `import jaxsnn` never does.

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
    _give_flags()


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def untuned() -> dict[str, str]:
    """Return the environment without what `tune` put there, for programs with another JAX."""
    flags = [each for each in _flags() if each not in (OWN_SUMS, QUICK_TO_COMPILE)]
    others = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return others | ({"XLA_FLAGS": " ".join(flags)} if flags else {})


def _keep_freed_memory() -> None:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # another C library, or another system
    mallopt(M_ARENA_MAX, 1)  # threads' own arenas would fall back to fresh pages
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_TOP_PAD, 64 << 20)


def _give_flags() -> None:
    given = _flags()
    names = {each.partition("=")[0] for each in given}
    wanted = [OWN_SUMS] if _is_known(OWN_SUMS) else []
    if version("jaxlib").startswith(TRIED):
        wanted.append(QUICK_TO_COMPILE)
    if more := [each for each in wanted if each.partition("=")[0] not in names]:
        os.environ["XLA_FLAGS"] = " ".join([*given, *more])


def _flags() -> list[str]:
    return os.environ.get("XLA_FLAGS", "").split()


@cache
def _is_known(flag: str) -> bool:
    """Return whether this XLA has a flag and its value: one that it has not ends the process."""
    name, _, value = flag.lstrip("-").partition("=")
    for file in resources.files("jaxlib").iterdir():
        if "jax_common" in file.name:
            with (
                open(str(file), "rb") as code,
                mmap.mmap(code.fileno(), 0, access=mmap.ACCESS_READ) as text,
            ):
                return all(text.find(each.encode()) >= 0 for each in (name, value.lstrip("-")))
    return False
