"""Sparse from the first step to the last: masks that move, with a constant number of weights.

Dettmers and Zettlemoyer 2019, "Sparse Networks from Scratch", https://arxiv.org/abs/1907.04840
(sparse momentum), the pruning under Spike-Thrift: Kundu et al. 2021, WACV, pp. 3953-3962. A step
is that of any optimizer, confined to the masks (`sparse`); once an epoch `rewire` moves them:

    prune    n_l = ceil(p_l nnz_l) of the smallest |W| in each layer l
    share    sum_l n_l new weights over the layers, by s_l = mean of the growth score over kept ones
    grow     in each layer the positions of highest score; new weights start at 0

with the score `|m|`, the momentum (`by_momentum`). Two other methods are another score and no
sharing (`redistribute=False`): SET, random (`at_random`), Mocanu et al. 2018,
https://arxiv.org/abs/1707.04780; RigL, the last gradient (`by_gradient`), Evci et al. 2020,
https://arxiv.org/abs/1911.11134. The gradient must be that at the stored weights, zeros included,
never through `mask * W`: that one is blind where something could grow.

Where the sources differ:
- The authors' code starts from Bernoulli masks and rounds quotas up, then repairs the drift over
  the next epochs; ours starts from exact counts and splits by largest remainders, so the total is
  constant.
- SET prunes the smallest positive and the largest negative weights; ours the smallest magnitudes.
- Spike-Thrift's text is not public, its rule is taken to be the code of sparse momentum.

Letters in shapes: `...` any shape, `L` layers.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsnn import tree
from jaxsnn.arrays import (
    Array,
    Number,
    as_stored,
    check_range,
    check_whole,
    safe_divide,
)
from jaxsnn.compress.distributions import apportion
from jaxsnn.compress.ranking import top_count
from jaxsnn.compress.states import exchange, find, is_placeholder, require_params
from jaxsnn.compress.transforms import ConfineState, confine
from jaxsnn.errors import UserError

__all__ = [
    "Growth",
    "SparseState",
    "at_random",
    "by_gradient",
    "by_momentum",
    "momentum",
    "prune_rate",
    "rewire",
    "sparse",
]

FILLED = 0.99  # share of a layer's free positions that may grow, from the authors' code
OptState = TypeVar("OptState")
NEARLY_DENSE = 0.2  # sparsity below which a layer that gains loses no more than it has zeros

# ----------------------------------------------------------------------------------------------
# the transformation


class SparseState(NamedTuple):
    """State of `sparse`."""

    count: Array  # type: ignore[assignment]  # updates made so far, int32 []
    inner: optax.OptState  # of the wrapped optimizer, with its momentum
    confined: ConfineState  # the masks of the moment
    gradient: dict[str, Array]  # leaf name -> last gradient, like the leaf; empty unless kept


def sparse(
    inner: optax.GradientTransformation, masks: Any, *, keep_gradient: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Confine an optimizer to masks that `rewire` can move.

    The inner optimizer sees the whole gradient, so that its momentum is dense and knows what a
    missing weight would do; then, as in `confine`, the weights land exactly on zero outside the
    masks. `phase.rewired` moves them after each epoch.

    >>> optimizer = sparse(optax.sgd(1.0, momentum=0.9), {"w": jnp.asarray([True, False])})
    >>> params = {"w": jnp.asarray([2.0, 0.0])}
    >>> updates, state = optimizer.update({"w": jnp.ones(2)}, optimizer.init(params), params)
    >>> optax.apply_updates(params, updates)["w"].tolist(), momentum(state)["w"].tolist()
    ([1.0, 0.0], [1.0, 1.0])

    Args:
      inner: the optimizer to wrap, with weight decay and learning rate.
      masks: tree like the parameters; scalar masks never move, the others have their leaf's shape.
      keep_gradient: keep the last gradient of the masked leaves, for `by_gradient`.

    Returns:
      A transformation with a `SparseState`.

    Raises:
      UserError: at `init`, if masks and parameters do not fit; the message names the leaf.
    """
    inner, confined = optax.with_extra_args_support(inner), confine(masks)

    def init_fn(params: Any) -> SparseState:
        state, count = confined.init(params), jnp.zeros([], jnp.int32)
        if is_placeholder(params):
            return SparseState(count, inner.init(params), state, params if keep_gradient else {})
        leaves = tree.named_leaves(params)
        moving = _moving(state)
        for name, mask in moving.items():
            if mask.shape != leaves[name].shape:
                raise UserError(
                    f"the mask of {name!r} has shape {mask.shape}; to be rewired it needs the "
                    f"leaf's own, {leaves[name].shape}"
                )
        kept = {name: jnp.zeros_like(leaves[name]) for name in moving if keep_gradient}
        return SparseState(count, inner.init(params), state, kept)

    def update_fn(
        updates: Any, state: SparseState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, SparseState]:
        require_params(params, "sparse")
        gradients = tree.named_leaves(updates)
        steps, inner_state = inner.update(updates, state.inner, params, **extra_args)
        steps, masks_state = confined.update(steps, state.confined, params)
        kept = {name: gradients[name] for name in state.gradient}
        return steps, SparseState(optax.safe_increment(state.count), inner_state, masks_state, kept)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _moving(state: ConfineState) -> dict[str, Array]:
    """Return leaf name -> mask, of the masks that can move."""
    return {name: mask for name, mask in tree.named_leaves(state.masks).items() if mask.ndim}


# ----------------------------------------------------------------------------------------------
# growth rules

Growth = Callable[[SparseState, Array | None], Mapping[str, Array]]
"""State, key -> score >= 0 of each entry of the masked leaves `[...]`; the highest grow."""


def momentum(opt_state: optax.OptState) -> dict[str, Array]:
    """Return the momentum that an optimizer keeps: leaf name -> `[...]`.

    That of SGD is its trace `m <- mu m + g`, that of Adam `mu / (sqrt(nu) + 1e-8)`.

    >>> momentum(optax.adam(1e-3).init({"w": jnp.ones(2)}))["w"].tolist()
    [0.0, 0.0]

    Raises:
      UserError: unless the state has exactly one momentum, of SGD or of Adam's family.
    """
    kinds = (optax.TraceState, optax.ScaleByAdamState, optax.ScaleByAmsgradState)
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, kinds))
    found = [node for node in nodes if isinstance(node, kinds)]
    if len(found) != 1:
        raise UserError(
            f"growth by momentum needs an optimizer with one momentum, found {len(found)}; "
            "use optax.sgd(rate, momentum=0.9) or optax.adam(rate)"
        )
    if isinstance(found[0], optax.TraceState):
        return tree.named_leaves(found[0].trace)
    scaled = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + 1e-8), found[0].mu, found[0].nu)
    return tree.named_leaves(scaled)


def by_momentum(state: SparseState, key: Array | None = None) -> dict[str, Array]:
    """Score by `|m|`, the momentum of the wrapped optimizer: sparse momentum.

    >>> optimizer = sparse(optax.adam(0.1), {"w": jnp.asarray([True, False])})
    >>> by_momentum(optimizer.init({"w": jnp.ones(2)}))["w"].tolist()
    [0.0, 0.0]
    """
    del key
    return {name: jnp.abs(m) for name, m in momentum(state.inner).items()}


def by_gradient(state: SparseState, key: Array | None = None) -> dict[str, Array]:
    """Score by `|g|`, the last gradient: RigL. It needs `sparse(..., keep_gradient=True)`.

    >>> masks = {"w": jnp.asarray([True, False])}
    >>> state = sparse(optax.sgd(0.1), masks, keep_gradient=True).init({"w": jnp.ones(2)})
    >>> by_gradient(state)["w"].tolist()
    [0.0, 0.0]

    Raises:
      UserError: if no gradient was kept.
    """
    del key
    if not state.gradient:
        raise UserError("growth by gradient needs sparse(..., keep_gradient=True)")
    return {name: jnp.abs(g) for name, g in state.gradient.items()}


def at_random(state: SparseState, key: Array | None = None) -> dict[str, Array]:
    """Score by chance: SET. It needs `rewire(..., key=...)`.

    >>> state = sparse(optax.sgd(0.1), {"w": jnp.asarray([True, False])}).init({"w": jnp.ones(2)})
    >>> at_random(state, jax.random.key(0))["w"].shape
    (2,)

    Raises:
      UserError: if there is no key.
    """
    if key is None:
        raise UserError("growth at random needs a key: rewire(..., key=key)")
    moving = _moving(state.confined)
    return {
        name: jax.random.uniform(jax.random.fold_in(key, i), mask.shape, jnp.float32)
        for i, (name, mask) in enumerate(moving.items())
    }


# ----------------------------------------------------------------------------------------------
# rewiring


def prune_rate(steps: int, initial: Number = 0.5, final: float = 0.005) -> optax.Schedule:
    """Return the cosine from `initial` to `final`, the share of weights that `rewire` replaces.

        p(k) = p_1 + (p_0 - p_1) (1 + cos(pi k / K)) / 2

    >>> rate = prune_rate(100, 0.5, 0.0)
    >>> [round(float(rate(count)), 2) for count in (0, 50, 100)]
    [0.5, 0.25, 0.0]

    Args:
      steps: K, the count at which it ends, at least 1.
      initial: `p_0`, in (0, 1], may be traced.
      final: `p_1`, in [0, 1].
    """
    check_whole("steps", steps, 1, float("inf"))
    check_range("initial prune rate", initial, 0, 1, open_low=True)
    check_range("final prune rate", final, 0, 1)
    return optax.cosine_decay_schedule(initial, steps, alpha=final / initial)


def rewire(
    opt_state: OptState,
    params: Any,
    rate: Number,
    *,
    growth: Growth = by_momentum,
    redistribute: bool = True,
    key: Array | None = None,
) -> tuple[OptState, Any]:
    """Prune the smallest weights and grow as many where the score is highest, once an epoch.

    The number of weights stays the same to the last one, all in one compiled program of fixed
    shapes. What has just been pruned may grow again, from zero; momentum stays where it is. In
    each layer

        p_l = p, or min(p, sparsity_l) if sparsity_l < 0.2 and the layer's share is above the mean
        n_l = min(ceil(p_l nnz_l), nnz_l - 1)

    so that no layer loses its last weight. A layer may fill 99 % of its free positions, what it
    cannot take is spread evenly; if all layers together cannot take it so, they may fill up.

    >>> optimizer = sparse(optax.sgd(0.1, momentum=0.9), {"w": jnp.asarray([True, True, False])})
    >>> params = {"w": jnp.asarray([2.0, 1.0, 0.0])}
    >>> gradient = {"w": jnp.asarray([0.0, 0.0, 5.0])}
    >>> _, state = optimizer.update(gradient, optimizer.init(params), params)
    >>> state, params = rewire(state, params, 0.5, redistribute=False)
    >>> state.confined.masks["w"].tolist(), params["w"].tolist()
    ([True, False, True], [2.0, 0.0, 0.0])

    Args:
      opt_state: of an optimizer with one `sparse`.
      params: tree of the weights.
      rate: `p`, in [0, 1], may be traced; see `prune_rate`. 0 changes nothing.
      growth: scores what could grow; `by_momentum`, `by_gradient`, `at_random` or other.
      redistribute: share the new weights by the layers' scores; if not, each layer gets back as
        many as it lost.
      key: for `at_random`.

    Returns:
      The state with new masks, and the weights, zero outside of them and where they are new.

    Raises:
      UserError: if the rate is out of range, or the growth rule lacks what it needs.
    """
    check_range("prune rate", rate, 0, 1)
    state = find(opt_state, SparseState)
    state, params = _rewire(state, params, rate, key, growth, redistribute)
    return exchange(opt_state, state), params


@partial(jax.jit, static_argnums=(4, 5))  # see `top_count`
def _rewire(
    state: SparseState,
    params: Any,
    rate: Number,
    key: Array | None,
    growth: Growth,
    redistribute: bool,
) -> tuple[SparseState, Any]:
    leaves, masks = tree.named_leaves(params), _moving(state.confined)
    scores = {name: as_stored(growth(state, key)[name]) for name in masks}
    sizes = np.asarray([mask.size for mask in masks.values()], np.int32)
    alive = jnp.stack([jnp.sum(mask, dtype=jnp.int32) for mask in masks.values()])
    mean = [jnp.sum(scores[x], where=mask) for x, mask in masks.items()]
    mean_score = safe_divide(jnp.stack(mean), alive)
    rates = _layer_rates(rate, mean_score, alive, sizes) if redistribute else rate
    removed = jnp.ceil(rates * alive.astype(jnp.float32)).astype(jnp.int32)
    removed = jnp.clip(removed, 0, jnp.maximum(alive - 1, 0))
    grown = _quotas(removed, mean_score, removed - alive + sizes) if redistribute else removed
    new_masks, new_leaves = {}, {}
    for i, (name, mask) in enumerate(masks.items()):
        magnitude = as_stored(jnp.abs(leaves[name]))
        kept = top_count(jnp.where(mask, magnitude, -jnp.inf), (alive - removed)[i])
        born = top_count(jnp.where(kept, -jnp.inf, scores[name]), grown[i])
        new_masks[name] = kept | born
        new_leaves[name] = jnp.where(kept, leaves[name], jnp.zeros_like(leaves[name]))
    confined = ConfineState(tree.substitute(state.confined.masks, new_masks))
    return state._replace(confined=confined), tree.substitute(params, new_leaves)


def _layer_rates(rate: Number, mean_score: Array, alive: Array, sizes: np.ndarray) -> Array:
    """Return the prune rate of each layer, float32 `[L]`: see `rewire`."""
    sparsity = 1 - alive.astype(jnp.float32) / sizes
    gains = mean_score * len(sizes) > jnp.sum(mean_score)
    return jnp.where((sparsity < NEARLY_DENSE) & gains, jnp.minimum(sparsity, rate), rate)


def _quotas(removed: Array, mean_score: Array, free: Array) -> Array:
    """Return how many weights each layer grows, int32 `[L]`, `sum(removed)` together.

    Where no score is above zero (before the first step) each layer gets back what it lost.
    """
    total = jnp.sum(removed)
    shares = jnp.where(jnp.sum(mean_score) > 0, mean_score, removed.astype(jnp.float32))
    soft = jnp.floor(FILLED * free.astype(jnp.float32)).astype(jnp.int32)
    return apportion(total, shares, jnp.where(jnp.sum(soft) >= total, soft, free))
