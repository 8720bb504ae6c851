"""Leaky integrate-and-fire neurons.

With the potential `u`, the spikes `o`, the input current `x`, the decay `lambda` in [0, 1] a step
and the threshold `theta` > 0,

    u[t] = rest(u[t-1]) + x[t]          integrate on what the last step left
    o[t] = 1[u[t] > theta]              order "integrate_then_fire" (>= if not strict)
    o[t] = 1[u[t-1] > theta]            order "fire_then_integrate": one step later
    u[0] = 0

`u` is the potential before its reset; the reset, `rest`, belongs to the next step, with
`s = 1[u > theta]`:

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
"""

from dataclasses import dataclass
from typing import Any

from jax import Array

from jaxsnn.errors import UserError
from jaxsnn.neurons.neuron import POSITIVE, SHARE, Membrane, Neuron
from jaxsnn.neurons.resets import RESETS, rest, spikes_of
from jaxsnn.neurons.reverse import Form, by_hand
from jaxsnn.surrogate import Surrogate, rectangle

__all__ = ["LIF", "ORDERS", "integrate_and_fire", "lif_of", "lif_step"]

ORDERS = ("integrate_then_fire", "fire_then_integrate")


@dataclass(frozen=True)
class LIF(Neuron):
    """Constants of a layer of leaky integrate-and-fire neurons.

    A pytree: `decay` and `threshold` are its leaves, so they may be traced, mapped over or
    differentiated; the rest is static.

    >>> import jax
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

    kind = "lif"
    ranges = {"decay": SHARE, "threshold": POSITIVE}
    choices = {"reset": RESETS, "order": ORDERS}
    scaled = ("threshold",)
    nir = "LIF"
    not_lif = ""

    decay: Array | float = 0.9
    threshold: Array | float = 1.0
    reset: str = "hard"
    strict: bool = True
    detach_reset: bool = False
    order: str = "integrate_then_fire"
    surrogate: Surrogate = rectangle()

    def advance(self, state: Membrane, current: Array) -> Membrane:
        """Return the membrane after a step."""
        return Membrane(rest(self, state.potential) + current)

    def spikes(self, state: Membrane) -> Array:
        """Return the spikes of a membrane; in "fire_then_integrate" those of the next step."""
        return spikes_of(self, state.potential)

    def step(self, state: Membrane, current: Array) -> tuple[Membrane, Array]:
        """Return the membrane after a step, and the spikes."""
        after = self.advance(state, current)
        return after, self.spikes(state if self._fires_first else after)

    def over_time(
        self,
        current: Array,
        *,
        timesteps: int | None,
        start: Membrane,
        at_rest: bool,
        feedback: Array | None,
        short: bool,
    ) -> tuple[Array, Array, Membrane]:
        """Run over the whole time axis, with a reverse pass by hand."""
        if feedback is not None and self._fires_first:
            raise UserError("feedback needs neurons of the order 'integrate_then_fire'")
        form = Form(timesteps, short, current.dtype, self._fires_first, at_rest)
        spikes, potential, last = by_hand(form, self, start.potential, current, feedback)
        return spikes, potential, Membrane(last)

    def as_lif(self) -> "LIF":
        """Return the neuron itself."""
        return self

    @property
    def _fires_first(self) -> bool:
        return self.order == "fire_then_integrate"


def integrate_and_fire(
    threshold: Array | float = 1.0, *, reset: str = "soft", **options: Any
) -> LIF:
    """Return the constants of IF neurons: LIF without a leak (decay 1)."""
    return LIF(1.0, threshold, reset=reset, **options)


def lif_step(neuron: Neuron, membrane: Membrane, current: Array) -> tuple[Membrane, Array]:
    """Advance a layer of neurons by one step.

    >>> import jax.numpy as jnp
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
    return neuron.step(membrane, current)


def lif_of(name: str, neuron: Neuron, who: str) -> LIF:
    """Return the LIF neuron of a layer, or the one that fires as its neuron does.

    >>> lif_of("dense1", LIF(0.5), "integers").decay
    0.5

    Args:
      name: of the layer, for the message.
      neuron: its neuron.
      who: knows LIF neurons only, in the plural.

    Raises:
      UserError: naming the layer and what sets its neuron apart.
    """
    found = neuron.as_lif()
    if not isinstance(found, LIF):
        kind, why = type(neuron).__name__, neuron.not_lif
        raise UserError(f"layer {name!r} fires by {kind}: {why}, and {who} know LIF neurons only")
    return found
