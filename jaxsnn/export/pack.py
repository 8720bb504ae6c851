"""The packed file: a network in as few bytes as its numbers need, and enough to run it.

The container is that of `jaxsnn.export.container`. Each leaf of `params` is written in the smallest
form of `jaxsnn.coding`, as one tensor `params/NAME` of bytes: the parts of the form, one after the
other, in the order of `coding.PARTS`. Each leaf of `stats` is the tensor `stats/NAME` as it is;
where it is a single float32 number (most constants of neurons are) it stands in the header instead.
The header has these fields besides those of the container:

    leaves         "params/NAME" -> {"form": its name, "shape": [...], "bytes": [of each part]}
    numbers        "stats/NAME" -> number, exactly a float32
    architecture   the layers, as `architecture.describe` writes them; null if not given
    inputs         what `Inputs.to_data` writes: shape, timesteps, encoding, mean, std; or null

By custom the metadata strings tell `name`, `dataset` and `accuracy`, a share of the test images. A
decoder that needs only numpy and safetensors is `experiments/decode_numpy.py`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsnn import coding, fields, layers
from jaxsnn.errors import UserError
from jaxsnn.export import architecture, container
from jaxsnn.export.container import Contents
from jaxsnn.export.model import Inputs, Model
from jaxsnn.export.modules import filled
from jaxsnn.tree import named_leaves

HEADER = {
    "leaves": fields.OBJECT,
    "numbers": fields.OBJECT,
    "architecture": fields.maybe(fields.several(fields.OBJECT)),
    "inputs": fields.maybe(fields.OBJECT),
}
LEAF = {
    "form": fields.one_of(*coding.PARTS),
    "shape": fields.SHAPE,
    "bytes": fields.several(fields.whole(0)),
}


def save(
    path: str | Path,
    params: Any,
    stats: Any = None,
    metadata: Mapping[str, str] | None = None,
    *,
    module: layers.Chain | None = None,
    inputs: Inputs | None = None,
) -> int:
    """Write a network to one packed file.

    Weights that stand on a grid are written as codes of 1 to 8 bits, zeros as a bitmap or as gaps
    between the others where that is smaller, and all else as float32. Reading returns the same
    bits, except that `-0.0` becomes `0.0`. The file appears under its name only when it is
    complete.

    Args:
      path: file to write.
      params: nested dictionary of finite float32 leaves.
      stats: nested dictionary of arrays (running statistics of norms, constants of neurons).
      metadata: strings to keep; the key `jaxsnn` is taken.
      module: the network whose numbers these are; then `load_model` can run the file.
      inputs: how samples become its input; then `jaxsnn eval` can evaluate the file.

    Returns:
      The size of the file in bytes, header included.

    Raises:
      UserError: if a leaf is not finite float32, a tree is not a nested dictionary or not that of
        the module, the module is not made of layers of jaxsnn, or the file cannot be written.
    """
    header: dict[str, Any] = {"leaves": {}, "numbers": {}, "architecture": None, "inputs": None}
    if module is not None:
        header["architecture"] = architecture.describe(filled(module, params, stats or {}))
        _check_shapes(architecture.rebuild(header["architecture"]), params, stats or {})
    if inputs is not None:
        header["inputs"] = inputs.to_data()
    tensors: dict[str, np.ndarray] = {}
    for name, leaf in _leaves("params", params).items():
        if leaf.dtype != np.float32:
            raise UserError(f"{name} is {leaf.dtype}; a packed file holds float32 weights, cast it")
        if not np.isfinite(leaf).all():
            raise UserError(f"{name} holds NaN or infinity; pack a checkpoint from before it did")
        form, parts = coding.encode(leaf)
        sizes = [parts[part].nbytes for part in coding.PARTS[form]]
        header["leaves"][name] = {"form": form, "shape": list(leaf.shape), "bytes": sizes}
        content = b"".join(parts[part].tobytes() for part in coding.PARTS[form])
        tensors[name] = np.frombuffer(content, np.uint8)
    for name, leaf in _leaves("stats", stats or {}).items():
        if leaf.shape == () and leaf.dtype == np.float32 and np.isfinite(leaf):
            header["numbers"][name] = float(leaf)
        else:
            tensors[name] = leaf
    return container.write(path, "network", tensors, header, metadata)


def load(path: str | Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """Read the numbers of a packed file.

    Args:
      path: a file that `save` wrote.

    Returns:
      `(params, stats, metadata)`: two nested dictionaries of numpy arrays, and the strings.

    Raises:
      UserError: if the file is missing, damaged, cut short or of another format or version; the
        message names the file and the field.
    """
    contents = read(path)
    return *trees(path, contents), contents.metadata


def load_model(path: str | Path) -> Model:
    """Read a packed file as a network that can be run.

    Args:
      path: a file that `save` wrote with `module=`.

    Returns:
      The network, which computes exactly what the saved one does.

    Raises:
      UserError: as `load` does, and if the file has no architecture or one that this jaxsnn does
        not know; nothing in the file is executed.
    """
    return model_of(path, read(path))


def model_of(path: str | Path, contents: Contents) -> Model:
    """Return the network that a file's contents make up; as `load_model`, without reading."""
    params, stats = jax.tree.map(jnp.asarray, trees(path, contents))
    header = contents.header
    if header["architecture"] is None:
        raise UserError(f"{path}: holds no architecture, expected one: save it with module=")
    try:
        module = architecture.rebuild(header["architecture"])
        _check_shapes(module, params, stats)
        inputs = None if header["inputs"] is None else Inputs.from_data(header["inputs"])
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    net = filled(module, params, stats)
    return Model(net, inputs, contents.metadata, header["written_by"])


def read(path: str | Path) -> Contents:
    """Return the checked contents of a packed file, its leaves still packed."""
    contents = container.read(path, "network", HEADER)
    for name, leaf in contents.header["leaves"].items():
        fields.check(f"{path}: leaf {name}", leaf, LEAF)
    for name, number in contents.header["numbers"].items():
        if not fields.NUMBER.fits(number):
            raise UserError(f"{path}: the number {name} is {number!r}, expected a finite number")
    return contents


def trees(path: str | Path, contents: Contents) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `(params, stats)` of a file's contents, unpacked, as numpy arrays."""
    tensors, header = contents.tensors, contents.header
    named = {name: array for name, array in tensors.items() if name not in header["leaves"]}
    named |= {name: np.array(x, np.float32) for name, x in header["numbers"].items()}
    for name, leaf in header["leaves"].items():
        try:
            parts = _parts(leaf, tensors[name])
            named[name] = coding.decode(leaf["form"], parts, tuple(leaf["shape"]))
        except (KeyError, ValueError) as error:
            raise UserError(f"{path}: the tensor {name} is damaged: {error}") from error
    roots: dict[str, dict[str, Any]] = {"params": {}, "stats": {}}
    for name, array in named.items():
        *folders, last = name.split("/")
        node: Any = roots
        for folder in folders:
            node = node.setdefault(folder, {}) if node is not roots else node.get(folder)
            if not isinstance(node, dict):
                raise UserError(f"{path}: {name} is no leaf of params or stats")
        if last in node or node is roots:
            raise UserError(f"{path}: {name} is no leaf of params or stats")
        node[last] = array
    return roots["params"], roots["stats"]


def _parts(leaf: Mapping[str, Any], content: np.ndarray) -> dict[str, np.ndarray]:
    """Cut the bytes of a leaf into the parts of its form."""
    kinds = coding.PARTS[leaf["form"]]
    sizes = leaf["bytes"]
    if len(sizes) != len(kinds) or sum(sizes) != content.nbytes or content.dtype != np.uint8:
        raise ValueError(f"it has {content.nbytes} bytes, expected {kinds} of {sizes}")
    parts, start = {}, 0
    for (part, dtype), size in zip(kinds.items(), sizes, strict=True):
        parts[part] = np.frombuffer(content[start : start + size].tobytes(), dtype)
        start += size
    return parts


def _leaves(root: str, tree: Any) -> dict[str, np.ndarray]:
    """Return the leaves on the host, named from `root` on; refuse what names cannot rebuild."""
    for keys, _ in jax.tree.leaves_with_path(tree):
        for key in keys:
            name = getattr(key, "key", None)
            if not isinstance(name, str) or "/" in name or not name:
                where = jax.tree_util.keystr(keys)
                raise UserError(f"{root}{where}: a packed file holds nested dictionaries of names")
    return {f"{root}/{name}": np.asarray(leaf) for name, leaf in named_leaves(tree).items()}


def _check_shapes(module: layers.Chain, params: Any, stats: Any) -> None:
    """Refuse trees that are not those of a network, in name or shape."""
    states = nnx.split(module, nnx.Param, ...)[1:]
    for root, state, tree in zip(("params", "stats"), states, (params, stats), strict=True):
        expected = {
            name: leaf.shape for name, leaf in named_leaves(nnx.to_pure_dict(state)).items()
        }
        found = {name: np.shape(leaf) for name, leaf in named_leaves(tree).items()}
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                raise UserError(
                    f"{root}/{name}: the architecture has {expected.get(name, 'no such leaf')}, "
                    f"the numbers have {found.get(name, 'no such leaf')}"
                )
