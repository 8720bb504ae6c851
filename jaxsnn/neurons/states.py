"""Spikes and states of any neuron over time, with a reverse pass that keeps only the states.

With the step `s[t] = f(s[t-1], x[t])` and the spikes `o[t] = h(s[t])`, the derivative `d[t]` of the
loss by `s[t]` is

    d[t] = cotangent_s[t] + (dh/ds)(s[t])^T cotangent_o[t] + (df/ds)(s[t], x[t+1])^T d[t+1]

where autodiff gives the products of one step; all that a step computes on the way is computed
again. Spikes are a part of the step, so that the loop reads one cotangent for them and not one for
each state. The derivative by the constants is one product over all time.
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

    def pull(state: Any, drive: Array, fired: Array, later: Any) -> Any:
        """Return what o[t] and d[t+1] contribute to d[t], and the derivative by x[t+1]."""

        def step(state: Any, drive: Array) -> tuple[Array, Any]:
            return neuron.spikes(state), _advanced(neuron, state, drive, feedback)

        return jax.vjp(step, state, drive)[1]((fired.astype(wide), later))

    def back(later: Any, now: Any) -> tuple[Any, Any]:
        state, drive, fired, direct = now
        earlier, by_drive = pull(state, current if timesteps else drive, fired, later)
        derivative = jax.tree.map(jnp.add, direct, earlier)
        return derivative, (by_drive, derivative)

    # The last step has no later one: the current there meets a derivative of 0.
    following = None if timesteps else jnp.concatenate([current[1:], current[:1]])
    zero = jax.tree.map(jnp.zeros_like, start)
    inputs = states, following, fired, direct
    first, (by_drive, derivatives) = step_by_step(back, zero, inputs, None, reverse=True)
    none = jnp.zeros_like(start.potential)
    d_start, d_first = pull(start, current if timesteps else current[0], none, first)
    if timesteps:
        d_current = by_drive.sum(0) + d_first
    else:
        d_current = jnp.concatenate([d_first[None], by_drive[:-1]])

    before = jax.tree.map(lambda s, all_: jnp.concatenate([s[None], all_[:-1]]), start, states)

    def steps(neuron: Any, feedback: Array | None) -> Any:
        axes = 0, None if timesteps else 0
        after = jax.vmap(lambda s, x: _advanced(neuron, s, x, feedback), axes)(before, current)
        return jax.vmap(neuron.spikes)(states), after

    d_neuron, d_feedback = jax.vjp(steps, neuron, feedback)[1]((fired.astype(wide), derivatives))
    return d_neuron, d_start, d_current, d_feedback


states_over_time.defvjp(_forward, _backward)
