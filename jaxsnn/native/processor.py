"""The instructions of this machine's processor, and the numbers that it is fastest with."""

from collections.abc import Collection
from functools import cache
from pathlib import Path

import jax

__all__ = ["choose_dtype", "flags"]

CPUINFO = Path("/proc/cpuinfo")
SHORT = ("amx_bf16", "avx512_bf16")  # instructions that multiply bfloat16, the faster first
ACCELERATORS = ("gpu", "tpu")


@cache
def flags() -> frozenset[str]:
    """Return the names of the processor's instruction sets, as Linux has them; else none."""
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return frozenset(line.partition(":")[2].split())


def choose_dtype(
    asked: str = "auto", *, platform: str | None = None, known: Collection[str] | None = None
) -> tuple[str, str]:
    """Return the numbers that a network computes its products with, and a line that says why.

    "auto" is bfloat16 on an accelerator and on a processor that multiplies it (AMX or
    AVX512-BF16), and float32 elsewhere, where bfloat16 is computed in float32 anyway.

    >>> choose_dtype("auto", platform="cpu", known={"avx2"})
    ('float32', 'products: float32 (auto: this processor has no bfloat16 instructions)')
    >>> choose_dtype("float32", platform="cpu", known={"amx_bf16"})
    ('float32', 'products: float32 (as asked)')

    Args:
      asked: "auto", or the name of a dtype, which is returned as it is.
      platform: "cpu", "gpu" or "tpu"; left out, that of JAX.
      known: names of the processor's instruction sets; left out, `flags()`.
    """
    if asked != "auto":
        return asked, f"products: {asked} (as asked)"
    platform = platform or jax.default_backend()
    if platform in ACCELERATORS:
        return "bfloat16", f"products: bfloat16 (auto: the device is a {platform})"
    known = flags() if known is None else known
    for name in SHORT:
        if platform == "cpu" and name in known:
            return "bfloat16", f"products: bfloat16 (auto: this processor has {name})"
    return "float32", "products: float32 (auto: this processor has no bfloat16 instructions)"
