"""A network of whole numbers: kernels are their codes, biases and thresholds have few bits.

A layer whose kernel is on a grid, `W = s K` with whole numbers `K` and a step `s` for all weights
or for each channel, fires as the one that is divided by it (`Neuron.divided`),

    current = K x + b / s        threshold = theta / s

so that no step has to be kept. A read-out that never fires has scores to be compared, all of one
step; it is multiplied by `2**round(log2 s) / s`, between 0.7 and 1.5, which changes no decision.

Biases and thresholds are then rounded to `m 2**e` with whole numbers `m` of so many bits and the
least `e`, of each leaf its own, that has room for them. Now every number of a layer is a whole one
times a power of two: float32 adds up spikes without rounding, integers (`export.to_integer`) have
the same numbers, and a leaf takes the bytes of its `m` (form `points` of `jaxsnn.coding`).

Letters in shapes: `O` output channels.
"""

import math
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsnn import layers
from jaxsnn.arrays import check_whole
from jaxsnn.compress.codes import Step
from jaxsnn.errors import UserError
from jaxsnn.export.fold import divide_neurons, divided_block, set_bias, set_kernel, values_of
from jaxsnn.network import Network

__all__ = ["to_whole_numbers", "rounded"]

MOST_BITS = 8


def to_whole_numbers(net: Network, bits: int = MOST_BITS) -> Network:
    """Return a network whose layers count in units of their weights, other numbers rounded.

    Args:
      net: a chain of layers without norms (`fold_norms` removes them). Layers whose kernel is on no
        known grid (`net.steps`) keep it, and their biases and thresholds are rounded.
      bits: of a bias and of a threshold, in [2, 8].

    Returns:
      A new network, for evaluation; constants of its neurons are no parameters any more.

    Raises:
      UserError: if the network has norms or is no chain, or a neuron does not say how it scales.

    Example:
      >>> from jaxsnn import compress, models
      >>> net = models.build("6-3", (4,), readout="current")
      >>> net = to_whole_numbers(compress.project(net, {"*/kernel": compress.uniform_grid(3)}))
      >>> float(net.steps["dense1/kernel"].scale), net.stats["dense1"]["neurons"]["threshold"].shape
      (1.0, ())
    """
    check_whole("bits", bits, 2, MOST_BITS)
    module = net.module
    if net.has_norms or not isinstance(module, layers.Chain):
        found = "norms" if net.has_norms else f"the topology of {type(module).__name__}"
        raise UserError(f"whole numbers are for a chain of layers without norms, found {found}")
    steps = {x: step for x, step in net.steps.items() if x.endswith(("/kernel", "/recurrent"))}
    divisors = {}
    for name, layer in layers.synapses(module).items():
        step = steps.get(f"{name}/kernel")
        if step is not None and not np.any(np.asarray(step.offset)):
            if isinstance(layer.neurons, layers.Neurons):
                divisors[name] = _divide(layer, name, steps)
            elif name == net.order[-1] and step.scale.size == 1:
                steps[f"{name}/kernel"] = _scale_readout(layer, step)
        if layer.bias is not None:
            set_bias(layer, rounded(values_of(layer.bias), bits))
        if isinstance(layer.neurons, layers.Neurons):
            layer.neurons = _rounded_neurons(layer.neurons, bits)
    for name in module.names:
        if f"{name}/conv2" in divisors:
            block = divided_block(getattr(module, name), divisors[f"{name}/conv2"])
            setattr(module, name, block)
    return Network.of(module, net.input_shape).replace(steps=steps)


def rounded(values: np.ndarray, bits: int, least: int = 0) -> np.ndarray:
    """Return numbers rounded to whole ones times the smallest power of two that has room.

    >>> rounded(np.array([0.1, -3.0, 4.4]), 4)
    array([ 0. , -3. ,  4.5])

    Args:
      values: finite numbers of any shape.
      bits: of the difference between the largest whole number, or 0, and the smallest, or 0.
      least: magnitude of the whole number of a value that is not 0.
    """
    span = float(values.max(initial=0.0) - values.min(initial=0.0))
    if span == 0:
        return values
    top = 2**bits - 1
    power = math.ceil(math.log2(span / top))
    whole = np.rint(values / 2.0**power)
    if whole.max(initial=0.0) - whole.min(initial=0.0) > top:
        power += 1
        whole = np.rint(values / 2.0**power)
    whole = np.where(np.abs(whole) < least, np.sign(values) * least, whole)
    found: np.ndarray = whole * 2.0**power
    return found


def _divide(layer: layers.Synapse, name: str, steps: dict[str, Step]) -> np.ndarray:
    """Divide a layer by the step of its kernel, in place; return that step, `[O]`.

    The steps become those of the new leaves, in place too.
    """
    step, heard = steps[f"{name}/kernel"], steps.get(f"{name}/recurrent")
    codes = np.asarray(step.encode(layer.kernel[...]).codes)
    steps[f"{name}/kernel"] = Step.of(jnp.float32(1), bits=step.bits)
    scale = np.asarray(step.scale, np.float64) * float(step.unit)
    divisor = _with_silent(layer, scale.ravel(), codes) if scale.size > 1 else scale.reshape(())
    divisor = np.where(divisor == 0, 1.0, divisor)
    set_kernel(layer, codes)
    if layer.bias is not None:
        set_bias(layer, values_of(layer.bias) / divisor)
    before = layer.feedback()
    divide_neurons(layer, divisor)
    if heard is not None and before is not None and isinstance(layer, layers.Recurrent):
        scale = np.asarray(heard.scale, np.float64) / divisor
        scale = scale.reshape((1, -1) if scale.size > 1 else ())
        after = replace(heard, scale=jnp.asarray(scale, jnp.float32))
        steps[f"{name}/recurrent"] = after
        layer.recurrent = nnx.Param(after.with_codes(heard.encode(before).codes).decode())
    return np.broadcast_to(divisor, codes.shape[-1:])


def _with_silent(layer: layers.Synapse, divisor: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return the divisors `[O]`, of channels without weights one that suits the others.

    Any would do; the threshold becomes the lowest of the others, so that all have room.
    """
    alive = codes.reshape(-1, divisor.size).any(0) & (divisor > 0)
    neurons: Any = layer.neurons
    threshold = getattr(neurons.constants(), "threshold", 1.0)
    threshold = np.broadcast_to(np.asarray(threshold, np.float64), divisor.shape)
    lowest = (threshold[alive] / divisor[alive]).min() if alive.any() else 1.0
    return np.where(alive, divisor, threshold / lowest)


def _scale_readout(layer: layers.Synapse, step: Step) -> Step:
    """Multiply a read-out so that its step is a power of two, in place; return that step."""
    codes = np.asarray(step.encode(layer.kernel[...]).codes)
    old = float(np.asarray(step.scale, np.float64).ravel()[0] * float(step.unit))
    if old == 0:
        return step
    new = 2.0 ** round(math.log2(old))
    set_kernel(layer, codes * new)
    if layer.bias is not None:
        set_bias(layer, values_of(layer.bias) * (new / old))
    return Step.of(jnp.float32(new), bits=step.bits)


def _rounded_neurons(neurons: layers.Neurons, bits: int) -> layers.Neurons:
    """Return neurons whose constants in units of the potential are rounded."""
    neuron = neurons.constants()
    found = {
        name: jnp.asarray(rounded(np.asarray(getattr(neuron, name), np.float64), bits, 1))
        for name in neuron.scaled or ()
    }
    return layers.Neurons(replace(neuron, **found), trained=())  # type: ignore[type-var]
