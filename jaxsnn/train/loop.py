"""The training engine: an epoch is one compiled loop over data that stays on the device.

The engine knows no method: what compresses is in the phase (an optax transformation with what
comes before its first step and after its last) and in the task. Shuffling, augmentation, encoding,
gradients, updates and sums of the metrics all happen inside the loop; Python only starts it, a
chunk of steps at a time, to show progress. Every random number depends on the seed, the phase's
name and the number of the step alone, so a resumed training repeats an uninterrupted one bit for
bit.
"""

import zlib
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from jaxsnn.alike import Shared, share
from jaxsnn.compress.phase import Phase
from jaxsnn.compress.states import known_steps
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.metrics.counts import spike_rate
from jaxsnn.network import Network
from jaxsnn.train import parallel
from jaxsnn.train.task import Task

__all__ = [
    "Sums",
    "TrainState",
    "end_epoch",
    "end_phase",
    "init",
    "means",
    "no_sums",
    "phase_key",
    "run_steps",
    "steps",
    "train_step",
]

Tree = Any

TURNS = 1 << 30  # the part of a phase's key that is for all epochs: no step has this number


class TrainState(NamedTuple):
    """Everything that training changes, and the key it draws from."""

    net: Network  # the visible weights, in bfloat16 their grids, statistics, neurons
    opt_state: optax.OptState  # with masks, duals, free copies
    key: Array  # uint32 [2], constant over a phase
    step: Array  # int32 [], steps done in this phase


class Sums(NamedTuple):
    """Sums over the steps of an epoch."""

    loss: Array  # [] of the batches' mean losses
    correct: Array  # [] samples classified right
    spike_rate: Array  # [] of the batches' spikes per neuron and step
    steps: Array  # [] int32


def init(net: Network, phase: Phase, key: Array) -> TrainState:
    """Return the state from which a phase starts; nothing in it is shared with the arguments.

    The optimizer starts from the given weights, the first step sees what `phase.begin` makes of
    them.

    Args:
      net: the network to train.
      phase: what trains it.
      key: from which shuffling, encoding and dropout are drawn (`phase_key`).
    """
    opt_state = phase.optimizer.init(net.params)
    begun = _seen(net, phase.begin(net.params), opt_state)
    state = TrainState(begun, opt_state, jax.random.key_data(key), jnp.int32(0))
    copied: TrainState = jax.device_put(state, may_alias=False)
    return copied


def _seen(net: Network, params: Tree, opt_state: optax.OptState, **parts: Any) -> Network:
    """Return the network of a state, with the grids that its passes read."""
    return net.replace(params=params, steps=known_steps(opt_state), **parts).for_passes()


def phase_key(seed: int | Array, name: str) -> Array:
    """Return the random key of a phase, a function of the seed and the whole name."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def train_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    images: Array,
    labels: Array,
    taught: Array | None = None,
) -> tuple[TrainState, Sums]:
    """Take one step on one batch.

    Args:
      task: input and loss.
      optimizer: chain of transformations, the compression among them.
      state: before the step.
      images: uint8 `[B, H, W, C]`.
      labels: int32 `[B]`.
      taught: a teacher's scores `[B, classes]`, where the task's guide knows them.

    Returns:
      The state after the step, and its metrics.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    input_key, network_key = jax.random.split(key)
    x = task.prepare(input_key, images, True)
    keys = jax.random.split(network_key, labels.shape[0])
    each = labels, keys, *(() if taught is None else (taught,))

    def shard(net: Network, x: Array | Signal, *each: Array) -> Any:
        if task.micro_batches == 1:
            means, stats = _gradient(task, net, x, *each)
        else:
            stats = net.stats
            means = parallel.over_micro_batches(
                lambda *args: _gradient(task, *args)[0], task.micro_batches, net, x, *each
            )
        return parallel.mean_over_devices(means, task.devices), stats

    if task.micro_batches > 1 and state.net.has_norms:
        raise UserError(
            "micro_batches would normalise each part of a batch by itself: "
            "use a network without batch normalisation, or micro_batches=1"
        )
    net = state.net
    (gradient, means), stats = parallel.over_devices(shard, task.devices, net, x, *each)
    updates, opt_state = optimizer.update(gradient, state.opt_state, net.params)
    net = _seen(net, optax.apply_updates(net.params, updates), opt_state, stats=stats).in_range()
    correct = means.correct * (task.micro_batches * task.devices)
    after = TrainState(net, opt_state, state.key, state.step + 1)
    return after, means._replace(correct=correct, steps=jnp.int32(1))


def _gradient(
    task: Task,
    net: Network,
    x: Array | Signal,
    labels: Array,
    keys: Array,
    taught: Array | None = None,
) -> tuple[tuple[Tree, Sums], Tree]:
    """Return ((gradient, sums) of some samples, all of them means but `correct`; statistics)."""
    axis = {"axis": parallel.AXIS} if task.devices > 1 else {}

    def loss(params: Tree) -> Any:
        trained = net.replace(params=params, steps=net.steps)
        output = task.run(trained, x, train=True, key=keys, remat=task.remat, **axis)
        return task.objective(output, labels, x, taught), output

    (value, output), gradient = jax.value_and_grad(loss, has_aux=True)(net.params)
    correct = (output.readout.mean(0).argmax(-1) == labels).sum().astype(jnp.float32)
    rate = spike_rate(output.activity)
    sums = Sums(value.astype(jnp.float32), correct, rate.astype(jnp.float32), jnp.float32(1))
    return (gradient, sums), output.stats


def run_steps(
    task: Task,
    optimizer: optax.GradientTransformation | Shared[optax.GradientTransformation],
    batch_size: int,
    state: TrainState,
    sums: Sums,
    split: tuple[Array, Array],
    stop: Array,
) -> tuple[TrainState, Sums]:
    """Train until `state.step == stop`, within one epoch, as one compiled loop.

    Args:
      task: input and loss.
      optimizer: as in `train_step`; those that do the same share a program (`alike.share`).
      batch_size: B; samples that fill no batch wait for the next shuffling.
      state: donated.
      sums: of the epoch so far; donated.
      split: images uint8 `[N, H, W, C]` and labels `[N]`, on the device.
      stop: int32 `[]`.
    """
    given = task, share(optimizer), state, sums, split, stop
    task, shared, state, sums, split, stop = parallel.replicate(given, task.devices)
    size = split[1].shape[0]
    order = _order(state.key, state.step, size // batch_size, size)
    arguments = task, shared, batch_size, state, sums, split, order, stop
    after: tuple[TrainState, Sums] = _run_steps(*arguments)
    return after


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
    return _loop(task, share(optimizer), batch_size, state, sums, split, order, stop)


@partial(jax.jit, static_argnums=(2, 3))
def _order(key: Array, step: Array, steps: int, size: int) -> Array:
    """Return the samples in the order of the epoch that `step` falls in; one program for all."""
    shuffle = jax.random.fold_in(jax.random.wrap_key_data(key), -1 - step // steps)
    return jax.random.permutation(shuffle, size)


def _loop(
    task: Task,
    optimizer: Shared[optax.GradientTransformation],
    batch_size: int,
    state: TrainState,
    sums: Sums,
    split: tuple[Array, Array],
    order: Array,
    stop: Array,
) -> tuple[TrainState, Sums]:
    images, labels = split
    steps = images.shape[0] // batch_size
    turns = jax.random.fold_in(jax.random.wrap_key_data(state.key), TURNS)
    scores = None if task.guide is None else task.guide.scores

    def body(_: Array, carry: tuple[TrainState, Sums]) -> tuple[TrainState, Sums]:
        state, sums = carry
        rows = lax.dynamic_slice_in_dim(order, (state.step % steps) * batch_size, batch_size)
        shown = task.in_turn(turns, images[rows], rows, state.step // steps)
        taught = None if scores is None else scores[rows]
        state, new = train_step(task, optimizer.function, state, shown, labels[rows], taught)
        return state, jax.tree.map(jnp.add, sums, new)

    after = lax.fori_loop(state.step, stop, body, (state, sums))
    whole: tuple[TrainState, Sums] = parallel.keep_whole(after, task.devices)
    return whole


_run_steps = jax.jit(_loop, static_argnums=2, donate_argnums=(3, 4))


def end_epoch(phase: Phase, state: TrainState) -> TrainState:
    """Return the state after what a phase does at the end of an epoch, such as moving masks."""
    if phase.after_epoch is None:
        return state
    params, opt_state = phase.after_epoch(state.net.params, state.opt_state)
    return state._replace(net=_seen(state.net, params, opt_state), opt_state=opt_state)


def end_phase(phase: Phase, state: TrainState) -> Network:
    """Return the network that a phase hands over, with the steps of its grids."""
    params, grids = phase.finish(state.net.params, state.opt_state)
    return state.net.replace(params=params, steps=grids)


def no_sums() -> Sums:
    """Return the sums before the first step of an epoch."""
    return Sums(jnp.float32(0), jnp.float32(0), jnp.float32(0), jnp.int32(0))


def means(sums: Sums, batch_size: int) -> dict[str, float]:
    """Return the figures of an epoch so far, for a log; waits until they are there."""
    steps = int(sums.steps)
    return {
        "loss": float(sums.loss) / steps,
        "accuracy": float(sums.correct) / (steps * batch_size),
        "spike_rate": float(sums.spike_rate) / steps,
    }
