"""Read a pickle of plain containers and byte arrays without executing anything from it.

A pickle is a program: it may name any function of any module and call it. Here the names that an
array of bytes needs are bound to small stand-ins of our own, every other name is refused before it
is even imported, so the worst that a hostile file can do is to be rejected.
"""

import io
import pickle
from typing import Any

import numpy as np

from jaxsnn.errors import UserError

__all__: list[str] = []  # nothing here is promised to users


class _Bytes:
    """Stand-in for a numpy array while it is being unpickled: its array of bytes."""

    def __init__(self) -> None:
        self.array = np.empty(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, raw = state
        if not isinstance(dtype, _Byte):
            raise pickle.UnpicklingError("an array that is not uint8")
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        flat = np.frombuffer(raw, np.uint8)
        self.array = flat.reshape(shape, order="F" if is_fortran else "C")


class _Byte:
    """Stand-in for the dtype uint8; its pickled state carries nothing that matters."""

    def __setstate__(self, state: Any) -> None:
        del state


def _reconstruct(*_: Any) -> _Bytes:
    return _Bytes()


def _ndarray(*_: Any) -> Any:
    raise pickle.UnpicklingError("a call of numpy.ndarray")


def _dtype(code: Any, *_: Any) -> _Byte:
    if code not in ("u1", b"u1"):
        raise pickle.UnpicklingError(f"an array of type {code!r}, not uint8")
    return _Byte()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("a text in a foreign encoding")
    return text.encode("latin1")


_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _ndarray,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,  # how protocol 2 spells bytes
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not allowed")
        return _ALLOWED[module, name]


def read_pickle(what: str, data: bytes) -> Any:
    """Return what a pickle holds, made of builtin containers, numbers, bytes and uint8 arrays.

    Args:
        what: name of the file, for the error.
        data: the pickle, protocol 0 to 4, written by Python 2 or 3.

    Raises:
        UserError: if it is damaged or names anything else; nothing of it has been executed then.
    """
    try:
        return _plain(_Unpickler(io.BytesIO(data), encoding="bytes").load())
    except Exception as error:  # a hostile or damaged pickle can raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{what}: not a pickle of plain arrays and lists, refused: {reason} "
            f"({len(data):,} bytes read)"
        ) from error


def _plain(value: Any) -> Any:
    """Put the arrays of a dict in the place of their stand-ins."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.array if isinstance(value, _Bytes) else value
