"""A basic residual block: two convolutions around a shortcut."""

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.layers.layer import Layer
from jaxsnn.layers.neurons import Constant, Integrator
from jaxsnn.layers.synapses import Conv, Conv1d
from jaxsnn.layers.tape import Tape
from jaxsnn.origins import Chosen

__all__ = ["NOTHING", "Residual", "by_position"]

NOTHING = -1  # the source of an output channel that the shortcut leaves alone


class Residual(Layer):
    """A basic block: two convolutions, and a shortcut added to the current of the second.

    `conv1 - neurons - conv2 - (+ shortcut) - neurons`. The shortcut learns nothing: it takes every
    `stride`-th pixel and fills up missing channels with zeros, `(O - I) // 2` of them in front
    (Wei et al., 2502.05905, figure of ResNet20; He et al., 2015, option A). After pruning, the
    channels of one place are no longer those of one feature; then `sources` says what belongs
    together. Or the shortcut is a convolution of 1 x 1 that learns (He et al., option B).

    >>> from flax import nnx
    >>> from jaxsnn.neurons import LIF
    >>> options = {"neurons": LIF(0.5), "rngs": nnx.Rngs(0)}
    >>> block = Residual(Conv(2, 4, stride=2, **options), Conv(4, 4, **options))
    >>> block.shortcut(Signal(jnp.ones((5, 1, 8, 8, 2)), timesteps=5), Tape()).shape
    (4, 4, 4)

    Args:
      conv1: from `I` to `M` channels, with the block's stride.
      conv2: from `M` to `O` channels.
      projection: the shortcut, from `I` to `O` channels with the block's stride, behind it an
        `Integrator` that hands its current on; left out, as above.
      sources: for each output channel the input channel that the shortcut adds to it, or -1 for
        none; left out, as above.
      weight: factor of each channel of the shortcut, `[O]`, not trained; left out, 1.

    Raises:
      UserError: if `sources` does not name an input or -1 for each output, or is left out where
        there are fewer outputs than inputs; if a projection does not fit the block.
    """

    def __init__(
        self,
        conv1: Conv,
        conv2: Conv,
        *,
        projection: Conv | None = None,
        sources: Sequence[int] | None = None,
        weight: Array | None = None,
    ):
        inputs, outputs = conv1.inputs, conv2.kernel.shape[-1]
        for conv in (conv1, conv2, projection):
            if isinstance(conv, Conv1d):
                raise UserError("a block is made of convolutions of images, found Conv1d")
        if projection is not None:
            _check_projection(projection, (inputs, outputs), conv1.stride)
            if sources is not None:
                raise UserError("a projected shortcut has no sources: all channels go into all")
        elif sources is None and outputs < inputs:
            raise UserError(f"a shortcut cannot add {inputs} channels to {outputs} by position")
        if sources is not None:
            if len(sources) != outputs or not all(NOTHING <= s < inputs for s in sources):
                raise UserError(
                    f"sources must be {outputs} numbers from {NOTHING} to {inputs - 1}, "
                    f"found {list(sources)}"
                )
            sources = tuple(int(source) for source in sources)
        self.conv1 = conv1
        self.conv2 = conv2
        self.projection = projection
        self.sources = sources
        self.weight = None if weight is None else Constant(jnp.asarray(weight, jnp.float32))

    def __call__(self, signal: Signal, tape: Tape) -> Signal:
        """Return the spikes `[T, B, H / stride, W / stride, O]`."""
        with jax.named_scope("conv1"):
            hidden = self.conv1(signal, tape)
        with jax.named_scope("conv2"):
            return self.conv2(hidden, tape, shortcut=self.shortcut(signal, tape))

    def shortcut(self, signal: Signal, tape: Tape) -> Signal:
        """Return the block's input in the shape of its output."""
        stride, outputs = self.conv1.stride, self.conv2.kernel.shape[-1]
        if self.projection is not None:
            projected = self.projection(signal, tape)
            return projected.fold(self._weigh, channelwise=True)

        def reshape(x: Array) -> Array:
            x = x[:, ::stride, ::stride]
            if self.sources is None:
                before = (outputs - x.shape[-1]) // 2
                behind = outputs - x.shape[-1] - before
                x = jnp.pad(x, [(0, 0)] * 3 + [(before, behind)])
            else:
                sources = np.asarray(self.sources)
                found = jnp.asarray(sources != NOTHING).reshape(1, 1, 1, -1)
                x = jnp.where(found, x[..., np.maximum(sources, 0)], 0)
            return self._weigh(x)

        chosen = self.sources or by_position(self.conv1.inputs, outputs)
        return replace(signal.fold(reshape), origin=Chosen(signal.origin, chosen))

    def _weigh(self, x: Array) -> Array:
        if self.weight is None:
            return x
        return (x * self.weight[...].reshape(1, 1, 1, -1)).astype(x.dtype)

    def children(self) -> tuple[str, ...]:
        """Return the names of the convolutions, in the order of the equation."""
        return ("conv1", "conv2") if self.projection is None else ("conv1", "conv2", "projection")


def _check_projection(projection: Conv, channels: tuple[int, int], stride: int) -> None:
    """Raise unless a convolution can be the shortcut of a block."""
    shape = projection.kernel.shape
    plain = projection.bias is None and projection.norm is None
    if shape != (1, 1, *channels) or projection.stride != stride or not plain:
        raise UserError(
            f"a projection needs a kernel {(1, 1, *channels)}, the stride {stride}, no bias and no "
            f"norm, found {shape} with stride {projection.stride}"
        )
    if not isinstance(projection.neurons, Integrator) or projection.neurons.decay is not None:
        raise UserError("a projection hands its current on: give it an Integrator() without decay")


def by_position(inputs: int, outputs: int) -> tuple[int, ...]:
    """Return the sources of a block that has none: channels in order, zeros around them.

    >>> by_position(2, 5)
    (-1, 0, 1, -1, -1)
    """
    before = (outputs - inputs) // 2
    behind = outputs - inputs - before
    return (NOTHING,) * before + tuple(range(inputs)) + (NOTHING,) * behind
