"""The packed file: every weight in as few bytes as its values need.

One safetensors file. Each leaf of `params` is written in the smallest form of `jaxsnn.coding`, its
parts as tensors `params/NAME#PART`; each leaf of `stats` as it is, as the tensor `stats/NAME`. The
header holds the caller's metadata and, under the key `jaxsnn`, a JSON text with the version of the
format, the form and shape of each leaf, and a checksum of every tensor and of the metadata. Reading
executes nothing.
"""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from jaxsnn import coding
from jaxsnn.errors import UserError
from jaxsnn.files import write_atomic
from jaxsnn.tree import named_leaves

VERSION = 1
HEADER = "jaxsnn"  # key of the header that belongs to this format


def save(
    path: str | Path,
    params: Any,
    stats: Any = None,
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Write a network to one packed file.

    Weights that stand on a grid are written as codes of 1 to 8 bits and a float32 codebook, zeros
    as a bitmap where that is smaller, all others as float32. `load` returns the same bits, except
    that `-0.0` becomes `0.0`. The file appears under its name only when it is complete.

    Args:
      path: file to write.
      params: nested dictionary of finite float32 leaves.
      stats: nested dictionary of arrays (running statistics of norms), stored as they are.
      metadata: strings to keep in the header; the key `jaxsnn` is taken.

    Returns:
      The size of the file in bytes, header included.

    Raises:
      UserError: if a leaf is not finite float32, a tree is not a nested dictionary, the key
        `jaxsnn` is used, or the file cannot be written.
    """
    metadata = dict(metadata or {})
    if HEADER in metadata:
        raise UserError(f"metadata key {HEADER!r} is taken by the format, choose another name")
    tensors: dict[str, np.ndarray] = {}
    leaves = {}
    for name, leaf in _leaves("params", params).items():
        if leaf.dtype != np.float32:
            raise UserError(f"{name} is {leaf.dtype}; a packed file holds float32 weights, cast it")
        if not np.isfinite(leaf).all():
            raise UserError(f"{name} holds NaN or infinity; pack a checkpoint from before it did")
        form, parts = coding.encode(leaf)
        leaves[name] = {"form": form, "shape": list(leaf.shape)}
        tensors |= {f"{name}#{part}": array for part, array in parts.items()}
    tensors |= _leaves("stats", stats or {})
    header = {
        "version": VERSION,
        "leaves": leaves,
        "checksums": {name: _checksum(array) for name, array in tensors.items()},
    }
    header["checksum"] = _header_checksum(header, metadata)
    return write_atomic(path, to_bytes(tensors, metadata | {HEADER: json.dumps(header)}))


def load(path: str | Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """Read a packed file.

    Args:
      path: a file that `save` wrote.

    Returns:
      `(params, stats, metadata)`: two nested dictionaries of numpy arrays, and the strings.

    Raises:
      UserError: if the file is missing, damaged, cut short or of another format; the message
        names the file and the field.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected a packed model")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            header = _read_header(path, metadata)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged, or not a packed model ({error})") from error
    _check_tensors(path, header["checksums"], tensors)
    params = {}
    for name, leaf in header["leaves"].items():
        parts = {p: tensors[f"{name}#{p}"] for p in coding.PARTS.get(leaf["form"], ())}
        try:
            params[name] = coding.decode(leaf["form"], parts, tuple(leaf["shape"]))
        except ValueError as error:
            raise UserError(f"{path}: damaged field {name}: {error}") from error
    stats = {name: array for name, array in tensors.items() if name.startswith("stats/")}
    return _nest(params), _nest(stats), metadata


def _leaves(root: str, tree: Any) -> dict[str, np.ndarray]:
    """Return the leaves on the host, named from `root` on; refuse what names cannot rebuild."""
    for keys, _ in jax.tree.leaves_with_path(tree):
        for key in keys:
            name = getattr(key, "key", None)
            if not isinstance(name, str) or set(name) & {"/", "#"} or not name:
                where = jax.tree_util.keystr(keys)
                raise UserError(f"{root}{where}: a packed file holds nested dictionaries of names")
    return {f"{root}/{name}": np.asarray(leaf) for name, leaf in named_leaves(tree).items()}


def _nest(named: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Rebuild the nested dictionary from `params/conv1/kernel`, without its root."""
    tree: dict[str, Any] = {}
    for name, array in named.items():
        *folders, last = name.split("/")[1:]
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[last] = array
    return tree


def _checksum(array: np.ndarray) -> int:
    """Return a CRC-32 of a tensor's type, shape and bytes."""
    return zlib.crc32(array.tobytes(), zlib.crc32(f"{array.dtype}{array.shape}".encode()))


def _header_checksum(header: Mapping[str, Any], metadata: Mapping[str, str]) -> int:
    """Return a CRC-32 of everything in the header but this number."""
    content = {key: value for key, value in header.items() if key != "checksum"}
    return zlib.crc32(json.dumps([content, metadata], sort_keys=True).encode())


def _read_header(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """Take our part out of `metadata` and check it."""
    if HEADER not in metadata:
        raise UserError(f"{path}: not a packed model, its header has no field {HEADER!r}")
    try:
        header = json.loads(metadata.pop(HEADER))
        version, checksum = header["version"], header["checksum"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged field {HEADER!r} in the header ({error})") from error
    if version != VERSION:
        raise UserError(
            f"{path}: field 'version' is {version}, this jaxsnn reads {VERSION}; "
            "load it with the release that wrote it"
        )
    if checksum != _header_checksum(header, metadata):
        raise UserError(f"{path}: damaged field {HEADER!r} in the header, its checksum differs")
    return header


def _check_tensors(
    path: Path, checksums: Mapping[str, int], tensors: Mapping[str, np.ndarray]
) -> None:
    """Refuse a file whose tensors are not exactly those that were written."""
    for name in sorted(checksums.keys() | tensors.keys()):
        if name not in tensors:
            raise UserError(f"{path}: field {name} is missing")
        if name not in checksums:
            raise UserError(f"{path}: field {name} is not listed in the header")
        if _checksum(tensors[name]) != checksums[name]:
            raise UserError(f"{path}: damaged field {name}, its checksum differs")
