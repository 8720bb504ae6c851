"""A layer with weights for one sample, all its steps of time at once (`folded.c`)."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jaxsnn.compile import events
from jaxsnn.compile.digits import narrowest_type, table
from jaxsnn.compile.folded_neurons import Neurons, neurons_of
from jaxsnn.compile.layouts import Layout
from jaxsnn.compile.plan import Plan, Weigh
from jaxsnn.compile.sums import Sums, list_sums

__all__ = ["FoldedLayer"]

ABREAST = 16  # loops over positions are as many times as long
ROOM = 64  # bytes of the widest word


@dataclass(frozen=True)
class FoldedLayer:
    """A layer, and the layouts of what it reads, writes and adds.

    Attributes:
      plan: the network.
      step: the layer.
      source: what it reads.
      target: what it writes; None for the scores.
      beside: what its shortcut reads.
      by_rows: whether each value that is not 0 adds a row of the matrix, rather than each output
        the values that its list names; of a dense layer.
    """

    plan: Plan
    step: Weigh
    source: Layout
    target: Layout | None
    beside: Layout | None
    by_rows: bool = False

    @property
    def name(self) -> str:
        return f"fold_{self.step.identifier}"

    @property
    def dense(self) -> bool:
        return self.source.words

    @property
    def positions(self) -> int:
        """The places of a channel's neurons; some lie beyond the edges."""
        size = self.step.shape[0] * self.source.columns
        return -(-size // ABREAST) * ABREAST

    @property
    def plane(self) -> int:
        """The values between two steps of time of a channel."""
        return self.source.rows * self.source.columns

    @property
    def lanes(self) -> int:
        """The values that an addition adds."""
        if self.dense:
            return self.source.lanes
        return (self.source.times - 1) * self.plane + self.positions

    @cached_property
    def sums(self) -> Sums:
        """The places, in bytes, that each output adds up."""
        size, _, channels, outputs = self.step.kernel.shape
        source = self.source
        if self.dense:
            places = [source.feature(index) for index in range(channels)]
        else:
            places = [
                source.tap(row, column, channel)
                for row in range(size)
                for column in range(size)
                for channel in range(channels)
            ]
        kernel = self.step.kernel.reshape(-1, outputs)
        return list_sums(kernel, np.array(places) * (source.bits // 8), source.span, source.bits)

    @cached_property
    def neurons(self) -> Neurons:
        """How C takes the layer's neurons through a step."""
        step, low = self.step, self.source.wire.low
        constant = (low * step.kernel.sum((0, 1, 2)) << step.shift) + step.bias
        more: dict[str, np.ndarray] = {}
        if step.shortcut is not None:
            added = step.shortcut
            constant = constant + added.weight * self.plan.signals[added.signal].low
            more = {"from": added.sources, "gain": added.weight}
        return neurons_of(self.name, step, constant, more, narrow=not self.dense)

    @property
    def sum_bits(self) -> int:
        """The bits of a weighted sum."""
        return 16 if self.sums.largest < 2**15 else 32

    @property
    def places(self) -> list[int]:
        """The places that its lists name."""
        return [] if self.by_rows else self.sums.places

    @property
    def table_bytes(self) -> int:
        """The bytes of its weights, where they name places of 16 bits."""
        if self.by_rows:
            return self.step.kernel.size
        return 4 * len(self.sums.runs) + 2 * len(self.sums.places)

    @property
    def state_bytes(self) -> int:
        """The bytes that it writes, its output aside."""
        if self.dense:
            return self.step.size * 4 * (1 + self.source.times)
        sums = self.lanes * (self.sum_bits + 2 * self.source.bits) // 8
        return sums + self.positions * (self.plan.timesteps + self.neurons.bits // 8)

    def code(self) -> str:
        """Return tables and function."""
        body = self._dense() if self.dense else self._maps()
        tables = [self._rows() if self.by_rows else self._lists()]
        if self.step.recurrent is not None:
            tables.append(events.scatter(f"{self.name}_self", self.step.recurrent[None, None]))
        tables += [text for array, text in self.neurons.arrays.items() if array in body]
        rows, columns, outputs = self.step.shape
        parameters = self._list("int32_t *units", "int32_t *counts") or "void"
        heading = f"/* {self.step.name}: {rows} x {columns} x {outputs} */"
        function = f"static void {self.name}({parameters}) {{\n{body}\n}}\n"
        return "\n".join([*tables, heading, function])

    @property
    def call(self) -> str:
        """How C calls the layer."""
        return f"{self.name}({self._list('units', 'counts')});"

    def _list(self, units: str, counts: str) -> str:
        last = self.target is None
        if not self.neurons.fires:
            return units if last else ""
        return f"{units} TRACE(, {counts})" if last else f"TRACE({counts})"

    def _lists(self) -> str:
        runs, places = self.sums.runs, self.sums.places
        places_table = table("PLACE", f"{self.name}_places", places)
        return table("PART", f"{self.name}_runs", runs) + places_table

    def _rows(self) -> str:
        """Return the matrix in the order of the source's memory."""
        kernel = self.step.kernel[0, 0]
        order = np.argsort([self.source.feature(index) for index in range(len(kernel))])
        values = kernel[order].ravel().tolist()
        return table(narrowest_type(values, signed=True), f"{self.name}_rows", values)

    def _maps(self) -> str:
        """Return the body of a layer whose neurons lie at positions."""
        steps, last = self.plan.timesteps, self.target is None
        through = self.neurons.through_time(self.positions, steps, self._drive(), last=last)
        return f"""\
{_indent(self._sum_state(), 2)}
{_indent(self.neurons.state(self.positions, steps, last=last), 2)}
{_indent(self._start_of_lists(), 2)}
  for (int o = 0; o < {self.step.shape[2]}; o++) {{
{_indent(self._sum(), 4)}
{_indent(self._beside(), 4)}
{_indent(through, 4)}
{_indent(self._write(), 4)}
  }}"""

    def _start_of_lists(self) -> str:
        return f"""\
const uint8_t *in = (const uint8_t *)signal{self.step.source};
const PART *run = {self.name}_runs;
const PLACE *at = {self.name}_places;"""

    def _sum_state(self) -> str:
        room = -(-self.lanes * self.source.bits // 8 // ROOM) * ROOM * 8 // self.source.bits
        return f"""\
static uint{self.sum_bits}_t sum[{room}];
static {self.source.type} part0[{room}], part1[{room}];"""

    def _sum(self) -> str:
        """Return how the weighted sums of a channel come about."""
        size, type_ = self.lanes * self.source.bits // 8, f"uint{self.sum_bits}_t"
        pair = "f0 * part0[i] + f1 * part1[i]"
        loop = f"for (int i = 0; i < {self.lanes}; i++)"
        return f"""\
const int pairs = (int)*run++;
if (pairs == 0) memset(sum, 0, sizeof sum);
for (int p = 0; p < pairs; p++) {{
  const uint32_t f0 = (uint32_t)run[0];
  at = add_rows(in, at, run, (uint8_t *)part0, {size});
  run = next_part(run);
  const uint32_t f1 = (uint32_t)run[0];
  at = add_rows(in, at, run, (uint8_t *)part1, {size});
  run = next_part(run);
  if (p == 0)
    {loop} sum[i] = ({type_})({pair});
  else
    {loop} sum[i] = ({type_})(sum[i] + {pair});
}}"""

    def _drive(self) -> str:
        """Return what is added to the potential of neuron `i` at step `TIME`."""
        at = "i" if self.source.wire.constant else f"TIME * {self.plane} + i"
        value = f"(uint32_t)(int{self.sum_bits}_t)sum[{at}]"
        drive = f"({value} << {self.neurons.known['shift']}) + {self.neurons.known['constant']}"
        if self.beside is not None:
            drive += f" + more[TIME * {self.positions} + i]"
        return f"(uint16_t)({drive})" if self.neurons.bits == 16 else drive

    def _beside(self) -> str:
        """Return how a block's input is added."""
        added = self.step.shortcut
        if self.beside is None or added is None:
            return ""
        rows, columns, _ = self.step.shape
        known, steps = self.neurons.known, self.plan.timesteps
        time = "0" if self.beside.wire.constant else "t"
        place = self.beside.place(known["from"], time, f"y * {added.stride}", f"x * {added.stride}")
        return f"""\
static uint32_t more[{steps * self.positions}];
for (int t = 0; t < {steps}; t++)
  for (int y = 0; y < {rows}; y++)
    for (int x = 0; x < {columns}; x++)
      more[t * {self.positions} + y * {self.source.columns} + x] =
          signal{added.signal}[{place}] * (uint32_t){known["gain"]};"""

    def _write(self) -> str:
        """Return how a channel's spikes go to the next layer, or to the scores."""
        rows, columns, outputs = self.step.shape
        unit, at = f"(y * {columns} + x) * {outputs} + o", f"y * {self.source.columns} + x"
        positions = f"for (int y = 0; y < {rows}; y++)\n    for (int x = 0; x < {columns}; x++)"
        times = f"for (int t = 0; t < {self.plan.timesteps}; t++)"
        fired = f"fired[t * {self.positions} + {at}]"
        lines = []
        if self.target is None:
            lines += [f"  {positions} units[{unit}] = total[{at}];"]
        else:
            place = self.target.place("o", "t", "y", "x")
            lines += [times, f"  {positions} signal{self.step.target}[{place}] = {fired};"]
        if self.neurons.fires:
            first = self.plan.first_count(self.step)
            lines.append(f"TRACE({times}\n  {positions} counts[{first} + {unit}] += {fired};)")
        return "\n".join(lines)

    def _dense(self) -> str:
        """Return the body of a layer without positions."""
        outputs, times = self.step.shape[2], self.source.times
        drive = "current[o]" if self.source.wire.constant else f"current[t * {outputs} + o]"
        heard = ""
        if self.step.recurrent is not None:
            level = self.neurons.known["level"]
            heard = _indent(events.hear(self.name, outputs, level), 2)
            drive += f" + (uint32_t){self.name}_heard[o]"
        lines = self.neurons.lines(drive)
        if self.target is None:
            lines.append(f"units[o] += {'fires' if self.neurons.fires else 'u'};")
        else:
            place = self.target.place("o", "t", "0", "0")
            lines.append(f"signal{self.step.target}[{place}] = (uint8_t)fires;")
        if self.neurons.fires:
            lines.append(f"TRACE(counts[{self.plan.first_count(self.step)} + o] += fires;)")
        state = f"{self.name}_potential"
        return f"""\
  static uint32_t current[{times * outputs}];
  static int32_t {self._dense_state()};
{_indent(self._gather_rows() if self.by_rows else self._gather_lists(), 2)}
  memset({state}, 0, sizeof {state});
  for (int t = 0; t < {self.plan.timesteps}; t++) {{
{heard}
    for (int o = 0; o < {outputs}; o++) {{
      int32_t u = {state}[o];
{_indent(chr(10).join(lines), 6)}
      {state}[o] = u;
    }}
  }}"""

    def _dense_state(self) -> str:
        arrays = ["potential"] + ["heard"] * (self.step.recurrent is not None)
        return ", ".join(f"{self.name}_{array}[{self.step.size}]" for array in arrays)

    def _gather_lists(self) -> str:
        source, outputs, times = self.source, self.step.shape[2], self.source.times
        known, bits, words = self.neurons.known, self.source.word_bits, self.source.word_count
        if words == 1:
            add = f"at = add_words{bits}(in, at, run, (uint8_t *)part);"
        else:
            add = f"""\
const PLACE *first = at;
    for (int w = 0; w < {words}; w++)
      at = add_words{bits}(in + w * {bits // 8}, first, run, (uint8_t *)part + w * {bits // 8});"""
        return f"""\
{self._start_of_lists()}
for (int o = 0; o < {outputs}; o++) {{
  uint32_t sum[{times}] = {{0}};
  for (int parts = 2 * (int)*run++; parts > 0; parts--) {{
    {source.type} part[{source.lanes}];
    {add}
    for (int t = 0; t < {times}; t++) sum[t] += (uint32_t)run[0] * (uint32_t)part[t];
    run = next_part(run);
  }}
  for (int t = 0; t < {times}; t++)
    current[t * {outputs} + o] = (sum[t] << {known["shift"]}) + {known["constant"]};
}}"""

    def _gather_rows(self) -> str:
        source, outputs, times = self.source, self.step.shape[2], self.source.times
        known, type_ = self.neurons.known, f"uint{self.sum_bits}_t"
        return f"""\
static {type_} sum[{times * outputs}];
memset(sum, 0, sizeof sum);
for (int i = 0; i < {source.wire.size}; i++)
  for (int t = 0; t < {times}; t++) {{
    const uint32_t value = signal{self.step.source}[i * {source.lanes} + t];
    if (value == 0) continue;
    {type_} *to = sum + t * {outputs};
    for (int o = 0; o < {outputs}; o++)
      to[o] = ({type_})(to[o] + value * (uint32_t){self.name}_rows[i * {outputs} + o]);
  }}
for (int t = 0; t < {times}; t++)
  for (int o = 0; o < {outputs}; o++) {{
    const uint32_t value = (uint32_t)(int{self.sum_bits}_t)sum[t * {outputs} + o];
    current[t * {outputs} + o] = (value << {known["shift"]}) + {known["constant"]};
  }}"""


def _indent(text: str, by: int) -> str:
    return "\n".join(" " * by + line if line else line for line in text.split("\n"))
