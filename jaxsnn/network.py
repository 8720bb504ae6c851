"""From a Flax module to plain pytrees and a pure function: where the module system ends."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from jaxsnn.arrays import check_whole
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.layers import Activity, Chain, Tape

Tree = Any  # a nested dictionary of arrays


class Output(NamedTuple):
    """Hold what a pass through a network gives."""

    readout: Array  # [T, B, classes] spikes, currents or potentials of the last layer
    stats: Tree  # running statistics after the pass, and the neurons' constants
    activity: Activity  # what the neurons did, summed over time


class Apply(Protocol):
    """Run a network: `apply(params, stats, x, train=, key=, remat=, axis=) -> Output`."""

    def __call__(
        self,
        params: Tree,
        stats: Tree,
        x: Array | Signal,
        *,
        train: bool = False,
        key: Array | None = None,
        remat: int | None = None,
        axis: str | None = None,
    ) -> Output:
        """Run the network on `x`, `[T, B, ...]` or a `Signal`."""
        ...


class Functional(NamedTuple):
    """Hold a network as data and functions."""

    params: Tree  # {"conv1": {"kernel": ..., "bias": ...}, ...}: what an optimizer sees
    stats: Tree  # running statistics and constants: everything else
    apply: Apply
    synapses: Mapping[str, Callable[[Array, Array], Array]]  # kernel name -> (x, kernel) -> x W


def split(module: Chain) -> Functional:
    """Split a module into its parameters, its other arrays, and a pure function of both.

    `apply(params, stats, x, *, train=False, key=None, remat=None, axis=None)` takes `x` as
    `[T, B, ...]`, or as the `Signal` of `encode.direct`. `key`, needed by dropout in training, is
    one key or one for each sample, `[B]`. With `remat=n` the time axis is cut into chunks of n
    steps whose activations are computed again in the backward pass: memory falls to one chunk and
    the membranes between chunks, for one more forward pass. `axis` names a mapped axis over which
    the batch is spread, so that batch normalisation averages over all of it.

    Example:
      >>> from flax import nnx
      >>> from jaxsnn import encode, models
      >>> net = split(models.mlp((64, 32, 10), rngs=nnx.Rngs(0)))
      >>> out = net.apply(net.params, net.stats, encode.direct(jnp.ones((2, 64)), timesteps=4))
      >>> out.readout.shape
      (4, 2, 10)
    """
    graph, *states = nnx.split(module, nnx.Param, ...)
    params_like, stats_like = states

    def run(params, stats, signal, membranes, **mode):
        net = nnx.merge(graph, _state(params_like, params), _state(stats_like, stats))
        tape = Tape(membranes=membranes, **mode)
        readout = net(signal, tape).value
        return readout, _plain(nnx.state(net, nnx.filterlib.Not(nnx.Param))), tape

    def apply(params, stats, x, *, train=False, key=None, remat=None, axis=None):
        mode = {"train": train, "key": key, "axis": axis}
        signal = x if isinstance(x, Signal) else Signal(x, x.shape[0])
        if remat is not None and check_whole("remat", remat, 1, float("inf")) < signal.timesteps:
            return _in_chunks(run, params, stats, signal, remat, mode)
        readout, stats, tape = run(params, stats, signal, {}, **mode)
        return Output(readout, stats, tape.activity)

    return Functional(_plain(params_like), _plain(stats_like), apply, module.maps())


def _in_chunks(run, params, stats, signal, size, mode):
    """Scan over chunks of time, and keep only the membranes between them."""
    if signal.timesteps % size:
        raise UserError(f"remat={size} does not divide the {signal.timesteps} timesteps")
    if mode["train"] and has_norms(stats):
        raise UserError(
            "remat in training would normalise each chunk of time by itself: "
            "use a network without batch normalisation, or no remat"
        )
    count = signal.timesteps // size
    chunks = None
    if not signal.constant:
        chunks = signal.value.reshape((count, size, *signal.value.shape[1:]))

    @jax.checkpoint
    def chunk(membranes, value):
        value = signal.value if value is None else value
        part = Signal(value, size, signal.constant, signal.events_per_unit)
        readout, _, tape = run(params, stats, part, membranes, **mode)
        return tape.membranes, (readout, tape.activity)

    first = None if chunks is None else chunks[0]
    shapes = jax.eval_shape(chunk, {}, first)[0]
    rest = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    _, (readout, activity) = lax.scan(chunk, rest, chunks, length=count)
    activity = jax.tree.map(lambda sums: sums.sum(0), activity)
    return Output(readout.reshape((-1, *readout.shape[2:])), stats, activity)


def has_norms(stats: Tree) -> bool:
    """Return whether a network has batch normalisation, given its statistics."""
    return any("norm" in jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(stats))


def _plain(state: nnx.State) -> Tree:
    return nnx.to_pure_dict(state)


def _state(like: nnx.State, tree: Tree) -> nnx.State:
    state = jax.tree.map(lambda leaf: leaf, like)
    nnx.replace_by_pure_dict(state, tree)
    return state
