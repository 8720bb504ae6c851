"""Two ways to hold weights in a set: pull them softly, or confine them.

Each is an optax transformation that acts on any pytree. `pull` goes before the optimizer in a
chain, `confine` after it, last; a third one, `latent_weights.latent`, goes around it. A recipe maps
patterns of leaf names to projections; leaves that it does not match are not touched and not stored.
`phase.py` has each as a `Phase`, with what comes before the first step and after the last.

In other people's loops:
- `nnx.Optimizer`, `optax.masked`, `optax.partition`, `optax.MultiSteps`, `optax.apply_if_finite`:
  as any transformation. `find`, `snap` and the like take the state of the whole optimizer.
- `optax.inject_hyperparams`: name the arguments that are functions or switches,
  `inject_hyperparams(pull, static_args=("recipe", "every", "mode"))`, and for `latent`
  `static_args=("inner", "recipe", "straight_through")`.
- `optax.tree_map_params(optimizer, f, state)`: `f` sees the stored leaves, so no trees in `rest`.
- `optax.contrib.schedule_free` and `optax.ema` go inside, `latent(schedule_free(...), recipe)`
  and `chain(ema(...), confine(masks))`: outside they would change updates that land exactly where
  they should. `schedule_free(chain(..., confine(masks)))` keeps zeros that are there.
"""

from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax

from jaxsnn import tree
from jaxsnn.arrays import Array, Number, check_range, check_whole, safe_divide
from jaxsnn.compress.masks import check_masks, land_inside
from jaxsnn.compress.projections import (
    Recipe,
    resolve,
)
from jaxsnn.compress.states import exchange, find, is_placeholder, require_params
from jaxsnn.errors import UserError

__all__ = [
    "ConfineState",
    "Convergence",
    "PullState",
    "confine",
    "dual_step",
    "pull",
    "residuals",
    "set_penalty",
]

OptState = TypeVar("OptState")

NORM_EPSILON = 1e-12  # added to a norm that divides: the slope of ||X|| at 0 is 0, not NaN


class PullState(NamedTuple):
    """State of `pull`."""

    count: Array  # type: ignore[assignment]  # updates made so far, int32 []
    penalty: Array  # rho in force since the last dual step, float32 []
    auxiliary: dict[str, Array]  # leaf name -> Z, a point of the set, like the leaf
    dual: dict[str, Array]  # leaf name -> U, the scaled dual (multiplier / rho), like the leaf
    movement: Array  # rho ||Z - old Z|| of the last dual step, float32 [L], leaves sorted by name


class Convergence(NamedTuple):
    """How far ADMM is from convergence on a leaf; all three float32 []."""

    primal: Array  # ||W - Z|| / ||W||: from the set; falls to 0
    dual: Array  # rho ||Z - old Z||: how far the last dual step moved; falls to 0
    dual_norm: Array  # ||U|| / ||W||: grows without bound if the set is out of reach


def pull(
    recipe: Recipe,
    penalty: Number | optax.Schedule,
    every: int | None,
    *,
    mode: Literal["squared", "norm"] = "squared",
) -> optax.GradientTransformationExtraArgs:
    """Pull weights softly towards a set, by the method of multipliers (ADMM).

    To minimise `f(W)` subject to `W in S`, keep a copy `Z in S` and a scaled dual `U`, and repeat

        W <- a few optimizer steps on f(W) + (rho / 2) ||W - Z + U||^2
        Z <- Proj_S(W + U)
        U <- U + W - Z

    The update adds the penalty's gradient, `g + rho (W - Z + U)`, so `pull` stands before the
    optimizer in the chain. `Z` and `U` start at `Proj_S(W)` and 0. At the beginning of update
    number `every`, `2 * every`, ..., counted from 0, the dual step is made from the parameters
    given. If the penalty has changed by then, `U` is multiplied by `rho_old / rho_new`, which
    leaves the multiplier `rho U` as it was.

    Weights only come near the set: project them at the end (`project`).

    >>> from jaxsnn.compress import keep_largest
    >>> optimizer = optax.chain(pull({"w": keep_largest(0.5)}, 0.5, every=100), optax.sgd(1.0))
    >>> params = {"w": jnp.asarray([3.0, 1.0])}  # the set keeps 3 and pulls 1 to 0
    >>> updates, state = optimizer.update({"w": jnp.zeros(2)}, optimizer.init(params), params)
    >>> optax.apply_updates(params, updates)["w"].tolist()
    [3.0, 0.5]

    Args:
      recipe: pattern -> projection; the leaves that it matches are pulled.
      penalty: `rho`, at least 0; a number, traced or not, or a schedule of the update count. It
        is read at the start and at each dual step.
      every: updates between dual steps, at least 1; or `None` for a caller that makes them with
        `dual_step` and `set_penalty`.
      mode: "squared" is the method; "norm" the unsquared penalty `rho ||W - Z + U||` of the
        authors' script, whose pull has constant length for each leaf.

    Returns:
      A transformation with a `PullState`.

    Raises:
      UserError: if a number is out of range or the mode unknown; at `init`, if a pattern matches no
        leaf or a set does not suit its leaf.

    References: Boyd et al. 2011, https://doi.org/10.1561/2200000016, section 3.1.1;
    Deng et al. 2019, https://arxiv.org/abs/1911.00822.
    """
    if every is not None:
        check_whole("every", every, 1, float("inf"))
    if mode not in ("squared", "norm"):
        raise UserError(f"mode must be 'squared' or 'norm', found {mode!r}")

    def penalty_at(count: Array) -> Array:
        return _checked_penalty(penalty(count) if callable(penalty) else penalty)

    def init_fn(params: Any) -> PullState:
        count = jnp.zeros([], jnp.int32)
        if is_placeholder(params):
            return PullState(count, penalty_at(count), params, params, jnp.zeros([0]))
        leaves = tree.named_leaves(params)
        projections = resolve(recipe, params)
        # A copy, because a caller may donate the parameters' own buffers.
        auxiliary = {name: jnp.array(proj(leaves[name])) for name, proj in projections.items()}
        return PullState(
            count=count,
            penalty=penalty_at(count),
            auxiliary=auxiliary,
            dual=jax.tree.map(jnp.zeros_like, auxiliary),
            movement=jnp.zeros(len(auxiliary), jnp.float32),
        )

    def update_fn(
        updates: Any, state: PullState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, PullState]:
        del extra_args
        require_params(params, "pull")
        if every is not None:
            state = jax.lax.cond(
                (state.count > 0) & (state.count % every == 0),
                lambda state: set_penalty(
                    dual_step(state, params, recipe), penalty_at(state.count)
                ),
                lambda state: state,
                state,
            )

        def add_penalty(name: str, gradient: Array, leaf: Array) -> Array:
            if name not in state.dual:
                return gradient
            gap = leaf - state.auxiliary[name] + state.dual[name]
            if mode == "norm":
                gap = gap / (_norm(gap) + NORM_EPSILON)
            return (gradient + state.penalty * gap).astype(gradient.dtype)

        count = optax.safe_increment(state.count)
        return tree.map_named(add_penalty, updates, params), state._replace(count=count)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def dual_step(opt_state: OptState, params: Any, recipe: Recipe) -> OptState:
    """Make the Z-step and the U-step: `Z <- Proj_S(W + U)`, then `U <- U + W - Z`.

    Args:
      opt_state: of an optimizer with one `pull`.
      params: tree of the weights.
      recipe: pattern -> projection, that of the `pull`.
    """
    state = find(opt_state, PullState)
    projections, leaves = resolve(recipe, params), tree.named_leaves(params)
    auxiliary, dual = {}, {}
    for name, projection in projections.items():
        moved = leaves[name] + state.dual[name]
        auxiliary[name] = projection(moved)
        dual[name] = moved - auxiliary[name]
    lengths = [_norm(auxiliary[name] - state.auxiliary[name]) for name in sorted(auxiliary)]
    movement = state.penalty * jnp.stack(lengths)
    changed = state._replace(auxiliary=auxiliary, dual=dual, movement=movement)
    return exchange(opt_state, changed)


def set_penalty(opt_state: OptState, penalty: Number) -> OptState:
    """Change the penalty and rescale the dual, so that the multiplier `rho U` stays.

    A new penalty of 0 sets the dual to 0.

    Args:
      opt_state: of an optimizer with one `pull`.
      penalty: `rho`, at least 0, may be traced.
    """
    state = find(opt_state, PullState)
    new = _checked_penalty(penalty)
    factor = safe_divide(state.penalty, new)
    dual = jax.tree.map(lambda u: (u * factor).astype(u.dtype), state.dual)
    return exchange(opt_state, state._replace(penalty=new, dual=dual))


def _checked_penalty(penalty: Number) -> Array:
    return jnp.array(check_range("penalty", penalty, 0, float("inf")), jnp.float32)


def residuals(opt_state: optax.OptState, params: Any) -> dict[str, Convergence]:
    """Measure each pulled leaf: its primal and dual residual, and the size of the dual.

    Before a hard step the primal residual should be below 1e-2.

    Args:
      opt_state: of an optimizer with one `pull`.
      params: tree of the weights.

    Returns:
      leaf name -> `Convergence`.
    """
    state, leaves = find(opt_state, PullState), tree.named_leaves(params)
    return {
        name: Convergence(
            safe_divide(_norm(leaves[name] - state.auxiliary[name]), _norm(leaves[name])),
            state.movement[i],
            safe_divide(_norm(state.dual[name]), _norm(leaves[name])),
        )
        for i, name in enumerate(sorted(state.auxiliary))
    }


def _norm(x: Array) -> Array:
    norm: Array = jnp.linalg.norm(x.astype(jnp.float32))
    return norm


class ConfineState(NamedTuple):
    """State of `confine`."""

    masks: Any  # tree like the parameters: what may be non-zero, bool, broadcastable to the leaf


def confine(masks: Any) -> optax.GradientTransformationExtraArgs:
    """Land exactly on zero outside the masks, whatever came before in the chain.

    The update becomes `u` inside the mask and `-p` outside, so `p + u` is zero there: momentum,
    weight decay and noise cannot revive a pruned weight. It must be last in the chain.

    >>> optimizer = optax.chain(optax.sgd(1.0), confine({"w": jnp.asarray([True, False])}))
    >>> params = {"w": jnp.asarray([3.0, 2.0])}
    >>> updates, state = optimizer.update({"w": jnp.ones(2)}, optimizer.init(params), params)
    >>> optax.apply_updates(params, updates)["w"].tolist()
    [2.0, 0.0]

    Args:
      masks: tree like the parameters of boolean masks, broadcastable to their leaves; a scalar
        `True` leaves a leaf alone. They are kept in the state and so in checkpoints.

    Returns:
      A transformation with a `ConfineState`.

    Raises:
      UserError: at `init`, if masks and parameters do not fit; the message names the leaf.
    """

    def init_fn(params: Any) -> ConfineState:
        own = masks
        if not is_placeholder(params):
            check_masks(masks, params)
            mask_of = tree.named_leaves(masks)
            if len(mask_of) > len(tree.named_leaves(params)):  # a part, as `optax.masked` shows it
                own = tree.map_named(lambda name, _: mask_of[name], params)
        return ConfineState(jax.tree.map(lambda mask: jnp.array(mask, bool), own))

    def update_fn(
        updates: Any, state: ConfineState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, ConfineState]:
        del extra_args
        require_params(params, "confine")
        return land_inside(updates, tree.named_leaves(state.masks), params), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
