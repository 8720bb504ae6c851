"""A leaf on a grid of few values: whole numbers, and the step that turns them into weights.

    weight = scale * (code * unit) + offset

A grid gives its leaf as `Quantized`; a `Step` is the same without the codes, small enough to keep
beside the weights, from which it finds the codes again. Nobody has to guess a grid from floats.

Letters in shapes: `...` any shape, `O` output channels (the last axis).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jaxsnn.arrays import Array, Number, as_stored, opaque, safe_divide

__all__ = ["HasSteps", "Quantized", "Step", "along_channels"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Step:
    """What turns whole numbers into the weights of a leaf, and weights back into numbers.

    Its leaves are floats, so `jax.grad` takes a tree with steps in it.

    Attributes:
      scale: `[]`, or `[1, ..., 1, O]` with one for each output channel, >= 0.
      unit: `[]`, distance of two codes in units of the scale: 1, or `1 / (2**b - 1)` of ReScaW.
      offset: `[]`, the weight of code 0: 0 for the grids of this package.
      bits: `[]`, width of the codes, whole, or `[1, ..., 1, O]` with one for each output channel.
    """

    scale: Array
    unit: Array
    offset: Array
    bits: Array

    @classmethod
    def of(cls, scale: Array, *, bits: Number, unit: Number = 1.0, offset: Number = 0.0) -> "Step":
        """Build a step from numbers that may be traced."""
        unit, offset = jnp.asarray(unit, scale.dtype), jnp.asarray(offset, scale.dtype)
        return cls(scale, unit, offset, jnp.asarray(bits, jnp.float32))

    def encode(self, leaf: Array) -> "Quantized":
        """Return the leaf with its codes, each the whole number nearest to its weight.

        For a leaf that lies on the grid these are the numbers it was made of, if they have no more
        than 18 significant bits, which is all that a compiled division is sure of.

        Args:
          leaf: `[...]`, float32 or wider; bfloat16 carries codes up to 127 and no larger ones.

        >>> step = Step.of(jnp.float32(0.1), bits=3)
        >>> step.encode(jnp.asarray([0.1, -0.3, 0.0])).codes.tolist()
        [1, -3, 0]
        """
        found: Quantized = _encode(self, leaf)
        return found

    def with_codes(self, codes: Array) -> "Quantized":
        """Return the leaf of these codes, `[...]` of whole numbers, floats or not."""
        return Quantized(codes.astype(jnp.int32), self.scale, self.unit, self.offset, self.bits)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Quantized:
    """A leaf on a grid of few values.

    Attributes:
      codes: int32 `[...]`, whole numbers, in the shape of the leaf.
      scale: `[]`, or `[1, ..., 1, O]` with one for each output channel, >= 0.
      unit: `[]`, distance of two codes in units of the scale: 1, or `1 / (2**b - 1)` of ReScaW.
      offset: `[]`, the weight of code 0: 0 for the grids of this package.
      bits: `[]`, width of the codes, whole, or `[1, ..., 1, O]` with one for each output channel.
    """

    codes: Array
    scale: Array
    unit: Array
    offset: Array
    bits: Array

    @property
    def step(self) -> Step:
        """The same without the codes."""
        return Step(self.scale, self.unit, self.offset, self.bits)

    def decode(self) -> Array:
        """Return the weights, `scale * (codes * unit) + offset`, `[...]` in the scale's dtype.

        Every product is rounded as it stands, compiled or not, so that the weights are those of
        the projection, bit for bit (before it rounds them to a leaf of shorter floats).

        >>> Step.of(jnp.float32(0.5), bits=3).with_codes(jnp.asarray([3, 0, -1])).decode().tolist()
        [1.5, 0.0, -0.5]
        """
        weights: Array = _decode(self)
        return weights


@partial(jax.jit, inline=True)
def _encode(step: Step, leaf: Array) -> Quantized:
    values = as_stored(leaf) - step.offset
    codes = safe_divide(values, opaque(step.scale * step.unit))
    exponent = 8 if codes.dtype == jnp.float32 else 11
    return step.with_codes(jnp.round(jax.lax.reduce_precision(codes, exponent, 18)))


@partial(jax.jit, inline=True)
def _decode(found: Quantized) -> Array:
    levels = found.codes.astype(found.scale.dtype) * opaque(found.unit)
    return found.scale * levels + found.offset


def along_channels(numbers: Number, leaf: Array) -> Array:
    """Return a number for the leaf, `[]`, or those of its channels `[O]` as `[1, ..., 1, O]`."""
    found = jnp.asarray(numbers)
    return found.reshape((1,) * (leaf.ndim - 1) + (-1,)) if found.ndim == 1 else found


@runtime_checkable
class HasSteps(Protocol):
    """A network that knows which of its leaves are on a grid."""

    @property
    def steps(self) -> Mapping[str, Step]:
        """Leaf name -> step."""

    def replace(self, *, params: Any, steps: Mapping[str, Step]) -> Any:
        """Return the same with other parameters and steps."""
