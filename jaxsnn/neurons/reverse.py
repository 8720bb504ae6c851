"""LIF neurons over time with a reverse pass by hand, which keeps nothing but the potentials.

Spikes and surrogates are computed again from them. Potentials are carried in float32. Of each,
bfloat16 keeps the distance to the threshold: rounding spares its sign, so that no spike changes,
and is finest where surrogates are steep.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from jaxsnn.arrays import straight_through, sum_over_time
from jaxsnn.native import neurons as native
from jaxsnn.neurons.neuron import laid_out
from jaxsnn.neurons.resets import Leaky, rest, spikes_of
from jaxsnn.neurons.scanning import step_by_step

__all__ = ["Form", "by_hand"]


class Form(NamedTuple):
    """What is known of a pass before it runs."""

    timesteps: int | None  # of a constant current
    short: bool  # whether what is kept is bfloat16
    current: Any  # its dtype
    fires_first: bool  # whether spikes are those of the potential before a step
    at_rest: bool  # whether the potential before the first step is 0


class Saved(NamedTuple):
    """What the reverse pass gets."""

    neuron: Any
    start: Array
    kept: Array
    feedback: Array | None
    asked: tuple[()] | None  # there if the derivative by the start is needed


def by_hand(
    form: Form, neuron: Leaky, start: Array, current: Array, feedback: Array | None
) -> tuple[Array, Array, Array]:
    """Run LIF neurons over time, with the reverse pass below.

    Args:
      form: what is known before.
      neuron: its constants, in the dtype of potentials.
      start: the potential before the first step, `[B, ...]`.
      current: `[T, B, ...]`, or `[B, ...]` of a constant one.
      feedback: weights `[C, C]` through which the last spikes are heard.

    Returns:
      Spikes and potentials `[T, B, ...]`, and the last potential.
    """
    kept, spikes, last = _trajectory(form, neuron, start, current, feedback)
    potential = _potential(form, neuron, kept)
    if spikes is None:
        # Else the reverse pass would keep the surrogate's values, too.
        fire = jax.checkpoint(_fire, prevent_cse=False, static_argnums=0)
        spikes = fire(form, neuron, start, kept)
    return spikes, potential, straight_through(last, potential[-1])


def _kept(form: Form, neuron: Leaky, potential: Array) -> Array:
    """Return what the reverse pass needs of a potential: `u`, or `u - theta` in bfloat16."""
    if not form.short:
        return potential
    # To derivatives, what is kept is the potential itself: there is none by the threshold.
    threshold = lax.stop_gradient(laid_out(neuron.threshold, potential))
    return (potential - threshold).astype(jnp.bfloat16)


def _potential(form: Form, neuron: Leaky, kept: Array) -> Array:
    """Return the potential of which something was kept."""
    if not form.short:
        return kept
    threshold = lax.stop_gradient(laid_out(neuron.threshold, kept))
    return kept.astype(threshold.dtype) + threshold


def _before(form: Form, neuron: Leaky, start: Array, kept: Array) -> Array:
    """Return the potential before each step."""
    first = _kept(form, neuron, start)[None]
    return _potential(form, neuron, jnp.concatenate([first, kept[:-1]]))


def _fire(form: Form, neuron: Leaky, start: Array, kept: Array) -> Array:
    """Return the spikes of all steps."""
    before = form.fires_first
    potential = _before(form, neuron, start, kept) if before else _potential(form, neuron, kept)
    spikes = spikes_of(neuron, potential)
    return spikes.astype(jnp.bfloat16) if form.short else spikes


def _is_native(form: Form, start: Array, steps: int, feedback: Array | None) -> bool:
    """Return whether both passes are done by our own code for a CPU.

    A single step is not: XLA joins it with what is done before and behind.
    """
    return steps > 1 and feedback is None and native.available(start, form.current)


# The potentials [T, B, ...] of a layer, and their derivative by hand: with d[t] the derivative of
# the loss by u[t], d[t] = cotangent[t] + rest'(u[t]) d[t+1], whatever the reset and the surrogate.
# Autodiff would save every intermediate of every step; this saves u and computes rest' from it.
# (Feedback adds the way u[t] -> o[t] -> x[t+1]; its own derivative is one product over all time.)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _trajectory(
    form: Form, neuron: Leaky, start: Array, current: Array, feedback: Array | None
) -> tuple[Array, Array | None, Array]:
    """Return what is kept of the potentials, the spikes if they are known, and the last potential.

    The cotangent of the latter is not looked at.
    """
    if _is_native(form, start, form.timesteps or len(current), feedback):
        return native.potentials(
            neuron,
            start,
            current,
            form.timesteps,
            at_rest=form.at_rest,
            short=form.short,
            early=form.fires_first,
        )

    def step(potential: Array, drive: Array) -> tuple[Array, Array]:
        carried = rest(neuron, potential) + drive
        if feedback is not None:
            carried = carried + spikes_of(neuron, potential) @ feedback
        return carried, _kept(form, neuron, carried)

    last, kept = step_by_step(step, start, current, form.timesteps)
    return kept, None, last


def _trajectory_forward(
    form: Form, *traced: Any
) -> tuple[
    tuple[Array, Array | None, Array], tuple[Any, Array, Array, Array | None, tuple[()] | None]
]:
    neuron, start, current, feedback = jax.tree.map(lambda traced: traced.value, traced)
    found = _trajectory(form, neuron, start, current, feedback)
    asked = () if traced[1].perturbed else None
    return found, Saved(neuron, start, found[0], feedback, asked)


def _trajectory_backward(
    form: Form,
    saved: Saved,
    cotangents: tuple[Array, Any, Any],
) -> tuple[Any, Array, Array, Array | None]:
    neuron, start, kept, feedback, asked = saved
    direct, heard = map(_given, cotangents[:2])
    if cotangents[1] is not None:  # the forward pass was native
        return *_natively(form, neuron, start, kept, direct, heard, asked is not None), None
    cotangent = jnp.zeros_like(kept) if direct is None else direct
    # With feedback the steps are many and small: what needs no loop is computed before it.
    before_loop = feedback is not None and not form.short

    def slopes(kept: Array) -> list[Array]:
        """Return the derivatives of rest(u) and, with feedback, of the spike by u."""
        potential = _potential(form, neuron, kept)
        functions = (rest,) if feedback is None else (rest, spikes_of)
        ones = jnp.ones_like(potential)
        return [jax.jvp(partial(f, neuron), (potential,), (ones,))[1] for f in functions]

    def back(slopes: list[Array], later: Array) -> Array:
        """Return what d[t+1] contributes to d[t]."""
        contribution = slopes[0] * later
        if feedback is None:
            return contribution
        return contribution + slopes[1] * (later @ feedback.T)

    def by_neuron(total: Any, kept: Array, later: Array) -> Any:
        """Add what the constants contribute to the step behind a potential.

        Here and not over all time, which would lay all potentials out once more.
        """
        potential = _potential(form, neuron, kept)

        def left(neuron: Any) -> Array:
            found = rest(neuron, potential)
            return found if feedback is None else found + spikes_of(neuron, potential) @ feedback

        return jax.tree.map(jnp.add, total, jax.vjp(left, neuron)[1](later)[0])

    def step(carry: tuple[Array, Any], now: Any) -> tuple[tuple[Array, Any], Array]:
        (later, total), (known, kept, direct) = carry, now
        total = by_neuron(total, kept, later)
        derivative = direct + back(known if before_loop else slopes(kept), later)
        return (derivative, total), derivative.astype(cotangent.dtype)

    inputs = slopes(kept) if before_loop else None, kept, cotangent
    zeros = jnp.zeros_like(start), jax.tree.map(jnp.zeros_like, neuron)
    (first, total), derivative = step_by_step(step, zeros, inputs, None, reverse=True)
    d_neuron = by_neuron(total, _kept(form, neuron, start), first)
    d_feedback = None
    if feedback is not None:
        heard = spikes_of(neuron, _before(form, neuron, start, kept)).astype(derivative.dtype)
        wide = feedback.dtype
        d_feedback = jnp.einsum("tbi,tbo->io", heard, derivative, preferred_element_type=wide)
    d_current = sum_over_time(derivative) if form.timesteps else derivative
    d_start = back(slopes(_kept(form, neuron, start)), first)
    return d_neuron, d_start, d_current.astype(form.current), d_feedback


def _given(cotangent: Any) -> Array | None:
    """Return a cotangent, None where nothing depends on the result."""
    return None if isinstance(cotangent, SymbolicZero) else cotangent


def _natively(
    form: Form,
    neuron: Leaky,
    start: Array,
    kept: Array,
    direct: Array | None,
    heard: Array | None,
    by_start: bool,
) -> tuple[Any, Array, Array]:
    """Return the derivatives by the constants, the first potential and the current.

    Args:
      form: what was known before.
      neuron: its constants.
      start: the first potential.
      kept: of the others.
      direct: cotangent of what was kept.
      heard: cotangent of the spikes.
      by_start: whether the derivative by the first potential is needed; 0 if not.
    """

    def slope(of: Any, potential: Array) -> Array:
        ones = jnp.ones_like(potential)
        found: Array = jax.jvp(partial(of, neuron), (potential,), (ones,))[1]
        return found

    early, slopes = form.fires_first, None
    needed = heard is not None or not neuron.detach_reset
    if needed and not native.knows_slopes(neuron):
        slopes = slope(spikes_of, _potential(form, neuron, kept))
    derivative, first = native.derivatives(
        neuron, kept, direct, heard, slopes, early=early, with_first=by_start
    )
    d_start = jnp.zeros_like(start) if first is None else slope(rest, start) * first
    if by_start and early and heard is not None:
        d_start = d_start + slope(spikes_of, start) * heard[0]

    # By themselves, so that what nobody asks for is not computed.
    def by_constants(of: Any, potential: Array, cotangent: Array) -> Any:
        return jax.vjp(lambda neuron: of(neuron, potential), neuron)[1](
            cotangent.astype(potential.dtype)
        )[0]

    before = _before(form, neuron, start, kept)
    d_neuron = by_constants(rest, before, derivative)
    if heard is not None:
        at = before if early else _potential(form, neuron, kept)
        d_neuron = jax.tree.map(jnp.add, d_neuron, by_constants(spikes_of, at, heard))
    d_current = sum_over_time(derivative) if form.timesteps else derivative
    return d_neuron, d_start, d_current.astype(form.current)


_trajectory.defvjp(_trajectory_forward, _trajectory_backward, symbolic_zeros=True)
