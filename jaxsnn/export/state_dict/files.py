"""State dictionaries of PyTorch, name -> array, from its own files or from safetensors.

What `torch.save(model.state_dict(), path)` writes is a zip archive of stored entries: a pickle,
`data.pkl`, that names each tensor's storage, and the storages, `data/0`, `data/1`, ... The pickle
is read by the machine of `restricted_pickle`, which knows few names and the storages, so
that nothing is executed; a tensor is a view of the bytes of the file, checked to lie inside of
them. So no more is allocated than the file has bytes.
"""

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxsnn import foreign
from jaxsnn.data import restricted_pickle
from jaxsnn.data.restricted_pickle import Empty, Name, Ordered
from jaxsnn.errors import UserError, first_of, shortened, shown

__all__ = ["State", "read_state"]

WHAT = "weights of PyTorch (.pt, .safetensors)"
ADVICE = "write it by torch.save(model.state_dict(), path)"
ZIP, PICKLE = b"PK\3\4", b"\x80"
# Where checkpoints keep the state dictionary, if not on top.
PARTS = ("state_dict", "model_state_dict", "model", "net", "network", "params")

BFLOAT16 = np.dtype(jnp.bfloat16)
KINDS = {
    "Float": "<f4", "Double": "<f8", "Half": "<f2", "Long": "<i8", "Int": "<i4", "Short": "<i2",
    "Char": "i1", "Byte": "u1", "Bool": "?",
}  # fmt: skip
SAFETENSORS = {
    "F32": "<f4", "F64": "<f8", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U8": "u1", "BOOL": "?",
}  # fmt: skip


class State(NamedTuple):
    """A state dictionary."""

    arrays: dict[str, np.ndarray]
    ordered: bool  # whether as the modules were made; a safetensors file has lost that


def read_state(source: str | Path | Mapping[str, Any]) -> State:
    """Return the arrays of a file, or of a state dictionary that is there.

    Args:
      source: a file of `torch.save` or of safetensors; or name -> tensor or array.

    Raises:
      UserError: if the file is missing, damaged, or holds something else.
    """
    if isinstance(source, Mapping):
        return State({str(name): _as_array(name, each) for name, each in source.items()}, True)
    path = Path(source)
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {what}, expected {WHAT}")
    with foreign.reading(path, WHAT), open(path, "rb") as file:
        start = file.read(len(ZIP))
    if start.startswith(PICKLE):
        raise UserError(f"{path}: a bare pickle, as torch wrote before its release 1.6; {ADVICE}")
    if start == ZIP:
        return State(_read_zip(path), True)
    with foreign.reading(path, WHAT):
        return State(_read_safetensors(path), False)


def _as_array(name: Any, value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a tensor, wherever it lies
        value = value.detach().cpu().float()
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" and array.dtype != BFLOAT16:
        raise UserError(
            f"{shortened(str(name))} of the state dictionary is {array.dtype}, expected numbers"
        )
    return array


def _read_zip(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a file of `torch.save`."""
    with foreign.reading(path, WHAT, ADVICE), zipfile.ZipFile(path) as file:
        entries = {entry.filename for entry in foreign.stored_entries(path, file)}
        pickles = [name for name in entries if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise ValueError(f"{len(pickles)} entries data.pkl, expected one")
        root = pickles[0].removesuffix("data.pkl")
        is_big = f"{root}byteorder" in entries and file.read(f"{root}byteorder") == b"big"
        storages = _Storages(file, f"{root}data/", is_big)
        value = restricted_pickle.run(file.read(pickles[0]), NAMES, storages)
    return _on_top(path, value)


def _on_top(path: Path, value: Any) -> dict[str, np.ndarray]:
    """Return the state dictionary that a checkpoint is, or has in one of its parts."""
    parts = [value.get(part) for part in PARTS] if isinstance(value, dict) else []
    for each in (value, *parts):
        if isinstance(each, dict):
            found = {name: x for name, x in each.items() if isinstance(x, np.ndarray)}
            if found:
                return {str(name): x for name, x in found.items()}
    held = type(value).__name__
    if isinstance(value, dict):
        held = "the keys " + first_of([shortened(str(key), 20) for key in value], ", ")
    raise UserError(f"{path}: holds no state dictionary but {held}; {ADVICE}")


class _Storage(NamedTuple):
    """The numbers that tensors are views of; no array, of which a view could leave its bytes."""

    numbers: np.ndarray


class _Kind(Name):
    """The name of a type of storages."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        super().__init__(_not_called)
        self.dtype = dtype


class _Storages:
    """The storages of an archive, each read once."""

    def __init__(self, file: zipfile.ZipFile, root: str, is_big: bool) -> None:
        self.file, self.root, self.is_big = file, root, is_big
        self.read: dict[str, bytes] = {}

    def __call__(self, place: Any) -> _Storage:
        word, kind, key, _, size = place
        if word != "storage" or not isinstance(kind, _Kind) or not isinstance(key, str):
            raise ValueError("a value outside that is no storage")
        if key not in self.read:
            self.read[key] = self.file.read(self.root + key)
        if self.is_big and kind.dtype == BFLOAT16:
            raise ValueError("bfloat16 of a big-endian machine")
        dtype = kind.dtype.newbyteorder(">") if self.is_big else kind.dtype
        numbers = np.frombuffer(self.read[key], dtype)
        if numbers.size < size:
            raise ValueError(f"a storage of {numbers.size} numbers, {size} expected")
        return _Storage(numbers[:size])


def _not_called(*_: Any) -> Any:
    raise ValueError("a call of a type of storages")


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> np.ndarray:
    """Return a tensor: a view of a storage, checked to lie in it."""
    whole = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or len(shape) != len(strides):
        raise ValueError("a tensor without a storage")
    if not all(type(number) is int and 0 <= number < 1 << 62 for number in whole):
        raise ValueError("a tensor of no whole shape")
    numbers, size = storage.numbers, math.prod(shape)
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if size > numbers.size or (size and last >= numbers.size):
        raise ValueError(f"a tensor {shape} beyond its storage of {numbers.size} numbers")
    if size == 0:
        return np.empty(shape, numbers.dtype)
    steps = [stride * numbers.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(numbers[offset:], shape, steps, writeable=False)


def _parameter(tensor: Any, *_: Any) -> np.ndarray:
    """Return the tensor that a parameter is."""
    if not isinstance(tensor, np.ndarray):
        raise ValueError("a parameter without a tensor")
    return tensor


def _unread(*_: Any) -> Empty:
    return Empty()


def _ordered(*items: Any) -> Ordered:
    if items:
        raise ValueError("an ordered dictionary of items")
    return Ordered()


NAMES: dict[tuple[str, str], Name] = {
    ("collections", "OrderedDict"): Name(_ordered),
    ("torch._utils", "_rebuild_tensor_v2"): Name(_tensor),
    ("torch._utils", "_rebuild_parameter"): Name(_parameter),
    # Numbers beside the weights of a checkpoint, such as the best accuracy, are not looked at.
    ("numpy.core.multiarray", "scalar"): Name(_unread),
    ("numpy._core.multiarray", "scalar"): Name(_unread),
    ("numpy", "dtype"): Name(_unread),
    ("_codecs", "encode"): Name(_unread),
    ("torch", "BFloat16Storage"): _Kind(BFLOAT16),
    **{("torch", f"{name}Storage"): _Kind(np.dtype(kind)) for name, kind in KINDS.items()},
}


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a safetensors file, inside of `foreign.reading`."""
    content = np.memmap(path, np.uint8, "r")
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    if not 8 < start <= min(content.size, foreign.TEXT):
        raise ValueError("neither an archive of torch nor a safetensors file")
    header = foreign.parse_json(path, WHAT, content[8:start].tobytes())
    found, data = {}, content[start:]
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        shape, (begin, end) = entry["shape"], entry["data_offsets"]
        is_short = entry["dtype"] == "BF16"
        if not is_short and entry["dtype"] not in SAFETENSORS:
            raise ValueError(f"{shortened(name)} is {shown(entry['dtype'])}, unknown here")
        dtype = BFLOAT16 if is_short else np.dtype(SAFETENSORS[entry["dtype"]])
        whole = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
        if not whole or not begin <= end <= data.size:
            raise ValueError(f"{shortened(name)} lies outside of the file")
        if math.prod(shape) * dtype.itemsize != end - begin:
            raise ValueError(
                f"{shortened(name)} has {end - begin} bytes for {dtype} of the shape {shown(shape)}"
            )
        found[name] = np.frombuffer(data[begin:end].tobytes(), dtype).reshape(shape)
    return found
