"""HGQ: bit widths that are trained with the weights, under one budget; 0 bits are pruned.

Sun et al. 2024, "Gradient-based automatic mixed precision quantization for neural networks
on-chip", https://arxiv.org/abs/2405.00645. A group of weights (a leaf, an output channel) has a
real number `b`, and stands on the uniform grid of so many bits, rounded,

    w = Q(v; round(b)), with less than 2 bits 0

The error `d = v - w` is taken to shrink as `2**-b`, so that what replaces the derivatives is

    dw/dv = 1        dw/db = ln(2) d

as in the paper, and the rounding of `b` passes gradients straight through.

Where the sources differ:

- The paper's grid is one of fixed point, steps of `2**-f` with `f` trained, and as many whole bits
  as the largest weight needs. Of few bits that is a coarse grid; ours fits the scale to the weights
  (`grids.uniform_grid`), so that groups of equal bits are what `quantized` makes of them.
- The paper adds `beta EBOPs` to the loss, the products of all bit widths, raises `beta` while it
  trains, and reads the size off in the end. Here the size is given. Let a bit of a group cost `p`
  (`price` times its weights), and `h` be the gradient of the loss for `b`. All `b` are lowered by
  the one number `s` with which the widths fit the budget,

      sum_g p_g round(b_g - s) <= budget        s the smallest such number

  after every step, so that the network that is shown never costs more; and as `s` follows `b`, the
  gradient is that along the budget,

      h_g - p_g (sum_j h_j) / (sum_j p_j)

  whose second term stands where the paper has `beta p_g`: `-sum h / sum p` is what a bit is worth
  everywhere. Spikes are one bit, so bit operations are weight bits times SynOps: a price of the
  SynOps of a weight makes the budget one of EBOPs, a price of 1/8 one of bytes.
- Widths end at `most`, and in each leaf the widest group keeps 2 bits, or the layer would be lost.
- The paper also trains the bits of activations; spikes have none.

Letters in shapes: `...` any shape, `O` output channels (the last axis).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsnn import tree
from jaxsnn.arrays import (
    Array,
    Number,
    as_stored,
    check_range,
    check_whole,
    is_traced,
    safe_divide,
)
from jaxsnn.compress.budget import SLACK, check_budget
from jaxsnn.compress.codes import Quantized
from jaxsnn.compress.grids import Per, check_channels, check_per
from jaxsnn.compress.mixed import MixedGrid
from jaxsnn.compress.phase import Phase
from jaxsnn.compress.trained import (
    Leaves,
    TrainedState,
    check_inside,
    inside,
    trained_phase,
)

__all__ = ["LearnedWidths", "learned_bits"]

LN2 = math.log(2)
FEWEST = 2  # bits of the widest group of a leaf: -1, 0, 1
PRUNED = 0.5  # where the numbers of a group without bits end, one bit below those with some
FARTHEST, HALVINGS = 32.0, 32  # of the search for `s`, in [-FARTHEST, FARTHEST]


@dataclass(frozen=True, eq=False)
class LearnedWidths:
    """The grids of HGQ; their numbers are the bits `b`, `[]` or `[1, ..., 1, O]`."""

    prices: Mapping[str, Number]  # pattern -> what a bit of one weight costs
    budget: Number  # of all leaves, in the unit of the prices
    per: Per = "channel"
    most: int = 8  # bits
    masks: Mapping[str, Array] | None = None  # leaf name -> mask

    def select(self, params: Any) -> Leaves:
        """Return the leaves that the patterns match, once they and the budget are checked."""
        leaves, prices = tree.named_leaves(params), tree.match(self.prices, params)
        found = {name: leaves[name] for name in prices}
        least = {}
        for name, leaf in found.items():
            check_range(f"price of {name!r}", prices[name], 0, float("inf"))
            check_channels(self.per, name, leaf)
            check_inside(self.masks, name, leaf)
            least[name] = FEWEST * prices[name] * self._most_weights(name, leaf)
        where = "each leaf" if self.per == "leaf" else "one channel of each leaf"
        check_budget(self.budget, least, f"{FEWEST} bits in {where}")
        return found

    def start(self, free: Leaves) -> Leaves:
        """Return bits in the budget: equal between leaves, within one as its least error asks.

        At a given size the squared error of all groups is least where `b` is a constant plus the
        binary logarithm of a group's root mean square.
        """

        def bits(name: str, leaf: Array) -> Array:
            count = jnp.maximum(self._sum(inside(self.masks, name, leaf).astype(jnp.float32)), 1.0)
            power = self._sum(self._values(name, leaf).astype(jnp.float32) ** 2) / count
            half = jnp.log2(jnp.where(power > 0, power, 1.0)) / 2
            return jnp.clip(half - jnp.mean(half), -1.0, 1.0) + FARTHEST / 2

        return self.settle(free, {name: bits(name, leaf) for name, leaf in free.items()})

    def settle(self, free: Leaves, numbers: Leaves) -> Leaves:
        """Return the bits, lowered by the one number that meets the budget."""
        budget = jnp.asarray(self.budget, jnp.float32) * (1 + SLACK)
        prices = {name: self._price(name, free) for name in numbers}

        def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = (low + high) / 2
            lowered = {name: self._widths(b - middle) for name, b in numbers.items()}
            fits = _total(prices, lowered) <= budget
            return jnp.where(fits, low, middle), jnp.where(fits, middle, high)

        ends = jnp.float32(-FARTHEST), jnp.float32(FARTHEST)
        shift = jax.lax.fori_loop(0, HALVINGS, halve, ends)[1]
        return {name: jnp.clip(b - shift, PRUNED, self.most + 0.49) for name, b in numbers.items()}

    def quantize(self, free: Leaves, numbers: Leaves) -> dict[str, Quantized]:
        """Return the nearest points of the grids, with the bits of each group."""
        found = {}
        for name, leaf in free.items():
            bits = self._widths(numbers[name])
            grid = MixedGrid(bits.ravel() if self.per == "channel" else bits, self.per)
            found[name] = grid.quantize(self._values(name, leaf))
        return found

    def gradients(self, gradients: Leaves, free: Leaves, numbers: Leaves) -> tuple[Leaves, Leaves]:
        """Return those of weights, and of bits along the budget."""
        shown, for_free, each, price = self.quantize(free, numbers), {}, {}, {}
        for name, leaf in free.items():
            gradient = gradients[name]
            error = self._values(name, leaf) - shown[name].decode()
            each[name] = LN2 * self._sum(gradient.astype(error.dtype) * error)
            price[name] = self._price(name, free)
            kept = inside(self.masks, name, leaf)
            for_free[name] = jnp.where(kept, gradient, jnp.zeros_like(gradient))
        paid = jnp.asarray(sum(jnp.sum(p) for p in price.values()))
        worth = safe_divide(jnp.asarray(sum(jnp.sum(h) for h in each.values())), paid)
        along = {name: (h - price[name] * worth).astype(jnp.float32) for name, h in each.items()}
        return for_free, along

    def cost(self, free: Leaves, numbers: Leaves) -> Array:
        """Return what the widths cost, in the unit of the prices, float32 `[]`."""
        prices = {name: self._price(name, free) for name in numbers}
        return _total(prices, {name: self._widths(b) for name, b in numbers.items()})

    def _widths(self, numbers: Array) -> Array:
        """Return the bits in force of a leaf's groups: 0, or 2 to `most`, float32."""
        wide = jnp.ravel(numbers)
        widest = (jnp.arange(wide.size) == jnp.argmax(wide)).reshape(numbers.shape)
        bits = jnp.minimum(jnp.round(numbers), self.most)
        bits = jnp.where(bits < FEWEST, 0.0, bits)
        return jnp.where(widest, jnp.maximum(bits, FEWEST), bits)

    def _price(self, name: str, free: Leaves) -> Array:
        """Return what a bit of each group costs: the price times its weights."""
        kept = inside(self.masks, name, free[name]).astype(jnp.float32)
        return jnp.asarray(tree.match(self.prices, free)[name] * self._sum(kept), jnp.float32)

    def _most_weights(self, name: str, leaf: Array) -> Number:
        """Return the weights of the largest group, a plain number where the mask is one."""
        if self.masks is None or is_traced(self.masks[name]):
            return leaf.size // (leaf.shape[-1] if self.per == "channel" else 1)
        kept = np.broadcast_to(np.asarray(self.masks[name]), leaf.shape)
        return int(kept.sum(None if self.per == "leaf" else tuple(range(leaf.ndim - 1))).max())

    def _sum(self, values: Array) -> Array:
        """Return the sum over each group."""
        if self.per == "leaf":
            return jnp.sum(values)
        return jnp.sum(values, tuple(range(values.ndim - 1)), keepdims=True)

    def _values(self, name: str, leaf: Array) -> Array:
        values = as_stored(leaf)
        return jnp.where(inside(self.masks, name, leaf), values, jnp.zeros_like(values))


def _total(prices: Leaves, bits: Leaves) -> Array:
    """Return the sum of all prices times bits, float32 `[]`."""
    return jnp.asarray(sum(jnp.sum(prices[name] * bits[name]) for name in prices), jnp.float32)


def learned_bits(
    inner: optax.GradientTransformation,
    prices: Mapping[str, Number],
    budget: Number,
    *,
    per: Per = "channel",
    most: int = 8,
    masks: Any = None,
    widths: optax.GradientTransformation | None = None,
) -> Phase:
    """Train quantized weights together with the bits of each channel, under one budget (HGQ).

    The network that is shown costs at most the budget, from the first step on; channels may lose
    all their bits, and get some back. The log gets `bits/LEAF`, the mean of the groups, and `cost`.

    >>> params = {"w": jnp.asarray([[0.5, 0.1], [-1.5, 0.02]])}
    >>> phase = learned_bits(optax.sgd(0.1), {"w": 1 / 8}, 1.5)  # 12 bits for four weights
    >>> params, steps = phase.finish(phase.begin(params), phase.optimizer.init(params))
    >>> steps["w"].bits.tolist(), params["w"].tolist()
    ([[4.0, 2.0]], [[0.5, 0.10...], [-1.5, 0.0]])

    Args:
      inner: the optimizer of the free copies.
      prices: pattern -> what a bit of one weight costs, at least 0, may be traced: 1/8 for bytes
        of codes, the SynOps of a weight for bit operations.
      budget: of all leaves together, above 0, may be traced.
      per: "channel" for bits of each index of the last axis, or "leaf".
      most: bits of the widest code, whole, in [2, 16]; packed files have codes of up to 8.
      masks: tree of masks to stay inside, from a pruning before; what is masked costs nothing.
      widths: the optimizer of the bits; None for another `inner`. Bits move by some units in a
        training, weights by less: a higher rate suits them.

    Returns:
      A phase that finishes with weights on grids of different widths, and their steps.

    Raises:
      UserError: if an optimizer is none, a number is out of range or `per` is unknown; at `init`,
        by the leaf's name, if a pattern matches no leaf, channels or masks do not fit, or not even
        2 bits for one channel of each leaf fit the budget.

    References: Sun et al. 2024, https://arxiv.org/abs/2405.00645.
    """
    check_range("budget", budget, 0, float("inf"), open_low=True)
    check_whole("most", most, FEWEST, 16)
    mask_of = None if masks is None else tree.named_leaves(masks)
    grids = LearnedWidths(prices, budget, check_per(per), most, mask_of)

    def observe(state: TrainedState) -> dict[str, Array]:
        shown = grids.quantize(state.free, state.numbers)
        bits = {f"bits/{name}": jnp.mean(each.bits) for name, each in shown.items()}
        return bits | {"cost": grids.cost(state.free, state.numbers)}

    return trained_phase(inner, grids, widths, observe)
