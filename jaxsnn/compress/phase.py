"""The noun `Phase`: an optimizer, and what belongs before its first and after its last step.

A phase is what a training loop needs to know of a way of compression. It runs so:

    opt_state = phase.optimizer.init(params)      # on the weights as they come
    params = phase.begin(params)                  # what the network shows from the first step on
    ...                                           # steps of phase.optimizer
    if phase.after_epoch is not None:             # after each epoch
        params, opt_state = phase.after_epoch(params, opt_state)
    if phase.observe is not None:
        log(phase.observe(params, opt_state))
    params, steps = phase.finish(params, opt_state)

`train.fit` does this for you. Everything in a phase is traceable: recipes may have traced numbers,
and `begin`, `after_epoch`, `finish` run inside `jit` and `vmap`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxsnn import tree
from jaxsnn.arrays import Array, Number
from jaxsnn.compress.codes import Step
from jaxsnn.compress.gradients import GradientRule
from jaxsnn.compress.gradual import GradualState, prune_gradually
from jaxsnn.compress.latent_weights import free_params, latent
from jaxsnn.compress.projections import Recipe, land, project
from jaxsnn.compress.rewiring import Growth, SparseState, by_momentum, prune_rate, rewire, sparse
from jaxsnn.compress.states import find
from jaxsnn.compress.transforms import PullState, confine, pull, residuals
from jaxsnn.errors import UserError

__all__ = [
    "Finished",
    "Phase",
    "as_phase",
    "gradually_pruned",
    "plain_optimizer",
    "pruned",
    "pulled",
    "quantized",
    "rewired",
]


class Finished(NamedTuple):
    """What a phase leaves behind."""

    params: Any  # the weights to keep, exactly in their sets
    steps: dict[str, Step]  # leaf name -> step, of the leaves that stand on a grid


def _as_they_are(params: Any) -> Any:
    """Return the weights as they are."""
    return params


def _unchanged(params: Any, opt_state: optax.OptState) -> Finished:
    """Return the weights as they are, on no grid."""
    del opt_state
    return Finished(params, {})


@dataclass(frozen=True, eq=False)
class Phase:
    """An optimizer with what belongs before its first and after its last step.

    >>> phase = Phase(optax.adam(1e-3), begin=lambda params: jax.tree.map(jnp.sign, params))
    >>> phase.begin({"w": jnp.asarray([3.0, -0.5])})["w"].tolist()
    [1.0, -1.0]

    Attributes:
      optimizer: makes the updates. Its `init` takes the weights before `begin`.
      begin: `params -> params`, before the first step and after `optimizer.init`.
      finish: `(params, opt_state) -> Finished`, after the last step.
      observe: `(params, opt_state) -> {name: number}`, for the log after each epoch.
      after_epoch: `(params, opt_state) -> (params, opt_state)`, to move masks.
    """

    optimizer: optax.GradientTransformationExtraArgs
    begin: Callable[[Any], Any] = _as_they_are
    finish: Callable[[Any, optax.OptState], Finished] = _unchanged
    observe: Callable[[Any, optax.OptState], dict[str, Array]] | None = None
    after_epoch: Callable[[Any, optax.OptState], tuple[Any, optax.OptState]] | None = None


def as_phase(optimizer: Phase | optax.GradientTransformation, *, name: str = "optimizer") -> Phase:
    """Return a phase as it is, and a plain optax optimizer as a phase that adds nothing.

    >>> as_phase(optax.adam(1e-3)).begin({"w": 1.0})
    {'w': 1.0}

    Args:
      optimizer: a `Phase`, or any optax transformation.
      name: of the argument, for the message.

    Raises:
      UserError: if it is neither.
    """
    if isinstance(optimizer, Phase):
        return optimizer
    if isinstance(optimizer, optax.GradientTransformation):
        return Phase(optax.with_extra_args_support(optimizer))
    raise UserError(
        f"{name} must be an optax optimizer or a Phase such as compress.quantized(optax.adam(1e-3),"
        f" recipe), found {type(optimizer).__name__}"
    )


def plain_optimizer(inner: Any, *, name: str = "inner") -> optax.GradientTransformationExtraArgs:
    """Return the argument of a factory if it is a plain optax optimizer.

    Raises:
      UserError: if it is not, but a phase for instance.
    """
    if not isinstance(inner, optax.GradientTransformation):
        raise UserError(f"{name} must be an optax optimizer, found {type(inner).__name__}")
    return optax.with_extra_args_support(inner)


def quantized(
    inner: optax.GradientTransformation,
    recipe: Recipe,
    *,
    straight_through: GradientRule | None = None,
    keep_free: bool = False,
) -> Phase:
    """Train quantized weights through free copies (`latent`).

    >>> from jaxsnn.compress import uniform_grid
    >>> params = {"w": jnp.asarray([0.3, -0.1, 0.02])}
    >>> phase = quantized(optax.sgd(0.1), {"w": uniform_grid(3)})
    >>> state = phase.optimizer.init(params)
    >>> params, steps = phase.finish(phase.begin(params), state)
    >>> steps["w"].encode(params["w"]).codes.tolist()
    [3, -1, 0]

    Args:
      inner: the optimizer of the free copies.
      recipe: pattern -> projection, a grid in most cases.
      straight_through: rule for the gradient, see `latent`.
      keep_free: finish with the free copies, to go on from, and without steps.

    Returns:
      A phase that shows the projected weights from the first step on and finishes with the exact
      projection of the free copies, with the step of each leaf on a grid.

    Raises:
      UserError: if `inner` is no optimizer; at `init`, if a pattern matches no leaf or a set does
        not suit its leaf.
    """

    def begin(params: Any) -> Any:
        return project(params, recipe)

    def finish(params: Any, opt_state: optax.OptState) -> Finished:
        free = free_params(opt_state, params)
        if keep_free:
            return Finished(free, {})
        return Finished(*land(free, recipe))

    return Phase(
        latent(plain_optimizer(inner), recipe, straight_through=straight_through), begin, finish
    )


def pruned(inner: optax.GradientTransformation, masks: Any) -> Phase:
    """Train what is left: weights outside the masks are zero and stay so (`confine`).

    >>> phase = pruned(optax.adam(1e-3), {"w": jnp.asarray([True, False])})
    >>> phase.begin({"w": jnp.asarray([3.0, 1.0])})["w"].tolist()
    [3.0, 0.0]

    Args:
      inner: the optimizer.
      masks: tree like the parameters of boolean masks, as `prune` and `masks` give them.

    Returns:
      A phase that zeroes the weights outside the masks at its start.

    Raises:
      UserError: if `inner` is no optimizer; at `init`, if masks and parameters do not fit.
    """
    mask_of = tree.named_leaves(masks)

    def begin(params: Any) -> Any:
        return _inside(mask_of, params)

    return Phase(optax.chain(plain_optimizer(inner), confine(masks)), begin)


@jax.jit
def _inside(mask_of: dict[str, Array], params: Any) -> Any:
    """Return parameters that are zero outside of masks, as one program."""

    def cut(name: str, leaf: Array) -> Array:
        kept = jnp.broadcast_to(jnp.asarray(mask_of[name], bool), leaf.shape)
        return jnp.where(kept, leaf, jnp.zeros_like(leaf))

    return tree.map_named(cut, params)


def pulled(
    inner: optax.GradientTransformation,
    recipe: Recipe,
    penalty: Number | optax.Schedule,
    *,
    every: int,
    mode: Literal["squared", "norm"] = "squared",
    masks: Any = None,
) -> Phase:
    """Pull weights softly towards their sets (`pull`, ADMM).

    A hard step comes afterwards: `project` or `prune`. The log gets `primal/LEAF` and `dual/LEAF`,
    the residuals, and `penalty`.

    >>> from jaxsnn.compress import keep_largest
    >>> phase = pulled(optax.adam(1e-3), {"w": keep_largest(0.5)}, 0.01, every=100)
    >>> params = {"w": jnp.asarray([3.0, 4.0])}
    >>> seen = phase.observe(params, phase.optimizer.init(params))
    >>> round(float(seen["primal/w"]), 3)
    0.6

    Args:
      inner: the optimizer of the loss with the penalty.
      recipe: pattern -> projection.
      penalty: `rho`, a number or a schedule of the update count.
      every: updates between dual steps, at least 1.
      mode: "squared", or "norm" for the penalty of the ADMM authors' script.
      masks: tree of masks to stay inside, from a pruning before.

    Returns:
      A phase that leaves the weights near their sets; `prune` or `project` is the hard step.

    Raises:
      UserError: as `pull`, and if `inner` is no optimizer.
    """
    inside = () if masks is None else (confine(masks),)
    optimizer = optax.chain(
        pull(recipe, penalty, every, mode=mode), plain_optimizer(inner), *inside
    )

    def observe(params: Any, opt_state: optax.OptState) -> dict[str, Array]:
        found = residuals(opt_state, params)
        primal = {f"primal/{name}": each.primal for name, each in found.items()}
        dual = {f"dual/{name}": each.dual for name, each in found.items()}
        return primal | dual | {"penalty": find(opt_state, PullState).penalty}

    return Phase(optimizer, observe=observe)


def rewired(
    inner: optax.GradientTransformation,
    masks: Any,
    steps: int,
    *,
    growth: Growth = by_momentum,
    redistribute: bool = True,
    initial: Number = 0.5,
    final: float = 0.005,
    keep_gradient: bool = False,
    key: Array | None = None,
) -> Phase:
    """Train sparse from the first step on, with masks that move (`rewire`).

    The share of weights that is replaced falls along `rewiring.prune_rate`. After the last epoch
    nothing moves any more: what would grow then would stay zero. The log gets `prune_rate` and
    `density/LEAF`.

    >>> masks = {"w": jnp.asarray([True, True, False, False])}
    >>> phase = rewired(optax.sgd(0.1, momentum=0.9), masks, 100)
    >>> phase.begin({"w": jnp.ones(4)})["w"].tolist()
    [1.0, 1.0, 0.0, 0.0]

    Args:
      inner: the optimizer, with one momentum for `by_momentum`.
      masks: tree of masks to start from; see `starting`.
      steps: updates of the whole phase, at least 1.
      growth: scores what could grow.
      redistribute: share the new weights by the layers' scores.
      initial: share of weights that is replaced at first, in (0, 1], may be traced.
      final: share at the end, in [0, 1].
      keep_gradient: keep the last gradient, for `by_gradient`.
      key: for `at_random`; each epoch draws from another part of it.

    Returns:
      A phase whose masks move after each epoch, the number of weights staying the same.

    Raises:
      UserError: if a number is out of range; at `init`, if masks and parameters do not fit.
    """
    rate = prune_rate(steps, initial, final)
    optimizer = sparse(plain_optimizer(inner), masks, keep_gradient=keep_gradient)

    def after_epoch(params: Any, opt_state: optax.OptState) -> tuple[Any, optax.OptState]:
        count = find(opt_state, SparseState).count

        def move() -> tuple[Any, optax.OptState]:
            drawn = None if key is None else jax.random.fold_in(key, count)
            state, others = rewire(
                opt_state, params, rate(count), growth=growth, redistribute=redistribute, key=drawn
            )
            return others, state

        moved: tuple[Any, optax.OptState] = jax.lax.cond(
            count < steps, move, lambda: (params, opt_state)
        )
        return moved

    def observe(params: Any, opt_state: optax.OptState) -> dict[str, Array]:
        del params
        state = find(opt_state, SparseState)
        return {"prune_rate": rate(state.count)} | _densities(
            tree.named_leaves(state.confined.masks)
        )

    return Phase(optimizer, pruned(inner, masks).begin, observe=observe, after_epoch=after_epoch)


def gradually_pruned(
    inner: optax.GradientTransformation,
    final: Mapping[str, Number],
    *,
    begin: Number,
    end: Number,
    every: Number,
    initial: Number = 0.0,
) -> Phase:
    """Prune while training, along a cubic ramp of sparsity (`prune_gradually`).

    The log gets `density/LEAF`.

    >>> phase = gradually_pruned(optax.adam(1e-3), {"w": 0.9}, begin=0, end=1000, every=100)
    >>> params = {"w": jnp.ones(10)}
    >>> float(phase.observe(params, phase.optimizer.init(params))["density/w"])
    1.0

    Args:
      inner: the optimizer.
      final: pattern -> sparsity at the end of the ramp, in [0, 1], may be traced.
      begin: update of the first pruning, at least 0, may be traced.
      end: update of the last one, a multiple of `every` after `begin`, may be traced.
      every: updates between prunings, at least 1, may be traced.
      initial: sparsity of the first pruning, in [0, 1], may be traced.

    Returns:
      A phase at whose end the selected leaves have the final sparsity, if it lasts until `end`.

    Raises:
      UserError: as `prune_gradually`.
    """
    narrowing = prune_gradually(final, begin=begin, end=end, every=every, initial=initial)

    def observe(params: Any, opt_state: optax.OptState) -> dict[str, Array]:
        del params
        return _densities(find(opt_state, GradualState).masks)

    return Phase(optax.chain(plain_optimizer(inner), narrowing), observe=observe)


def _densities(masks: Mapping[str, Array]) -> dict[str, Array]:
    """Return the share that each mask with axes keeps."""
    return {
        f"density/{name}": jnp.mean(mask, dtype=jnp.float32)
        for name, mask in masks.items()
        if jnp.ndim(mask)
    }
