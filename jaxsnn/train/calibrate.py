"""Calibration: what a trained network does on some batches of training images, measured.

Scores, widths and thresholds are read off the activity of a network that stands still: it runs in
evaluation mode, its norms on their running statistics, over shuffled images.

`over_batches` is for what is small and averages, such as scores: one compiled loop, the images
augmented as in training. `each_batch` is for what does not, such as covariances: it hands over what
was found for each sample, batch by batch, and the caller folds it and keeps what he wants.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxsnn import timing, tree
from jaxsnn.alike import Shared, share
from jaxsnn.arrays import check_whole
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.network import Network, Output
from jaxsnn.train import demand, parallel
from jaxsnn.train.task import Task, as_task

__all__ = ["Calibration", "choose", "each_batch", "over_batches"]

Tree = Any


class Calibration(NamedTuple):
    """A statistic over some batches, a tree like the one that the statistic returns."""

    mean: Tree  # [...], mean over the batches
    batches: Tree  # [n, ...], of each batch


def over_batches(
    task: Task,
    net: Network,
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
      task: how images become input, augmented as in training.
      net: the network; runs in evaluation mode.
      images: uint8 `[N, *shape]`, the training images, or `[N, T, *shape]` of events.
      statistic: of a batch's output; pure and traceable, its result small, for example a score of
        each channel. A function that does the same uses the compiled loop again.
      batches: how many, n.
      batch_size: images in each; no image comes twice.
      devices: that share a batch, of all processes. With more than one the statistic must be a mean
        over the samples.
      seed: of the choice of images, their augmentation and their encoding.

    Returns:
      The statistic's mean, and its value for each batch.

    Raises:
      UserError: if there are fewer images than asked for, the devices do not divide the batch, or
        a weight or the statistic is not finite; the message names it.

    Example:
      >>> from jaxsnn import inputs, models
      >>> net, task = models.build("64-10", (16,), seed=0), Task(inputs.Inputs((16,), timesteps=2))
      >>> def spikes(output):
      ...     return output.activity.spikes["dense1"].mean(0)
      >>> images = np.full((4, 16), 200, np.uint8)
      >>> over_batches(task, net, images, spikes, batches=2, batch_size=2).mean.shape
      (64,)
    """
    as_task(task).check_samples(net, images, "images")
    rows, input_key = choose(len(images), batches, batch_size, seed)
    _check_network(net)
    demand.check_evaluation(task, net, batch_size)
    chosen = jax.device_put(images[rows])
    arguments = parallel.replicate((net.for_passes(), chosen, input_key), devices)
    with timing.activity("score"):
        found: Calibration = _over_batches(task, share(statistic, lift=False), devices, *arguments)
        found = parallel.gather(found, devices)
        _check_finite("the statistic", found.mean)
    return found


@partial(jax.jit, static_argnums=2)
def _over_batches(
    task: Task,
    shared: Shared[Callable[[Output], Tree]],
    devices: int,
    net: Network,
    images: Array,
    key: Array,
) -> Calibration:
    def shard(net: Network, x: Array | Signal, _: Array) -> Tree:
        return parallel.mean_over_devices(shared.function(task.run(net, x)), devices)

    def batch(numbered: tuple[Array, Array]) -> Tree:
        i, images = numbered
        x = task.prepare(jax.random.fold_in(key, i), images, True)
        return parallel.over_devices(shard, devices, net, x, images)

    found = lax.map(batch, (jnp.arange(images.shape[0]), images))
    return Calibration(jax.tree.map(lambda leaf: leaf.mean(0), found), found)


def each_batch(
    task: Task,
    net: Network,
    images: np.ndarray,
    statistic: Callable[[Tree, Output], Tree],
    *,
    batches: int,
    batch_size: int = 128,
    devices: int = 1,
    seed: int = 0,
) -> Iterator[Tree]:
    """Yield what a statistic finds for each sample, batch after batch.

    One compiled program for all batches, and the memory of one: nothing is kept. Images are not
    augmented.

    Args:
      task: how images become input, as in evaluation.
      net: the network; runs in evaluation mode.
      images: uint8 `[N, *shape]`, the training images, or `[N, T, *shape]` of events.
      statistic: of the weights and a batch's output, its arrays `[B, ...]`; pure and traceable.
        A function that does the same uses the compiled program again.
      batches: how many.
      batch_size: images in each; no image comes twice.
      devices: that share a batch, of all processes.
      seed: of the choice of images and their encoding.

    Yields:
      The statistic of each batch, arrays `[B, ...]` on the host, in the order of the samples.

    Raises:
      UserError: at the first batch, if there are fewer images than asked for, the devices do not
        divide the batch, or a weight is not finite.

    Example:
      >>> from jaxsnn import inputs, models
      >>> net, task = models.build("64-10", (16,), seed=0), Task(inputs.Inputs((16,), timesteps=2))
      >>> def spikes(params, output):
      ...     return output.activity.spikes["dense1"]
      >>> images = np.full((4, 16), 200, np.uint8)
      >>> found = each_batch(task, net, images, spikes, batches=2, batch_size=2)
      >>> [batch.shape for batch in found]
      [(2, 64), (2, 64)]
    """
    as_task(task).check_samples(net, images, "images")
    rows, input_key = choose(len(images), batches, batch_size, seed)
    _check_network(net)
    demand.check_evaluation(task, net, batch_size)
    net, shared = parallel.replicate(net.for_passes(), devices), share(statistic, lift=False)
    for i, chosen in enumerate(rows):
        with timing.activity("score"):
            arguments = parallel.replicate((jax.device_put(images[chosen]), input_key, i), devices)
            found = _one_batch(task, shared, devices, net, *arguments)
            found = parallel.to_host(found, devices)
        yield found


@partial(jax.jit, static_argnums=2)
def _one_batch(
    task: Task,
    shared: Shared[Callable[[Tree, Output], Tree]],
    devices: int,
    net: Network,
    images: Array,
    key: Array,
    i: Array | int,
) -> Tree:
    def shard(net: Network, x: Array | Signal, _: Array) -> Tree:
        return shared.function(net.params, task.run(net, x))

    x = task.prepare(jax.random.fold_in(key, i), images, False)
    return parallel.over_devices(shard, devices, net, x, images, joined=True)


def choose(size: int, batches: int, batch_size: int, seed: int) -> tuple[np.ndarray, Array]:
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


def _check_network(net: Network) -> None:
    _check_finite("the parameter", net.params)
    _check_finite("the statistic of the network", net.stats)


def _check_finite(what: str, found: Tree) -> None:
    """Raise unless all entries are finite: spikes would hide it, for NaN passes no threshold."""
    for name, leaf in tree.named_leaves(found).items():
        if not np.isfinite(np.asarray(leaf)).all():
            raise UserError(f"calibration: {what} {name!r} is not finite; training has diverged")
