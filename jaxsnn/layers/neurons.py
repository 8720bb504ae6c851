"""What turns an input current into the output of a layer: spikes, activations or a read-out."""

import math
from dataclasses import replace
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from jaxsnn.arrays import at_least_float32, confined, is_short
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.layers.tape import Tape
from jaxsnn.neurons import LIF, Membrane, integrate, unroll
from jaxsnn.surrogate import NEVER, fire_over_time, triangle

__all__ = ["Constant", "Firing", "Integrator", "Neurons", "Rectified", "watch"]

SMALLEST_THRESHOLD = 1e-3  # a trained threshold is held above it, so that a neuron stays defined
TRAINED = {"decay": (0.0, 1.0), "threshold": (SMALLEST_THRESHOLD, math.inf)}

Module = TypeVar("Module", bound=nnx.Module)


class Constant(nnx.Variable[Array]):
    """A number that the network needs but nobody trains: a neuron's decay or threshold."""


class Neurons(nnx.Module):
    """A layer of LIF neurons; their constants may be trained.

    >>> neurons = Neurons(LIF(decay=0.5, threshold=2.0), trained=("threshold",))
    >>> [type(each).__name__ for each in (neurons.decay, neurons.threshold)]
    ['Constant', 'Param']

    Args:
      neuron: the constants and options.
      trained: names of the constants that are parameters, of "decay" and "threshold". Trained ones
        are held in their range, decay in [0, 1] and threshold at 0.001 or more: `train.fit` clips
        them after each step, and one that another loop leads outside finds back (`confined`).

    Raises:
      UserError: if the surrogate is a timed one (`stdb`) and the reset is not detached.
    """

    decay: nnx.Variable[Array]
    threshold: nnx.Variable[Array]

    def __init__(self, neuron: LIF, trained: tuple[str, ...] = ()):
        if neuron.surrogate.timed and not neuron.detach_reset:
            raise UserError("surrogate stdb needs neurons with detach_reset=True")
        for name in ("decay", "threshold"):
            kind = nnx.Param if name in trained else Constant
            setattr(self, name, kind(jnp.asarray(getattr(neuron, name), jnp.float32)))
        self.options = replace(neuron, decay=0.0, threshold=1.0)
        self.trained = trained
        self.watched = False  # whether every step is recorded: `watch`

    def constants(self) -> LIF:
        """Return the neuron with its present constants."""
        decay, threshold = self.decay[...], self.threshold[...]
        if "decay" in self.trained:
            decay = confined(decay, *TRAINED["decay"])
        if "threshold" in self.trained:
            threshold = confined(threshold, *TRAINED["threshold"])
        return replace(self.options, decay=decay, threshold=threshold)

    def __call__(
        self,
        current: Signal,
        tape: Tape,
        name: str,
        feedback: Array | None = None,
        dtype: Any = jnp.float32,
    ) -> Signal:
        """Return the spikes `[T, B, ...]` that a current causes, in a dtype, and record them."""
        neuron, before = self.constants(), tape.membranes.get(name)
        if self.watched:
            if before is not None:
                raise UserError(f"layer {name!r} is watched over the whole time axis: no remat")
            seen = tape.only_counted(at_least_float32(current.over_time()))
            tape.activity.current[name] = lax.stop_gradient(seen)
        # Behind a detached reset no potential depends on a surrogate: any will do.
        timed = neuron.surrogate.timed
        if timed and feedback is not None:
            raise UserError(
                f"layer {name!r} is recurrent: surrogate stdb does not learn through it"
            )
        spikes, potential, membrane = unroll(
            replace(neuron, surrogate=triangle()) if timed else neuron,
            current.value,
            timesteps=current.timesteps if current.constant else None,
            initial=before,
            feedback=feedback,
            dtype=dtype if is_short(dtype) else jnp.float32,
        )
        tape.membranes[name] = membrane
        if timed:
            fired = _fire_timed(neuron, potential, before, tape, f"{name}/last_spike")
            spikes = fired.astype(spikes.dtype)
        if self.watched:
            trains = tape.only_counted(at_least_float32(spikes))
            tape.activity.trains[name] = lax.stop_gradient(trains)
        # What training makes of the spikes are sums over everything, which XLA merges with this.
        merged = tape.train and tape.counted is None
        tape.activity.spikes[name] = at_least_float32(spikes).sum(0) if merged else tape.sum(spikes)
        potential = lax.stop_gradient(potential)
        tape.activity.potential[name] = tape.sum(potential)
        tape.activity.magnitude[name] = tape.sum(jnp.abs(potential))
        return Signal(spikes, current.timesteps, sources=(name,))


def _fire_timed(
    neuron: LIF, potential: Array, before: Membrane | None, tape: Tape, memory: str
) -> Array:
    """Return the spikes of given potentials, with a derivative that knows when the last one was.

    What the tape carries on is counted from `NEVER` down, so that a pass begins with 0.
    """
    rest = jnp.zeros_like(potential[0])
    if neuron.order == "fire_then_integrate":
        start = rest if before is None else before.potential
        potential = jnp.concatenate([start[None], potential[:-1]])
    threshold = jnp.broadcast_to(neuron.threshold, potential.shape)
    last = tape.membranes[memory].potential if memory in tape.membranes else rest
    spikes, since = fire_over_time(
        potential, threshold, neuron.surrogate, NEVER - last, strict=neuron.strict
    )
    tape.membranes[memory] = Membrane(NEVER - since)
    return spikes


def watch(network: Module) -> Module:
    """Return a copy of a network whose neurons record every step.

    `Activity.current` then holds the current, `[T, B, ...]`, which thresholds are read off, and
    `Activity.trains` the spikes. Train and export the network itself, not this copy.

    >>> from jaxsnn import models
    >>> module = models.build("3-2", (4,)).module
    >>> watch(module).dense1.neurons.watched, module.dense1.neurons.watched
    (True, False)
    """
    copy = nnx.clone(network)
    for _, node in nnx.iter_modules(copy):
        if isinstance(node, Neurons):
            node.watched = True
    return copy


class Rectified(nnx.Module):
    """The neurons of an ANN, `max(0, x)`: what the firing rates of IF neurons come near to.

    It has no constants, so the parameters of an ANN are those of the spiking network of the same
    layout; it runs for one step. Its outputs stand on the record in the place of spikes.

    >>> current = Signal(jnp.asarray([[[-1.0, 2.0]]]), timesteps=1)
    >>> Rectified()(current, Tape(), "dense1").value.tolist()
    [[[0.0, 2.0]]]
    """

    def __call__(
        self,
        current: Signal,
        tape: Tape,
        name: str,
        feedback: Array | None = None,
        dtype: Any = jnp.float32,
    ) -> Signal:
        """Return the rectified current, constant if the current is."""
        del feedback, dtype
        value = jax.nn.relu(current.value)
        output = replace(current, value=value, analog=True, sources=(name,))
        tape.activity.spikes[name] = tape.total(output)
        tape.activity.potential[name] = lax.stop_gradient(tape.total(current))
        magnitude = replace(current, value=jnp.abs(current.value))
        tape.activity.magnitude[name] = lax.stop_gradient(tape.total(magnitude))
        return output


class Integrator(nnx.Module):
    """A read-out that never spikes: `u[t] = decay u[t-1] + x[t]`; its output is `u`.

    With `decay=None` the output is the current itself, whose mean over time is the accumulated
    potential divided by T.

    >>> current = Signal(jnp.ones((3, 1, 1)), timesteps=3)
    >>> Integrator(decay=0.5)(current, Tape(), "out").value.ravel().tolist()
    [1.0, 1.5, 1.75]

    Args:
      decay: share of the potential left after a step, in [0, 1]; a number or `[C]`.
    """

    def __init__(self, decay: Array | float | None = None):
        self.decay = None if decay is None else Constant(jnp.asarray(decay, jnp.float32))

    def __call__(
        self,
        current: Signal,
        tape: Tape,
        name: str,
        feedback: Array | None = None,
        dtype: Any = jnp.float32,
    ) -> Signal:
        """Return the potentials `[T, B, C]`."""
        del feedback, dtype
        value = current.over_time()
        if self.decay is not None:
            before = tape.membranes.get(name)
            initial = None if before is None else before.potential
            value = integrate(value, self.decay[...], initial=initial)
            tape.membranes[name] = Membrane(value[-1])
        return Signal(value, current.timesteps, analog=True, sources=(name,))


Firing = Neurons | Rectified | Integrator  # what stands behind a layer's weights


def as_firing(neurons: Firing | LIF) -> Firing:
    """Return what fires behind a layer's weights; bare constants of LIF neurons become a layer.

    Raises:
      UserError: for anything else.
    """
    if isinstance(neurons, LIF):
        return Neurons(neurons)
    if not isinstance(neurons, Firing):
        raise UserError(
            "neurons must be neurons.LIF, layers.Neurons, layers.Rectified or layers.Integrator, "
            f"found {type(neurons).__name__}"
        )
    return neurons
