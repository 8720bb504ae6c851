"""`fit`: train a network for some epochs, with checkpoints, held-out images, a log and a bar."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxsnn import timing
from jaxsnn.alike import Shared, share
from jaxsnn.arrays import check_whole
from jaxsnn.compress.phase import Phase, as_phase
from jaxsnn.data import Split
from jaxsnn.errors import UserError
from jaxsnn.metrics import warnings
from jaxsnn.metrics.counts import Counts
from jaxsnn.network import Network
from jaxsnn.train import demand, distributed, evaluation, host, parallel, progress
from jaxsnn.train.checkpoint import Checkpoints
from jaxsnn.train.divergence import Watch
from jaxsnn.train.loop import (
    Sums,
    TrainState,
    end_epoch,
    end_phase,
    init,
    means,
    no_sums,
    phase_key,
    run_steps,
)
from jaxsnn.train.task import Task, as_task

__all__ = ["Fit", "fit"]

# Steps between two looks of a bar in a terminal: some tenths of a second to a few seconds. Without
# one the host does not look before the epoch is over.
CHUNK = 50

# XLA compiles one program on two cores: with no more, a second one beside it gains nothing.
FEW_CORES = 2

Fit = Callable[..., Network]
"""What a method trains with: `fit(task, phase, net, split, *, epochs, batch_size, validation, seed,
name)` returns the trained network. `train.fit` is one; experiments pass one that resumes."""


def fit(
    task: Task,
    phase: Phase | optax.GradientTransformation,
    net: Network,
    split: Split,
    *,
    epochs: int,
    batch_size: int,
    validation: Split | None = None,
    seed: int = 0,
    name: str = "train",
    checkpoints: Checkpoints | None = None,
    log: Callable[[dict[str, Any]], None] | None = None,
    show: bool = True,
) -> Network:
    """Train a network for some epochs; the network given stays as it is.

    Optimizers that do the same, such as two of `optax.adam(1e-3)`, share a compiled program.

    Args:
      task: input and loss.
      phase: an optimizer, or a `compress.Phase` such as `compress.quantized(adam, recipe)`.
      net: the network to train, fresh or trained.
      split: the training images and their labels, `data.train`.
      epochs: how many in all, those of a resumed checkpoint included.
      batch_size: samples a step.
      validation: held-out images, evaluated after each epoch.
      seed: of shuffling, encoding and dropout, together with the name.
      name: of the phase, for the random numbers, the progress bar, the log and messages.
      checkpoints: where to save after epochs (`Checkpoints.every`), and to resume from what lies
        there: the newest that is whole. It must be of a training with the same name, seed, batch
        size, number of samples and masks to start from.
      log: called with a record after each epoch: phase, epoch, loss, accuracy, ...
      show: whether to show progress; of several processes the first does.

    Returns:
      The network after the last epoch, as `phase.finish` hands it over: on its grid, for example.

    Raises:
      Diverged: if the loss or a weight is no finite number, or the network names one class while
        its weights have left all bounds; noticed at the next look of the progress bar or the end
        of the epoch, before a checkpoint is saved.
      UserError: if network, data, batch and task do not fit each other, or a checkpoint is of
        another training, or cannot be written or read.

    Example:
      >>> import optax
      >>> from jaxsnn import data, models
      >>> digits = data.load("digits", limit=100)
      >>> net = models.build("16-10", digits.shape, seed=0)
      >>> task = Task(digits.inputs(timesteps=2))
      >>> net = fit(task, optax.adam(1e-2), net, digits.train, epochs=1, batch_size=30, show=False)
    """
    if isinstance(validation, Split) and not len(validation.labels):
        validation = None
    phase, show = as_phase(phase, name="phase"), show and distributed.is_first()
    _check(task, phase, net, split, validation, epochs, batch_size, checkpoints)
    with timing.phase(name):
        optimizer, phase, state = begun(phase, net, phase_key(seed, name))
        watch = Watch.over(name, checkpoints, state.net.params, split[1])
        done, counts = 0, None
        if checkpoints is not None:
            facts = {"name": name, "seed": seed, "batch_size": batch_size, "samples": len(split[1])}
            done, state = checkpoints.resume(state, epochs, facts)
        steps = len(split[1]) // batch_size
        state, device = parallel.replicate((state, jax.device_put(tuple(split))), task.devices)
        prepared = _prepare(task, net, validation) if done < epochs else None
        with progress.Bar(name, epochs, steps, done) if show else progress.Silence() as bar:
            for epoch in range(done, epochs):
                start = time.perf_counter()
                with timing.activity("train"):
                    state, sums = _epoch(
                        task, optimizer, batch_size, state, device, epoch, bar, watch
                    )
                    state = end_epoch(phase, state)
                    watch.check(epoch, means(sums, batch_size), state.net.params)
                if prepared is not None:
                    with timing.activity("waiting"):
                        prepared.result()
                record = {"phase": name, "epoch": epoch + 1, **means(sums, batch_size)}
                seen, counts = _look(task, phase, state, validation)
                record |= seen | {"seconds": round(time.perf_counter() - start, 3)}
                bar.finish_epoch(record)
                if log is not None:
                    log(record)
                if checkpoints is not None and (epoch + 1 == epochs or checkpoints.is_due()):
                    with timing.activity("waiting"):
                        checkpoints.save(epoch + 1, state)
            if checkpoints is not None:
                with timing.activity("waiting"):
                    checkpoints.wait()
            trained = end_phase(phase, parallel.gather(state, task.devices))
            distributed.check_equal(f"the network after phase {name!r}", trained)
            for line in warnings.after_training(net, trained, counts) if show else ():
                bar.warn(line)
        return trained


def begun(
    phase: Phase, net: Network, key: Array
) -> tuple[Shared[optax.GradientTransformation], Phase, TrainState]:
    """Return a phase's optimizer as an argument of programs, the phase compiled, and its state."""
    optimizer = _shared(phase.optimizer, net.params)
    phase = _compiled(phase, lift=bool(optimizer.arrays))
    return optimizer, phase, init(net, phase, key)


def _look(
    task: Task, phase: Phase, state: TrainState, validation: Split | None
) -> tuple[dict[str, Any], Counts | None]:
    """Return what the log gets of a state besides its training; counts of held-out images."""
    seen: dict[str, Any] = {}
    counts = None
    if validation is not None:
        found = evaluation.evaluate(task, state.net, validation)
        seen["validation_accuracy"], counts = found.accuracy, found.counts
    if phase.observe is not None:
        observed = phase.observe(state.net.params, state.opt_state)
        seen |= {key: float(value) for key, value in observed.items()}
    return seen, counts


def _check(
    task: Task,
    phase: Phase,
    net: Network,
    split: Split,
    validation: Split | None,
    epochs: int,
    batch_size: int,
    checkpoints: Checkpoints | None,
) -> None:
    """Raise `UserError` where the arguments of `fit` do not fit each other."""
    as_task(task).check(net, split)
    if validation is not None:
        task.check(net, validation, "validation")
    if task.guide is not None and task.guide.scores is not None:
        found, needed = len(task.guide.scores), len(split[1])
        if found != needed:
            raise UserError(f"the guide has scores of {found} samples, but split has {needed}")
    if not isinstance(checkpoints, Checkpoints | None):
        found = type(checkpoints).__name__
        raise UserError(f"checkpoints must be train.Checkpoints(folder) or None, found {found}")
    check_whole("batch_size", batch_size, 1, len(split[1]))
    check_whole("epochs", epochs, 0, 1 << 20)
    demand.check_training(task, net, phase, batch_size)
    if validation is not None:
        demand.check_evaluation(task, net, evaluation.BATCH)


def _shared(
    optimizer: optax.GradientTransformation, params: Any
) -> Shared[optax.GradientTransformation]:
    """Return an optimizer as an argument of a program, for all that do the same.

    Numbers that its code in Python looks at are a part of the program.
    """
    shared = share(optimizer)

    def step(shared: Shared[optax.GradientTransformation], params: Any) -> Any:
        optimizer = shared.function
        return optimizer.update(params, optimizer.init(params), params)

    if shared.arrays:
        try:
            jax.eval_shape(step, shared, params)
        except jax.errors.JAXTypeError:
            return share(optimizer, lift=False)
    return shared


def _compiled(phase: Phase, *, lift: bool) -> Phase:
    """Return a phase whose parts are compiled whole, and shared with those that do the same.

    Its ends are left as they are: what they hand over equals `compress.project` bit for bit.

    Args:
      phase: any.
      lift: whether the arrays of its optimizer are arguments; those of the other parts, which see
        states that lie on several devices, are not.
    """

    def part(function: Callable[..., Any] | None) -> Any:
        return function and partial(_call, share(function, lift=False))

    init = partial(_call, share(phase.optimizer.init, lift=lift))
    return replace(
        phase,
        optimizer=phase.optimizer._replace(init=init),
        observe=part(phase.observe),
        after_epoch=part(phase.after_epoch),
    )


@jax.jit
def _call(shared: Shared[Callable[..., Any]], *arguments: Any) -> Any:
    return shared.function(*arguments)


def _prepare(task: Task, net: Network, validation: Split | None) -> Future[None] | None:
    """Begin to compile the evaluation beside the training; not where both need the same cores."""
    if validation is None or host.cores() <= FEW_CORES or jax.process_count() > 1:
        return None
    beside = ThreadPoolExecutor(max_workers=1)
    prepared = beside.submit(evaluation.prepare, task, net, validation)
    beside.shutdown(wait=False)
    return prepared


def _epoch(
    task: Task,
    optimizer: Shared[optax.GradientTransformation],
    batch_size: int,
    state: TrainState,
    split: tuple[Array, Array],
    epoch: int,
    bar: progress.Bar | progress.Silence,
    watch: Watch,
) -> tuple[TrainState, Sums]:
    """Train for one epoch, in chunks if a bar is looked at, and look whether it has diverged."""
    sums, steps = no_sums(), split[1].shape[0] // batch_size
    chunk = CHUNK if bar.live and jax.process_count() == 1 else steps  # the same on all processes
    for first in range(0, steps, chunk):
        last = min(first + chunk, steps)
        stop = jnp.int32(epoch * steps + last)
        state, sums = run_steps(task, optimizer, batch_size, state, sums, split, stop)
        figures = means(sums, batch_size)
        watch.check_loss(epoch, figures)
        bar.advance(last - first, epoch, figures)
    return state, sums
