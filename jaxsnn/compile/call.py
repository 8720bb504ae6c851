"""Compile a network with the compiler at hand, and call it on arrays."""

import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsnn.compile.handler import Machine
from jaxsnn.compile.plan import PROCESSORS, Plan, make_plan
from jaxsnn.compile.source import Source, assemble, sample_size, sample_type
from jaxsnn.errors import UserError
from jaxsnn.export.integer import IntegerNetwork, to_integer
from jaxsnn.export.integer.verdict import refuse_rounding
from jaxsnn.inputs import Inputs
from jaxsnn.native.builder import build as build_library
from jaxsnn.native.builder import find_compiler
from jaxsnn.network import Network

__all__ = ["Compiled", "build", "to_c"]

TARGETS = ("cpu", "mcu")
FLAGS = ("-std=c99", "-O3", "-march=native", "-fno-math-errno")
OPENMP = "#include <omp.h>\nint most(void) { return omp_get_max_threads(); }\n"


@dataclass(frozen=True, eq=False)  # compared as a function is, so that it can be jitted itself
class Compiled:
    """A network as a function of machine code.

    Attributes:
      source: the C that it was made of.
      path: of the shared library.
      plan: what was compiled.

    Example:
      >>> from jaxsnn import models
      >>> from jaxsnn.inputs import Inputs
      >>> net = models.build("6-3", (4,))
      >>> build(net, Inputs((4,), timesteps=2), allow_rounding=True).plan.classes
      3
    """

    source: Source
    path: Path
    plan: Plan
    _machine: Machine = field(repr=False)

    def __call__(self, samples: Any, *, batched: bool = True) -> Any:
        """Return the scores of samples, int32 `[N, classes]`.

        Args:
          samples: whole numbers in the input's range: `[N, *shape]` of a constant input, `[N, T,
            *shape]` of one that changes. Arrays of NumPy or JAX, inside of `jax.jit` and `jax.vmap`
            too, where values out of range count as the nearest one in it.
          batched: many samples at once; or else one after the other.

        Raises:
          UserError: for samples of another shape, no whole numbers, or out of range.
        """
        if isinstance(samples, jax.core.Tracer):
            return self._machine.traced(_within(samples, self.plan), batched=batched)
        return self._machine.run(checked(np.asarray(samples), self.plan), batched=batched)


def checked(samples: np.ndarray, plan: Plan) -> np.ndarray:
    """Return samples as the C code takes them, `[N, values]`.

    Raises:
      UserError: for another shape, no whole numbers, or values out of range.
    """
    _check_kind(samples, plan)
    entry = plan.input
    if samples.size and not entry.low <= samples.min() <= samples.max() <= entry.high:
        raise UserError(
            f"samples must be of {entry.low} to {entry.high}, found {samples.min()} to "
            f"{samples.max()}"
        )
    return np.ascontiguousarray(samples.reshape(len(samples), sample_size(plan)), _dtype(plan))


def _within(samples: Array, plan: Plan) -> Array:
    """Return traced samples as the C code takes them; values out of range become the nearest."""
    _check_kind(samples, plan)
    known, entry = np.iinfo(samples.dtype), plan.input
    near = jnp.clip(samples, max(entry.low, known.min), min(entry.high, known.max))
    return near.astype(_dtype(plan)).reshape(len(samples), sample_size(plan))


def _check_kind(samples: np.ndarray | Array, plan: Plan) -> None:
    size = sample_size(plan)
    if samples.ndim < 2 or int(np.prod(samples.shape[1:])) != size:
        raise UserError(
            f"samples must be [N, ...] with {size} values each, found the shape {samples.shape}"
        )
    if not np.issubdtype(samples.dtype, np.integer):
        raise UserError(f"samples must be whole numbers, found {samples.dtype}")


def _dtype(plan: Plan) -> np.dtype[Any]:
    return np.dtype(sample_type(plan).removesuffix("_t"))


def to_c(
    net: Network | IntegerNetwork,
    inputs: Inputs,
    *,
    name: str = "network",
    target: str = "cpu",
    processor: str | None = None,
    notes: Mapping[str, str] | None = None,
    allow_rounding: bool = False,
) -> Source:
    """Return a network as one C file and its header.

    Args:
      net: a network that `export.to_integer` converts, or what it made.
      inputs: of the task: shape, encoding and steps of time.
      name: prefix of the functions, a C identifier.
      target: "cpu"; or "mcu", without the code for many samples at once.
      processor: that the C should be fast on, whichever it is right on: "amx", "avx512_vnni",
        "avx2" or "other"; left out, this one.
      notes: provenance, printed on top of the file.
      allow_rounding: take a network whose integers are not its own numbers (`to_integer`).

    Raises:
      UserError: for a network without integers or C, by its layer; one that would be rounded;
        another name or target.

    Example:
      >>> from jaxsnn import models
      >>> from jaxsnn.inputs import Inputs
      >>> source = to_c(
      ...     models.build("6-3", (4,)), Inputs((4,), timesteps=2), allow_rounding=True
      ... )
      >>> "void network_predict(const uint8_t sample[" in source.header
      True
    """
    plan = plan_of(net, inputs, processor=processor, allow_rounding=allow_rounding)
    return assemble(plan, _name(name), dict(notes or {}), target=_target(target))


def build(
    net: Network | IntegerNetwork,
    inputs: Inputs,
    *,
    name: str = "network",
    compiler: str | None = None,
    flags: tuple[str, ...] = FLAGS,
    allow_rounding: bool = False,
) -> Compiled:
    """Compile a network with the compiler at hand, and return it as a function.

    Where the compiler has OpenMP, many samples are split among the cores, or as many threads as
    $OMP_NUM_THREADS says; the scores are the same.

    Args:
      net: as of `to_c`.
      inputs: as of `to_c`.
      name: as of `to_c`.
      compiler: path of a C compiler; left out, $CC or the first at hand.
      flags: of the compiler.
      allow_rounding: as of `to_c`.

    Raises:
      UserError: as `to_c`, and if there is no compiler or it fails.

    Example:
      >>> import numpy as np
      >>> from jaxsnn import models
      >>> from jaxsnn.inputs import Inputs
      >>> compiled = build(
      ...     models.build("6-3", (4,)), Inputs((4,), timesteps=2), allow_rounding=True
      ... )
      >>> compiled(np.zeros((5, 4), np.uint8)).shape
      (5, 3)
    """
    plan = plan_of(net, inputs, allow_rounding=allow_rounding)
    source = assemble(plan, _name(name), {}, target="cpu")
    compiler = compiler or find_compiler()
    flags = (*flags, *_openmp(source.name, compiler))
    path = build_library(source.code, flags, compiler=compiler)
    sample = jax.ShapeDtypeStruct((sample_size(plan),), _dtype(plan))
    machine = Machine(path, source.name, sample, plan.classes, ctypes.CDLL(str(path)))
    return Compiled(source, path, plan, machine)


def _openmp(name: str, compiler: str) -> tuple[str, ...]:
    """Return the flags for all cores; none if a compiler or its library has no OpenMP."""
    try:
        build_library(OPENMP, ("-fopenmp",), compiler=compiler)
    except UserError:
        return ()
    return "-fopenmp", f"-D{name.upper()}_THREADS={os.cpu_count() or 1}"


def plan_of(
    net: Network | IntegerNetwork,
    inputs: Inputs,
    *,
    processor: str | None = None,
    allow_rounding: bool = False,
) -> Plan:
    """Return the plan of a network for a task's inputs.

    Raises:
      UserError: for a network without integers or C, one that would be rounded, and an unknown
        processor.
    """
    if processor is not None and processor not in PROCESSORS:
        raise UserError(f"processor {processor!r} is unknown; choose from {', '.join(PROCESSORS)}")
    if not isinstance(inputs, Inputs):
        raise UserError(f"inputs must be an Inputs, found {type(inputs).__name__}")
    integers = net if isinstance(net, IntegerNetwork) else to_integer(net, inputs)
    if not isinstance(net, IntegerNetwork) and not allow_rounding:
        refuse_rounding(integers.report)
    constant = inputs.encoding == "direct"
    return make_plan(integers, inputs.shape, constant=constant, processor=processor)


def _name(name: str) -> str:
    if not (name.isidentifier() and name.isascii()):
        raise UserError(f"name {name!r} is no C identifier: letters, digits and _ alone")
    return name


def _target(target: str) -> str:
    if target not in TARGETS:
        raise UserError(f"target {target!r} is unknown; choose {' or '.join(TARGETS)}")
    return target
