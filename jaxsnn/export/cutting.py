"""Cutting layers down to the channels that stay, in place.

Letters in shapes: `I` inputs, `O` outputs, `C` channels of a layer, `g` groups.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from jaxsnn import layers
from jaxsnn.errors import UserError
from jaxsnn.layers.neurons import Constant
from jaxsnn.layers.residual import NOTHING, by_position

__all__ = ["cut_attention", "cut_block", "cut_layer", "take"]


def cut_layer(layer: layers.Synapse, inputs: np.ndarray, outputs: np.ndarray) -> None:
    """Cut a layer down to its kept inputs and outputs, in place.

    Args:
      layer: with weights.
      inputs: boolean `[I]`.
      outputs: boolean `[O]`.

    Raises:
      UserError: for groups that would not be equal any more.
    """
    layer.kernel = nnx.Param(jnp.asarray(_cut_kernel(layer, inputs, outputs)))
    if isinstance(layer, layers.Recurrent):
        layer.recurrent = nnx.Param(take(take(layer.recurrent[...], outputs, 0), outputs, 1))
    if layer.bias is not None:
        layer.bias = nnx.Param(take(layer.bias[...], outputs, 0))
    if outputs.all():
        return
    if layer.norm is not None:
        norm: Any = layer.norm  # no LayerNorm, whose channels are pinned
        for variable in (norm.scale, norm.bias, norm.mean, norm.var):
            if variable is not None:
                variable.set_value(take(variable[...], outputs, 0))
        norm.num_features = int(outputs.sum())
    cut_constants(layer.neurons, outputs)


def cut_constants(neurons: nnx.Module, kept: np.ndarray) -> None:
    """Cut the constants of neurons that there is one of for each channel, in place."""
    for _, variable in sorted(vars(neurons).items()):
        if isinstance(variable, nnx.Variable) and variable[...].ndim:
            variable.set_value(take(variable[...], kept, -1))


def _cut_kernel(layer: layers.Synapse, inputs: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    kernel = np.asarray(layer.kernel[...])
    if not isinstance(layer, layers.Conv) or layer.groups == 1:
        return np.compress(outputs, np.compress(inputs, kernel, -2), -1)
    groups = layer.groups
    heard, fired = inputs.reshape(groups, -1), outputs.reshape(groups, -1)
    stay = np.flatnonzero(heard.any(1) | fired.any(1))
    what = {"inputs": heard[stay].sum(1), "outputs": fired[stay].sum(1)}
    for side, counts in what.items():
        if np.unique(counts).size > 1 or not counts.all():
            found = ", ".join(map(str, counts.tolist()))
            raise UserError(
                f"{layer.name!r} has {groups} groups, which are cut evenly or as a whole: its "
                f"{side} that stay are {found} of {counts.size} groups"
            )
    parts = np.split(kernel, groups, -1)
    cut = [np.compress(fired[q], np.compress(heard[q], parts[q], -2), -1) for q in stay]
    layer.groups = len(stay)
    return np.concatenate(cut, -1)


def cut_attention(attention: layers.Attention, pairs: np.ndarray, outputs: np.ndarray) -> None:
    """Rearrange the heads of an attention whose layers were cut, in place.

    Args:
      attention: the layer.
      pairs: of its queries and keys, boolean `[D heads]`.
      outputs: of its values, boolean.

    Raises:
      UserError: for heads that would not be equal any more.
    """
    heads = attention.heads
    met, heard = pairs.reshape(heads, -1), outputs.reshape(heads, -1)
    stay = np.flatnonzero(met.any(1) | heard.any(1))
    for what, counts in {"queries": met[stay].sum(1), "values": heard[stay].sum(1)}.items():
        if np.unique(counts).size > 1 or not counts.all():
            found = ", ".join(map(str, counts.tolist()))
            raise UserError(
                f"{attention.name!r} has {heads} heads, which are cut evenly or as a whole: its "
                f"{what} that stay are {found} of {counts.size} heads"
            )
    attention.heads = len(stay)
    if not outputs.all():
        cut_constants(attention.neurons, outputs)


def cut_block(block: layers.Residual, inputs: np.ndarray, outputs: np.ndarray, how: str) -> None:
    """Rearrange the shortcut of a block whose convolutions were cut, in place.

    Args:
      block: the block.
      inputs: of the block, boolean `[I]`.
      outputs: boolean `[O]`.
      how: "follow" or "padded", see `shrinking`.
    """
    if block.weight is not None:
        block.weight = Constant(take(block.weight[...], outputs, 0))
    if block.projection is not None:
        return
    old = block.sources or by_position(inputs.size, outputs.size)
    new_inputs, new_outputs = int(inputs.sum()), int(outputs.sum())
    if how == "padded":
        if new_outputs < new_inputs:
            raise UserError(
                f"the padded shortcut of {block.name!r} cannot add {new_inputs} channels to "
                f"{new_outputs}: keep more of '{block.name}/conv2', or let shortcuts follow"
            )
        block.sources = None
        return
    place = {int(x): i for i, x in enumerate(np.flatnonzero(inputs))}
    found = tuple(place.get(old[o], NOTHING) for o in np.flatnonzero(outputs))
    plain = new_outputs >= new_inputs and found == by_position(new_inputs, new_outputs)
    block.sources = None if plain else found


def take(array: ArrayLike, kept: np.ndarray, axis: int) -> Array:
    """Return the kept entries along an axis; on the host, where a new shape compiles nothing."""
    taken: Array = jax.device_put(np.compress(kept, np.asarray(array), axis=axis))
    return taken
