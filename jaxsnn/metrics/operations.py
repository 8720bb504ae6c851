"""Synaptic operations, multiplications and energy, counted exactly.

A synapse is a linear map `x, kernel -> y`. With the 0/1 mask of the non-zero weights in place of
the kernel, the gradient of `sum(y)` with respect to `x` is the **fan-out**: how many non-zero
weights an event at each input meets, with borders, strides and padding as the synapse has them.
Then, with `events[i]` the number of spikes that reached input `i`,

    SynOps = sum_i events[i] * fan_out[i]         one addition per spike and non-zero weight
    MACs   = sum_i fan_out[i]                     one multiplication per non-zero weight and use
    energy = MACs * E_mac + SynOps * E_ac

Fan-outs are small whole numbers, exact in float32; products and sums are integers on the host, so
that no count is rounded. A spike that crosses an average pooling is one event of the pooled input.

The product of spikes with spikes (`layers.Attention`) has no weights: its additions are counted in
the pass, by what met.

Leak and threshold, the drawing of input spikes and memory are not counted. For the coarser
energies of published comparisons see `published`.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn.errors import UserError

__all__ = [
    "ENERGY_45NM_FLOAT32",
    "ENERGY_45NM_INT32",
    "EnergyTable",
    "energy",
    "fan_out",
    "macs",
    "synops",
    "synops_of_totals",
]

Synapse = Callable[[jax.Array, jax.Array], jax.Array]  # [N, *input], kernel -> [N, *output]


class EnergyTable(NamedTuple):
    """Energy of one operation in pJ, memory traffic left out.

    Source: M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014,
    45 nm CMOS at 0.9 V: float32 multiplication 3.7 and addition 0.9, int32 multiplication 3.1 and
    addition 0.1.
    """

    mac: float  # multiply and accumulate, for real-valued inputs
    ac: float  # accumulate, for spikes


ENERGY_45NM_FLOAT32 = EnergyTable(mac=4.6, ac=0.9)
ENERGY_45NM_INT32 = EnergyTable(mac=3.2, ac=0.1)


def fan_out(
    synapse: Synapse, kernel: Any, input_shape: tuple[int, ...], worth: Any = 1
) -> np.ndarray:
    """Count the non-zero weights that an event at each input of a synapse meets.

    Args:
      synapse: linear map from `[N, *input_shape]` and a kernel to `[N, *output_shape]`.
      kernel: its weights; only where they are zero matters.
      input_shape: shape of one sample's input.
      worth: whole number that each weight counts, broadcastable to the kernel: its bits.

    Returns:
      Whole numbers, int64 `[*input_shape]`.
    """
    return _fan_outs({"": synapse}, {"": kernel}, {"": input_shape}, worth)[""]


def _fan_outs(
    synapses: Mapping[str, Synapse],
    params: Mapping[str, Any],
    input_shapes: Mapping[str, tuple[int, ...]],
    worth: Any = 1,
) -> dict[str, np.ndarray]:
    """Return `fan_out` of each kernel that has an input shape, by one compiled program."""
    forms = tuple((synapses[name], tuple(shape)) for name, shape in input_shapes.items())
    slopes = _slopes(forms, [params[name] for name in input_shapes], worth)
    # Fast convolution algorithms of accelerators leave rounding errors far below one half.
    found = (np.rint(np.asarray(slope, np.float64)).astype(np.int64) for slope in slopes)
    return dict(zip(input_shapes, found, strict=True))


@partial(jax.jit, static_argnums=0)
def _slopes(
    forms: tuple[tuple[Synapse, tuple[int, ...]], ...], kernels: list[jax.Array], worth: Any
) -> list[jax.Array]:
    """Return the derivative by its input of what a kernel gives whose weights are their worth."""

    def slope(synapse: Synapse, shape: tuple[int, ...], kernel: jax.Array) -> jax.Array:
        each = jnp.broadcast_to(jnp.asarray(worth, jnp.float32), kernel.shape)
        mask = jnp.where(kernel != 0, each, 0)
        silence = jnp.zeros((1, *shape), jnp.float32)
        reach: jax.Array = jax.grad(lambda x: jnp.sum(synapse(x, mask)))(silence)[0]
        return reach

    return [slope(*form, kernel) for form, kernel in zip(forms, kernels, strict=True)]


def synops(
    synapses: Mapping[str, Synapse], params: Mapping[str, Any], events: Mapping[str, Any]
) -> dict[str, int]:
    """Count the synaptic operations of each kernel: additions of a non-zero weight.

    Args:
      synapses: kernel name -> linear map.
      params: kernel name -> weights (`tree.named_leaves(params)`).
      events: kernel name -> spikes that reached each input, whole numbers, `[B, *input]` of an
        `Activity`; the kernels to count are those named here. Of signed ones, sums over time of
        spikes that keep their sign, the magnitude counts.

    Returns:
      Kernel name -> exact whole number, summed over the batch.

    Raises:
      UserError: if events name an unknown kernel, or are not whole numbers.
    """
    totals = {
        name: np.abs(np.asarray(each, np.float64)).sum(axis=0) for name, each in events.items()
    }
    return synops_of_totals(synapses, params, totals)


def synops_of_totals(
    synapses: Mapping[str, Synapse],
    params: Mapping[str, Any],
    totals: Mapping[str, Any],
    worth: Any = 1,
) -> dict[str, int]:
    """Count synaptic operations from events `[*input]` that are already summed over samples.

    Each counts as much as its weight is worth, a whole number (`fan_out`).
    """
    _check_names("events", totals, synapses, params)
    wholes = {name: np.asarray(total) for name, total in totals.items()}
    for name, whole in wholes.items():
        if not np.array_equal(whole, np.rint(whole)):
            raise UserError(
                f"events of {name} are not whole numbers: real input costs multiplications, "
                "count it with macs"
            )
    shapes = {name: whole.shape for name, whole in wholes.items()}
    reach = _fan_outs(synapses, params, shapes, worth)
    return {
        name: int(np.sum(whole.astype(np.int64) * reach[name])) for name, whole in wholes.items()
    }


def macs(
    synapses: Mapping[str, Synapse],
    params: Mapping[str, Any],
    input_shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, int]:
    """Count the multiplications by non-zero weights when every input is real valued.

    Args:
      synapses: kernel name -> linear map.
      params: kernel name -> weights (`tree.named_leaves(params)`).
      input_shapes: kernel name -> shape of one sample's input; the kernels to count.

    Returns:
      Kernel name -> exact whole number for one sample in one time step.

    Raises:
      UserError: if an unknown kernel is named.
    """
    _check_names("input shapes", input_shapes, synapses, params)
    reach = _fan_outs(synapses, params, input_shapes)
    return {name: int(each.sum()) for name, each in reach.items()}


def energy(synops: float, macs: float, *, table: EnergyTable = ENERGY_45NM_FLOAT32) -> float:
    """Return `macs * table.mac + synops * table.ac` in pJ.

    >>> energy(1000, 100)
    1360.0
    """
    return macs * table.mac + synops * table.ac


def _check_names(what: str, names: Iterable[str], *homes: Mapping[str, Any]) -> None:
    for name in names:
        if not all(name in home for home in homes):
            raise UserError(f"{what} name {name!r}; known kernels: {', '.join(homes[0])}")
