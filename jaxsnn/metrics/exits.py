"""Early exit: a sample stops as soon as its scores are far enough apart; T becomes a mean.

With the read-out `y_i` of step `i`, the scores after `t` steps and the margin between the largest
and the second largest of them,

    s_t = (1/t) sum_{i <= t} y_i        m_t = s_t[1st] - s_t[2nd]
    a sample stops at the first t with m_t >= threshold, at T if there is none

and the decision is the largest score where it stopped. The threshold is chosen on held-out samples
(`choose_threshold`); nothing is trained, the file stays as it is. What is counted is exact: each
sample's spikes, events and operations are those of a run that ends where the sample stops
(`early_exit`), so the mean T, SynOps and energy are what a chip that stops there would need.

Li et al. 2023, "SEENN: Towards temporal spiking early-exit neural networks",
https://arxiv.org/abs/2304.01230, compare the largest softmax score with a threshold (SEENN-I). The
margin is ours: a subtraction and a comparison, and the same rule for every loss.

Letters in shapes: `T` time steps, `N` samples.
"""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxsnn import train
from jaxsnn.arrays import check_range, check_whole
from jaxsnn.compress.schedules import is_accepted
from jaxsnn.data import Split
from jaxsnn.errors import UserError
from jaxsnn.metrics.counts import Counts, accumulate, no_counts
from jaxsnn.metrics.report import Report
from jaxsnn.network import Network
from jaxsnn.train import demand, evaluation

__all__ = ["Decisions", "choose_threshold", "decisions", "early_exit", "exit_steps"]

CANDIDATES = 400  # thresholds that are tried


class Decisions(NamedTuple):
    """What a network would decide after each step."""

    margins: np.ndarray  # between the two largest scores, float32 [T, N]
    right: np.ndarray  # whether the largest is the label's, bool [T, N]


def decisions(
    task: train.Task, net: Network, split: Split, *, batch_size: int = 100, seed: int = 0
) -> Decisions:
    """Return the margins and the decisions of a network after each step, as one compiled loop.

    Args:
      task: how samples become input; all of its steps count.
      net: the network.
      split: the samples and their labels.
      batch_size: samples at a time.
      seed: of the encoding's random numbers; that of `train.evaluate`.

    Raises:
      UserError: if network or data do not fit the task, there is only one class, or some steps of
        the task do not count.
    """
    task = _checked(task, net, split, batch_size)
    device = jax.device_put((split.images, split.labels))
    margins, right = _decide(task, batch_size, net.for_passes(), device, seed)
    return Decisions(np.asarray(margins), np.asarray(right))


def exit_steps(margins: np.ndarray, threshold: float) -> np.ndarray:
    """Return after how many steps each sample stops, int32 `[N]` in [1, T].

    >>> exit_steps(np.asarray([[0.9, 0.1, 0.1], [0.9, 0.6, 0.2]]), 0.5).tolist()
    [1, 2, 2]

    Args:
      margins: `[T, N]`.
      threshold: a sample stops when its margin is at least so large; infinity is never.
    """
    sure = np.asarray(margins) >= threshold
    sure[-1] = True
    return np.asarray(sure.argmax(0) + 1, np.int32)


def choose_threshold(found: Decisions, tolerance: float) -> float:
    """Return the threshold of the fewest steps that loses no more than a tolerance.

    All larger ones must lose no more either: a small one that does by luck will not on other
    samples. Of those with as few steps, the largest; infinity, so that no sample stops early, if
    none will do.

    >>> margins = np.asarray([[0.9, 0.2, 0.3], [0.9, 0.8, 0.9]])
    >>> right = np.asarray([[True, False, True], [True, True, True]])
    >>> round(choose_threshold(Decisions(margins, right), 0.0), 2)
    0.3

    Args:
      found: of held-out samples.
      tolerance: accuracy that may be lost against a decision after all steps, in [0, 1].

    Raises:
      UserError: if the tolerance is out of range or there is no sample.
    """
    check_range("tolerance of an early exit", tolerance, 0, 1)
    steps, size = found.margins.shape
    if not size:
        raise UserError("no held-out samples to choose the threshold of an early exit on")
    early = np.unique(found.margins[:-1])
    if early.size > CANDIDATES:
        early = np.unique(np.quantile(early, np.linspace(0, 1, CANDIDATES), method="higher"))
    whole = float(found.right[-1].mean())
    best, fewest = float("inf"), float(steps)
    for threshold in map(float, early[::-1]):
        at = exit_steps(found.margins, threshold)
        accuracy = float(found.right[at - 1, np.arange(size)].mean())
        if not is_accepted(whole, accuracy, tolerance):
            break
        if at.mean() < fewest:
            best, fewest = threshold, float(at.mean())
    return best


def early_exit(
    task: train.Task,
    net: Network,
    split: Split,
    threshold: float,
    *,
    name: str = "early exit",
    seed: int | None = None,
    file_bytes: int | None = None,
    batch_size: int = 100,
) -> Report:
    """Report on a network each of whose decisions stops at a threshold: mean T, exact SynOps.

    The report is that of `measure` but for what stops: `timesteps` is the mean, the accuracy that
    of the decisions where samples stop, and spikes, events and operations are counted for each
    sample up to its own last step. Its extra facts `exit` are the threshold, the most steps, and
    the share of the samples that stop after each.

    Args:
      task: how samples become input; it says T.
      net: the network.
      split: the samples and their labels.
      threshold: of the margin, at least 0; infinity for none. `exits.choose_threshold` finds one.
      name: of the report's row.
      seed: of the run that trained the network, written in the row; nothing is drawn from it.
      file_bytes: size of the packed file, bytes.
      batch_size: samples at a time.

    Raises:
      UserError: if network or data do not fit the task, there is only one class, some steps of the
        task do not count, or the threshold is out of range.

    Example:
      >>> from jaxsnn import inputs, models
      >>> split = Split(np.full((4, 16), 200, np.uint8), np.zeros(4, np.int32))
      >>> net, task = models.build("64-10", (16,)), train.Task(inputs.Inputs((16,), timesteps=3))
      >>> early_exit(task, net, split, 0.0).timesteps, early_exit(task, net, split, 9.0).timesteps
      (1, 3)

    References: Li et al. 2023, https://arxiv.org/abs/2304.01230 (by softmax score; ours by margin).
    """
    check_range("threshold of an early exit", threshold, 0, float("inf"))
    found = decisions(task, net, split, batch_size=batch_size)
    last = exit_steps(found.margins, threshold)
    task = _checked(task, net, split, batch_size)
    device = jax.device_put((split.images, last))
    counts = jax.device_get(_count(task, batch_size, net.for_passes(), device, 0))
    steps, size = found.margins.shape
    shares = [float((last == t).mean()) for t in range(1, steps + 1)]
    facts = {"threshold": float(threshold), "most_timesteps": steps, "share_at_step": shares}
    report = Report.of(name, net, counts, seed=seed, file_bytes=file_bytes, extra={"exit": facts})
    return replace(
        report,
        accuracy=float(found.right[last - 1, np.arange(size)].mean()),
        accuracy_over_time=tuple(map(float, found.right.mean(1))),
    )


def _checked(task: train.Task, net: Network, split: Split, batch_size: int) -> train.Task:
    """Return the task of an evaluation on one device, once all was checked."""
    task.check(net, split)
    check_whole("batch_size", batch_size, 1, 1 << 31)
    if task.active is not None:
        raise UserError(
            f"early exit: only {task.active} of the task's steps count; give task.at({task.active})"
        )
    if task.check_samples(net, split.images, "split") < 2:
        raise UserError("early exit compares the two largest scores, the network has only one")
    demand.check_evaluation(task, net, batch_size)
    return replace(task, devices=1, guide=None)


@partial(jax.jit, static_argnums=(1,))
def _decide(
    task: train.Task, batch_size: int, net: Network, split: tuple[Array, Array], seed: int
) -> tuple[Array, Array]:
    """Return margins and decisions, `[T, N]`."""
    images, labels = split
    size, steps = images.shape[0], task.inputs.timesteps
    so_far = jnp.arange(1, steps + 1, dtype=jnp.float32).reshape(-1, 1, 1)

    def batch(i: Array) -> tuple[Array, Array]:
        x, rows, _ = evaluation.batch_at(task, batch_size, images, jax.random.key(seed), i)
        scores = jnp.cumsum(task.run(net, x).readout, 0) / so_far
        first, second = jnp.moveaxis(lax.top_k(scores, 2)[0], -1, 0)
        return first - second, scores.argmax(-1) == labels[rows].reshape(1, -1)

    def joined(each: Array) -> Array:
        return jnp.moveaxis(each, 0, 1).reshape(steps, -1)[:, :size]

    margins, right = lax.map(batch, jnp.arange(-(-size // batch_size)))
    return joined(margins), joined(right)


@partial(jax.jit, static_argnums=(1,))
def _count(
    task: train.Task, batch_size: int, net: Network, samples: tuple[Array, Array], seed: int
) -> Counts:
    """Count what each sample does up to its last step: in the run of as many steps as it takes."""
    images, last = samples
    steps = task.inputs.timesteps
    key = jax.random.key(seed)

    def batch(i: Array | int, counts: Counts | None) -> Counts:
        x, rows, valid = evaluation.batch_at(task, batch_size, images, key, i)

        def until(active: Array | int, counts: Counts | None) -> Counts:
            activity = replace(task, active=active).run(net, x).activity
            counts = no_counts(activity) if counts is None else counts
            return accumulate(counts, activity, valid=valid & (last[rows] == active))

        if counts is None:
            return until(steps, None)
        done: Counts = lax.fori_loop(1, steps + 1, until, counts)
        return done

    shapes = jax.eval_shape(lambda: batch(0, None))
    zeros: Counts = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    batches = -(-images.shape[0] // batch_size)
    counted: Counts = lax.fori_loop(0, batches, batch, zeros)
    return counted
