"""A network of one's own to rewrite: the module again, with trained values in it."""

from typing import Any

from flax import nnx

from jaxsnn import tree
from jaxsnn.errors import UserError
from jaxsnn.layers import Chain


def filled(module: Chain, params: Any, stats: Any) -> Chain:
    """Return a copy of a module that holds the given arrays; the module stays as it is.

    Args:
      module: the network.
      params: its parameters, as in `functional.split`.
      stats: its other arrays.

    Raises:
      UserError: if a tree has not the leaves of the module.
    """
    graph, *states = nnx.split(module, nnx.Param, ...)
    for what, state, values in zip(("params", "stats"), states, (params, stats), strict=True):
        names = set(tree.named_leaves(nnx.to_pure_dict(state)))
        if strange := sorted(names ^ set(tree.named_leaves(values))):
            found = "lack" if strange[0] in names else "have besides"
            raise UserError(f"{what} {found} the leaf {strange[0]!r}: not those of this network")
        nnx.replace_by_pure_dict(state, values)
    return nnx.merge(graph, *states)
