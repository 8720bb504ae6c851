"""Current-based LIF neurons: a spike that arrives starts a current, which decays.

With the synaptic current `i` and its decay `alpha` in [0, 1] a step, beside the equations of `lif`,

    i[t] = alpha i[t-1] + x[t]
    u[t] = rest(u[t-1]) + i[t]          or i[t-1] of neurons that are `delayed`
    o[t] = 1[u[t] > theta]              (>= if not strict)
    i[0] = u[0] = 0

- snnTorch `Synaptic`: alpha and beta as they are; its reset "subtract" is "soft_undecayed", its
  "zero", which also drops the current of the step after a spike, is not here.
- Norse `LIF`: decay `1 - dt tau_mem_inv`, alpha `1 - dt tau_syn_inv`, reset "hard"; releases whose
  step adds the input last are `delayed`. The gain is `dt tau_mem_inv`.
- NIR `CubaLIF`: decay `1 - dt / tau_mem`, alpha `1 - dt / tau_syn`. The gain is
  `w_in r dt^2 / (tau_mem tau_syn)`; some readers take parts of it for 1.

A gain is no constant of its own: `i` is linear in `x`, so it is a factor of the weights.
"""

from dataclasses import dataclass
from typing import NamedTuple

from jax import Array

from jaxsnn.neurons.neuron import POSITIVE, SHARE, Neuron, laid_out
from jaxsnn.neurons.resets import RESETS, rest
from jaxsnn.surrogate import Surrogate, rectangle

__all__ = ["SynapticLIF", "SynapticState"]


class SynapticState(NamedTuple):
    """What current-based neurons carry from one step to the next."""

    potential: Array  # [B, ...] after the last integration, before its reset
    current: Array  # [B, ...] synaptic current


@dataclass(frozen=True)
class SynapticLIF(Neuron):
    """Constants of a layer of current-based LIF neurons.

    >>> import jax.numpy as jnp
    >>> from jaxsnn.neurons import unroll
    >>> current = jnp.asarray([[1.0], [0.0], [0.0]])
    >>> unroll(SynapticLIF(0.5, 2.0, synaptic_decay=0.5), current)[1].ravel().tolist()
    [1.0, 1.0, 0.75]

    Attributes:
      decay: share of the potential that is left after one step, in [0, 1]; a scalar or `[C]`.
      threshold: potential at which a neuron spikes, > 0; a scalar or `[C]`.
      synaptic_decay: share of the current that is left after one step, in [0, 1]; a scalar or
        `[C]`. 0 is LIF.
      reset: "hard", "soft" or "soft_undecayed", as in `lif`.
      strict: spike above the threshold only (True), or also exactly on it.
      detach_reset: whether the gradient ignores that the reset depends on the spike.
      delayed: whether the potential takes the synaptic current of the step before.
      surrogate: the stand-in for the derivative of a spike.

    Raises:
      UserError: for an unknown reset and for constants out of range.

    References: Eshraghian et al. 2021, https://arxiv.org/abs/2109.12894 (Appendix B); Pedersen et
    al. 2024, https://doi.org/10.1038/s41467-024-52259-9 (`CubaLIF`, Table 1).
    """

    kind = "synaptic_lif"
    State = SynapticState
    ranges = {"decay": SHARE, "threshold": POSITIVE, "synaptic_decay": SHARE}
    choices = {"reset": RESETS}
    scaled = ("threshold",)
    nir = "CubaLIF"
    not_lif = "it has a synaptic current"

    decay: Array | float = 0.9
    threshold: Array | float = 1.0
    synaptic_decay: Array | float = 0.8
    reset: str = "hard"
    strict: bool = True
    detach_reset: bool = False
    delayed: bool = False
    surrogate: Surrogate = rectangle()

    def advance(self, state: SynapticState, current: Array) -> SynapticState:
        """Return potential and current after a step."""
        now = laid_out(self.synaptic_decay, state.current) * state.current + current
        heard = state.current if self.delayed else now
        return SynapticState(rest(self, state.potential) + heard, now)
