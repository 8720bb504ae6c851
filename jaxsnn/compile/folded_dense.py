"""A dense layer for one sample, all its steps of time at once (`folded.c`).

A word holds an input's steps of time. Few weights become an expression for each output; many become
lists; a matrix with hardly a zero is added row by row, for the inputs that are not 0.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jaxsnn.compile import events
from jaxsnn.compile.digits import narrowest_type, table
from jaxsnn.compile.folded_layers import call_of, constant_of, function_of, indent, lists
from jaxsnn.compile.folded_neurons import NeuronCode, neurons_of
from jaxsnn.compile.layouts import Layout
from jaxsnn.compile.plan import Plan, Weigh
from jaxsnn.compile.sums import SumLists, list_sums

__all__ = ["DenseLayer"]


@dataclass(frozen=True)
class DenseLayer:
    """A layer without positions, and the layouts of what it reads and writes.

    Attributes:
      plan: the network.
      step: the layer.
      source: what it reads.
      target: what it writes; None for the scores.
      way: how it adds up: "terms", "lists" or "rows".
    """

    plan: Plan
    step: Weigh
    source: Layout
    target: Layout | None
    way: str

    @property
    def name(self) -> str:
        return f"fold_{self.step.identifier}"

    @cached_property
    def matrix(self) -> np.ndarray:
        """The weights in the order of the source's memory, `[inputs, O]`."""
        kernel = self.step.kernel[0, 0]
        order = np.argsort([self.source.feature(index) for index in range(len(kernel))])
        return np.asarray(kernel[order])

    @cached_property
    def sums(self) -> SumLists:
        """The places, in bytes, that each output adds up."""
        source = self.source
        places = np.arange(len(self.matrix)) * source.lanes * (source.bits // 8)
        return list_sums(self.matrix, places, source.span, source.bits)

    @cached_property
    def neurons(self) -> NeuronCode:
        """How C takes the layer's neurons through a step."""
        constant = constant_of(self.step, self.source.wire.low)
        return neurons_of(self.name, self.step, constant, {}, narrow=False)

    @property
    def places(self) -> list[int]:
        """The places that its lists name."""
        return self.sums.places if self.way == "lists" else []

    @property
    def table_bytes(self) -> int:
        """The bytes of its weights, where they name places of 16 bits; expressions are code."""
        if self.way == "rows":
            return int(self.matrix.size)
        if self.way == "terms":
            return 0
        return 4 * len(self.sums.runs) + 2 * len(self.sums.places)

    @property
    def state_bytes(self) -> int:
        """The bytes that it writes, its output aside."""
        return self.step.size * 4 * (len(self.neurons.states) + self.source.times)

    @property
    def call(self) -> str:
        """How C calls the layer."""
        return call_of(self.name, self.step, self.target)

    def code(self) -> str:
        """Return tables and function."""
        outputs, times, name = self.step.shape[2], self.source.times, self.name
        add = {"terms": self._terms, "lists": self._lists, "rows": self._rows}[self.way]()
        tables = ""
        if self.way == "lists":
            tables = lists(name, self.sums)
        elif self.way == "rows":
            values = self.matrix.ravel().tolist()
            tables = table(narrowest_type(values, signed=True), f"{name}_rows", values)
        arrays = [f"{name}_{each}" for each in self.neurons.states]
        kept = dict(zip("us", arrays, strict=False))
        state = [f"{array}[{outputs}]" for array in kept.values()]
        heard, drive = "", f"current[{'' if self.source.wire.constant else f't * {outputs} + '}o]"
        if self.step.recurrent is not None:
            tables += events.scatter(f"{name}_self", self.step.recurrent[None, None])
            state.append(f"{name}_heard[{outputs}]")
            heard = indent(events.hear(name, self.step, self.neurons.known["level"]), 2)
            drive += f" + (uint32_t){name}_heard[o]"
        lines = "\n".join(
            [
                *(f"int32_t {state} = {array}[o];" for state, array in kept.items()),
                *self.neurons.lines(drive),
                *self._write(),
                *(f"{array}[o] = {state};" for state, array in kept.items()),
            ]
        )
        rests = "\n".join(f"  memset({array}, 0, sizeof {array});" for array in kept.values())
        body = f"""\
  static uint32_t current[{times * outputs}];
  static int32_t {", ".join(state)};
{indent(add, 2)}
{rests}
  for (int t = 0; t < {self.plan.timesteps}; t++) {{
{heard}
    for (int o = 0; o < {outputs}; o++) {{
{indent(lines, 6)}
    }}
  }}"""
        return tables + function_of(name, self.step, self.target, self.neurons.arrays, body)

    def _write(self) -> list[str]:
        """Return where a spike or a read-out goes."""
        fires, lines = self.neurons.fires, []
        if self.target is None:
            lines.append(f"units[o] += {'fires' if fires else 'u'};")
        else:
            place = self.target.place("o", "t", "0", "0")
            lines.append(f"signal{self.step.target}[{place}] = (uint8_t)fires;")
        if fires:
            lines.append(f"TRACE(counts[{self.plan.first_count(self.step)} + o] += fires;)")
        return lines

    def _current(self, value: str) -> str:
        shift, constant = (self.neurons.known[what] for what in ("shift", "constant"))
        return f"current[t * {self.step.shape[2]} + o] = ({value} << {shift}) + {constant};"

    def _terms(self) -> str:
        """Return sums as expressions, in words of 16 bits a step.

        A sum of words is the sum of their steps as long as no step leaves 16 bits; half of 2**16 is
        added to each, so that none is negative.
        """
        source, words, type_ = self.source, self.source.word_count, self.source.word_type
        half = sum(2**15 << at for at in range(0, source.word_bits, 16))
        lines = [
            f"const {type_} *w = in + k;",
            "(void)w;",
            *(self._expression(o, half) for o in range(self.step.shape[2])),
        ]
        text = indent("\n".join(lines), 2)
        size = len(self.matrix) * words
        return f"""\
static {type_} in[{size}], sum[{words * self.step.shape[2]}];
memcpy(in, signal{self.step.source}, sizeof in);
for (int k = 0; k < {words}; k++) {{
{text}
}}
for (int o = 0; o < {self.step.shape[2]}; o++) {{
  uint16_t part[{source.lanes}];
  memcpy(part, sum + o * {words}, sizeof part);
  for (int t = 0; t < {source.times}; t++)
    {self._current("(uint32_t)(part[t] - 32768)")}
}}"""

    def _expression(self, output: int, half: int) -> str:
        words = self.source.word_count
        column = self.matrix[:, output]
        line, lines = f"sum[{output * words} + k] = UINT{self.source.word_bits}_C({half})", []
        for index in np.flatnonzero(column).tolist():
            weight = int(column[index])
            factor = "" if abs(weight) == 1 else f"{abs(weight)} * "
            term = f" {'-' if weight < 0 else '+'} {factor}w[{index * words}]"
            if len(line) + len(term) > 90:
                lines.append(line)
                line = "   "
            line += term
        return "\n".join([*lines, line + ";"])

    def _lists(self) -> str:
        """Return sums of what lists name."""
        source, bits = self.source, self.source.word_bits
        words = source.word_count
        if words == 1:
            add = f"at = add_words{bits}(in, at, run, (uint8_t *)part);"
        else:
            add = f"""\
const PLACE *first = at;
    for (int w = 0; w < {words}; w++)
      at = add_words{bits}(in + w * {bits // 8}, first, run, (uint8_t *)part + w * {bits // 8});"""
        return f"""\
const uint8_t *in = (const uint8_t *)signal{self.step.source};
const PART *run = {self.name}_runs;
const PLACE *at = {self.name}_places;
for (int o = 0; o < {self.step.shape[2]}; o++) {{
  uint32_t sum[{source.times}] = {{0}};
  for (int parts = 2 * (int)*run++; parts > 0; parts--) {{
    {source.type} part[{source.lanes}];
    {add}
    for (int t = 0; t < {source.times}; t++) sum[t] += (uint32_t)run[0] * (uint32_t)part[t];
    run = next_part(run);
  }}
  for (int t = 0; t < {source.times}; t++) {self._current("sum[t]")}
}}"""

    def _rows(self) -> str:
        """Return sums of the rows of inputs that are not 0."""
        source, outputs, times = self.source, self.step.shape[2], self.source.times
        most = int(np.abs(self.matrix).sum(0).max()) * source.span
        bits = 16 if most < 2**15 else 32
        type_ = narrowest_type(self.matrix.ravel().tolist(), signed=True)
        value = f"(uint32_t)(int{bits}_t)sum[t * {outputs} + o]"
        return f"""\
static uint{bits}_t sum[{times * outputs}];
memset(sum, 0, sizeof sum);
for (int i = 0; i < {source.wire.size}; i++)
  for (int t = 0; t < {times}; t++) {{
    const int32_t value = (int32_t)signal{self.step.source}[i * {source.lanes} + t];
    if (value == 0) continue;
    const {type_} *row = {self.name}_rows + i * {outputs};
    uint{bits}_t *to = sum + t * {outputs};
    for (int o = 0; o < {outputs}; o++)
      to[o] = (uint{bits}_t)(to[o] + (uint32_t)(value * row[o]));
  }}
for (int t = 0; t < {times}; t++)
  for (int o = 0; o < {outputs}; o++) {self._current(value)}"""
