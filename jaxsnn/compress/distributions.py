"""How one share is distributed over layers of unequal size: densities, and exact counts.

Letters in shapes: `L` layers.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn import tree
from jaxsnn.arrays import Array, Number, check_range, is_traced, ranks, safe_divide
from jaxsnn.errors import UserError

__all__ = ["apportion", "spread", "start_counts"]

Layers = Literal["uniform", "erk"]
"""One density for all leaves, or Erdos-Renyi kernel."""


def spread(
    params: Any, sparsity: Number, *, where: str = "*/kernel", exponent: float = 0.5
) -> dict[str, Any]:
    """Spread one sparsity over layers of unequal size: the kept weights grow as `size ** exponent`.

    With the exponent 1 every layer loses the same share, which ruins small layers first. With 0.5
    small layers stay denser; at the density of the ADMM authors' released MNIST network, 1.3 %, it
    keeps 26, 4.7, 1.0 and 13 % of its layers where they kept 17, 8.0, 0.9 and 7.0 % by hand.
    A layer that would have to keep more than all leaves the rest to the others.

    >>> params = {"small": jnp.ones(100), "large": jnp.ones(10_000)}
    >>> found = spread(params, 0.9, where="*")
    >>> [round(found[name], 3) for name in params]
    [0.082, 0.908]

    Args:
      params: tree of the weights.
      sparsity: share of all selected weights to remove, in [0, 1), may be traced.
      where: pattern of the leaves.
      exponent: in [0, 1].

    Returns:
      Name -> sparsity of that leaf, a recipe for `masks.keep_fraction`. Together they remove
      `sparsity`.

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


def start_counts(
    params: Any, density: Number, *, where: str = "*/kernel", layers: Layers = "uniform"
) -> dict[str, Array]:
    """Return how many weights each leaf has at the start of sparse training.

    All selected leaves together keep `round(density * size)` weights, split by largest remainders.
    "uniform" gives each leaf the same density; "erk" a count in proportion to the sum of the
    lengths of its axes (Erdos-Renyi kernel), where full leaves leave the rest to the others.

    >>> params = {"small": jnp.ones((3, 4)), "large": jnp.ones((30, 40))}
    >>> {x: int(n) for x, n in start_counts(params, 0.1, where="*", layers="erk").items()}
    {'large': 110, 'small': 11}

    Args:
      params: tree of the weights.
      density: share to keep, in (0, 1], may be traced; a traced one is not checked.
      where: pattern of the leaves.
      layers: how the density is spread.

    Returns:
      leaf name -> number of weights, int32 `[]`.

    Raises:
      UserError: if the density is out of range or leaves a leaf without weights (named), or the
        pattern matches no leaf.

    References: Evci et al. 2020, https://arxiv.org/abs/1911.11134, section 3 (ERK).
    """
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
    return {name: counts[i] for i, name in enumerate(leaves)}


def apportion(
    total: Array | int, shares: Array, room: Array, *, overflow: Array | None = None
) -> Array:
    """Split a whole number by shares, each part within its room, exactly.

        wanted_l = min(total * shares_l / sum(shares) + t * overflow_l, room_l),  sum_l = total

    with one `t >= 0`: what does not fit is spread over the others, evenly if nothing else is said.
    Parts are `floor(wanted_l)`, and one more for the largest remainders until all is given (ties
    to the lower index). Shares are float32; the sum of the parts is exact all the same.

    >>> apportion(5, jnp.asarray([0.3, 0.1]), jnp.asarray([7, 6])).tolist()
    [4, 1]

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
