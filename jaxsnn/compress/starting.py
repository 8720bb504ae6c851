"""Where sparse training starts: masks of a given density with exact counts, and fitting weights.

Letters in shapes: `...` any shape.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxsnn import tree
from jaxsnn.arrays import Array, Number, safe_divide
from jaxsnn.compress.distributions import Layers, start_counts
from jaxsnn.compress.ranking import top_count

__all__ = ["magnitude_masks", "random_masks", "start"]


def random_masks(
    key: Array,
    params: Any,
    density: Number,
    *,
    where: str = "*/kernel",
    layers: Layers = "uniform",
) -> Any:
    """Draw masks of a given density, with exact counts.

    >>> masks = random_masks(jax.random.key(0), {"w": jnp.ones(10)}, 0.3, where="w")
    >>> int(masks["w"].sum())
    3

    Args:
      key: for the draw.
      params: tree of the weights.
      density: share to keep, in (0, 1], may be traced; a traced one is not checked.
      where: pattern of the leaves.
      layers: how the density is spread over the leaves, see `distributions.start_counts`.

    Returns:
      Tree of masks: `[...]` for the selected leaves, scalar `True` for the others.

    Raises:
      UserError: if the density is out of range or leaves a leaf without weights (named), or the
        pattern matches no leaf.
    """

    def draw(index: int, leaf: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(key, index), leaf.shape, jnp.float32)

    return _starting_masks(draw, params, density, where, layers)


def magnitude_masks(
    params: Any,
    density: Number,
    *,
    where: str = "*/kernel",
    layers: Layers = "uniform",
) -> Any:
    """Keep the largest weights, those of a trained network for instance; see `random_masks`.

    >>> magnitude_masks({"w": jnp.asarray([1.0, -3.0])}, 0.5, where="w")["w"].tolist()
    [False, True]
    """
    return _starting_masks(lambda _, leaf: jnp.abs(leaf), params, density, where, layers)


def _starting_masks(
    scores: Callable[[int, Array], Array],
    params: Any,
    density: Number,
    where: str,
    layers: Layers,
) -> Any:
    counts = start_counts(params, density, where=where, layers=layers)
    leaves = tree.named_leaves(params)
    masks = {
        name: top_count(scores(i, leaves[name]), count)
        for i, (name, count) in enumerate(counts.items())
    }
    return tree.map_named(lambda name, _: masks.get(name, jnp.asarray(True)), params)


def start(params: Any, masks: Any) -> Any:
    """Return the weights to begin with: zero outside the masks, inside `W / sqrt(density_l)`.

    The factor keeps the variance of what a neuron receives; without it and without norms, signals
    shrink by `sqrt(density)` a layer and a deep sparse network is dead from the start.

    >>> start({"w": jnp.ones(4)}, {"w": jnp.arange(4) == 0})["w"].tolist()
    [2.0, 0.0, 0.0, 0.0]

    Args:
      params: tree of the weights; leaves under a scalar mask stay as they are.
      masks: tree like the parameters, broadcastable to its leaves.
    """

    def begin(_: str, mask: Array, leaf: Array) -> Array:
        if jnp.ndim(mask) == 0:
            return leaf
        gain = safe_divide(1.0, jnp.sqrt(jnp.mean(mask, dtype=jnp.float32)))
        scaled = (leaf * gain).astype(leaf.dtype)
        return jnp.where(jnp.broadcast_to(mask, leaf.shape), scaled, jnp.zeros_like(leaf))

    return tree.map_named(begin, masks, params)
