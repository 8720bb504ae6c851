"""What all layers share: a name, which is the place that they have in their network."""

from typing import TypeVar

from flax import nnx

__all__ = ["Layer", "named"]

Module = TypeVar("Module", bound=nnx.Module)


class Layer(nnx.Module):
    """A layer of a network: takes a `Signal` and a `Tape`, returns a `Signal`.

    >>> import jax.numpy as jnp
    >>> from jaxsnn import encode, layers
    >>> class Double(Layer):
    ...     def __call__(self, signal, tape):
    ...         return signal.fold(lambda x: 2 * x)
    >>> Double()(encode.direct(jnp.ones((1, 2)), 4), layers.Tape()).value.tolist()
    [[2.0, 2.0]]

    Attributes:
      name: where it is in its network, "block1/conv2": the path of attributes that leads to it,
        under which its parameters and its activity are found. `Network.of` sets it.
    """

    name: str = ""


def named(module: Module) -> Module:
    """Return a copy of a network whose layers know their names; arrays are shared."""
    copy = nnx.clone(module)
    for path, node in nnx.iter_modules(copy):
        if isinstance(node, Layer):
            node.name = "/".join(map(str, path))
    return copy
