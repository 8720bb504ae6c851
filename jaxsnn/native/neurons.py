"""LIF neurons over all time steps in one pass over memory, each way, inside of any JAX program.

XLA on a CPU reads and writes a layer's arrays once for each of: the start values of a loop's
results, the loop, the spikes. Here potentials and spikes of a block of neurons are computed for
all steps while they are in the cache. The equations are those of `jaxsnn.neurons.reverse`, the
numbers those of XLA up to how products and sums are joined.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsnn.native import convolutions
from jaxsnn.native.handlers import threads

__all__ = ["available", "derivatives", "knows_slopes", "potentials"]

RESETS = ("hard", "soft", "soft_undecayed")  # as numbered in neurons.cc
GIVEN = "given"  # the slopes of another surrogate, as an array
CURVES = (GIVEN, "one", "rectangle", "triangle", "lorentzian", "hyperbola")  # as numbered there


def available(start: Array, dtype: jax.typing.DTypeLike) -> bool:
    """Return whether neurons are computed here, from their first potential and a current's type."""
    known = all(isinstance(size, int) and size > 0 for size in start.shape)
    types = start.dtype == jnp.float32 and dtype in (jnp.float32, jnp.bfloat16)
    here = jax.default_backend() == "cpu"
    return here and known and types and convolutions.available(jnp.float32)


def potentials(
    neuron: Any,
    start: Array,
    current: Array,
    timesteps: int | None,
    *,
    at_rest: bool,
    short: bool,
    early: bool,
) -> tuple[Array, Array, Array]:
    """Return what is kept of the potentials `[T, B, ...]`, the spikes, and the last potential.

    Args:
      neuron: LIF, whose constants are scalars or have one number for each channel.
      start: the potential before the first step, `[B, ...]`.
      current: `[T, B, ...]`, or `[B, ...]` of a constant one.
      timesteps: of a constant current.
      at_rest: whether that potential is 0, so that it need not be read.
      short: whether spikes are bfloat16 and of `u` the distance `u - theta` is kept in bfloat16.
      early: whether spikes are those of the potential before a step.
    """
    steps = timesteps or len(current)
    all_steps = jax.ShapeDtypeStruct((steps, *start.shape), jnp.bfloat16 if short else jnp.float32)
    decay, threshold, known = _constants(neuron, start, steps)
    known |= {"constant": timesteps is not None, "at_rest": at_rest}
    # An operand is needed where nothing is read.
    first = decay if at_rest else start

    def call(name: str, results: Any, **more: Any) -> Any:
        function: Any = jax.ffi.ffi_call(name, results, vmap_method="broadcast_all")
        return function(first, current, decay, threshold, **known, **more)

    kept, spikes = call("jaxsnn_potentials", (all_steps, all_steps), early=early)
    if not short:
        return kept, spikes, kept[-1]
    # By itself, so that it is not computed where nobody asks for it.
    last = call("jaxsnn_last_potential", jax.ShapeDtypeStruct(start.shape, jnp.float32))
    return kept, spikes, last


def derivatives(
    neuron: Any,
    kept: Array,
    direct: Array | None,
    spikes: Array | None,
    slopes: Array | None,
    *,
    early: bool,
    with_first: bool,
) -> tuple[Array, Array | None]:
    """Return the derivatives by the potentials, `[T, B, ...]`, and the first of them in float32.

    Args:
      neuron: LIF.
      kept: of the potentials, `[T, B, ...]`.
      direct: cotangent of what was kept; None for 0.
      spikes: cotangent of the spikes; None for 0.
      slopes: of the surrogate at each potential; None where they are known (`knows_slopes`), or
        spikes are constants to all.
      early: whether spikes are those of the potential before a step.
      with_first: whether the second is needed; None if not.
    """
    like = jax.ShapeDtypeStruct(kept.shape[1:], jnp.float32)
    none = jax.ShapeDtypeStruct((1,), jnp.float32)  # a result is needed
    results = jax.ShapeDtypeStruct(kept.shape, kept.dtype), like if with_first else none
    call = jax.ffi.ffi_call("jaxsnn_derivatives", results, vmap_method="broadcast_all")
    decay, threshold, known = _constants(neuron, like, len(kept))
    given = {"with_direct": direct, "with_spikes": spikes, "with_slopes": slopes}
    # An operand is needed where nothing is given.
    operands = [decay if x is None else x.astype(kept.dtype) for x in given.values()]
    known |= {name: x is not None for name, x in given.items()}
    known |= _curve(
        neuron, needed=slopes is None and (spikes is not None or not neuron.detach_reset)
    )
    known |= {"early": early, "detached": neuron.detach_reset, "with_first": with_first}
    derivative, first = call(kept, *operands, decay, threshold, **known)
    return derivative, first if with_first else None


def knows_slopes(neuron: Any) -> bool:
    """Return whether the slopes of a neuron's surrogate are computed here, from its potentials."""
    return neuron.surrogate.curve in CURVES and not neuron.surrogate.timed


def _curve(neuron: Any, needed: bool) -> dict[str, Any]:
    """Return what a function is told of the surrogate's curve."""
    surrogate = neuron.surrogate
    name = surrogate.curve if needed and knows_slopes(neuron) else GIVEN
    return {
        "curve": np.int64(CURVES.index(name)),
        "width": np.float32(surrogate.width),
        "peak": np.float32(surrogate.peak),
        "normalized": bool(surrogate.normalized),
    }


def _constants(neuron: Any, like: Any, steps: int) -> tuple[Array, Array, dict[str, Any]]:
    """Return decay and threshold, `[C]` or `[1]`, and the numbers that each function is told."""
    shapes = (jnp.shape(neuron.decay), jnp.shape(neuron.threshold))
    channels = max(int(np.prod(shape, dtype=int)) for shape in shapes)
    decay, threshold = (
        jnp.broadcast_to(jnp.ravel(jnp.asarray(constant, jnp.float32)), (channels,))
        for constant in (neuron.decay, neuron.threshold)
    )
    known = {
        "steps": np.int64(steps),
        "neurons": np.int64(np.prod(like.shape, dtype=int)),
        "channels": np.int64(channels),
        "threads": np.int64(threads()),
        "reset": np.int64(RESETS.index(neuron.reset)),
        "strict": bool(neuron.strict),
    }
    return decay, threshold, known
