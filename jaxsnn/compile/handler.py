"""The machine code of a network, called from Python, or by a JAX program without a way through it.

For a program, one handler in C (`handler.c`) is built at first use by the compiler at hand. Where
that fails, the device is no CPU, or $JAXSNN_NATIVE is 0, the program calls back into Python
instead. The scores are the same.
"""

import ctypes
import os
import threading
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib.version
import numpy as np
from jax import Array

from jaxsnn.errors import UserError
from jaxsnn.native.builder import build

__all__ = ["Machine", "load_handler", "missing_handler"]

TARGET = "jaxsnn_network"


@dataclass(frozen=True, eq=False)
class Machine:
    """A built library: one thread at a time calls it, as its memory is static.

    Attributes:
      path: of the library.
      name: prefix of its functions.
      sample: shape `[values]` and type of a sample.
      classes: number of scores.
    """

    path: Path
    name: str
    sample: jax.ShapeDtypeStruct
    classes: int
    _library: ctypes.CDLL = field(repr=False)

    @property
    def key(self) -> int:
        """Return what the handler knows the network by: made of all that the library is made of."""
        return int(self.path.stem[:15], 16)

    def run(self, samples: np.ndarray, *, batched: bool) -> np.ndarray:
        """Return the scores `[..., classes]` of samples `[..., values]`."""
        samples = np.ascontiguousarray(samples, self.sample.dtype)
        scores = np.zeros((*samples.shape[:-1], self.classes), np.int32)
        count = scores.size // self.classes
        with _turn(self.path):
            if load_handler.cache_info().currsize and load_handler().jaxsnn_has_network(self.key):
                load_handler().jaxsnn_run_network(
                    self.key, _pointer(samples), _pointer(scores), ctypes.c_int64(count), batched
                )
            elif batched:
                self._many(_pointer(samples), _pointer(scores), ctypes.c_int32(count))
            else:  # by addresses: a pointer made of each row takes longer than small networks
                one, begin, end = self._one, samples.ctypes.data, scores.ctypes.data
                for i in range(count):
                    one(begin + i * self._bytes, end + i * scores.itemsize * self.classes)
        return scores

    def traced(self, samples: Array, *, batched: bool) -> Array:
        """Return the scores `[N, classes]` of samples `[N, values]` inside of a program.

        What `jax.vmap` adds is one call of more samples.
        """
        result = jax.ShapeDtypeStruct((len(samples), self.classes), jnp.int32)
        if missing_handler() is not None:

            def back(samples: Any) -> np.ndarray:
                return self.run(np.asarray(samples), batched=batched)

            called: Array = jax.pure_callback(back, result, samples, vmap_method="broadcast_all")
            return called
        self._add()
        call = jax.ffi.ffi_call(TARGET, result, vmap_method="broadcast_all")
        scores: Array = call(samples, key=np.int64(self.key), batched=np.int64(batched))
        return scores

    def _add(self) -> None:
        """Make the network known to the handler; calls of before are over then."""
        with _turn(self.path):
            code = self._one, self._many
            if not load_handler().jaxsnn_add_network(self.key, *code, self._bytes, self.classes):
                raise MemoryError("there is no memory for another network")

    @property
    def _bytes(self) -> int:
        """Return the bytes of a sample."""
        return int(self.sample.size * np.dtype(self.sample.dtype).itemsize)

    @property
    def _one(self) -> Any:
        function = getattr(self._library, f"{self.name}_predict")
        function.argtypes = ctypes.c_void_p, ctypes.c_void_p
        return function

    @property
    def _many(self) -> Any:
        return getattr(self._library, f"{self.name}_predict_batch")


@cache
def _turn(path: Path) -> threading.Lock:
    del path  # whoever loads a library twice gets the same memory
    return threading.Lock()


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)


@cache
def missing_handler() -> str | None:
    """Return why a program calls back into Python; None if it does not.

    Example:
      >>> missing_handler() is None or "compiler" in missing_handler()
      True
    """
    if os.environ.get("JAXSNN_NATIVE") == "0":
        return "$JAXSNN_NATIVE is 0"
    if jax.default_backend() != "cpu":
        return f"the device is {jax.default_backend()}"
    try:
        load_handler()
    except UserError as error:
        return str(error)
    return None


@cache
def load_handler() -> ctypes.CDLL:
    """Build and load the handler, and tell XLA about it.

    Raises:
      UserError: if there is no C compiler, it fails, or the library does not load.
    """
    source = (resources.files("jaxsnn.compile") / "handler.c").read_text(encoding="utf-8")
    # The version of jaxlib is part of the source, so that another one builds anew.
    source = f"// jaxlib {jaxlib.version.__version__}\n{source}"
    path = build(source, ["-std=gnu99", "-O2", "-pthread", f"-I{jax.ffi.include_dir()}"])
    try:
        library = ctypes.CDLL(str(path))
        library.jaxsnn_add_network.argtypes = (
            ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64,
        )  # fmt: skip
        library.jaxsnn_run_network.argtypes = (
            ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int,
        )  # fmt: skip
        library.jaxsnn_has_network.argtypes = (ctypes.c_int64,)
        capsule = jax.ffi.pycapsule(getattr(library, TARGET))
        jax.ffi.register_ffi_target(TARGET, capsule, platform="cpu")
    except (OSError, AttributeError) as error:
        raise UserError(f"{path}: the built library does not load ({error})") from None
    return library
