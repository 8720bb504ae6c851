"""The noun `Network`: weights, statistics and how to run them, as one pytree.

Everything else in jaxsnn takes a network and returns one. A network made of our layers, in any
topology, comes from `Network.of`; a function of another framework from `Network.wrap`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxsnn import layers, tree
from jaxsnn.arrays import Number
from jaxsnn.compress.codes import Quantized, Step
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.inputs import Inputs
from jaxsnn.layers.layer import named
from jaxsnn.layers.walk import Flow
from jaxsnn.program import (
    ForeignProgram,
    LinearMap,
    ModuleProgram,
    Output,
    Program,
    Tree,
    as_signal,
    keywords_of,
)

__all__ = ["Network", "Output"]


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
      >>> import jax.numpy as jnp
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
        module = named(module)
        if not layers.synapses(module):
            raise UserError(
                f"{type(module).__name__} holds no layer with weights of jaxsnn.layers; "
                "for a function of your own use Network.wrap(params, apply)"
            )
        graph, state = nnx.split(module)
        params, stats = nnx.split_state(state, nnx.Param, ...)
        params_like, stats_like = jax.eval_shape(lambda: (params, stats))
        program = ModuleProgram(graph, params_like, stats_like)
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
            is given `train=`, `key=` and `active=` if it has arguments of these names.
          stats: what is no parameter.

        Raises:
          UserError: if `apply` cannot be called, or a leaf is no array, such as the functions in an
            Equinox module: `equinox.partition(module, equinox.is_array)` splits them off.

        Example:
          >>> import jax.numpy as jnp
          >>> net = Network.wrap({"w": jnp.ones((16, 10))}, lambda params, x: x @ params["w"])
          >>> net(jnp.ones((4, 2, 16))).readout.shape
          (4, 2, 10)
        """
        if not callable(apply):
            raise UserError(f"apply must be a function, found {type(apply).__name__}")
        for what, given in (("params", params), ("stats", stats)):
            for name, leaf in tree.named_leaves(given).items():
                if not isinstance(leaf, int | float) and not hasattr(leaf, "shape"):
                    raise UserError(
                        f"{what}: the leaf {name!r} is {type(leaf).__name__}, expected an array; "
                        "split off what is none, as equinox.partition(module, equinox.is_array)"
                    )
        program = ForeignProgram(apply, stats is not None, keywords_of(apply))
        return Network(params, {} if stats is None else stats, program=program)

    def __call__(
        self,
        x: Array | Signal,
        *,
        train: bool = False,
        key: Array | None = None,
        remat: int | None = None,
        axis: str | None = None,
        active: Number | None = None,
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
          active: record only the first so many steps, in [1, T], may be traced; the read-out is
            given at all of them.

        Raises:
          UserError: if a layer does not fit its input, `remat` does not divide T, or batch
            normalisation would average over steps that do not count.
        """
        signal = as_signal(x)
        return self.program.run(
            self.params, self.stats, signal, train=train, key=key, remat=remat, axis=axis,
            active=active, steps=self.steps,
        )  # fmt: skip

    def replace(self, **parts: Any) -> "Network":
        """Return a network with other `params`, `stats` or `steps`.

        New params drop the steps of the old ones unless new steps are given too.
        """
        if "params" in parts and "steps" not in parts:
            parts["steps"] = {}
        return replace(self, **parts)

    def for_passes(self) -> "Network":
        """Return the network with what its passes read: without steps, unless in bfloat16.

        Networks that differ in the grids of their weights alone then share compiled programs.
        """
        reads = isinstance(self.program, ModuleProgram) and self.program.reads_steps
        return self if reads or not self.steps else replace(self, steps={})

    def in_range(self) -> "Network":
        """Return the network with trained constants of neurons clipped into their ranges."""
        ranges = self.program.ranges if isinstance(self.program, ModuleProgram) else {}
        if not ranges:
            return self
        leaves = tree.named_leaves(self.params)
        clipped = {name: jnp.clip(leaves[name], *ends) for name, ends in ranges.items()}
        return replace(self, params=tree.substitute(self.params, clipped))

    @property
    def quantized(self) -> dict[str, Quantized]:
        """Return leaf name -> codes and scales, of the leaves that stand on a known grid."""
        leaves = tree.named_leaves(self.params)
        given = {name: leaves[name] for name in self.steps}
        found: dict[str, Quantized] = _encoded(dict(self.steps), given)
        return found

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
        return self.program.maps if isinstance(self.program, ModuleProgram) else {}

    @property
    def order(self) -> tuple[str, ...]:
        """Return the names of the layers with weights, as `layers.synapses` orders them."""
        return tuple(layers.synapses(self._known("layers").abstract))

    @property
    def has_norms(self) -> bool:
        """Return whether batch normalisation is in it."""
        return isinstance(self.program, ModuleProgram) and self.program.has_norms

    def flow(self, inputs: Inputs | Signal | jax.ShapeDtypeStruct) -> Flow:
        """Return what follows what in a pass over an input; nothing is computed.

        Args:
          inputs: of the task; or an input, or its shape.

        Raises:
          UserError: if the layers do not fit the input, or a foreign function is wrapped.
        """
        program = self._known("layers")
        x = inputs.abstract() if isinstance(inputs, Inputs) else inputs
        return program.flow(self.params, self.stats, x)

    def _known(self, what: str) -> "ModuleProgram":
        if not isinstance(self.program, ModuleProgram):
            raise UserError(f"a wrapped foreign function has no {what} that jaxsnn knows")
        return self.program


@jax.jit
def _encoded(steps: dict[str, Step], leaves: dict[str, Array]) -> dict[str, Quantized]:
    return {name: step.encode(leaves[name]) for name, step in steps.items()}
