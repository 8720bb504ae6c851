"""Functions in C++ that XLA calls: built at first use, loaded, and told to XLA."""

import ctypes
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jax
import jaxlib.version

from jaxsnn.errors import UserError
from jaxsnn.native.builder import build

__all__ = ["Handlers", "threads"]


@dataclass(frozen=True)
class Handlers:
    """A file of this folder, behind `numbers.h` and `call.h`.

    Attributes:
      name: of the file.
      functions: that XLA may call.
      flags: of the compiler, libraries last.
    """

    name: str
    functions: tuple[str, ...]
    flags: tuple[str, ...]

    def build(self) -> Path:
        """Build it, or find what was built before; return the library.

        Raises:
          UserError: if there is no compiler, or it fails.
        """
        folder, parts = resources.files("jaxsnn.native"), ("numbers.h", "call.h", self.name)
        source = "".join((folder / part).read_text(encoding="utf-8") for part in parts)
        return build(
            # The version of jaxlib is part of the source, so that another one builds anew.
            f"// jaxlib {jaxlib.version.__version__}, {' '.join(self.flags)}\n{source}",
            ["-std=c++17", "-fopenmp", f"-I{jax.ffi.include_dir()}", *self.flags],
            language="c++",
        )

    def load(self, path: Path) -> ctypes.CDLL:
        """Load its library, and tell XLA the names of its functions.

        Raises:
          UserError: if the library does not load.
        """
        # Waiting threads must not spin: XLA computes on the same cores between two calls.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        try:
            library = ctypes.CDLL(str(path))
            for function in self.functions:
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
