"""Layers one after the other."""

from collections.abc import Mapping

import jax
from flax import nnx

from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.layers.layer import Layer
from jaxsnn.layers.tape import Tape

__all__ = ["Chain"]


class Chain(Layer):
    """Named layers, one after the other.

    >>> from jaxsnn import layers, neurons
    >>> rngs, lif = nnx.Rngs(0), neurons.LIF(0.5)
    >>> chain = Chain({
    ...     "hidden": layers.Dense(16, 8, neurons=lif, rngs=rngs),
    ...     "out": layers.Dense(8, 3, neurons=layers.Integrator(), rngs=rngs),
    ... })
    >>> chain.children()
    ('hidden', 'out')

    Args:
      layers: name -> layer, first to last. The names are those of parameters and activities.

    Raises:
      UserError: for a name that is taken, such as "names", or has a slash.
    """

    def __init__(self, layers: Mapping[str, nnx.Module]):
        for name in layers:
            if hasattr(Chain, name) or name == "names" or not name.isidentifier():
                raise UserError(f"a layer cannot be called {name!r}")
        self.names = tuple(layers)
        for name, layer in layers.items():
            setattr(self, name, layer)

    def __call__(self, signal: Signal, tape: Tape) -> Signal:
        """Return the last layer's output; profiles and programs show each layer by its name."""
        for name in self.names:
            with jax.named_scope(name):
                signal = getattr(self, name)(signal, tape)
        return signal

    def children(self) -> tuple[str, ...]:
        """Return the names of the layers, first to last."""
        return self.names
