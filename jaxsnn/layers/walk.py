"""The one visitor of a network: its layers, and what follows what in a pass.

Names of layers are free. What a method needs to know of a topology, which kernel comes first, what
feeds it, what reads the network out, are facts of a pass: signals carry their sources, and a tape
notes what enters each kernel.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from flax import nnx
from jax import Array

from jaxsnn.layers.layer import Layer
from jaxsnn.layers.synapses import Synapse
from jaxsnn.layers.tape import Feed
from jaxsnn.origins import Origin

__all__ = ["Flow", "layers_of", "maps", "synapses"]


class Flow(NamedTuple):
    """What follows what in a network: facts of one pass over an input."""

    feeds: Mapping[str, Feed]  # kernel -> what enters it, in the order of the calls
    readout: tuple[str, ...]  # the layers whose output is the network's
    analog: tuple[str, ...]  # kernels whose input is real valued
    cached: tuple[str, ...]  # those of them that are computed once, their input being constant
    pools: Mapping[str, tuple[str, ...]]  # max pooling -> layers whose neurons it pools
    end: Origin = None  # of the channels of the read-out

    @property
    def order(self) -> tuple[str, ...]:
        """Return the layers with weights, in the order of the calls."""
        return tuple(dict.fromkeys(feed.layer for feed in self.feeds.values()))

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the layers that the network's input enters."""
        found = (feed.layer for feed in self.feeds.values() if not feed.sources)
        return tuple(dict.fromkeys(found))

    def followers(self, layer: str) -> tuple[str, ...]:
        """Return the layers that a layer's neurons feed."""
        found = (feed.layer for feed in self.feeds.values() if layer in feed.sources)
        return tuple(dict.fromkeys(found))


def layers_of(module: nnx.Module) -> Iterator[Layer]:
    """Yield the layers of a network, a container before its parts.

    Parts come in the order that the container says (`children`), or that of their names.
    """
    if isinstance(module, Layer):
        yield module
    order = module.children() if hasattr(module, "children") else None
    if order is not None:
        for name in order:
            yield from layers_of(getattr(module, name))
        return
    for _, value in sorted(vars(module).items()):
        if isinstance(value, nnx.Module):
            yield from layers_of(value)
        elif isinstance(value, (list, tuple, nnx.List)):
            for each in value:
                if isinstance(each, nnx.Module):
                    yield from layers_of(each)


def synapses(module: nnx.Module) -> dict[str, Synapse]:
    """Return name -> layer with weights, in the order of `layers_of`.

    >>> from jaxsnn import models
    >>> net = models.build("3-2", (4,))
    >>> {name: layer.kernel.shape for name, layer in synapses(net.module).items()}
    {'dense1': (4, 3), 'dense2': (3, 2)}
    """
    return {layer.name: layer for layer in layers_of(module) if isinstance(layer, Synapse)}


def maps(module: nnx.Module) -> dict[str, Callable[[Array, Array], Array]]:
    """Return kernel name -> linear map `x, kernel -> y`, for all layers with weights."""
    return {
        f"{name}/{kernel}": weigh
        for name, layer in synapses(module).items()
        for kernel, weigh in layer.maps().items()
    }
