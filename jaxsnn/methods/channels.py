"""Channels of a network: which can be removed, what each is worth, which of them stay.

What methods that cut channels have in common. Nothing here reads a layer's name: what is last, what
feeds what, what a block joins are facts of a pass (`Network.flow`) and of the module.

Letters in shapes: `C` channels of a layer, `n` batches.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jax import Array

from jaxsnn import export, layers, train, tree
from jaxsnn.compress import singular
from jaxsnn.errors import UserError
from jaxsnn.export.dependencies import bound
from jaxsnn.inputs import Inputs
from jaxsnn.layers import walk
from jaxsnn.network import Network, Output
from jaxsnn.options import PerLayer

__all__ = ["check_images", "joined", "kept", "prunable", "rehearse", "scores", "shares"]


def prunable(net: Network, inputs: Inputs) -> tuple[str, ...]:
    """Return the convolutions whose channels can go, in order: those not read out.

    Neither can those whose channels a sum joins to such channels: the last layer of a residual
    block that an unchanged shortcut joins to the last one; nor those that belong to channels of
    other layers, by a sum of one's own or in a group, which would have to choose with them.

    >>> from jaxsnn import models
    >>> net = models.build("4C3-5C3-AP2-6-3", (4, 4, 1))
    >>> prunable(net, Inputs((4, 4, 1), timesteps=1))
    ('conv1', 'conv2')

    Args:
      net: the network.
      inputs: what enters it.
    """
    flow = net.flow(inputs)
    known = layers.synapses(net.module)
    fixed = set(flow.readout) | bound(flow, net.module)
    for feed in flow.feeds.values():
        if feed.layer in flow.readout:
            fixed |= set(feed.sources)
    fixed |= {end for end, ends in joined(net, inputs).items() if fixed & set(ends)}
    return tuple(
        name
        for name in flow.order
        if isinstance(known[name], layers.Conv)
        and not isinstance(known[name].neurons, layers.Integrator)  # the shortcut of a block
        and name not in fixed
    )


def joined(net: Network, inputs: Inputs) -> dict[str, tuple[str, ...]]:
    """Return last layer of a residual block -> those of all blocks that share its channels.

    A shortcut that learns nothing and has as many channels as its block adds each channel in front
    of the block to the same one behind it, from block to block.

    >>> from jaxsnn import models
    >>> net = models.build("4C3-4B3-8B3-8B3-AP2-3", (4, 4, 1))
    >>> joined(net, Inputs((4, 4, 1), timesteps=1))["block3/conv2"]
    ('block2/conv2', 'block3/conv2')
    """
    flow = net.flow(inputs)
    blocks = [x for x in walk.layers_of(net.module) if isinstance(x, layers.Residual)]
    stages: dict[str, list[str]] = {}
    for block in sorted(blocks, key=lambda block: flow.order.index(block.conv2.name)):
        first, last = block.conv1, block.conv2
        same = block.projection is None and first.inputs == last.kernel.shape[-1]
        before = [x for x in flow.feeds[f"{first.name}/kernel"].sources if same and x in stages]
        stages[last.name] = stages[before[0]] if before else []
        stages[last.name].append(last.name)
    return {end: tuple(stage) for end, stage in stages.items()}


def shares(names: Iterable[str], ratios: PerLayer) -> dict[str, float]:
    """Return layer -> share of its channels to remove.

    >>> shares(["conv1", "conv2"], {"*2": 0.5})
    {'conv2': 0.5}

    Args:
      names: of the layers whose channels can go.
      ratios: a number for all, or pattern -> number; layers left out keep all.

    Raises:
      UserError: if there are no such layers, or a pattern matches none.
    """
    names = tuple(names)
    if not names:
        raise UserError("no channels can be removed: all convolutions enter the read-out")
    patterns = ratios if isinstance(ratios, Mapping) else {"*": ratios}
    return tree.match(patterns, dict.fromkeys(names, 0))


@dataclass(frozen=True)
class _Statistic:
    """What scores the channels of a batch; equal ones share a compiled loop."""

    kind: str
    places: tuple[tuple[str, str], ...]  # layer, and the name under which its maps are found

    def __call__(self, output: Output) -> dict[str, Array]:
        activity, timesteps = output.activity, output.activity.steps
        if self.kind == "membrane":
            found = activity.magnitude
            return {x: singular.membrane_scores(found[x], timesteps) for x, _ in self.places}
        record = activity.spikes | activity.pooled
        maps = {x: _as_images(record[at]) for x, at in self.places}
        return {x: singular.singular_scores(each, timesteps) for x, each in maps.items()}


def _as_images(record: Array) -> Array:
    """Return counts `[B, C]`, `[B, L, C]` or `[B, H, W, C]` as images."""
    return record.reshape(len(record), *(1,) * (4 - record.ndim), *record.shape[1:])


def scores(
    net: Network,
    task: train.Task,
    samples: np.ndarray,
    names: Iterable[str],
    *,
    kind: Literal["singular", "membrane"] = "singular",
    after_pool: bool = False,
    batches: int = 5,
    batch_size: int = 128,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Score the channels of some layers on batches of training images.

    A neuron of a dense layer has a map of one pixel, whose rank is 1 if it fired at all.

    Args:
      net: a trained network, with the weights that it shows.
      task: how images become its input.
      samples: the training images, uint8 `[N, *shape]`, or `[N, T, *shape]` of events.
      names: of the layers.
      kind: singular values of the spike maps (Wei et al. 2025, https://arxiv.org/abs/2502.05905,
        Eq. 11 to 13), or membrane potentials (Eq. 7); see `compress.singular`.
      after_pool: take the spikes behind a max pooling where one follows.
      batches: how many, n.
      batch_size: images in each.
      seed: of the choice of images, their augmentation and their encoding.

    Returns:
      Layer -> float32 `[n, C]`, of each batch; their mean is the score.
    """
    places = {layer: layer for layer in names}
    if after_pool:
        for pool, sources in reversed([*net.flow(task.inputs).pools.items()]):
            places |= {layer: pool for layer in sources if layer in places}
    found = train.over_batches(
        task, net, samples, _Statistic(kind, tuple(places.items())),
        batches=batches, batch_size=batch_size, seed=seed,
    )  # fmt: skip
    return {layer: np.asarray(found.batches[layer]) for layer in places}


def kept(
    found: Mapping[str, np.ndarray],
    ratios: Mapping[str, float],
    together: Mapping[str, Iterable[str]] | None = None,
) -> dict[str, np.ndarray]:
    """Choose the channels of each layer that stay: the `int(C (1 - r))` of the highest scores.

    >>> kept({"conv1": np.asarray([[3, 1, 2, 0], [3, 1, 4, 0]])}, {"conv1": 0.5})
    {'conv1': array([0, 2])}

    Args:
      found: layer -> score of each channel on each batch, `[n, C]`; their mean counts.
      ratios: layer -> share of its channels to remove, in [0, 1).
      together: layer -> layers that choose with it, by the sum of their scores (`joined`).

    Returns:
      Layer -> indices of the kept channels, ascending, for the layers of `ratios`.

    Raises:
      UserError: if a layer would keep no channel.
    """
    means: dict[str, Any] = {layer: each.mean(0) for layer, each in found.items()}
    sums = {
        layer: sum(means[x] for x in ends if x in means)
        for layer, ends in (together or {}).items()
        if layer in means
    }
    return singular.kept_channels(means | sums, ratios)


def rehearse(
    net: Network, inputs: Inputs, ratios: Mapping[str, float], *, shortcuts: str = "follow"
) -> None:
    """Refuse, before anything is trained, a cut that would fail: nothing of it stays.

    Args:
      net: the network.
      inputs: what enters it.
      ratios: layer -> share of its channels to remove.
      shortcuts: of residual blocks, see `export.shrink`.

    Raises:
      UserError: if a layer would keep no channel, or channels cannot be followed through a layer.
    """
    leaves = tree.named_leaves(net.params)
    zeros = {name: np.zeros((1, leaves[f"{name}/kernel"].shape[-1])) for name in ratios}
    export.shrink(net, kept(zeros, ratios), inputs=inputs, shortcuts=shortcuts)


def check_images(size: int, batches: int, batch_size: int) -> None:
    """Refuse more batches than a training set has images for, before anything is trained."""
    if size < batches * batch_size:
        raise UserError(
            f"calibration_batches {batches} of calibration_batch_size {batch_size} need "
            f"{batches * batch_size} training images, found {size}"
        )
