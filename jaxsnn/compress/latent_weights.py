"""A third way to hold weights in a set: show a projected copy, and train the free one behind it.

An optax transformation around the optimizer, for any pytree, with the notes of `transforms.py`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxsnn import tree
from jaxsnn.arrays import Array
from jaxsnn.compress.codes import Step
from jaxsnn.compress.gradients import GradientRule, pass_through
from jaxsnn.compress.projections import (
    Projection,
    Recipe,
    on_sets,
    project,
    resolve,
    unknown_steps,
)
from jaxsnn.compress.states import find, is_placeholder, require_params

__all__ = ["LatentState", "free_params", "latent", "snap"]


class LatentState(NamedTuple):
    """State of `latent`."""

    free: dict[str, Array]  # leaf name -> the free copy that the optimizer moves, like the leaf
    inner: optax.OptState  # state of the wrapped optimizer
    steps: dict[str, Step]  # leaf name -> step of its grid since the last update; zeros before


def latent(
    inner: optax.GradientTransformation,
    recipe: Recipe,
    *,
    straight_through: GradientRule | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Train projected weights through a free copy: quantization-aware training.

    With the free copy `V` in the state and the visible parameters `W = Proj_S(V)`,

        V <- V + inner(rule(grad f(W), V))        W <- Proj_S(V)

    so evaluation cannot forget to project. The projection's derivative is replaced by `rule`, the
    identity if not given: the straight-through estimator. The inner optimizer sees `V` as its
    parameters, so weight decay acts on the copy. Put a mask before a grid (`projections.restrict`)
    and pruned weights stay exactly zero.

        state = optimizer.init(params)        # the free copies are the given weights
        params = project(params, recipe)      # and from here on the weights are projected

    `phase.quantized` does both, and `snap` at last.

    >>> from jaxsnn.compress import binary_grid
    >>> recipe, params = {"w": binary_grid()}, {"w": jnp.asarray([0.5, -1.5])}
    >>> optimizer = latent(optax.sgd(1.0), recipe)
    >>> state, params = optimizer.init(params), project(params, recipe)
    >>> updates, state = optimizer.update({"w": jnp.asarray([2.0, 0.0])}, state, params)
    >>> optax.apply_updates(params, updates)["w"].tolist()  # the copy moved to [-1.5, -1.5]
    [-1.5, -1.5]

    Args:
      inner: the optimizer to wrap.
      recipe: pattern -> projection.
      straight_through: rule for the gradient, such as those of `compress.gradients`.

    Returns:
      A transformation with a `LatentState`.

    Raises:
      UserError: at `init`, if a pattern matches no leaf or a set does not suit its leaf.

    References: Bengio et al. 2013, https://arxiv.org/abs/1308.3432 (straight-through);
    Courbariaux et al. 2015, https://arxiv.org/abs/1511.00363 (the free copy).
    """
    inner = optax.with_extra_args_support(inner)
    rule = pass_through if straight_through is None else straight_through

    def init_fn(params: Any) -> LatentState:
        if is_placeholder(params):
            none: Any = jnp.zeros([0])  # one leaf in the place of all steps
            return LatentState(params, inner.init(params), none)
        projections, leaves = resolve(recipe, params), tree.named_leaves(params)
        free = {name: leaves[name] for name in projections}
        steps = unknown_steps(lambda: on_sets(projections, free)[1])
        copies = jax.device_put(free, may_alias=False)  # to donate
        return LatentState(copies, inner.init(params), steps)

    def update_fn(
        updates: Any, state: LatentState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, LatentState]:
        require_params(params, "latent")
        projections: dict[str, Projection] = resolve(recipe, params)

        def apply_rule(name: str, gradient: Array) -> Array:
            return rule(gradient, state.free[name]) if name in state.free else gradient

        gradients = tree.map_named(apply_rule, updates)
        copies = tree.substitute(params, state.free)
        steps, inner_state = inner.update(gradients, state.inner, copies, **extra_args)
        moved = tree.named_leaves(optax.apply_updates(copies, steps))
        free = {name: moved[name] for name in state.free}
        shown, grids = on_sets({name: projections[name] for name in free}, free)

        def land(name: str, step: Array, leaf: Array) -> Array:
            return shown[name] - leaf if name in shown else step

        return tree.map_named(land, steps, params), LatentState(free, inner_state, grids)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def free_params(opt_state: optax.OptState, params: Any) -> Any:
    """Return the parameters with the free copies in the place of the projected leaves.

    Args:
      opt_state: of an optimizer with one `latent`.
      params: tree of the visible weights.
    """
    return tree.substitute(params, find(opt_state, LatentState).free)


def snap(opt_state: optax.OptState, params: Any, recipe: Recipe) -> Any:
    """Return the exact projection of the free copies, for export.

    Visible weights are sums of updates and can be a rounding error off the grid; these are not.

    >>> from jaxsnn.compress import binary_grid
    >>> recipe, params = {"w": binary_grid()}, {"w": jnp.asarray([0.5, -1.5])}
    >>> snap(latent(optax.sgd(0.1), recipe).init(params), params, recipe)["w"].tolist()
    [1.0, -1.0]

    Args:
      opt_state: of an optimizer with one `latent`.
      params: tree of the visible weights.
      recipe: pattern -> projection, that of the `latent`.
    """
    return project(free_params(opt_state, params), recipe)
