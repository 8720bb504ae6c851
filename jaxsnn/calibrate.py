"""Calibration: what a trained network does on some batches of training images, measured.

Scores, widths and thresholds are read off the activity of a network that stands still: it runs in
evaluation mode, its norms on their running statistics, over images that are shuffled and augmented
as in training. One compiled loop serves all batches; only the statistic of each batch is kept.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxsnn import parallel, tree
from jaxsnn.arrays import check_whole
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.functional import Apply, Output

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
    check_whole("batches", batches, 1, float("inf"))
    check_whole("batch_size", batch_size, 1, float("inf"))
    needed = batches * batch_size
    if len(images) < needed:
        raise UserError(
            f"calibration on {batches} batches of {batch_size} needs {needed} images, but the set "
            f"has {len(images)}: ask for fewer batches or smaller ones"
        )
    _check_finite("the parameter", params)
    _check_finite("the statistic of the network", stats)
    order_key, input_key = jax.random.split(jax.random.key(seed))
    rows = np.asarray(jax.random.permutation(order_key, len(images))[:needed])
    chosen = jnp.asarray(images[rows]).reshape(batches, batch_size, *images.shape[1:])
    arguments = parallel.replicate(((params, stats), chosen, input_key), devices)
    found = _over_batches(apply, prepare, statistic, devices, *arguments)
    found = parallel.gather(found, devices)
    _check_finite("the statistic", found.mean)
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


def _check_finite(what: str, found: Tree) -> None:
    """Raise unless all entries are finite: spikes would hide it, for NaN passes no threshold."""
    for name, leaf in tree.named_leaves(found).items():
        if not jnp.isfinite(leaf).all():
            raise UserError(f"calibration: {what} {name!r} is not finite; training has diverged")
