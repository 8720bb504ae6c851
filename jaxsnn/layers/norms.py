"""What normalises the current of a layer: over time and batch, or over the channels of a place.

    norm = "batch"     (x - mean) / sqrt(var + eps) * scale + bias     of each channel, over [T, B]
    norm = "layer"     the same over the channels of each pixel, or token, at each step

Statistics of a batch norm stand still in evaluation, so that it can be folded away
(`export.fold_norms`). A LayerNorm (Ba et al. 2016, https://arxiv.org/abs/1607.06450) takes them
from every input anew: it stays, with multiplications that no report counts, and its channels cannot
be cut.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from jaxsnn.arrays import is_short
from jaxsnn.errors import UserError
from jaxsnn.native import channels

__all__ = ["Norm", "add_bias", "kind_of", "make_norm", "normalise"]

Norm = nnx.BatchNorm | nnx.LayerNorm
KINDS = ("batch", "layer")
EPSILON = 1e-5  # of both, as PyTorch's


def make_norm(kind: bool | str, features: int, rngs: nnx.Rngs) -> Norm | None:
    """Return a norm of so many channels, None for False; True is "batch".

    Raises:
      UserError: for an unknown kind.
    """
    if kind is False:
        return None
    if kind is True or kind == "batch":
        return nnx.BatchNorm(features, momentum=0.9, rngs=rngs)
    if kind == "layer":
        return nnx.LayerNorm(features, epsilon=EPSILON, use_fast_variance=False, rngs=rngs)
    raise UserError(f"norm {kind!r} is unknown; choose one of {', '.join(KINDS)}, or False")


def kind_of(norm: Norm | None) -> bool | str:
    """Return what `make_norm` makes such a norm of."""
    if norm is None:
        return False
    return "layer" if isinstance(norm, nnx.LayerNorm) else "batch"


def normalise(norm: Norm, current: Array, bias: Array | None, train: bool, dtype: Any) -> Array:
    """Return a current `[N, ..., C]` with its bias, normalised, in a dtype.

    Of a short current, bfloat16, nothing but itself is kept for the reverse pass; sums are float32.
    """
    if isinstance(norm, nnx.BatchNorm) and current.dtype == dtype and channels.available(current):
        return _in_one_pass(norm, current, bias, train)
    if not is_short(dtype):
        return _apply(norm, add_bias(current, bias, dtype), train)
    graph, state = nnx.split(norm)

    @partial(jax.checkpoint, prevent_cse=False)
    def run(state: Any, current: Array, bias: Array | None) -> tuple[Array, Any]:
        norm = nnx.merge(graph, state)
        normed = _apply(norm, add_bias(current, bias, jnp.float32), train)
        return normed.astype(current.dtype), nnx.state(norm)

    found, state = run(state, current, bias)
    nnx.update(norm, state)
    normed: Array = found
    return normed


def _in_one_pass(norm: nnx.BatchNorm, current: Array, bias: Array | None, train: bool) -> Array:
    """Return what a batch norm makes of a current, by our own code for a CPU.

    A bias only shifts the mean: in training nothing but the running mean knows of it.
    """
    shift = 0.0 if bias is None else bias
    assert norm.scale is not None and norm.bias is not None
    scale, offset = norm.scale[...], norm.bias[...]
    if not train:
        root = lax.rsqrt(norm.var[...] + norm.epsilon)
        return channels.scaled(current, norm.mean[...] - shift, root * scale, offset)
    normed, mean, variance = channels.standardise(
        norm.epsilon, norm.axis_name, current, scale, offset
    )
    for running, now in ((norm.mean, mean + shift), (norm.var, variance)):
        kept = norm.momentum * running[...] + (1 - norm.momentum) * now
        running[...] = lax.stop_gradient(kept)
    return normed


def _apply(norm: Norm, current: Array, train: bool) -> Array:
    if isinstance(norm, nnx.LayerNorm):
        found: Array = norm(current)
        return found
    normed: Array = norm(current, use_running_average=not train)
    return normed


def add_bias(current: Array, bias: Array | None, dtype: Any) -> Array:
    """Return a current with the bias of each channel, added in float32, in a dtype."""
    if bias is not None:
        current = current.astype(jnp.float32) + bias.reshape((1,) * (current.ndim - 1) + bias.shape)
    return current.astype(dtype)
