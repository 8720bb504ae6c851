"""What turns an input current into the output of a layer: spiking neurons, or a silent read-out."""

from dataclasses import replace

import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from jaxsnn.arrays import sum_over_time
from jaxsnn.encode import Signal
from jaxsnn.layers.tape import Tape
from jaxsnn.neurons import LIF, Membrane, integrate, unroll

SMALLEST_THRESHOLD = 1e-3  # a trained threshold is held above it, so that a neuron stays defined


class Constant(nnx.Variable):
    """A number that the network needs but nobody trains: a neuron's decay or threshold."""


class Neurons(nnx.Module):
    """A layer of LIF neurons; their constants may be trained.

    Args:
      neuron: the constants and options.
      trained: names of the constants that are parameters, of "decay" and "threshold". Trained ones
        are clipped into their range, decay to [0, 1] and threshold to at least 0.001.
    """

    decay: nnx.Variable
    threshold: nnx.Variable

    def __init__(self, neuron: LIF, trained: tuple[str, ...] = ()):
        for name in ("decay", "threshold"):
            kind = nnx.Param if name in trained else Constant
            setattr(self, name, kind(jnp.asarray(getattr(neuron, name), jnp.float32)))
        self.options = replace(neuron, decay=0.0, threshold=1.0)
        self.trained = trained

    def constants(self) -> LIF:
        """Return the neuron with its present constants."""
        decay, threshold = self.decay[...], self.threshold[...]
        if "decay" in self.trained:
            decay = jnp.clip(decay, 0.0, 1.0)
        if "threshold" in self.trained:
            threshold = jnp.maximum(threshold, SMALLEST_THRESHOLD)
        return replace(self.options, decay=decay, threshold=threshold)

    def __call__(
        self, current: Signal, tape: Tape, name: str, feedback: Array | None = None
    ) -> Signal:
        """Return the spikes `[T, B, ...]` that a current causes, and record them."""
        spikes, potential, membrane = unroll(
            self.constants(),
            current.value,
            timesteps=current.timesteps if current.constant else None,
            initial=tape.membranes.get(name),
            feedback=feedback,
        )
        tape.membranes[name] = membrane
        # What training makes of the spikes are sums over everything, which XLA merges with this.
        tape.activity.spikes[name] = spikes.sum(0) if tape.train else sum_over_time(spikes)
        potential = lax.stop_gradient(potential)
        tape.activity.potential[name] = sum_over_time(potential)
        tape.activity.magnitude[name] = sum_over_time(jnp.abs(potential))
        return Signal(spikes, current.timesteps)


class Integrator(nnx.Module):
    """A read-out that never spikes: `u[t] = decay u[t-1] + x[t]`; its output is `u`.

    With `decay=None` the output is the current itself, whose mean over time is the accumulated
    potential divided by T.
    """

    def __init__(self, decay: Array | float | None = None):
        self.decay = None if decay is None else Constant(jnp.asarray(decay, jnp.float32))

    def __call__(
        self, current: Signal, tape: Tape, name: str, feedback: Array | None = None
    ) -> Signal:
        """Return the potentials `[T, B, C]`."""
        del feedback
        value = current.over_time()
        if self.decay is not None:
            before = tape.membranes.get(name)
            initial = None if before is None else before.potential
            value = integrate(value, self.decay[...], initial=initial)
            tape.membranes[name] = Membrane(value[-1])
        return Signal(value, current.timesteps)
