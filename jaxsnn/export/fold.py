"""Batch normalisation folded away for deployment: into the weights, or into the neurons.

A norm that stands still is one factor and one offset for each channel. With its running mean `m`
and variance `v`, and the layer's weights `W` and bias `b`,

    g = scale / sqrt(v + eps)        c = bias_of_norm + g (b - m)
    current = g (W x) + c            and the next potential is linear in it

"kernel" makes that `(g W) x + c`. "neuron" divides the whole neuron by `|g|`: its current, its
threshold `theta`, and with them its potential, which changes no spike in any reset or order, since
each is linear in potential and threshold together (so are the constants that a neuron says are
`scaled`, such as an adaptation):

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

from jaxsnn import coding, layers
from jaxsnn.compress.codes import Step
from jaxsnn.errors import UserError
from jaxsnn.network import Network

__all__ = [
    "divide_neurons",
    "divided_block",
    "fold_norms",
    "set_bias",
    "set_kernel",
    "values_of",
]

WAYS = ("kernel", "neuron")
NEGLIGIBLE = 1e-20  # a smaller |g| counts as 0: what it passes on is below the rounding of c


def fold_norms(net: Network, into: str = "kernel") -> Network:
    """Return a network without norms that computes what this one does.

    A kernel on a grid, known or found in its numbers, stays on one: in "neuron" on its own, in
    "kernel" on a grid with a scale for each channel, to which the folded kernel is rounded (in the
    last bit of a float32).

    Args:
      net: the network; "kernel" takes any topology, "neuron" a chain of layers.
      into: "kernel" or "neuron", as above. A read-out that never spikes has nothing to divide: its
        norm, if it has one, always goes into the kernel. Constants of neurons that are divided
        are no parameters any more.

    Returns:
      A new network, for evaluation.

    Raises:
      UserError: if `into` is unknown, a layer has a LayerNorm, a foreign function is wrapped, the
        network is no chain, or a neuron does not say how it scales.

    Example:
      >>> from jaxsnn import models
      >>> fold_norms(models.build("4C3-10", (8, 8, 1), norm=True)).has_norms
      False
    """
    if into not in WAYS:
        raise UserError(f"into {into!r} is unknown; choose {' or '.join(WAYS)}")
    module = net.module
    if into == "neuron" and not isinstance(module, layers.Chain):
        raise UserError(
            "into 'neuron' must divide all that a neuron hears, which is known in a Chain, found "
            f"the topology of {type(module).__name__}: choose 'kernel'"
        )
    for name, layer in layers.synapses(module).items():
        if isinstance(layer.norm, nnx.LayerNorm):
            raise UserError(
                f"{name!r} has a LayerNorm, whose factor each input sets anew: it cannot be "
                "folded; choose batch normalisation (norm=True), or export it as StableHLO"
            )
    steps = dict(net.steps)
    divisors = {
        name: _fold(layer, into, steps)
        for name, layer in layers.synapses(module).items()
        if layer.norm is not None
    }
    for name in module.names if isinstance(module, layers.Chain) else ():
        divisor = divisors.get(f"{name}/conv2")
        if divisor is not None:
            setattr(module, name, divided_block(getattr(module, name), divisor))
    return Network.of(module, net.input_shape).replace(steps=steps)


def divided_block(block: layers.Residual, divisor: np.ndarray) -> layers.Residual:
    """Return a block whose shortcut is divided as the neurons behind it are."""
    return layers.Residual(
        block.conv1,
        block.conv2,
        projection=block.projection,
        sources=block.sources,
        weight=jnp.asarray(values_of(block.weight, 1.0) / divisor, jnp.float32),
    )


def _fold(layer: layers.Synapse, into: str, steps: dict[str, Step]) -> np.ndarray | None:
    """Fold the norm of a layer, in place; return what its neurons were divided by, `[O]`.

    The steps become those of the new leaves, in place too.
    """
    norm: Any = layer.norm
    mean, var = values_of(norm.mean), values_of(norm.var)
    scale, offset, bias = values_of(norm.scale, 1.0), values_of(norm.bias), values_of(layer.bias)
    factor = scale / np.sqrt(var + norm.epsilon)
    factor = np.where(np.abs(factor) > NEGLIGIBLE, factor, 0.0)
    current = offset + factor * (bias - mean)
    layer.norm = None
    for name in [name for name in steps if name.startswith(f"{layer.name}/")]:
        if name != f"{layer.name}/kernel":
            del steps[name]
    neurons = layer.neurons
    if into == "kernel" or not isinstance(neurons, layers.Neurons):
        _multiply(layer, factor, steps)
        set_bias(layer, current)
        return None
    divisor = np.where(factor == 0.0, 1.0, np.abs(factor))
    set_kernel(layer, values_of(layer.kernel) * np.sign(factor))
    set_bias(layer, current / divisor)
    divide_neurons(layer, divisor)
    return divisor


def divide_neurons(layer: layers.Synapse, divisor: np.ndarray) -> None:
    """Divide the neurons of a layer, and how they hear each other, in place.

    Args:
      layer: the layer, whose kernel and bias are the caller's.
      divisor: > 0, `[O]` or `[]`.

    Raises:
      UserError: if its neurons do not say how they scale.
    """
    neurons: Any = layer.neurons
    if neurons.options.scaled is None:
        raise UserError(
            f"layer {layer.name!r} fires by {type(neurons.options).__name__}, which does not say "
            "how it scales (`scaled`): choose into 'kernel'"
        )
    if isinstance(layer, layers.Recurrent):
        layer.recurrent = _param(values_of(layer.recurrent) / divisor)
    layer.neurons = layers.Neurons(neurons.constants().divided(divisor), trained=())


def _multiply(layer: layers.Synapse, factor: np.ndarray, steps: dict[str, Step]) -> None:
    """Multiply a kernel by a factor for each channel, in place, on its grid if it has one."""
    name = f"{layer.name}/kernel"
    step = steps.get(name) or _found_step(layer.kernel[...])
    if step is None or np.any(np.asarray(step.offset)):
        steps.pop(name, None)
        layer.kernel = _param(values_of(layer.kernel) * factor)
        return
    codes = step.encode(layer.kernel[...]).codes
    channels = (1,) * (codes.ndim - 1) + (-1,)
    scale = np.asarray(step.scale, np.float64) * np.abs(factor).reshape(channels)
    steps[name] = replace(step, scale=jnp.asarray(scale, jnp.float32))
    sign = jnp.asarray(np.sign(factor).astype(np.int32).reshape(channels))
    layer.kernel = nnx.Param(steps[name].with_codes(codes * sign).decode() + 0.0)


def _found_step(kernel: Any) -> Step | None:
    """Return the step of the grid that a kernel stands on exactly, if one is found."""
    grid = coding.known_or_found(kernel)
    if grid is None or grid.ulps is not None:
        return None
    channels = (1,) * (kernel.ndim - 1) + (-1,)
    scale = grid.scale.reshape(channels if grid.scale.size > 1 else ())
    return Step.of(jnp.asarray(scale), bits=grid.bits, unit=float(grid.unit[0]))


def values_of(variable: Any, absent: float = 0.0) -> np.ndarray:
    """Return the numbers of a variable in float64, or what stands for one that is not there."""
    return np.asarray(absent if variable is None else variable[...], np.float64)


def _param(values: np.ndarray) -> Any:
    return nnx.Param(jnp.asarray(values, jnp.float32))


def set_kernel(layer: layers.Synapse, kernel: np.ndarray) -> None:
    """Give a layer another kernel, in place."""
    layer.kernel = _param(kernel)


def set_bias(layer: layers.Synapse, bias: np.ndarray) -> None:
    """Give a layer a bias, in place."""
    layer.bias = nnx.data(_param(bias))  # there may have been none
