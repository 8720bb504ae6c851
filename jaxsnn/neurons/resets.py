"""What a spike leaves of a potential: the reset and the leak that LIF neurons share.

With `s = 1[u > theta]`, and the reset a part of the step that follows,

    reset "hard"             rest(u) = lambda u (1 - s)         to zero
    reset "soft"             rest(u) = lambda (u - theta s)     by subtraction, then decay
    reset "soft_undecayed"   rest(u) = lambda u - theta s       by subtraction beside the decay
"""

from typing import Protocol

from jax import Array, lax

from jaxsnn.neurons.neuron import laid_out
from jaxsnn.surrogate import Surrogate, fire

__all__ = ["RESETS", "Leaky", "rest", "spikes_of"]

RESETS = ("hard", "soft", "soft_undecayed")


class Leaky(Protocol):
    """What a neuron has whose potential leaks and is reset."""

    @property
    def decay(self) -> Array | float:
        """Share of the potential that is left after a step."""

    @property
    def threshold(self) -> Array | float:
        """Potential at which a neuron spikes."""

    @property
    def reset(self) -> str:
        """One of `RESETS`."""

    @property
    def strict(self) -> bool:
        """Whether a neuron spikes above the threshold only."""

    @property
    def detach_reset(self) -> bool:
        """Whether the gradient ignores that the reset depends on the spike."""

    @property
    def surrogate(self) -> Surrogate:
        """The stand-in for the derivative of a spike."""


def spikes_of(neuron: Leaky, potential: Array) -> Array:
    """Return the spikes of the given potentials, with the neuron's surrogate as derivative."""
    threshold = laid_out(neuron.threshold, potential)
    return fire(potential, threshold, neuron.surrogate, strict=neuron.strict)


def rest(neuron: Leaky, potential: Array, level: Array | None = None) -> Array:
    """Return what reset and decay leave of a potential: `rest(u)` of the module's equations.

    Args:
      neuron: its constants and options.
      potential: `[..., C]`.
      level: the threshold of each neuron, in the shape of the potential; that of its constants if
        left out.
    """
    threshold = laid_out(neuron.threshold, potential) if level is None else level
    spikes = fire(potential, threshold, neuron.surrogate, strict=neuron.strict)
    if neuron.detach_reset:
        spikes = lax.stop_gradient(spikes)
    decay = laid_out(neuron.decay, potential)
    if neuron.reset == "hard":
        return decay * (potential * (1.0 - spikes))
    # Laid out once more: the two derivatives by the threshold are summed up each by itself.
    threshold = laid_out(neuron.threshold, potential) if level is None else level
    if neuron.reset == "soft":
        return decay * (potential - threshold * spikes)
    return decay * potential - threshold * spikes
