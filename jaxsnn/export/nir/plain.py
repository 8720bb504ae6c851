"""A NIR graph made plain before it is read: no graphs in graphs, few chains of linear nodes.

| there                               | here                                                    |
|-------------------------------------|---------------------------------------------------------|
| `NIRGraph` as a node                | its nodes, called `outer.inner`; its ends become edges  |
| neurons, `Affine` or `Linear`, back | the neurons hear their own spikes, one step later       |
| two `Affine` or `Linear` in a row   | one `Affine`, unless the two have fewer weights         |
| `Scale` before or behind weights    | the weights take it up                                  |

A spike needs a step to come back to its neurons. Any other way around, and any without neurons in
it, is a cycle, in which nobody can say what comes first.
"""

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple

import numpy as np

from jaxsnn.errors import UserError
from jaxsnn.export.nir.checked import check_nodes, shown

__all__ = ["Plain", "made_plain"]

Edge = tuple[str, str]
DEEPEST = 16  # graphs within graphs
MOST = 1 << 16  # edges that stand for the end of an inner graph


class Plain(NamedTuple):
    """A graph without graphs in it and without cycles."""

    nodes: dict[str, Any]
    edges: list[Edge]
    recurrent: Mapping[str, str]  # neurons -> the weights by which they hear themselves


def made_plain(nir: Any, graph: Any) -> Plain:
    """Return a graph as the reader takes it.

    Args:
      nir: the package.
      graph: a `nir.NIRGraph`, whose nodes are not changed.

    Raises:
      UserError: for a field that is wrong, an edge that ends nowhere, and a cycle without delay;
        naming the node.
    """
    nodes, edges = _inlined(nir, graph, "", 0)
    joins = _Joins(edges)
    for name in [name for name in nodes if "." in name and name not in graph.nodes]:
        if isinstance(nodes[name], nir.Input | nir.Output):  # an end of an inner graph
            joins.bridge(name)
            del nodes[name]
    check_nodes(nodes)
    recurrent = _loops(nir, nodes, joins)
    for name in recurrent.values():
        joins.remove(name)
    _check_cycles(nir, nodes, joins.edges())
    for name in list(nodes):
        kept = name if name in nodes and name not in recurrent.values() else None
        while kept is not None:
            kept = _merged(nir, nodes, joins, kept)
    return Plain(nodes, joins.edges(), recurrent)


class _Joins:
    """The edges of a graph, by both of their ends; each once."""

    def __init__(self, edges: Iterable[Edge]):
        self.before: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self.after: defaultdict[str, dict[str, None]] = defaultdict(dict)
        for edge in edges:
            self.add(*edge)

    def add(self, source: str, sink: str) -> None:
        """Add an edge."""
        self.after[source][sink] = self.before[sink][source] = None

    def remove(self, name: str) -> tuple[list[str], list[str]]:
        """Remove the edges of a node; return the nodes that were before and behind it."""
        before, after = list(self.before.pop(name, ())), list(self.after.pop(name, ()))
        for other in before:
            self.after[other].pop(name, None)
        for other in after:
            self.before[other].pop(name, None)
        return before, after

    def bridge(self, name: str) -> None:
        """Remove a node, and join those before it to those behind it."""
        before, after = self.remove(name)
        if len(before) * len(after) > MOST:
            raise UserError(
                f"node {shown(name)}: {len(before)} nodes before and {len(after)} behind it"
            )
        for source in before:
            for sink in after:
                self.add(source, sink)

    def exchange(self, first: str, second: str) -> None:
        """Let two neighbours, each with one node on each side, change places."""
        before, _ = self.remove(first)
        _, after = self.remove(second)
        for edge in [*((each, second) for each in before), (second, first)]:
            self.add(*edge)
        for each in after:
            self.add(first, each)

    def edges(self) -> list[Edge]:
        """Return all edges."""
        return [(source, sink) for source, sinks in self.after.items() for sink in sinks]


def _inlined(nir: Any, graph: Any, prefix: str, depth: int) -> tuple[dict[str, Any], list[Edge]]:
    """Return nodes and edges, those of inner graphs among them, with their ends."""
    if depth > DEEPEST:
        name = prefix.partition(".")[0]
        raise UserError(f"node {shown(name)} (NIRGraph): more than {DEEPEST} graphs in each other")
    nodes: dict[str, Any] = {}
    edges: list[Edge] = []
    for name, node in graph.nodes.items():
        found: dict[str, Any] = {f"{prefix}{name}": node}
        if isinstance(node, nir.NIRGraph):
            found, inner = _inlined(nir, node, f"{prefix}{name}.", depth + 1)
            edges += inner
        if twice := nodes.keys() & found.keys():
            raise UserError(f"two nodes of the NIR graph are called {shown(min(twice))}")
        nodes |= found
    for edge in graph.edges:
        if len(edge) != 2 or not all(isinstance(end, str) and end in graph.nodes for end in edge):
            raise UserError(f"edge {shown(edge)} of the NIR graph ends nowhere")
        source, sink = edge
        edges.append(
            (
                _end(nir, graph, prefix, source, nir.Output),
                _end(nir, graph, prefix, sink, nir.Input),
            )
        )
    return nodes, edges


def _end(nir: Any, graph: Any, prefix: str, name: str, kind: type) -> str:
    """Return the node that stands for another at the end of an edge: of a graph, its own end."""
    node = graph.nodes[name]
    if not isinstance(node, nir.NIRGraph):
        return f"{prefix}{name}"
    ends = [inner for inner, each in node.nodes.items() if isinstance(each, kind)]
    if len(ends) != 1:
        raise UserError(
            f"node {shown(prefix + name)} (NIRGraph): {len(ends)} nodes {kind.__name__} in it, "
            "expected one"
        )
    return f"{prefix}{name}.{ends[0]}"


def _loops(nir: Any, nodes: Mapping[str, Any], joins: _Joins) -> dict[str, str]:
    """Return neurons -> weights through which they hear themselves."""
    found: dict[str, str] = {}
    for name, node in nodes.items():
        if not isinstance(node, nir.Affine | nir.Linear):
            continue
        before, after = list(joins.before[name]), list(joins.after[name])
        if len(before) == 1 and before == after and _spikes(nir, nodes[before[0]]):
            if before[0] in found:
                kind = type(nodes[before[0]]).__name__
                raise UserError(f"node {shown(before[0])} ({kind}): hears itself in two ways")
            found[before[0]] = name
    return found


def _spikes(nir: Any, node: Any) -> bool:
    return isinstance(node, nir.LIF | nir.IF | nir.CubaLIF)


def _check_cycles(nir: Any, nodes: Mapping[str, Any], edges: list[Edge]) -> None:
    order: TopologicalSorter[str] = TopologicalSorter()
    for source, sink in edges:
        order.add(sink, source)
    try:
        order.prepare()
    except CycleError as error:
        cycle = error.args[1][::-1]
        name = min(cycle)
        kind, way = type(nodes[name]).__name__, " -> ".join(map(shown, cycle[:8]))
        delayed = any(_spikes(nir, nodes[each]) for each in cycle)
        what = "a cycle over several layers" if delayed else "a cycle without delay"
        raise UserError(
            f"node {shown(name)} ({kind}): {what}, {way}; only neurons hear themselves, through "
            "one Affine or Linear"
        ) from None


def _merged(nir: Any, nodes: dict[str, Any], joins: _Joins, name: str) -> str | None:
    """Merge a node with the one behind it; return the node to go on with, None if none is left."""
    node, after = nodes[name], list(joins.after[name])
    if len(after) != 1 or len(joins.before[after[0]]) != 1:
        return None
    behind = nodes[after[0]]
    dense = nir.Affine | nir.Linear
    weights = dense | nir.Conv1d | nir.Conv2d
    one: Any = None
    if isinstance(node, dense) and isinstance(behind, dense):
        one = _product(nir, node, behind)
    elif isinstance(node, weights | nir.Scale) and isinstance(behind, nir.Scale):
        one = _scaled(node, behind.scale, 0)
    elif isinstance(node, nir.Scale) and isinstance(behind, weights):
        one = _scaled(behind, node.scale, 1)
    elif isinstance(node, nir.Scale) and isinstance(
        behind, nir.Flatten | nir.AvgPool2d | nir.SumPool2d
    ):
        scale = _behind(node.scale, isinstance(behind, nir.Flatten))
        if scale is not None and len(joins.before[name]) == 1:
            nodes[name] = nir.Scale(scale)
            joins.exchange(name, after[0])
            return name
    if one is None:
        return None
    # The weights keep their name.
    kept, lost = (after[0], name) if isinstance(behind, weights) else (name, after[0])
    nodes[kept] = one
    del nodes[lost]
    joins.bridge(lost)
    return kept


def _behind(scale: Any, flattens: bool) -> np.ndarray | None:
    """Return what a scale of images is behind a flattening or pooling; None if unknown."""
    values: np.ndarray = np.asarray(scale, np.float64)
    if values.size == 1:
        return values
    if flattens:
        return values.reshape(-1) if values.ndim == 3 and max(values.shape[1:]) > 1 else None
    channels = values.reshape(len(values), -1)
    first = channels[:, :1]
    return first.reshape(-1, 1, 1) if bool(np.all(channels == first)) else None


def _product(nir: Any, first: Any, second: Any) -> Any:
    """Return one Affine for two, or None where the two have fewer weights or do not fit."""
    one, two = (np.asarray(node.weight, np.float64) for node in (first, second))
    if two.shape[1] != one.shape[0] or len(two) * one.shape[1] > one.size + two.size:
        return None
    biases = []
    for node, weight in ((first, one), (second, two)):
        bias = np.asarray(getattr(node, "bias", 0.0), np.float64)
        if bias.shape != weight.shape[:1] and bias.size != 1:
            return None
        biases.append(np.broadcast_to(bias.reshape(-1), weight.shape[:1]))
    return nir.Affine(weight=two @ one, bias=two @ biases[0] + biases[1])


def _scaled(node: Any, scale: Any, axis: int) -> Any:
    """Return a node with scaled outputs (axis 0) or inputs (axis 1); None if not by channel."""
    scale, found = np.asarray(scale, np.float64), copy.copy(node)
    if not hasattr(node, "weight"):  # another scale
        if scale.size > 1 and np.size(node.scale) > 1 and scale.shape != np.shape(node.scale):
            return None
        found.scale = node.scale * scale
        return found
    weight = np.asarray(node.weight, np.float64)
    channels = weight.shape[axis] * (getattr(node, "groups", 1) if axis == 1 else 1)
    if scale.size > 1 and scale.ndim != weight.ndim - 1:  # [C] of features, [C, H, W] of images
        return None
    flat = scale.reshape(len(scale), -1) if scale.size > 1 else scale.reshape(1, 1)
    if len(flat) not in (1, channels) or np.any(flat != flat[:, :1]):
        return None
    each = np.broadcast_to(flat[:, 0], (channels,))
    if axis == 1 and channels != weight.shape[1]:  # of groups, each of which has its own inputs
        outputs = len(weight) // node.groups
        each = np.repeat(each.reshape(node.groups, -1), outputs, axis=0)
        found.weight = weight * each.reshape(*each.shape, *(1,) * (weight.ndim - 2))
        return found
    shape = [1] * weight.ndim
    shape[axis] = channels
    found.weight = weight * each.reshape(shape)
    if axis == 0 and hasattr(node, "bias"):
        found.bias = np.asarray(node.bias, np.float64) * each
    return found
