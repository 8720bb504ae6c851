"""A layer with weights for one sample, all its steps of time at once (`folded.c`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jaxsnn.compile.digits import constants, table
from jaxsnn.compile.folded_neurons import NeuronCode, neurons_of
from jaxsnn.compile.layouts import Layout
from jaxsnn.compile.plan import Plan, Pool, Weigh
from jaxsnn.compile.sums import SumLists, list_sums
from jaxsnn.compile.trains import ends_of_trains

__all__ = ["FoldedLayer", "indent", "lists"]

ABREAST = 16  # loops over positions are as many times as long
ROOM = 64  # bytes of the widest word


@dataclass(frozen=True)
class FoldedLayer:
    """A layer whose neurons lie at positions, and the layouts of what it reads, writes and adds.

    Attributes:
      plan: the network.
      step: the layer.
      source: what it reads.
      target: what it writes, pooled or not; None for the scores.
      beside: what its shortcut reads.
      pool: what its spikes go through before they are written.
    """

    plan: Plan
    step: Weigh
    source: Layout
    target: Layout | None
    beside: Layout | None = None
    pool: Pool | None = None

    @property
    def name(self) -> str:
        return f"fold_{self.step.identifier}"

    @property
    def positions(self) -> int:
        """The places of a channel's neurons; some lie beyond the edges."""
        return positions_of(self.step, self.source)

    @property
    def plane(self) -> int:
        """The values between two steps of time of a channel."""
        return self.source.rows * self.source.columns

    @property
    def lanes(self) -> int:
        """The values that an addition adds."""
        return (self.source.times - 1) * self.plane + self.positions

    @cached_property
    def sums(self) -> SumLists:
        """The places, in bytes, that each output adds up."""
        size, _, channels, outputs = self.step.kernel.shape
        source = self.source
        places = [
            source.tap(row, column, channel)
            for row in range(size)
            for column in range(size)
            for channel in range(channels)
        ]
        kernel = self.step.kernel.reshape(-1, outputs)
        return list_sums(kernel, np.array(places) * (source.bits // 8), source.span, source.bits)

    @cached_property
    def neurons(self) -> NeuronCode:
        """How C takes the layer's neurons through a step."""
        added = self.step.shortcut
        constant = constant_of(self.step, self.source.wire.low)
        more: dict[str, np.ndarray] = {}
        if added is not None:
            constant = constant + added.weight * self.plan.signals[added.signal].low
            more = {"from": added.sources, "gain": added.weight}
        if self.sums.factors is not None:
            more = {**more, "times": self.sums.factors}
        return neurons_of(self.name, self.step, constant, more, narrow=True)

    @property
    def sum_bits(self) -> int:
        """The bits of a weighted sum."""
        return 16 if self.sums.largest < 2**15 else 32

    @property
    def places(self) -> list[int]:
        """The places that its lists name."""
        return self.sums.places

    @property
    def table_bytes(self) -> int:
        """The bytes of its weights, where they name places of 16 bits."""
        return 4 * len(self.sums.runs) + 2 * len(self.sums.places)

    @property
    def state_bytes(self) -> int:
        """The bytes that it writes, its output aside."""
        sums = self.lanes * (self.sum_bits + 2 * self.source.bits) // 8
        each = self.plan.timesteps + len(self.neurons.states) * self.neurons.bits // 8
        return sums + self.positions * each

    @property
    def call(self) -> str:
        """How C calls the layer."""
        return call_of(self.name, self.step, self.target)

    def code(self) -> str:
        """Return tables and function."""
        steps, last = self.plan.timesteps, self.target is None
        through, arrays = self._compare()
        if not through:
            through = self.neurons.through_time(self.positions, steps, self._drive(), last=last)
        body = f"""\
{indent(self._sum_state(), 2)}
{indent(self.neurons.state(self.positions, steps, last=last), 2)}
  const uint8_t *in = (const uint8_t *)signal{self.step.source};
  const PART *run = {self.name}_runs;
  const PLACE *at = {self.name}_places;
  for (int o = 0; o < {self.step.shape[2]}; o++) {{
{indent(self._sum(), 4)}
{indent(self._beside(), 4)}
{indent(through, 4)}
{indent(self._write(), 4)}
  }}"""
        return lists(self.name, self.sums) + function_of(
            self.name, self.step, self.target, {**self.neurons.arrays, **arrays}, body
        )

    @property
    def _simple(self) -> bool:
        """Whether each sum is a factor times the first part less the second."""
        return self.sums.factors is not None and self.sum_bits == 16

    def _sum_state(self) -> str:
        room = -(-self.lanes * self.source.bits // 8 // ROOM) * ROOM * 8 // self.source.bits
        parts = f"static {self.source.type} part0[{room}], part1[{room}];"
        return parts if self._simple else f"{parts}\nstatic uint{self.sum_bits}_t sum[{room}];"

    def _sum(self) -> str:
        """Return how the weighted sums of a channel come about."""
        size = self.lanes * self.source.bits // 8
        if self._simple:
            return f"""\
at = add_rows(in, at, ++run, (uint8_t *)part0, {size});
run = next_part(run);
at = add_rows(in, at, run, (uint8_t *)part1, {size});
run = next_part(run);"""
        type_, pair = f"uint{self.sum_bits}_t", "f0 * part0[i] + f1 * part1[i]"
        loop = f"for (int i = 0; i < {self.lanes}; i++)"
        return f"""\
const int pairs = (int)*run++;
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
        value = f"sum[{at}]"
        if self._simple:
            times = self.neurons.known["times"]
            value = f"part0[{at}] - part1[{at}]"
            value = value if times == "1" else f"({value}) * {times}"
        value = f"(uint32_t)(int{self.sum_bits}_t)({value})"
        drive = f"({value} << {self.neurons.known['shift']}) + {self.neurons.known['constant']}"
        if self.beside is not None:
            drive += f" + more[TIME * {self.positions} + i]"
        return f"(uint16_t)({drive})" if self.neurons.bits == 16 else drive

    def _compare(self) -> tuple[str, dict[str, str]]:
        """Return a loop that compares sums with the ends of spike trains, and arrays of these.

        Nothing where the current changes, or the comparisons would be many.
        """
        steady, factors = self.source.wire.constant and self.beside is None, self.sums.factors
        if self.step.neurons.second is not None:
            return "", {}
        if not (steady and self.neurons.fires) or self.target is None:
            return "", {}
        if factors is None or not self._simple:
            return "", {}
        step, steps = self.step, self.plan.timesteps
        added = constant_of(step, self.source.wire.low)
        ends = ends_of_trains(step, factors, added, self.sums.largest, steps)
        if ends is None:
            return "", {}
        numbers = {
            f"end{t}_{k}": values for t, each in enumerate(ends) for k, values in enumerate(each)
        }
        known, arrays = constants(f"{self.name}_each", numbers)
        lines = [f"const int16_t {name} = {value};" for name, value in known.items()]
        lines += [
            f"for (int i = 0; i < {self.positions}; i++) {{",
            "  const int16_t v = (int16_t)(part0[i] - part1[i]);",
            "  (void)v;",
        ]
        for t, each in enumerate(ends):
            reached = " ^ ".join(f"(v >= end{t}_{k})" for k in range(len(each))) or "0"
            lines.append(f"  fired[{t * self.positions} + i] = (uint8_t)({reached});")
        return "\n".join([*lines, "}"]), arrays

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
        elif self.pool is not None:
            lines += self._pooled(self.pool, self.target, times)
        else:
            place = self.target.place("o", "t", "y", "x")
            lines += [times, f"  {positions} signal{self.step.target}[{place}] = {fired};"]
        if self.neurons.fires:
            first = self.plan.first_count(self.step)
            lines.append(f"TRACE({times}\n  {positions} counts[{first} + {unit}] += {fired};)")
        return "\n".join(lines)

    def _pooled(self, pool: Pool, target: Layout, times: str) -> list[str]:
        """Return how spikes are pooled: along the rows, all at once, then along the columns."""
        n, places = pool.size, self.plan.timesteps * self.positions // pool.size
        join = " + " if pool.kind == "sum" else " | "
        along = join.join(f"fired[{n} * i + {k}]" for k in range(n))
        apart = self.source.columns // n
        begin = f"t * {self.positions // n} + y * {n * apart} + x"
        down = join.join(f"across[{begin} + {k * apart}]" for k in range(n))
        place = target.place("o", "t", "y", "x")
        return [
            f"static uint8_t across[{places}];",
            f"for (int i = 0; i < {places}; i++) across[i] = (uint8_t)({along});",
            times,
            f"  for (int y = 0; y < {pool.shape[0]}; y++)",
            f"    for (int x = 0; x < {pool.shape[1]}; x++)",
            f"      signal{pool.target}[{place}] = ({target.type})({down});",
        ]


def positions_of(step: Weigh, source: Layout) -> int:
    """Return how many places the neurons of a channel take, some of them beyond the edges."""
    return -(-step.shape[0] * source.columns // ABREAST) * ABREAST


def can_pool(step: Weigh, source: Layout, pool: Pool) -> bool:
    """Return whether a layer can pool its spikes before it writes them."""
    sides = positions_of(step, source), source.columns
    return all(side % pool.size == 0 for side in sides) and pool.size < 2**8


def constant_of(step: Weigh, low: int) -> np.ndarray:
    """Return what is added to each output's current at each step, int64 `[O]`."""
    return np.asarray((low * step.kernel.sum((0, 1, 2)) << step.shift) + step.bias)


def lists(name: str, sums: SumLists) -> str:
    """Return the lists of a layer as tables."""
    runs, places = sums.runs, sums.places
    return table("PART", f"{name}_runs", runs) + table("PLACE", f"{name}_places", places)


def function_of(
    name: str, step: Weigh, target: Layout | None, arrays: Mapping[str, str], body: str
) -> str:
    """Return a layer's constants and its function."""
    rows, columns, outputs = step.shape
    tables = [text for array, text in arrays.items() if array in body]
    parameters = _list(step, target, "int32_t *units", "int32_t *counts") or "void"
    heading = f"/* {step.name}: {rows} x {columns} x {outputs} */"
    return "\n".join([*tables, heading, f"static void {name}({parameters}) {{\n{body}\n}}\n"])


def call_of(name: str, step: Weigh, target: Layout | None) -> str:
    """Return how C calls a layer."""
    return f"{name}({_list(step, target, 'units', 'counts')});"


def _list(step: Weigh, target: Layout | None, units: str, counts: str) -> str:
    if step.neurons.reset is None:
        return units if target is None else ""
    return f"{units} TRACE(, {counts})" if target is None else f"TRACE({counts})"


def indent(text: str, by: int) -> str:
    """Return lines moved to the right."""
    return "\n".join(" " * by + line if line else line for line in text.split("\n"))
