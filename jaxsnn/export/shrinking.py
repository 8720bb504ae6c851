"""Physical shrinking: a network without the channels that pruning gave up.

A channel of a layer is an output of its weights, with its bias, its norm and its neurons. Without
it the arrays of the layer lose an entry, and the kernel of the next layer an input; behind a
flattening, one for each pixel. Nothing else changes: the smaller network computes what the larger
one does whose removed channels never spike, which `silence` makes of it for comparison.

In a residual block every kept channel goes on receiving its own channel over the shortcut, or
nothing if that is gone ("follow"). The released code of QP-SNN (Wei et al. 2025,
https://arxiv.org/abs/2502.05905) joins what stands in the same place instead ("padded"): another
function than before, which fine-tuning has to repair.

Letters in shapes: `I` inputs, `O` outputs, `C` channels of a layer.
"""

from collections.abc import Mapping
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from jaxsnn import layers, tree
from jaxsnn.compress.codes import Step
from jaxsnn.errors import UserError
from jaxsnn.layers.residual import NOTHING, by_position
from jaxsnn.network import Network

__all__ = ["shrink", "silence"]

# Layers that treat every channel by itself and leave the channels in their order.
TRANSPARENT = (layers.AveragePool, layers.MaxPool, layers.Flatten, layers.Dropout)
SHRINKABLE = (layers.Conv, layers.Dense)  # and what is derived from them
SHORTCUTS = ("follow", "padded")

Kept = np.ndarray | None  # boolean [C]; None where all channels are kept


def shrink(net: Network, keep: Mapping[str, ArrayLike], *, shortcuts: str = "follow") -> Network:
    """Remove channels from a network.

    Args:
      net: the network, a chain of layers.
      keep: layer -> its channels that stay, as indices or as a boolean mask `[C]`; of a block the
        layers are "block1/conv1" and "block1/conv2". Layers left out keep all.
      shortcuts: "follow" or "padded", as above.

    Returns:
      A new network of the remaining arrays, channels in their old order; leaves on a known grid
      keep their steps.

    Raises:
      UserError: for a layer that is not there, or is the read-out; for indices or masks that do
        not fit, or keep nothing; for a topology or a layer that channels cannot be followed
        through; for a padded shortcut from more channels to fewer. The message names the layer.

    Example:
      >>> from jaxsnn import models
      >>> net = models.build("4C3-10", (8, 8, 1))
      >>> shrink(net, {"conv1": [0, 2]}).params["dense1"]["kernel"].shape
      (128, 10)
    """
    if shortcuts not in SHORTCUTS:
        raise UserError(f"shortcuts {shortcuts!r} is unknown; choose {' or '.join(SHORTCUTS)}")
    module = net.module
    if not isinstance(module, layers.Chain):
        raise UserError(
            f"channels are followed through a Chain of layers, found the topology of "
            f"{type(module).__name__}: mute them by export.silence"
        )
    synapses = layers.synapses(module)
    masks = _masks(synapses, keep)
    flowing: Kept = None
    for name in module.names:
        layer = getattr(module, name)
        if isinstance(layer, layers.Residual):
            if layer.projection is not None:
                raise UserError(f"{name!r} has a projected shortcut, which cannot be shrunk")
            setattr(module, name, _shrink_block(name, layer, flowing, masks, shortcuts))
            flowing = masks.get(f"{name}/conv2")
        elif isinstance(layer, SHRINKABLE):
            _slice(name, layer, flowing, masks.get(name))
            flowing = masks.get(name)
        elif flowing is not None and not isinstance(layer, TRANSPARENT):
            raise UserError(f"channels cannot be followed through {name!r}, {type(layer).__name__}")
    return Network.of(module, net.input_shape).replace(steps=_steps(net.steps, masks))


def silence(net: Network, keep: Mapping[str, ArrayLike]) -> Network:
    """Mute the channels that `shrink` would remove, and keep the shapes.

    Weights, bias and norm of a muted channel are zero and its threshold is the largest float32, so
    that no shortcut makes it spike either. The shrunk network is to be equal to this one. A kernel
    that is quantized anew afterwards has other scales, unless the muted inputs are left out of them
    (`compress.rescaled`, argument `kept`).

    Args:
      net: the network, of any topology of our layers.
      keep: as for `shrink`.

    Returns:
      A new network; the thresholds of the layers in `keep` are now `[C]`.

    Raises:
      UserError: for a layer that is not there or has no neurons, and for indices or masks that do
        not fit.

    Example:
      >>> from jaxsnn import models
      >>> mute = silence(models.build("4C3-10", (8, 8, 1)), {"conv1": [0, 2]})
      >>> mute.params["conv1"]["bias"][1].item()
      0.0
    """
    trees = [tree.named_leaves(net.params), tree.named_leaves(net.stats)]
    for layer, kept in keep.items():
        kernel = trees[0].get(f"{layer}/kernel")
        holder = [leaves for leaves in trees if f"{layer}/neurons/threshold" in leaves]
        if kernel is None or not holder:
            raise UserError(f"no layer {layer!r} of spiking neurons to silence")
        mask = _as_mask(layer, kept, kernel.shape[-1])
        for part in ("kernel", "recurrent", "bias", "norm/scale", "norm/bias"):
            if (leaf := trees[0].get(f"{layer}/{part}")) is not None:
                trees[0][f"{layer}/{part}"] = _where(mask, leaf, 0.0)
        threshold = np.broadcast_to(holder[0][f"{layer}/neurons/threshold"], mask.shape)
        never = float(np.finfo(np.float32).max)
        holder[0][f"{layer}/neurons/threshold"] = _where(mask, threshold, never)
    params, stats = (
        tree.substitute(old, new) for old, new in zip((net.params, net.stats), trees, strict=True)
    )
    return net.replace(params=params, stats=stats, steps=net.steps)


def _masks(
    synapses: Mapping[str, layers.Synapse], keep: Mapping[str, ArrayLike]
) -> dict[str, Kept]:
    """Return what is kept of each layer that `keep` names, after it was checked."""
    *hidden, readout = synapses
    prunable = [name for name in hidden if isinstance(synapses[name], SHRINKABLE)]
    if readout in keep:
        raise UserError(f"{readout!r} is the read-out: its channels are the classes")
    for name in keep:
        if name not in prunable:
            raise UserError(f"no layer {name!r} to shrink; there are: {', '.join(prunable)}")
    return {name: _mask(name, kept, synapses[name]) for name, kept in keep.items()}


def _steps(steps: Mapping[str, Step], masks: Mapping[str, Kept]) -> dict[str, Step]:
    """Return the steps of the remaining channels: scales are cut where there is one for each."""
    found = {}
    for name, step in steps.items():
        mask = masks.get(name.rpartition("/")[0])
        if mask is not None and step.scale.ndim and step.scale.shape[-1] == mask.size:
            step = replace(step, scale=_take(step.scale, mask, -1))
        found[name] = step
    return found


def _where(mask: np.ndarray, leaf: ArrayLike, value: float) -> Array:
    """Return a leaf `[..., C]` with a value in the channels that the mask leaves out."""
    found = np.array(leaf)
    found[..., ~mask] = value
    return jnp.asarray(found)


def _mask(name: str, kept: ArrayLike, layer: layers.Synapse) -> Kept:
    """Return what is kept as a mask, None if that is all."""
    mask = _as_mask(name, kept, layer.kernel.shape[-1])
    return None if mask.all() else mask


def _as_mask(name: str, kept: ArrayLike, width: int) -> np.ndarray:
    """Return a mask `[C]` of indices or of a mask."""
    found = np.asarray(kept)
    if found.dtype == bool:
        if found.shape != (width,):
            raise UserError(f"{name!r} has {width} channels, but its mask is {found.shape}")
        mask = found
    else:
        whole = found.size == 0 or np.issubdtype(found.dtype, np.integer)
        if found.ndim != 1 or not whole or np.any((found < 0) | (found >= width)):
            raise UserError(
                f"{name!r} keeps {np.array2string(found, threshold=8)}: give a boolean mask or "
                f"indices from 0 to {width - 1}"
            )
        if np.unique(found).size < found.size:
            raise UserError(f"{name!r} keeps a channel twice")
        mask = np.isin(np.arange(width), found)
    if not mask.any():
        raise UserError(f"{name!r} keeps no channel; one must stay")
    return mask


def _shrink_block(
    name: str, block: layers.Residual, inputs: Kept, masks: Mapping[str, Kept], shortcuts: str
) -> layers.Residual:
    """Return a block of what is kept, its shortcut rearranged."""
    middle, outputs = (masks.get(f"{name}/conv{i}") for i in (1, 2))
    old_inputs, old_outputs = block.conv1.kernel.shape[-2], block.conv2.kernel.shape[-1]
    sources = block.sources or by_position(old_inputs, old_outputs)
    weight = None if block.weight is None else _take(block.weight[...], outputs, 0)
    _slice(f"{name}/conv1", block.conv1, inputs, middle)
    _slice(f"{name}/conv2", block.conv2, middle, outputs)
    new_inputs, new_outputs = block.conv1.kernel.shape[-2], block.conv2.kernel.shape[-1]
    if shortcuts == "padded":
        if new_outputs < new_inputs:
            raise UserError(
                f"the padded shortcut of {name!r} cannot add {new_inputs} channels to "
                f"{new_outputs}: keep more of '{name}/conv2', or let shortcuts follow"
            )
        return layers.Residual(block.conv1, block.conv2, weight=weight)
    kept_inputs = _indices(inputs, old_inputs)
    place = dict(zip(kept_inputs, range(new_inputs), strict=True))
    found = tuple(place.get(sources[o], NOTHING) for o in _indices(outputs, old_outputs))
    plain = new_outputs >= new_inputs and found == by_position(new_inputs, new_outputs)
    rearranged = None if plain else found
    return layers.Residual(block.conv1, block.conv2, sources=rearranged, weight=weight)


def _slice(name: str, layer: layers.Synapse, inputs: Kept, outputs: Kept) -> None:
    """Cut a layer down to its kept inputs and outputs, in place."""
    kernel = layer.kernel[...]
    if inputs is not None:
        # Flattened images: the channels of one pixel after those of another.
        pixels, rest = divmod(kernel.shape[-2], inputs.size)
        if rest:
            raise UserError(
                f"{name!r} has {kernel.shape[-2]} inputs, no multiple of the {inputs.size} channels"
            )
        kernel = _take(kernel, np.tile(inputs, pixels), -2)
    layer.kernel = nnx.Param(_take(kernel, outputs, -1))
    if isinstance(layer, layers.Recurrent):
        layer.recurrent = nnx.Param(_take(_take(layer.recurrent[...], outputs, 0), outputs, 1))
    if layer.bias is not None:
        layer.bias = nnx.Param(_take(layer.bias[...], outputs, 0))
    if outputs is None:
        return
    if layer.norm is not None:
        norm = layer.norm
        for variable in (norm.scale, norm.bias, norm.mean, norm.var):
            if variable is not None:
                variable.set_value(_take(variable[...], outputs, 0))
        norm.num_features = int(outputs.sum())
    if isinstance(layer.neurons, layers.Neurons):
        for constant in (layer.neurons.decay, layer.neurons.threshold):
            if constant[...].ndim:
                constant.set_value(_take(constant[...], outputs, 0))


def _take(array: ArrayLike, kept: Kept, axis: int) -> Array:
    """Return the kept entries along an axis; on the host, where a new shape compiles nothing."""
    if kept is None:
        return jnp.asarray(array)
    return jnp.asarray(np.compress(kept, np.asarray(array), axis=axis))


def _indices(kept: Kept, width: int) -> list[int]:
    return list(range(width)) if kept is None else np.flatnonzero(kept).tolist()
