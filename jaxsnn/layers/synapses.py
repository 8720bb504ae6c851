"""Layers with weights: they act once on `[T*B, ...]`, then their neurons run over time."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from jaxsnn import draws, memory
from jaxsnn.arrays import check_whole, is_short, straight_through
from jaxsnn.compress.codes import Step
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.layers.convolution import convolve
from jaxsnn.layers.kept import pays, weigh_spikes
from jaxsnn.layers.layer import Layer
from jaxsnn.layers.neurons import Firing, Integrator, Neurons, as_firing
from jaxsnn.layers.norms import add_bias, make_norm, normalise
from jaxsnn.layers.products import multiply
from jaxsnn.layers.tape import Tape
from jaxsnn.neurons import Neuron
from jaxsnn.origins import Own

__all__ = ["Conv", "Conv1d", "Dense", "Recurrent", "Synapse"]


class Synapse(Layer):
    """What weighted layers share: weigh, add the bias, normalise, fire.

    Subclasses set `kernel` and define `weigh`.

    >>> class Diagonal(Synapse):
    ...     def weigh(self, x, kernel):
    ...         return x * kernel.reshape(1, -1)
    >>> from jaxsnn.neurons import LIF
    >>> layer = Diagonal((4,), 1, neurons=LIF(0.5), rngs=nnx.Rngs(0))
    >>> layer.weigh(jnp.ones((2, 4)), layer.kernel[...]).shape
    (2, 4)

    Args:
      shape: of the kernel, outputs last.
      fan_in: number of inputs of one output.
      neurons: what turns the current into spikes, activations or a read-out.
      use_bias: whether each output has a bias.
      norm: "batch" or True for a normalisation over time and batch behind the weights, "layer" for
        one over the channels of each place (`norms`), False for none.
      dtype: of the inputs, the weights and their product. With bfloat16 also of the current and the
        spikes, and of what is kept for the reverse pass; weights are kept, and sums, norms,
        potentials and a read-out computed, in float32.
      rngs: random numbers for the start values, uniform in +-1/sqrt(fan_in) as PyTorch's.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        fan_in: int,
        *,
        neurons: Firing | Neuron,
        use_bias: bool = True,
        norm: bool | str = False,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        bound = fan_in**-0.5
        self.kernel = nnx.Param(_uniform(rngs, shape, bound))
        start = _uniform(rngs, shape[-1:], bound)
        self.bias = nnx.Param(start) if use_bias else None
        self.norm = make_norm(norm, shape[-1], rngs)
        self.neurons = as_firing(neurons)
        self.dtype = dtype

    @property
    def inputs(self) -> int:
        """Return the channels, or features, of the input."""
        return int(self.kernel.shape[-2])

    def weigh(self, x: Array, kernel: Array) -> Array:
        """Return the linear map of `x`, `[N, ...]`, without bias."""
        raise TypeError(f"{type(self).__name__} does not define how it weighs")

    def product(self, x: Array, kernel: Array, dtype: Any) -> Array:
        """Return `weigh(x, kernel)` in a dtype."""
        return self.weigh(x, kernel).astype(dtype)

    def biased(self, x: Array, kernel: Array, bias: Array, dtype: Any) -> Array:
        """Return `weigh(x, kernel)` and the bias of each channel in a dtype."""
        return add_bias(self.product(x, kernel, dtype), bias, dtype)

    def current(
        self, x: Array, tape: Tape, dtype: Any = jnp.float32, spikes: bool = False
    ) -> Array:
        """Return the current of the neurons, in a dtype, for inputs without time, `[N, ...]`.

        Args:
          x: the inputs.
          tape: of the pass.
          dtype: of the current.
          spikes: whether the inputs are 0 or 1.
        """
        kernel = self.kernel[...].astype(jnp.promote_types(self.dtype, jnp.float32))
        bias = None if self.bias is None else self.bias[...]
        x = x.astype(self.dtype)
        weigh = partial(self.product, dtype=dtype)
        as_bytes = spikes and pays(self.dtype) and type(self).product in CLOSED
        step = self._step(tape)
        if bias is not None and self.norm is None and step is None and not as_bytes:
            return self.biased(x, kernel, bias, dtype)
        current = weigh_spikes(weigh, x, kernel) if as_bytes else weigh(x, kernel)
        if step is not None:
            is_known = jnp.max(step.scale) > 0  # not before the first update of a training
            codes = jnp.where(is_known, self._by_codes(x, kernel, step), current)
            current = straight_through(codes, current)
        if self.norm is None:
            return add_bias(current, bias, dtype)
        if isinstance(self.norm, nnx.BatchNorm):
            self.norm.axis_name = tape.axis
        return normalise(self.norm, current, bias, tape.train, dtype)

    def _step(self, tape: Tape) -> Step | None:
        """Return the step of the kernel's grid if its codes are what is multiplied."""
        return tape.steps.get(f"{self.name}/kernel") if is_short(self.dtype) else None

    def _by_codes(self, x: Array, kernel: Array, step: Step) -> Array:
        """Return the product with the codes, and the scale behind it.

        Spikes and whole numbers up to 256 are exact in bfloat16, and their sums in float32.
        """
        codes = step.encode(kernel).codes.astype(jnp.float32)
        product = self.product(x, codes, jnp.float32)
        scale = (step.scale * step.unit).reshape((1,) * (product.ndim - 1) + (-1,))
        return product * scale

    def feedback(self) -> Array | None:
        """Return the weights by which the layer hears itself, or None."""
        return None

    def check_input(self, signal: Signal) -> None:
        """Raise a `UserError` that names the layer if the input has not the shape that it needs."""

    def __call__(self, signal: Signal, tape: Tape, shortcut: Signal | None = None) -> Signal:
        """Return spikes or read-out, `[T, B, ...]`; a shortcut is added to the current."""
        kernel = f"{self.name}/kernel"
        self.check_input(signal)
        events = tape.total(signal) * signal.events_per_unit
        tape.activity.events[kernel] = lax.stop_gradient(events)
        if signal.events_per_unit > 1:
            there = replace(signal, value=(signal.value != 0).astype(signal.value.dtype))
            tape.activity.arrivals[kernel] = tape.total(there)
        # A constant current is one copy, a read-out is small, that of codes is exact: not rounded.
        whole = signal.constant or isinstance(self.neurons, Integrator)
        whole = whole or self._step(tape) is not None or not is_short(self.dtype)
        dtype = jnp.float32 if whole else self.dtype
        weigh = partial(self.current, tape=tape, dtype=dtype, spikes=tape.are_spikes(signal.value))
        current = replace(signal.fold(weigh), events_per_unit=1)
        tape.feed(kernel, self.name, signal, current.shape, shortcut)
        if shortcut is not None:
            current = current + replace(shortcut, events_per_unit=1)
        fired = self.neurons(current, tape, self.name, self.feedback(), self.dtype)
        return replace(fired, origin=Own(self.name))

    def maps(self) -> dict[str, Callable[[Array, Array], Array]]:
        """Return the linear map of each of the layer's kernels."""
        return {"kernel": self.weigh}


class Dense(Synapse):
    """Connect every input with every output: `[N, I] @ [I, O]`.

    >>> from jaxsnn.neurons import LIF
    >>> dense = Dense(16, 10, neurons=LIF(0.5), rngs=nnx.Rngs(0))
    >>> dense.kernel.shape, dense.bias.shape
    ((16, 10), (10,))

    Args:
      inputs: features of the input, I.
      outputs: neurons, O.
      neurons: what turns the current into spikes, activations or a read-out.
      **options: `use_bias`, `norm`, `dtype` and `rngs`, as of `Synapse`.
    """

    def __init__(self, inputs: int, outputs: int, *, neurons: Firing | Neuron, **options: Any):
        super().__init__((inputs, outputs), inputs, neurons=neurons, **options)

    def check_input(self, signal: Signal) -> None:
        """Raise a `UserError` unless the input has as many features as the kernel has rows."""
        if signal.shape != self.kernel.shape[:1]:
            raise UserError(
                f"layer {self.name!r} takes {self.kernel.shape[0]} features, found an input of the "
                f"shape {signal.shape}"
            )

    def weigh(self, x: Array, kernel: Array) -> Array:
        """Return `x @ kernel`."""
        return multiply(x, kernel)

    def product(self, x: Array, kernel: Array, dtype: Any) -> Array:
        """Return `x @ kernel` in a dtype, rounded once."""
        return multiply(x, kernel, dtype)


class Conv(Synapse):
    """Convolve images `[N, H, W, I]` with square kernels `[k, k, I/groups, O]`.

    With several groups the channels of the input and of the output are cut into as many equal
    parts, and each part of the output sees its part of the input only; with as many groups as input
    channels the convolution is depthwise.

    >>> from jaxsnn.neurons import LIF
    >>> Conv((8, 8, 1), 16, 3, neurons=LIF(0.5), rngs=nnx.Rngs(0)).kernel.shape
    (3, 3, 1, 16)
    >>> Conv(16, 16, 3, groups=16, neurons=LIF(0.5), rngs=nnx.Rngs(0)).kernel.shape
    (3, 3, 1, 16)

    Args:
      inputs: channels of the input, I; or its shape, whose last number they are.
      outputs: channels of the output, O.
      size: of the kernel, k.
      neurons: what turns the current into spikes, activations or a read-out.
      stride: between two windows.
      padding: "SAME" or "VALID".
      groups: divides I and O.
      **options: `use_bias`, `norm`, `dtype` and `rngs`, as of `Synapse`.

    Raises:
      UserError: for groups that do not divide the channels.
    """

    axes = 2  # of an image

    def __init__(
        self,
        inputs: int | Sequence[int],
        outputs: int,
        size: int = 3,
        *,
        neurons: Firing | Neuron,
        stride: int = 1,
        padding: str = "SAME",
        groups: int = 1,
        **options: Any,
    ):
        inputs = inputs if isinstance(inputs, int) else inputs[-1]
        check_whole("groups", groups, 1, 1 << 20)
        if inputs % groups or outputs % groups:
            raise UserError(
                f"{groups} groups do not divide {inputs} input and {outputs} output channels"
            )
        each = inputs // groups
        shape = (*(size,) * self.axes, each, outputs)
        super().__init__(shape, size**self.axes * each, neurons=neurons, **options)
        self.stride = stride
        self.padding = padding
        self.groups = groups

    @property
    def inputs(self) -> int:
        """Return the channels of the input."""
        return self.kernel.shape[-2] * self.groups

    def check_input(self, signal: Signal) -> None:
        """Raise a `UserError` unless the input is an image of as many channels as the kernel's."""
        if len(signal.shape) != self.axes + 1 or signal.shape[-1] != self.inputs:
            takes = "images [H, W, " if self.axes == 2 else "sequences [L, "
            raise UserError(
                f"layer {self.name!r} takes {takes}{self.inputs}], found an input of the shape "
                f"{signal.shape}"
            )

    def weigh(self, x: Array, kernel: Array) -> Array:
        """Return the convolution of `x` with `kernel`."""
        return self.product(x, kernel, x.dtype)

    def product(self, x: Array, kernel: Array, dtype: Any) -> Array:
        """Return the convolution of `x` with `kernel` in a dtype, rounded once."""
        return self._convolve(x, kernel, dtype, None)

    def biased(self, x: Array, kernel: Array, bias: Array, dtype: Any) -> Array:
        """Return the convolution and the bias in a dtype, rounded once."""
        if type(self).product is not Conv.product:
            return super().biased(x, kernel, bias, dtype)
        return self._convolve(x, kernel, dtype, bias)

    def _convolve(self, x: Array, kernel: Array, dtype: Any, bias: Array | None) -> Array:
        return convolve(
            x,
            kernel,
            stride=self.stride,
            padding=self.padding,
            groups=self.groups,
            dtype=dtype,
            bias=bias,
        )


class Conv1d(Conv):
    """Convolve sequences `[N, L, I]` with kernels `[k, I/groups, O]`.

    The sequence is an axis of each sample at each step, such as places, frequencies or tokens, and
    not the time of the neurons.

    >>> from jaxsnn.neurons import LIF
    >>> Conv1d(16, 8, 3, stride=2, neurons=LIF(0.5), rngs=nnx.Rngs(0)).kernel.shape
    (3, 16, 8)

    Args:
      inputs: channels of the input, I; or its shape, whose last number they are.
      outputs: channels of the output, O.
      size: of the kernel, k.
      **options: as of `Conv`.
    """

    axes = 1

    def product(self, x: Array, kernel: Array, dtype: Any) -> Array:
        """Return the convolution of `x` with `kernel` in a dtype: that of images of one row."""
        row: Array = super().product(x[:, None], kernel[None], dtype)[:, 0]
        return row


class Recurrent(Dense):
    """A fully recurrent spiking layer: dense input, and every neuron hears all others' last spikes.

    `x[t] = W o_in[t] + R o[t-1] + b`, with `R` `[O, O]` under the name "recurrent".

    >>> from jaxsnn.neurons import LIF
    >>> layer = Recurrent(16, 10, neurons=LIF(0.5), rngs=nnx.Rngs(0))
    >>> layer.kernel.shape, layer.recurrent.shape
    ((16, 10), (10, 10))

    Args:
      inputs: features of the input, I.
      outputs: neurons, O.
      neurons: neurons; LIF ones of the order "integrate_then_fire".
      rngs: random numbers for the start values.
      **options: `use_bias`, `norm` and `dtype`, as of `Synapse`.
    """

    neurons: Neurons

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        neurons: Neurons | Neuron,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        super().__init__(inputs, outputs, neurons=neurons, rngs=rngs, **options)
        bound = outputs**-0.5
        self.recurrent = nnx.Param(_uniform(rngs, (outputs, outputs), bound))

    def feedback(self) -> Array:
        """Return the recurrent weights."""
        return self.recurrent[...]

    def __call__(self, signal: Signal, tape: Tape, shortcut: Signal | None = None) -> Signal:
        """Return the spikes `[T, B, O]`."""
        before = tape.membranes.get(self.name)
        spikes = super().__call__(signal, tape, shortcut)
        rest = jnp.zeros_like(spikes.value[0])
        first = rest if before is None else self.neurons.constants().spikes(before)
        # The last step's spikes are heard by nobody yet.
        heard = tape.sum(jnp.concatenate([first[None].astype(rest.dtype), spikes.value[:-1]]))
        recurrent = f"{self.name}/recurrent"
        tape.activity.events[recurrent] = lax.stop_gradient(heard)
        tape.feed(recurrent, self.name, spikes, spikes.shape)
        return spikes

    def maps(self) -> dict[str, Callable[[Array, Array], Array]]:
        """Return the linear maps of the input and of the recurrent weights."""
        return {"kernel": self.weigh, "recurrent": self.weigh}


# Products that read nothing with a gradient but their arguments.
CLOSED = (Dense.product, Conv.product, Conv1d.product)


def _uniform(rngs: nnx.Rngs, shape: tuple[int, ...], bound: float) -> Array:
    """Return start values, float32 whatever JAX's default is.

    Raises:
      UserError: if there is not the memory for them.
    """
    size = " x ".join(f"{n:,}" for n in shape)
    memory.check(f"a kernel of {size} weights", 4 * math.prod(shape), "take a smaller layer")
    return draws.uniform(rngs.params(), shape, -bound, bound)
