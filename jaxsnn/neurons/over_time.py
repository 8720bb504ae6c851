"""Neurons over the whole time axis."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxsnn.arrays import is_short
from jaxsnn.errors import UserError
from jaxsnn.neurons.neuron import Neuron

__all__ = ["unroll"]


def unroll(
    neuron: Neuron,
    current: Array,
    *,
    timesteps: int | None = None,
    initial: Any = None,
    feedback: Array | None = None,
    dtype: jax.typing.DTypeLike | None = None,
) -> tuple[Array, Array, Any]:
    """Run a layer of neurons over the whole time axis.

    Equal to scanning `neuron.step`, also in its derivative. That of LIF is a reverse pass by hand
    that keeps nothing but the potentials, those of others keep the states.

    States are carried in float32. With bfloat16, spikes are, and what LIF neurons keep of their
    potentials: the distance to the threshold, which rounding leaves on its side.

    >>> from jaxsnn.neurons import LIF
    >>> spikes, potential, _ = unroll(LIF(decay=0.5), jnp.ones((1,)), timesteps=3)
    >>> potential[:, 0].tolist(), spikes[:, 0].tolist()
    ([1.0, 1.5, 1.0], [0.0, 1.0, 0.0])

    Args:
      neuron: its constants.
      current: the input current, `[T, B, ...]`; or `[B, ...]`, the same at every step, if
        `timesteps` is given.
      timesteps: number of steps of a constant current.
      initial: the state before the first step, of LIF a `Membrane`, arrays `[B, ...]`; at rest if
        left out.
      feedback: weights `[C, C]` through which the layer hears its own last spikes, added to the
        current as `o[t-1] @ feedback`. LIF neurons then need the order "integrate_then_fire".
      dtype: of the spikes and of what is kept for the reverse pass, bfloat16 or float32; that of
        the current if left out.

    Returns:
      Spikes `[T, B, ...]`, potentials before reset `[T, B, ...]` (float32, as far as they were
      kept) and the last state, exact in float32.

    Raises:
      UserError: if there is feedback in the order "fire_then_integrate", or the initial state is
        that of another neuron.
    """
    wide = jnp.promote_types(current.dtype, jnp.float32)
    if initial is None:
        start = neuron.begin(current.shape if timesteps else current.shape[1:], wide)
    elif type(initial) is neuron.State:
        start = neuron.State(*(each.astype(wide) for each in initial))
    else:
        raise UserError(
            f"initial must be a {neuron.State.__name__}, the state of {type(neuron).__name__}, "
            f"found {type(initial).__name__}"
        )
    neuron = jax.tree.map(lambda constant: jnp.asarray(constant, wide), neuron)
    return neuron.over_time(
        current,
        timesteps=timesteps,
        start=start,
        at_rest=initial is None,
        feedback=feedback,
        short=is_short(current.dtype if dtype is None else dtype),
    )
