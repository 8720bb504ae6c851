"""Functions in C++ that XLA calls: built at first use, loaded, and told to XLA."""

import ctypes
import os
from collections.abc import Iterable
from importlib import resources

import jax
import jaxlib.version

from jaxsnn.errors import UserError
from jaxsnn.native.builder import build

__all__ = ["register", "threads"]


def register(name: str, functions: Iterable[str], *flags: str) -> ctypes.CDLL:
    """Build a source file of this folder, load it, and tell XLA the names of its functions.

    `numbers.h` is put before it.

    Args:
      name: of the file.
      functions: that XLA may call.
      flags: of the compiler, libraries last.

    Raises:
      UserError: if there is no compiler, it fails, or the library does not load.
    """
    folder = resources.files("jaxsnn.native")
    source = "".join((folder / x).read_text(encoding="utf-8") for x in ("numbers.h", name))
    path = build(
        # The version of jaxlib is part of the source, so that another one builds anew.
        f"// jaxlib {jaxlib.version.__version__}, {' '.join(flags)}\n{source}",
        ["-std=c++17", "-fopenmp", f"-I{jax.ffi.include_dir()}", *flags],
        language="c++",
    )
    # Waiting threads must not spin: XLA computes on the same cores between two calls.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        library = ctypes.CDLL(str(path))
        for function in functions:
            capsule = jax.ffi.pycapsule(getattr(library, function))
            jax.ffi.register_ffi_target(function, capsule, platform="cpu")
    except (OSError, AttributeError) as error:
        raise UserError(f"{path}: the built library does not load ({error})") from None
    return library


def threads() -> int:
    """Return how many threads a call may use: the cores, shared by the devices of the program."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    devices: int = jax.sharding.get_abstract_mesh().size  # 0 outside of `shard_map`
    return max(1, (cores or 1) // max(1, devices))
