"""The training engine: an epoch is one compiled loop over data that stays on the device.

The engine knows no method: what compresses is in the optimizer (a chain of optax transformations)
and in the loss. Shuffling, augmentation, encoding, gradients, updates and sums of the metrics all
happen inside the loop; Python only starts it, a chunk of steps at a time, to show progress. Every
random number depends on the phase's key and the number of the step alone, so a resumed training
repeats an uninterrupted one bit for bit.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from jaxsnn import metrics
from jaxsnn.arrays import check_whole
from jaxsnn.data import Split
from jaxsnn.errors import UserError
from jaxsnn.network import has_norms
from jaxsnn.train import parallel, progress
from jaxsnn.train.checkpoint import Checkpoints
from jaxsnn.train.evaluation import Evaluation, Task, evaluate, predict

__all__ = [
    "Diverged",
    "Evaluation",
    "Sums",
    "Task",
    "TrainState",
    "evaluate",
    "fit",
    "init",
    "no_sums",
    "predict",
    "run_steps",
    "steps",
    "train_step",
]

Tree = Any

# Steps between two looks of a bar in a terminal: some tenths of a second to a few seconds. Without
# one the host does not look before the epoch is over.
CHUNK = 50


class TrainState(NamedTuple):
    """Hold everything that training changes, and the key it draws from."""

    params: Tree  # the visible weights
    stats: Tree  # running statistics and neuron constants
    opt_state: optax.OptState  # with masks, duals, free copies
    key: Array  # uint32 [2], constant over a phase
    step: Array  # int32 [], steps done in this phase


class Sums(NamedTuple):
    """Hold sums over the steps of an epoch."""

    loss: Array  # [] of the batches' mean losses
    correct: Array  # [] samples classified right
    spike_rate: Array  # [] of the batches' spikes per neuron and step
    steps: Array  # [] int32


class Diverged(UserError):
    """Report a loss or weights that are no numbers any more; the last good checkpoint stands."""


def init(
    params: Tree, stats: Tree, optimizer: optax.GradientTransformation, key: Array
) -> TrainState:
    """Return the state from which a phase starts; nothing in it is shared with the arguments."""
    params, stats = jax.tree.map(jnp.array, (params, stats))
    data = jax.random.key_data(key)
    return TrainState(params, stats, optimizer.init(params), jnp.array(data), jnp.int32(0))


def train_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    images: Array,
    labels: Array,
) -> tuple[TrainState, Sums]:
    """Take one step on one batch.

    Args:
      task: network, input and loss.
      optimizer: chain of transformations, the compression among them.
      state: before the step.
      images: uint8 `[B, H, W, C]`.
      labels: int32 `[B]`.

    Returns:
      The state after the step, and its metrics.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    input_key, network_key = jax.random.split(key)
    x = task.prepare(input_key, images, True)
    keys = jax.random.split(network_key, labels.shape[0])

    def shard(network, x, labels, keys):
        if task.micro_batches == 1:
            means, stats = _gradient(task, network, x, labels, keys)
        else:
            part, stats = partial(_gradient, task), network[1]
            means = parallel.over_micro_batches(
                lambda *args: part(*args)[0], task.micro_batches, network, x, labels, keys
            )
        return parallel.mean_over_devices(means, task.devices), stats

    if task.micro_batches > 1 and has_norms(state.stats):
        raise UserError(
            "micro_batches would normalise each part of a batch by itself: "
            "use a network without batch normalisation, or micro_batches=1"
        )
    network = state.params, state.stats
    (gradient, means), stats = parallel.over_devices(shard, task.devices, network, x, labels, keys)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    state = TrainState(params, stats, opt_state, state.key, state.step + 1)
    correct = means.correct * (task.micro_batches * task.devices)
    return state, means._replace(correct=correct, steps=jnp.int32(1))


def _gradient(task, network, x, labels, keys):
    """Return ((gradient, sums) of some samples, all of them means but `correct`; statistics)."""
    params, stats = network
    axis = {"axis": parallel.AXIS} if task.devices > 1 else {}

    def loss(params):
        output = task.apply(params, stats, x, train=True, key=keys, remat=task.remat, **axis)
        return task.loss(output, labels), output

    (value, output), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    correct = (output.readout.mean(0).argmax(-1) == labels).sum().astype(jnp.float32)
    rate = metrics.spike_rate(output.activity, output.readout.shape[0])
    return (gradient, Sums(value, correct, rate, jnp.float32(1))), output.stats


def run_steps(
    task: Task,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    state: TrainState,
    sums: Sums,
    split: tuple[Array, Array],
    stop: Array,
) -> tuple[TrainState, Sums]:
    """Train until `state.step == stop`, within one epoch, as one compiled loop.

    Args:
      task: network, input and loss.
      optimizer: as in `train_step`.
      batch_size: B; samples that fill no batch wait for the next shuffling.
      state: donated.
      sums: of the epoch so far; donated.
      split: images uint8 `[N, H, W, C]` and labels `[N]`, on the device.
      stop: int32 `[]`.
    """
    state, sums, split = parallel.replicate((state, sums, split), task.devices)
    size = split[1].shape[0]
    order = _order(state.key, state.step, size // batch_size, size)
    return _run_steps(task, optimizer, batch_size, state, sums, split, order, stop)


def steps(
    task: Task,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    state: TrainState,
    sums: Sums,
    split: tuple[Array, Array],
    stop: Array,
) -> tuple[TrainState, Sums]:
    """Do what `run_steps` does inside a compiled program: nothing is donated, nothing moved.

    The optimizer and the task may hold traced numbers, so that a sweep can vary them.
    """
    size = split[1].shape[0]
    order = _order(state.key, state.step, size // batch_size, size)
    return _loop(task, optimizer, batch_size, state, sums, split, order, stop)


@partial(jax.jit, static_argnums=(2, 3))
def _order(key, step, steps, size):
    """Return the samples in the order of the epoch that `step` falls in; one program for all."""
    shuffle = jax.random.fold_in(jax.random.wrap_key_data(key), -1 - step // steps)
    return jax.random.permutation(shuffle, size)


def _loop(task, optimizer, batch_size, state, sums, split, order, stop):
    images, labels = split
    steps = images.shape[0] // batch_size

    def body(_, carry):
        state, sums = carry
        rows = lax.dynamic_slice_in_dim(order, (state.step % steps) * batch_size, batch_size)
        state, new = train_step(task, optimizer, state, images[rows], labels[rows])
        return state, jax.tree.map(jnp.add, sums, new)

    return lax.fori_loop(state.step, stop, body, (state, sums))


_run_steps = jax.jit(_loop, static_argnums=(0, 1, 2), donate_argnums=(3, 4))


def fit(
    task: Task,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    train: Split,
    *,
    epochs: int,
    batch_size: int,
    validation: Split | None = None,
    phase: str = "train",
    checkpoints: Checkpoints | None = None,
    log: Callable[[dict[str, Any]], None] | None = None,
    observe: Callable[[TrainState], Mapping[str, Any]] | None = None,
    after_epoch: Callable[[TrainState], TrainState] | None = None,
    show: bool = True,
) -> TrainState:
    """Train for some epochs.

    Args:
      task: network, input and loss.
      optimizer: chain of transformations.
      state: from `init`.
      train: the training images.
      epochs: how many in all, those of a resumed checkpoint included.
      batch_size: samples a step.
      validation: held-out images, evaluated after each epoch.
      phase: name for the progress bar, the log and messages.
      checkpoints: where to save after each epoch, and to resume from what lies there.
      log: called with a record after each epoch: phase, epoch, loss, accuracy, ...
      observe: returns more to log, such as the residuals of ADMM.
      after_epoch: changes the state at the end of each epoch, before it is evaluated and saved, as
        what moves masks does. A function of the state alone, or a resumed training is another one.
      show: whether to show progress.

    Returns:
      The state after the last epoch.

    Raises:
      Diverged: if the loss or a weight is no finite number; noticed at the next look of the
        progress bar or the end of the epoch.
      UserError: if the batch does not fit the data.
    """
    check_whole("batch_size", batch_size, 1, len(train.images))
    check_whole("epochs", epochs, 0, 1 << 20)
    done = checkpoints.latest() if checkpoints is not None else None
    if checkpoints is not None and done is not None:
        state = checkpoints.restore(state)
    else:
        done, state = 0, jax.tree.map(jnp.array, state)
    steps = len(train.images) // batch_size
    device = jnp.asarray(train.images), jnp.asarray(train.labels)
    state, device = parallel.replicate((state, device), task.devices)
    bar = progress.Bar(phase, epochs, steps, done) if show else progress.Silence()
    chunk = CHUNK if bar.live else steps
    with bar:
        for epoch in range(done, epochs):
            start, sums = time.perf_counter(), no_sums()
            for first in range(0, steps, chunk):
                last = min(first + chunk, steps)
                stop = jnp.int32(epoch * steps + last)
                state, sums = run_steps(task, optimizer, batch_size, state, sums, device, stop)
                figures = _means(sums, batch_size)
                if not jnp.isfinite(figures["loss"]):
                    raise Diverged(_what_happened(phase, epoch, "the loss", checkpoints))
                bar.advance(last - first, epoch, figures)
            state = after_epoch(state) if after_epoch else state
            if not _is_finite(state.params):
                raise Diverged(_what_happened(phase, epoch, "a weight", checkpoints))
            record = {"phase": phase, "epoch": epoch + 1, **_means(sums, batch_size)}
            if validation is not None and len(validation.images):
                found = evaluate(task, state.params, state.stats, validation, batch_size=batch_size)
                record["validation_accuracy"] = found.accuracy
            record |= observe(state) if observe else {}
            record["seconds"] = round(time.perf_counter() - start, 3)
            bar.finish_epoch(record)
            if log is not None:
                log(record)
            if checkpoints is not None:
                checkpoints.save(epoch + 1, state)
    return parallel.gather(state, task.devices)


def no_sums() -> Sums:
    """Return the sums before the first step of an epoch."""
    return Sums(jnp.float32(0), jnp.float32(0), jnp.float32(0), jnp.int32(0))


def _means(sums: Sums, batch_size: int) -> dict[str, float]:
    steps = int(sums.steps)
    return {
        "loss": float(sums.loss) / steps,
        "accuracy": float(sums.correct) / (steps * batch_size),
        "spike_rate": float(sums.spike_rate) / steps,
    }


@jax.jit
def _is_finite(params):
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]).all()


def _what_happened(phase: str, epoch: int, what: str, checkpoints: Checkpoints | None) -> str:
    good = "; nothing was saved"
    if checkpoints is not None:
        last = checkpoints.latest()
        place = f"epoch {last} in {checkpoints.directory}" if last else "the phase before"
        good = f"; the last good checkpoint is {place}"
    return (
        f"phase {phase!r}: {what} is not finite any more in epoch {epoch + 1}{good}; "
        "lower the learning rate or the penalty"
    )
