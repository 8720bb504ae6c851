"""How layers are joined: one after the other, or around a shortcut."""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxsnn.encode import Signal
from jaxsnn.layers.synapses import Conv, Synapse
from jaxsnn.layers.tape import Tape


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
