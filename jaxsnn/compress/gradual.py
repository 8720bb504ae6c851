"""Gradual magnitude pruning: masks that narrow while a network trains, until they stay.

Zhu and Gupta 2017, "To prune, or not to prune", https://arxiv.org/abs/1710.01878. With the first
pruning at update `t_0`, one every `dt` updates and `n` of them in the ramp (Eq. 1),

    s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3        t = t_0, t_0 + dt, ..., t_0 + n dt

At each of these `t` the `1 - s_t` share of largest magnitude of each leaf stays, by exact count;
all weights outside the mask are zero from then on, and no gradient reaches them.

Where the sources differ: the authors' TensorFlow code takes the mask from a histogram of
magnitudes, ours from an exact count; theirs hides masked weights and can bring them back, here
they are zero and only come back where fewer non-zeros are left than the count allows.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxsnn import tree
from jaxsnn.arrays import Array, Number, check_range, check_whole, is_traced
from jaxsnn.compress.masks import land_inside
from jaxsnn.compress.projections import check_survivors
from jaxsnn.compress.ranking import top_fraction
from jaxsnn.compress.schedules import cubic_sparsity
from jaxsnn.compress.states import is_placeholder, require_params
from jaxsnn.errors import UserError

__all__ = ["GradualState", "prune_gradually"]


class GradualState(NamedTuple):
    """State of `prune_gradually`."""

    count: Array  # type: ignore[assignment]  # updates made so far, int32 []
    masks: dict[str, Array]  # leaf name -> what may be non-zero, bool, like the leaf


def prune_gradually(
    final: Mapping[str, Number],
    *,
    begin: Number,
    end: Number,
    every: Number,
    initial: Number = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Confine weights to masks that narrow along a cubic ramp of sparsity.

    Like `confine` it stands last in a chain: the update is `u` inside the mask and `-p` outside,
    so `p + u` is zero there. At the beginning of the updates `begin`, `begin + every`, ..., `end`,
    counted from 0, the masks are taken anew from the parameters given; before, everything is kept.

    >>> optimizer = optax.chain(
    ...     optax.sgd(0.1), prune_gradually({"w": 0.5}, begin=0, end=4, every=2)
    ... )
    >>> params = {"w": jnp.asarray([4.0, -3.0, 2.0, 1.0])}
    >>> state = optimizer.init(params)
    >>> for _ in range(5):
    ...     updates, state = optimizer.update({"w": jnp.zeros(4)}, state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> params["w"].tolist()
    [4.0, -3.0, 0.0, 0.0]

    Args:
      final: pattern -> sparsity `s_f` at the end of the ramp, in [0, 1], may be traced.
      begin: update `t_0` of the first pruning, whole, at least 0, may be traced.
      end: update `t_0 + n dt` of the last one, a multiple of `every` after `begin`, likewise.
      every: updates `dt` between prunings, whole, at least 1, likewise.
      initial: sparsity `s_i` of the first pruning, in [0, 1], may be traced.

    Returns:
      A transformation with a `GradualState`.

    Raises:
      UserError: if a number is out of range; at `init`, if a pattern matches no leaf or a leaf
        would be left without any weight; the message names it.
    """
    check_whole("every", every, 1, float("inf"))
    check_whole("begin", begin, 0, float("inf"))
    check_range("initial sparsity", initial, 0, 1)
    known = not any(map(is_traced, (begin, end, every)))
    if known and (end <= begin or (end - begin) % every):
        raise UserError(f"end must be begin {begin} plus a multiple of every {every}, found {end}")

    def init_fn(params: Any) -> GradualState:
        count = jnp.zeros([], jnp.int32)
        if is_placeholder(params):
            return GradualState(count, params)
        leaves = tree.named_leaves(params)
        for name, sparsity in tree.match(final, params).items():
            check_range(f"sparsity of {name!r}", sparsity, 0, 1)
            check_survivors(sparsity, name, leaves[name])
        kept = {name: jnp.ones(leaves[name].shape, bool) for name in tree.match(final, params)}
        return GradualState(count, kept)

    def update_fn(
        updates: Any, state: GradualState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, GradualState]:
        del extra_args
        require_params(params, "prune_gradually")
        leaves, finals = tree.named_leaves(params), tree.match(final, params)

        def narrowed() -> dict[str, Array]:
            return {
                name: top_fraction(
                    jnp.abs(leaves[name]),
                    cubic_sparsity(initial, sparsity, begin, end)(state.count),
                )
                for name, sparsity in finals.items()
            }

        count = state.count
        due = (count >= begin) & (count <= end) & ((count - begin) % every == 0)
        masks = jax.lax.cond(due, narrowed, lambda: state.masks)
        landed = land_inside(updates, masks, params)
        return landed, GradualState(optax.safe_increment(count), masks)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
