"""The size of a network as QP-SNN counts it: every parameter at the width of its layer.

    bits = sum_quantized P b + sum_others P 32        MB = bits / 8 / 10**6

Wei et al. 2025, https://arxiv.org/abs/2502.05905, Eq. 16. All parameters count: in the paper's
tables the first and the last layer, their biases and the two numbers of each normalised channel are
the ones at 32 bits; running statistics and the scales of quantized layers do not count. For what a
file needs, see `coding` and `export.save`.

Only shapes are looked at, so that `jax.eval_shape` of a network will do.
"""

import math
from collections.abc import Mapping
from typing import Any

from jaxsnn import tree
from jaxsnn.arrays import check_whole

__all__ = ["count", "megabytes", "num_bits"]

FULL_WIDTH = 32  # bits of a parameter that is not quantized


def count(params: Any, where: str = "*") -> int:
    """Return the number of parameters in the leaves that a pattern selects.

    Raises:
      UserError: if the pattern matches no leaf.
    """
    leaves = tree.named_leaves(params)
    return sum(math.prod(leaves[name].shape) for name in tree.match({where: True}, params))


def num_bits(params: Any, widths: Mapping[str, int] | None = None) -> int:
    """Return the bits of all parameters (Eq. 16).

    Args:
      params: any tree of arrays or of their shapes.
      widths: pattern of leaf names -> bits of each parameter, in [1, 32]; leaves that no pattern
        matches have 32, with none given all of them.

    Raises:
      UserError: if a pattern matches no leaf, or a width is out of range.
    """
    found = tree.match(widths or {}, params)
    for name, width in found.items():
        check_whole(f"width of {name!r}", width, 1, FULL_WIDTH)
    leaves = tree.named_leaves(params)
    return sum(
        math.prod(leaf.shape) * int(found.get(name, FULL_WIDTH)) for name, leaf in leaves.items()
    )


def megabytes(params: Any, widths: Mapping[str, int] | None = None) -> float:
    """Return the size in MB of `10**6` bytes; the arguments are those of `num_bits`.

    >>> import jax.numpy as jnp
    >>> params = {"conv1": jnp.zeros((1000, 1000)), "norm": jnp.zeros(1000)}
    >>> megabytes(params), megabytes(params, {"conv*": 2})
    (4.004, 0.254)
    """
    return num_bits(params, widths) / 8e6
