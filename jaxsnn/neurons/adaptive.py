"""Adaptive LIF neurons: each spike raises the threshold, which falls back.

With the adaptation `a`, its decay `rho` in [0, 1] a step and its jump `k` >= 0,

    a[t] = rho a[t-1] + k o[t-1]
    u[t] = rest(u[t-1]) + x[t]          soft resets subtract what was to be reached, theta + a[t-1]
    o[t] = 1[u[t] > theta + a[t]]       (>= if not strict)
    a[0] = u[0] = 0

and `rest` as in `lif`. The gradient flows through the adaptation, too, as through the reset unless
`detach_reset`.

- LSNN (Bellec et al. 2018): reset "soft_undecayed", `k = (1 - rho) beta`. Theirs adds a refractory
  period, and normalises the surrogate by theta alone, not by theta + a.
- sinabs `ALIF` with `SingleSpike`: reset "soft", `k = (1 - rho) adapt_scale`, not strict. The gain
  of its `norm_input`, `1 - alpha_mem`, goes into the weights.
- Norse `LSNN`: reset "hard", `rho = 1 - dt tau_adapt_inv`, `k = rho beta`; its `b` is theta + a,
  and jumps before it decays. Its synaptic current is not here; with `dt tau_syn_inv = 1` it is the
  input of the step before.
"""

from dataclasses import dataclass
from typing import NamedTuple

from jax import Array

from jaxsnn.neurons.neuron import POSITIVE, SHARE, Neuron, laid_out
from jaxsnn.neurons.resets import RESETS, rest
from jaxsnn.options import Range
from jaxsnn.surrogate import Surrogate, rectangle

__all__ = ["AdaptiveLIF", "AdaptiveState"]

JUMP = Range(0.0, float("inf"), open_high=True)


class AdaptiveState(NamedTuple):
    """What adaptive neurons carry from one step to the next."""

    potential: Array  # [B, ...] after the last integration, before its reset
    adaptation: Array  # [B, ...] what the threshold has risen by


@dataclass(frozen=True)
class AdaptiveLIF(Neuron):
    """Constants of a layer of LIF neurons that tire: each spike raises their threshold.

    >>> import jax.numpy as jnp
    >>> from jaxsnn.neurons import unroll
    >>> neuron = AdaptiveLIF(0.0, 1.0, adaptation=1.0, adaptation_decay=0.5)
    >>> unroll(neuron, jnp.full((1,), 1.75), timesteps=5)[0].ravel().tolist()
    [1.0, 0.0, 1.0, 0.0, 1.0]

    Attributes:
      decay: share of the potential that is left after one step, in [0, 1]; a scalar or `[C]`.
      threshold: potential at which a rested neuron spikes, > 0; a scalar or `[C]`.
      adaptation: what a spike adds to the threshold, >= 0; a scalar or `[C]`. 0 is LIF.
      adaptation_decay: share of the rise that is left after one step, in [0, 1]; a scalar or `[C]`.
      reset: "hard", "soft" or "soft_undecayed", as in `lif`.
      strict: spike above the threshold only (True), or also exactly on it.
      detach_reset: whether the gradient ignores that the reset depends on the spike.
      surrogate: the stand-in for the derivative of a spike.

    Raises:
      UserError: for an unknown reset and for constants out of range.

    References: Bellec et al. 2018, "Long short-term memory and learning-to-learn in networks of
    spiking neurons", https://arxiv.org/abs/1803.09574 (Eq. 1 to 3).
    """

    kind = "adaptive_lif"
    State = AdaptiveState
    ranges = {
        "decay": SHARE,
        "threshold": POSITIVE,
        "adaptation": JUMP,
        "adaptation_decay": SHARE,
    }
    choices = {"reset": RESETS}
    scaled = ("threshold", "adaptation")
    not_lif = "its threshold adapts"

    decay: Array | float = 0.9
    threshold: Array | float = 1.0
    adaptation: Array | float = 0.1
    adaptation_decay: Array | float = 0.95
    reset: str = "hard"
    strict: bool = True
    detach_reset: bool = False
    surrogate: Surrogate = rectangle()

    def level(self, state: AdaptiveState) -> Array:
        """Return the risen threshold, `theta + a`."""
        return laid_out(self.threshold, state.potential) + state.adaptation

    def advance(self, state: AdaptiveState, current: Array) -> AdaptiveState:
        """Return potential and adaptation after a step."""
        shape = state.potential
        risen = laid_out(self.adaptation, shape) * self.spikes(state)
        adaptation = laid_out(self.adaptation_decay, shape) * state.adaptation + risen
        return AdaptiveState(rest(self, shape, self.level(state)) + current, adaptation)
