"""Calibration: what a trained network does on some batches of training images, measured.

Scores, widths and thresholds are read off the activity of a network that stands still: it runs in
evaluation mode, its norms on their running statistics, over shuffled images.

`over_batches` is for what is small and averages, such as scores: one compiled loop, the images
augmented as in training. `each_batch` is for what does not, such as covariances: it hands over what
was found for each sample, batch by batch, and the caller folds it and keeps what he wants.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxsnn import tree
from jaxsnn.arrays import check_whole
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.methods import conversion
from jaxsnn.network import Apply, Output
from jaxsnn.train import parallel

Tree = Any


class Calibration(NamedTuple):
    """Hold a statistic over some batches, a tree like the one that the statistic returns."""

    mean: Tree  # [...], mean over the batches
    batches: Tree  # [n, ...], of each batch


def over_batches(
    apply: Apply,
    prepare: Callable[[Array, Array, bool], Array | Signal],
    params: Tree,
    stats: Tree,
    images: np.ndarray,
    statistic: Callable[[Output], Tree],
    *,
    batches: int = 5,
    batch_size: int = 128,
    devices: int = 1,
    seed: int = 0,
) -> Calibration:
    """Measure a statistic of what a network does on random batches of training images.

    The default is QP-SNN's, 5 batches of 128 (Wei et al. 2025, 2502.05905, the authors' code).

    Args:
      apply: of the network; runs in evaluation mode.
      prepare: `(key, images uint8, train) -> input`, of the task; called as in training.
      params: the weights.
      stats: running statistics and constants.
      images: uint8 `[N, H, W, C]`, the training images, or whatever `prepare` takes.
      statistic: of a batch's output; pure and traceable, its result small, for example a score of
        each channel. Give the same function again and the compiled loop is used again.
      batches: how many, n.
      batch_size: images in each; no image comes twice.
      devices: local devices that share a batch. With more than one the statistic must be a mean
        over the samples.
      seed: of the choice of images, their augmentation and their encoding.

    Returns:
      The statistic's mean, and its value for each batch.

    Raises:
      UserError: if there are fewer images than asked for, the devices do not divide the batch, or
        a weight or the statistic is not finite; the message names it.
    """
    rows, input_key = _choose(len(images), batches, batch_size, seed)
    _check_network(params, stats)
    chosen = jnp.asarray(images[rows])
    arguments = parallel.replicate(((params, stats), chosen, input_key), devices)
    found = _over_batches(apply, prepare, statistic, devices, *arguments)
    found = parallel.gather(found, devices)
    _check_finite("the statistic", found.mean)
    return found


def thresholds(
    apply: Apply,
    prepare: Callable[[Array, Array, bool], Array | Signal],
    ann_params: Tree,
    params: Tree,
    stats: Tree,
    images: np.ndarray,
    layers: Sequence[str],
    *,
    quantile: float = 1.0,
    batches: int = 8,
    batch_size: int = 64,
    seed: int = 0,
) -> dict[str, float]:
    """Estimate the thresholds of a spiking network that takes over an ANN's weights.

    Front to back, each layer's is the largest input current that it gets while the layers before it
    spike at the thresholds already found (`compress.conversion`, with the equation and sources). A
    program is compiled for each layer, which computes nothing behind it.

    Args:
      apply: of the watched spiking network, `functional.split(layers.watch(network)).apply`.
      prepare: `(key, images uint8, train) -> input`, of the spiking network: the same coding and
        as many steps as it shall run with, or more.
      ann_params: the trained weights.
      params: of the spiking network, for their names; its weights play no part.
      stats: of the spiking network; decays are used, thresholds are replaced layer by layer.
      images: uint8 `[N, H, W, C]`, the training images.
      layers: the spiking layers, first to last: `conversion.spiking_layers`.
      quantile: over the neurons and images of a batch at each step, in (0, 1]; 1 is the maximum.
      batches: how many; of their values the largest counts.
      batch_size: images in each. Rathi et al. take one batch of 512, which would need the currents
        of all of them in memory at once.
      seed: of the choice of images and their encoding.

    Returns:
      layer -> threshold, not yet scaled.

    Raises:
      UserError: for a silent layer, weights that cannot be converted, and what `over_batches`
        refuses; the message names the layer.
    """
    found: dict[str, float] = {}
    for layer in layers:
        network = conversion.convert(ann_params, params, stats, found)
        current = over_batches(
            apply, prepare, *network, images, conversion.Current(layer, quantile),
            batches=batches, batch_size=batch_size, seed=seed,
        ).batches[layer]  # fmt: skip
        found[layer] = conversion.check_threshold(layer, current.max())
    return found


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _over_batches(apply, prepare, statistic, devices, network, images, key):
    def shard(network, x, _):
        found = statistic(apply(*network, x, train=False))
        return parallel.mean_over_devices(found, devices)

    def batch(numbered):
        i, images = numbered
        x = prepare(jax.random.fold_in(key, i), images, True)
        return parallel.over_devices(shard, devices, network, x, images)

    found = lax.map(batch, (jnp.arange(images.shape[0]), images))
    return Calibration(jax.tree.map(lambda leaf: leaf.mean(0), found), found)


def each_batch(
    apply: Apply,
    prepare: Callable[[Array, Array, bool], Array | Signal],
    params: Tree,
    stats: Tree,
    images: np.ndarray,
    statistic: Callable[[Tree, Output], Tree],
    *,
    batches: int,
    batch_size: int = 128,
    devices: int = 1,
    seed: int = 0,
) -> Iterator[Tree]:
    """Yield what a statistic finds for each sample of random training images, batch after batch.

    One compiled program for all batches, and the memory of one: nothing is kept. Images are not
    augmented.

    Args:
      apply: of the network; runs in evaluation mode.
      prepare: `(key, images uint8, train) -> input`, of the task; called as in evaluation.
      params: the weights.
      stats: running statistics and constants.
      images: uint8 `[N, H, W, C]`, the training images, or whatever `prepare` takes.
      statistic: of the weights and a batch's output, its arrays `[B, ...]`; pure and traceable.
        Give the same function again and the compiled program is used again.
      batches: how many.
      batch_size: images in each; no image comes twice.
      devices: local devices that share a batch.
      seed: of the choice of images and their encoding.

    Yields:
      The statistic of each batch, arrays `[B, ...]` on the host, in the order of the samples.

    Raises:
      UserError: at the first batch, if there are fewer images than asked for, the devices do not
        divide the batch, or a weight is not finite.
    """
    rows, input_key = _choose(len(images), batches, batch_size, seed)
    _check_network(params, stats)
    network = parallel.replicate((params, stats), devices)
    for i, chosen in enumerate(rows):
        arguments = parallel.replicate((jnp.asarray(images[chosen]), input_key, i), devices)
        yield jax.device_get(_one_batch(apply, prepare, statistic, devices, network, *arguments))


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _one_batch(apply, prepare, statistic, devices, network, images, key, i):
    def shard(network, x, _):
        return statistic(network[0], apply(*network, x, train=False))

    x = prepare(jax.random.fold_in(key, i), images, False)
    return parallel.over_devices(shard, devices, network, x, images, joined=True)


def _choose(size: int, batches: int, batch_size: int, seed: int) -> tuple[np.ndarray, Array]:
    """Return the samples of each batch, `[batches, batch_size]`, and a key for their inputs."""
    check_whole("batches", batches, 1, float("inf"))
    check_whole("batch_size", batch_size, 1, float("inf"))
    needed = batches * batch_size
    if size < needed:
        raise UserError(
            f"calibration on {batches} batches of {batch_size} needs {needed} images, but the set "
            f"has {size}: ask for fewer batches or smaller ones"
        )
    order_key, input_key = jax.random.split(jax.random.key(seed))
    rows = np.asarray(jax.random.permutation(order_key, size)[:needed])
    return rows.reshape(batches, batch_size), input_key


def _check_network(params: Tree, stats: Tree) -> None:
    _check_finite("the parameter", params)
    _check_finite("the statistic of the network", stats)


def _check_finite(what: str, found: Tree) -> None:
    """Raise unless all entries are finite: spikes would hide it, for NaN passes no threshold."""
    for name, leaf in tree.named_leaves(found).items():
        if not jnp.isfinite(leaf).all():
            raise UserError(f"calibration: {what} {name!r} is not finite; training has diverged")
