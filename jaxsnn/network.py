"""The noun `Network`: weights, statistics and how to run them, as one pytree.

Everything else in jaxsnn takes a network and returns one. A network made of our layers, in any
topology, comes from `Network.of`; a function of another framework from `Network.wrap`.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from jaxsnn import layers, tree
from jaxsnn.arrays import at_least_float32, check_whole
from jaxsnn.compress.codes import Quantized, Step
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.inputs import Inputs
from jaxsnn.layers import Activity, Flow, Tape

__all__ = ["Network", "Output"]

Tree = Any  # a nested dictionary of arrays
LinearMap = Callable[[Array, Array], Array]


class Output(NamedTuple):
    """What a pass through a network gives."""

    readout: Array  # [T, B, classes] spikes, currents or potentials of the last layer
    stats: Tree  # running statistics after the pass, and the neurons' constants
    activity: Activity  # what the neurons did, summed over time


class Program(Protocol):
    """How a network runs: the static part of a `Network`, compared by value."""

    def run(
        self,
        params: Tree,
        stats: Tree,
        signal: Signal,
        *,
        train: bool,
        key: Array | None,
        remat: int | None,
        axis: str | None,
    ) -> Output:
        """Run the network on a signal."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Network:
    """A network: a pytree of weights and statistics, with a static part that says how to run it.

    `jit`, `vmap`, `grad`, donation and tree maps work on it. `net(x)` runs it; it never changes,
    `net.replace(params=...)` returns another one. Two networks of one architecture have equal
    static parts, so they share compiled programs.

    Attributes:
      params: what an optimizer sees, `{"conv1": {"kernel": [k, k, I, O], "bias": [O]}, ...}`.
      stats: running statistics of norms, constants of neurons.
      steps: name of a quantized leaf -> the steps of its grid, which `quantized` reads; whoever
        changes the weights drops it.
      program: how the network runs; static.
      input_shape: of one sample at one step, `(H, W, C)` or `(features,)`, where it is known;
        static. Files that need it, such as NIR, take it from here.

    Example:
      >>> from jaxsnn import encode, models
      >>> net = models.build("64-10", (16,), seed=0)
      >>> net(encode.direct(jnp.ones((2, 16)), timesteps=4)).readout.shape
      (4, 2, 10)
    """

    params: Tree
    stats: Tree
    steps: Mapping[str, Step] = field(default_factory=dict)
    program: Program = field(kw_only=True, metadata={"static": True})
    input_shape: tuple[int, ...] | None = field(
        default=None, kw_only=True, metadata={"static": True}
    )

    @staticmethod
    def of(module: nnx.Module, input_shape: Sequence[int] | None = None) -> "Network":
        """Return the network that a Flax module made of our layers is, in any topology.

        Args:
          module: `module(signal, tape)` returns a signal. Its layers get the paths of the
            attributes that lead to them as their names; the module given stays as it is.
          input_shape: of one sample at one step, if it is known.

        Raises:
          UserError: if it is no Flax module, or holds no layer with weights of ours.

        Example:
          >>> from flax import nnx
          >>> from jaxsnn import layers
          >>> dense = layers.Dense(16, 10, neurons=layers.Integrator(), rngs=nnx.Rngs(0))
          >>> Network.of(layers.Chain({"out": dense})).order
          ('out',)
        """
        if not isinstance(module, nnx.Module):
            raise UserError(f"module must be a flax.nnx.Module, found {type(module).__name__}")
        module = layers.named(module)
        if not layers.synapses(module):
            raise UserError(
                f"{type(module).__name__} holds no layer with weights of jaxsnn.layers; "
                "for a function of your own use Network.wrap(params, apply)"
            )
        graph, params, stats = nnx.split(module, nnx.Param, ...)
        shapes = jax.eval_shape(lambda: (params, stats))
        program = _Module(graph, *shapes)
        shape = None if input_shape is None else tuple(int(n) for n in input_shape)
        trees = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
        return Network(*trees, program=program, input_shape=shape)

    @staticmethod
    def wrap(params: Tree, apply: Callable[..., Any], stats: Tree | None = None) -> "Network":
        """Return a network around a function of another framework, or of your own.

        It can be trained, pruned, quantized, packed and restored; what needs to know its layers
        (shrinking, operation counts, NIR, integers) is refused by name.

        Args:
          params: any pytree of arrays: of Linen, Equinox, Haiku, a dictionary.
          apply: `apply(params, x)` with `x` `[T, B, ...]` returns the read-out `[T, B, classes]` or
            an `Output`. With `stats`, `apply(params, stats, x)` returns (read-out, new stats). It
            is given `train=` and `key=` if it has arguments of these names.
          stats: what is no parameter.

        Raises:
          UserError: if `apply` cannot be called.

        Example:
          >>> net = Network.wrap({"w": jnp.ones((16, 10))}, lambda params, x: x @ params["w"])
          >>> net(jnp.ones((4, 2, 16))).readout.shape
          (4, 2, 10)
        """
        if not callable(apply):
            raise UserError(f"apply must be a function, found {type(apply).__name__}")
        program = _Foreign(apply, stats is not None, _keywords(apply))
        return Network(params, {} if stats is None else stats, program=program)

    def __call__(
        self,
        x: Array | Signal,
        *,
        train: bool = False,
        key: Array | None = None,
        remat: int | None = None,
        axis: str | None = None,
    ) -> Output:
        """Run the network.

        Args:
          x: `[T, B, ...]` spikes, or a `Signal` such as that of `encode.direct`.
          train: whether dropout acts and norms use the statistics of the batch.
          key: one random key, or one for each sample, `[B]`; needed by dropout in training.
          remat: cut the time axis into chunks of so many steps, whose activations are computed
            again in the backward pass: memory falls to one chunk and the membranes between chunks,
            for one more forward pass.
          axis: name of a mapped axis over which the batch is spread, so that batch normalisation
            averages over all of it.

        Raises:
          UserError: if a layer does not fit its input, or `remat` does not divide T.
        """
        signal = _signal(x)
        return self.program.run(
            self.params, self.stats, signal, train=train, key=key, remat=remat, axis=axis
        )

    def replace(self, **parts: Any) -> "Network":
        """Return a network with other `params`, `stats` or `steps`.

        New params drop the steps of the old ones unless new steps are given too.
        """
        if "params" in parts and "steps" not in parts:
            parts["steps"] = {}
        return replace(self, **parts)

    @property
    def quantized(self) -> dict[str, Quantized]:
        """Return leaf name -> codes and scales, of the leaves that stand on a known grid."""
        leaves = tree.named_leaves(self.params)
        return {name: step.encode(leaves[name]) for name, step in self.steps.items()}

    @property
    def module(self) -> nnx.Module:
        """Return the Flax module, with the values in it.

        Raises:
          UserError: if the network wraps a foreign function.
        """
        return self._known("module").fill(self.params, self.stats)

    @property
    def synapses(self) -> Mapping[str, LinearMap]:
        """Return kernel name -> linear map `x, kernel -> y`; none of a foreign function."""
        return self.program.maps if isinstance(self.program, _Module) else {}

    @property
    def order(self) -> tuple[str, ...]:
        """Return the names of the layers with weights, as `layers.synapses` orders them."""
        return tuple(layers.synapses(self._known("layers").abstract))

    @property
    def has_norms(self) -> bool:
        """Return whether batch normalisation is in it."""
        return isinstance(self.program, _Module) and self.program.has_norms

    def flow(self, inputs: Inputs | Signal | jax.ShapeDtypeStruct) -> Flow:
        """Return what follows what in a pass over an input; nothing is computed.

        Args:
          inputs: of the task; or an input, or its shape.

        Raises:
          UserError: if the layers do not fit the input, or a foreign function is wrapped.
        """
        program = self._known("layers")
        if isinstance(inputs, Inputs):
            inputs = inputs.abstract()
        return program.flow(self.params, self.stats, inputs)

    def _known(self, what: str) -> "_Module":
        if not isinstance(self.program, _Module):
            raise UserError(f"a wrapped foreign function has no {what} that jaxsnn knows")
        return self.program


@dataclass(frozen=True, eq=False)
class _Module:
    """Run a Flax module of our layers; equal to that of another module of the same graph."""

    graph: nnx.GraphDef[Any]
    params_like: nnx.State[Any, Any]  # shapes
    stats_like: nnx.State[Any, Any]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Module) and self.graph == other.graph

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self.graph)

    @cached_property
    def abstract(self) -> nnx.Module:
        """Return the module with shapes in the place of arrays."""
        return nnx.merge(self.graph, self.params_like, self.stats_like)

    @cached_property
    def maps(self) -> Mapping[str, LinearMap]:
        return layers.maps(self.abstract)

    @cached_property
    def has_norms(self) -> bool:
        return any(isinstance(node, nnx.BatchNorm) for _, node in nnx.iter_modules(self.abstract))

    def fill(self, params: Tree, stats: Tree) -> nnx.Module:
        """Return the module with these arrays in it.

        Raises:
          UserError: if a tree has not the leaves of the module.
        """
        states = []
        for what, like, values in (
            ("params", self.params_like, params),
            ("stats", self.stats_like, stats),
        ):
            names = set(tree.named_leaves(nnx.to_pure_dict(like)))
            if strange := sorted(names ^ set(tree.named_leaves(values))):
                found = "lack" if strange[0] in names else "have besides"
                raise UserError(
                    f"{what} {found} the leaf {strange[0]!r}: not those of this network"
                )
            state = jax.tree.map(lambda leaf: leaf, like)
            nnx.replace_by_pure_dict(state, values)
            states.append(state)
        return nnx.merge(self.graph, *states)

    def run(self, params, stats, signal, *, train, key, remat, axis) -> Output:  # type: ignore[no-untyped-def]
        mode = {"train": train, "key": key, "axis": axis}
        if remat is not None and check_whole("remat", remat, 1, float("inf")) < signal.timesteps:
            return self._in_chunks(params, stats, signal, remat, mode)
        readout, stats, tape = self._pass(params, stats, signal, {}, mode)
        return Output(readout, stats, _activity(tape, signal.timesteps))

    def flow(self, params: Tree, stats: Tree, x: Any) -> Flow:
        tapes: list[Tape] = []
        ends: list[tuple[str, ...]] = []

        def run(params: Tree, stats: Tree, x: Any) -> Array:
            signal = _signal(x)
            tapes.append(Tape())
            found = _run(self.fill(params, stats), signal, tapes[-1])
            ends.append(found.sources)
            return found.over_time()

        jax.eval_shape(run, params, stats, x)
        tape = tapes[-1]
        feeds = {feed.kernel: feed for feed in tape.feeds}
        return Flow(feeds, ends[-1], tape.activity.analog, tape.activity.cached, tape.pools)

    def _pass(
        self, params: Tree, stats: Tree, signal: Signal, membranes: Any, mode: Any
    ) -> tuple[Array, Tree, Tape]:
        net = self.fill(params, stats)
        tape = Tape(membranes=membranes, **mode)
        readout = _run(net, signal, tape)
        stats = nnx.to_pure_dict(nnx.state(net, nnx.filterlib.Not(nnx.Param)))
        return readout.over_time(), stats, tape

    def _in_chunks(self, params: Tree, stats: Tree, signal: Signal, size: int, mode: Any) -> Output:
        """Scan over chunks of time, and keep only the membranes between them."""
        if signal.timesteps % size:
            raise UserError(f"remat={size} does not divide the {signal.timesteps} timesteps")
        if mode["train"] and self.has_norms:
            raise UserError(
                "remat in training would normalise each chunk of time by itself: "
                "use a network without batch normalisation, or no remat"
            )
        count = signal.timesteps // size
        chunks = None
        if not signal.constant:
            chunks = signal.value.reshape((count, size, *signal.value.shape[1:]))

        @jax.checkpoint
        def chunk(membranes: Any, value: Array | None) -> Any:
            value = signal.value if value is None else value
            part = replace(signal, value=value, timesteps=size)
            readout, _, tape = self._pass(params, stats, part, membranes, mode)
            return tape.membranes, (readout, _activity(tape, size))

        first = None if chunks is None else chunks[0]
        shapes = jax.eval_shape(chunk, {}, first)[0]
        rest = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        _, (readout, activity) = lax.scan(chunk, rest, chunks, length=count)
        activity = jax.tree.map(lambda sums: sums.sum(0), activity)
        activity = replace(activity, timesteps=signal.timesteps)
        return Output(readout.reshape((-1, *readout.shape[2:])), stats, activity)


def _signal(x: Array | Signal) -> Signal:
    """Return the input of a network as a signal, spikes as floats."""
    if isinstance(x, Signal):
        return x
    if jnp.ndim(x) < 3:
        raise UserError(
            f"x must be [T, B, ...] or a Signal such as encode.direct(values, timesteps=4), found "
            f"the shape {jnp.shape(x)}"
        )
    value = at_least_float32(jnp.asarray(x))
    return Signal(value, value.shape[0])


def _run(module: nnx.Module, signal: Signal, tape: Tape) -> Signal:
    readout = module(signal, tape)  # type: ignore[operator]
    if not isinstance(readout, Signal):
        found = type(readout).__name__
        raise UserError(f"{type(module).__name__} must return a Signal, found {found}")
    return readout


def _activity(tape: Tape, timesteps: int) -> Activity:
    return replace(tape.activity, timesteps=timesteps)


@dataclass(frozen=True)
class _Foreign:
    """Run a function of another framework; equal to another of the same function."""

    apply: Callable[..., Any]
    has_stats: bool
    keywords: tuple[str, ...]

    def run(self, params, stats, signal, *, train, key, remat, axis) -> Output:  # type: ignore[no-untyped-def]
        if remat is not None:
            raise UserError(
                "remat cuts the time of our layers: a wrapped function has none of them"
            )
        given = {"train": train, "key": key, "axis": axis}
        options = {name: given[name] for name in self.keywords}
        states = (params, stats) if self.has_stats else (params,)
        found = self.apply(*states, signal.over_time(), **options)
        if isinstance(found, Output):
            return found
        readout, stats = found if self.has_stats else (found, stats)
        if jnp.ndim(readout) != 3:
            raise UserError(
                f"a wrapped function must return the read-out [T, B, classes], found the shape "
                f"{jnp.shape(readout)}"
            )
        return Output(readout, stats, Activity(timesteps=signal.timesteps))


def _keywords(apply: Callable[..., Any]) -> tuple[str, ...]:
    """Return which of the mode's arguments a function takes by name."""
    try:
        known = inspect.signature(apply).parameters
    except (TypeError, ValueError):
        return ()
    return tuple(name for name in ("train", "key", "axis") if name in known)
