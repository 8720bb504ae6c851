"""What a network asks a chip for, as numbers of whole networks and of layers.

Synapses are connections with a weight that is not 0; those of a convolution are counted at each of
its positions. Letters in shapes: `k` sides of a kernel, `I` input channels, `O` output channels.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxsnn.chips.limits import CORES
from jaxsnn.compile import mcu
from jaxsnn.compile.plan import Plan, Pool, Weigh
from jaxsnn.compile.source import sample_size, sample_type
from jaxsnn.export.integer import LayerVerdict

__all__ = ["Need", "needs_of", "memory", "without_core"]


class Need(NamedTuple):
    """A number that a part of the network needs."""

    where: str  # the layer; "" for the whole network
    value: float
    note: str = ""


class Geometry(NamedTuple):
    """A layer as the convolution that it is, a dense one over all of its input."""

    rows: int  # of its input, padding left out
    columns: int
    kernel: int  # side of the kernel
    inputs: int  # channels
    outputs: int

    def words(self, layer: Weigh) -> tuple[int, int]:
        """Return the words of kernels and of neurons that a core of a Speck needs for it."""
        taps = min(self.kernel, self.rows) * min(self.kernel, self.columns)
        rows, columns, _ = layer.shape
        kernels = self.inputs * _power(taps) * _power(self.outputs)
        return kernels, self.outputs * _power(rows) * _power(columns)


def needs_of(
    plan: Plan,
    shape: tuple[int, ...],
    verdicts: Mapping[str, LayerVerdict],
    state_bits: Mapping[str, int],
) -> dict[str, list[Need]]:
    """Return what is needed, by the name that limits have for it.

    Args:
      plan: the network of integers.
      shape: of a sample at one step.
      verdicts: layer -> how its integers came about.
      state_bits: layer -> the fewest bits of its potentials.
    """
    layers, hidden = plan.layers, plan.layers[:-1]
    shapes = [_geometry(plan, shape, layer) for layer in layers]
    each = list(zip(layers, shapes, strict=True))
    connections = [_synapses(plan, layer) for layer in layers]
    within = [int(np.count_nonzero(_recurrent(layer))) for layer in layers]
    found: dict[str, list[Need]] = {
        "layers": [Need("", len(layers))],
        "neurons": [Need("", sum(layer.size for layer in layers))],
        "hidden neurons": [Need("", sum(layer.size for layer in hidden))],
        "output neurons": [Need(layers[-1].name, layers[-1].size)],
        "synapses": [Need("", sum(connections) + sum(within))],
        "hidden synapses": [Need("", sum(connections[1:-1]) + sum(within[:-1]))],
        "input channels": [Need("", plan.input.size)],
        "input bits": [Need("", plan.input.planes)],
        "events of an input": [Need("", max(plan.input.high, -plan.input.low))],
        "neurons that hear the input": [Need(layers[0].name, layers[0].size)],
        "neurons that the output hears": [Need(x.name, x.size) for x in hidden[-1:]],
        "fan out of hidden neurons": [Need(x.name, _fan_out(plan, x)) for x in hidden],
        "weight bits": [Need(x.name, *_weight_bits(verdicts[x.name])) for x in layers],
        "state bits": [Need(x.name, state_bits[x.name]) for x in layers],
        "decay": [
            Need(x.name, decay, _rounding(verdicts[x.name])) for x in layers for decay in _decays(x)
        ],
        "channels": [Need(x.name, x.shape[2]) for x in layers],
        "kernel size": [Need(x.name, shape.kernel) for x, shape in each],
        "input side": [Need(x.name, max(shape.rows, shape.columns)) for x, shape in each],
        "output side": [Need(x.name, max(x.shape[:2])) for x in layers],
        "stride": [Need(x.name, x.stride) for x in layers],
        "padding": [Need(x.name, max(plan.signals[x.source].border)) for x in layers],
        "pooling": _pooling(plan),
        "layers without a core": _cores(each),
    }
    kinds = {
        "layers with hard reset": [x.name for x in layers if x.neurons.reset == "hard"],
        "recurrent layers": [x.name for x in layers if x.recurrent is not None],
        "max pooling layers": [f"before {_next(plan, x)}" for x in _pools(plan) if x.kind == "max"],
    }
    found |= {name: [Need(", ".join(which), len(which))] for name, which in kinds.items()}
    return found


def memory(plan: Plan) -> dict[str, list[Need]]:
    """Return the bytes that `jaxsnn compile --target mcu` takes, with a sample and its scores."""
    one = mcu.emit(plan)
    sample = sample_size(plan) * np.dtype(sample_type(plan).removesuffix("_t")).itemsize
    return {
        "bytes of flash": [Need("", one.table_bytes, "tables")],
        "bytes of memory": [
            Need(
                "",
                one.state_bytes + sample + 4 * plan.classes,
                f"{one.state_bytes:,} of state, {sample:,} of a sample",
            )
        ],
    }


def _weight_bits(verdict: LayerVerdict) -> tuple[int, str]:
    """Return the bits of the weights as they are: 32 where integers had to be made of them."""
    if "weights" in dict(verdict.rounded):
        return 32, "floats on no grid: quantize them"
    return verdict.weight_bits, ""


def _rounding(verdict: LayerVerdict) -> str:
    """Return how far the decay of integers is from the network's."""
    off = dict(verdict.rounded).get("decay")
    return "" if off is None else f"in integers, off by {off:.2g}"


def _decays(layer: Weigh) -> list[float]:
    neurons = layer.neurons
    return sorted(set((neurons.keep + neurons.factor / 2.0**neurons.right).tolist()))


def _geometry(plan: Plan, shape: tuple[int, ...], layer: Weigh) -> Geometry:
    """Return a layer as a convolution: a dense one has a kernel as large as what it flattens."""
    size, _, _, outputs = layer.kernel.shape
    source = plan.signals[layer.source].shape
    if source[:2] != (1, 1):
        return Geometry(source[0], source[1], size, source[2], outputs)
    # A plan has flattened shapes; the step that made the signal has the one before.
    before = [step.shape for step in plan.steps if step.target == layer.source]
    rows, columns, channels = before[0] if before else (1, 1, *shape)[-3:]
    return Geometry(rows, columns, max(rows, columns), channels, outputs)


def _recurrent(layer: Weigh) -> np.ndarray:
    return np.zeros((1, 1)) if layer.recurrent is None else layer.recurrent


def _synapses(plan: Plan, layer: Weigh) -> int:
    """Return the number of connections of a layer with its inputs."""
    source, taps = plan.signals[layer.source], np.arange(layer.kernel.shape[0])
    rows, columns = (
        _positions(side, outputs, taps, layer.stride, source.border[0])
        for side, outputs in zip(source.shape[:2], layer.shape[:2], strict=True)
    )
    count = np.count_nonzero(layer.kernel, (2, 3)) * rows.reshape(-1, 1) * columns
    added = 0 if layer.shortcut is None else np.count_nonzero(layer.shortcut.weight)
    return int(count.sum() + added * math.prod(layer.shape[:2]))


def _positions(side: int, outputs: int, taps: np.ndarray, stride: int, before: int) -> np.ndarray:
    """Return at how many outputs each tap of a kernel is over the image and not its border."""
    place = np.arange(outputs).reshape(-1, 1) * stride + taps - before
    within: np.ndarray = ((place >= 0) & (place < side)).sum(0)
    return within


def _fan_out(plan: Plan, layer: Weigh) -> int:
    """Return the largest number of connections that one of a layer's neurons has."""
    following = next(x for x in plan.layers if x.source >= layer.target)
    step, within = following.stride, np.count_nonzero(_recurrent(layer), 1).max()
    # With a stride, a position is under the taps that are so many apart.
    reached = [
        np.count_nonzero(following.kernel[i::step, j::step], (0, 1, 3)).max()
        for i in range(step)
        for j in range(step)
    ]
    return int(max(reached) + within)


def _pools(plan: Plan) -> list[Pool]:
    return [step for step in plan.steps if isinstance(step, Pool)]


def _next(plan: Plan, pool: Pool) -> str:
    return next(layer.name for layer in plan.layers if layer.source >= pool.target)


def _pooling(plan: Plan) -> list[Need]:
    """Return the sides of the windows before each layer; those of several pools are one."""
    sides: dict[str, int] = {}
    for pool in _pools(plan):
        sides[_next(plan, pool)] = sides.get(_next(plan, pool), 1) * pool.size
    return [Need(f"before {name}", side) for name, side in sides.items()]


def _power(number: int) -> int:
    """Return the next power of two: addresses have whole bits."""
    return 1 << (number - 1).bit_length()


def _cores(each: list[tuple[Weigh, Geometry]]) -> list[Need]:
    """Return the layers for which no core of a Speck is left."""
    wanted = [shape.words(layer) for layer, shape in each]
    homeless = without_core(wanted)
    note = "; ".join(
        "needs {:,} words of kernels, {:,} of neurons".format(*wanted[layer]) for layer in homeless
    )
    return [Need(", ".join(each[layer][0].name for layer in homeless), len(homeless), note)]


def without_core(wanted: Sequence[tuple[int, int]]) -> list[int]:
    """Find a core of a Speck for each layer, by augmenting paths; return which layers have none.

    Args:
      wanted: words of kernels and of neurons of each layer.
    """
    owner: dict[int, int] = {}

    def place(layer: int, tried: set[int]) -> bool:
        for core, room in enumerate(CORES):
            fits = all(need <= words for need, words in zip(wanted[layer], room, strict=True))
            if fits and core not in tried:
                tried.add(core)
                if core not in owner or place(owner[core], tried):
                    owner[core] = layer
                    return True
        return False

    return [layer for layer in range(len(wanted)) if not place(layer, set())]
