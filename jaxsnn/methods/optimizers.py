"""What the published codes descend with, where optax alone has no word for it."""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from jaxsnn import tree
from jaxsnn.arrays import Number, safe_divide
from jaxsnn.compress.projections import Recipe
from jaxsnn.errors import UserError

__all__ = ["Descent", "descent", "norm_decay"]

Descent = Literal["adam", "sgd"]


def descent(
    rate: optax.ScalarOrSchedule, name: Descent = "adam", *, conv_decay: Number = 0.0
) -> optax.GradientTransformation:
    """Return Adam, or SGD with momentum 0.9, behind a weight decay of the convolutions.

    >>> step = descent(0.5, "sgd", conv_decay=0.1)
    >>> params = {"kernel": jnp.ones((1, 1, 1, 1)), "bias": jnp.ones(1)}
    >>> updates, _ = step.update(jax.tree.map(jnp.zeros_like, params), step.init(params), params)
    >>> round(updates["kernel"].item(), 3), updates["bias"].item()
    (-0.05, -0.0)

    Args:
      rate: learning rate or schedule.
      name: "adam" or "sgd".
      conv_decay: factor of the kernels `[k, k, I, O]` in their gradient, >= 0, as in PyTorch.

    Raises:
      UserError: if the name is unknown.
    """
    if name not in ("adam", "sgd"):
        raise UserError(f"optimizer {name!r} is unknown; choose adam or sgd")
    steps = optax.adam(rate) if name == "adam" else optax.sgd(rate, momentum=0.9)
    decay = optax.add_decayed_weights(conv_decay, partial(jax.tree.map, lambda x: x.ndim == 4))
    return optax.chain(decay, steps)


def norm_decay(weight: Number, recipe: Recipe) -> optax.GradientTransformation:
    """Add the gradient of `weight sum_l ||W_l||`, over the leaves of a recipe.

    A term of the ADMM authors' script (https://github.com/yjwu17/ADMM-Compression-for-SNNs).

    >>> from jaxsnn.compress import keep_largest
    >>> decay, params = norm_decay(0.5, {"w": keep_largest(0.5)}), {"w": jnp.asarray([3.0, 4.0])}
    >>> decay.update({"w": jnp.zeros(2)}, decay.init(params), params)[0]["w"].tolist()
    [0.30000001192092896, 0.4000000059604645]
    """

    def add(updates: Any, params: Any) -> Any:
        selected = tree.match(recipe, params)

        def one(name: str, update: jax.Array, leaf: jax.Array) -> jax.Array:
            if name not in selected:
                return update
            norm = jnp.broadcast_to(jnp.linalg.norm(leaf.ravel()), leaf.shape)
            return update + weight * safe_divide(leaf, norm)

        return tree.map_named(one, updates, params)

    return optax.stateless(add)
