"""C that multiplies bytes, for networks with most of their weights (`products.c`).

A processor that adds up four products of bytes in each of 16 places at once, or has tiles for them,
is faster without lists of weights than with them, unless few are left. All steps of a layer follow
each other, so that a block of its weights is read once, and neurons take their steps while the sums
are at hand. A border around each image leaves no case for its edges; rows of sums run over it, and
what they find there is not kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources

import numpy as np

from jaxsnn.compile.digits import table
from jaxsnn.compile.events import Engine
from jaxsnn.compile.folded_neurons import NeuronCode, neurons_of
from jaxsnn.compile.plan import Constants, Plan, Pool, Second, Weigh, Wire
from jaxsnn.compile.products_loops import over_maps, over_recurrent, over_steps

__all__ = ["LINE", "Bytes", "Product", "emit", "fits", "layers_of"]

LINE, GROUP, TILE = 16, 4, 64  # sums side by side; bytes that are added up at once, and by a tile
ROWS = 8  # rows of sums at a time, without tiles
WEIGHT = 127  # of a byte
PAIR = 2**15 - 1  # that two products may add up to


def fits(plan: Plan) -> bool:
    """Return whether all values and weights are bytes."""
    for step in plan.layers:
        most = int(np.abs(step.kernel).max(initial=0))
        if step.recurrent is not None:
            own = step.recurrent // _own_unit(step.recurrent)
            most = max(most, int(np.abs(own).max(initial=0)))
        if most > WEIGHT:
            return False
    return all(_span(wire) <= 255 for wire in plan.signals)


def _own_unit(recurrent: np.ndarray) -> np.ndarray:
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
        own = 0 if self.step.recurrent is None else self._own_groups * GROUP * self.width
        return self.blocks * (self.block_bytes + own)

    @property
    def _own_groups(self) -> int:
        return -(-self.step.shape[2] // GROUP)

    @property
    def shape(self) -> str:
        """Return the C of what it multiplies, row by row of positions."""
        size, channels = self.step.kernel.shape[0], self.source.shape[2]
        step = self.step.stride * channels if self.positions > 1 else self.source.frame
        apart = self.source.columns * channels
        wide = 2 * _span(self.source.wire) * int(np.abs(self.step.kernel).max(initial=0)) > PAIR
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
            beside = {"own": _own_unit(step.recurrent)}
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

    def code(self) -> str:
        """Return its tables and its function."""
        if self.step.recurrent is not None:
            body = over_recurrent(self)
        else:
            body = (over_maps if self.positions > 1 else over_steps)(self)
        tables = [
            table(
                "ALIGNED int8_t",
                f"{self.name}_weights",
                self._weights(self.step.kernel, self.groups),
            )
        ]
        if self.step.recurrent is not None:
            own = (self.step.recurrent // _own_unit(self.step.recurrent))[None, None]
            tables.append(
                table("ALIGNED int8_t", f"{self.name}_own", self._weights(own, self._own_groups))
            )
        tables += [text for array, text in self.neurons.arrays.items() if array in body]
        rows, columns, outputs = self.step.shape
        counts = "" if self.step.neurons.reset is None else " TRACE(, int32_t *counts)"
        units = ", int32_t *units" if self.target is None else ""
        return f"""\
{"".join(tables)}
/* {self.step.name}: {rows} x {columns} x {outputs} */
static void {self.name}(Bytes *w{units}{counts}) {{
{body}
}}
"""

    @property
    def call(self) -> str:
        """Return how its function is called."""
        counts = "" if self.step.neurons.reset is None else " TRACE(, counts)"
        return f"{self.name}(w{', units' if self.target is None else ''}{counts});"

    def _weights(self, kernel: np.ndarray, groups: int) -> list[int]:
        """Return a kernel as [blocks][rows of a window][groups][width][4]."""
        size, _, _, outputs = kernel.shape
        run = kernel.shape[1] * kernel.shape[2]
        more = (0, 0), (0, groups * GROUP - run), (0, self.blocks * self.width - outputs)
        laid = np.pad(kernel.reshape(size, run, outputs), more)
        laid = laid.reshape(size, groups, GROUP, self.blocks, self.width)
        found: list[int] = laid.transpose(3, 0, 1, 4, 2).ravel().tolist()
        return found


def layers_of(plan: Plan) -> dict[int, Product]:
    """Return the layers with weights, by the signal that each writes."""
    signals = _signals(plan)
    found = {}
    for step in plan.layers:
        target = None if step is plan.steps[-1] else signals[step.target]
        beside = None if step.shortcut is None else signals[step.shortcut.signal]
        found[step.target] = Product(plan, step, signals[step.source], target, beside)
    return found


def emit(plan: Plan) -> Engine:
    """Return the C of a plan that `fits`: `run_bytes`, which works in a `Bytes`."""
    signals, layers = _signals(plan), layers_of(plan)
    parts, calls = [], ["w->tiles = begin_tiles();", "take_bytes(w, sample);"]
    tables, scratch = 0, 0
    for step in plan.steps:
        if isinstance(step, Pool):
            parts.append(_pool(step, signals[step.source], signals[step.target]))
            calls.append(f"bytes_pool{step.target}(w);")
            continue
        layer = layers[step.target]
        parts.append(layer.code())
        calls.append(layer.call)
        tables += layer.table_bytes
        if step.recurrent is not None:
            scratch = max(scratch, layer.blocks * layer.width * signals[step.source].times)
    calls.append("end_tiles(w->tiles);")
    members = [f"  ALIGNED uint8_t signal{i}[{each.size}];" for i, each in signals.items()]
    members += [f"  int32_t sums[{scratch}];"] * bool(scratch)
    members.append("  int tiles; /* whether there are any */")
    common = (resources.files("jaxsnn.compile") / "products.c").read_text(encoding="utf-8")
    memory = "/* what goes from layer to layer, all steps of time */\ntypedef struct {\n"
    text = [
        common, memory + "\n".join(members) + "\n} Bytes;\n", _take(signals[0], plan), *parts,
        _run(calls),
    ]  # fmt: skip
    state = sum(each.size for each in signals.values()) + 4 * scratch
    one = ["static Bytes bytes;", "run_bytes(&bytes, sample, units TRACE(, counts));"]
    return Engine("\n".join(text), "\n".join("  " + line for line in one), state, tables, True)


def _signals(plan: Plan) -> Mapping[int, Bytes]:
    """Return where each signal lies that a step reads."""
    shapes = {0: plan.input.shape} | {step.target: step.shape for step in plan.steps}
    found = {}
    for step in plan.steps:
        wire = plan.signals[step.source]
        stride = step.stride if isinstance(step, Weigh) else 1
        further = 2 * LINE * stride * shapes[step.source][2] + 2 * TILE
        if isinstance(step, Weigh):
            further += step.kernel.shape[1] * step.kernel.shape[2]
        times = 1 if wire.constant else plan.timesteps
        found[step.source] = Bytes(wire, shapes[step.source], times, further)
    return found


def _span(wire: Wire) -> int:
    return max(1, wire.high - wire.low)


def _fill(index: int, signal: Bytes) -> str:
    """Return how a border gets the value that stands for 0, where memory does not have it yet."""
    if signal.wire.low == 0 or sum(signal.wire.border) == 0:
        return ""
    return f"  memset(w->signal{index}, {-signal.wire.low}, sizeof w->signal{index});\n"


def _take(signal: Bytes, plan: Plan) -> str:
    """Return the function that lays a sample out."""
    rows, columns, channels = signal.shape
    wide = columns * channels
    return f"""\
static void take_bytes(Bytes *w, const SAMPLE *sample) {{
{_fill(0, signal)}\
  for (int t = 0; t < {signal.times}; t++)
    for (int y = 0; y < {rows}; y++)
      for (int i = 0; i < {wide}; i++) {{
        const int32_t value = clip(sample[(t * {rows} + y) * {wide} + i]) - ({plan.input.low});
        w->signal0[{signal.place("t", "y", "0")} + i] = (uint8_t)value;
      }}
}}
"""


def _pool(step: Pool, source: Bytes, target: Bytes) -> str:
    rows, columns, channels = step.shape
    n, wide = step.size, source.columns * source.shape[2]
    join = "value + v" if step.kind == "sum" else "v > value ? v : value"
    return f"""\
/* {step.kind} over windows of {n} x {n}: {rows} x {columns} x {channels} */
static void bytes_pool{step.target}(Bytes *w) {{
{_fill(step.target, target)}\
  for (int t = 0; t < {source.times}; t++)
    for (int y = 0; y < {rows}; y++)
      for (int x = 0; x < {columns}; x++) {{
        const uint8_t *from = w->signal{step.source} + {source.place("t", f"y * {n}", f"x * {n}")};
        uint8_t *to = w->signal{step.target} + {target.place("t", "y", "x")};
        for (int c = 0; c < {channels}; c++) {{
          uint8_t value = from[c];
          for (int k = 1; k < {n * n}; k++) {{
            const uint8_t v = from[k / {n} * {wide} + k % {n} * {channels} + c];
            value = (uint8_t)({join});
          }}
          to[c] = value;
        }}
      }}
}}
"""


def _run(calls: list[str]) -> str:
    lines = "\n".join("  " + call for call in calls)
    return f"""\
static void run_bytes(
    Bytes *w, const SAMPLE *sample, int32_t *units TRACE(, int32_t *counts)) {{
  memset(units, 0, UNITS * sizeof(int32_t));
{lines}
}}
"""
