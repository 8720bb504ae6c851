"""Leaky integrate-and-fire neurons: one pure step, and its unrolling over the whole time axis.

With the potential `u`, the spikes `o`, the input current `x`, the decay `lambda` in [0, 1] a step
and the threshold `theta` > 0, every neuron here is

    u[t] = rest(u[t-1]) + x[t]          integrate on what the last step left
    o[t] = 1[u[t] > theta]              order "integrate_then_fire" (>= if not strict)
    o[t] = 1[u[t-1] > theta]            order "fire_then_integrate": one step later
    u[0] = 0

`u` is the potential before its reset; the reset belongs to the next step, with `s = 1[u > theta]`:

    reset "hard"             rest(u) = lambda u (1 - s)         to zero
    reset "soft"             rest(u) = lambda (u - theta s)     by subtraction, then decay
    reset "soft_undecayed"   rest(u) = lambda u - theta s       by subtraction beside the decay

| system                                                | order               | reset          |
|-------------------------------------------------------|---------------------|----------------|
| ADMM (Deng et al., 1911.00822; Wu et al., STBP)       | integrate_then_fire | hard           |
| QP-SNN (Wei et al., 2502.05905)                       | integrate_then_fire | hard           |
| Rathi et al. 2020; Spike-Thrift; Chowdhury et al. 2021 | fire_then_integrate | soft_undecayed |
| IIR-SNN (Chowdhury et al., 2110.05929), DIET-SNN      | integrate_then_fire | soft           |
| snnTorch's default `Leaky`                            | integrate_then_fire | soft_undecayed |

The gradient of a spike is its surrogate's. It also flows through the reset, unless `detach_reset`.
In shapes, `T` is time, `B` the batch, `...` the neurons.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxsnn.arrays import check_range, is_short, straight_through, sum_over_time
from jaxsnn.errors import UserError
from jaxsnn.surrogate import Surrogate, fire, rectangle

__all__ = ["LIF", "Membrane", "lif_step", "unroll"]

ORDERS = ("integrate_then_fire", "fire_then_integrate")
RESETS = ("hard", "soft", "soft_undecayed")

# Longest time axis that is written out step by step. Measured on two CPU cores: up to here unrolled
# steps run as fast as a scan or 8 % faster; beyond, each step is compiled by itself, some of them
# compute others again, and a scan is up to 20 % faster and compiles in half the time.
UNROLL_LIMIT = 4


@dataclass(frozen=True)
class LIF:
    """Constants of a layer of leaky integrate-and-fire neurons.

    A pytree: `decay` and `threshold` are its leaves, so they may be traced, mapped over or
    differentiated; the rest is static.

    >>> jax.tree.leaves(LIF(decay=0.5, threshold=2.0, reset="soft"))
    [0.5, 2.0]

    Attributes:
      decay: share of the potential that is left after one step, in [0, 1]; a scalar or one number
        for each channel, `[C]`. 1 is the non-leaky IF neuron.
      threshold: potential at which a neuron spikes, > 0; a scalar or `[C]`.
      reset: "hard", "soft" or "soft_undecayed", as in the equations above.
      strict: spike above the threshold only (True), or also exactly on it.
      detach_reset: whether the gradient ignores that the reset depends on the spike.
      order: "integrate_then_fire" or "fire_then_integrate".
      surrogate: the stand-in for the derivative of a spike.

    Raises:
      UserError: for an unknown order or reset and for constants out of range.
    """

    decay: Array | float = 0.9
    threshold: Array | float = 1.0
    reset: str = "hard"
    strict: bool = True
    detach_reset: bool = False
    order: str = "integrate_then_fire"
    surrogate: Surrogate = rectangle()

    def __post_init__(self) -> None:
        if self.reset not in RESETS:
            raise UserError(f"reset {self.reset!r} is unknown; choose one of {', '.join(RESETS)}")
        if self.order not in ORDERS:
            raise UserError(f"order {self.order!r} is unknown; choose one of {', '.join(ORDERS)}")
        check_range("decay", self.decay, 0.0, 1.0)
        check_range("threshold", self.threshold, 0.0, float("inf"), open_low=True, open_high=True)
        # Whole numbers have no gradient.
        object.__setattr__(self, "decay", _as_float(self.decay))
        object.__setattr__(self, "threshold", _as_float(self.threshold))


def _as_float(constant: Array | float) -> Array | float:
    if isinstance(constant, (int, float)):
        return float(constant)
    if isinstance(constant, (list, tuple)):
        constant = np.asarray(constant)
    return constant if jnp.issubdtype(constant.dtype, jnp.floating) else constant.astype("float32")


def integrate_and_fire(
    threshold: Array | float = 1.0, *, reset: str = "soft", **options: Any
) -> LIF:
    """Return the constants of IF neurons: LIF without a leak (decay 1)."""
    return LIF(1.0, threshold, reset=reset, **options)


def _flatten(neuron: LIF) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    options = neuron.reset, neuron.strict, neuron.detach_reset, neuron.order, neuron.surrogate
    return (neuron.decay, neuron.threshold), options


def _unflatten(options: tuple[Any, ...], constants: tuple[Any, ...]) -> LIF:
    """Rebuild without checks: the leaves may be anything that JAX puts in their place."""
    neuron = object.__new__(LIF)
    names = "decay", "threshold", "reset", "strict", "detach_reset", "order", "surrogate"
    for name, value in zip(names, (*constants, *options), strict=True):
        object.__setattr__(neuron, name, value)
    return neuron


jax.tree_util.register_pytree_node(LIF, _flatten, _unflatten)


class Membrane(NamedTuple):
    """What a layer of neurons carries from one step to the next."""

    potential: Array  # [B, ...] potential after the last integration, before its reset


def lif_step(neuron: LIF, membrane: Membrane, current: Array) -> tuple[Membrane, Array]:
    """Advance a layer of neurons by one step.

    >>> before = Membrane(jnp.asarray([1.0, 0.0]))
    >>> after, spikes = lif_step(LIF(decay=0.5), before, jnp.asarray([1.0, 1.0]))
    >>> after.potential.tolist(), spikes.tolist()
    ([1.5, 1.0], [1.0, 0.0])

    Args:
      neuron: its constants.
      membrane: what the step before left; potential `[B, ...]`.
      current: the input current `x[t]`, `[B, ...]`.

    Returns:
      The new membrane, and the spikes `o[t]`, `[B, ...]`, 0 or 1.
    """
    potential = rest(neuron, membrane.potential) + current
    spikes = spikes_of(neuron, membrane.potential if _fires_first(neuron) else potential)
    return Membrane(potential), spikes


def spikes_of(neuron: LIF, potential: Array) -> Array:
    """Return the spikes of the given potentials, with the neuron's surrogate as derivative."""
    threshold = _broadcast(neuron, potential)[1]
    return fire(potential, threshold, neuron.surrogate, strict=neuron.strict)


def rest(neuron: LIF, potential: Array) -> Array:
    """Return what reset and decay leave of a potential: `rest(u)` of the module's equations."""
    spikes = spikes_of(neuron, potential)
    if neuron.detach_reset:
        spikes = lax.stop_gradient(spikes)
    decay, threshold = _broadcast(neuron, potential)
    if neuron.reset == "hard":
        return decay * (potential * (1.0 - spikes))
    if neuron.reset == "soft":
        return decay * (potential - threshold * spikes)
    return decay * potential - threshold * spikes


def unroll(
    neuron: LIF,
    current: Array,
    *,
    timesteps: int | None = None,
    initial: Membrane | None = None,
    feedback: Array | None = None,
    dtype: jax.typing.DTypeLike | None = None,
) -> tuple[Array, Array, Membrane]:
    """Run a layer of neurons over the whole time axis.

    Equal to scanning `lif_step`, also in its derivative, but with a reverse pass of its own that
    keeps nothing but the potentials: spikes and surrogates are computed again from them.

    Potentials are carried in float32. Of each, bfloat16 keeps the distance to the threshold:
    rounding spares its sign, so that no spike changes, and is finest where surrogates are steep.

    >>> spikes, potential, _ = unroll(LIF(decay=0.5), jnp.ones((1,)), timesteps=3)
    >>> potential[:, 0].tolist(), spikes[:, 0].tolist()
    ([1.0, 1.5, 1.0], [0.0, 1.0, 0.0])

    Args:
      neuron: its constants.
      current: the input current, `[T, B, ...]`; or `[B, ...]`, the same at every step, if
        `timesteps` is given.
      timesteps: number of steps of a constant current.
      initial: the membrane before the first step, potential `[B, ...]`; at rest if left out.
      feedback: weights `[C, C]` through which the layer hears its own last spikes, added to the
        current as `o[t-1] @ feedback`. Needs the order "integrate_then_fire".
      dtype: of the spikes and of what is kept for the reverse pass, bfloat16 or float32; that of
        the current if left out.

    Returns:
      Spikes `[T, B, ...]`, potentials before reset `[T, B, ...]` (float32, as far as they were
      kept) and the last membrane, exact in float32.

    Raises:
      UserError: if there is feedback in the order "fire_then_integrate".
    """
    if feedback is not None and _fires_first(neuron):
        raise UserError("feedback needs neurons of the order 'integrate_then_fire'")
    batch = current.shape if timesteps else current.shape[1:]
    wide = jnp.promote_types(current.dtype, jnp.float32)
    form = _Form(timesteps, is_short(current.dtype if dtype is None else dtype), current.dtype)
    start = jnp.zeros(batch, wide) if initial is None else initial.potential.astype(wide)
    neuron = replace(
        neuron, decay=jnp.asarray(neuron.decay, wide), threshold=jnp.asarray(neuron.threshold, wide)
    )
    kept, last = _trajectory(form, neuron, start, current, feedback)
    potential = _potential(form, neuron, kept)
    # Else the reverse pass would keep the surrogate's values, too.
    fire = jax.checkpoint(_fire, prevent_cse=False, static_argnums=0) if form.short else _fire
    spikes = fire(form, neuron, start, kept)
    return spikes, potential, Membrane(straight_through(last, potential[-1]))


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


def _fires_first(neuron: LIF) -> bool:
    return neuron.order == "fire_then_integrate"


def _broadcast(neuron: LIF, potential: Array) -> tuple[Array, Array]:
    decay, threshold = jnp.asarray(neuron.decay), jnp.asarray(neuron.threshold)
    return jnp.broadcast_to(decay, potential.shape), jnp.broadcast_to(threshold, potential.shape)


class _Form(NamedTuple):
    """What is known of a pass before it runs."""

    timesteps: int | None  # of a constant current
    short: bool  # whether what is kept is bfloat16
    current: Any  # its dtype


def _kept(form: _Form, neuron: LIF, potential: Array) -> Array:
    """Return what the reverse pass needs of a potential: `u`, or `u - theta` in bfloat16."""
    if not form.short:
        return potential
    # To derivatives, what is kept is the potential itself: there is none by the threshold.
    threshold = lax.stop_gradient(_broadcast(neuron, potential)[1])
    return (potential - threshold).astype(jnp.bfloat16)


def _potential(form: _Form, neuron: LIF, kept: Array) -> Array:
    """Return the potential of which something was kept."""
    if not form.short:
        return kept
    threshold = lax.stop_gradient(_broadcast(neuron, kept)[1])
    return kept.astype(threshold.dtype) + threshold


def _before(form: _Form, neuron: LIF, start: Array, kept: Array) -> Array:
    """Return the potential before each step."""
    first = _kept(form, neuron, start)[None]
    return _potential(form, neuron, jnp.concatenate([first, kept[:-1]]))


def _fire(form: _Form, neuron: LIF, start: Array, kept: Array) -> Array:
    """Return the spikes of all steps."""
    first = _fires_first(neuron)
    potential = _before(form, neuron, start, kept) if first else _potential(form, neuron, kept)
    spikes = spikes_of(neuron, potential)
    return spikes.astype(jnp.bfloat16) if form.short else spikes


# The potentials [T, B, ...] of a layer, and their derivative by hand: with d[t] the derivative of
# the loss by u[t], d[t] = cotangent[t] + rest'(u[t]) d[t+1], whatever the reset and the surrogate.
# Autodiff would save every intermediate of every step; this saves u and computes rest' from it.
# (Feedback adds the way u[t] -> o[t] -> x[t+1]; its own derivative is one product over all time.)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _trajectory(
    form: _Form, neuron: LIF, start: Array, current: Array, feedback: Array | None
) -> tuple[Array, Array]:
    """Return what is kept of the potentials, and the last one, whose cotangent is not looked at."""

    def step(potential: Array, drive: Array) -> tuple[Array, Array]:
        carried = rest(neuron, potential) + drive
        if feedback is not None:
            carried = carried + spikes_of(neuron, potential) @ feedback
        return carried, _kept(form, neuron, carried)

    last, kept = _over_time(step, start, current, form.timesteps)
    return kept, last


def _trajectory_forward(
    form: _Form, neuron: LIF, start: Array, current: Array, feedback: Array | None
) -> tuple[tuple[Array, Array], tuple[LIF, Array, Array, Array | None]]:
    kept, last = _trajectory(form, neuron, start, current, feedback)
    return (kept, last), (neuron, start, kept, feedback)


def _trajectory_backward(
    form: _Form,
    saved: tuple[LIF, Array, Array, Array | None],
    cotangents: tuple[Array, Array],
) -> tuple[LIF, Array, Array, Array | None]:
    neuron, start, kept, feedback = saved
    cotangent, _ = cotangents
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

    def step(later: Array, now: Any) -> tuple[Array, Array]:
        known, direct = now
        derivative = direct + back(known if before_loop else slopes(known), later)
        return derivative, derivative.astype(cotangent.dtype)

    inputs = slopes(kept) if before_loop else kept, cotangent
    first, derivative = _over_time(step, jnp.zeros_like(start), inputs, None, reverse=True)
    before = _before(form, neuron, start, kept)
    wide = derivative.astype(start.dtype)
    d_neuron = jax.vjp(lambda n: rest(n, before), neuron)[1](wide)[0]
    d_feedback = None
    if feedback is not None:
        heard, pull = jax.vjp(lambda n: spikes_of(n, before), neuron)
        d_neuron = jax.tree.map(jnp.add, d_neuron, pull(wide @ feedback.T)[0])
        heard, wide = heard.astype(derivative.dtype), feedback.dtype
        d_feedback = jnp.einsum("tbi,tbo->io", heard, derivative, preferred_element_type=wide)
    d_current = sum_over_time(derivative) if form.timesteps else derivative
    d_start = back(slopes(_kept(form, neuron, start)), first)
    return d_neuron, d_start, d_current.astype(form.current), d_feedback


_trajectory.defvjp(_trajectory_forward, _trajectory_backward)


def _over_time(
    step: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    inputs: Any,
    timesteps: int | None,
    *,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """Scan `step` over axis 0 of `inputs`, or `timesteps` times over the same ones."""
    length = timesteps or jax.tree.leaves(inputs)[0].shape[0]
    if length > UNROLL_LIMIT:
        if timesteps:
            return lax.scan(lambda c, _: step(c, inputs), carry, None, length=length)
        return lax.scan(step, carry, inputs, reverse=reverse)
    outputs = []
    for t in reversed(range(length)) if reverse else range(length):
        now = inputs if timesteps else jax.tree.map(lambda x, t=t: x[t], inputs)
        carry, output = step(carry, now)
        outputs.append(output)
    return carry, jnp.stack(outputs[::-1] if reverse else outputs)
