"""Networks made of other networks: with other neurons, other widths, other units of weight.

What is needed of a network is read off its tree of layers, never off names or a layout string.
"""

import functools
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxsnn import layers, tree
from jaxsnn.arrays import Number, check_range, check_whole
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.inputs import Inputs
from jaxsnn.layers import Tape, walk
from jaxsnn.layers.norms import kind_of
from jaxsnn.network import Network
from jaxsnn.neurons import Neuron

__all__ = [
    "ann_of",
    "in_dtype",
    "rescale",
    "residual_blocks",
    "resized",
    "spiking_of",
    "uniform_widths",
]


def ann_of(net: Network) -> Network:
    """Return the ANN of a network's layout: rectified units in the place of spiking neurons.

    >>> from jaxsnn import models
    >>> options = {"readout": "current", "use_bias": False}
    >>> spiking = models.build("8-3", (4,), **options)
    >>> ann_of(spiking).program == models.build("8-3", (4,), activation="relu", **options).program
    True

    Args:
      net: a spiking network, whose weights the ANN gets; or an ANN, which stays as it is.
    """
    return _with_units(net, layers.Rectified)


def spiking_of(net: Network, neuron: Neuron) -> Network:
    """Return the spiking network of a network's layout, all of its hidden neurons alike.

    Args:
      net: an ANN, or a spiking network, whose neurons are replaced; the weights stay.
      neuron: constants of the spiking layers.

    Example:
      >>> from jaxsnn import models
      >>> from jaxsnn.neurons import LIF
      >>> ann = models.build("8-3", (4,), readout="current", activation="relu")
      >>> spiking_of(ann, LIF(0.9, 1.0)).stats["dense1"]["neurons"]["threshold"].item()
      1.0
    """
    return _with_units(net, lambda: layers.Neurons(neuron))


def _with_units(net: Network, unit: Callable[[], layers.Neurons | layers.Rectified]) -> Network:
    module = net.module
    for layer in layers.synapses(module).values():
        if isinstance(layer.neurons, (layers.Neurons, layers.Rectified)):
            layer.neurons = unit()
    return Network.of(module, net.input_shape)


def in_dtype(net: Network, dtype: jax.typing.DTypeLike) -> Network:
    """Return a network whose products are computed in a dtype; its weights stay as they are.

    >>> from jaxsnn import layers, models
    >>> net = in_dtype(models.build("8-3", (4,), dtype=jnp.bfloat16), jnp.float32)
    >>> [layer.dtype for layer in layers.synapses(net.module).values()]
    [dtype('float32'), dtype('float32')]
    """
    module = net.module
    for layer in layers.synapses(module).values():
        layer.dtype = jnp.dtype(dtype)
    return Network.of(module, net.input_shape).replace(steps=net.steps)


def residual_blocks(net: Network) -> tuple[layers.Residual, ...]:
    """Return the residual blocks of a network, in the order of `walk.layers_of`."""
    found = walk.layers_of(net.module)
    return tuple(layer for layer in found if isinstance(layer, layers.Residual))


# ----------------------------------------------------------------------------------------------
# widths


def resized(
    net: Network,
    widths: Mapping[str, int],
    inputs: Inputs,
    *,
    left_out: Collection[str] = (),
    dropout: float | None = None,
    seed: int = 0,
) -> Network:
    """Return a network of the same layers with other widths and fresh start values.

    >>> from jaxsnn import models
    >>> net = models.build("8C3-AP2-16C3-AP4-10", (8, 8, 1))
    >>> small = resized(net, {"conv1": 3, "conv2": 5}, Inputs((8, 8, 1), 4))
    >>> small.params["conv2"]["kernel"].shape, small.params["dense1"]["kernel"].shape
    ((3, 3, 3, 5), (5, 10))

    Args:
      net: a chain of layers, without residual blocks.
      widths: layer -> its channels or neurons, at least 1; layers that are not named keep theirs.
      inputs: of the task, for the shapes between the layers.
      left_out: layers that the new network does not have. One takes a dropout right behind it away;
        poolings stay.
      dropout: share that each dropout drops, in [0, 1); left out, as before.
      seed: of the start values.

    Raises:
      UserError: for a layer that is not there or cannot be resized, or a number out of range.
    """
    chain = net.module
    if not isinstance(chain, layers.Chain):
        raise UserError(
            f"only a layers.Chain can get other widths, found {type(chain).__name__}: build the "
            "narrow network yourself"
        )
    for name in (*widths, *left_out):
        if name not in layers.synapses(chain):
            raise UserError(f"the network has no layer {name!r} with weights")
    if dropout is not None:
        check_range("dropout", dropout, 0.0, 1.0, open_high=True)
    rngs, found, gone = nnx.Rngs(seed), dict[str, nnx.Module](), False
    signal = inputs.abstract()
    signal = signal if isinstance(signal, Signal) else Signal(signal, inputs.timesteps)
    for name in chain.names:
        layer = getattr(chain, name)
        if name in left_out or (gone and isinstance(layer, layers.Dropout)):
            gone = True
            continue
        gone = False
        layer = _resized(layer, signal.shape[-1], widths.get(name), rngs)
        if dropout is not None and isinstance(layer, layers.Dropout):
            layer.rate = dropout
        found[name] = layer
        signal = _output(layer, signal)
    return Network.of(layers.Chain(found), inputs.shape)


def uniform_widths(
    net: Network, names: Collection[str], inputs: Inputs, weights: int, **options: Any
) -> dict[str, int]:
    """Return widths, all smaller by one factor, that come nearest to a number of parameters.

    >>> from jaxsnn import models
    >>> net = models.build("8C3-AP2-16C3-AP4-10", (8, 8, 1), use_bias=False)
    >>> uniform_widths(net, ("conv1", "conv2"), Inputs((8, 8, 1), 4), 400)
    {'conv1': 4, 'conv2': 8}

    Args:
      net: a chain of layers.
      names: of the layers whose widths fall.
      inputs: of the task.
      weights: parameters that the smaller network should have.
      **options: further ones of `resized`.

    Raises:
      UserError: as `resized`.
    """
    leaves = tree.named_leaves(net.params)
    whole = {name: int(leaves[f"{name}/kernel"].shape[-1]) for name in names}
    most = max(whole.values())

    def at(part: int) -> dict[str, int]:
        return {name: max(width * part // most, 1) for name, width in whole.items()}

    @functools.cache
    def size(part: int) -> int:
        small = jax.eval_shape(lambda: resized(net, at(part), inputs, **options))
        return sum(math.prod(leaf.shape) for leaf in tree.named_leaves(small.params).values())

    low, high = 1, most
    while high - low > 1:  # sizes rise with the part
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) <= weights else (low, middle)
    return at(min((low, high), key=lambda part: abs(size(part) - weights)))


def _output(layer: nnx.Module, signal: Signal) -> Signal:
    """Return what a layer makes of a signal, as shapes."""
    graph, state = nnx.split(layer)
    run = lambda state, x: nnx.merge(graph, state)(x, Tape())  # noqa: E731
    found: Signal = jax.eval_shape(run, state, signal)
    return found


def _resized(layer: Any, inputs: int, width: int | None, rngs: nnx.Rngs) -> Any:
    """Return a layer made anew for so many inputs, with a width of its own."""
    known = type(layer) in (layers.Conv, layers.Dense, layers.Recurrent)
    if not known or getattr(layer, "groups", 1) > 1:
        if layers.synapses(layer):
            what = f"{type(layer).__name__} of several groups" if known else type(layer).__name__
            raise UserError(
                f"layer {layer.name!r}, a {what}, cannot get another width: resized makes Conv, "
                "Dense and Recurrent anew"
            )
        return layer
    outputs = layer.kernel.shape[-1] if width is None else width
    check_whole(f"width of {layer.name}", outputs, 1, 1 << 20)
    options: dict[str, Any] = {
        "neurons": layer.neurons, "use_bias": layer.bias is not None, "dtype": layer.dtype,
        "norm": kind_of(layer.norm), "rngs": rngs,
    }  # fmt: skip
    if isinstance(layer, layers.Conv):
        options |= {"stride": layer.stride, "padding": layer.padding}
        return layers.Conv(inputs, outputs, layer.kernel.shape[0], **options)
    return type(layer)(inputs, outputs, **options)


# ----------------------------------------------------------------------------------------------
# units


def rescale(net: Network, factors: Mapping[str, Number]) -> Network:
    """Multiply the weights and the threshold of layers by one factor each: the same spikes.

    The factor `1 / s` turns weights on a grid of step `s` into whole numbers. Spikes are equal bit
    for bit if the factor is a power of two, otherwise up to potentials within rounding of the
    threshold. A read-out has no threshold: its scores are multiplied by the factor.

    Args:
      net: a spiking network without norms in the layers named.
      factors: layer -> factor > 0.

    Raises:
      UserError: for a layer that is not there, that has a norm (fold it first), or that ends a
        residual block whose shortcut has no factor of its own, or is a projection; the message
        names it.

    Example:
      >>> from jaxsnn import models
      >>> net = models.build("8-3", (4,))
      >>> rescale(net, {"dense1": 4.0}).stats["dense1"]["neurons"]["threshold"].item()
      2.0
    """
    module = net.module
    known = layers.synapses(module)
    blocks = [block for block in walk.layers_of(module) if isinstance(block, layers.Residual)]
    ends = {block.conv2.name: block for block in blocks}
    projections = {block.projection.name: block for block in blocks if block.projection}
    for name, factor in factors.items():
        check_range(f"factor of layer {name!r}", factor, 0, float("inf"), open_low=True)
        if name not in known:
            raise UserError(f"layer {name!r} has no weights to rescale")
        if name in projections:
            end = projections[name].conv2.name
            raise UserError(f"layer {name!r} has no threshold: give the factor to {end!r}")
        layer = known[name]
        if layer.norm is not None:
            raise UserError(f"layer {name!r} has a norm, which undoes a factor: fold it first")
        variables = [getattr(layer, kernel) for kernel in layer.maps()]
        variables += [] if layer.bias is None else [layer.bias]
        if isinstance(layer.neurons, layers.Neurons):
            variables += _scaled(name, layer.neurons)
        if name in ends:
            variables.append(_shortcut(ends[name]))
        for variable in variables:
            variable[...] = jnp.asarray(variable[...] * factor, variable[...].dtype)
    return Network.of(module, net.input_shape)


def _scaled(name: str, neurons: layers.Neurons) -> list[Any]:
    """Return the constants of neurons that are in units of the potential."""
    if neurons.options.scaled is None:
        raise UserError(
            f"layer {name!r} fires by {type(neurons.options).__name__}, which does not say how it "
            "scales (`scaled`): leave the layer out"
        )
    return [neurons.variable(constant) for constant in neurons.options.scaled]


def _shortcut(block: layers.Residual) -> Any:
    """Return what weighs the shortcut of a block."""
    if block.projection is not None:
        return block.projection.kernel
    if block.weight is None:
        raise UserError(
            f"layer {block.conv2.name!r} adds a shortcut that has no factor: build the block with "
            "weight=, or leave the layer out"
        )
    return block.weight
