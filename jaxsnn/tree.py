"""Names of leaves ("conv1/kernel") and selection of leaves by pattern.

A *recipe* maps glob patterns to values (projections, sparsities, masks). Leaves are addressed by
these names everywhere in jaxsnn, never by position.
"""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

import jax

from jaxsnn.errors import UserError

__all__ = [
    "HasParams",
    "leaf_name",
    "map_named",
    "match",
    "named_leaves",
    "params_of",
    "substitute",
    "unmatched",
    "with_params",
]

Value = TypeVar("Value")


def leaf_name(path: tuple[Any, ...]) -> str:
    """Return the name of a leaf, its keys joined by slashes, from its key path.

    Flax NNX shows an optimizer its variables when it starts and their arrays afterwards; the last
    key of a variable, the attribute `value`, is left out, so that both have one name.

    >>> from jax.tree_util import DictKey, GetAttrKey
    >>> leaf_name((DictKey("conv1"), DictKey("kernel"), GetAttrKey("value")))
    'conv1/kernel'
    """
    if len(path) > 1 and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: Any) -> dict[str, Any]:
    """Return `{name: leaf}` in the order of the tree.

    Works on any pytree: a dict, a Flax tree, the arrays of an Equinox module. `None` is no leaf.

    >>> named_leaves({"conv1": {"bias": 0.0, "kernel": 1.0}})
    {'conv1/bias': 0.0, 'conv1/kernel': 1.0}

    Raises:
      UserError: if two leaves have one name, so that nobody can tell them apart.
    """
    found: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if (name := leaf_name(path)) in found:
            raise UserError(f"two leaves are called {name!r}: rename a key that has a slash")
        found[name] = leaf
    return found


def map_named(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """Map `function(name, leaf, *rest_leaves)` over trees of one structure.

    >>> map_named(lambda name, a, b: (name, a + b), {"x": 1}, {"x": 2})
    {'x': ('x', 3)}
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: function(leaf_name(path), *leaves), tree, *rest
    )


def substitute(tree: Any, leaves: Mapping[str, Any]) -> Any:
    """Return the tree with the leaves that `leaves` names replaced and all others as they are.

    >>> substitute({"conv1": {"bias": 0.0, "kernel": 1.0}}, {"conv1/bias": 7.0})
    {'conv1': {'bias': 7.0, 'kernel': 1.0}}
    """
    return map_named(lambda name, leaf: leaves.get(name, leaf), tree)


def match(recipe: Mapping[str, Value], tree: Any) -> dict[str, Value]:
    """Assign the values of a recipe to the leaves of a tree.

    Patterns are shell globs in which `*` also crosses slashes; the first pattern that matches a
    leaf wins, so exceptions come before rules.

    >>> match({"conv1/*": 1, "*/kernel": 2}, {"conv1": {"kernel": 0.0}, "out": {"kernel": 0.0}})
    {'conv1/kernel': 1, 'out/kernel': 2}

    Args:
      recipe: pattern -> value.
      tree: any pytree.

    Returns:
      leaf name -> value, for the matched leaves only and in the order of the tree.

    Raises:
      UserError: if a pattern matches no leaf, or none that earlier patterns have left.
    """
    names = list(named_leaves(tree))
    winner: dict[str, str] = {}
    for pattern in recipe:
        found = [name for name in names if fnmatchcase(name, pattern)]
        if not found:
            raise UserError(
                f"the pattern {pattern!r} matches no leaf; the leaves are: {', '.join(names)}"
            )
        earlier = dict.fromkeys(winner[name] for name in found if name in winner)
        for name in found:
            winner.setdefault(name, pattern)
        if pattern not in winner.values():
            raise UserError(
                f"the pattern {pattern!r} has no effect: every leaf that it matches is taken by "
                f"the earlier {', '.join(map(repr, earlier))}; put {pattern!r} before it"
            )
    return {name: recipe[winner[name]] for name in names if name in winner}


def unmatched(recipe: Mapping[str, Any], tree: Any) -> tuple[str, ...]:
    """Return the names of the leaves that no pattern of the recipe matches, for reports.

    >>> unmatched({"*/kernel": 1}, {"conv1": {"bias": 0.0, "kernel": 1.0}})
    ('conv1/bias',)
    """
    matched = match(recipe, tree)
    return tuple(name for name in named_leaves(tree) if name not in matched)


@runtime_checkable
class HasParams(Protocol):
    """A network as a value: its parameters, and how to exchange them."""

    @property
    def params(self) -> Any:
        """The parameters, any pytree."""

    def replace(self, *, params: Any) -> Self:
        """Return the same with other parameters."""


Weights = TypeVar("Weights")


def params_of(weights: Any) -> Any:
    """Return the parameters of a network, or the tree itself if it is one of parameters.

    >>> params_of({"conv1": {"kernel": 1.0}})
    {'conv1': {'kernel': 1.0}}
    """
    return weights.params if isinstance(weights, HasParams) else weights


def with_params(weights: Weights, params: Any) -> Weights:
    """Return the network with other parameters, or these themselves in place of a tree.

    >>> with_params({"conv1": {"kernel": 1.0}}, {"conv1": {"kernel": 2.0}})
    {'conv1': {'kernel': 2.0}}
    """
    if isinstance(weights, HasParams):
        return weights.replace(params=params)
    replaced: Weights = params
    return replaced
