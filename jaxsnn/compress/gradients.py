"""Rules by which a gradient passes a projection, whose own derivative is zero almost everywhere.

`latent` applies one to the gradient of each free copy: the straight-through estimator and its
variants. `rescaling.gradient_rule` has those of QP-SNN.
"""

from collections.abc import Callable

import jax.numpy as jnp

from jaxsnn.arrays import Array, Number, check_range

__all__ = ["GradientRule", "pass_through", "pass_within"]

GradientRule = Callable[[Array, Array], Array]
"""Gradient at the projected leaf `[...]`, free copy `[...]` -> gradient for the copy `[...]`."""


def pass_through(gradient: Array, free: Array) -> Array:
    """Hand the gradient on unchanged, as if the projection were the identity.

    >>> pass_through(jnp.asarray([0.5, 0.5]), jnp.asarray([0.3, 2.0])).tolist()
    [0.5, 0.5]
    """
    del free
    return gradient


def pass_within(bound: Number) -> GradientRule:
    """Return the rule that stops gradients where the free copy is beyond `+-bound`.

    >>> pass_within(1.0)(jnp.asarray([0.5, 0.5]), jnp.asarray([0.3, 2.0])).tolist()
    [0.5, 0.0]

    Args:
      bound: largest magnitude that still learns, greater than 0, may be traced.

    Raises:
      UserError: if the bound is not above 0.
    """
    check_range("bound", bound, 0, float("inf"), open_low=True)

    def rule(gradient: Array, free: Array) -> Array:
        return jnp.where(jnp.abs(free) <= bound, gradient, jnp.zeros_like(gradient))

    return rule
