"""LIF neurons whose leak is trained as a free number (PLIF).

With a free number `w` and `sigmoid(w)` the share that leaks away in a step, LIF of the decay

    lambda = 1 - sigmoid(w)
    u[t] = rest(u[t-1]) + sigmoid(w) x[t]       or x[t] without the input gain
    o[t] = 1[u[t] > theta]                      (>= if not strict)
    u[0] = 0

and `rest` as in `lif`. With `w = -log(tau - 1)` this is SpikingJelly's `ParametricLIFNode(tau)`:
`decay_input` is the input gain, `v_reset=0` the reset "hard" and `v_reset=None` "soft"; it fires on
the threshold, too (`strict=False`). A trained `w` needs no range, `lambda` is always in (0, 1).
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array

from jaxsnn.neurons.lif import LIF
from jaxsnn.neurons.neuron import POSITIVE, Membrane, Neuron, laid_out
from jaxsnn.neurons.resets import RESETS
from jaxsnn.options import Range
from jaxsnn.surrogate import Surrogate, rectangle

__all__ = ["PLIF"]

ANYWHERE = Range(-float("inf"), float("inf"), open_low=True, open_high=True)


@dataclass(frozen=True)
class PLIF(Neuron):
    """Constants of a layer of LIF neurons that learn how fast they leak.

    >>> neuron = PLIF(0.0, 1.0)
    >>> float(neuron.decay), neuron.learned
    (0.5, ('leak',))

    Attributes:
      leak: `w`, any number: a share `sigmoid(w)` leaks away in a step; a scalar or `[C]`. 0 is a
        time constant of 2 steps, from which the paper starts.
      threshold: potential at which a neuron spikes, > 0; a scalar or `[C]`.
      reset: "hard", "soft" or "soft_undecayed", as in `lif`.
      strict: spike above the threshold only (True), or also exactly on it.
      detach_reset: whether the gradient ignores that the reset depends on the spike.
      input_gain: whether the current is multiplied by `sigmoid(w)`, as in the paper.
      surrogate: the stand-in for the derivative of a spike.

    Raises:
      UserError: for an unknown reset and for constants out of range.

    References: Fang et al. 2021, "Incorporating learnable membrane time constant to enhance
    learning of spiking neural networks", https://arxiv.org/abs/2007.05785 (Eq. 8 to 10).
    """

    kind = "plif"
    ranges = {"leak": ANYWHERE, "threshold": POSITIVE}
    choices = {"reset": RESETS}
    learned = ("leak",)
    scaled = ("threshold",)
    nir = "LIF"
    not_lif = ""

    leak: Array | float = 0.0
    threshold: Array | float = 1.0
    reset: str = "hard"
    strict: bool = True
    detach_reset: bool = False
    input_gain: bool = True
    surrogate: Surrogate = rectangle()

    @property
    def decay(self) -> Array:
        """Share of the potential that is left after a step, `1 - sigmoid(w)`."""
        return jax.nn.sigmoid(-jnp.asarray(self.leak))

    @property
    def gain(self) -> Array:
        """Factor of the current."""
        leak = jnp.asarray(self.leak)
        return jax.nn.sigmoid(leak) if self.input_gain else jnp.ones_like(leak)

    def plain(self) -> LIF:
        """Return the LIF neuron that this is, once its current is multiplied by the gain."""
        names = ("reset", "strict", "detach_reset", "surrogate")
        options = {name: getattr(self, name) for name in names} | {"order": "integrate_then_fire"}
        constants = {"decay": self.decay, "threshold": self.threshold}
        return LIF.unchecked(constants, options)

    def advance(self, state: Membrane, current: Array) -> Membrane:
        """Return the membrane after a step."""
        return self.plain().advance(state, laid_out(self.gain, current) * current)

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
        """Run over the whole time axis, with the reverse pass of LIF."""
        if self.input_gain:
            current = laid_out(self.gain, current) * current
            feedback = None if feedback is None else feedback * laid_out(self.gain, feedback)
        return self.plain().over_time(
            current,
            timesteps=timesteps,
            start=start,
            at_rest=at_rest,
            feedback=feedback,
            short=short,
        )

    def as_lif(self) -> LIF:
        """Return the LIF neuron of the same spikes: the gain divides the threshold instead."""
        plain = self.plain()
        return replace(plain, threshold=jnp.asarray(plain.threshold) / self.gain)
