"""How a network runs: the static part of a `Network`, for modules and for foreign functions."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from jaxsnn import tree
from jaxsnn.arrays import Number, at_least_float32, check_whole, is_short
from jaxsnn.compress import schedules
from jaxsnn.compress.codes import Step
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.layers import Activity, Tape, walk
from jaxsnn.layers.neurons import Neurons
from jaxsnn.layers.walk import Flow

__all__ = ["Output"]

Tree = Any  # a nested dictionary of arrays
EVERYWHERE = (-float("inf"), float("inf"))
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
        active: Number | None,
        steps: Mapping[str, Step],
    ) -> Output:
        """Run the network on a signal."""
        ...


@dataclass(frozen=True, eq=False)
class ModuleProgram:
    """Run a Flax module of our layers; equal to that of another module of the same graph."""

    graph: nnx.GraphDef[Any]
    params_like: nnx.State[Any, Any]  # shapes
    stats_like: nnx.State[Any, Any]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModuleProgram) and self.graph == other.graph

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self.graph)

    @cached_property
    def abstract(self) -> nnx.Module:
        """Return the module with shapes in the place of arrays."""
        module: nnx.Module = nnx.merge(self.graph, self.params_like, self.stats_like)
        return module

    @property
    def maps(self) -> Mapping[str, LinearMap]:
        """Return kernel name -> linear map `x, kernel -> y`; the same ones of equal programs."""
        return _maps(self)

    @cached_property
    def is_short(self) -> bool:
        """Return whether all layers take their inputs in bfloat16."""
        return all(is_short(layer.dtype) for layer in walk.synapses(self.abstract).values())

    @cached_property
    def reads_steps(self) -> bool:
        """Return whether a layer multiplies the codes of its weights, if they have some."""
        return any(is_short(layer.dtype) for layer in walk.synapses(self.abstract).values())

    @cached_property
    def has_norms(self) -> bool:
        """Return whether batch normalisation is in it."""
        return any(isinstance(node, nnx.BatchNorm) for _, node in nnx.iter_modules(self.abstract))

    @cached_property
    def neurons(self) -> Mapping[str, Neurons]:
        """Return path -> layer of neurons."""
        found = nnx.iter_modules(self.abstract)
        return {"/".join(map(str, path)): node for path, node in found if isinstance(node, Neurons)}

    @cached_property
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """Return leaf name -> the range of a neuron constant that is trained."""
        found = {
            f"{path}/{name}": node.options.ends(name)
            for path, node in self.neurons.items()
            for name in node.trained
        }
        return {name: ends for name, ends in found.items() if ends != EVERYWHERE}

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
        module: nnx.Module = nnx.merge(self.graph, *states)
        return module

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
        active: Number | None,
        steps: Mapping[str, Step],
    ) -> Output:
        """Run the network on a signal."""
        if self.is_short and not signal.constant:
            signal = replace(signal, value=signal.value.astype(jnp.bfloat16))
        mode: dict[str, Any] = {"train": train, "key": key, "axis": axis, "steps": steps}
        counted = None
        if active is not None:
            if train and self.has_norms:
                raise UserError(
                    "a task with active steps needs a network without batch normalisation, which "
                    "would average over the steps that do not count"
                )
            counted = schedules.time_mask(active, signal.timesteps)
            active = jnp.asarray(active, jnp.int32)  # a leaf of the record
        if remat is not None and check_whole("remat", remat, 1, float("inf")) < signal.timesteps:
            output = self._in_chunks(params, stats, signal, remat, counted, mode)
        else:
            readout, new, tape = self._pass(params, stats, signal, {}, mode | {"counted": counted})
            output = Output(readout, new, tape.activity)
        record = replace(output.activity, timesteps=signal.timesteps, active=active)
        return output._replace(activity=record)

    def flow(self, params: Tree, stats: Tree, x: Any) -> Flow:
        """Return what follows what in a pass over an input, from shapes alone."""
        leaves, structure = jax.tree.flatten((params, stats, x))
        return _flow(self, structure, tuple((jnp.shape(x), jnp.result_type(x)) for x in leaves))

    def _pass(
        self, params: Tree, stats: Tree, signal: Signal, membranes: Any, mode: Any
    ) -> tuple[Array, Tree, Tape]:
        net = self.fill(params, stats)
        tape = Tape(membranes=membranes, **mode)
        readout = _run(net, signal, tape)
        stats = nnx.to_pure_dict(nnx.state(net, nnx.filterlib.Not(nnx.Param)))
        return at_least_float32(readout.over_time()), stats, tape

    def _in_chunks(
        self,
        params: Tree,
        stats: Tree,
        signal: Signal,
        size: int,
        counted: Array | None,
        mode: Any,
    ) -> Output:
        """Scan over chunks of time, and keep only the membranes between them."""
        if signal.timesteps % size:
            raise UserError(f"remat={size} does not divide the {signal.timesteps} timesteps")
        if mode["train"] and self.has_norms:
            raise UserError(
                "remat in training would normalise each chunk of time by itself: "
                "use a network without batch normalisation, or no remat"
            )
        count = signal.timesteps // size
        over_time = (None if signal.constant else signal.value), counted
        chunks = jax.tree.map(lambda x: x.reshape((count, size, *x.shape[1:])), over_time)

        @jax.checkpoint
        def chunk(membranes: Any, part: tuple[Array | None, Array | None]) -> Any:
            value = signal.value if part[0] is None else part[0]
            here = replace(signal, value=value, timesteps=size)
            readout, _, tape = self._pass(
                params, stats, here, membranes, mode | {"counted": part[1]}
            )
            return tape.membranes, (readout, tape.activity)

        shapes = jax.eval_shape(chunk, {}, jax.tree.map(lambda x: x[0], chunks))[0]
        rest = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        _, (readout, activity) = lax.scan(chunk, rest, chunks, length=count)
        activity = jax.tree.map(lambda sums: sums.sum(0), activity)
        return Output(readout.reshape((-1, *readout.shape[2:])), stats, activity)


@lru_cache(maxsize=32)
def _maps(program: ModuleProgram) -> Mapping[str, LinearMap]:
    return walk.maps(program.abstract)


@lru_cache(maxsize=32)  # a method and its checks ask again and again
def _flow(program: ModuleProgram, structure: Any, leaves: tuple[Any, ...]) -> Flow:
    tapes: list[Tape] = []
    ends: list[Signal] = []

    def run(params: Tree, stats: Tree, x: Any) -> Array:
        signal = as_signal(x)
        tapes.append(Tape())
        found = _run(program.fill(params, stats), signal, tapes[-1])
        ends.append(replace(found, value=jnp.zeros(())))
        return found.over_time()

    shapes = [jax.ShapeDtypeStruct(*each) for each in leaves]
    jax.eval_shape(run, *jax.tree.unflatten(structure, shapes))
    tape = tapes[-1]
    feeds = {feed.kernel: feed for feed in tape.feeds}
    end, activity = ends[-1], tape.activity
    return Flow(feeds, end.sources, activity.analog, activity.cached, tape.pools, end.origin)


def as_signal(x: Array | Signal) -> Signal:
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
    readout = module(signal, tape)
    if not isinstance(readout, Signal):
        found = type(readout).__name__
        raise UserError(f"{type(module).__name__} must return a Signal, found {found}")
    return readout


@dataclass(frozen=True)
class ForeignProgram:
    """Run a function of another framework; equal to another of the same function."""

    apply: Callable[..., Any]
    has_stats: bool
    keywords: tuple[str, ...]

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
        active: Number | None,
        steps: Mapping[str, Step],
    ) -> Output:
        """Run the network on a signal."""
        del steps
        if remat is not None:
            raise UserError(
                "remat cuts the time of our layers: a wrapped function has none of them"
            )
        given = {"train": train, "key": key, "axis": axis, "active": active}
        options = {name: given[name] for name in self.keywords}
        states = (params, stats) if self.has_stats else (params,)
        found = self.apply(*states, signal.over_time(), **options)
        if isinstance(found, Output):
            record = found.activity
            if active is not None and record.active is None and jax.tree.leaves(record):
                raise UserError(
                    "a wrapped function that records its spikes must take the argument active= and "
                    "return it in its Activity, so that steps that do not count are left out"
                )
            return found
        readout, stats = found if self.has_stats else (found, stats)
        if jnp.ndim(readout) != 3:
            raise UserError(
                f"a wrapped function must return the read-out [T, B, classes], found the shape "
                f"{jnp.shape(readout)}"
            )
        return Output(readout, stats, Activity(timesteps=signal.timesteps))


def keywords_of(apply: Callable[..., Any]) -> tuple[str, ...]:
    """Return which of the mode's arguments a function takes by name."""
    try:
        known = inspect.signature(apply).parameters
    except (TypeError, ValueError):
        return ()
    return tuple(name for name in ("train", "key", "axis", "active") if name in known)
