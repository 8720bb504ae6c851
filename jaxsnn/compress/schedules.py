"""What changes in the course of training: ramps and steps of hyperparameters, and the timesteps.

Ramps and steps are optax schedules, count `[]` -> value `[]`. The values may be traced, so that a
sweep can vary them; so may the counts of ramps, while those of steps are Python numbers.

The number of timesteps T falls in stages, for each T is a program of its own: a network trained at
T0 is trained on at a smaller T, that one at a smaller one still, each starting from the weights of
the one before, until accuracy on a validation split has fallen too far (Chowdhury et al. 2021,
https://arxiv.org/abs/2104.12528; the idea is theirs, steps and stop rule are ours). `time_weights`
makes one program of all: a network of T steps whose first `active` ones alone count.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import jax.numpy as jnp
import optax

from jaxsnn.arrays import Array, Number, check_range, check_whole, is_traced
from jaxsnn.errors import UserError

__all__ = [
    "Stage",
    "cubic_sparsity",
    "falling_timesteps",
    "is_accepted",
    "linear_ramp",
    "next_timesteps",
    "over_time",
    "shorten",
    "stepwise",
    "time_mask",
    "time_weights",
]


def stepwise(values: Sequence[Number], boundaries: Sequence[int]) -> optax.Schedule:
    """Return one value after another: `values[i]` from `boundaries[i - 1]` on.

    >>> penalty = stepwise([1e-3, 1e-2, 1e-1], [100, 200])
    >>> [round(float(penalty(count)), 4) for count in (0, 99, 100, 250)]
    [0.001, 0.001, 0.01, 0.1]

    Args:
      values: one more than boundaries.
      boundaries: rising counts at which the next value begins.

    Raises:
      UserError: if the numbers of values and boundaries do not fit, or the boundaries fall.
    """
    if len(values) != len(boundaries) + 1:
        raise UserError(
            f"stepwise needs one value more than boundaries, found {len(values)} values and "
            f"{len(boundaries)} boundaries"
        )
    if sorted(boundaries) != list(boundaries):
        raise UserError(f"the boundaries of steps must rise, found {list(boundaries)}")

    def schedule(count: Array) -> Array:
        passed = sum(jnp.asarray(count >= boundary, jnp.int32) for boundary in boundaries)
        return jnp.stack([jnp.asarray(value, jnp.float32) for value in values])[passed]

    return schedule


def cubic_sparsity(initial: Number, final: Number, begin: Number, end: Number) -> optax.Schedule:
    """Prune fast while much is redundant and slowly towards the end.

        s(t) = s_f + (s_i - s_f) (1 - (t - t_0) / (t_1 - t_0))^3        for t_0 <= t <= t_1

    and constant outside.

    >>> sparsity = cubic_sparsity(0.0, 0.8, 100, 300)
    >>> [round(float(sparsity(count)), 2) for count in (0, 100, 200, 300)]
    [0.0, 0.0, 0.7, 0.8]

    Args:
      initial: sparsity `s_i` up to `begin`, in [0, 1].
      final: sparsity `s_f` from `end` on, in [0, 1].
      begin: count `t_0`, at least 0.
      end: count `t_1`, greater than `begin`.

    Raises:
      UserError: if a number is out of range.

    References: Zhu and Gupta 2017, https://arxiv.org/abs/1710.01878, Eq. 1.
    """
    check_range("initial sparsity", initial, 0, 1)
    check_range("final sparsity", final, 0, 1)
    return _polynomial(initial, final, begin, end, power=3)


def linear_ramp(initial: Number, final: Number, begin: Number, end: Number) -> optax.Schedule:
    """Go from one value to another in a straight line, and stay constant outside.

    >>> rate = linear_ramp(1.0, 0.0, 0, 4)
    >>> [float(rate(count)) for count in (0, 1, 4, 9)]
    [1.0, 0.75, 0.0, 0.0]

    Args:
      initial: value up to `begin`.
      final: value from `end` on.
      begin: count at which the ramp begins, at least 0.
      end: count at which it ends, greater than `begin`.

    Raises:
      UserError: unless `0 <= begin < end`.
    """
    return _polynomial(initial, final, begin, end, power=1)


def _polynomial(
    initial: Number, final: Number, begin: Number, end: Number, *, power: int
) -> optax.Schedule:
    known = not is_traced(begin) and not is_traced(end)
    if known and not 0 <= begin < end:
        raise UserError(f"a ramp needs 0 <= begin < end, found begin {begin} and end {end}")

    def schedule(count: Array) -> Array:
        rest = 1 - jnp.clip((count - begin) / (end - begin), 0, 1)
        return jnp.asarray(final + (initial - final) * rest**power)

    return schedule


# ----------------------------------------------------------------------------------------------
# timesteps

Shortened = TypeVar("Shortened")

TIMESTEPS = (75, 50, 40, 30, 25, 20, 15, 10)  # from 100 on; ours
TOLERANCE = 0.01  # accuracy that may be lost against T0; ours
ROUNDING = 1e-9  # far below one sample: 0.9 - 0.89 is above 0.01 in floats


class Stage(NamedTuple):
    """Name one stage of fewer timesteps, and how it ended."""

    timesteps: int
    accuracy: float  # on the validation split, in [0, 1]
    accepted: bool


def falling_timesteps(initial: int, timesteps: Sequence[int] = TIMESTEPS) -> tuple[int, ...]:
    """Return a schedule of timesteps, checked: whole, falling from below `initial`, at least 1.

    >>> falling_timesteps(8, [6, 4])
    (6, 4)

    Raises:
      UserError: if it rises, repeats a number or reaches 0.
    """
    check_whole("initial timesteps", initial, 1, float("inf"))
    named = f"the schedule of timesteps {list(timesteps)} after {initial}"
    for before, after in zip([initial, *timesteps], timesteps, strict=False):
        if after % 1 or after < 1:
            raise UserError(f"{named} has {after}: give whole numbers of at least 1")
        if after >= before:
            raise UserError(f"{named} must fall, found {after} after {before}")
    return tuple(int(each) for each in timesteps)


def is_accepted(initial: float, accuracy: float, tolerance: float = TOLERANCE) -> bool:
    """Return whether a stage lost at most `tolerance` of the accuracy at T0.

    >>> is_accepted(0.90, 0.89), is_accepted(0.90, 0.8898)
    (True, False)

    Args:
      initial: accuracy at T0 on the validation split, in [0, 1].
      accuracy: of the stage on the same split, in [0, 1].
      tolerance: share of the samples, in [0, 1].

    Raises:
      UserError: if a number is out of range or no number.
    """
    check_range("accuracy at the initial timesteps", initial, 0, 1)
    check_range("accuracy", accuracy, 0, 1)
    check_range("tolerance of lost accuracy", tolerance, 0, 1)
    return initial - accuracy <= tolerance + ROUNDING


def next_timesteps(
    initial: int,
    timesteps: Sequence[int],
    accuracies: Sequence[float],
    *,
    tolerance: float = TOLERANCE,
) -> int | None:
    """Return the T of the next stage, or None if the reduction has ended.

    It has when the last stage was not accepted, or the schedule is through. A function of what is
    on record alone: a resumed run decides as an uninterrupted one.

    >>> next_timesteps(8, [6, 4], [0.95]), next_timesteps(8, [6, 4], [0.95, 0.90])
    (6, None)

    Args:
      initial: T0.
      timesteps: the schedule, falling from below T0.
      accuracies: on the validation split: at T0, then of each stage so far.
      tolerance: accuracy that may be lost against T0, in [0, 1].

    Raises:
      UserError: if the schedule does not fall, there is no accuracy at T0 or there are more of them
        than stages.
    """
    schedule = falling_timesteps(initial, timesteps)
    if not 1 <= len(accuracies) <= len(schedule) + 1:
        raise UserError(
            f"{len(schedule)} stages after {initial} timesteps need 1 to {len(schedule) + 1} "
            f"accuracies, found {len(accuracies)}"
        )
    first, *stages = accuracies
    if not all(is_accepted(first, each, tolerance) for each in stages):
        return None
    return schedule[len(stages)] if len(stages) < len(schedule) else None


def shorten(
    train: Callable[[Shortened, int], tuple[Shortened, float]],
    network: Shortened,
    accuracy: float,
    initial: int,
    timesteps: Sequence[int] = TIMESTEPS,
    *,
    tolerance: float = TOLERANCE,
) -> tuple[Shortened, int, list[Stage]]:
    """Reduce the timesteps stage by stage, each from the weights of the one before.

    >>> at = {6: 0.95, 4: 0.80}  # accuracy of the network, here a name, trained at so many steps
    >>> network, timesteps, _ = shorten(lambda _, T: (f"net{T}", at[T]), "net8", 0.95, 8, [6, 4])
    >>> network, timesteps
    ('net6', 6)

    Args:
      train: `(network, T) -> (network, its accuracy on the validation split)`: one stage, with an
        optimizer of its own.
      network: the network trained at T0, whatever `train` takes.
      accuracy: its own on the validation split, in [0, 1].
      initial: T0.
      timesteps: the schedule, falling from below T0.
      tolerance: accuracy that may be lost against T0, in [0, 1].

    Returns:
      The network of the last accepted stage, its T, and all stages: only the last of them may not
      be accepted. If already the first is not, network and T are those given.
    """
    stages: list[Stage] = []
    kept = initial
    while True:
        accuracies = [accuracy, *(stage.accuracy for stage in stages)]
        shorter = next_timesteps(initial, timesteps, accuracies, tolerance=tolerance)
        if shorter is None:
            return network, kept, stages
        trained, found = train(network, shorter)
        stages.append(Stage(shorter, found, is_accepted(accuracy, found, tolerance)))
        if stages[-1].accepted:
            network, kept = trained, shorter


def time_mask(active: Number, timesteps: int) -> Array:
    """Return 1 for the first `active` steps and 0 for the others, float32 `[T]`.

    Multiplied with a layer's spikes `[T, B, ...]` and what is recorded of it, it silences a layer
    from that step on: the sums over time are those of the truncated run, for no step hears a later
    one.

    >>> time_mask(2, 4).tolist()
    [1.0, 1.0, 0.0, 0.0]

    Args:
      active: how many steps count, whole, in [1, T], may be traced.
      timesteps: T of the program.
    """
    check_whole("timesteps", timesteps, 1, float("inf"))
    check_whole("active timesteps", active, 1, timesteps)
    return (jnp.arange(timesteps) < active).astype(jnp.float32)


def time_weights(active: Number, timesteps: int) -> Array:
    """Return weights of the read-out whose mean over all steps is that over the first `active`.

        (1/T) sum_t w[t] y[t] = (1/a) sum_{t < a} y[t]        w[t] = T / a for t < a, else 0

    A loss of the mean over time of `over_time(weights, readout)` has the value and the gradient of
    the truncated run, with `active` traced: one program for all T, which a sweep may map over. Only
    batch normalisation in training would mix the steps.

    >>> time_weights(2, 4).tolist()
    [2.0, 2.0, 0.0, 0.0]

    Args:
      active: how many steps count, whole, in [1, T], may be traced.
      timesteps: T of the program.

    Returns:
      float32 `[T]`.
    """
    return time_mask(active, timesteps) * (timesteps / active)


def over_time(weights: Array, values: Array) -> Array:
    """Multiply every step with its weight: `[T]` and `[T, ...]` -> `[T, ...]`.

    >>> over_time(time_weights(1, 2), jnp.ones((2, 3))).tolist()
    [[2.0, 2.0, 2.0], [0.0, 0.0, 0.0]]
    """
    return values * weights.reshape((-1,) + (1,) * (values.ndim - 1)).astype(values.dtype)
