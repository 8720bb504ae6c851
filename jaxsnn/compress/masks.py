"""From scores to masks: which weights and which channels stay.

A tree of masks has the structure of the parameters. Each mask is boolean and broadcastable to its
leaf; a scalar `True` means "not pruned".

Letters in shapes: `...` any shape, `O` outputs of a layer (the last axis of its leaves).
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jaxsnn import tree
from jaxsnn.arrays import Array, Number, check_range, is_traced, safe_divide, top_fraction
from jaxsnn.compress.projections import Scores, check_mask, check_survivors
from jaxsnn.errors import UserError


def keep_fraction(recipe: Mapping[str, Number], params: Any, *, scores: Scores = jnp.abs) -> Any:
    """Keep the highest scores of each leaf, with exact counts.

    Args:
      recipe: pattern -> sparsity, the share to remove, in [0, 1], may be traced.
      params: tree of the weights; or of ready scores, together with `scores=identity`.
      scores: leaf `[...]` -> importance of its entries `[...]`.

    Returns:
      Tree of masks: `[...]` for the matched leaves, scalar `True` for the others.

    Raises:
      UserError: if a pattern matches no leaf, or a concrete sparsity is out of range or would
        empty a leaf; the message names it.
    """
    sparsities = tree.match(recipe, params)

    def mask(name: str, leaf: Array) -> Array:
        if name not in sparsities:
            return jnp.asarray(True)
        sparsity = check_range(f"sparsity of {name!r}", sparsities[name], 0, 1)
        check_survivors(sparsity, name, leaf)
        return top_fraction(scores(leaf), sparsity)

    return tree.map_named(mask, params)


def keep_global(
    sparsity: Number, params: Any, *, where: str = "*/kernel", scores: Scores = jnp.abs
) -> Any:
    """Keep the highest scores among all entries of all selected leaves together.

    Args:
      sparsity: share of all selected entries to remove, in [0, 1], may be traced.
      params: tree of the weights.
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


def spread(
    sparsity: Number, params: Any, *, where: str = "*/kernel", exponent: float = 0.5
) -> dict[str, Any]:
    """Spread one sparsity over layers of unequal size: the kept weights grow as `size ** exponent`.

    With the exponent 1 every layer loses the same share, which ruins small layers first. With 0.5
    small layers stay denser; at the density of the ADMM authors' released MNIST network, 1.3 %, it
    keeps 26, 4.7, 1.0 and 13 % of its layers where they kept 17, 8.0, 0.9 and 7.0 % by hand.
    A layer that would have to keep more than all leaves the rest to the others.

    Args:
      sparsity: share of all selected weights to remove, in [0, 1), may be traced.
      params: tree of the weights.
      where: pattern of the leaves.
      exponent: in [0, 1].

    Returns:
      Name -> sparsity of that leaf, a recipe for `keep_fraction`. Together they remove `sparsity`.

    Raises:
      UserError: if a number is out of range or the pattern matches no leaf.
    """
    check_range("sparsity", sparsity, 0, 1, open_high=True)
    check_range("exponent", exponent, 0, 1)
    selected = tree.match({where: True}, params)
    sizes = {n: leaf.size for n, leaf in tree.named_leaves(params).items() if n in selected}
    if is_traced(sparsity):
        return _spread_traced(jnp.asarray(sparsity), sizes, exponent)
    left, open_layers, densities = (1 - sparsity) * sum(sizes.values()), dict(sizes), {}
    while open_layers:
        unit = left / sum(size**exponent for size in open_layers.values())
        full = [n for n, size in open_layers.items() if unit * size**exponent >= size]
        for name in full:
            densities[name] = 1.0
            left -= open_layers.pop(name)
        if not full:
            densities |= {n: unit * size**exponent / size for n, size in open_layers.items()}
            break
    return {name: 1.0 - densities[name] for name in sizes}


def _spread_traced(sparsity: Array, sizes: Mapping[str, int], exponent: float) -> dict[str, Array]:
    """Do as `spread`, in as many rounds as there are layers: in each more may turn out full."""
    size = jnp.asarray(list(sizes.values()), jnp.float32)
    weight, kept = size**exponent, (1 - sparsity) * jnp.sum(size)
    full = jnp.zeros(size.shape, bool)
    for _ in sizes:
        left = kept - jnp.sum(size, where=full)
        share = safe_divide(left, jnp.sum(weight, where=~full)) * weight
        full = full | (share >= size)
    density = jnp.where(full, 1.0, share / size)
    return {name: 1.0 - density[i] for i, name in enumerate(sizes)}


def expand_channels(channels: Mapping[str, Array], params: Any) -> Any:
    """Spread masks of output channels over all leaves of a layer.

    Pruning a channel means its slice of the kernel, its bias, and the scale and the shift of its
    normalization; with any of these left it keeps firing. In all of them the channel is the last
    axis, so one rule serves:

        expand_channels({"conv1/*": kept, "norm1/*": kept}, params)

    Args:
      channels: pattern -> channels to keep, boolean `[O]`.
      params: tree of the weights.

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

    Returns:
      Tree of masks: `[...]` for the selected leaves, scalar `True` for the others.
    """
    selected = tree.match({where: True}, params)
    return tree.map_named(
        lambda name, leaf: leaf != 0 if name in selected else jnp.asarray(True), params
    )


def both(masks: Any, others: Any) -> Any:
    """Keep what both trees of masks keep, e.g. channels and connections."""
    return tree.map_named(
        lambda _, mask, other: jnp.logical_and(*_same_rank(mask, other)), masks, others
    )


def _same_rank(mask: Array, other: Array) -> tuple[Array, Array]:
    shape = jnp.broadcast_shapes(jnp.shape(mask), jnp.shape(other))
    return jnp.broadcast_to(mask, shape), jnp.broadcast_to(other, shape)


def check_masks(masks: Any, params: Any) -> None:
    """Raise a `UserError` unless the masks have the tree of the parameters and fit its leaves."""
    mask_of, leaves = tree.named_leaves(masks), tree.named_leaves(params)
    missing, unknown = leaves.keys() - mask_of.keys(), mask_of.keys() - leaves.keys()
    if missing or unknown:
        raise UserError(
            f"masks and parameters differ: no mask for {sorted(missing)} "
            f"(use a scalar True), no parameter for {sorted(unknown)}"
        )
    for name, leaf in leaves.items():
        check_mask(mask_of[name], name, leaf)


def density(masks: Any, params: Any, *, where: str = "*/kernel") -> Array:
    """Return the share of the selected weights that is kept, float32 in [0, 1].

    The density of weights with zeros in them is `density(of_nonzeros(params), params)`.
    """
    selected, mask_of = tree.match({where: True}, params), tree.named_leaves(masks)
    leaves = [(mask_of[n], leaf) for n, leaf in tree.named_leaves(params).items() if n in selected]
    kept = sum(jnp.sum(jnp.broadcast_to(mask, leaf.shape)) for mask, leaf in leaves)
    return safe_divide(kept, sum(leaf.size for _, leaf in leaves))


def starved_outputs(masks: Any) -> dict[str, Array]:
    """Count the outputs that are left without any weight.

    A class whose read-out neurons have no input can never win. The masks of biases and of norms,
    of one axis or none, are passed over.

    Returns:
      leaf name -> number of entries of the last axis where nothing is kept, int32 `[]`.
    """
    return {
        name: jnp.sum(~jnp.any(mask, axis=tuple(range(jnp.ndim(mask) - 1))))
        for name, mask in tree.named_leaves(masks).items()
        if jnp.ndim(mask) >= 2
    }
