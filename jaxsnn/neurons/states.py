"""Spikes and states of any neuron over time, with a reverse pass that keeps only the states.

With the step `s[t] = f(s[t-1], x[t])` and the spikes `o[t] = h(s[t])`, the derivative `d[t]` of the
loss by `s[t]` is

    d[t] = cotangent_s[t] + (dh/ds)(s[t])^T cotangent_o[t] + (df/ds)(s[t], x[t+1])^T d[t+1]

where autodiff gives the products of one step; all that a step computes on the way is computed
again. Spikes are a part of the step, so that the loop reads one cotangent for them and not one for
each state; the derivative by the constants is added up there, too.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxsnn.neurons.scanning import step_by_step

__all__ = ["states_over_time"]


def _advanced(neuron: Any, state: Any, drive: Array, feedback: Array | None) -> Any:
    """Return the state after a step, in which a layer may hear its last spikes."""
    drive = drive.astype(state.potential.dtype)
    if feedback is not None:
        drive = drive + neuron.spikes(state) @ feedback
    return neuron.advance(state, drive)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def states_over_time(
    timesteps: int | None,
    short: bool,
    neuron: Any,
    start: Any,
    current: Array,
    feedback: Array | None,
) -> tuple[Array, Any]:
    """Return the spikes and the states after each step, arrays `[T, B, ...]`.

    Args:
      timesteps: of a constant current; None of one with a time axis.
      short: whether spikes are bfloat16.
      neuron: whose `advance` is one step, and whose `spikes` are those of a state.
      start: the state before the first step, arrays `[B, ...]`.
      current: `[T, B, ...]`, or `[B, ...]` of a constant one.
      feedback: weights `[C, C]` through which the last spikes are heard.
    """

    def step(state: Any, drive: Array) -> tuple[Any, Any]:
        state = _advanced(neuron, state, drive, feedback)
        spikes = neuron.spikes(state)
        return state, (spikes.astype(jnp.bfloat16) if short else spikes, state)

    found: tuple[Array, Any] = step_by_step(step, start, current, timesteps)[1]
    return found


def _forward(
    timesteps: int | None,
    short: bool,
    neuron: Any,
    start: Any,
    current: Array,
    feedback: Array | None,
) -> tuple[Any, Any]:
    found = states_over_time(timesteps, short, neuron, start, current, feedback)
    return found, (neuron, start, current, feedback, found[1])


def _backward(
    timesteps: int | None, short: bool, saved: Any, cotangents: tuple[Array, Any]
) -> tuple[Any, ...]:
    del short
    neuron, start, current, feedback, states = saved
    fired, direct = cotangents
    wide = start.potential.dtype

    def pull(total: Any, state: Any, drive: Array, fired: Array, later: Any) -> Any:
        """Return what o[t] and d[t+1] contribute: to the constants, to d[t], to x[t+1]."""

        def step(neuron: Any, state: Any, drive: Array) -> tuple[Array, Any]:
            return neuron.spikes(state), _advanced(neuron, state, drive, feedback)

        by_neuron, *rest = jax.vjp(step, neuron, state, drive)[1]((fired.astype(wide), later))
        return jax.tree.map(jnp.add, total, by_neuron), *rest

    def back(carry: tuple[Any, Any], now: Any) -> tuple[tuple[Any, Any], Any]:
        (later, total), (state, drive, fired, direct) = carry, now
        drive = current if timesteps else drive
        total, earlier, by_drive = pull(total, state, drive, fired, later)
        derivative = jax.tree.map(jnp.add, direct, earlier)
        return (derivative, total), (by_drive, derivative)

    # The last step has no later one: the current there meets a derivative of 0.
    following = None if timesteps else jnp.concatenate([current[1:], current[:1]])
    zero = jax.tree.map(jnp.zeros_like, (start, neuron))
    inputs = states, following, fired, direct
    (first, total), (by_drive, derivatives) = step_by_step(back, zero, inputs, None, reverse=True)
    none = jnp.zeros_like(start.potential)
    begin = start, current if timesteps else current[0]
    d_neuron, d_start, d_first = pull(total, *begin, none, first)
    if timesteps:
        d_current = by_drive.sum(0) + d_first
    else:
        d_current = jnp.concatenate([d_first[None], by_drive[:-1]])

    if feedback is None:
        return d_neuron, d_start, d_current, None
    before = jax.tree.map(lambda s, all_: jnp.concatenate([s[None], all_[:-1]]), start, states)

    def steps(feedback: Array) -> Any:
        axes = 0, None if timesteps else 0
        return jax.vmap(lambda s, x: _advanced(neuron, s, x, feedback), axes)(before, current)

    d_feedback = jax.vjp(steps, feedback)[1](derivatives)[0]
    return d_neuron, d_start, d_current, d_feedback


states_over_time.defvjp(_forward, _backward)
