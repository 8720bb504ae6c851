"""A task, and running a network over a whole data set: accuracy, counts, scores."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxsnn import metrics
from jaxsnn.data import Split
from jaxsnn.encode import Signal
from jaxsnn.network import Apply, Output
from jaxsnn.train import parallel

Tree = Any


class Task(NamedTuple):
    """Say what a network is trained to do, and how its step is computed.

    The functions must be pure and traceable, and the loss a mean over the samples. Then neither
    micro-batches nor devices change a number beyond rounding: dropout draws by sample, and batch
    normalisation averages over all devices (it refuses micro-batches).
    """

    apply: Apply  # of the network
    prepare: Callable[[Array, Array, bool], Array | Signal]  # (key, images uint8, train) -> input
    loss: Callable[[Output, Array], Array]  # (output, labels [B]) -> scalar
    remat: int | None = None  # steps of time in a chunk whose activations are recomputed
    micro_batches: int = 1  # parts of a batch, computed one after the other to save memory
    devices: int = 1  # local devices that share a batch


class Evaluation(NamedTuple):
    """Hold what a pass over a data set gives."""

    accuracy: float  # share classified right, in [0, 1]
    loss: float  # mean over the batches, the last one filled up with the last sample
    accuracy_over_time: Array  # [T] accuracy had the network been stopped after each step
    counts: metrics.Counts  # spikes and events over the whole set


def evaluate(
    task: Task, params: Tree, stats: Tree, split: Split, *, batch_size: int = 100, seed: int = 0
) -> Evaluation:
    """Run the network over a data set, as one compiled loop; every sample counts once.

    Args:
      task: network, input and loss.
      params: the weights.
      stats: running statistics and constants.
      split: the images.
      batch_size: samples at a time.
      seed: of the encoding's random numbers.
    """
    devices = parallel.most_devices(batch_size, task.devices)
    task = task._replace(devices=devices)
    device = jnp.asarray(split.images), jnp.asarray(split.labels)
    network, device = parallel.replicate(((params, stats), device), devices)
    correct, loss, counts = parallel.gather(
        _evaluate(task, batch_size, network, device, seed), devices
    )
    over_time = correct / len(split.images)
    return Evaluation(float(over_time[-1]), float(loss), over_time, counts)


def measure(
    task: Task,
    params: Tree,
    stats: Tree,
    split: tuple[Array, Array],
    *,
    batch_size: int = 100,
    seed: int = 0,
) -> tuple[Array, Array, metrics.Counts]:
    """Do what `evaluate` does inside a compiled program; the task may hold traced numbers.

    The arguments are those of `evaluate`.

    Returns:
      Accuracy over time float32 `[T]`, whose last is the accuracy; loss float32 `[]`; counts.
    """
    correct, loss, counts = _sums(task, batch_size, (params, stats), split, seed)
    return correct / split[1].shape[0], loss, counts


def _sums(task, batch_size, network, split, seed):
    images, labels = split
    size = images.shape[0]
    batches = -(-size // batch_size)
    key = jax.random.key(seed)

    def shard(network, x, labels, valid):
        output = task.apply(*network, x, train=False)
        steps = jnp.arange(1, output.readout.shape[0] + 1, dtype=jnp.float32)
        scores = jnp.cumsum(output.readout, 0) / steps.reshape(-1, 1, 1)
        right = (scores.argmax(-1) == labels.reshape(1, -1)) & valid.reshape(1, -1)
        counts = metrics.no_counts(output.activity)
        counts = metrics.accumulate(counts, output.activity, valid=valid)
        sums = parallel.sum_over_devices((right.sum(1), counts), task.devices)
        loss = parallel.mean_over_devices(task.loss(output, labels), task.devices)
        return sums[0], loss / batches, sums[1]

    def batch(i):
        x, rows, valid = _batch(task, batch_size, images, key, i)
        return parallel.over_devices(shard, task.devices, network, x, labels[rows], valid)

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(batch, 0))
    return lax.fori_loop(0, batches, lambda i, sums: jax.tree.map(jnp.add, sums, batch(i)), zeros)


_evaluate = jax.jit(_sums, static_argnums=(0, 1))


def predict(
    task: Task, params: Tree, stats: Tree, images: Array, *, batch_size: int = 100, seed: int = 0
) -> Array:
    """Return a network's scores, the read-out's mean over time, as one compiled loop.

    Args:
      task: network and input.
      params: the weights.
      stats: running statistics and constants.
      images: uint8 `[N, H, W, C]`, or whatever the task's `prepare` takes.
      batch_size: samples at a time.
      seed: of the encoding's random numbers.

    Returns:
      `[N, classes]`.
    """
    devices = parallel.most_devices(batch_size, task.devices)
    task = task._replace(devices=devices)
    network, images = parallel.replicate(((params, stats), jnp.asarray(images)), devices)
    return parallel.gather(_predict(task, batch_size, network, images, seed), devices)


@partial(jax.jit, static_argnums=(0, 1))
def _predict(task, batch_size, network, images, seed):
    size = images.shape[0]

    def shard(network, x, valid):
        del valid
        return task.apply(*network, x, train=False).readout.mean(0)

    def batch(i):
        x, _, valid = _batch(task, batch_size, images, jax.random.key(seed), i)
        return parallel.over_devices(shard, task.devices, network, x, valid, joined=True)

    scores = lax.map(batch, jnp.arange(-(-size // batch_size)))
    return scores.reshape(-1, scores.shape[-1])[:size]


def _batch(task, batch_size, images, key, i):
    """Return the i-th batch as the network's input, its rows, and which of them count.

    The last batch is filled up with the last sample.
    """
    size = images.shape[0]
    rows = i * batch_size + jnp.arange(batch_size)
    valid, rows = rows < size, jnp.minimum(rows, size - 1)
    return task.prepare(jax.random.fold_in(key, i), images[rows], False), rows, valid
