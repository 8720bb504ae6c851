"""From a trained network to one of integers, with a proof that it fits, and what differs.

Norms are folded into the neurons (`fold.fold_norms`), which leaves the grid of the weights alone.
Then each output channel of a layer has a unit, the current that a weight of 1 makes of an input
of 1, in which everything is expressed, with `f` bits behind the point:

    W = scale K                 K integer; the scale of quantized weights is found in them
    unit = scale * (unit of the input)           1 for spikes, 1/n behind an average over n
    level = floor(2**f theta / unit) + 1         u > theta, exactly; ceil(...) if not strict
    bias, theta, shortcut, recurrent = round(2**f (...) / unit)

- Weights on no grid (a first layer and a read-out of full precision) are rounded to `weight_bits`.
- Read-outs have one unit for all channels, so that their integers can be compared.
- The decay becomes `keep + factor / 2**right`, an exact one where it can. Each step of a leak
  needs `right` bits more; it drops none as long as `f >= right (T - 1)`. Likewise for what neurons
  carry besides (`second`): a synaptic current, or what their threshold rose by.
- `f` is the fewest bits with which nothing is rounded, or else as many as fit.
- That nothing overflows is proved from the weights: the largest and the smallest input, in every
  step. Half-way cases go to the even integer, and a leak rounds down.

What no rounding can mend: analog inputs have to come as integers (pixels; `inputs.pixel_table` for
normalised ones), or the layer that sees them stays outside, in floats (`inputs.cut`). Quantizing it
with the others is what we do unless it is cut off.

Letters in shapes: `O` output channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxsnn import layers
from jaxsnn.arrays import check_range, check_whole
from jaxsnn.compress.codes import Step
from jaxsnn.errors import UserError
from jaxsnn.export.fold import fold_norms
from jaxsnn.export.integer.bounds import MOST_FRACTION_BITS, Fixed, InUnits, choose
from jaxsnn.export.integer.inputs import SPIKES, IntegerGrid, grid_of
from jaxsnn.export.integer.kernels import bias_of, laid_out, weights_of
from jaxsnn.export.integer.network import (
    IntegerNetwork,
    IntegerNeurons,
    IntegerSecond,
    Joined,
    Weighted,
    Weightless,
)
from jaxsnn.export.integer.second import SecondInUnits, in_units, parts_of
from jaxsnn.export.integer.units import decays, int32, narrowest, nearest
from jaxsnn.export.integer.verdict import IntegerWeights, LayerVerdict, judge
from jaxsnn.inputs import Inputs
from jaxsnn.layers.residual import NOTHING, by_position
from jaxsnn.network import Network
from jaxsnn.neurons import LIF
from jaxsnn.neurons.lif import ORDERS

__all__ = ["to_integer"]

FIRING = layers.Neurons | layers.Integrator
LEAKS = ("multiply", "power_of_two")


@dataclass(frozen=True)
class _Options:
    steps: Mapping[str, Step]  # of leaves on a known grid
    normed: frozenset[str]  # layers whose norm is folded away
    timesteps: int
    weight_bits: int
    leaks: np.ndarray  # [N, 4]: decay, keep, factor, right
    state_bits: int
    fraction_bits: int | None


def to_integer(
    net: Network,
    inputs: Inputs | IntegerGrid = SPIKES,
    timesteps: int | None = None,
    *,
    weight_bits: int = 8,
    leak: str = "multiply",
    leak_bits: int = 8,
    state_bits: int = 32,
    fraction_bits: int | None = None,
) -> IntegerNetwork:
    """Convert a network to integers.

    Weights whose grid is known (`net.quantized`) become its codes.

    Args:
      net: the network, a chain of layers.
      inputs: of the task; or what its integer input stands for, `SPIKES`, `PIXELS` or another.
      timesteps: T >= 1, for which nothing must overflow; left out, that of the task's inputs.
      weight_bits: of weights on no grid, known or found, signed, in [2, 16].
      leak: "multiply", by the nearest `j / 2**leak_bits`; or "power_of_two", the nearest of 0,
        1, `2**-m` and `1 - 2**-m`, for which a shift and a sum are enough.
      leak_bits: in [1, 12]; the largest m.
      state_bits: of a potential, signed, in [8, 32]. Sums have 32.
      fraction_bits: f of all layers, in [0, 30], instead of the choice above.

    Returns:
      The network for `run_integer`; its `report` says what is exact.

    Raises:
      UserError: for options out of range or unknown, layers without a counterpart, and where a
        potential may outgrow its bits; the message names the layer.

    Example:
      >>> from jaxsnn import models
      >>> from jaxsnn.neurons import LIF
      >>> integers = to_integer(models.build("6-3", (4,), LIF(0.5)), SPIKES, 4)
      >>> [layer.layer for layer in integers.report]
      ['dense1', 'dense2']
    """
    grid = grid_of(inputs)
    if timesteps is None:
        if not isinstance(inputs, Inputs):
            raise UserError("timesteps is missing: pass it, or the inputs of the task")
        timesteps = inputs.timesteps
    _check_options(grid, timesteps, weight_bits, leak, leak_bits, state_bits, fraction_bits)
    normed = frozenset(
        name for name, layer in layers.synapses(_chain_of(net)).items() if layer.norm is not None
    )
    folded = fold_norms(net, "neuron")
    leaks = decays(leak, leak_bits)
    options = _Options(
        folded.steps, normed, timesteps, weight_bits, leaks, state_bits, fraction_bits
    )
    stages, unit, reports = _convert(_chain_of(folded), grid, options)
    return IntegerNetwork(tuple(stages), grid, timesteps, unit, tuple(reports))


def _chain_of(net: Network) -> layers.Chain:
    module = net.module
    if isinstance(module, layers.Chain):
        return module
    raise UserError(
        f"integers are made of a Chain of layers, found the topology of {type(module).__name__}: "
        "write it as layers.Chain, with layers.Residual for what skips, or export it as StableHLO"
    )


def _check_options(
    grid: IntegerGrid,
    timesteps: int,
    weight_bits: int,
    leak: str,
    leak_bits: int,
    state_bits: int,
    fraction_bits: int | None,
) -> None:
    check_whole("timesteps", timesteps, 1, 1 << 20)
    check_whole("weight_bits", weight_bits, 2, 16)
    check_whole("leak_bits", leak_bits, 1, 12)
    check_whole("state_bits", state_bits, 8, 32)
    if fraction_bits is not None:
        check_whole("fraction_bits", fraction_bits, 0, MOST_FRACTION_BITS)
    if leak not in LEAKS:
        raise UserError(f"leak {leak!r} is unknown; choose {' or '.join(LEAKS)}")
    check_range("the unit of the inputs", grid.unit, 0, float("inf"), open_low=True)
    check_whole("the largest input", grid.high, 1 - 2**31, 2**31 - 1)
    check_whole("the smallest input", grid.low, 1 - 2**31, grid.high)


def _convert(
    module: layers.Chain, grid: IntegerGrid, options: _Options
) -> tuple[list[Any], float, list[LayerVerdict]]:
    """Return the stages, what 1 of the last one's output stands for, and the reports."""
    *_, readout = layers.synapses(module)
    final = getattr(module, module.names[-1])
    classes = final.classes if isinstance(final, layers.Vote) else None
    width = 0
    stages: list[Any] = []
    reports: list[LayerVerdict] = []
    for name in module.names:
        layer = getattr(module, name)
        if isinstance(layer, layers.Residual):
            if layer.projection is not None:
                raise UserError(
                    f"{name!r} has a projected shortcut, which has no integers: leave the "
                    "projection out, or export the network as StableHLO"
                )
            block, found = _join(name, layer, grid, options)
            stages.append(block)
            reports += found
            grid, width = SPIKES, block.weight.size
        elif isinstance(layer, layers.Synapse):
            if name != readout and isinstance(layer.neurons, layers.Integrator):
                raise UserError(f"{name!r} does not spike, but is followed by {readout!r}")
            width = layer.kernel.shape[-1]
            voters = 1 if classes is None else width // classes
            converted = _weigh(name, layer, grid, options, voters=voters)
            stages.append(converted.stage)
            reports.append(converted.report)
            grid = SPIKES._replace(unit=converted.unit)
        elif not isinstance(layer, layers.Dropout):
            stage, grid = _rearrange(name, layer, grid, width)
            stages.append(stage)
    return stages, grid.unit, reports


def _rearrange(
    name: str, layer: nnx.Module, grid: IntegerGrid, width: int
) -> tuple[Weightless, IntegerGrid]:
    """Convert a layer without weights, and return what its integers stand for."""
    if isinstance(layer, layers.AveragePool):
        count = layer.size**2
        summed = IntegerGrid(grid.unit / count, grid.low * count, grid.high * count)
        return Weightless("sum", layer.size), summed
    if isinstance(layer, layers.MaxPool):
        return Weightless("max", layer.size), grid
    if isinstance(layer, layers.Flatten):
        return Weightless("flatten", 0), grid
    if isinstance(layer, layers.Vote):
        voters = width // layer.classes
        return Weightless("vote", layer.classes), grid._replace(unit=grid.unit / voters)
    raise _without(name, layer)


def _without(name: str, part: object) -> UserError:
    return UserError(
        f"{name!r}, {type(part).__name__}, has no counterpart of integers: export the network as "
        "StableHLO, which takes all layers"
    )


class _Converted(NamedTuple):
    """A layer of integers, and what belongs to it."""

    stage: Weighted
    report: LayerVerdict
    shortcut: Array  # int32 [O]: factor of the integers that a shortcut adds
    unit: float  # what 1 of its output stands for


class _Shortcut(NamedTuple):
    """What a block adds to a layer's current."""

    weight: np.ndarray  # [O]
    grid: IntegerGrid  # of what it is multiplied by


def _join(
    name: str, block: layers.Residual, grid: IntegerGrid, options: _Options
) -> tuple[Joined, list[LayerVerdict]]:
    """Convert a residual block."""
    inputs, outputs = block.conv1.inputs, block.conv2.kernel.shape[-1]
    sources = np.asarray(block.sources or by_position(inputs, outputs))
    weight = np.ones(outputs) if block.weight is None else np.asarray(block.weight[...], np.float64)
    shortcut = _Shortcut(np.where(sources == NOTHING, 0.0, weight), grid)
    first = _weigh(f"{name}/conv1", block.conv1, grid, options)
    second = _weigh(f"{name}/conv2", block.conv2, SPIKES, options, shortcut=shortcut)
    chosen = int32(np.maximum(sources, 0))
    return Joined(first.stage, second.stage, chosen, second.shortcut), [first.report, second.report]


def _weigh(
    name: str,
    layer: layers.Synapse,
    grid: IntegerGrid,
    options: _Options,
    *,
    shortcut: _Shortcut | None = None,
    voters: int = 1,
) -> _Converted:
    """Convert a layer with weights, whose input is on the grid."""
    firing = layer.neurons
    for part, known in ((layer, layers.Dense | layers.Conv), (firing, FIRING)):
        if not isinstance(part, known):
            raise _without(name, part)
    neuron, carried = None, None
    if isinstance(firing, layers.Neurons):
        neuron, carried = parts_of(name, firing.constants())
    step = options.steps.get(f"{name}/kernel")
    weights = weights_of(name, layer, grid, step, options.weight_bits, apart=neuron is not None)
    leaks, off = nearest(options.leaks, _decay(layer, neuron), weights.scale.size)
    second, others_off = in_units(carried, weights.unit, options.leaks)
    scaled = replace(_in_units(layer, neuron, weights, leaks, shortcut), second=second)
    choice = choose(
        name,
        scaled,
        options.timesteps,
        state_bits=options.state_bits,
        wanted=options.fraction_bits,
        summed=0 if neuron else options.timesteps * voters,
    )
    kernel = laid_out(name, layer, weights.integers.reshape(layer.kernel.shape))
    fixed = choice.fixed
    stage = Weighted(
        kernel=narrowest(kernel),
        shift=int32(choice.fraction_bits),
        bias=int32(fixed.bias),
        recurrent=None if layer.feedback() is None else int32(fixed.recurrent),
        neurons=_neurons(
            scaled, fixed, fires_first=neuron is not None and neuron.order == ORDERS[1]
        ),
        name=name,
        stride=layer.stride if isinstance(layer, layers.Conv) else 1,
        padding=layer.padding if isinstance(layer, layers.Conv) else "VALID",
    )
    report = judge(
        name,
        weights,
        scaled,
        choice,
        timesteps=options.timesteps,
        decays_off={"decay": off} | others_off,
        rounds_more=name in options.normed or layer.dtype != jnp.float32,
    )
    one = float(weights.unit[0] / 2.0 ** choice.fraction_bits[0])
    return _Converted(stage, report, int32(fixed.shortcut), 1.0 if neuron else one)


def _neurons(layer: InUnits, fixed: Fixed, *, fires_first: bool) -> IntegerNeurons:
    """Return the constants of a layer's neurons in integers."""
    return IntegerNeurons(
        level=int32(fixed.level),
        theta=int32(fixed.theta),
        keep=int32(layer.keep),
        factor=int32(layer.factor),
        right=int32(layer.right),
        reset=layer.reset,
        fires_first=fires_first,
        second=None if layer.second is None else _second(layer.second, fixed),
    )


def _second(second: SecondInUnits, fixed: Fixed) -> IntegerSecond:
    """Return what neurons carry beside their potential in integers."""
    return IntegerSecond(
        keep=int32(second.keep),
        factor=int32(second.factor),
        right=int32(second.right),
        jump=int32(fixed.jump),
        kind=second.kind,
    )


def _decay(layer: layers.Synapse, neuron: LIF | None) -> Any:
    """Return the decay, a scalar or `[O]`; a read-out of currents forgets at once."""
    silent = getattr(layer.neurons, "decay", None)
    return neuron.decay if neuron else 0.0 if silent is None else silent[...]


def _in_units(
    layer: layers.Synapse,
    neuron: LIF | None,
    weights: IntegerWeights,
    leaks: np.ndarray,
    shortcut: _Shortcut | None,
) -> InUnits:
    """Return a layer in its own units."""
    unit, ends = weights.unit, np.array(weights.grid[1:]).reshape(2, 1, 1)
    sums = weights.integers * ends
    theta = np.asarray(neuron.threshold if neuron else 0.0, np.float64)
    added = shortcut or _Shortcut(np.zeros_like(unit), SPIKES)
    feedback = layer.feedback()
    heard = np.zeros((0, unit.size)) if feedback is None else np.asarray(feedback, np.float64)
    return InUnits(
        low=sums.min(0).clip(max=0).sum(0),
        high=sums.max(0).clip(min=0).sum(0),
        bias=bias_of(layer) / unit,
        theta=np.broadcast_to(theta, unit.shape) / unit,
        shortcut=added.weight * added.grid.unit / unit,
        shortcut_range=(min(added.grid.low, 0), max(added.grid.high, 0)),
        recurrent=heard / unit.reshape(1, -1),
        keep=leaks[:, 1],
        factor=leaks[:, 2],
        right=leaks[:, 3],
        reset=neuron.reset if neuron else None,
        strict=neuron.strict if neuron else True,
    )
