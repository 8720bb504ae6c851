"""How programs are compiled, and where they are kept so that the next run starts at once."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax

from jaxsnn.errors import UserError
from jaxsnn.files import make_folder
from jaxsnn.native.builder import cache_folder

__all__ = ["hurry", "keep"]

# Half of the time that a program takes to compile on a CPU; it may run slower.
HURRIED = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"

MOST = 2 << 30  # bytes; what was used longest ago goes first

# Also keep how XLA has tuned the kernels of a GPU. (JAX's own limit of the size is not used: a
# process that is killed while it writes would end all further writing.)
SETTINGS = {
    "jax_persistent_cache_enable_xla_caches": "xla_gpu_per_fusion_autotune_cache_dir",
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


def keep(wanted: bool) -> str | None:
    """Keep compiled programs from now on, or keep none; return a line if they cannot be kept.

    They go to the folder `programs` below $JAXSNN_CACHE or the user's cache. A folder that JAX was
    given, $JAX_COMPILATION_CACHE_DIR, stays.

    Args:
      wanted: whether to keep them.
    """
    if not wanted:
        jax.config.update("jax_enable_compilation_cache", False)
        return None
    # An entry that a killed process left half written, or a full disk, costs a compilation.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return None
    try:
        folder = make_folder(cache_folder() / "programs", "the folder of compiled programs")
        _probe(folder)
        _shrink(folder, MOST)
    except (UserError, OSError) as error:
        return f"compiled programs are not kept: {error}"
    for name, value in SETTINGS.items():
        jax.config.update(name, value)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return None


def hurry() -> None:
    """Let XLA optimize less, for runs of seconds; call it before JAX computes anything.

    $XLA_FLAGS stays where it is set.
    """
    os.environ.setdefault("XLA_FLAGS", HURRIED)


def _probe(folder: Path) -> None:
    """Raise an `OSError` if nothing can be written to a folder."""
    path = folder / f".probe.{os.getpid()}"
    path.write_bytes(b"1")
    path.unlink()


def _shrink(folder: Path, most: int) -> None:
    """Remove the files that were used longest ago until a folder has at most so many bytes."""
    found = sorted(_files(folder), reverse=True)
    for _, size, path in found:
        most -= size
        if most < 0:
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                os.unlink(path)


def _files(folder: Path) -> Iterator[tuple[float, int, str]]:
    """Yield when each file of a folder was read or written last, its bytes, its path."""
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                about = entry.stat()
                if entry.is_file():
                    yield max(about.st_atime, about.st_mtime), about.st_size, entry.path
