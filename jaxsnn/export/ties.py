"""Count what a network's potentials do at single steps, such as standing exactly on the threshold.

A tie, `u == theta`, is where neurons that fire above the threshold and neurons that fire on it
already part ways. Random weights hardly ever make one; weights on a grid make many.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxsnn.encode import Signal
from jaxsnn.export.modules import filled
from jaxsnn.layers import Chain, Neurons, Tape


def count_ties(module: Chain, params: Any, stats: Any, x: Array | Signal) -> dict[str, int]:
    """Return how often a potential stood exactly on its threshold, `u[t] == theta`.

    Args:
      module: the network.
      params: its parameters.
      stats: its running statistics and constants.
      x: inputs, `[T, B, ...]` or a `Signal`.

    Returns:
      Name of each spiking layer -> number of ties over all steps, samples and neurons.

    Raises:
      UserError: if the trees are not those of the module.
    """
    return count_where(filled(module, params, stats), x, jnp.equal)


def count_where(
    net: Chain, x: Array | Signal, holds: Callable[[Array, Array], Array]
) -> dict[str, int]:
    """Return for each spiking layer how often `holds(potential, threshold)` was true.

    Args:
      net: the network, with its values in it.
      x: inputs, `[T, B, ...]` or a `Signal`.
      holds: maps a potential before its reset and a threshold, both `[B, ...]`, to booleans.
    """
    values = x.over_time() if isinstance(x, Signal) else jnp.asarray(x)
    spiking = {
        name: layer.neurons.constants()
        for name, layer in net.synapses().items()
        if isinstance(layer.neurons, Neurons)
    }

    def step(membranes, value):
        tape = Tape(train=False, key=None, membranes=membranes)
        net(Signal(value[None], 1), tape)
        counts = {}
        for name, neuron in spiking.items():
            potential = tape.membranes[name].potential
            threshold = jnp.broadcast_to(neuron.threshold, potential.shape)
            counts[name] = jnp.sum(holds(potential, threshold))
        return tape.membranes, counts

    shapes = jax.eval_shape(step, {}, values[0])[0]
    rest = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    counts = jax.jit(lambda inputs: lax.scan(step, rest, inputs)[1])(values)
    return {name: int(each.sum()) for name, each in counts.items()}
