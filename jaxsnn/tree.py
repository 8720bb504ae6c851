"""Names of leaves ("conv1/kernel") and selection of leaves by pattern.

A *recipe* maps glob patterns to values (projections, sparsities, masks). Leaves are addressed by
these names everywhere in jaxsnn, never by position.
"""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import jax

from jaxsnn.errors import UserError

Value = TypeVar("Value")


def leaf_name(path: tuple[Any, ...]) -> str:
    """Return the name of a leaf, its keys joined by slashes, from its key path."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: Any) -> dict[str, Any]:
    """Return `{name: leaf}` in the order of the tree.

    Works on any pytree: a dict, a Flax tree, the arrays of an Equinox module. `None` is no leaf.

    >>> named_leaves({"conv1": {"bias": 0.0, "kernel": 1.0}})
    {'conv1/bias': 0.0, 'conv1/kernel': 1.0}
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {leaf_name(path): leaf for path, leaf in flat}


def map_named(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """Map `function(name, leaf, *rest_leaves)` over trees of one structure."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: function(leaf_name(path), *leaves), tree, *rest
    )


def substitute(tree: Any, leaves: Mapping[str, Any]) -> Any:
    """Return the tree with the leaves that `leaves` names replaced and all others as they are."""
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
      UserError: if a pattern matches no leaf at all.
    """
    names = list(named_leaves(tree))
    for pattern in recipe:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(
                f"the pattern {pattern!r} matches no leaf; the leaves are: {', '.join(names)}"
            )
    matched = {}
    for name in names:
        for pattern, value in recipe.items():
            if fnmatchcase(name, pattern):
                matched[name] = value
                break
    return matched


def unmatched(recipe: Mapping[str, Any], tree: Any) -> tuple[str, ...]:
    """Return the names of the leaves that no pattern of the recipe matches, for reports."""
    matched = match(recipe, tree)
    return tuple(name for name in named_leaves(tree) if name not in matched)
