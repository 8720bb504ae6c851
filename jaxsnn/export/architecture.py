"""The architecture of a network as data: a list of layers in plain JSON types, and back.

Each layer is an object with its `name`, its `kind` and the options of that kind, all of them
written out; what fires is an object in the field `neurons`. The numbers that a layer holds, weights
and constants of neurons, are no options: of constants only the shape is here. Nothing here is
executed; a kind or a field that this jaxsnn does not know is refused, since a network without it
would compute something else.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx

from jaxsnn import fields, layers
from jaxsnn.arrays import check_range
from jaxsnn.errors import UserError, shortened, shown
from jaxsnn.export.firing import check_neurons, describe_firing, make_firing
from jaxsnn.layers.convolution import PADDINGS
from jaxsnn.layers.norms import Norm
from jaxsnn.network import Network
from jaxsnn.neurons import LIF

__all__ = ["describe", "describe_network", "rebuild"]

LAYERS: dict[type, str] = {
    layers.Conv: "conv",
    layers.Conv1d: "conv1d",
    layers.Dense: "dense",
    layers.Recurrent: "recurrent",
    layers.Residual: "residual",
    layers.Attention: "attention",
    layers.AveragePool: "average_pool",
    layers.MaxPool: "max_pool",
    layers.Flatten: "flatten",
    layers.Dropout: "dropout",
    layers.Vote: "vote",
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}
LONGEST = 160  # characters of what a layer says of its options
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")  # of a layer

SYNAPSE = {
    "inputs": fields.whole(1),
    "outputs": fields.whole(1),
    "bias": fields.FLAG,
    "norm": fields.maybe(fields.OBJECT),
    "dtype": fields.one_of(*DTYPES),
    "neurons": fields.OBJECT,
}
NORM = {"momentum": fields.within(0, 1), "epsilon": fields.within(0, 1)}
LAYER_NORM = {"kind": fields.one_of("layer"), "epsilon": fields.within(0, 1)}
KINDS: dict[str, dict[str, fields.Field]] = {
    "conv": SYNAPSE
    | {
        "size": fields.whole(1),
        "stride": fields.whole(1),
        "padding": fields.one_of(*PADDINGS),
    },
    "dense": SYNAPSE,
    "recurrent": SYNAPSE,
    "residual": {
        "conv1": fields.OBJECT,
        "conv2": fields.OBJECT,
        "sources": fields.maybe(fields.several(fields.whole(-1))),
        "weight": fields.FLAG,
    },
    "average_pool": {"size": fields.whole(1)},
    "max_pool": {"size": fields.whole(1)},
    "flatten": {},
    "dropout": {"rate": fields.within(0, 1)},
    "vote": {"classes": fields.whole(1)},
}
SHARED = "shared_max_pool"  # a max pooling whose gradient goes to all equal inputs
KINDS[SHARED] = KINDS["max_pool"]
KINDS["projected_residual"] = KINDS["residual"] | {"projection": fields.OBJECT}
GROUPED = "grouped_conv"  # a convolution of several groups
KINDS["conv1d"] = KINDS[GROUPED] = KINDS["conv"] | {"groups": fields.whole(1)}
PARTS = ("q", "k", "v", "projection")  # of an attention
KINDS["attention"] = {part: fields.OBJECT for part in (*PARTS, "neurons")} | {
    "heads": fields.whole(1),
    "scale": fields.NUMBER,
}
LINE = {"conv1d": KINDS["conv1d"]}  # what an attention consists of
CONV = {kind: KINDS[kind] for kind in ("conv", GROUPED)}  # what a residual block consists of


def describe(module: layers.Chain) -> list[dict[str, Any]]:
    """Return the layers of a network as plain data, in order.

    Args:
      module: the network; the numbers in it are not looked at, their shapes are.

    Raises:
      UserError: for a layer that is none of jaxsnn's, a surrogate of the user's own (it is code),
        and a name that a file cannot hold.

    >>> from jaxsnn import layers
    >>> describe(layers.Chain({"pool1": layers.MaxPool(2), "flatten1": layers.Flatten()}))
    [{'name': 'pool1', 'kind': 'max_pool', 'size': 2}, {'name': 'flatten1', 'kind': 'flatten'}]
    """
    return [{"name": _name(name)} | _describe(name, getattr(module, name)) for name in module.names]


def describe_network(net: Network) -> list[dict[str, Any]] | None:
    """Return the layers of a network as plain data, or None of one that is code.

    That is one of another topology than a chain of our layers, with a layer or a surrogate of the
    user's own, or a wrapped function.
    """
    try:
        module = net.module
        return describe(module) if isinstance(module, layers.Chain) else None
    except UserError:
        return None


def rebuild(description: Any) -> layers.Chain:
    """Return the network that a description describes, with shapes in the place of arrays.

    Nothing is allocated; `export.load` fills it with the arrays of the file.

    Args:
      description: from `describe`, perhaps by way of a file.

    Raises:
      UserError: naming the layer and the field that is unknown, missing or out of range.
    """
    if not isinstance(description, list) or not description:
        raise UserError("the architecture is no list of layers")
    named: dict[str, Any] = {}
    for number, data in enumerate(description, 1):
        name = data.get("name") if isinstance(data, dict) else None
        if not isinstance(name, str):
            raise UserError(f"architecture: layer {number} has no name")
        if _name(name) in named:
            raise UserError(f"architecture: two layers are called {shown(name)}")
        options = {k: data[k] for k in data if k != "name"}
        named[name] = _checked(f"layer {shown(name)}", options, KINDS)
    return nnx.eval_shape(
        lambda: layers.Chain({name: _make(f"layer {shown(name)}", d) for name, d in named.items()})
    )


def check_constants(module: nnx.Module) -> None:
    """Check the constants of neurons and norms; trained ones are confined wherever they are used.

    Args:
      module: a network with its numbers.

    Raises:
      UserError: naming the constant that is out of its range.
    """
    for path, node in nnx.iter_modules(module):
        where = shortened("/".join(map(str, path)))
        if isinstance(node, layers.Integrator) and node.decay is not None:
            check_range(f"{where}/decay", node.decay[...], 0.0, 1.0)
        elif isinstance(node, layers.Neurons):
            check_neurons(where, node)
        elif isinstance(node, nnx.BatchNorm):
            check_range(f"{where}/var", node.var[...], 0.0, math.inf)


def _name(name: str) -> str:
    if not NAME.fullmatch(name) or name == "names" or hasattr(layers.Chain, name):
        raise UserError(f"architecture: a layer cannot be called {shown(name)}")
    return name


def _checked(where: str, data: Any, kinds: Mapping[str, Mapping[str, fields.Field]]) -> Any:
    """Return an object of one of the kinds, after its fields were checked."""
    kind = data.get("kind") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in kinds:
        raise UserError(
            f"architecture: {where}: field 'kind' is {shown(kind)}, expected one of "
            f"{', '.join(kinds)}"
        )
    known = {"kind": fields.TEXT} | dict(kinds[kind])
    return fields.check(f"architecture: {where}", data, known)


def _describe(name: str, layer: Any) -> dict[str, Any]:
    kind = LAYERS.get(type(layer))
    match kind:
        case None:
            found = type(layer).__name__
            raise UserError(f"layer {name!r} is a {found}: a file describes layers of jaxsnn only")
        case "residual":
            block = {
                "kind": kind,
                "conv1": _describe(f"{name}/conv1", layer.conv1),
                "conv2": _describe(f"{name}/conv2", layer.conv2),
                "sources": None if layer.sources is None else list(layer.sources),
                "weight": layer.weight is not None,
            }
            if layer.projection is None:
                return block
            projection = _describe(f"{name}/projection", layer.projection)
            return block | {"kind": "projected_residual", "projection": projection}
        case "attention":
            parts = {part: _describe(f"{name}/{part}", getattr(layer, part)) for part in PARTS}
            firing = describe_firing(name, layer.neurons)
            facts = {"heads": layer.heads, "scale": float(layer.scale)}
            return {"kind": kind, **parts, "neurons": firing, **facts}
        case "average_pool":
            return {"kind": kind, "size": layer.size}
        case "max_pool":
            return {"kind": kind if layer.ties == "first" else SHARED, "size": layer.size}
        case "flatten":
            return {"kind": kind}
        case "dropout":
            return {"kind": kind, "rate": float(layer.rate)}
        case "vote":
            return {"kind": kind, "classes": layer.classes}
    data = {
        "kind": kind,
        "inputs": layer.inputs,
        "outputs": layer.kernel.shape[-1],
        "bias": layer.bias is not None,
        "norm": None if layer.norm is None else _describe_norm(layer.norm),
        "dtype": jnp.dtype(layer.dtype).name,
        "neurons": describe_firing(name, layer.neurons),
    }
    if isinstance(layer, layers.Conv):
        data |= {"size": layer.kernel.shape[0], "stride": layer.stride, "padding": layer.padding}
        if layer.groups > 1 or kind == "conv1d":
            data |= {"kind": GROUPED if kind == "conv" else kind, "groups": layer.groups}
    return data


def _describe_norm(norm: Norm) -> dict[str, Any]:
    epsilon = {"epsilon": float(norm.epsilon)}
    if isinstance(norm, nnx.LayerNorm):
        return {"kind": "layer"} | epsilon
    return {"momentum": float(norm.momentum)} | epsilon


def _make(where: str, data: Mapping[str, Any]) -> nnx.Module:
    """Make a layer from its checked description."""
    match data["kind"]:
        case "residual" | "projected_residual":
            parts: dict[str, Any] = {
                part: _make_synapse(
                    f"{where}, {part}", _checked(f"{where}, {part}", data[part], CONV)
                )
                for part in ("conv1", "conv2", "projection")
                if part in data
            }
            outputs = parts["conv2"].kernel.shape[-1:]
            weight = jnp.ones(outputs) if data["weight"] else None
            try:
                return layers.Residual(**parts, sources=data["sources"], weight=weight)
            except UserError as error:  # which quotes all sources, of which a file may have any
                said = shortened(str(error), LONGEST)
                raise UserError(f"architecture: {where}: {said}") from error
        case "attention":
            return _make_attention(where, data)
        case "average_pool":
            return layers.AveragePool(data["size"])
        case "max_pool":
            return layers.MaxPool(data["size"])
        case "shared_max_pool":
            return layers.MaxPool(data["size"], "shared")
        case "flatten":
            return layers.Flatten()
        case "dropout":
            return layers.Dropout(data["rate"])
        case "vote":
            return layers.Vote(data["classes"])
    return _make_synapse(where, data)


def _make_attention(where: str, data: Mapping[str, Any]) -> layers.Attention:
    parts: dict[str, Any] = {
        part: _make_synapse(f"{where}, {part}", _checked(f"{where}, {part}", data[part], LINE))
        for part in PARTS
    }
    (inputs, width), firing = parts["v"].kernel.shape[1:], f"{where}, neurons"
    options = {"width": width, "scale": data["scale"], "rngs": nnx.Rngs(0)}
    found = layers.Attention(inputs, data["heads"], neurons=LIF(), **options)
    for part, layer in parts.items():
        setattr(found, part, layer)
    found.neurons = make_firing(firing, data["neurons"])
    return found


def _make_synapse(where: str, data: Mapping[str, Any]) -> layers.Synapse:
    makers: dict[str, Any] = {
        "conv": layers.Conv,
        GROUPED: layers.Conv,
        "conv1d": layers.Conv1d,
        "dense": layers.Dense,
        "recurrent": layers.Recurrent,
    }
    options: dict[str, Any] = {
        "use_bias": data["bias"],
        "norm": data["norm"] is not None and data["norm"].get("kind", True),
        "dtype": DTYPES[data["dtype"]],
        "rngs": nnx.Rngs(0),
    }
    options |= {x: data[x] for x in ("size", "stride", "padding", "groups") if x in data}
    firing = make_firing(f"{where}, neurons", data["neurons"])
    if data["kind"] == "recurrent" and not isinstance(firing, layers.Neurons):
        raise UserError(f"architecture: {where}: a recurrent layer needs neurons that spike")
    widths = data["inputs"], data["outputs"]
    layer: layers.Synapse = makers[data["kind"]](*widths, neurons=firing, **options)
    if layer.norm is not None:
        known = LAYER_NORM if "kind" in data["norm"] else NORM
        norm = fields.check(f"architecture: {where}, norm", data["norm"], known)
        for name in norm.keys() - {"kind"}:
            setattr(layer.norm, name, norm[name])
    return layer
