"""Ramps and steps of hyperparameters, as optax schedules: count `[]` -> value `[]`.

The values may be traced, so that a sweep can vary them; the counts are Python numbers.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import optax

from jaxsnn.arrays import Array, Number, check_range
from jaxsnn.errors import UserError


def steps(values: Sequence[Number], boundaries: Sequence[int]) -> optax.Schedule:
    """Hold one value after another: `values[i]` from `boundaries[i - 1]` on.

    >>> penalty = steps([1e-3, 1e-2, 1e-1], [100, 200])
    >>> [round(float(penalty(count)), 4) for count in (0, 99, 100, 250)]
    [0.001, 0.001, 0.01, 0.1]

    Args:
      values: one more than boundaries.
      boundaries: rising counts at which the next value begins.
    """
    if len(values) != len(boundaries) + 1:
        raise UserError(
            f"steps needs one value more than boundaries, found {len(values)} values and "
            f"{len(boundaries)} boundaries"
        )
    if sorted(boundaries) != list(boundaries):
        raise UserError(f"the boundaries of steps must rise, found {list(boundaries)}")

    def schedule(count: Array) -> Array:
        passed = sum(jnp.asarray(count >= boundary, jnp.int32) for boundary in boundaries)
        return jnp.stack([jnp.asarray(value, jnp.float32) for value in values])[passed]

    return schedule


def cubic_sparsity(initial: Number, final: Number, begin: int, end: int) -> optax.Schedule:
    """Prune fast while much is redundant and slowly towards the end.

        s(t) = s_f + (s_i - s_f) (1 - (t - t_0) / (t_1 - t_0))^3        for t_0 <= t <= t_1

    and constant outside.

    Args:
      initial: sparsity `s_i` up to `begin`, in [0, 1].
      final: sparsity `s_f` from `end` on, in [0, 1].
      begin: count `t_0`.
      end: count `t_1`, greater than `begin`.

    References: Zhu and Gupta 2017, https://arxiv.org/abs/1710.01878, Eq. 1.
    """
    check_range("initial sparsity", initial, 0, 1)
    check_range("final sparsity", final, 0, 1)
    return _polynomial(initial, final, begin, end, power=3)


def linear_ramp(initial: Number, final: Number, begin: int, end: int) -> optax.Schedule:
    """Go from one value to another in a straight line, and stay constant outside.

    Args:
      initial: value up to `begin`.
      final: value from `end` on.
      begin: count at which the ramp begins.
      end: count at which it ends, greater than `begin`.
    """
    return _polynomial(initial, final, begin, end, power=1)


def _polynomial(
    initial: Number, final: Number, begin: int, end: int, *, power: int
) -> optax.Schedule:
    if not 0 <= begin < end:
        raise UserError(f"a ramp needs 0 <= begin < end, found begin {begin} and end {end}")
    return optax.polynomial_schedule(initial, final, power, end - begin, begin)
