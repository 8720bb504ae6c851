"""Quantizers without a level for zero: QP-SNN's vanilla one, and weight rescaling (ReScaW).

Wei et al. 2025, "QP-SNN: Quantized and Pruned Spiking Neural Networks", ICLR 2025,
https://arxiv.org/abs/2502.05905, section 4.1 (Eq. 4 to 6, 8 to 10, appendix D). With `b` bits and
`s = 2**b - 1`,

    k = round(s / 2 (clip(W / gamma, -1, 1) + 1))         codes 0, 1, ..., s
    W -> gamma (2 k / s - 1) = gamma (2 k - s) (1 / s)    levels +-1, +-3, ..., +-s, times gamma / s

The vanilla quantizer has `gamma = 1` and wastes most codes on weights of small range; ReScaW takes
`gamma` from the weights at hand, anew at every projection. Half-way cases go to the even code.

Zero is no level: a weight of 0 becomes `gamma / s` (with one bit `-gamma`). A mask therefore comes
last, and `kept` puts it there. Unlike a Euclidean projection the result is not the nearest point,
and it is a fixed point only if gamma is 1 or the largest magnitude.

The right-hand formula is computed as it stands, `gamma * (level * (1 / s))` with every product
rounded, compiled or not. That is what lets `codes.Quantized` and the packed file (`jaxsnn.coding`)
return the same bits: scale `gamma`, unit `1 / s`, and the level as code; 0 is a pruned entry.

Where the sources differ:
- The paper writes one gamma for a layer, the authors' code takes one for each output channel; ours
  is the code's, `per="layer"` the paper's.
- Backwards, the paper stops the gradient where `|W| > gamma` ("mask"; with the mean as gamma that
  freezes 42 % of Gaussian weights), the code divides it by gamma ("inv_gamma"). "identity" is the
  choice for SGD, whose rate "inv_gamma" multiplies by 10 to 50.
- The lower bound on gamma, 1e-8, is ours: a filter of zeros has 0 / 0 otherwise.

Letters in shapes: `...` any shape, `O` output channels (the last axis).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn import arrays
from jaxsnn.arrays import (
    Array,
    Number,
    as_stored,
    check_range,
    check_whole,
    opaque,
    safe_divide,
)
from jaxsnn.compress.codes import Quantized, Step
from jaxsnn.compress.gradients import GradientRule, pass_through
from jaxsnn.compress.grids import check_channels
from jaxsnn.compress.projections import Projection, check_mask
from jaxsnn.errors import UserError

__all__ = [
    "MAX_BITS",
    "Quantizer",
    "differentiable",
    "gradient_rule",
    "rescaled",
    "utilisation",
    "vanilla",
]

Gamma = Literal["mean", "max", "percentile"]
Found = TypeVar("Found")

MAX_BITS = 8
SMALLEST_GAMMA = 1e-8

# Row b: s = 2**b - 1 and 1 / s. Looked up, because a compiled division need not be exact.
_STEPS = np.array([[s, 1 / s] for s in (1, *(2**b - 1 for b in range(1, MAX_BITS + 1)))])


def _compiled(
    method: Callable[["Quantizer", Array], Found],
) -> Callable[["Quantizer", Array], Found]:
    """Run a method as one compiled program for all quantizers of a kind, not step by step."""

    @partial(jax.jit, static_argnums=0, inline=True)
    def program(kind: tuple[Any, ...], numbers: tuple[Any, ...], leaf: Array) -> Found:
        (gamma, per), (bits, quantile, kept) = kind, numbers
        return method(Quantizer(bits, gamma, per, quantile, kept), leaf)

    @wraps(method)
    def call(quantizer: "Quantizer", leaf: Array) -> Found:
        q = quantizer
        found: Found = program((q.gamma, q.per), (q.bits, q.quantile, q.kept), leaf)
        return found

    return call


@dataclass(frozen=True, eq=False)
class Quantizer:
    """A projection that `vanilla` and `rescaled` make: leaf `[...]` -> quantized leaf `[...]`."""

    bits: Number
    gamma: Gamma | None = None  # statistic of the weights; None is the constant 1
    per: Literal["channel", "layer"] = "layer"
    quantile: Number = 0.99
    kept: Array | None = None  # bool, broadcastable to the leaf

    @_compiled
    def gammas(self, leaf: Array) -> Array:
        """Return gamma of a leaf that is not quantized yet, `[1, ..., 1, O]` or `[]`, > 0."""
        values = as_stored(leaf)
        if self.gamma is None:
            return jnp.ones([], values.dtype)
        channels = self.per == "channel"
        axes = tuple(range(leaf.ndim - 1)) if channels else None
        counted: Array | bool = True
        count: Array | int = math.prod(leaf.shape[:-1]) if channels else leaf.size
        if self.kept is not None:
            counted = jnp.broadcast_to(opaque(self.kept), leaf.shape)
            count = jnp.sum(counted, axes, keepdims=channels)
        magnitude = jnp.abs(values)
        if self.gamma == "mean":
            total = jnp.sum(magnitude, axes, where=counted, keepdims=channels)
            gamma = safe_divide(total, opaque(jnp.asarray(count, values.dtype)))
        elif self.gamma == "max":
            gamma = jnp.max(magnitude, axes, where=counted, initial=0.0, keepdims=channels)
        else:
            upper = jnp.asarray(self.quantile, values.dtype)
            both = jnp.where(counted, values, jnp.nan)
            tails = jnp.nanquantile(both, jnp.stack([1 - upper, upper]), axes, keepdims=channels)
            gamma = jnp.where(count > 0, jnp.max(jnp.abs(tails), axis=0), 0.0)
        return jnp.maximum(gamma, SMALLEST_GAMMA)

    @_compiled
    def quantize(self, leaf: Array) -> Quantized:
        """Return the levels `[...]` and gamma; a level is `2 k - s`, or 0 outside `kept`.

        Args:
          leaf: the free weights `[...]`, not the quantized ones, whose mean magnitude is another.
        """
        gamma = self.gammas(leaf)
        _, unit = self._steps(gamma.dtype)
        return Step.of(gamma, bits=self.bits, unit=unit).with_codes(self._levels(leaf, gamma))

    @_compiled
    def __call__(self, leaf: Array) -> Array:
        """Return the quantized leaf, `[...]` in its dtype, zero outside `kept`."""
        gamma = self.gammas(leaf)
        _, unit = self._steps(gamma.dtype)
        # Not by way of whole numbers: a weight that is not finite must stay so.
        return (gamma * (self._levels(leaf, gamma) * opaque(unit))).astype(leaf.dtype)

    def check(self, name: str, leaf: Array) -> None:
        """Raise a `UserError` that names the leaf if it has no channels or the mask no place."""
        if self.kept is not None:
            check_mask(self.kept, name, leaf)
        check_channels(self.per, name, leaf)

    def _steps(self, dtype: jnp.dtype) -> tuple[Array, Array]:
        """Return `s` and `1 / s`."""
        steps = jnp.asarray(_STEPS, dtype)[jnp.asarray(self.bits, jnp.int32)]
        return steps[0], steps[1]

    def _levels(self, leaf: Array, gamma: Array) -> Array:
        """Return `2 k - s` as floats, `[...]`, and 0 outside `kept`."""
        steps, _ = self._steps(gamma.dtype)
        unit = jnp.clip(as_stored(leaf) / gamma, -1, 1)
        levels = 2 * jnp.round(steps / 2 * (unit + 1)) - steps
        if self.kept is None:
            return levels
        return jnp.where(jnp.broadcast_to(self.kept, levels.shape), levels, 0.0)


def vanilla(bits: Number) -> Quantizer:
    """Round to `2**b` levels in [-1, 1], whatever the weights (Eq. 4 to 6).

        W -> 2 k / s - 1        k = round(s / 2 (clip(W, -1, 1) + 1))        s = 2**b - 1

    >>> vanilla(1)(jnp.asarray([0.3, -0.2])).tolist()
    [1.0, -1.0]

    Args:
      bits: `b`, whole, in [1, 8], may be traced.

    Raises:
      UserError: if the number of bits is out of range.
    """
    return Quantizer(check_whole("bits", bits, 1, MAX_BITS))


def rescaled(
    bits: Number,
    *,
    gamma: Gamma = "mean",
    per: Literal["channel", "layer"] = "channel",
    quantile: Number = 0.99,
    kept: Array | None = None,
) -> Quantizer:
    """Round to `2**b` levels in `[-gamma, gamma]`: ReScaW (Eq. 9 and 10).

        W -> gamma (2 k / s - 1)        k = round(s / 2 (clip(W / gamma, -1, 1) + 1))

    >>> rescaled(1)(jnp.asarray([[3.0], [-1.0]])).tolist()
    [[2.0], [-2.0]]

    Args:
      bits: `b`, whole, in [1, 8], may be traced.
      gamma: "mean" of `|W|`, the published choice; "max" of `|W|`; or "percentile",
        `max(|P_{1-x}(W)|, |P_x(W)|)` with x the `quantile`.
      per: "channel", a gamma for each index of the last axis; or "layer", one for the leaf.
      quantile: x, in [0.5, 1], may be traced; for "percentile" alone.
      kept: boolean, broadcastable to the leaf. What lies outside does not count for gamma and
        becomes zero, as if those inputs had been cut out of the leaf.

    Raises:
      UserError: if a number is out of range or a name unknown.
    """
    check_whole("bits", bits, 1, MAX_BITS)
    check_range("quantile", quantile, 0.5, 1)
    if gamma not in ("mean", "max", "percentile"):
        raise UserError(f"gamma must be 'mean', 'max' or 'percentile', found {gamma!r}")
    if per not in ("channel", "layer"):
        raise UserError(f"per must be 'channel' or 'layer', found {per!r}")
    return Quantizer(bits, gamma, per, quantile, None if kept is None else jnp.asarray(kept, bool))


RuleName = Literal["mask", "inv_gamma", "identity"]


def gradient_rule(name: RuleName, quantizer: Quantizer) -> GradientRule:
    """Choose how a gradient passes a quantizer: the `straight_through` of `latent`.

        identity     dL/dW = dL/dQ
        inv_gamma    dL/dW = dL/dQ / gamma                 the authors' code; with Adam
        mask         dL/dW = dL/dQ where |W| <= gamma      the paper, appendix D

    `Q` is the quantized weight; gamma is a constant to all three. Outside `kept` it is 0.

    >>> rule = gradient_rule("mask", rescaled(1))  # gamma is the mean magnitude, 2 here
    >>> rule(jnp.ones((2, 1)), jnp.asarray([[3.0], [-1.0]])).tolist()
    [[0.0], [1.0]]

    Args:
      name: of the rule.
      quantizer: the one that the recipe has for the leaves; it gives gamma.

    Returns:
      (gradient at the quantized leaf, free leaf) -> gradient of the free leaf, all `[...]`.

    Raises:
      UserError: if the name is unknown.
    """

    def inv_gamma(gradient: Array, free: Array) -> Array:
        return (gradient / quantizer.gammas(free)).astype(gradient.dtype)

    def mask(gradient: Array, free: Array) -> Array:
        return jnp.where(jnp.abs(free) <= quantizer.gammas(free), gradient, 0)

    rules: dict[str, GradientRule] = {
        "mask": mask,
        "inv_gamma": inv_gamma,
        "identity": pass_through,
    }
    if name not in rules:
        raise UserError(f"rule must be {', '.join(map(repr, rules))}, found {name!r}")

    def rule(gradient: Array, free: Array) -> Array:
        passed = rules[name](gradient, free)
        if quantizer.kept is None:
            return passed
        return jnp.where(jnp.broadcast_to(quantizer.kept, passed.shape), passed, 0)

    return rule


def differentiable(quantizer: Quantizer, rule: GradientRule) -> Projection:
    """Return the quantizer as a function to differentiate: its value, the rule's derivative.

    Training free weights through it is what `latent` does, for code that quantizes inside its own
    forward pass.

    Args:
      quantizer: from `vanilla` or `rescaled`.
      rule: one of `gradient_rule`, or another that is linear in the gradient, entry by entry.
    """

    def quantize(leaf: Array) -> Array:
        fixed = jax.lax.stop_gradient(leaf)
        slope = rule(jnp.ones_like(leaf), fixed)
        return arrays.straight_through(quantizer(fixed), slope * leaf)

    return quantize


@jax.jit
def utilisation(found: Quantized) -> Array:
    """Return the share of the `2**b` codes that occur, float32 `[]` in (0, 1] (Eq. 8).

    The vanilla quantizer of weights in [-a, a] reaches about `(1 + a s) / (s + 1)`.

    >>> float(utilisation(vanilla(2).quantize(jnp.asarray([-1.0, -0.9, 0.1]))))
    0.5

    Args:
      found: what `Quantizer.quantize` gives; pruned entries do not count.
    """
    levels = jnp.ldexp(1.0, found.bits.astype(jnp.int32))
    codes = (found.codes + levels.astype(jnp.int32) - 1) // 2
    pruned = 2**MAX_BITS
    codes = jnp.where(found.codes == 0, pruned, codes)
    used = jnp.bincount(codes.ravel(), length=pruned + 1)[:pruned] > 0
    return jnp.sum(used) / levels
