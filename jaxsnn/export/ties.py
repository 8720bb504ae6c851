"""Count what a network's potentials do at single steps, such as standing exactly on the threshold.

A tie, `u == theta`, is where neurons that fire above the threshold and neurons that fire on it
already part ways. Random weights hardly ever make one; weights on a grid make many.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxsnn import layers
from jaxsnn.encode import Signal
from jaxsnn.layers import Neurons, Tape
from jaxsnn.network import Network

__all__ = ["count_ties", "count_where"]


def count_ties(net: Network, x: Array | Signal) -> dict[str, int]:
    """Return how often a potential stood exactly on its threshold, `u[t] == theta`.

    Args:
      net: the network, of layers of ours.
      x: inputs, `[T, B, ...]` or a `Signal`.

    Returns:
      Name of each spiking layer -> number of ties over all steps, samples and neurons.

    Raises:
      UserError: if a foreign function is wrapped.

    Example:
      >>> from jaxsnn import models
      >>> count_ties(models.build("6-3", (4,)), jnp.ones((2, 1, 4)))
      {'dense1': 0, 'dense2': 0}
    """
    return count_where(net, x, jnp.equal)


def count_where(
    net: Network, x: Array | Signal, holds: Callable[[Array, Array], Array]
) -> dict[str, int]:
    """Return for each spiking layer how often `holds(potential, threshold)` was true.

    The threshold is the level at which a neuron fires at that step, its adaptation included.

    Args:
      net: the network, of layers of ours.
      x: inputs, `[T, B, ...]` or a `Signal`.
      holds: maps a potential before its reset and a threshold, both `[B, ...]`, to booleans.
    """
    values = x.over_time() if isinstance(x, Signal) else jnp.asarray(x)
    module: Any = net.module
    spiking = {
        name: layer.neurons.constants()
        for name, layer in layers.synapses(module).items()
        if isinstance(layer.neurons, Neurons)
    }

    def step(membranes: Any, value: Array) -> tuple[Any, dict[str, Array]]:
        tape = Tape(membranes=membranes)
        module(Signal(value[None], 1), tape)
        counts = {}
        for name, neuron in spiking.items():
            state = tape.membranes[name]
            counts[name] = jnp.sum(holds(state.potential, neuron.level(state)))
        return tape.membranes, counts

    shapes = jax.eval_shape(step, {}, values[0])[0]
    rest = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    counts = jax.jit(lambda inputs: lax.scan(step, rest, inputs)[1])(values)
    return {name: int(each.sum()) for name, each in counts.items()}
