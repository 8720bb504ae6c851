"""Spiking self-attention: tokens that look at each other by sums of spikes, without a softmax."""

import math
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxsnn.arrays import at_least_float32, check_whole
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.layers.layer import Layer
from jaxsnn.layers.neurons import Firing, as_firing
from jaxsnn.layers.synapses import Conv1d
from jaxsnn.layers.tape import Tape
from jaxsnn.neurons import Neuron

__all__ = ["Attention"]


class Attention(Layer):
    """Let the tokens of a sequence, or the pixels of an image, look at each other.

    With spikes `X` `[L, C]` of L tokens, in each step and each of the heads,

        Q, K, V = fire(X W_q), fire(X W_k), fire(X W_v)          spikes [L, D]
        A = fire(scale (Q K^T) V)                                [L, D]
        output = fire(A W)                                       [L, C], all heads side by side

    (Zhou et al. 2023, Spikformer, https://arxiv.org/abs/2209.15425, Eq. 6 to 9). Products of spikes
    are counts, so there is no softmax, and a product is a sum: of `Q K^T` as many additions as
    pairs of spikes meet, noted as "NAME/scores", and for each spike of `V` one addition for each
    token that looks at its own, noted as "NAME/values".

    The layer's own name is that of the neurons behind the products; the weights are those of the
    layers "NAME/q", "NAME/k", "NAME/v" and "NAME/projection", convolutions of size 1.

    >>> from flax import nnx
    >>> from jaxsnn.neurons import LIF
    >>> attention = Attention(8, heads=2, neurons=LIF(0.5), rngs=nnx.Rngs(0))
    >>> attention.children(), attention.q.kernel.shape
    (('q', 'k', 'v', 'projection'), (1, 8, 8))

    Args:
      features: channels of a token, C.
      heads: among which the width is split in equal parts.
      width: of all heads together; left out, C.
      neurons: constants of the neurons behind every product with weights.
      attend: what fires behind the products of spikes; left out, the same neurons.
      scale: of these products, 0.125 in the paper's code.
      **options: of the four layers: `use_bias`, `norm`, `dtype` and `rngs`, as of `Synapse`.

    Raises:
      UserError: for heads that do not divide the width, and neurons that are a layer, whose
        constants four layers would share.
    """

    def __init__(
        self,
        features: int,
        heads: int = 1,
        *,
        neurons: Neuron,
        width: int | None = None,
        attend: Firing | Neuron | None = None,
        scale: float = 0.125,
        **options: Any,
    ):
        width = features if width is None else width
        check_whole("heads", heads, 1, width)
        if width % heads:
            raise UserError(f"{heads} heads do not divide a width of {width}")
        if not isinstance(neurons, Neuron):
            raise UserError(
                f"neurons of an attention are constants, such as LIF(0.5), found "
                f"{type(neurons).__name__}"
            )
        self.q, self.k, self.v = (
            Conv1d(features, width, 1, neurons=neurons, **options) for _ in range(3)
        )
        self.projection = Conv1d(width, features, 1, neurons=neurons, **options)
        self.neurons = as_firing(neurons if attend is None else attend)
        self.heads = heads
        self.scale = scale

    def __call__(self, signal: Signal, tape: Tape) -> Signal:
        """Return spikes of the shape of the signal, `[T, B, ..., C]`."""
        *places, channels = signal.shape
        tokens = _laid_out(signal, (math.prod(places), channels))
        q, k, v = (part(tokens, tape) for part in (self.q, self.k, self.v))
        value = self._attended(q, k, v, tape)
        sources = q.sources + k.sources + v.sources
        current = replace(v, value=value, sources=sources)
        fired = self.neurons(current, tape, self.name, None, self.v.dtype)
        out = self.projection(replace(fired, origin=v.origin), tape)
        return _laid_out(out, (*places, out.shape[-1]))

    def _attended(self, q: Signal, k: Signal, v: Signal, tape: Tape) -> Array:
        """Return the current behind the products, `[T, B, L, D heads]`, and note their sums."""
        shape = (*v.value.shape[:-1], self.heads, -1)
        queries, keys, values = (at_least_float32(x.value).reshape(shape) for x in (q, k, v))
        scores = jnp.einsum("tblhd,tbmhd->tbhlm", queries, keys)
        tape.multiplied(f"{self.name}/scores", scores.sum((2, 4)))
        looks = (scores != 0).astype(scores.dtype).sum(3)  # [T, B, heads, m]
        tape.multiplied(f"{self.name}/values", jnp.einsum("tbhm,tbmhd->tbm", looks, values))
        if values.shape[2] <= values.shape[-1]:
            found = jnp.einsum("tbhlm,tbmhd->tblhd", scores, values)
        else:  # the same sums in the order that is cheaper for many tokens
            inner = jnp.einsum("tbmhd,tbmhe->tbhde", keys, values)
            found = jnp.einsum("tblhd,tbhde->tblhe", queries, inner)
        return (found.reshape(v.value.shape) * self.scale).astype(v.value.dtype)

    def children(self) -> tuple[str, ...]:
        """Return the names of the layers with weights, in the order of the equations."""
        return ("q", "k", "v", "projection")


def _laid_out(signal: Signal, shape: tuple[int, ...]) -> Signal:
    """Return a signal whose samples have another shape of the same channels."""
    return signal.fold(lambda x: x.reshape(x.shape[0], *shape), channelwise=True)
