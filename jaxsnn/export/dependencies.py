"""Which channels of a network belong together, and which can go: one walk over a traced pass.

Each channel of a layer is a unit. The walk reads where the channels of every signal come from
(`jaxsnn.origins`) and finds

- *ties*: units that a sum joins, the same channel of each part, go together or not at all;
- *pins*: units that nothing can cut, with the reason: the read-out is made of them, or channels
  are lost sight of behind them;
- for each input of a layer the unit that feeds it, -1 for the network's input.

The groups of a convolution and the heads of an attention are no ties: they may be cut evenly as
well. Whoever cuts checks them (`shrinking`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from flax import nnx

from jaxsnn import layers
from jaxsnn.layers.walk import Flow, layers_of
from jaxsnn.origins import Chosen, Mixed, Origin, Own, Side, Sum, Tiled

__all__ = ["INPUT", "NOTHING", "Units", "attentions", "bound", "follows", "walk_channels"]

# In the place of a unit.
INPUT = -1  # a channel of the network's input, or one that nobody can follow
NOTHING = -2  # no channel at all

CUT = (layers.Conv, layers.Dense)  # whose kernels are cut, and what is derived from them


@dataclass
class Units:
    """The channels of all layers as numbers, and what binds them."""

    first: dict[str, int]  # layer -> its first unit
    widths: dict[str, int]  # layer -> how many it has
    parents: np.ndarray  # int [units], a forest: two units of one tree are tied
    inputs: dict[str, np.ndarray] = field(default_factory=dict)  # layer -> unit of each input
    shortcuts: dict[str, np.ndarray] = field(default_factory=dict)  # layer -> unit added to each
    pins: dict[int, str] = field(default_factory=dict)  # root -> why it cannot be cut

    @staticmethod
    def of(widths: Mapping[str, int]) -> "Units":
        """Return units that nothing binds."""
        ends = np.cumsum([0, *widths.values()])
        first = {name: int(start) for name, start in zip(widths, ends, strict=False)}
        return Units(first, dict(widths), np.arange(ends[-1]))

    def own(self, layer: str) -> np.ndarray:
        """Return the units of a layer, int `[C]`."""
        return self.first[layer] + np.arange(self.widths[layer])

    def layer(self, unit: int) -> str:
        """Return the layer of a unit."""
        return next(x for x, first in self.first.items() if 0 <= unit - first < self.widths[x])

    def roots(self, units: np.ndarray) -> np.ndarray:
        """Return the first unit that each is tied to."""
        found: np.ndarray = self.parents[units]
        while not np.array_equal(found, self.parents[found]):
            found = self.parents[found]
        return found

    def tie(self, first: np.ndarray, second: np.ndarray, why: str) -> None:
        """Tie units in pairs; one that is added to an input is pinned."""
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            if min(a, b) < 0:
                self.pin([max(a, b)], f"{why} to the network's input")
                continue
            a, b = (int(x) for x in self.roots(np.array([a, b])))
            low, high = min(a, b), max(a, b)
            self.parents[high] = low
            if high in self.pins:
                self.pins.setdefault(low, self.pins[high])

    def pin(self, units: Iterable[int], why: str) -> None:
        """Note that units cannot be cut, and why."""
        for unit in units:
            if unit >= 0:
                self.pins.setdefault(int(self.roots(np.array([unit]))[0]), why)


def walk_channels(flow: Flow, module: nnx.Module) -> Units:
    """Return what binds the channels of a network.

    Args:
      flow: of the network, traced.
      module: the network.
    """
    known = layers.synapses(module)
    heads = attentions(module)
    units = Units.of({name: layer.kernel.shape[-1] for name, layer in known.items()})
    for feed in flow.feeds.values():
        name = feed.layer
        if not feed.kernel.endswith("/kernel"):
            continue  # of a recurrent layer that hears itself
        width = feed.shape[-1]
        units.inputs[name] = _units(units, feed.origin, width)
        for origin in feed.added:
            added = _units(units, origin, units.widths[name])
            units.shortcuts[name] = added
            if not isinstance(origin, Chosen):
                units.tie(units.own(name), added, "they are added")
    heard = [*_leaves(flow.end)]
    for name in heard:
        units.pin(units.own(name), "the read-out is made of them")
    for feed in flow.feeds.values():
        for origin in (feed.origin, *feed.added):
            heard += _leaves(origin)
    for part in heads:
        units.tie(units.own(part.q.name), units.own(part.k.name), "they are multiplied")
        heard += [part.q.name, part.k.name]
    for name in known:
        if name not in heard:
            units.pin(units.own(name), "no layer with weights hears them")
    for name, layer in known.items():
        if not isinstance(layer, CUT):
            why = f"{name!r} is a {type(layer).__name__}, whose kernel only its author can cut"
            units.pin([*units.own(name), *units.inputs.get(name, ())], why)
        if isinstance(layer.norm, nnx.LayerNorm):
            units.pin(units.own(name), f"{name!r} has a LayerNorm, which averages over them")
    return units


def attentions(module: nnx.Module) -> list[layers.Attention]:
    """Return the attentions of a network."""
    return [layer for layer in layers_of(module) if isinstance(layer, layers.Attention)]


def follows(layer: layers.Synapse) -> bool:
    """Return whether a layer hands its current on, to neurons that decide for it."""
    return isinstance(layer.neurons, layers.Integrator)


def bound(flow: Flow, module: nnx.Module) -> set[str]:
    """Return the layers that cannot lose a channel without another layer: by a sum, in a group.

    Those with pinned channels are among them; a shortcut that learns nothing binds nobody.
    """
    known, units = layers.synapses(module), walk_channels(flow, module)
    sharing: dict[int, set[str]] = {}
    found: set[str] = set()
    for name, layer in known.items():
        roots = [] if follows(layer) else units.roots(units.own(name)).tolist()
        for root in roots:
            sharing.setdefault(root, set()).add(name)
        if isinstance(layer, layers.Conv) and layer.groups > 1:
            found |= {name} | {units.layer(x) for x in units.inputs.get(name, ()) if x >= 0}
    for part in attentions(module):
        found |= {part.q.name, part.k.name, part.v.name}
    for root, names in sharing.items():
        if root in units.pins or len(names) > 1:
            found |= names
    return found


def _units(units: Units, origin: Origin, width: int) -> np.ndarray:
    """Return the unit of each channel of a signal, and tie and pin what its making binds."""
    match origin:
        case None:
            return np.full(width, INPUT)
        case Own(layer):
            return units.own(layer)
        case Sum(parts):
            found = [_units(units, part, width) for part in parts]
            for other in found[1:]:
                units.tie(found[0], other, "they are added")
            return np.where(np.min(found, axis=0) < 0, INPUT, found[0])
        case Side(parts, widths):
            sides = [_units(units, *each) for each in zip(parts, widths, strict=True)]
            return np.concatenate(sides)
        case Tiled(part, pixels):
            return np.tile(_units(units, part, width // pixels), pixels)
        case Chosen(part, sources):
            whole = _units(units, part, max(sources) + 1)
            return np.array([whole[x] if x >= 0 else NOTHING for x in sources])
        case Mixed(part, by):
            for inner in _leaves(part):
                units.pin(units.own(inner), f"they cannot be followed through {by}")
            return np.full(width, INPUT)
    raise AssertionError(origin)


def _leaves(origin: Origin) -> Iterable[str]:
    """Yield the layers whose channels a signal is made of."""
    match origin:
        case Own(layer):
            yield layer
        case Sum(parts) | Side(parts, _):
            for part in parts:
                yield from _leaves(part)
        case Tiled(part, _) | Chosen(part, _) | Mixed(part, _):
            yield from _leaves(part)
