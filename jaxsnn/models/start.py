"""Start values for networks whose layers' own, uniform in +-1/sqrt(fan_in), are too small."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxsnn import tree

__all__ = ["he_start"]


def he_start(key: Array, params: Any) -> Any:
    """Return weights under which rectified activations keep their size from layer to layer.

        W ~ Normal(0, 2 / fan_in)

    of every kernel, independently. A deep network of ReLUs without norms does not learn without it:
    the layers' own values shrink what passes through by `sqrt(6)` a layer.

    >>> found = he_start(jax.random.key(0), {"dense1": {"kernel": jnp.zeros((200, 50))}})
    >>> round(float(found["dense1"]["kernel"].std()), 2)
    0.1

    Args:
      key: random key.
      params: tree of the weights; leaves called "kernel" `[..., O]` are drawn anew, the product of
        all axes but the last being `fan_in`. All others stay.

    References: He et al. 2015, https://arxiv.org/abs/1502.01852, equation 10. The networks of Rathi
    et al. 2020 take the number of outputs in the place of `fan_in` and, in dense layers, 0.01.
    """
    names = [name for name in tree.named_leaves(params) if name.rpartition("/")[2] == "kernel"]
    keys = dict(zip(names, jax.random.split(key, max(len(names), 1)), strict=False))

    def draw(name: str, leaf: Array) -> Array:
        if name not in keys:
            return leaf
        deviation = math.sqrt(2.0 / math.prod(leaf.shape[:-1]))
        return deviation * jax.random.normal(keys[name], leaf.shape, leaf.dtype)

    return jax.tree.map(jnp.asarray, tree.map_named(draw, params))
