"""Flax modules over the whole time axis: time-folded synapses and scanned neurons.

A layer takes a `Signal` and a `Tape` and returns a `Signal`. Weighted layers act once on
`[T*B, ...]` (or once on `[B, ...]` for a constant input), then their neurons run over time. What
the neurons did is written on the tape. Channels last; the last axis of every weight is the output.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from jaxsnn.convolution import convolve
from jaxsnn.encode import Signal
from jaxsnn.neurons import LIF, Membrane, integrate, spikes_of, unroll

SMALLEST_THRESHOLD = 1e-3  # a trained threshold is held above it, so that a neuron stays defined


class Activity(NamedTuple):
    """Record what a network did on a batch, summed over time.

    The one source of spike-count losses, calibration scores and operation counts. Under `jit`,
    what is not used is not computed.
    """

    spikes: dict[str, Array]  # layer -> [B, ...] spikes of each neuron
    potential: dict[str, Array]  # layer -> [B, ...] potential before reset
    events: dict[str, Array]  # kernel -> [B, ...] events at each input, counted before pooling


class Constant(nnx.Variable):
    """A number that the network needs but nobody trains: a neuron's decay or threshold."""


class Tape:
    """Carry one pass through a network: its mode, its randomness, and the record of it.

    Attributes:
      train: whether dropout acts and norms use the statistics of the batch.
      axis: the mapped axis over which the batch is spread, if any.
      membranes: layer name -> membrane; read where a pass begins, written where it ends.
      activity: the record.
    """

    def __init__(
        self,
        *,
        train: bool,
        key: Array | None,
        membranes: Mapping[str, Membrane],
        axis: str | None = None,
    ):
        self.train = train
        self.axis = axis
        self.membranes = dict(membranes)
        self.activity = Activity({}, {}, {})
        self._key = key
        self._draws = 0

    def next_keys(self, batch: int) -> Array:
        """Return a key for each sample, `[B]`, that no other layer of this pass gets."""
        if self._key is None:
            raise ValueError("this network draws random numbers in training: pass key=")
        self._draws += 1
        keys = jax.random.split(self._key, batch) if self._key.ndim == 0 else self._key
        return jax.vmap(jax.random.fold_in, (0, None))(keys, self._draws)


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
        tape.activity.spikes[name] = spikes.sum(0)
        tape.activity.potential[name] = lax.stop_gradient(potential).sum(0)
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


class Synapse(nnx.Module):
    """What weighted layers share: weigh, add the bias, normalise, fire.

    Subclasses set `kernel` and define `weigh`.

    Args:
      shape: of the kernel, outputs last.
      fan_in: number of inputs of one output.
      neurons: what turns the current into spikes or a read-out.
      use_bias: whether each output has a bias.
      norm: whether batch normalisation over time and batch follows the weights.
      dtype: of the inputs, the weights and their product; everything after it is float32.
      rngs: random numbers for the start values, uniform in +-1/sqrt(fan_in) as PyTorch's.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        fan_in: int,
        neurons: Neurons | Integrator,
        *,
        use_bias: bool = True,
        norm: bool = False,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        bound = fan_in**-0.5
        self.kernel = nnx.Param(
            jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound)
        )
        start = jax.random.uniform(rngs.params(), shape[-1:], minval=-bound, maxval=bound)
        self.bias = nnx.Param(start) if use_bias else None
        self.norm = nnx.BatchNorm(shape[-1], momentum=0.9, rngs=rngs) if norm else None
        self.neurons = neurons
        self.dtype = dtype

    def weigh(self, x: Array, kernel: Array) -> Array:
        """Return the linear map of `x`, `[N, ...]`, without bias."""
        raise TypeError(f"{type(self).__name__} does not define how it weighs")

    def current(self, x: Array, tape: Tape) -> Array:
        """Return the input current of the neurons for inputs without time, `[N, ...]`."""
        kernel = self.kernel[...].astype(self.dtype)
        current = self.weigh(x.astype(self.dtype), kernel).astype(jnp.float32)
        if self.bias is not None:
            bias = self.bias[...]
            current = current + bias.reshape((1,) * (current.ndim - 1) + bias.shape)
        if self.norm is not None:
            self.norm.axis_name = tape.axis
            current = self.norm(current, use_running_average=not tape.train)
        return current

    def feedback(self) -> Array | None:
        """Return the weights by which the layer hears itself, or None."""
        return None

    def __call__(
        self, signal: Signal, tape: Tape, name: str, shortcut: Signal | None = None
    ) -> Signal:
        """Return spikes or read-out, `[T, B, ...]`; a shortcut is added to the current."""
        events = signal.total() * signal.events_per_unit
        tape.activity.events[f"{name}/kernel"] = lax.stop_gradient(events)
        current = replace(signal.fold(lambda x: self.current(x, tape)), events_per_unit=1)
        if shortcut is not None:
            current = current.plus(shortcut)
        return self.neurons(current, tape, name, self.feedback())

    def maps(self) -> dict[str, Callable[[Array, Array], Array]]:
        """Return the linear map of each of the layer's kernels."""
        return {"kernel": self.weigh}


class Dense(Synapse):
    """Connect every input with every output: `[N, I] @ [I, O]`."""

    def __init__(self, inputs: int, outputs: int, neurons: Neurons | Integrator, **options: Any):
        super().__init__((inputs, outputs), inputs, neurons, **options)

    def weigh(self, x: Array, kernel: Array) -> Array:
        """Return `x @ kernel`."""
        return x @ kernel


class Conv(Synapse):
    """Convolve images `[N, H, W, I]` with square kernels `[k, k, I, O]`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        neurons: Neurons | Integrator,
        *,
        size: int = 3,
        stride: int = 1,
        padding: str = "SAME",
        **options: Any,
    ):
        super().__init__((size, size, inputs, outputs), size * size * inputs, neurons, **options)
        self.stride = stride
        self.padding = padding

    def weigh(self, x: Array, kernel: Array) -> Array:
        """Return the convolution of `x` with `kernel`."""
        return convolve(x, kernel, stride=self.stride, padding=self.padding)


class Recurrent(Dense):
    """A fully recurrent spiking layer: dense input, and every neuron hears all others' last spikes.

    `x[t] = W o_in[t] + R o[t-1] + b`, with `R` `[O, O]` under the name "recurrent".
    """

    neurons: Neurons

    def __init__(
        self, inputs: int, outputs: int, neurons: Neurons, *, rngs: nnx.Rngs, **options: Any
    ):
        super().__init__(inputs, outputs, neurons, rngs=rngs, **options)
        bound = outputs**-0.5
        start = jax.random.uniform(rngs.params(), (outputs, outputs), minval=-bound, maxval=bound)
        self.recurrent = nnx.Param(start)

    def feedback(self) -> Array:
        """Return the recurrent weights."""
        return self.recurrent[...]

    def __call__(
        self, signal: Signal, tape: Tape, name: str, shortcut: Signal | None = None
    ) -> Signal:
        """Return the spikes `[T, B, O]`."""
        before = tape.membranes.get(name)
        spikes = super().__call__(signal, tape, name, shortcut)
        heard = spikes.value[:-1].sum(0)  # the last step's are heard by nobody yet
        if before is not None:
            heard = heard + spikes_of(self.neurons.constants(), before.potential)
        tape.activity.events[f"{name}/recurrent"] = lax.stop_gradient(heard)
        return spikes

    def maps(self) -> dict[str, Callable[[Array, Array], Array]]:
        """Return the linear maps of the input and of the recurrent weights."""
        return {"kernel": self.weigh, "recurrent": self.weigh}


class Residual(nnx.Module):
    """A basic block: two convolutions, and a shortcut added to the current of the second.

    `conv1 - neurons - conv2 - (+ shortcut) - neurons`. The shortcut has no weights: it takes every
    `stride`-th pixel and fills up missing channels with zeros, `(O - I) // 2` of them in front
    (Wei et al., 2502.05905, figure of ResNet20; He et al., 2015, option A).

    Args:
      conv1: from `I` to `M` channels, with the block's stride.
      conv2: from `M` to `O` channels.
    """

    def __init__(self, conv1: Conv, conv2: Conv):
        self.conv1 = conv1
        self.conv2 = conv2

    def __call__(self, signal: Signal, tape: Tape, name: str) -> Signal:
        """Return the spikes `[T, B, H / stride, W / stride, O]`."""
        hidden = self.conv1(signal, tape, f"{name}/conv1")
        return self.conv2(hidden, tape, f"{name}/conv2", shortcut=self.shortcut(signal))

    def shortcut(self, signal: Signal) -> Signal:
        """Return the block's input in the shape of its output."""
        stride, outputs = self.conv1.stride, self.conv2.kernel.shape[-1]

        def reshape(x):
            missing = outputs - x.shape[-1]
            before = missing // 2
            borders = [(0, 0)] * 3 + [(before, missing - before)]
            return jnp.pad(x[:, ::stride, ::stride], borders)

        return signal.fold(reshape)

    def maps(self) -> dict[str, Callable[[Array, Array], Array]]:
        """Return the linear maps of both convolutions."""
        return {f"conv{i}/kernel": conv.weigh for i, conv in ((1, self.conv1), (2, self.conv2))}


class AveragePool(nnx.Module):
    """Average over windows `size x size` that do not overlap; rows left over are dropped."""

    def __init__(self, size: int = 2):
        self.size = size

    def __call__(self, signal: Signal, tape: Tape, name: str) -> Signal:
        """Return the signal on a coarser grid, `[T, B, H/size, W/size, C]`."""
        del tape, name
        pooled = signal.fold(lambda x: windows(x, self.size).mean((2, 4)))
        return replace(pooled, events_per_unit=signal.events_per_unit * self.size**2)


class MaxPool(nnx.Module):
    """Take the largest over windows `size x size`; on spikes, whether any neuron of them fired."""

    def __init__(self, size: int = 2):
        self.size = size

    def __call__(self, signal: Signal, tape: Tape, name: str) -> Signal:
        """Return the signal on a coarser grid, `[T, B, H/size, W/size, C]`."""
        del tape, name
        return signal.fold(lambda x: windows(x, self.size).max((2, 4)))


def windows(images: Array, size: int) -> Array:
    """Return `[N, H, W, C]` as windows, `[N, H/size, size, W/size, size, C]`."""
    n, height, width, channels = images.shape
    rows, columns = height // size, width // size
    cropped = images[:, : rows * size, : columns * size]
    return cropped.reshape(n, rows, size, columns, size, channels)


class Flatten(nnx.Module):
    """Lay all axes but time and batch in one, channels fastest."""

    def __call__(self, signal: Signal, tape: Tape, name: str) -> Signal:
        """Return `[T, B, features]`."""
        del tape, name
        return signal.fold(lambda x: x.reshape(x.shape[0], -1))


class Dropout(nnx.Module):
    """Silence a share of the inputs in training: one draw for each sample, held over time."""

    def __init__(self, rate: float):
        self.rate = rate

    def __call__(self, signal: Signal, tape: Tape, name: str) -> Signal:
        """Return the signal with the dropped inputs at 0 and the others scaled up."""
        del name
        if not tape.train or self.rate == 0.0:
            return signal
        shape = signal.value.shape if signal.constant else signal.value.shape[1:]
        draw = partial(jax.random.bernoulli, p=1.0 - self.rate, shape=shape[1:])
        keep = jax.vmap(draw)(tape.next_keys(shape[0]))
        scale = (keep / (1.0 - self.rate)).astype(signal.value.dtype)
        scale = jnp.broadcast_to(scale, signal.value.shape)
        return replace(signal, value=signal.value * scale)


class Vote(nnx.Module):
    """Average groups of consecutive neurons, one group a class (population voting)."""

    def __init__(self, classes: int):
        self.classes = classes

    def __call__(self, signal: Signal, tape: Tape, name: str) -> Signal:
        """Return `[T, B, classes]` from `[T, B, classes * voters]`."""
        del tape, name
        return signal.fold(lambda x: x.reshape(x.shape[0], self.classes, -1).mean(-1))


class Chain(nnx.Module):
    """Named layers, one after the other.

    Args:
      layers: name -> layer, first to last. The names are those of parameters and activities.
    """

    def __init__(self, layers: Mapping[str, nnx.Module]):
        self.names = tuple(layers)
        for name, layer in layers.items():
            setattr(self, name, layer)

    def __call__(self, signal: Signal, tape: Tape) -> Signal:
        """Return the last layer's output."""
        for name in self.names:
            signal = getattr(self, name)(signal, tape, name)
        return signal

    def maps(self) -> dict[str, Callable[[Array, Array], Array]]:
        """Return kernel name -> linear map, for all weighted layers in order."""
        synapses = ((n, getattr(self, n)) for n in self.names)
        return {
            f"{name}/{kernel}": weigh
            for name, layer in synapses
            if isinstance(layer, Synapse | Residual)
            for kernel, weigh in layer.maps().items()
        }
