"""Sets of weights by name: few non-zeros, few values with a scale for each layer, or both."""

import fnmatch
from collections.abc import Mapping
from typing import Any, Literal

from jaxsnn import tree
from jaxsnn.arrays import Number
from jaxsnn.compress.grids import Grid, Per, binary_grid, pow2_grid, ternary_grid, uniform_grid
from jaxsnn.compress.projections import Projection, compose, keep_largest, restrict
from jaxsnn.errors import UserError
from jaxsnn.network import Network
from jaxsnn.options import PerLayer

__all__ = [
    "MOST_BITS",
    "Levels",
    "grid",
    "joint_recipe",
    "of_kernels",
    "prune_recipe",
    "quantize_recipe",
]

Tree = Any  # of masks, like the parameters

Shares = Number | Mapping[str, Number]  # one number, or pattern of leaves -> number
Bits = Number | Mapping[str, Any] | None  # likewise; None for levels without a number of bits
Levels = Literal["binary", "ternary", "uniform", "pow2"]
MOST_BITS = {"uniform": 8, "pow2": 6}


def of_kernels(net: Network, value: PerLayer) -> dict[str, float]:
    """Return the number of each kernel, recurrent ones included: leaf name -> number.

    >>> from jaxsnn import models
    >>> net = models.build("4R-3", (2,))
    >>> of_kernels(net, {"dense1/recurrent": 0.5, "*": 0.9})
    {'dense1/kernel': 0.9, 'dense1/recurrent': 0.5, 'dense2/kernel': 0.9}

    Args:
      net: the network; of a foreign one, the kernels are the leaves of that name.
      value: one number for all; or pattern of layers -> number, for all kernels of a layer, or of
        kernels.

    Raises:
      UserError: if a pattern matches no kernel.
    """
    kernels = list(net.synapses) or list(tree.match({"*/kernel": True}, net.params))
    if not isinstance(value, Mapping):
        return dict.fromkeys(kernels, value)
    recipe = {
        pattern if fnmatch.filter(kernels, pattern) else f"{pattern}/*": each
        for pattern, each in value.items()
    }
    return tree.match(recipe, dict.fromkeys(kernels, 0))


def prune_recipe(sparsity: Shares, *, where: str = "*/kernel") -> dict[str, Projection]:
    """Build the sets `S_l = {W : ||W||_0 <= k_l}`: the largest weights of each layer.

    >>> import jax.numpy as jnp
    >>> prune_recipe(0.5)["*/kernel"](jnp.asarray([3.0, -1.0])).tolist()
    [3.0, 0.0]

    Args:
      sparsity: share to remove in every layer, in [0, 1]; or pattern of leaves -> share. The
        authors' MNIST network has 0.83, 0.92 (convolutions), 0.991 and 0.93 (dense).
      where: pattern of the leaves for a single share.
    """
    shares = sparsity if isinstance(sparsity, Mapping) else {where: sparsity}
    return {pattern: keep_largest(share) for pattern, share in shares.items()}


def grid(
    levels: Levels, bits: Number | None = None, *, keep_zeros: bool = False, per: Per = "leaf"
) -> Grid:
    """Choose a set of levels by name: "binary", "ternary", or "uniform" and "pow2" of some bits.

    It has one scale for each layer, or with `per="channel"` one for each output channel.

    >>> import jax.numpy as jnp
    >>> grid("ternary")(jnp.asarray([2.0, -2.0, 0.1])).tolist()
    [2.0, -2.0, 0.0]
    """
    if levels in ("binary", "ternary"):
        return (binary_grid if levels == "binary" else ternary_grid)(keep_zeros=keep_zeros, per=per)
    if levels not in MOST_BITS:
        raise UserError(f"levels must be binary, ternary, uniform or pow2, found {levels!r}")
    if bits is None:
        raise UserError(f"the levels {levels!r} need a number of bits")
    make = uniform_grid if levels == "uniform" else pow2_grid
    return make(bits, keep_zeros=keep_zeros, per=per)


def quantize_recipe(
    levels: Levels,
    bits: Bits = None,
    *,
    where: str = "*/kernel",
    masks: Tree | None = None,
    per: Per = "leaf",
) -> dict[str, Projection]:
    """Build the sets `S_l = {alpha_l Q : Q_ij in levels}`: few values, one scale for each layer.

    >>> import jax.numpy as jnp
    >>> quantize_recipe("binary")["*/kernel"](jnp.asarray([3.0, -1.0])).tolist()
    [2.0, -2.0]

    Args:
      levels: which set of levels.
      bits: number of bits of "uniform" and "pow2"; or pattern of leaves -> bits.
      where: pattern of the leaves to quantize, for a single number.
      masks: tree of masks from a pruning before; scale and levels are then fitted to the
        survivors, and the rest stays zero.
      per: "channel" for a scale for each output channel.
    """
    widths = bits if isinstance(bits, Mapping) else {where: bits}
    keep_zeros = masks is not None
    found = {x: grid(levels, b, keep_zeros=keep_zeros, per=per) for x, b in widths.items()}
    return dict(found) if masks is None else restrict(found, masks)


def joint_recipe(
    sparsity: Shares,
    levels: Levels,
    bits: Bits = None,
    *,
    where: str = "*/kernel",
    per: Per = "leaf",
) -> dict[str, Projection]:
    """Prune and quantize at once: `Proj_grid(Proj_sparse(V))`, a heuristic for both sets.

    >>> import jax.numpy as jnp
    >>> joint_recipe(0.5, "binary")["*/kernel"](jnp.asarray([3.0, -1.0, 5.0, 0.0])).tolist()
    [4.0, 0.0, 4.0, 0.0]

    The arguments are those of `prune_recipe` and `quantize_recipe`; with a number for each pattern
    in both, the patterns are the same where both sets are meant.
    """
    found = prune_recipe(sparsity, where=where)
    widths = bits if isinstance(bits, Mapping) else dict.fromkeys(found, bits)
    for pattern, width in widths.items():
        quantizer = grid(levels, width, keep_zeros=pattern in found, per=per)
        found[pattern] = compose(found[pattern], quantizer) if pattern in found else quantizer
    return found
