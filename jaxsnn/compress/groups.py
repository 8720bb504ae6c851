"""N:M sparsity: of every `m` inputs of an output at most `n` have a weight.

Hardware for it reads `n` weights of each group and their places in it, for all groups alike.

Letters in shapes: `I` inputs of a synapse (the last axis but one), `O` its outputs (the last axis).
"""

from dataclasses import dataclass

import jax.numpy as jnp

from jaxsnn.arrays import Array, Number, as_stored, check_whole, ranks
from jaxsnn.compress.projections import Projection
from jaxsnn.errors import UserError

__all__ = ["n_of_m"]

ABSENT = -1.0  # magnitude of the padding: below that of every weight


@dataclass(frozen=True, eq=False)
class _NOfM:
    n: Number
    m: int

    def __call__(self, leaf: Array) -> Array:
        magnitudes = jnp.swapaxes(jnp.abs(as_stored(leaf)), -1, -2)
        inputs = magnitudes.shape[-1]
        fill = [(0, 0)] * (leaf.ndim - 1) + [(0, -inputs % self.m)]
        padded = jnp.pad(magnitudes, fill, constant_values=ABSENT)
        groups = padded.reshape(*padded.shape[:-1], -1, self.m)
        kept = (ranks(groups) < self.n).reshape(padded.shape)[..., :inputs]
        return jnp.where(jnp.swapaxes(kept, -1, -2), leaf, jnp.zeros_like(leaf))

    def check(self, name: str, leaf: Array) -> None:
        if leaf.ndim < 2:
            raise UserError(
                f"{self.n}:{self.m} sparsity needs inputs (second axis from the end), but {name!r} "
                f"has shape {leaf.shape}: leave it out of the recipe"
            )


def n_of_m(n: Number, m: int) -> Projection:
    """Keep the `n` largest of every `m` inputs of each output (N:M sparsity).

    Groups run along the input axis, the last but one: `[I, O]` of a dense kernel,
    `[kh, kw, I, O]` of a convolution. Ties go to the lower index. Where `m` does not divide `I`,
    the leaf counts as padded with zeros: the last group is shorter and also keeps `n`. Behind a
    mask (`restrict`), the `n` are the largest of what the mask leaves.

    >>> n_of_m(1, 2)(jnp.asarray([[1.0, 3.0], [2.0, -4.0], [0.5, 0.1]])).tolist()
    [[0.0, 0.0], [2.0, -4.0], [0.5, 0.10000000149011612]]

    Args:
      n: how many to keep of each group, whole, in [1, m], may be traced.
      m: size of a group, at least 1.

    Raises:
      UserError: if `n` is not in [1, m]; once the leaf is known, if it has fewer than two axes.

    References: Zhou et al. 2021, https://arxiv.org/abs/2102.04010 (N:M sparsity from scratch).
    """
    check_whole("m", m, 1, float("inf"))
    check_whole("n", n, 1, m)
    return _NOfM(n, m)
