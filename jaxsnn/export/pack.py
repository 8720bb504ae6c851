"""The packed file: a network in as few bytes as its numbers need, and enough to run it.

The file is that of `jaxsnn.export.compact`; older ones, of `jaxsnn.export.container`, are read.
Each leaf of `params` is written in the smallest form of `jaxsnn.coding`, and each leaf of `stats`,
too, if it is of finite floats without negative zeros; another one is written as it is, and a single
float32 number (most constants of neurons are) stands in the text. Of both files, `read` makes the
same header and tensors of bytes:

    leaves         "params/NAME" -> {"form": its name, "shape": [...], "bytes": [of each part]}
    numbers        "stats/NAME" -> number, exactly a float32
    architecture   the layers, as `architecture.describe` writes them; null where it cannot
    inputs         what `Inputs.to_data` writes: shape, timesteps, encoding, mean, std; or null
    written_by     the releases of jaxsnn and jax

By custom the metadata strings are `name`, `dataset` and `accuracy`, a share of the test images. A
decoder that needs only numpy is `tools/decode_numpy.py`.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsnn import coding, fields, foreign, memory
from jaxsnn.arrays import Array
from jaxsnn.compress.codes import Quantized, Step
from jaxsnn.errors import UserError, first_of, shortened, shown
from jaxsnn.export import architecture, compact, container
from jaxsnn.export.container import Contents
from jaxsnn.export.model import Model
from jaxsnn.files import write_atomic
from jaxsnn.inputs import Inputs
from jaxsnn.network import Network
from jaxsnn.tree import named_leaves, substitute

__all__ = ["load", "save"]

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
ROOTS = ("params", "stats")
NUMBERS = "biuf"  # kinds of the types of leaves
FLOAT = 4  # bytes
NUMBER = fields.within(-3.4028234e38, 3.4028234e38)
RATIO = 512  # bytes that each one of a file may unpack to


def save(
    path: str | Path,
    net: Network,
    inputs: Inputs | None = None,
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Write a network to one packed file: the same network gives the same bytes.

    Which weights are not zero, and the codes of those on a grid, go through an entropy coder; all
    else is float32. Reading returns the same bits, except that `-0.0` becomes `0.0` in a weight.
    The file appears under its name only when it is complete.

    A network of our layers in a chain is saved with its architecture. One of your own topology, or
    a wrapped function, is code: its numbers are saved, and `load(path, like=net)` puts them back.

    Args:
      path: file to write.
      net: the network; its parameters are finite float32 leaves of any pytree.
      inputs: how samples become its input; then `jaxsnn eval` can evaluate the file.
      metadata: strings to keep; the key `jaxsnn` is taken.

    Returns:
      The size of the file in bytes, header included.

    Raises:
      UserError: if a leaf is not finite float32, the metadata are no strings, or the file cannot be
        written.

    Example:
      >>> import tempfile
      >>> from jaxsnn import models
      >>> net = models.build("6-3", (4,))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     size = save(f"{folder}/net", net, Inputs((4,), timesteps=2), {"name": "tiny"})
      ...     again = load(f"{folder}/net")
      >>> again.metadata, again.network.order
      ({'name': 'tiny'}, ('dense1', 'dense2'))
    """
    if not isinstance(net, Network):
        raise UserError(
            f"net must be a Network (models.build, Network.of, Network.wrap), found "
            f"{type(net).__name__}"
        )
    if inputs is not None and not isinstance(inputs, Inputs):
        raise UserError(
            f"inputs must be an Inputs, such as task.inputs, found {type(inputs).__name__}"
        )
    header: dict[str, Any] = {"leaves": {}, "numbers": {}, "written_by": container.releases()}
    header["architecture"] = architecture.describe_network(net)
    header["inputs"] = None if inputs is None else inputs.to_data()
    tensors: dict[str, np.ndarray] = {}
    known = {f"params/{name}": found for name, found in net.quantized.items()}
    for name, leaf in _leaves("params", net.params).items():
        header["leaves"][name], tensors[name] = _packed(name, leaf, known.get(name))
    for name, leaf in _leaves("stats", net.stats).items():
        if leaf.dtype.kind == "f" and np.isnan(leaf).any():
            raise UserError(f"{name} holds NaN; pack a checkpoint from before it did")
        if leaf.shape == () and leaf.dtype == np.float32 and np.isfinite(leaf):
            header["numbers"][name] = float(leaf)
        elif _returns(leaf):
            header["leaves"][name], tensors[name] = _packed(name, leaf, None)
        else:
            tensors[name] = leaf
    return write_atomic(path, compact.to_bytes(tensors, header, container.checked(metadata)))


def load(path: str | Path, like: Network | None = None) -> Model:
    """Read a packed file as a network that can be run.

    The steps of leaves on a grid come back where the file holds them (`coded_grid_codes`,
    `coded_channel_codes`), whether `save` knew the grid or found it in the numbers.

    Args:
      path: a file that `save` wrote.
      like: the network that the numbers are put into; needed for one of your own topology and for
        a wrapped function, which a file cannot describe. Names and shapes must be the same.

    Returns:
      The network, which computes exactly what the saved one does, its inputs and metadata.

    Raises:
      UserError: if the file is missing, damaged, cut short or of another format or version, has no
        architecture or one that this jaxsnn does not know, or does not fit `like`. Nothing in the
        file is executed.

    Example:
      >>> import tempfile
      >>> from jaxsnn import models
      >>> net = models.build("6-3", (4,))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     size = save(f"{folder}/net", net)
      ...     again = load(f"{folder}/net", like=net).network
      >>> bool((again.params["dense1"]["kernel"] == net.params["dense1"]["kernel"]).all())
      True
    """
    return model_of(path, read(path), like)


def read(path: str | Path) -> Contents:
    """Return the checked contents of a packed file, its leaves still packed."""
    path = Path(path)
    container.size_of(path, "network")
    with foreign.reading(path, "a jaxsnn network"), path.open("rb") as file:
        content = file.read(compact.LONGEST)
        if is_compact := compact.is_compact(content):
            content += file.read()
    if is_compact:
        contents = compact.from_bytes(path, content)
    else:
        contents = container.read(path, "network", HEADER)
    for name, leaf in contents.header["leaves"].items():
        fields.check(f"{path}: leaf {shortened(name)}", leaf, LEAF)
        if name not in contents.tensors:
            raise UserError(f"{path}: the tensor {shortened(name)} is missing")
    fields.check(f"{path}: the numbers", contents.header["numbers"], {}, others=NUMBER)
    return contents


def leaves(
    path: str | Path, contents: Contents, *, bounded: bool = True
) -> dict[str, dict[str, np.ndarray]]:
    """Return "params" and "stats" -> name -> leaf of a file's contents, unpacked.

    Args:
      path: the file, for messages.
      contents: what `read` returned.
      bounded: whether leaves that are far larger than the file are refused, and infinite
        statistics: of a network that the file itself describes. `RATIO` is what weights of one bit
        take at a density of 0.01.

    Raises:
      UserError: for a leaf that is damaged or not finite, or in neither tree; before anything is
        made, if they are too large.
    """
    tensors, header = contents.tensors, contents.header
    stated = sum(FLOAT * math.prod(leaf["shape"]) for leaf in header["leaves"].values())
    most = foreign.most_unpacked(contents.num_bytes, RATIO)
    if bounded and stated > most:
        raise UserError(
            f"{path}: its leaves take {shortened(f'{stated:,}')} bytes, and a file of "
            f"{contents.num_bytes:,} may unpack to {most:,}; if it is to be trusted, make the "
            "network and load(path, like=net)"
        )
    memory.check(f"a network with the leaves of {path}", stated, "load it where there is more")
    named = {name: array for name, array in tensors.items() if name not in header["leaves"]}
    named |= {name: np.array(x, np.float32) for name, x in header["numbers"].items()}
    for name, leaf in header["leaves"].items():
        try:
            parts = _parts(leaf, tensors[name])
            named[name] = coding.decode(leaf["form"], parts, tuple(leaf["shape"]))
        except (KeyError, ValueError) as error:
            where = f"{path}: the tensor {shortened(name)}"
            raise UserError(f"{where} is damaged: {error}") from error
    for name, array in named.items():
        is_free = not bounded and name.startswith("stats/")  # of a network of the user's own
        bad = array.dtype.kind not in NUMBERS or np.isnan(array).any()
        if bad or not (is_free or np.isfinite(array).all()):
            where = f"{path}: {shortened(name)}"
            raise UserError(f"{where} holds NaN, infinity or no numbers; save it again")
    return _by_root(path, named)


def _by_root(path: str | Path, named: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what has names as "params" and "stats" -> rest of the name -> the same."""
    roots: dict[str, dict[str, Any]] = {root: {} for root in ROOTS}
    for name, each in named.items():
        root, slash, rest = name.partition("/")
        if root not in roots or not slash:
            raise UserError(f"{path}: {shortened(name)} is no leaf of params or stats")
        roots[root][rest] = each
    return roots


def steps(path: str | Path, contents: Contents) -> dict[str, Step]:
    """Return name -> step of the matrices and kernels whose form says it.

    The few numbers of a bias, or of the neurons, lie on some grid by chance.
    """
    found = {}
    for name, leaf in contents.header["leaves"].items():
        if len(leaf["shape"]) < 2 or not name.startswith("params/"):
            continue
        step = coding.stored_step(
            leaf["form"], _parts(leaf, contents.tensors[name]), tuple(leaf["shape"])
        )
        if step is not None:
            numbers = (jnp.asarray(each) for each in step)
            found[name.removeprefix("params/")] = Step(*numbers)
    return found


def model_of(path: str | Path, contents: Contents, like: Network | None = None) -> Model:
    """Return the network that a file's contents make up; as `load`, without reading."""
    header = contents.header
    if like is None and header["architecture"] is None:
        raise UserError(
            f"{path}: holds no architecture, expected one: its network is code; make it and fill "
            "it by load(path, like=net)"
        )
    shapes = _shapes(path, contents)
    try:
        if like is None:
            net = _rebuilt(path, contents, shapes)
        else:
            _check_shapes("the network given as like", [like.params, like.stats], shapes)
            named = leaves(path, contents, bounded=False)
            params, stats = (
                substitute(tree, _as_arrays(named[root]))
                for root, tree in zip(ROOTS, (like.params, like.stats), strict=True)
            )
            net = like.replace(params=params, stats=stats)
        inputs = None if header["inputs"] is None else Inputs.from_data(header["inputs"])
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    net = net.replace(steps=steps(path, contents))
    if inputs is not None:
        net = net.replace(input_shape=inputs.shape)
    return Model(net, inputs, contents.metadata, header["written_by"])


def _shapes(path: str | Path, contents: Contents) -> dict[str, dict[str, tuple[int, ...]]]:
    """Return "params" and "stats" -> name -> shape of a leaf, packed or not."""
    header = contents.header
    shapes = {name: array.shape for name, array in contents.tensors.items()}
    shapes |= dict.fromkeys(header["numbers"], ())
    shapes |= {name: tuple(leaf["shape"]) for name, leaf in header["leaves"].items()}
    return _by_root(path, shapes)


def _rebuilt(
    path: str | Path, contents: Contents, shapes: Mapping[str, Mapping[str, tuple[int, ...]]]
) -> Network:
    """Return the network of a file's description with its leaves in it."""
    module = architecture.rebuild(contents.header["architecture"])
    graph, *states = nnx.split(module, nnx.Param, ...)
    trees = [nnx.to_pure_dict(state) for state in states]
    _check_shapes("the architecture", trees, shapes)
    named = leaves(path, contents)
    for state, tree, root in zip(states, trees, ROOTS, strict=True):
        nnx.replace_by_pure_dict(state, substitute(tree, _as_arrays(named[root])))
    module = nnx.merge(graph, *states)
    architecture.check_constants(module)
    return Network.of(module)


def _packed(
    name: str, leaf: np.ndarray, known: Quantized | None
) -> tuple[dict[str, Any], np.ndarray]:
    """Return what the header says of a leaf, and its bytes."""
    if leaf.dtype != np.float32:
        raise UserError(f"{name} is {leaf.dtype}; a packed file holds float32 weights, cast it")
    if not np.isfinite(leaf).all():
        raise UserError(f"{name} holds NaN or infinity; pack a checkpoint from before it did")
    form, parts = coding.encode(leaf, known)
    sizes = [parts[part].nbytes for part in coding.PARTS[form]]
    content = b"".join(parts[part].tobytes() for part in coding.PARTS[form])
    said = {"form": form, "shape": list(leaf.shape), "bytes": sizes}
    return said, np.frombuffer(content, np.uint8)


def _returns(leaf: np.ndarray) -> bool:
    """Return whether a packed leaf has the same bits again."""
    if leaf.dtype != np.float32 or not np.isfinite(leaf).all():
        return False
    return not np.any(np.signbit(leaf) & (leaf == 0))


def _as_arrays(named: Mapping[str, np.ndarray]) -> dict[str, Array]:
    return {name: jnp.asarray(leaf) for name, leaf in named.items()}


def _parts(leaf: Mapping[str, Any], content: np.ndarray) -> dict[str, np.ndarray]:
    """Cut the bytes of a leaf into the parts of its form."""
    kinds = coding.PARTS[leaf["form"]]
    sizes = leaf["bytes"]
    if len(sizes) != len(kinds) or sum(sizes) != content.nbytes or content.dtype != np.uint8:
        raise ValueError(
            f"it has {content.nbytes} bytes, expected {', '.join(kinds)} of {shown(sizes)}"
        )
    parts, start = {}, 0
    for (part, dtype), size in zip(kinds.items(), sizes, strict=True):
        parts[part] = np.frombuffer(content[start : start + size].tobytes(), dtype)
        start += size
    return parts


def _leaves(root: str, tree: Any) -> dict[str, np.ndarray]:
    """Return the leaves of any pytree on the host, named from `root` on."""
    return {f"{root}/{name}": np.asarray(leaf) for name, leaf in named_leaves(tree).items()}


def _check_shapes(
    what: str, trees: list[Any], shapes: Mapping[str, Mapping[str, tuple[int, ...]]]
) -> None:
    """Refuse leaves that are not those of a network, in name or shape; one line names some."""
    unlike = []
    for root, tree in zip(ROOTS, trees, strict=True):
        expected = {name: np.shape(leaf) for name, leaf in named_leaves(tree).items()}
        found = shapes[root]
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                here, there = (
                    shortened(str(shapes.get(name, "no such leaf")), 24)
                    for shapes in (expected, found)
                )
                short = f"{root}/{shortened(name)}"
                unlike.append(f"{short}: {what} has {here}, the numbers have {there}")
    if unlike:
        raise UserError(first_of(unlike))
