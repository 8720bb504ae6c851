"""A layer as products of bytes: where its values lie, and how its sums are cut into blocks."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from jaxsnn.compile.folded_neurons import NeuronCode, neurons_of
from jaxsnn.compile.plan import Constants, Plan, Second, Weigh, Wire

__all__ = ["GROUP", "LINE", "TILE", "Bytes", "Product", "own_unit", "span"]

LINE, GROUP, TILE = 16, 4, 64  # sums side by side; bytes that are added up at once, and by a tile
ROWS = 8  # rows of sums at a time, without tiles
PAIR = 2**15 - 1  # that two products may add up to


def span(wire: Wire) -> int:
    """Return the largest value in memory."""
    return max(1, wire.high - wire.low)


def own_unit(recurrent: np.ndarray) -> np.ndarray:
    """Return what all weights of each output are a multiple of, `[O]`."""
    unit: np.ndarray = np.maximum(np.gcd.reduce(recurrent, axis=0), 1)
    return unit


@dataclass(frozen=True)
class Bytes:
    """A signal in memory: bytes `[T, rows, columns, channels]`, `value - low` each.

    Attributes:
      wire: the signal, whose border is that of the layer that reads it.
      shape: rows, columns and channels of what writes it.
      times: steps of time; 1 if all are the same.
      further: bytes that are read behind it.
    """

    wire: Wire
    shape: tuple[int, int, int]
    times: int
    further: int

    @property
    def columns(self) -> int:
        """Return the columns, border included."""
        return self.shape[1] + sum(self.wire.border)

    @property
    def frame(self) -> int:
        """Return the bytes of a step of time."""
        return (self.shape[0] + sum(self.wire.border)) * self.columns * self.shape[2]

    @property
    def size(self) -> int:
        """Return the bytes of all steps, and of what is read behind them."""
        return self.times * self.frame + self.further

    def place(self, time: str, row: str, column: str) -> str:
        """Return where C finds the channels of a position; the border does not count."""
        border = f" + {self.wire.border[0]}" if self.wire.border[0] else ""
        channels = self.shape[2]
        inside = f"(({row}{border}) * {self.columns} + {column}{border}) * {channels}"
        return inside if self.times == 1 else f"{time} * {self.frame} + {inside}"


@dataclass(frozen=True)
class Product:
    """A layer with weights, and how its sums are cut into blocks.

    Attributes:
      plan: the network.
      step: the layer.
      source: the signal that it reads.
      target: that it writes; None if it gives the scores.
      beside: that its shortcut reads.
    """

    plan: Plan
    step: Weigh
    source: Bytes
    target: Bytes | None
    beside: Bytes | None

    @property
    def name(self) -> str:
        """Return the name of its function."""
        return f"bytes_{self.step.identifier}"

    @property
    def positions(self) -> int:
        """Return the positions of windows one after the other, from the first to the last."""
        rows, columns, _ = self.step.shape
        return (rows - 1) * self.source.columns + columns

    @property
    def run(self) -> int:
        """Return the bytes of a row of a window."""
        return int(self.step.kernel.shape[1] * self.step.kernel.shape[2])

    @property
    def tiled(self) -> bool:
        """Return whether tiles pay: enough rows and bytes to fill them."""
        return min(self.positions, self.step.shape[2]) >= LINE and self.run >= TILE // 2

    @property
    def groups(self) -> int:
        """Return the groups of a row of a window; a tile's are full, with weights of 0."""
        unit = TILE if self.tiled else GROUP
        return -(-self.run // unit) * unit // GROUP

    @property
    def width(self) -> int:
        """Return the sums that a block has side by side."""
        return LINE if -(-self.step.shape[2] // LINE) % 2 else 2 * LINE

    @property
    def blocks(self) -> int:
        """Return the number of blocks."""
        return -(-self.step.shape[2] // self.width)

    @property
    def rows(self) -> int:
        """Return the rows of a block: positions, of two tiles if no step of time differs."""
        if not self.tiled:
            return min(ROWS, self.positions)
        return 2 * LINE if self.source.times == 1 else LINE

    @property
    def block_bytes(self) -> int:
        """Return the bytes of a block's weights."""
        return int(self.step.kernel.shape[0]) * self.groups * GROUP * self.width

    @property
    def table_bytes(self) -> int:
        """Return the bytes of its weights."""
        own = 0 if self.step.recurrent is None else self.own_groups * GROUP * self.width
        return self.blocks * (self.block_bytes + own)

    @property
    def own_groups(self) -> int:
        """Return the groups of what it hears of itself."""
        return -(-self.step.shape[2] // GROUP)

    @property
    def shape(self) -> str:
        """Return the C of what it multiplies, row by row of positions."""
        size, channels = self.step.kernel.shape[0], self.source.shape[2]
        step = self.step.stride * channels if self.positions > 1 else self.source.frame
        apart = self.source.columns * channels
        wide = 2 * span(self.source.wire) * int(np.abs(self.step.kernel).max(initial=0)) > PAIR
        return f"{{{size}, {self.groups}, {apart}, {self.width}, {step}, {int(wide)}}}"

    @cached_property
    def neurons(self) -> NeuronCode:
        """Return its neurons; constants of outputs are filled up to whole blocks."""
        step, more = self.step, self.blocks * self.width - self.step.shape[2]

        def filled(each: np.ndarray) -> np.ndarray:
            return np.pad(each, (0, more), "edge")

        constant = step.bias + (self.source.wire.low * step.kernel.sum((0, 1, 2)) << step.shift)
        beside: dict[str, np.ndarray] = {}
        if step.shortcut is not None and self.beside is not None:
            constant = constant + self.beside.wire.low * step.shortcut.weight
            beside = {"from": step.shortcut.sources, "gain": step.shortcut.weight}
        if step.recurrent is not None:
            beside = {"own": own_unit(step.recurrent)}
        n, second = step.neurons, step.neurons.second
        if second is not None:
            parts = (second.keep, second.factor, second.right, second.jump)
            second = Second(second.kind, *map(filled, parts))
        n = Constants(
            filled(n.level), filled(n.theta), filled(n.keep), filled(n.factor), filled(n.right),
            n.reset, n.fires_first, n.bits, second,
        )  # fmt: skip
        whole = replace(step, shift=filled(step.shift), neurons=n)
        padded = {name: filled(each) for name, each in beside.items()}
        return neurons_of(self.name, whole, filled(constant), padded, narrow=True)
