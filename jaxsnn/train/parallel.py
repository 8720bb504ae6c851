"""Split a batch over devices and over micro-batches: one program for two cores or eight GPUs.

A training step is the mean of a function over the samples of a batch. So the batch may be cut along
its sample axis: into shards, each computed on a device of its own, and into micro-batches, computed
one after the other in the memory of one. The means over the parts are the means over the batch.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsnn.encode import Signal
from jaxsnn.errors import UserError

__all__: list[str] = []  # nothing here is promised to users

Tree = Any

AXIS = "devices"  # name of the mapped axis, for collective operations inside a shard


@cache
def mesh(devices: int) -> Mesh:
    """Return the first local devices as a mesh with one axis, `AXIS`.

    Raises:
      UserError: if there are not as many.
    """
    found = jax.local_devices()
    if not 1 <= devices <= len(found):
        raise UserError(
            f"devices = {devices}, but there are {len(found)} here; on a CPU `host.tune` makes one "
            "of each core"
        )
    return Mesh(np.array(found[:devices]), (AXIS,))


def most_devices(batch: int, most: int | None = None) -> int:
    """Return the largest number of local devices, at most `most`, that divides a batch."""
    available = min(len(jax.local_devices()), most or batch)
    return next(n for n in range(available, 0, -1) if batch % n == 0)


def replicate(tree: Tree, devices: int) -> Tree:
    """Lay a copy of each array on each of the devices; with one device nothing is moved."""
    if devices == 1:
        return tree
    return jax.device_put(tree, NamedSharding(mesh(devices), PartitionSpec()))


def gather(tree: Tree, devices: int) -> Tree:
    """Return replicated arrays to the first device: the reverse of `replicate`."""
    return tree if devices == 1 else jax.device_put(tree, jax.local_devices()[0])


def over_devices(
    function: Callable[..., Tree],
    devices: int,
    shared: Tree,
    x: Array | Signal,
    *rest: Array,
    joined: bool = False,
) -> Tree:
    """Return `function(shared, x, *rest)`, called on each device with its share of the samples.

    Args:
      function: must return the same on every device: means by `mean_over_devices`, or what does
        not depend on the samples; or, `joined`, an array `[samples, ...]`.
      devices: how many; must divide the batch. With one, the function is just called.
      shared: what every device gets whole.
      x: `[T, B, ...]` or a `Signal`.
      *rest: `[B, ...]` each.
      joined: whether to lay the devices' results one after the other.

    Raises:
      UserError: if the devices do not divide the batch, or there are not as many.
    """
    if devices == 1:
        return function(shared, x, *rest)
    _check_divides("devices", devices, rest[0].shape[0])
    whole, first = PartitionSpec(), PartitionSpec(AXIS)
    specs = (whole, first if _batch_axis(x) == 0 else PartitionSpec(None, AXIS))
    return jax.shard_map(
        function,
        mesh=mesh(devices),
        in_specs=(*specs, *(first for _ in rest)),
        out_specs=first if joined else whole,
        check_vma=False,
    )(shared, x, *rest)


def mean_over_devices(tree: Tree, devices: int) -> Tree:
    """Return the mean of each array over the devices, inside `over_devices`."""
    return tree if devices == 1 else lax.pmean(tree, AXIS)


def sum_over_devices(tree: Tree, devices: int) -> Tree:
    """Return the sum of each array over the devices, inside `over_devices`."""
    return tree if devices == 1 else lax.psum(tree, AXIS)


def over_micro_batches(
    function: Callable[..., Tree], count: int, shared: Tree, x: Array | Signal, *rest: Array
) -> Tree:
    """Return the mean of `function(shared, part of x, *parts of rest)` over micro-batches.

    They are computed one after the other, so that the memory of only one is needed.

    Args:
      function: its result must hold means over the samples.
      count: how many micro-batches; must divide the batch. With one, the function is just called.
      shared: what every call gets whole.
      x: `[T, B, ...]` or a `Signal`.
      *rest: `[B, ...]` each.

    Raises:
      UserError: if the micro-batches do not divide the batch.
    """
    if count == 1:
        return function(shared, x, *rest)
    _check_divides("micro_batches", count, rest[0].shape[0])
    size = rest[0].shape[0] // count

    def part(i: Array | int) -> Tree:
        def take(leaf: Array, axis: int) -> Array:
            return lax.dynamic_slice_in_dim(leaf, i * size, size, axis)

        cut = jax.tree.map(lambda leaf: take(leaf, _batch_axis(x)), x)
        return function(shared, cut, *(take(leaf, 0) for leaf in rest))

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(part, 0))
    total = lax.fori_loop(0, count, lambda i, sums: jax.tree.map(jnp.add, sums, part(i)), zeros)
    return jax.tree.map(lambda leaf: leaf / count, total)


def _batch_axis(x: Array | Signal) -> int:
    return 0 if isinstance(x, Signal) and x.constant else 1


def _check_divides(name: str, count: int, batch: int) -> None:
    if batch % count:
        raise UserError(f"{name} = {count} does not divide the {batch} samples of a batch")
