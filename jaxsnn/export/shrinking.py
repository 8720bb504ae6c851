"""Physical shrinking: a network without the channels that pruning gave up.

A channel of a layer is an output of its weights, with its bias, its norm and its neurons. Without
it the arrays of the layer lose an entry, and the kernels of all that hear it an input; behind a
flattening, one for each pixel. Nothing else changes: the smaller network computes what the larger
one does whose removed channels never spike, which `silence` makes of it for comparison.

Channels are followed through any topology of our layers by one walk over a traced pass
(`dependencies`). What a sum joins goes together; the groups of a convolution are cut evenly, or as
a whole. What cannot be cut is refused by the name of its layer, with the reason.

In a residual block every kept channel goes on receiving its own channel over the shortcut, or
nothing if that is gone ("follow"). The released code of QP-SNN (Wei et al. 2025,
https://arxiv.org/abs/2502.05905) joins what stands in the same place instead ("padded"): another
function than before, which fine-tuning has to repair.

Letters in shapes: `I` inputs, `O` outputs, `C` channels of a layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from jaxsnn import layers, tree
from jaxsnn.compress.codes import Step
from jaxsnn.errors import UserError
from jaxsnn.export.cutting import cut_attention, cut_block, cut_layer, take
from jaxsnn.export.dependencies import CUT, Units, attentions, follows, walk_channels
from jaxsnn.export.starving import needed
from jaxsnn.inputs import Inputs
from jaxsnn.layers.walk import layers_of
from jaxsnn.network import Network

__all__ = ["shrink", "silence"]

SHORTCUTS = ("follow", "padded")

Known = Mapping[str, layers.Synapse]


def shrink(
    net: Network,
    keep: Mapping[str, ArrayLike] | None = None,
    *,
    inputs: Inputs | Sequence[int] | None = None,
    shortcuts: str = "follow",
) -> Network:
    """Remove channels from a network.

    Args:
      net: the network, of our layers in any topology.
      keep: layer -> its channels that stay, as indices or as a boolean mask `[C]`; of a block the
        layers are "block1/conv1" and "block1/conv2"; of an attention its heads. Layers left out
        keep all. Without `keep` everything goes that the read-out does without: channels that
        never fire, since nothing drives them, and channels that nobody hears.
      inputs: of the task, or the shape of one sample at one step; may be left out where the network
        knows it (`net.input_shape`), or takes features.
      shortcuts: "follow" or "padded", as above.

    Returns:
      A new network of the remaining arrays, channels in their old order; leaves on a known grid
      keep their steps.

    Raises:
      UserError: for a layer that is not there, or is the read-out; for indices or masks that do
        not fit, or keep nothing; for channels that a sum joins to others that stay, that cannot
        be followed, or that groups cannot lose; for a padded shortcut from more channels to fewer.
        The message names the layer.

    Example:
      >>> from jaxsnn import models
      >>> net = models.build("4C3-10", (8, 8, 1))
      >>> shrink(net, {"conv1": [0, 2]}).params["dense1"]["kernel"].shape
      (128, 10)
    """
    if shortcuts not in SHORTCUTS:
        raise UserError(f"shortcuts {shortcuts!r} is unknown; choose {' or '.join(SHORTCUTS)}")
    module = net.module
    known = layers.synapses(module)
    inputs = _inputs(net, known, inputs)
    flow = net.flow(inputs)
    if keep is not None:
        keep = _by_layer(module, keep)
        _check_names(known, flow.readout, keep)
    units = walk_channels(flow, module)
    kept = needed(units, module) if keep is None else _chosen(units, known, keep)
    masks = {name: kept[units.own(name)] for name in known}
    entering = {name: (into < 0) | kept[into] for name, into in units.inputs.items()}
    for name, into in entering.items():
        if not (into.all() and masks[name].all()):
            cut_layer(known[name], into, masks[name])
    for block in layers_of(module):
        if isinstance(block, layers.Residual):
            ends = entering[f"{block.name}/conv1"], masks[f"{block.name}/conv2"]
            cut_block(block, *ends, shortcuts)
    for attention in attentions(module):
        cut_attention(attention, masks[attention.q.name], masks[attention.v.name])
    small = Network.of(module, net.input_shape).replace(steps=_steps(net.steps, masks))
    if not isinstance(module, layers.Chain):
        _check_runs(small, inputs)
    return small


def _check_runs(small: Network, inputs: Inputs) -> None:
    """Refuse a topology that names widths of its own."""
    try:
        small.flow(inputs)
    except (TypeError, ValueError) as error:
        line = str(error).strip().partition("\n")[0]
        name = type(small.module).__name__
        raise UserError(f"{name} does not run without the channels: {line}") from error


def _inputs(net: Network, known: Known, inputs: Inputs | Sequence[int] | None) -> Inputs:
    """Return inputs of the shape that the network takes."""
    if isinstance(inputs, Inputs):
        return inputs
    shape = inputs or net.input_shape
    if shape is None:
        first = next(iter(known.values()))
        if not isinstance(first, layers.Dense) or not isinstance(net.module, layers.Chain):
            raise UserError("nothing is known of the network's input: pass inputs=task.inputs")
        shape = (first.inputs,)
    return Inputs(tuple(shape), timesteps=1)


def _by_layer(module: nnx.Module, keep: Mapping[str, ArrayLike]) -> dict[str, ArrayLike]:
    """Return what is kept of each layer, for heads of an attention their channels."""
    found = dict(keep)
    for attention in attentions(module):
        if (heads := found.pop(attention.name, None)) is None:
            continue
        mask = _as_mask(attention.name, heads, attention.heads)
        for part in (attention.q, attention.k, attention.v):
            found[part.name] = np.repeat(mask, part.kernel.shape[-1] // attention.heads)
    return found


def _check_names(known: Known, readout: Sequence[str], keep: Mapping[str, ArrayLike]) -> None:
    """Refuse names of layers whose channels nobody chooses."""
    hidden = [
        name
        for name, layer in known.items()
        if isinstance(layer, CUT) and not follows(layer) and name not in readout
    ]
    for name in keep:
        if name in readout:
            raise UserError(f"{name!r} is the read-out: its channels are the classes")
        if name not in hidden:
            raise UserError(f"no layer {name!r} to shrink; there are: {', '.join(hidden)}")


def _chosen(units: Units, known: Known, keep: Mapping[str, ArrayLike]) -> np.ndarray:
    """Return which units stay, boolean `[units]`, after `keep` was checked."""
    kept = np.ones(units.parents.size, bool)
    for name, chosen in keep.items():
        kept[units.own(name)] = _as_mask(name, chosen, units.widths[name])
    roots = units.roots(np.arange(kept.size))
    for unit in np.flatnonzero(~kept).tolist():
        if (why := units.pins.get(int(roots[unit]))) is not None:
            raise UserError(f"channels of {units.layer(unit)!r} cannot be cut: {why}")
    for root in np.unique(roots[~kept]):
        members = np.flatnonzero(roots == root)
        gone = int(members[~kept[members]][0])
        for unit in members[kept[members]].tolist():
            one, other = units.layer(gone), units.layer(unit)
            if not follows(known[other]):
                raise UserError(
                    f"channel {gone - units.first[one]} of {one!r} and channel "
                    f"{unit - units.first[other]} of {other!r} are added: keep both, or none"
                )
        kept[members] = False
    return kept


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
    keep = _by_layer(net.module, keep)
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


def _steps(steps: Mapping[str, Step], masks: Mapping[str, np.ndarray]) -> dict[str, Step]:
    """Return the steps of the remaining channels: scales and bits that each has are cut."""
    found = {}
    for name, step in steps.items():
        mask = masks.get(name.rpartition("/")[0])
        for field in ("scale", "bits"):
            numbers = getattr(step, field)
            if mask is not None and numbers.ndim and numbers.shape[-1] == mask.size:
                step = replace(step, **{field: take(numbers, mask, -1)})
        found[name] = step
    return found


def _where(mask: np.ndarray, leaf: ArrayLike, value: float) -> Array:
    """Return a leaf `[..., C]` with a value in the channels that the mask leaves out."""
    found = np.array(leaf)
    found[..., ~mask] = value
    return jnp.asarray(found)


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
