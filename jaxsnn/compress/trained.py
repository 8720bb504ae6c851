"""Grids whose own numbers are trained with the weights: the optax transformation and its phase.

With free copies `V` and the numbers `n` of their grids (scales, widths) in the state, and the
visible parameters `W = Q(V; n)`,

    (V, n) <- (V, n) + updates of ((dQ/dV)^T grad f(W), (dQ/dn)^T grad f(W))        W <- Q(V; n)

It is `latent` with a grid that learns. What replaces the derivatives of `Q`, which is piecewise
constant in `V`, is the matter of the grids: `scales.LearnedScales`, `widths.LearnedWidths`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
import optax

from jaxsnn import tree
from jaxsnn.arrays import Array
from jaxsnn.compress.codes import Quantized, Step
from jaxsnn.compress.phase import Finished, Phase, plain_optimizer
from jaxsnn.compress.projections import check_mask, unknown_steps
from jaxsnn.compress.states import find, is_placeholder, require_params
from jaxsnn.errors import UserError

__all__ = [
    "Leaves",
    "TrainedGrids",
    "TrainedState",
    "check_inside",
    "inside",
    "train_grids",
    "trained_phase",
]

Leaves = dict[str, Array]
"""Leaf name -> array."""


class TrainedGrids(Protocol):
    """Grids of some leaves with numbers that learn; pure and traceable."""

    def select(self, params: Any) -> Leaves:
        """Return the leaves to quantize; raise a `UserError` by name for one that is not served."""

    def start(self, free: Leaves) -> Leaves:
        """Return the numbers to begin with, float32, of any shape."""

    def settle(self, free: Leaves, numbers: Leaves) -> Leaves:
        """Return the numbers, back in their range."""

    def quantize(self, free: Leaves, numbers: Leaves) -> dict[str, Quantized]:
        """Return the leaves on their grids."""

    def gradients(self, gradients: Leaves, free: Leaves, numbers: Leaves) -> tuple[Leaves, Leaves]:
        """Return the gradients for the free copies, and for the numbers."""


def check_inside(masks: Mapping[str, Array] | None, name: str, leaf: Array) -> None:
    """Raise a `UserError` by the leaf's name if masks are given and none fits it."""
    if masks is not None and name not in masks:
        raise UserError(f"masks: there is none for {name!r}; give a scalar True to keep all of it")
    if masks is not None:
        check_mask(masks[name], name, leaf)


def inside(masks: Mapping[str, Array] | None, name: str, leaf: Array) -> Array:
    """Return which weights may be non-zero, booleans in the shape of the leaf."""
    return jnp.broadcast_to(jnp.asarray(True) if masks is None else masks[name], leaf.shape)


class TrainedState(NamedTuple):
    """State of `train_grids`."""

    free: Leaves  # leaf name -> the free copy, like the leaf
    numbers: Leaves  # leaf name -> what its grid learns, float32
    inner: optax.OptState  # of the optimizer of the weights
    numbers_inner: optax.OptState  # of that of the numbers
    steps: dict[str, Step]  # leaf name -> step of its grid since the last update; zeros before


def train_grids(
    inner: optax.GradientTransformation,
    grids: TrainedGrids,
    numbers: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Train weights on grids together with the numbers of the grids.

    Args:
      inner: the optimizer of the free copies, and of leaves without a grid.
      grids: which leaves, and how.
      numbers: the optimizer of the grids' numbers; None for another `inner`.

    Returns:
      A transformation with a `TrainedState`.
    """
    inner = optax.with_extra_args_support(inner)
    other = inner if numbers is None else optax.with_extra_args_support(numbers)

    def init_fn(params: Any) -> TrainedState:
        if is_placeholder(params):
            none: Any = jnp.zeros([0])  # one leaf in the place of them all
            return TrainedState(params, none, inner.init(params), none, none)
        free = {name: jnp.array(leaf) for name, leaf in grids.select(params).items()}  # to donate
        begun = grids.start(free)
        steps = unknown_steps(lambda: _steps_of(grids.quantize(free, begun)))
        return TrainedState(free, begun, inner.init(params), other.init(begun), steps)

    def update_fn(
        updates: Any, state: TrainedState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, TrainedState]:
        require_params(params, "a learned grid")
        found = tree.named_leaves(updates)
        for_free, for_numbers = grids.gradients(
            {name: found[name] for name in state.free}, state.free, state.numbers
        )
        gradients, copies = tree.substitute(updates, for_free), tree.substitute(params, state.free)
        steps, inner_state = inner.update(gradients, state.inner, copies, **extra_args)
        moved = tree.named_leaves(optax.apply_updates(copies, steps))
        free = {name: moved[name] for name in state.free}
        moves, other_state = other.update(
            for_numbers, state.numbers_inner, state.numbers, **extra_args
        )
        settled = grids.settle(free, optax.apply_updates(state.numbers, moves))
        shown = grids.quantize(free, settled)

        def landing(name: str, step: Array, leaf: Array) -> Array:
            return shown[name].decode().astype(leaf.dtype) - leaf if name in shown else step

        after = TrainedState(free, settled, inner_state, other_state, _steps_of(shown))
        return tree.map_named(landing, steps, params), after

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _landed(params: Any, shown: dict[str, Quantized]) -> Finished:
    """Return the parameters with the quantized leaves in their places, and their steps."""
    leaves = tree.named_leaves(params)
    landed = {name: each.decode().astype(leaves[name].dtype) for name, each in shown.items()}
    return Finished(tree.substitute(params, landed), _steps_of(shown))


def _steps_of(shown: dict[str, Quantized]) -> dict[str, Step]:
    return {name: each.step for name, each in shown.items()}


def trained_phase(
    inner: optax.GradientTransformation,
    grids: TrainedGrids,
    numbers: optax.GradientTransformation | None = None,
    observe: Callable[[TrainedState], dict[str, Array]] | None = None,
) -> Phase:
    """Return the phase of `train_grids`: quantized from the first step to the last.

    Args:
      inner: the optimizer of the free copies.
      grids: which leaves, and how.
      numbers: the optimizer of the grids' numbers; None for another `inner`.
      observe: `TrainedState -> {name: number}`, for the log.
    """
    inner = plain_optimizer(inner)
    numbers = None if numbers is None else plain_optimizer(numbers, name="the grids' optimizer")

    def begin(params: Any) -> Any:
        free = grids.select(params)
        return _landed(params, grids.quantize(free, grids.start(free))).params

    def finish(params: Any, opt_state: optax.OptState) -> Finished:
        state = find(opt_state, TrainedState)
        return _landed(params, grids.quantize(state.free, state.numbers))

    def watch(params: Any, opt_state: optax.OptState) -> dict[str, Array]:
        del params
        return {} if observe is None else observe(find(opt_state, TrainedState))

    return Phase(train_grids(inner, grids, numbers), begin, finish, observe=watch)
