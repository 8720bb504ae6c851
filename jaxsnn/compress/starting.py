"""Where sparse training starts: masks of a given density with exact counts, and fitting weights.

Letters in shapes: `...` any shape, `L` layers.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn import tree
from jaxsnn.arrays import Array, Number, check_range, is_traced, ranks, safe_divide, top_count
from jaxsnn.errors import UserError


def random_masks(
    key: Array,
    density: Number,
    params: Any,
    *,
    where: str = "*/kernel",
    layers: Literal["uniform", "erk"] = "uniform",
) -> Any:
    """Draw masks of a given density, with exact counts.

    All selected leaves together keep `round(density * size)` weights, split by largest remainders.
    "uniform" gives each leaf the same density; "erk" a count in proportion to the sum of the
    lengths of its axes (Erdos-Renyi kernel, Evci et al. 2020), where full leaves leave the rest to
    the others.

    Args:
      key: for the draw.
      density: share to keep, in (0, 1], may be traced; a traced one is not checked.
      params: tree of the weights.
      where: pattern of the leaves.
      layers: how the density is spread.

    Returns:
      Tree of masks: `[...]` for the selected leaves, scalar `True` for the others.

    Raises:
      UserError: if the density is out of range or leaves a leaf without weights (named), or the
        pattern matches no leaf.
    """

    def draw(index: int, leaf: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(key, index), leaf.shape)

    return _starting_masks(draw, density, params, where, layers)


def magnitude_masks(
    density: Number,
    params: Any,
    *,
    where: str = "*/kernel",
    layers: Literal["uniform", "erk"] = "uniform",
) -> Any:
    """Keep the largest weights, those of a trained network for instance; see `random_masks`."""
    return _starting_masks(lambda _, leaf: jnp.abs(leaf), density, params, where, layers)


def _starting_masks(
    scores: Callable[[int, Array], Array], density: Number, params: Any, where: str, layers: str
) -> Any:
    check_range("density", density, 0, 1, open_low=True)
    if layers not in ("uniform", "erk"):
        raise UserError(f"layers must be 'uniform' or 'erk', found {layers!r}")
    selected = tree.match({where: True}, params)
    leaves = {name: leaf for name, leaf in tree.named_leaves(params).items() if name in selected}
    sizes = np.asarray([leaf.size for leaf in leaves.values()], np.int32)
    axes = np.asarray([sum(leaf.shape) for leaf in leaves.values()], np.int32)
    weights = (sizes if layers == "uniform" else axes).astype(np.float32)
    # Inside a caller's jit too, a density that is known is checked.
    with nullcontext() if is_traced(density) else jax.ensure_compile_time_eval():
        shares = jnp.asarray(weights)
        total = jnp.round(jnp.asarray(density, jnp.float32) * np.float32(sizes.sum()))
        counts = apportion(total.astype(jnp.int32), shares, jnp.asarray(sizes), overflow=shares)
    if not is_traced(counts) and not np.all(np.asarray(counts)):
        layer = int(np.argmin(np.asarray(counts)))
        needed = weights.sum() / (weights[layer] * sizes.sum())
        raise UserError(
            f"density {density} leaves {list(leaves)[layer]!r} ({sizes[layer]} weights) without "
            f"any; use at least {needed:.3g}"
        )
    masks = {
        name: top_count(scores(i, leaf), counts[i]) for i, (name, leaf) in enumerate(leaves.items())
    }
    return tree.map_named(lambda name, _: masks.get(name, jnp.asarray(True)), params)


def start(masks: Any, params: Any) -> Any:
    """Return the weights to begin with: zero outside the masks, inside `W / sqrt(density_l)`.

    The factor keeps the variance of what a neuron receives; without it and without norms, signals
    shrink by `sqrt(density)` a layer and a deep sparse network is dead from the start.

    Args:
      masks: tree like the parameters, broadcastable to its leaves.
      params: tree of the weights; leaves under a scalar mask stay as they are.
    """

    def begin(_: str, mask: Array, leaf: Array) -> Array:
        if jnp.ndim(mask) == 0:
            return leaf
        gain = safe_divide(1.0, jnp.sqrt(jnp.mean(mask, dtype=jnp.float32)))
        scaled = (leaf * gain).astype(leaf.dtype)
        return jnp.where(jnp.broadcast_to(mask, leaf.shape), scaled, jnp.zeros_like(leaf))

    return tree.map_named(begin, masks, params)


def apportion(
    total: Array | int, shares: Array, room: Array, *, overflow: Array | None = None
) -> Array:
    """Split a whole number by shares, each part within its room, exactly.

        wanted_l = min(total * shares_l / sum(shares) + t * overflow_l, room_l),  sum_l = total

    with one `t >= 0`: what does not fit is spread over the others, evenly if nothing else is said.
    Parts are `floor(wanted_l)`, and one more for the largest remainders until all is given (ties
    to the lower index). Shares are float32; the sum of the parts is exact all the same.

    Args:
      total: what to split, int32 `[]`, in [0, sum(room)].
      shares: `[L]`, >= 0; all zero mean equal ones.
      room: most that each part may be, int32 `[L]`.
      overflow: how parts take what did not fit, `[L]`, >= 0 and positive where there is room.

    Returns:
      The parts, int32 `[L]`.

    References: the largest remainders are ours; the authors' code rounds up and repairs.
    """
    room = jnp.asarray(room, jnp.int32)
    limit, amount = room.astype(jnp.float32), jnp.asarray(total, jnp.float32)
    spread = jnp.ones_like(limit) if overflow is None else overflow
    base = amount * safe_divide(shares, jnp.sum(shares))

    def raise_level(_: int, level: Array) -> Array:
        # Newton's method on a concave, piecewise linear sum: exact after L steps.
        asked = base + level * spread
        missing = amount - jnp.sum(jnp.minimum(asked, limit))
        return level + jnp.maximum(safe_divide(missing, jnp.sum(spread, where=asked < limit)), 0)

    level = jax.lax.fori_loop(0, limit.size, raise_level, jnp.zeros((), jnp.float32))
    wanted = jnp.minimum(base + level * spread, limit)
    parts = jnp.minimum(jnp.floor(wanted).astype(jnp.int32), room)
    remainder = jnp.where(parts < room, wanted - jnp.floor(wanted), -1.0)
    more = (ranks(remainder) < total - jnp.sum(parts)) & (parts < room)
    parts = parts + more.astype(jnp.int32)
    # What float32 has lost of large numbers, to or from the first parts that can bear it.
    short = total - jnp.sum(parts)
    return parts + _pour(short, room - parts) - _pour(-short, parts)


def _pour(amount: Array, room: Array) -> Array:
    """Fill up rooms one after the other until the amount is used up; nothing if it is negative."""
    before = jnp.cumsum(room) - room
    return jnp.clip(amount - before, 0, room)
