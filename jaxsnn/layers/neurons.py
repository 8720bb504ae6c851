"""What turns an input current into the output of a layer: spikes, activations or a read-out."""

from collections.abc import Sequence
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
from jaxsnn.neurons import LIF, Membrane, Neuron, unroll
from jaxsnn.neurons.scanning import integrate
from jaxsnn.surrogate import NEVER, fire_over_time, triangle

__all__ = ["Constant", "Firing", "Integrator", "Neurons", "Rectified", "watch"]

OWN = ("options", "trained", "watched")  # attributes of `Neurons`, which no constant is called

Module = TypeVar("Module", bound=nnx.Module)


class Constant(nnx.Variable[Array]):
    """A number that the network needs but nobody trains: a neuron's decay or threshold."""


class Neurons(nnx.Module):
    """A layer of neurons; their constants are its variables, and may be trained.

    >>> neurons = Neurons(LIF(decay=0.5, threshold=2.0), trained=("threshold",))
    >>> [type(each).__name__ for each in (neurons.decay, neurons.threshold)]
    ['Constant', 'Param']

    Args:
      neuron: the constants and options: `LIF`, another of `jaxsnn.neurons`, or one of your own.
      trained: names of the constants that are parameters; left out, those that the neuron learns by
        itself. Trained ones are held in their range, of LIF decay in [0, 1] and threshold at 0.001
        or more: `train.fit` clips them after each step, and one that another loop leads outside
        finds back (`confined`).

    Raises:
      UserError: if the neuron breaks the protocol or has no such constant, and if its surrogate is
        a timed one (`stdb`) and it is no LIF neuron with a detached reset.
    """

    def __init__(self, neuron: Neuron, trained: Sequence[str] | None = None):
        self.trained = _checked(neuron, trained)
        for name in neuron.ranges:
            kind = nnx.Param if name in self.trained else Constant
            setattr(self, name, kind(jnp.asarray(getattr(neuron, name), jnp.float32)))
        self.options = neuron.bare()
        self.watched = False  # whether every step is recorded: `watch`

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the constants, each an attribute."""
        return tuple(self.options.ranges)

    def variable(self, name: str) -> nnx.Variable[Array]:
        """Return the variable of a constant."""
        found: nnx.Variable[Array] = getattr(self, name)
        return found

    def constants(self) -> Neuron:
        """Return the neuron with its present constants."""
        values = {name: self.variable(name)[...] for name in self.options.ranges}
        for name in self.trained:
            values[name] = confined(values[name], *self.options.ends(name))
        return replace(self.options, **values)  # type: ignore[type-var]

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
        timed = neuron if isinstance(neuron, LIF) and neuron.surrogate.timed else None
        if timed is not None and feedback is not None:
            raise UserError(
                f"layer {name!r} is recurrent: surrogate stdb does not learn through it"
            )
        spikes, potential, membrane = unroll(
            neuron if timed is None else replace(timed, surrogate=triangle()),
            current.value,
            timesteps=current.timesteps if current.constant else None,
            initial=before,
            feedback=feedback,
            dtype=dtype if is_short(dtype) else jnp.float32,
        )
        tape.membranes[name] = membrane
        if timed is not None:
            fired = _fire_timed(timed, potential, before, tape, f"{name}/last_spike")
            spikes = fired.astype(spikes.dtype)
        if neuron.as_lif() is not None:  # others may emit other numbers than 0 and 1
            tape.note_spikes(spikes)
        if self.watched:
            trains = tape.only_counted(at_least_float32(spikes))
            tape.activity.trains[name] = lax.stop_gradient(trains)
        # What training makes of the spikes are sums over everything, which XLA merges with this.
        merged = tape.train and tape.counted is None
        tape.activity.spikes[name] = at_least_float32(spikes).sum(0) if merged else tape.sum(spikes)
        potential = lax.stop_gradient(potential)
        tape.activity.potential[name] = tape.sum(potential)
        tape.activity.magnitude[name] = tape.sum(jnp.abs(potential))
        return Signal(spikes, current.timesteps, sources=(name,), origin=current.origin)


def _checked(neuron: Neuron, trained: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the constants that are trained, after the neuron was checked."""
    if not isinstance(neuron, Neuron):
        raise UserError(f"neuron must be a neurons.Neuron, found {type(neuron).__name__}")
    neuron.check()
    neuron.check_step()
    kind = type(neuron).__name__
    if taken := [name for name in OWN if name in neuron.ranges]:
        raise UserError(f"neuron {kind}: a constant cannot be called {taken[0]!r}")
    found = neuron.learned if trained is None else tuple(trained)
    if strange := [name for name in found if name not in neuron.ranges]:
        raise UserError(
            f"trained {strange[0]!r} is no constant of {kind}; choose of {', '.join(neuron.ranges)}"
        )
    surrogate = getattr(neuron, "surrogate", None)
    if surrogate is not None and surrogate.timed:
        if not isinstance(neuron, LIF):
            raise UserError(f"surrogate stdb needs LIF neurons, found {kind}")
        if not neuron.detach_reset:
            raise UserError("surrogate stdb needs neurons with detach_reset=True")
    return found


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
        origin = current.origin
        return Signal(value, current.timesteps, analog=True, sources=(name,), origin=origin)


Firing = Neurons | Rectified | Integrator  # what stands behind a layer's weights


def as_firing(neurons: Firing | Neuron) -> Firing:
    """Return what fires behind a layer's weights; the bare constants of neurons become a layer.

    Raises:
      UserError: for anything else.
    """
    if isinstance(neurons, Neuron):
        return Neurons(neurons)
    if not isinstance(neurons, Firing):
        raise UserError(
            "neurons must be neurons.LIF or another neuron, layers.Neurons, layers.Rectified or "
            "layers.Integrator, "
            f"found {type(neurons).__name__}"
        )
    return neurons
