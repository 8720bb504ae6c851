"""What the published codes descend with, where optax alone has no word for it."""

import math
from collections.abc import Collection
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from jaxsnn import tree
from jaxsnn.arrays import Number, check_range, safe_divide
from jaxsnn.compress.projections import Recipe
from jaxsnn.errors import UserError

__all__ = ["Descent", "descent", "frozen", "muon", "norm_decay"]

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


def muon(
    rate: optax.ScalarOrSchedule,
    kernels: Collection[str],
    others: optax.GradientTransformation,
    *,
    momentum: float = 0.6,
) -> optax.GradientTransformation:
    """Turn some kernels by their orthogonalised momentum; leave the rest to another optimizer.

        M = U S V^T of the momentum, kernels `[..., O]` as matrices `[inputs, O]`
        W <- sqrt(O) (W - rate U V^T) / ||W - rate U V^T||_F

    `U V^T` comes from five steps of Newton and Schulz (`optax.contrib.scale_by_muon`), which bring
    the singular values near to 1. Behind a kernel stands a batch norm, which makes its length
    meaningless: it is held, so that the rate alone says how far a step turns.

    >>> params = {"conv1": {"kernel": jnp.ones((1, 1, 2, 2))}, "out": {"kernel": jnp.ones((2, 2))}}
    >>> optimizer = muon(0.1, ("conv1/kernel",), optax.sgd(1.0))
    >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
    >>> after = optax.apply_updates(params, updates)
    >>> round(float(jnp.linalg.norm(after["conv1"]["kernel"])), 4)  # the root of 2
    1.4142
    >>> float(after["out"]["kernel"].max())
    0.0

    Args:
      rate: learning rate or schedule of the kernels.
      kernels: names of the leaves that are turned, each with a norm behind it.
      others: optimizer of all other leaves.
      momentum: of the kernels' gradients, with Nesterov's look ahead, in [0, 1).

    Raises:
      UserError: if the momentum is out of range; at `init`, if there is no leaf of a name.

    References: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; the held length is
    that of https://github.com/KellerJordan/cifar10-airbench.
    """
    check_range("momentum", momentum, 0, 1, open_high=True)

    def matrices(params: Any) -> Any:
        def axes(leaf: jax.Array) -> optax.contrib.MuonDimensionNumbers:
            return optax.contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), (leaf.ndim - 1,))

        return jax.tree.map(axes, params)

    turned = optax.chain(
        optax.contrib.scale_by_muon(beta=momentum, weight_dimension_numbers=matrices),
        optax.scale_by_learning_rate(rate),
        optax.stateless(_held),
    )
    return _by_name(tuple(kernels), turned, others)


def _held(updates: Any, params: Any) -> Any:
    """Return updates after which each leaf `[..., O]` has the length `sqrt(O)`."""

    def one(update: jax.Array, leaf: jax.Array) -> jax.Array:
        after = leaf + update
        length = jnp.broadcast_to(jnp.linalg.norm(after.ravel()), after.shape)
        moved: jax.Array = safe_divide(after, length) * math.sqrt(leaf.shape[-1]) - leaf
        return moved

    return jax.tree.map(one, updates, params)


def frozen(
    inner: optax.GradientTransformation, leaves: Collection[str]
) -> optax.GradientTransformation:
    """Leave some leaves as they are, and train the others.

    >>> params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    >>> optimizer = frozen(optax.sgd(1.0), ("a",))
    >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
    >>> updates["a"].tolist(), updates["b"].tolist()
    ([0.0, 0.0], [-1.0, -1.0])

    Args:
      inner: optimizer of the others.
      leaves: names of those that stay.

    Raises:
      UserError: at `init`, if there is no leaf of a name.
    """
    return _by_name(tuple(leaves), optax.set_to_zero(), inner)


def _by_name(
    names: tuple[str, ...],
    chosen: optax.GradientTransformation,
    others: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Return an optimizer that updates the leaves of some names in a way of their own."""

    def label(params: Any) -> Any:
        known = tree.named_leaves(params)
        if missing := [name for name in names if name not in known]:
            raise UserError(f"there is no leaf {missing[0]!r}; choose of {', '.join(known)}")
        return tree.map_named(lambda name, _: "chosen" if name in names else "others", params)

    return optax.partition({"chosen": chosen, "others": others}, label)
