"""How much memory there is, and the refusal of what cannot fit before any of it is made.

An estimate here is a lower bound: arrays that lie in memory at the same time whatever a compiler
makes of the rest. What is free is an upper bound: caches that the system gives back, swap, and what
the process holds already, of which freed arrays are a part, are among it. So nothing that fits is
refused, and what is refused could not have run to its end.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxsnn.errors import UserError

__all__: list[str] = []  # nothing here is promised to users

SMALL = 1 << 26  # bytes; less is not worth a look at the system

ROOT = Path("/")
# Of the two versions of Linux's control groups: folder, limit, use, and what of it can be dropped.
GROUPS = {
    "": ("sys/fs/cgroup", "memory.max", "memory.current", ("inactive_file", "active_file")),
    "memory": (
        "sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
}


def check(
    what: str, needed: float, change: str, *, on_host: bool = False, free: float | None = None
) -> None:
    """Raise if something needs more memory than is free; under a trace nothing is made.

    Args:
      what: that is about to be made, for the message: "a network of 3 weights".
      needed: bytes that it needs at least.
      change: what to do about it.
      on_host: whether it lies in the memory of the host, wherever arrays are computed.
      free: bytes that are free; found out if left out.

    Raises:
      UserError: with the estimate, what is free, and what to change.

    Example:
      >>> check("a network", 1536, "...", free=1024)
      Traceback (most recent call last):
      jaxsnn.errors.UserError: a network: at least 1.5 KiB of memory needed, at most 1 KiB free: ...
    """
    if free is None:
        if needed < SMALL or isinstance(jnp.zeros(()), jax.core.Tracer):
            return
        free = host_bytes() if on_host else free_bytes()
    if free is not None and needed > free:
        raise UserError(
            f"{what}: at least {as_bytes(needed)} of memory needed, at most "
            f"{as_bytes(free)} free: {change}"
        )


def size_of(shapes: Any) -> int:
    """Return the bytes of the arrays of a tree, which may be shapes (`jax.eval_shape`).

    >>> size_of({"kernel": jax.ShapeDtypeStruct((100, 10), jnp.float32)})
    4000
    """
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def free_bytes(*, reserves: bool = True) -> float | None:
    """Return what is free where arrays are made, None where nobody can tell.

    Devices of a CPU share the host's memory; of others it is that of the first local one.

    Args:
      reserves: whether to count what a host has besides, as of `host_bytes`.
    """
    if jax.default_backend() == "cpu":
        return host_bytes(reserves=reserves)
    found = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" not in found:
        return None
    return float(found["bytes_limit"] - found.get("bytes_in_use", 0))


def host_bytes(*, reserves: bool = True, root: Path = ROOT) -> float | None:
    """Return what is free of the host's memory, None where nobody can tell.

    That is the least of what Linux calls available and what each control group, such as that of a
    container, has left; elsewhere, all that is built in.

    Args:
      reserves: whether to count swap, and what this process holds already: it may keep what it has
        freed (`host.tune`), and nobody can tell how much that is.
      root: folder that holds `proc` and `sys`.
    """
    facts = _numbers(root / "proc/meminfo")
    known = [*_left_in_groups(root)]
    if "MemAvailable:" in facts:
        known.append(1024 * facts["MemAvailable:"])
    if not known:
        return _physical()
    held = _numbers(root / "proc/self/status").get("RssAnon:", 0) + facts.get("SwapFree:", 0)
    return float(max(min(known), 0) + (1024 * held if reserves else 0))


def _physical() -> float | None:
    """Return all memory of a host that does not say what is free."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return None


def _left_in_groups(root: Path) -> Iterator[int]:
    """Yield what the control groups of this process have left, from its own to the root's."""
    for line in _lines(root / "proc/self/cgroup"):
        kinds, _, path = line.partition(":")[2].partition(":")
        kind = "memory" if "memory" in kinds.split(",") else kinds
        if kind not in GROUPS:
            continue
        top, limit, use, kept = GROUPS[kind]
        folder = root / top / path.lstrip("/")
        for place in (folder, *folder.parents):
            most, used = (_lines(place / name)[:1] for name in (limit, use))
            if most and used and most[0].isdigit() and used[0].isdigit():
                dropped = _numbers(place / "memory.stat")
                yield int(most[0]) - int(used[0]) + sum(dropped.get(name, 0) for name in kept)
            if place == root / top:
                break


def _numbers(path: Path) -> dict[str, int]:
    """Return name -> number of a file with lines such as "MemFree: 5 kB"."""
    words = [line.split() for line in _lines(path)]
    return {found[0]: int(found[1]) for found in words if len(found) > 1 and found[1].isdigit()}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []


def as_bytes(number: float) -> str:
    """Write a number of bytes in words.

    >>> as_bytes(1536), as_bytes(3.2e9)
    ('1.5 KiB', '2.98 GiB')
    """
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if number >= 1024**power:
            return f"{number / 1024**power:,.4g} {unit}"
    return f"{number:.0f} bytes"
