"""One step after another over the time axis: written out where it is short, scanned where not."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxsnn.arrays import check_range
from jaxsnn.errors import UserError

__all__ = ["UNROLL_LIMIT", "integrate", "step_by_step"]

# Longest time axis that is written out step by step. Measured on two CPU cores: up to here unrolled
# steps run as fast as a scan or 8 % faster; beyond, each step is compiled by itself, some of them
# compute others again, and a scan is up to 20 % faster and compiles in half the time.
UNROLL_LIMIT = 4


def step_by_step(
    step: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    inputs: Any,
    timesteps: int | None,
    *,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """Scan `step` over axis 0 of `inputs`, or `timesteps` times over the same ones.

    Args:
      step: `carry, input -> carry, output`.
      carry: what the first step gets.
      inputs: a tree of arrays `[T, ...]`, or `[...]` if `timesteps` is given.
      timesteps: number of steps over the same inputs.
      reverse: from the last step to the first.

    Returns:
      The last carry, and the outputs of all steps, `[T, ...]`.
    """
    length = timesteps or jax.tree.leaves(inputs)[0].shape[0]
    if length > UNROLL_LIMIT:
        return _scan(step, carry, inputs, timesteps, reverse)
    outputs = []
    for t in reversed(range(length)) if reverse else range(length):
        now = inputs if timesteps else jax.tree.map(lambda x, t=t: x[t], inputs)
        carry, output = step(carry, now)
        outputs.append(output)
    return carry, jax.tree.map(lambda *x: jnp.stack(x), *(outputs[::-1] if reverse else outputs))


def _scan(
    step: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    inputs: Any,
    timesteps: int | None,
    reverse: bool,
) -> tuple[Any, Any]:
    """Scan; arrays of all steps in bfloat16 are read and written as whole numbers of 16 bits.

    XLA on a CPU would convert the whole array to float32 and back in each step.
    """
    like: list[Any] = [jax.tree.map(jnp.result_type, inputs)]  # of inputs; behind them of outputs

    def body(carry: Any, bits: Any) -> tuple[Any, Any]:
        now = inputs if timesteps else jax.tree.map(_from_bits, bits, like[0])
        carry, output = step(carry, now)
        like[1:] = [jax.tree.map(jnp.result_type, output)]
        return carry, jax.tree.map(_as_bits, output)

    bits = None if timesteps else jax.tree.map(_as_bits, inputs)
    carry, outputs = lax.scan(body, carry, bits, length=timesteps, reverse=reverse)
    return carry, jax.tree.map(_from_bits, outputs, like[1])


def _as_bits(x: Array) -> Array:
    return _bits(x) if x.dtype == jnp.bfloat16 else x


@jax.custom_jvp
def _bits(x: Array) -> Array:
    bits: Array = lax.bitcast_convert_type(x, jnp.uint16)
    return bits


@_bits.defjvp
def _bits_derivative(*_: Any) -> Any:
    """Refuse it: that of whole numbers would be 0 without a word."""
    raise UserError(
        f"a second derivative of neurons over more than {UNROLL_LIMIT} steps needs float32, found "
        "bfloat16"
    )


def _from_bits(x: Array, dtype: Any) -> Array:
    return lax.bitcast_convert_type(x, dtype) if x.dtype != dtype else x


def integrate(current: Array, decay: Array | float = 1.0, *, initial: Array | None = None) -> Array:
    """Return the potentials of a neuron that never spikes, `u[t] = decay u[t-1] + x[t]`.

    Args:
      current: `[T, B, ...]`.
      decay: share left after a step, in [0, 1]; a scalar or `[C]`. 1 only sums up.
      initial: the potential before the first step, `[B, ...]`; 0 if left out.

    Returns:
      `[T, B, ...]`.
    """
    check_range("decay", decay, 0.0, 1.0)
    decay = jnp.broadcast_to(jnp.asarray(decay, current.dtype), current.shape[1:])

    def step(potential: Array, drive: Array) -> tuple[Array, Array]:
        potential = decay * potential + drive
        return potential, potential

    start = jnp.zeros_like(current[0]) if initial is None else initial
    potential: Array = lax.scan(step, start, current)[1]
    return potential
