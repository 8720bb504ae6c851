"""Split a batch over devices and over micro-batches: one program for two cores or many hosts.

A training step is the mean of a function over the samples of a batch. So the batch may be cut along
its sample axis: into shards, each computed on a device of its own, and into micro-batches, computed
one after the other in the memory of one. The means over the parts are the means over the batch.

The devices are those of all processes, as many of each. An array that lies on them is whole on each
(`replicate`) or cut along its first axis (`spread`); a process holds the parts of its own devices.
What lies on the first device alone is a process' own. With one device each process computes all.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsnn.arrays import check_whole
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError

__all__: list[str] = []  # nothing here is promised to users

Tree = Any

AXIS = "devices"  # name of the mapped axis, for collective operations inside a shard


@cache
def mesh(devices: int) -> Mesh:
    """Return some devices, the first of each process, as a mesh with one axis, `AXIS`.

    Raises:
      UserError: if there are not as many, or some processes would have more than others.
    """
    processes = jax.process_count()
    if devices % processes:
        raise UserError(
            f"devices = {devices}: take a multiple of the {processes} processes, each of which has "
            f"{len(jax.local_devices())}"
        )
    if not 1 <= devices <= len(jax.devices()):
        raise UserError(
            f"devices = {devices}, but there are {len(jax.devices())} here; on a CPU `host.tune` "
            "makes one of each core"
        )
    each = devices // processes
    rows = [jax.local_devices(process)[:each] for process in range(processes)]
    return Mesh(np.array(rows).reshape(-1), (AXIS,))


def most_devices(batch: int, most: int | None = None) -> int:
    """Return the largest number of devices, at most `most`, that divides a batch.

    It is 1 or a multiple of the processes.
    """
    processes = jax.process_count()
    available = min(len(jax.devices()), most or batch)
    multiples = range(available - available % processes, 0, -processes)
    return next((n for n in multiples if batch % n == 0), 1)


def devices_for(lanes: int, most: int | None = None) -> int:
    """Return over how many devices lanes are spread, no more than there are of either.

    Each process takes a part; with fewer lanes than processes, some compute what others do.

    Raises:
      UserError: if there are not as many devices as `most`.
    """
    processes = jax.process_count()
    usable = min(most or len(jax.devices()), lanes)
    check_whole("devices", usable, 1, len(jax.devices()))
    return usable if most == 1 else max(usable - usable % processes, processes)


def replicate(tree: Tree, devices: int) -> Tree:
    """Lay a copy of each array on each of the devices; with one device nothing is moved."""
    if jax.process_count() > 1:
        return jax.tree.map(lambda leaf: _replicate_leaf(leaf, devices), tree)
    if devices == 1:
        return tree
    return jax.device_put(tree, NamedSharding(mesh(devices), PartitionSpec()))


def _replicate_leaf(leaf: Any, devices: int) -> Any:
    """Lay an array that all processes have, their own or one that lies on some, on devices."""
    whole = NamedSharding(mesh(devices), PartitionSpec()) if devices > 1 else None
    if isinstance(leaf, Array) and not leaf.is_fully_addressable:
        if whole is not None and leaf.sharding.device_set == whole.device_set:
            return leaf
        leaf = leaf.addressable_data(0)
    if whole is None:
        return leaf
    copies = [jax.device_put(leaf, device) for device in mesh(devices).local_devices]
    return jax.make_array_from_single_device_arrays(np.shape(leaf), whole, copies)


def spread(tree: Tree, devices: int) -> Tree:
    """Cut each array, the same in all processes, along its first axis over the devices."""
    if devices == 1:
        return tree
    first = NamedSharding(mesh(devices), PartitionSpec(AXIS))
    if jax.process_count() == 1:
        return jax.device_put(tree, first)

    def cut(leaf: Any) -> Array:
        found = np.asarray(leaf)
        return jax.make_array_from_callback(found.shape, first, lambda index: found[index])

    return jax.tree.map(cut, tree)


def gather(tree: Tree, devices: int) -> Tree:
    """Return arrays to the first device, whole: the reverse of `replicate` and of `spread`."""
    if devices == 1:
        return tree
    if jax.process_count() == 1:
        return jax.device_put(tree, jax.local_devices()[0])
    if not all(leaf.is_fully_replicated for leaf in jax.tree.leaves(tree)):
        tree = _whole(tree, devices)
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def to_host(tree: Tree, devices: int) -> Tree:
    """Return arrays that lie on devices, cut or whole, as arrays of the host."""
    return jax.device_get(tree if jax.process_count() == 1 else gather(tree, devices))


@partial(jax.jit, static_argnums=1)
def _whole(tree: Tree, devices: int) -> Tree:
    return keep_whole(tree, devices)


def keep_whole(tree: Tree, devices: int) -> Tree:
    """Keep arrays whole on each device, inside a compiled program."""
    if devices == 1:
        return tree
    whole = NamedSharding(mesh(devices), PartitionSpec())
    return jax.tree.map(lambda leaf: lax.with_sharding_constraint(leaf, whole), tree)


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
