"""Finding one transformation's state inside the state of a whole optimizer, and replacing it."""

from typing import Any, TypeVar

import jax

from jaxsnn.compress.codes import Step
from jaxsnn.errors import UserError

__all__ = ["exchange", "find", "is_placeholder", "known_steps", "require_params"]

State = TypeVar("State")
OptState = TypeVar("OptState")

# State -> who makes it, for messages.
MAKERS = {
    "PullState": "pull",
    "LatentState": "latent",
    "ConfineState": "confine",
    "SparseState": "sparse",
    "GradualState": "prune_gradually",
    "AverageState": "averaged",
    "TrainedState": "learned_scales or learned_bits",
}


def require_params(params: Any, name: str) -> None:
    """Raise a `UserError` if an update was not given the parameters."""
    if params is None:
        raise UserError(f"{name} needs the parameters: call update(gradients, state, params)")


def is_placeholder(params: Any) -> bool:
    """Return whether a tree has no leaves: `optax.tree_map_params` asks with such a one.

    A state field that holds parameters by name is then the tree itself, as in optax's own states.
    """
    return not jax.tree.leaves(params)


def find(opt_state: Any, state_type: type[State]) -> State:
    """Return the one state of a type inside an optimizer's state, however deep in chains.

    >>> import optax
    >>> optimizer = optax.chain(optax.scale(1.0), optax.trace(0.9))
    >>> find(optimizer.init({"w": 1.0}), optax.TraceState).trace["w"].item()
    0.0

    Raises:
      UserError: if there is none, or more than one.
    """
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, state_type))
    found = [node for node in nodes if isinstance(node, state_type)]
    if len(found) != 1:
        maker = MAKERS.get(state_type.__name__, "the transformation that makes it")
        raise UserError(
            f"opt_state: expected one {state_type.__name__} in the state, found {len(found)} in a "
            f"{type(opt_state).__name__}; give the state of an optimizer with one {maker}"
        )
    return found[0]


def known_steps(opt_state: Any) -> dict[str, Step]:
    """Return leaf name -> step of its grid, of all states in an optimizer's state that know some.

    >>> import jax.numpy as jnp, optax
    >>> from jaxsnn.compress import latent, uniform_grid
    >>> optimizer, params = latent(optax.sgd(0.1), {"w": uniform_grid(3)}), {"w": jnp.ones(2)}
    >>> state = optimizer.update(params, optimizer.init(params), params)[1]
    >>> round(float(known_steps((state, optax.EmptyState()))["w"].scale), 2)
    0.3
    """

    def knows(node: Any) -> bool:
        return isinstance(getattr(node, "steps", None), dict)

    found: dict[str, Step] = {}
    for node in filter(knows, jax.tree.leaves(opt_state, is_leaf=knows)):
        found |= node.steps
    return found


def exchange(opt_state: OptState, state: Any) -> OptState:
    """Return the optimizer's state with its one state of the type of `state` replaced by it.

    Raises:
      UserError: if there is none, or more than one.
    """
    kind = type(state)
    find(opt_state, kind)

    def is_it(node: Any) -> bool:
        return isinstance(node, kind)

    changed: OptState = jax.tree.map(lambda x: state if is_it(x) else x, opt_state, is_leaf=is_it)
    return changed
