"""LSQ: a grid whose scale is trained with the weights.

Esser et al. 2020, "Learned step size quantization", https://arxiv.org/abs/1902.08153. With
`Q_N = 2**(b-1)` and `Q_P = 2**(b-1) - 1` for `b` bits, of a weight `v` and the scale `s` (Eq. 1, 2)

    w = s round(clip(v / s, -Q_N, Q_P))

and what replaces the derivatives is (Eq. 3, 5)

    dw/ds = round(v / s) - v / s    where -Q_N < v / s < Q_P
            -Q_N                    where v / s <= -Q_N
            Q_P                     where v / s >= Q_P
    dw/dv = 1 where -Q_N < v / s < Q_P, else 0

The gradient of a scale is multiplied by `g = 1 / sqrt(N Q_P)` for the `N` weights that share it
(section 2.2), and it starts at `2 mean|v| / sqrt(Q_P)` (section 2.1).

Where the sources differ: the paper has one scale for a layer; with one for each channel, `N` and
the mean are those of the channel. Masked weights do not count. Nothing in the paper keeps a scale
above 0; here it stays at `LEAST` or above, so that a leaf of zeros can learn.

Letters in shapes: `...` any shape, `O` output channels (the last axis).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import optax

from jaxsnn import tree
from jaxsnn.arrays import Array, Number, as_stored
from jaxsnn.compress.codes import Quantized, Step, along_channels
from jaxsnn.compress.grids import Per, check_bits, check_channels, check_per
from jaxsnn.compress.phase import Phase
from jaxsnn.compress.trained import (
    Leaves,
    TrainedState,
    check_inside,
    inside,
    trained_phase,
)

__all__ = ["LearnedScales", "learned_scales"]

LEAST = 2.0**-20  # of a scale; ours


@dataclass(frozen=True, eq=False)
class LearnedScales:
    """The grids of LSQ; their numbers are the scales, `[]` or `[1, ..., 1, O]`."""

    bits: Mapping[str, Number]  # pattern -> `b`
    per: Per = "leaf"
    masks: Mapping[str, Array] | None = None  # leaf name -> mask

    def select(self, params: Any) -> Leaves:
        """Return the leaves that the patterns match."""
        leaves, bits = tree.named_leaves(params), tree.match(self.bits, params)
        for name in bits:
            check_bits(name, bits[name], leaves[name], self.per)
            check_channels(self.per, name, leaves[name])
            check_inside(self.masks, name, leaves[name])
        return {name: leaves[name] for name in bits}

    def start(self, free: Leaves) -> Leaves:
        """Return `2 mean|v| / sqrt(Q_P)`, the mean over weights inside of the mask."""

        def scale(name: str, values: Array) -> Array:
            top = jnp.maximum(self._ends(name, free)[1], 1.0)
            mean = self._sum(jnp.abs(values)) / jnp.maximum(self._count(name, values), 1.0)
            return jnp.maximum(2 * mean / jnp.sqrt(top), LEAST).astype(jnp.float32)

        return {name: scale(name, self._values(name, leaf)) for name, leaf in free.items()}

    def settle(self, free: Leaves, numbers: Leaves) -> Leaves:
        """Return the scales, at `LEAST` or above."""
        del free
        return {name: jnp.maximum(scale, LEAST) for name, scale in numbers.items()}

    def quantize(self, free: Leaves, numbers: Leaves) -> dict[str, Quantized]:
        """Return `round(clip(v / s, -Q_N, Q_P))` as codes, and the scales."""
        bits, found = tree.match(self.bits, free), {}
        for name, leaf in free.items():
            low, high = self._ends(name, free)
            codes = jnp.round(jnp.clip(self._values(name, leaf) / numbers[name], -low, high))
            step = Step.of(numbers[name], bits=along_channels(bits[name], leaf))
            found[name] = step.with_codes(codes)
        return found

    def gradients(self, gradients: Leaves, free: Leaves, numbers: Leaves) -> tuple[Leaves, Leaves]:
        """Return those of weights (Eq. 5) and of scales (Eq. 3, times `g`)."""
        for_free, for_scales = {}, {}
        for name, leaf in free.items():
            values, (low, high) = self._values(name, leaf), self._ends(name, free)
            ratio = values / numbers[name]
            between = (ratio > -low) & (ratio < high)
            slope = jnp.where(between, jnp.round(ratio) - ratio, jnp.clip(ratio, -low, high))
            count = self._count(name, values)
            share = jnp.sqrt(jnp.maximum(count, 1.0) * jnp.maximum(high, 1.0))
            gradient = gradients[name]
            for_scales[name] = self._sum(gradient.astype(values.dtype) * slope) / share
            learns = between & self._mask(name, leaf)
            for_free[name] = jnp.where(learns, gradient, jnp.zeros_like(gradient))
            for_scales[name] = for_scales[name].astype(jnp.float32)
        return for_free, for_scales

    def _ends(self, name: str, free: Leaves) -> tuple[Array, Array]:
        """Return `Q_N` and `Q_P`, float32 `[]` or `[1, ..., 1, O]`; 0 and 0 of 0 bits."""
        bits = along_channels(tree.match(self.bits, free)[name], free[name]).astype(jnp.float32)
        half = jnp.where(bits > 0, jnp.round(2.0 ** (bits - 1)), 0.0)
        return half, jnp.maximum(half - 1, 0.0)

    def _mask(self, name: str, leaf: Array) -> Array:
        return inside(self.masks, name, leaf)

    def _values(self, name: str, leaf: Array) -> Array:
        values = as_stored(leaf)
        return jnp.where(self._mask(name, leaf), values, jnp.zeros_like(values))

    def _sum(self, values: Array) -> Array:
        """Return the sum over the weights that share a scale, in the shape of the scales."""
        if self.per == "leaf":
            return jnp.sum(values)
        return jnp.sum(values, tuple(range(values.ndim - 1)), keepdims=True)

    def _count(self, name: str, values: Array) -> Array:
        return self._sum(self._mask(name, values).astype(jnp.float32))


def learned_scales(
    inner: optax.GradientTransformation,
    bits: Mapping[str, Number],
    *,
    per: Per = "leaf",
    masks: Any = None,
    scales: optax.GradientTransformation | None = None,
) -> Phase:
    """Train quantized weights together with the scales of their grids (LSQ).

    The network shows `s round(clip(v / s))` from the first step on. The log gets `scale/LEAF`, the
    mean of the channels. Start from trained weights, as the paper does.

    >>> params = {"w": jnp.asarray([0.3, -0.1, 0.02])}
    >>> phase = learned_scales(optax.sgd(0.1), {"w": 3})
    >>> params, steps = phase.finish(phase.begin(params), phase.optimizer.init(params))
    >>> steps["w"].encode(params["w"]).codes.tolist()
    [2, -1, 0]

    Args:
      inner: the optimizer of the free copies.
      bits: pattern -> `b`, 2 to 16, or 0 for no weights; may be traced, and with `per="channel"`
        one for each channel, `[O]`, as `mixed.allocate` gives them.
      per: "leaf", or "channel" for a scale for each index of the last axis.
      masks: tree of masks to stay inside, from a pruning before.
      scales: the optimizer of the scales; None for another `inner`.

    Returns:
      A phase that finishes with weights on the learned grids, and their steps.

    Raises:
      UserError: if an optimizer is none or `per` is unknown; at `init`, by the leaf's name, if a
        pattern matches no leaf, or bits, channels or masks do not fit a leaf.

    References: Esser et al. 2020, https://arxiv.org/abs/1902.08153.
    """
    mask_of = None if masks is None else tree.named_leaves(masks)
    grids = LearnedScales(bits, check_per(per), mask_of)

    def observe(state: TrainedState) -> dict[str, Array]:
        return {f"scale/{name}": jnp.mean(scale) for name, scale in state.numbers.items()}

    return trained_phase(inner, grids, scales, observe)
