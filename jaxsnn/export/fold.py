"""Batch normalisation folded away for deployment: into the weights, or into the neurons.

A norm that stands still is one factor and one offset for each channel. With its running mean `m`
and variance `v`, and the layer's weights `W` and bias `b`,

    g = scale / sqrt(v + eps)        c = bias_of_norm + g (b - m)
    current = g (W x) + c            and the next potential is linear in it

"kernel" makes that `(g W) x + c`. "neuron" divides the whole neuron by `|g|`: its current, its
threshold `theta`, and with them its potential, which changes no spike in any reset or order, since
each is linear in potential and threshold together:

    current = sign(g) W x + c / |g|        threshold = theta / |g|

so that weights on a grid stay on it: integers stay integers where the scale of each channel has
been taken into the norm before (Wei et al. 2025, https://arxiv.org/abs/2502.05905). What else
reaches the neuron is divided too: the weights by which a recurrent layer hears itself, and the
shortcut of a block, which gets a factor for each channel. Where `g = 0` the channel's weights
become 0, which is not on every grid.

Spikes are equal but for rounding; recorded potentials are divided by `|g|` in "neuron".
"""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsnn import layers
from jaxsnn.errors import UserError
from jaxsnn.export.modules import filled

WAYS = ("kernel", "neuron")
NEGLIGIBLE = 1e-20  # a smaller |g| counts as 0: what it passes on is below the rounding of c


def fold_norms(module: layers.Chain, params: Any, stats: Any, into: str = "kernel") -> layers.Chain:
    """Return a network without norms that computes what this one does with running statistics.

    Args:
      module: the network.
      params: its parameters.
      stats: its running statistics and constants.
      into: "kernel" or "neuron", as above. A read-out that never spikes has nothing to divide: its
        norm, if it has one, always goes into the kernel. Constants of neurons that are divided
        are no parameters any more.

    Returns:
      A new network, for evaluation.

    Raises:
      UserError: if `into` is unknown or the trees are not those of the module.
    """
    if into not in WAYS:
        raise UserError(f"into {into!r} is unknown; choose {' or '.join(WAYS)}")
    net = filled(module, params, stats)
    for name in net.names:
        layer = getattr(net, name)
        if isinstance(layer, layers.Residual):
            _fold(layer.conv1, into)
            divisor = _fold(layer.conv2, into)
            if divisor is not None:
                weight = jnp.asarray(_values(layer.weight, 1.0) / divisor, jnp.float32)
                block = layers.Residual(
                    layer.conv1, layer.conv2, projection=layer.projection, sources=layer.sources,
                    weight=weight,
                )  # fmt: skip
                setattr(net, name, block)
        elif isinstance(layer, layers.Synapse):
            _fold(layer, into)
    return net


def _fold(layer: layers.Synapse, into: str) -> np.ndarray | None:
    """Fold the norm of a layer, in place; return what its neurons were divided by, `[O]`."""
    norm = layer.norm
    if norm is None:
        return None
    mean, var = _values(norm.mean), _values(norm.var)
    scale, offset, bias = _values(norm.scale, 1.0), _values(norm.bias), _values(layer.bias)
    factor = scale / np.sqrt(var + norm.epsilon)
    factor = np.where(np.abs(factor) > NEGLIGIBLE, factor, 0.0)
    current = offset + factor * (bias - mean)
    layer.norm = None
    if into == "kernel" or not isinstance(layer.neurons, layers.Neurons):
        _set(layer, _values(layer.kernel) * factor, current)
        return None
    divisor = np.where(factor == 0.0, 1.0, np.abs(factor))
    _set(layer, _values(layer.kernel) * np.sign(factor), current / divisor)
    if isinstance(layer, layers.Recurrent):
        heard = _values(layer.recurrent) / divisor
        layer.recurrent = nnx.Param(jnp.asarray(heard, jnp.float32))
    neuron = layer.neurons.constants()
    threshold = np.asarray(neuron.threshold, np.float64) / divisor
    layer.neurons = layers.Neurons(replace(neuron, threshold=jnp.asarray(threshold, jnp.float32)))
    return divisor


def _values(variable: nnx.Variable | None, absent: float = 0.0) -> np.ndarray:
    """Return the numbers of a variable in float64, or what stands for one that is not there."""
    return np.asarray(absent if variable is None else variable[...], np.float64)


def _set(layer: layers.Synapse, kernel: np.ndarray, bias: np.ndarray) -> None:
    layer.kernel = nnx.Param(jnp.asarray(kernel, jnp.float32))
    layer.bias = nnx.data(nnx.Param(jnp.asarray(bias, jnp.float32)))  # there may have been none
