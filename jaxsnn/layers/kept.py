"""What the reverse pass keeps of the input of a layer where that is spikes: one byte each.

The gradient of a kernel is a product with the layer's input, so that stays in memory until the
reverse pass is there. As spikes are 0 or 1, a byte holds one exactly, and they are floats again
for the moment in which they are multiplied: float32 gradients are the same bit for bit. A bit each
would be an eighth of that, and would cost shifts and a sum on the way in and on the way out.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxsnn.arrays import is_short

__all__ = ["pays", "weigh_spikes"]

Weigh = Callable[[Array, Array], Array]


def pays(dtype: jax.typing.DTypeLike) -> bool:
    """Return whether spikes of a type are better kept as bytes.

    Not in bfloat16, where a byte saves one of two: VGG-16's step on an H100 would take 6 % less
    temporary memory and move 6 % more bytes; in float32 it takes a fifth less, for 0 to 2 % more
    (`experiments.bench --studies gpu-program`). Nor on a CPU, whose XLA drops the barrier before it
    merges and orders operations: it computes the spikes again from the potentials without being
    told to. There bytes left the temporaries of the benchmark's workloads as they were (of VGG-16
    376 MiB) and made a step of 784-800-10 move 8 % more bytes.
    """
    return jax.default_backend() != "cpu" and not is_short(dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def weigh_spikes(weigh: Weigh, spikes: Array, kernel: Array) -> Array:
    """Return `weigh(spikes, kernel)`, with a reverse pass that keeps the spikes as bytes.

    >>> spikes, kernel = jnp.asarray([[0.0, 1.0]]), jnp.asarray([[2.0], [3.0]])
    >>> jax.grad(lambda k: weigh_spikes(jnp.matmul, spikes, k).sum())(kernel).tolist()
    [[0.0], [1.0]]

    Args:
      weigh: a linear map of both, which depends on nothing else that has a gradient.
      spikes: 0 or 1, `[N, ...]`.
      kernel: the weights.
    """
    return weigh(spikes, kernel)


def _forward(
    weigh: Weigh, spikes: Array, kernel: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    none = jnp.zeros((0,), spikes.dtype)  # tells the reverse pass the type
    return weigh(spikes, kernel), (spikes != 0, kernel, none)


def _backward(
    weigh: Weigh, saved: tuple[Array, Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    fired, kernel, none = saved
    # Behind a barrier, or XLA would find that these are the floats of the forward pass, and keep
    # them.
    spikes = lax.optimization_barrier(fired).astype(none.dtype)
    to_spikes, to_kernel = jax.vjp(weigh, spikes, kernel)[1](cotangent)
    return to_spikes, to_kernel


weigh_spikes.defvjp(_forward, _backward)
