"""The C of a layer with weights on a microcontroller (`mcu`), and of the signals between layers."""

from dataclasses import dataclass

from jaxsnn.compile.digits import narrowest_type
from jaxsnn.compile.plan import Plan, Weigh, Wire
from jaxsnn.compile.second import leave, reached
from jaxsnn.compile.streams import Stream
from jaxsnn.export.integer.second import CURRENT

__all__ = ["McuLayer", "declare", "read", "size_of", "write"]


def _type_of(signal: Wire) -> str:
    """Return the C type of a signal's values."""
    return narrowest_type([signal.low, signal.high], signed=signal.low < 0)


def _is_bits(signal: Wire) -> bool:
    return (signal.low, signal.high) == (0, 1)


def declare(plan: Plan, index: int) -> str:
    """Return the definition of a signal: bytes of bits for spikes, integers else."""
    signal = plan.signals[index]
    if _is_bits(signal):
        return f"static uint8_t signal{index}[{size_of(plan, index)}];"
    return f"static {_type_of(signal)} signal{index}[{signal.size}];"


def size_of(plan: Plan, index: int) -> int:
    """Return the bytes of a signal."""
    signal = plan.signals[index]
    if _is_bits(signal):
        return -(-signal.size // 8)
    return signal.size * _bytes(_type_of(signal))


def read(plan: Plan, index: int, place: str) -> str:
    """Return how a value is read; the input is read where the caller has it."""
    if index == 0:
        return f"clip(frame[{place}])"
    if _is_bits(plan.signals[index]):
        return f"bit_at(signal{index}, {place})"
    return f"signal{index}[{place}]"


def write(plan: Plan, index: int, place: str, value: str) -> str:
    """Return how a value is written."""
    signal = plan.signals[index]
    if _is_bits(signal):
        return f"put_bit(signal{index}, {place}, {value});"
    return f"signal{index}[{place}] = ({_type_of(signal)}){value};"


def _bytes(type_: str) -> int:
    return int(type_.strip("uint_")) // 8


@dataclass(frozen=True)
class McuLayer:
    """A layer: its streams of weights, and how C reads its constants."""

    plan: Plan
    step: Weigh
    weights: Stream
    heard: Stream | None  # of the recurrent weights
    known: dict[str, str]
    varying: dict[str, str]  # tables of constants that differ between channels
    sizes: dict[str, int]  # of these, in bytes
    current_type: str  # of what a constant input sums up to

    @property
    def name(self) -> str:
        return f"mcu_{self.step.identifier}"

    @property
    def _last(self) -> bool:
        return self.step is self.plan.steps[-1]

    @property
    def _steady(self) -> bool:
        return self.plan.signals[self.step.source].constant

    @property
    def _type(self) -> str:
        return next(f"int{n}_t" for n in (8, 16, 32) if self.step.neurons.bits <= n)

    @property
    def _states(self) -> tuple[str, ...]:
        """The arrays of what its neurons carry."""
        more = () if self.step.neurons.second is None else ("second",)
        return "potential", *more

    @property
    def _hearing(self) -> str:
        """The array that takes what the layer hears."""
        return "second" if self.step.neurons.current else "potential"

    @property
    def arguments(self) -> str:
        """What its step is called with."""
        units = "units" if self._last else ""
        if self.step.neurons.reset is None:
            return units
        return f"{units} TRACE({',' if units else ''} counts)".strip()

    @property
    def state_bytes(self) -> int:
        """The bytes of potentials, and of currents that are kept."""
        each = len(self._states) * _bytes(self._type)
        each += self._steady * _bytes(self.current_type)
        return self.step.size * each

    @property
    def table_bytes(self) -> int:
        """The bytes of its constants."""
        used = self._functions()
        total = self.weights.size + (0 if self.heard is None else self.heard.size)
        return total + sum(size for array, size in self.sizes.items() if f"{array}[" in used)

    def code(self) -> str:
        """Return tables, state and functions."""
        rows, columns, outputs = self.step.shape
        functions = self._functions()
        tables = [self.weights.tables(self.name)]
        if self.heard is not None:
            tables.append(self.heard.tables(f"{self.name}_self"))
        tables += [text for array, text in self.varying.items() if f"{array}[" in functions]
        gaps, bits = self.weights.gap_bits, self.weights.code_bits
        state = [
            f"static {self._type} {self.name}_{each}[{self.step.size}];" for each in self._states
        ]
        if self._steady:
            state.append(f"static {self.current_type} {self.name}_current[{self.step.size}];")
        return "\n".join(
            [
                f"/* {self.step.name}: {rows} x {columns} x {outputs}, "
                f"weights of {bits} bits, gaps of {gaps} */",
                *(text.rstrip("\n") for text in tables),
                *state,
                "",
                functions,
            ]
        )

    def _functions(self) -> str:
        return self._rest() + self._hear() + self._step()

    def _rest(self) -> str:
        zeros = " = ".join(f"{self.name}_{each}[n]" for each in self._states)
        rest = f"for (int n = 0; n < {self.step.size}; n++) {zeros} = 0;"
        return f"static void {self.name}_rest(void) {{\n  {rest}\n}}\n"

    def _hear(self) -> str:
        """Return the function that adds what the input weighs, or computes it once."""
        name, steady = self.name, self._steady
        type_, to = (self.current_type, "current") if steady else (self._type, self._hearing)
        scale = "1" if steady else self.known["scale"]
        clear = (
            f"  for (int n = 0; n < {self.step.size}; n++) {name}_current[n] = 0;\n"
            if steady
            else ""
        )
        body = self._dense(to) if self._is_dense else self._windows(to)
        text = self.weights.add(name, type_, scale)
        if self.heard is not None:
            text += self.heard.add(f"{name}_self", self._type, "1")
        return text + f"static void {name}_hear(void) {{\n{clear}{body}}}\n"

    @property
    def _is_dense(self) -> bool:
        """Whether the input is one row of channels, whatever shape it came in."""
        size, _, channels, _ = self.step.kernel.shape
        return size == 1 and bool(channels == self.plan.signals[self.step.source].size)

    def _dense(self, to: str) -> str:
        source = self.plan.signals[self.step.source]
        return f"""\
  for (int c = 0; c < {source.size}; c++) {{
    const int32_t value = {read(self.plan, self.step.source, "c")};
    if (value != 0) {self.name}_add((uint32_t)c, value, {self.name}_{to});
  }}
"""

    def _windows(self, to: str) -> str:
        """Return the loops over an image: a value reaches the outputs whose windows it is in."""
        step, source = self.step, self.plan.signals[self.step.source]
        size, stride, border = step.kernel.shape[0], step.stride, source.border[0]
        rows, columns, outputs = step.shape
        height, width, channels = source.shape

        def outside(what: str, most: int) -> str:
            uneven = "" if stride == 1 else f" || {what} % {stride}"
            return f"{what} < 0{uneven} || {what} / {stride} >= {most}"

        place = f"(row / {stride} * {columns} + column / {stride}) * {outputs}"
        return f"""\
  int n = 0;
  for (int y = 0; y < {height}; y++)
    for (int x = 0; x < {width}; x++)
      for (int c = 0; c < {channels}; c++, n++) {{
        const int32_t value = {read(self.plan, step.source, "n")};
        if (value == 0) continue;
        for (int i = 0; i < {size}; i++) {{
          const int row = y + {border} - i;
          if ({outside("row", rows)}) continue;
          for (int j = 0; j < {size}; j++) {{
            const int column = x + {border} - j;
            if ({outside("column", columns)}) continue;
            const uint32_t at = (uint32_t)((c * {size} + i) * {size} + j);
            {self.name}_add(at, value, {self.name}_{to} + {place});
          }}
        }}
      }}
"""

    def _step(self) -> str:
        """Return the function of a step of time."""
        step, name = self.step, self.name
        units = "int32_t *units" if self._last else ""
        counts = f" TRACE({',' if units else ''} int32_t *counts)" if step.neurons.reset else ""
        empty = "" if units or counts else "void"
        parts = [self._loop(self._leave())]
        if self.heard is not None:
            parts.append(f"""\
  for (int c = 0; c < {step.size}; c++)
    if ({read(self.plan, step.target, "c")})
      {name}_self_add((uint32_t)c, 1, {name}_{self._hearing});
""")
        if not self._steady:
            parts.append(f"  {name}_hear();\n")
        parts.append(self._loop(self._fire()))
        return f"static void {name}_step({units}{counts}{empty}) {{\n{''.join(parts)}}}\n"

    def _loop(self, lines: list[str]) -> str:
        """Return a loop over all neurons: `n`, and the position and channel if they are asked."""
        rows, columns, outputs = self.step.shape
        if any("y *" in line for line in lines):
            head = f"""\
  for (int y = 0, n = 0; y < {rows}; y++)
    for (int x = 0; x < {columns}; x++)
      for (int o = 0; o < {outputs}; o++, n++) {{
"""
        elif any("[o]" in line for line in lines):
            again = "o++" if self.step.size == outputs else f"o = o + 1 < {outputs} ? o + 1 : 0"
            head = f"  for (int n = 0, o = 0; n < {self.step.size}; n++, {again}) {{\n"
        else:
            head = f"  for (int n = 0; n < {self.step.size}; n++) {{\n"
        return head + "".join(f"    {line}\n" for line in lines) + "  }\n"

    def _leave(self) -> list[str]:
        """Return what reset, decay and all that is not weighed leave of a potential."""
        step, neurons, known, name = self.step, self.step.neurons, self.known, self.name
        lines = [f"int32_t u = {name}_potential[n];"]
        if neurons.second is not None:
            lines.append(f"int32_t s = {name}_second[n];")
        if neurons.reset is not None:
            lines.append(f"const int32_t before = {reached(neurons, known['level'])};")
            if neurons.fires_first or self.heard is not None:
                lines.append(write(self.plan, step.target, "n", "before"))
        hearing = "s" if neurons.current else "u"
        lines += [
            *leave(neurons, known),
            f"uint32_t sum = (uint32_t){hearing} + (uint32_t){known['bias']};",
        ]
        if self._steady:
            lines.append(f"sum += (uint32_t){name}_current[n] * (uint32_t){known['scale']};")
        if step.shortcut is not None:
            added = step.shortcut
            signal = self.plan.signals[added.signal]
            wide, across = signal.shape[1] * signal.shape[2], signal.shape[2]
            place = f"y * {added.stride * wide} + x * {added.stride * across} + {known['from']}"
            value = read(self.plan, added.signal, place)
            lines.append(f"sum += (uint32_t){value} * (uint32_t){known['gain']};")
        if neurons.current:
            lines.append(f"{name}_potential[n] = ({self._type})u;")
        elif neurons.second is not None:
            lines.append(f"{name}_second[n] = ({self._type})s;")
        return [*lines, f"{name}_{self._hearing}[n] = ({self._type})sum;"]

    def _fire(self) -> list[str]:
        """Return how a neuron fires, or a read-out is summed up."""
        step, neurons = self.step, self.step.neurons
        if neurons.reset is None:
            return [f"units[n] += {self.name}_potential[n];"]
        lines, fired = [], read(self.plan, step.target, "n")
        potential, second = (f"{self.name}_{each}[n]" for each in ("potential", "second"))
        if neurons.current == CURRENT:
            both = f"(uint32_t){potential} + (uint32_t){second}"
            lines.append(f"{potential} = ({self._type})({both});")
        if neurons.rises:
            lines.append(f"const int32_t s = {second};")
        if not neurons.fires_first:
            lines.append(f"const int32_t u = {potential};")
            fires = reached(neurons, self.known["level"])
            lines.append(write(self.plan, step.target, "n", fires))
        lines += [f"units[n] += {fired};"] if self._last else []
        return [*lines, f"TRACE(counts[{self.plan.first_count(step)} + n] += {fired};)"]
