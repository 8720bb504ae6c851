"""What a network of integers is to a compiler: a list of steps over arrays of known sizes.

Every number of a step is a plain integer. A value of a signal is kept as `value - low`, which is
never negative, in as few bits (planes) as its range needs; what the shift by `low` changes stands
in the constants of the next step.

Letters in shapes: `k` sides of a kernel, `I` input channels, `O` output channels.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxsnn.errors import UserError
from jaxsnn.export.integer import IntegerNetwork
from jaxsnn.export.integer.inputs import IntegerGrid
from jaxsnn.export.integer.network import IntegerSecond, Joined, Weighted, Weightless
from jaxsnn.export.integer.second import ADAPTATION
from jaxsnn.native.processor import flags

__all__ = [
    "PROCESSORS", "Constants", "Plan", "Pool", "Second", "Shortcut", "Weigh", "Wire", "make_plan",
    "this_processor",
]  # fmt: skip

PROCESSORS = ("amx", "avx512_vnni", "avx2", "other")  # by what they multiply with, the best first
NEEDED = {"amx": ("amx_int8", "avx512_vnni"), "avx512_vnni": ("avx512_vnni", "avx512bw"),
          "avx2": ("avx2",)}  # fmt: skip
Border = tuple[int, int]  # before and behind, of rows and of columns alike


@dataclass(frozen=True)
class Wire:
    """An array between two steps: rows, columns, channels, and the range of its values."""

    shape: tuple[int, int, int]
    low: int
    high: int
    constant: bool  # the same at every step of time
    border: Border = (0, 0)  # positions around it whose value is 0

    @property
    def planes(self) -> int:
        """Return how many bits hold `value - low`."""
        return max(1, int(self.high - self.low).bit_length())

    @property
    def size(self) -> int:
        """Return the number of values at a step."""
        return math.prod(self.shape)

    @property
    def stride(self) -> int:
        """Return the words of planes from a step of time to the next; 0 if all are the same."""
        return 0 if self.constant else math.prod(self.padded) * self.shape[2] * self.planes

    def words(self, timesteps: int) -> int:
        """Return the words of planes of all steps, borders with them."""
        steps = 1 if self.constant else timesteps
        return math.prod(self.padded) * self.shape[2] * self.planes * steps

    @property
    def padded(self) -> tuple[int, int]:
        """Return rows and columns with the border."""
        around = sum(self.border)
        return self.shape[0] + around, self.shape[1] + around


@dataclass(frozen=True)
class Second:
    """What neurons carry beside the potential, int64 `[O]` each, as in `export.integer.second`."""

    kind: str
    keep: np.ndarray
    factor: np.ndarray
    right: np.ndarray
    jump: np.ndarray


@dataclass(frozen=True)
class Constants:
    """The constants of neurons, int64 `[O]` each, as in `export.integer.network`."""

    level: np.ndarray
    theta: np.ndarray
    keep: np.ndarray
    factor: np.ndarray
    right: np.ndarray
    reset: str | None  # None: a read-out
    fires_first: bool
    bits: int  # of a signed potential, and of what is carried besides, proved
    second: Second | None = None

    @property
    def rises(self) -> bool:
        """Whether the threshold rises."""
        return self.second is not None and self.second.kind == ADAPTATION

    @property
    def current(self) -> str:
        """How a synaptic current reaches the potential, CURRENT or DELAYED; "" if there is none."""
        return "" if self.second is None or self.rises else self.second.kind


@dataclass(frozen=True)
class Shortcut:
    """What a block adds to a current: `weight[o] * signal[row * stride, column * stride, from]`."""

    signal: int
    stride: int
    sources: np.ndarray  # [O]
    weight: np.ndarray  # [O]


@dataclass(frozen=True)
class Weigh:
    """Weights and neurons: from signal `source` to signal `target`."""

    name: str
    source: int
    target: int
    shape: tuple[int, int, int]  # of its output
    kernel: np.ndarray  # int64 [k, k, I, O]; a dense layer has k = 1
    stride: int
    shift: np.ndarray  # [O]
    bias: np.ndarray  # [O]
    recurrent: np.ndarray | None  # [O, O]
    shortcut: Shortcut | None
    neurons: Constants

    @property
    def size(self) -> int:
        """Return the number of its neurons."""
        return math.prod(self.shape)

    @property
    def identifier(self) -> str:
        """Return the layer's name as C takes it."""
        return "".join(c if c.isalnum() and c.isascii() else "_" for c in self.name)


@dataclass(frozen=True)
class Pool:
    """The sum or the largest over windows."""

    kind: str  # "sum" or "max"
    source: int
    target: int
    shape: tuple[int, int, int]  # of its output
    size: int


@dataclass(frozen=True)
class Plan:
    """A whole network: signals, the steps in order, and how the last signal becomes scores.

    The C is right on any processor, and is chosen to be fast on the `processor`.
    """

    signals: tuple[Wire, ...]
    steps: tuple[Weigh | Pool, ...]
    timesteps: int
    classes: int
    voters: int  # neurons of the last layer that are added up for a class
    processor: str = PROCESSORS[-1]

    @property
    def input(self) -> Wire:
        """The first signal."""
        return self.signals[0]

    @property
    def layers(self) -> tuple[Weigh, ...]:
        """The steps with weights."""
        return tuple(step for step in self.steps if isinstance(step, Weigh))

    @property
    def counted(self) -> tuple[Weigh, ...]:
        """The steps that spike."""
        return tuple(step for step in self.layers if step.neurons.reset is not None)

    def first_count(self, layer: Weigh) -> int:
        """Return how many neurons of spiking layers come before those of a layer."""
        sizes = []
        for other in self.counted:
            if other is layer:
                break
            sizes.append(other.size)
        return sum(sizes)


def this_processor() -> str:
    """Return which of `PROCESSORS` this machine has; "other" where Linux does not say."""
    return next(
        (name for name, needed in NEEDED.items() if flags().issuperset(needed)), PROCESSORS[-1]
    )


def make_plan(
    network: IntegerNetwork,
    shape: tuple[int, ...],
    *,
    constant: bool,
    processor: str | None = None,
) -> Plan:
    """Return the plan of a network for samples of one shape.

    Args:
      network: from `export.to_integer`.
      shape: of a sample at one step, `[H, W, C]`, `[L, C]` or `[features]`.
      constant: whether a sample is the same at every step (direct coding).
      processor: that the C should be fast on; left out, this one.

    Raises:
      UserError: for a layer that has no C code, by its name, and layers that do not fit.
    """
    grid = network.inputs
    first = _signal((1,) * (3 - len(shape)) + tuple(shape), grid, constant)
    builder = _Builder([first], [], {report.layer: report.state_bits for report in network.report})
    voters = 1
    for place, stage in enumerate(network.stages):
        if isinstance(stage, Weighted):
            builder.weigh(stage)
        elif isinstance(stage, Joined):
            source = len(builder.signals) - 1
            builder.weigh(stage.first)
            added = Shortcut(
                source, stage.first.stride, _whole(stage.sources), _whole(stage.weight)
            )
            builder.weigh(stage.second, added)
        elif isinstance(stage, Weightless) and stage.kind in ("sum", "max"):
            builder.pool(stage.kind, stage.size)
        elif isinstance(stage, Weightless) and stage.kind == "flatten":
            builder.flatten()
        elif isinstance(stage, Weightless) and place == len(network.stages) - 1:
            voters = builder.signals[-1].size // stage.size
        else:
            raise UserError(f"stage {place} of the network, a vote before its end, has no C code")
    if not builder.steps or not isinstance(builder.steps[-1], Weigh):
        raise UserError("the network does not end in a layer with weights, which has no C code")
    last = builder.signals[-1]
    return Plan(
        tuple(builder.signals),
        tuple(builder.steps),
        network.timesteps,
        last.size // voters,
        voters,
        processor or this_processor(),
    )


@dataclass
class _Builder:
    """The signals and steps so far; each step adds a signal."""

    signals: list[Wire]
    steps: list[Weigh | Pool]
    bits: dict[str, int]  # layer -> of a potential

    def weigh(self, layer: Weighted, shortcut: Shortcut | None = None) -> None:
        source, kernel = len(self.signals) - 1, _whole(layer.kernel)
        rows, columns, channels = self.signals[source].shape
        if kernel.ndim == 2:
            self.flatten()
            kernel = kernel[None, None]
            rows, columns, channels = self.signals[source].shape
        size = kernel.shape[0]
        border = ((size - 1) // 2, size // 2) if layer.padding == "SAME" else (0, 0)
        if kernel.shape[2] != channels or min(rows, columns) + sum(border) < size:
            raise UserError(
                f"layer {layer.name!r} takes {kernel.shape[2]} channels and windows of {size}, "
                f"found an input of the shape {(rows, columns, channels)}"
            )
        self.signals[source] = replace(self.signals[source], border=border)
        height, width = (
            (side + sum(border) - size) // layer.stride + 1 for side in (rows, columns)
        )
        n = layer.neurons
        neurons = Constants(
            level=_whole(n.level),
            theta=_whole(n.theta),
            keep=_whole(n.keep),
            factor=_whole(n.factor),
            right=_whole(n.right),
            reset=n.reset,
            fires_first=n.fires_first,
            bits=self.bits[layer.name],
            second=_second(n.second),
        )
        recurrent = None if layer.recurrent is None else _whole(layer.recurrent)
        shape = height, width, kernel.shape[3]
        self.steps.append(
            Weigh(
                layer.name, source, source + 1, shape, kernel, layer.stride, _whole(layer.shift),
                _whole(layer.bias), recurrent, shortcut, neurons,
            )
        )  # fmt: skip
        self.signals.append(Wire(shape, 0, 1, constant=False))

    def pool(self, kind: str, size: int) -> None:
        source = self.signals[-1]
        rows, columns, channels = source.shape
        count = size**2 if kind == "sum" else 1
        shape = (rows // size, columns // size, channels)
        pooled = Wire(shape, source.low * count, source.high * count, source.constant)
        self.steps.append(Pool(kind, len(self.signals) - 1, len(self.signals), shape, size))
        self.signals.append(pooled)

    def flatten(self) -> None:
        """Lay rows, columns and channels in one; they lie in memory like that already."""
        last = self.signals[-1]
        self.signals[-1] = replace(last, shape=(1, 1, last.size))


def _signal(shape: tuple[int, ...], grid: IntegerGrid, constant: bool) -> Wire:
    rows, columns, channels = shape
    return Wire((rows, columns, channels), min(grid.low, 0), grid.high, constant)


def _second(second: IntegerSecond | None) -> Second | None:
    if second is None:
        return None
    parts = second.keep, second.factor, second.right, second.jump
    return Second(second.kind, *map(_whole, parts))


def _whole(array: Any) -> np.ndarray:
    return np.asarray(array, np.int64)
