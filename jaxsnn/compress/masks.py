"""From scores to masks: which weights and which channels stay.

A tree of masks has the structure of the parameters. Each mask is boolean and broadcastable to its
leaf; a scalar `True` means "not pruned".

Letters in shapes: `...` any shape, `O` outputs of a layer (the last axis of its leaves).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsnn import tree
from jaxsnn.alike import Shared, share
from jaxsnn.arrays import (
    Array,
    Number,
    check_range,
    is_traced,
    keep_count,
    safe_divide,
)
from jaxsnn.compress.projections import Scores, check_mask, check_survivors, nonzeros
from jaxsnn.compress.ranking import top_count, top_fraction
from jaxsnn.errors import UserError

__all__ = [
    "both",
    "check_masks",
    "kept_share",
    "expand_channels",
    "keep_fraction",
    "keep_global",
    "of_nonzeros",
    "starved_outputs",
]


def keep_fraction(params: Any, recipe: Mapping[str, Number], *, scores: Scores = jnp.abs) -> Any:
    """Keep the highest scores of each leaf, with exact counts.

    >>> keep_fraction({"w": jnp.asarray([1.0, -3.0, 2.0])}, {"w": 2 / 3})["w"].tolist()
    [False, True, False]

    Args:
      params: tree of the weights; or of ready scores, together with `scores=identity`.
      recipe: pattern -> sparsity, the share to remove, in [0, 1], may be traced.
      scores: leaf `[...]` -> importance of its entries `[...]`.

    Returns:
      Tree of masks: `[...]` for the matched leaves, scalar `True` for the others.

    Raises:
      UserError: if a pattern matches no leaf, or a concrete sparsity is out of range or would
        empty a leaf; the message names it.
    """
    sparsities, leaves = tree.match(recipe, params), tree.named_leaves(params)
    counts = {}
    for name, sparsity in sparsities.items():
        check_range(f"sparsity of {name!r}", sparsity, 0, 1)
        check_survivors(sparsity, name, leaves[name])
        counts[name] = keep_count(sparsity, leaves[name].size)
    found = _highest(share(scores), counts, {name: leaves[name] for name in counts})
    return tree.map_named(lambda name, _: found.get(name, jnp.asarray(True)), params)


@jax.jit
def _highest(
    scores: Shared[Scores], counts: dict[str, int | Array], leaves: dict[str, Array]
) -> dict[str, Array]:
    """Return masks of so many entries of each leaf, as one program for any numbers of them."""
    function = scores.function
    return {name: top_count(function(leaves[name]), count) for name, count in counts.items()}


def keep_global(
    params: Any, sparsity: Number, *, where: str = "*/kernel", scores: Scores = jnp.abs
) -> Any:
    """Keep the highest scores among all entries of all selected leaves together.

    >>> params = {"a": jnp.asarray([1.0, 2.0]), "b": jnp.asarray([9.0, 8.0, 7.0])}
    >>> keep_global(params, 0.2, where="*")["a"].tolist()
    [False, True]

    Args:
      params: tree of the weights.
      sparsity: share of all selected entries to remove, in [0, 1], may be traced.
      where: pattern of the leaves that compete.
      scores: leaf `[...]` -> importance of its entries `[...]`, comparable between leaves.

    Returns:
      Tree of masks: `[...]` for the selected leaves, scalar `True` for the others.

    Raises:
      UserError: if the pattern matches no leaf, or a leaf would be left without any weight
        (where the values are concrete); the message names it.
    """
    check_range("sparsity", sparsity, 0, 1)
    selected = tree.match({where: True}, params)
    leaves = {name: leaf for name, leaf in tree.named_leaves(params).items() if name in selected}
    together = jnp.concatenate([scores(leaf).ravel() for leaf in leaves.values()])
    kept = top_fraction(together, sparsity)
    masks, start = {}, 0
    for name, leaf in leaves.items():
        masks[name] = kept[start : start + leaf.size].reshape(leaf.shape)
        start += leaf.size
        if not is_traced(kept) and not jnp.any(masks[name]):
            raise UserError(f"sparsity {sparsity} over all of {where!r} would empty {name!r}")
    return tree.map_named(lambda name, _: masks.get(name, jnp.asarray(True)), params)


def expand_channels(params: Any, channels: Mapping[str, Array]) -> Any:
    """Spread masks of output channels over all leaves of a layer.

    Pruning a channel means its slice of the kernel, its bias, and the scale and the shift of its
    normalization; with any of these left it keeps firing. In all of them the channel is the last
    axis, so one rule serves:

        expand_channels(params, {"conv1/*": kept, "norm1/*": kept})

    >>> params = {"conv1": {"bias": jnp.ones(2), "kernel": jnp.ones((3, 2))}}
    >>> masks = expand_channels(params, {"conv1/*": jnp.asarray([True, False])})
    >>> masks["conv1"]["kernel"].tolist()
    [[True, False]]

    Args:
      params: tree of the weights.
      channels: pattern -> channels to keep, boolean `[O]`.

    Returns:
      Tree of masks: `[1, ..., 1, O]` for the matched leaves, scalar `True` for the others.

    Raises:
      UserError: if a pattern matches no leaf, a matched leaf has not `O` as its last axis, or a
        mask keeps no channel (where it is concrete).
    """
    matched = tree.match(channels, params)

    def mask(name: str, leaf: Array) -> Array:
        if name not in matched:
            return jnp.asarray(True)
        kept = jnp.asarray(matched[name], bool)
        if kept.ndim != 1 or leaf.ndim == 0 or leaf.shape[-1] != kept.size:
            raise UserError(
                f"a channel mask of shape {kept.shape} does not fit the last axis of {name!r}, "
                f"which has shape {leaf.shape}"
            )
        if not is_traced(kept) and not jnp.any(kept):
            raise UserError(f"the channel mask of {name!r} keeps no channel")
        return kept.reshape((1,) * (leaf.ndim - 1) + kept.shape)

    return tree.map_named(mask, params)


def of_nonzeros(params: Any, *, where: str = "*/kernel") -> Any:
    """Read masks off the weights: the non-zero entries of the selected leaves stay.

    >>> of_nonzeros({"w": jnp.asarray([0.0, 2.0])}, where="w")["w"].tolist()
    [False, True]

    Returns:
      Tree of masks: `[...]` for the selected leaves, scalar `True` for the others.
    """
    return nonzeros(params, tree.match({where: True}, params))


def both(masks: Any, others: Any) -> Any:
    """Keep what both trees of masks keep, e.g. channels and connections.

    >>> both({"w": jnp.asarray([True, True])}, {"w": jnp.asarray([False, True])})["w"].tolist()
    [False, True]
    """
    return tree.map_named(
        lambda _, mask, other: jnp.logical_and(*_same_rank(mask, other)), masks, others
    )


def _same_rank(mask: Array, other: Array) -> tuple[Array, Array]:
    shape = jnp.broadcast_shapes(jnp.shape(mask), jnp.shape(other))
    return jnp.broadcast_to(mask, shape), jnp.broadcast_to(other, shape)


def check_masks(masks: Any, params: Any) -> None:
    """Raise a `UserError` unless the masks have the tree of the parameters and fit its leaves.

    >>> check_masks({"w": jnp.asarray([True, False])}, {"w": jnp.ones((3, 2))})  # broadcast: fits
    """
    mask_of, leaves = tree.named_leaves(masks), tree.named_leaves(params)
    missing, unknown = leaves.keys() - mask_of.keys(), mask_of.keys() - leaves.keys()
    if missing or (unknown and not _is_part(params)):
        raise UserError(
            f"masks and parameters differ: no mask for {sorted(missing)} "
            f"(use a scalar True), no parameter for {sorted(unknown)}"
        )
    for name, leaf in leaves.items():
        check_mask(mask_of[name], name, leaf)


def land_inside(updates: Any, mask_of: Mapping[str, Array], params: Any) -> Any:
    """Return the updates `u` inside the masks and `-p` outside, so that `p + u` is zero there."""

    def land(name: str, update: Array, leaf: Array) -> Array:
        if name not in mask_of:
            return update
        return jnp.where(jnp.broadcast_to(mask_of[name], update.shape), update, -leaf)

    return tree.map_named(land, updates, params)


def _is_part(params: Any) -> bool:
    """Return whether these are some of a network's parameters, as `optax.masked` shows them."""
    nodes = jax.tree.leaves(params, is_leaf=lambda node: isinstance(node, optax.MaskedNode))
    return any(isinstance(node, optax.MaskedNode) for node in nodes)


def kept_share(masks: Any, params: Any, *, where: str = "*/kernel") -> Array:
    """Return the share of the selected weights that is kept, float32 in [0, 1].

    The density of weights with zeros in them is `kept_share(of_nonzeros(params), params)`.

    >>> masks = {"w": jnp.asarray([True, False, False, False])}
    >>> float(kept_share(masks, {"w": jnp.ones(4)}, where="w"))
    0.25
    """
    selected, mask_of = tree.match({where: True}, params), tree.named_leaves(masks)
    leaves = [(mask_of[n], leaf) for n, leaf in tree.named_leaves(params).items() if n in selected]
    kept = sum(jnp.sum(jnp.broadcast_to(mask, leaf.shape)) for mask, leaf in leaves)
    return safe_divide(kept, sum(leaf.size for _, leaf in leaves))


def starved_outputs(masks: Any) -> dict[str, int]:
    """Count the outputs that are left without any weight.

    A class whose read-out neurons have no input can never win. The masks of biases and of norms,
    of one axis or none, are passed over.

    >>> starved_outputs({"w": jnp.asarray([[True, False]])})["w"]
    1

    Returns:
      leaf name -> number of entries of the last axis where nothing is kept.
    """
    found = {x: np.asarray(mask) for x, mask in tree.named_leaves(masks).items()}
    return {
        name: int((~mask.any(axis=tuple(range(mask.ndim - 1)))).sum())
        for name, mask in found.items()
        if mask.ndim >= 2
    }
