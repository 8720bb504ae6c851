"""Which module of a state dictionary fills which place of a network.

What a mapping says goes first. The rest is guessed for each kind by itself, weights, norms and
neurons, where it is beyond doubt: among those of one shape, one after the other, if there are as
many modules as places. Where the order is lost and shapes repeat, or numbers differ, nobody can
tell, and the mapping is asked for.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxsnn.errors import UserError, shortened
from jaxsnn.export.state_dict.modules import Module
from jaxsnn.export.state_dict.places import Place

__all__ = ["Pairs", "paired"]

Pairs = list[tuple[Place, Module]]


def paired(
    places: Sequence[Place],
    modules: Sequence[Module],
    mapping: Mapping[str, str],
    ordered: bool,
) -> Pairs:
    """Return the pairs of places and modules.

    Args:
      places: of the network.
      modules: of the state dictionary.
      mapping: name of a place -> name of a module.
      ordered: whether modules stand in the order in which they were made.

    Raises:
      UserError: for a name in the mapping that is not there, and where the mapping is asked for.
    """
    pairs = _mapped(places, modules, mapping)
    taken = {place.name for place, _ in pairs} | {module.name for _, module in pairs}
    for kind in ("weights", "norm", "neurons"):
        left = [p for p in places if p.kind == kind and p.guessed and p.name not in taken]
        there = [m for m in modules if m.kind == kind and m.name not in taken]
        if left and there:
            pairs += _guessed(kind, left, there, ordered)
    return pairs


def _mapped(
    places: Sequence[Place], modules: Sequence[Module], mapping: Mapping[str, str]
) -> Pairs:
    here, there = {p.name: p for p in places}, {m.name: m for m in modules}
    pairs = []
    for name, other in mapping.items():
        if name not in here:
            raise UserError(f"mapping: {name!r} is no place of the network, of {', '.join(here)}")
        if other not in there:
            known = ", ".join(map(shortened, there))
            raise UserError(f"mapping: {other!r} is no module of the weights, of {known}")
        if here[name].kind != there[other].kind:
            found = there[other].kind or "none of the modules that are known"
            raise UserError(f"mapping: {name!r} takes {here[name].kind}, and {other!r} is {found}")
        pairs.append((here[name], there[other]))
    return pairs


def _guessed(kind: str, places: list[Place], modules: list[Module], ordered: bool) -> Pairs:
    """Return the pairs of one kind."""
    as_many = len(places) == len(modules)
    ordered = ordered or len(places) == 1
    in_order = list(zip(places, modules, strict=False))
    if kind == "neurons" and as_many and _alike(modules):
        return in_order
    if (by_shape := _by_shape(places, modules, ordered)) is not None:
        return by_shape
    if as_many and ordered:
        return in_order  # the shapes of which are then found wrong, each by its name
    here = ", ".join(f"{place.name} {place.shape}" for place in places)
    there = ", ".join(f"{shortened(module.name)} {_shape(module)}" for module in modules)
    lost = "" if ordered else "; a safetensors file has lost their order"
    raise UserError(
        f"{len(places)} places for {kind} and {len(modules)} modules cannot be told apart by order "
        f"and shape{lost}: pass mapping={{place: module}} with the places {here} and the modules "
        f"{there}"
    )


def _shape(module: Module) -> tuple[int, ...]:
    """Return the shape of the weights of a module; of neurons that of their largest constant."""
    if module.kind == "neurons":
        return max((tuple(x.shape) for x in module.fields.values()), key=len)
    names = ("input_weights", "weight", "running_mean")
    return tuple(next(module.fields[name] for name in names if name in module.fields).shape)


def _by_shape(places: list[Place], modules: list[Module], ordered: bool) -> Pairs | None:
    """Return pairs of one shape, in order if it is known; None if their numbers differ."""
    pairs: Pairs = []
    for shape in dict.fromkeys(map(_key, places)):
        here = [place for place in places if _key(place) == shape]
        there = [module for module in modules if _key(module) == shape]
        if len(here) != len(there) or not (ordered or len(here) == 1):
            return None
        pairs += zip(here, there, strict=True)
    return pairs


def _key(each: Place | Module) -> tuple[int, ...]:
    """Return the shape by which weights and norms are told apart; neurons are not."""
    if each.kind == "neurons":
        return ()
    return _plain(each.shape if isinstance(each, Place) else _shape(each))


def _plain(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape of weights, that of a convolution of size 1 as that of a matrix."""
    return shape[:2] if all(side == 1 for side in shape[2:]) else shape


def _alike(modules: Sequence[Module]) -> bool:
    """Return whether all neurons have the same numbers, so that any pairing will do."""
    first, *others = (module.fields for module in modules)
    return all(
        other.keys() == first.keys() and all(np.array_equal(other[k], first[k]) for k in first)
        for other in others
    )
