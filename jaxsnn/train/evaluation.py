"""Running a network over a whole data set: accuracy, counts, scores."""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxsnn import timing
from jaxsnn.arrays import Number, check_whole
from jaxsnn.data import Split
from jaxsnn.encode import Signal
from jaxsnn.metrics.counts import Counts, accumulate, no_counts
from jaxsnn.network import Network
from jaxsnn.train import demand, parallel
from jaxsnn.train.task import Task, as_task, outline

__all__ = ["Evaluation", "batch_at", "evaluate", "evaluate_traced", "predict"]

Tree = Any

BATCH = 100  # samples at a time: the same for held-out and test images, so that they share programs


class Evaluation(NamedTuple):
    """What a pass over a data set gives."""

    accuracy: float  # share classified right, in [0, 1]
    loss: float  # mean over the batches, the last one filled up with the last sample
    accuracy_over_time: Array  # [T] accuracy had the network been stopped after each step
    counts: Counts  # spikes and events over the whole set
    confusion: Array | None = None  # [classes, classes] samples: of a class, decided for another


def evaluate(
    task: Task, net: Network, split: Split, *, batch_size: int = BATCH, seed: int = 0
) -> Evaluation:
    """Run the network over a data set; every sample counts once.

    One compiled program takes a batch of any set: held-out and test images share it.

    Args:
      task: input and loss.
      net: the network.
      split: the images and their labels.
      batch_size: samples at a time.
      seed: of the encoding's random numbers.

    Raises:
      UserError: if network or data do not fit the task.

    Example:
      >>> import numpy as np
      >>> from jaxsnn import inputs, models
      >>> split = Split(np.full((4, 16), 200, np.uint8), np.zeros(4, np.int32))
      >>> net, task = models.build("64-10", (16,), seed=0), Task(inputs.Inputs((16,), timesteps=2))
      >>> found = evaluate(task, net, split)
      >>> found.accuracy_over_time.shape, int(found.counts.num_samples)
      ((2,), 4)
    """
    as_task(task).check(net, split)
    check_whole("batch_size", batch_size, 1, 1 << 31)
    demand.check_evaluation(task, net, batch_size)
    samples, labels = (np.asarray(part) for part in split)
    starts = range(0, len(labels), batch_size)
    with timing.activity("evaluate"):
        task, weight, net, key = _ready(task, net, batch_size, seed)
        sums = None
        for i, start in enumerate(starts):
            part = slice(start, start + batch_size)
            batch = _filled(samples[part], batch_size), _filled(labels[part], batch_size)
            given = parallel.replicate((*batch, len(labels) - start, key, i), task.devices)
            new = _evaluate(task, weight, net, *given)
            sums = new if sums is None else _add(sums, new)
        correct, loss, counts, confusion = parallel.gather(sums, task.devices)
        over_time = correct / len(labels)
        mean = float(np.asarray(loss) / len(starts))
        return Evaluation(float(over_time[-1]), mean, over_time, counts, confusion)


def prepare(task: Task, net: Network, split: Split, *, batch_size: int = BATCH) -> None:
    """Compile what `evaluate` will run, for another thread to do while a device trains.

    Args:
      task: input and loss.
      net: any network of the same shapes.
      split: any images and labels of the same shapes, at least one.
      batch_size: samples at a time.
    """
    task, weight, net, key = _ready(task, net, batch_size, 0)
    batch = [_filled(np.asarray(part[:1]), batch_size) for part in split]
    given = parallel.replicate((*batch, batch_size, key, 0), task.devices)
    _evaluate.lower(task, weight, net, *given).compile()


def _ready(
    task: Task, net: Network, batch_size: int, seed: int
) -> tuple[Task, Number | None, Network, Array]:
    """Return a task, its weight of spikes, the network on its devices, and its random key.

    Tasks that differ in what only training needs, or in that weight, become one and share a
    program. Networks that do not spike have no weight.
    """
    devices = parallel.most_devices(batch_size, task.devices)
    spikes = jax.eval_shape(outline, net, task.inputs.abstract())[1]
    weight = task.spike_weight if spikes or task.spike_weight else None
    task = replace(task, devices=devices, guide=None, spike_weight=0.0, augment="none")
    task = replace(task, remat=None, micro_batches=1)
    return task, weight, parallel.replicate(net.for_passes(), devices), jax.random.key(seed)


def _filled(batch: np.ndarray, size: int) -> np.ndarray:
    """Return a batch filled up with its last sample."""
    missing = size - len(batch)
    return np.concatenate([batch, np.repeat(batch[-1:], missing, 0)]) if missing else batch


@jax.jit
def _evaluate(
    task: Task,
    spike_weight: Number | None,
    net: Network,
    samples: Array,
    labels: Array,
    left: Array,
    key: Array,
    i: Array,
) -> Any:
    """Return what `_counted` does of the i-th batch, of which so many samples are left."""
    if spike_weight is not None:
        task = replace(task, spike_weight=spike_weight)
    valid = jnp.arange(samples.shape[0]) < left
    x = task.prepare(jax.random.fold_in(key, i), samples, False)
    return parallel.over_devices(partial(_counted, task), task.devices, net, x, labels, valid)


@partial(jax.jit, donate_argnums=0)
def _add(sums: Any, new: Any) -> Any:
    return jax.tree.map(jnp.add, sums, new)


def _counted(
    task: Task, net: Network, x: Array | Signal, labels: Array, valid: Array
) -> tuple[Array, Array, Counts, Array]:
    """Return what some samples add to an evaluation, on one of several devices.

    Returns:
      Samples classified right after each step, `[T]`; the mean loss `[]`; counts; how many of each
      class were decided for each class at the end, int32 `[classes, classes]`.
    """
    output = task.run(net, x)
    steps = jnp.arange(1, output.readout.shape[0] + 1, dtype=jnp.float32)
    scores = jnp.cumsum(output.readout, 0) / steps.reshape(-1, 1, 1)
    decided = scores.argmax(-1)
    right = (decided == labels.reshape(1, -1)) & valid.reshape(1, -1)
    counts = accumulate(no_counts(output.activity), output.activity, valid=valid)
    nothing = jnp.zeros((scores.shape[-1], scores.shape[-1]), jnp.int32)
    confusion = nothing.at[labels, decided[-1]].add(valid.astype(jnp.int32))
    sums = parallel.sum_over_devices((right.sum(1), counts, confusion), task.devices)
    loss = task.objective(output, labels, x, train=False)
    return sums[0], parallel.mean_over_devices(loss, task.devices), *sums[1:]


def evaluate_traced(
    task: Task,
    net: Network,
    split: tuple[Array, Array],
    *,
    batch_size: int = 100,
    seed: int = 0,
) -> tuple[Array, Array, Counts]:
    """Do what `evaluate` does inside a compiled program; the task may hold traced numbers.

    The arguments are those of `evaluate`.

    Returns:
      Accuracy over time float32 `[T]`, whose last is the accuracy; loss float32 `[]`; counts.
    """
    samples, labels = split
    batches, key = -(-len(labels) // batch_size), jax.random.key(seed)

    def counted(*given: Any) -> Any:
        return _counted(task, *given)[:3]

    def batch(i: Array | int) -> Any:
        x, rows, valid = batch_at(task, batch_size, samples, key, i)
        return parallel.over_devices(counted, task.devices, net, x, labels[rows], valid)

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(batch, 0))
    correct, loss, counts = lax.fori_loop(
        0, batches, lambda i, sums: jax.tree.map(jnp.add, sums, batch(i)), zeros
    )
    return correct / len(labels), loss / batches, counts


def predict(
    task: Task, net: Network, samples: Any, *, batch_size: int = 100, seed: int = 0
) -> Array:
    """Return a network's scores, the read-out's mean over time, as one compiled loop.

    Args:
      task: how samples become input.
      net: the network.
      samples: uint8 `[N, *shape]`, or `[N, T, *shape]` of events.
      batch_size: samples at a time.
      seed: of the encoding's random numbers.

    Returns:
      `[N, classes]`.

    Raises:
      UserError: if network or samples do not fit the task.

    Example:
      >>> import numpy as np
      >>> from jaxsnn import inputs, models
      >>> net, task = models.build("64-10", (16,), seed=0), Task(inputs.Inputs((16,), timesteps=2))
      >>> predict(task, net, np.full((4, 16), 200, np.uint8)).shape
      (4, 10)
    """
    as_task(task).check_samples(net, samples, "samples")
    check_whole("batch_size", batch_size, 1, 1 << 31)
    demand.check_evaluation(task, net, batch_size)
    devices = parallel.most_devices(batch_size, task.devices)
    task = replace(task, devices=devices, guide=None)
    net, samples = parallel.replicate((net.for_passes(), jax.device_put(samples)), devices)
    scores: Array = parallel.gather(_predict(task, batch_size, net, samples, seed), devices)
    return scores


@partial(jax.jit, static_argnums=(1,))
def _predict(task: Task, batch_size: int, net: Network, images: Array, seed: Array | int) -> Array:
    size = images.shape[0]

    def shard(net: Network, x: Array | Signal, valid: Array) -> Array:
        del valid
        return task.run(net, x).readout.mean(0)

    def batch(i: Array) -> Array:
        x, _, valid = batch_at(task, batch_size, images, jax.random.key(seed), i)
        scores: Array = parallel.over_devices(shard, task.devices, net, x, valid, joined=True)
        return scores

    scores: Array = lax.map(batch, jnp.arange(-(-size // batch_size)))
    return scores.reshape(-1, scores.shape[-1])[:size]


def batch_at(task: Task, batch_size: int, images: Array, key: Array, i: Any) -> Any:
    """Return the i-th batch as the network's input, its rows, and which of them count.

    The last batch is filled up with the last sample.
    """
    size = images.shape[0]
    rows = i * batch_size + jnp.arange(batch_size)
    valid, rows = rows < size, jnp.minimum(rows, size - 1)
    return task.prepare(jax.random.fold_in(key, i), images[rows], False), rows, valid
