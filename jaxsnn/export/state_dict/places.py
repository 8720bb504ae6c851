"""The places of a network that modules of PyTorch fill, and the layout of a kernel there.

A kernel `[..., I, O]` here is `[O, I, ...]` there; of a convolution with groups `I` is that of one
group in both. Behind a flattening the inputs of a kernel stand pixel by pixel here and channel by
channel there.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsnn import layers, tree
from jaxsnn.errors import UserError
from jaxsnn.network import Network
from jaxsnn.origins import Origin, Side, Sum, Tiled

__all__ = ["Place", "firing", "kernel_of", "places_of", "there"]


class Place(NamedTuple):
    """What one module fills."""

    name: str  # "conv1", "conv1/norm", "conv1/neurons" or "dense1/recurrent"
    kind: str  # of the modules that fill it: "weights", "norm" or "neurons"
    shape: tuple[int, ...]  # of its weights there; of others (C,)
    origin: Origin = None  # of the inputs of a kernel
    guessed: bool = True  # whether a module of its own is looked for

    @property
    def layer(self) -> str:
        """Return the name of the layer."""
        return self.name.rpartition("/")[0] if self.kind == "neurons" else self.name


def places_of(net: Network) -> list[Place]:
    """Return the places of a network, in the order of the calls.

    Raises:
      UserError: if the network is a wrapped function, or it takes images of an unknown shape.
    """
    module = net.module
    feeds = {feed.kernel: feed for feed in net.flow(_abstract(net)).feeds.values()}
    leaves = {**tree.named_leaves(net.params), **tree.named_leaves(net.stats)}
    found, fires = [], firing(module)
    for name, layer in sorted(layers.synapses(module).items(), key=lambda each: _rank(feeds, each)):
        feed = feeds.get(f"{name}/kernel")
        width = leaves[f"{name}/kernel"].shape[-1:]
        origin = None if feed is None else feed.origin
        found.append(Place(name, "weights", there(leaves[f"{name}/kernel"].shape), origin))
        if f"{name}/recurrent" in leaves:
            found.append(Place(f"{name}/recurrent", "weights", width * 2, guessed=False))
        if layer.norm is not None:
            found.append(Place(f"{name}/norm", "norm", width))
        if f"{name}/neurons" in fires:
            found.append(Place(f"{name}/neurons", "neurons", width))
    known = {place.name for place in found}
    return found + [Place(n, "neurons", (), guessed=False) for n in fires if n not in known]


def firing(module: nnx.Module) -> dict[str, layers.Neurons | layers.Integrator]:
    """Return name -> neurons or read-out that has constants, "conv1/neurons".

    >>> from jaxsnn import models
    >>> list(firing(models.build("6-3", (4,), readout="current").module))
    ['dense1/neurons']
    """
    found = {"/".join(map(str, path)): node for path, node in nnx.iter_modules(module)}
    return {
        name: node
        for name, node in found.items()
        if isinstance(node, layers.Neurons)
        or (isinstance(node, layers.Integrator) and node.decay is not None)
    }


def _rank(feeds: dict[str, Any], named: tuple[str, Any]) -> int:
    order = list(feeds)
    kernel = f"{named[0]}/kernel"
    return order.index(kernel) if kernel in feeds else len(order)


def _abstract(net: Network) -> jax.ShapeDtypeStruct:
    """Return an input of one step as a shape."""
    shape = net.input_shape
    if shape is None:
        first = next(iter(layers.synapses(net.module).values()))
        if not isinstance(first, layers.Dense):
            raise UserError(
                "the network does not know the shape of its input: pass it to "
                "Network.of(module, input_shape)"
            )
        shape = first.kernel.shape[:1]
    return jax.ShapeDtypeStruct((1, 1, *shape), jnp.float32)


def there(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape there of a kernel here.

    >>> there((3, 3, 16, 32)), there((64, 10))
    ((32, 16, 3, 3), (10, 64))
    """
    return (shape[-1], shape[-2], *shape[:-2])


def kernel_of(weight: np.ndarray, ndim: int, origin: Origin = None) -> np.ndarray:
    """Return a kernel here from weights there, its inputs in the order that they have here.

    >>> kernel_of(np.arange(4.0).reshape(1, 4), 2, Tiled(None, pixels=2)).ravel().tolist()
    [0.0, 2.0, 1.0, 3.0]

    Args:
      weight: `[O, I, ...]`.
      ndim: axes of the kernel; `Linear` is a convolution of size 1, and the other way around.
      origin: of the inputs.
    """
    kernel = np.moveaxis(weight, (0, 1), (-1, -2))
    while kernel.ndim < ndim:
        kernel = kernel[None]
    while kernel.ndim > ndim and len(kernel) == 1:
        kernel = kernel[0]
    return kernel[_order(origin, len(kernel))] if kernel.ndim == 2 else kernel


def _order(origin: Origin, size: int) -> np.ndarray:
    """Return where the inputs of a dense kernel stand there, in their order here."""
    match origin:
        case Tiled(_, pixels):
            return np.arange(size).reshape(-1, pixels).T.ravel()
        case Sum(parts):
            orders = [_order(part, size) for part in parts]
            return max(orders, key=lambda order: int(np.count_nonzero(order != np.arange(size))))
        case Side(parts, widths):
            starts = np.cumsum((0, *widths[:-1]))
            orders = [_order(*each) for each in zip(parts, widths, strict=True)]
            return np.concatenate([s + each for s, each in zip(starts, orders, strict=True)])
    return np.arange(size)
