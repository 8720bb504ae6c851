"""C for one sample at a time, driven by events: work is what the spikes ask for, memory is small.

Every step of time runs through all layers. An input that is not 0 adds its weights, which lie
together, to the currents of the outputs that it reaches; then the neurons take one step.
"""

from dataclasses import dataclass
from importlib import resources

import numpy as np

from jaxsnn.compile.digits import constants, narrowest_type, table
from jaxsnn.compile.plan import Plan, Pool, Weigh, Wire
from jaxsnn.compile.second import hears, leave, reached, second_numbers
from jaxsnn.export.integer.second import CURRENT

__all__ = ["Engine", "emit", "hear", "numbers_of", "scatter"]


@dataclass(frozen=True)
class Engine:
    """The C of the engine for one sample: tables, state and functions, and how to call them."""

    functions: str
    calls: str
    state_bytes: int  # of static memory that is written
    table_bytes: int  # of constants
    takes_many: bool = False  # whether many samples can go through it, too


def emit(plan: Plan) -> Engine:
    """Return the C of a plan."""
    common = resources.files("jaxsnn.compile") / "events.c"
    lines = [common.read_text(encoding="utf-8"), _buffers(plan)]
    calls: list[str] = []
    rests: list[str] = []
    steady: list[str] = []  # what a constant input asks for once
    for step in plan.steps:
        source = plan.signals[step.source]
        if isinstance(step, Pool):
            lines.append(_pool(plan, step))
            (steady if source.constant else calls).append(f"one_pool{step.target}();")
            continue
        lines.append(_weigh(plan, step))
        name = f"one_{step.identifier}"
        (steady if source.constant else calls).append(f"{name}_gather();")
        calls.append(f"{name}_step({_arguments(step, plan)});")
        rests.append(f"{name}_rest();")
    frame = "sample" if plan.input.constant else f"sample + t * {plan.input.size}"
    take = f"signal0[i] = ({_type(plan.input)})clip(({frame})[i]);"
    load = f"for (int i = 0; i < {plan.input.size}; i++) {take}"
    body = ["memset(units, 0, sizeof units);", *rests]
    if plan.input.constant:
        body += [load, *steady]
    body.append(f"for (int t = 0; t < {plan.timesteps}; t++) {{")
    body += ["  " + line for line in ([] if plan.input.constant else [load]) + calls]
    body.append("}")
    text = "\n".join(lines)
    return Engine(text, "\n".join("  " + line for line in body), _state(plan), _tables(plan))


def _arguments(step: Weigh, plan: Plan) -> str:
    units = "units" if step is plan.steps[-1] else ""
    if step.neurons.reset is None:
        return units
    return f"{units} TRACE({',' if units else ''} counts)"


def _type(signal: Wire) -> str:
    return narrowest_type([signal.low, signal.high], signed=signal.low < 0)


def _potential_type(step: Weigh) -> str:
    return next(f"int{n}_t" for n in (8, 16, 32) if step.neurons.bits <= n)


BYTES = {"int8_t": 1, "uint8_t": 1, "int16_t": 2, "uint16_t": 2, "int32_t": 4, "uint32_t": 4}


def _state(plan: Plan) -> int:
    total = sum(signal.size * BYTES[_type(signal)] for signal in plan.signals)
    for step in plan.layers:
        states = 1 + (step.neurons.second is not None)
        each = 4 + states * BYTES[_potential_type(step)] + 4 * (step.recurrent is not None)
        total += step.size * each
    return total + 4 * plan.classes * plan.voters


def _tables(plan: Plan) -> int:
    total = 0
    for step in plan.layers:
        starts, outputs, weights = _lists(step.kernel)
        total += len(starts) * BYTES[narrowest_type(starts)]
        total += len(outputs) * (
            BYTES[narrowest_type(outputs)] + BYTES[narrowest_type(weights, signed=True)]
        )
    return total


def _buffers(plan: Plan) -> str:
    lines = ["/* the values of a step, between two layers */"]
    for index, signal in enumerate(plan.signals[:-1]):
        lines.append(f"static {_type(signal)} signal{index}[{signal.size}];")
    last = plan.steps[-1]
    if isinstance(last, Weigh) and last.neurons.reset is not None:
        lines.append(f"static uint8_t signal{last.target}[{plan.signals[-1].size}];")
    return "\n".join(lines) + "\n"


def _lists(kernel: np.ndarray) -> tuple[list[int], list[int], list[int]]:
    """Return starts of each input channel and place, and the outputs and weights that are there."""
    size, _, channels, _ = kernel.shape
    starts, outputs, weights = [0], [], []
    for channel in range(channels):
        for row in range(size):
            for column in range(size):
                there = kernel[row, column, channel]
                used = np.flatnonzero(there)
                outputs += used.tolist()
                weights += there[used].tolist()
                starts.append(len(outputs))
    return starts, outputs, weights


def scatter(name: str, kernel: np.ndarray) -> str:
    """Return the tables of a kernel: for each input and place, outputs and weights."""
    starts, outputs, weights = _lists(kernel)
    return (
        table(narrowest_type(starts), f"{name}_start", starts)
        + table(narrowest_type(outputs), f"{name}_output", outputs)
        + table(narrowest_type(weights, signed=True), f"{name}_weight", weights)
    )


def _pool(plan: Plan, step: Pool) -> str:
    source, target = plan.signals[step.source], plan.signals[step.target]
    rows, columns, channels = step.shape
    wide = source.shape[1] * channels
    start = "0" if step.kind == "sum" else "from[0]"
    join = "value += v;" if step.kind == "sum" else "value = v > value ? v : value;"
    return f"""\
static void one_pool{step.target}(void) {{
  for (int y = 0; y < {rows}; y++)
    for (int x = 0; x < {columns}; x++)
      for (int c = 0; c < {channels}; c++) {{
        const {_type(source)} *from = signal{step.source} + y * {step.size * wide}
          + x * {step.size * channels} + c;
        int32_t value = {start};
        for (int i = 0; i < {step.size}; i++)
          for (int j = 0; j < {step.size}; j++) {{
            const int32_t v = from[i * {wide} + j * {channels}];
            {join}
          }}
        signal{step.target}[(y * {columns} + x) * {channels} + c] = ({_type(target)})value;
      }}
}}
"""


def _weigh(plan: Plan, step: Weigh) -> str:
    name, source = f"one_{step.identifier}", plan.signals[step.source]
    rows, columns, outputs = step.shape
    size = rows * columns * outputs
    # A dense layer reads its input as one row of channels, whatever shape it came in.
    in_rows, in_columns, channels = (
        source.shape if step.kernel.shape[0] > 1 or rows * columns > 1 else (1, 1, source.size)
    )
    tables = [scatter(name, step.kernel)]
    if step.recurrent is not None:
        tables.append(scatter(f"{name}_self", step.recurrent[None, None]))
    numbers = numbers_of(step)
    known, varying = constants(f"{name}_each", numbers)
    body = _neurons(plan, step, known)
    tables += [text for array, text in varying.items() if array in body]
    return (
        "\n".join(tables)
        + f"""\
static int32_t {name}_current[{size}];
static {_potential_type(step)} {name}_potential[{size}];
{_more_state(step)}
/* {step.name}: {rows} x {columns} x {outputs} */
static void {name}_gather(void) {{
  const {_type(source)} *in = signal{step.source};
  memset({name}_current, 0, sizeof {name}_current);
  for (int y = 0; y < {in_rows}; y++)
    for (int x = 0; x < {in_columns}; x++)
      for (int c = 0; c < {channels}; c++) {{
        const int32_t value = *in++;
        if (value == 0) continue;
{_reach(step, source)}
      }}
}}
{body}"""
    )


def _reach(step: Weigh, source: Wire) -> str:
    """Return what an input's value does: add its weights where they reach."""
    name, size, stride = f"one_{step.identifier}", step.kernel.shape[0], step.stride
    rows, columns, outputs = step.shape
    border = source.border[0]
    add = f"""\
for (int k = (int){name}_start[at]; k < (int){name}_start[at + 1]; k++)
  current[{name}_output[k]] += value * {name}_weight[k];"""
    if size == 1 and rows * columns == 1:
        lines = [f"int32_t *current = {name}_current;", "const int at = c;", add]
        return _indent("\n".join(lines), 8)

    def outside(what: str, most: int) -> str:
        """Return when no output lies at a place of the padded image, divided by the stride."""
        uneven = "" if stride == 1 else f" || {what} % {stride}"
        return f"{what} < 0{uneven} || {what} / {stride} >= {most}"

    place = f"(row / {stride} * {columns} + column / {stride}) * {outputs}"
    text = f"""\
for (int i = 0; i < {size}; i++) {{
  const int row = y + {border} - i;
  if ({outside("row", rows)}) continue;
  for (int j = 0; j < {size}; j++) {{
    const int column = x + {border} - j;
    if ({outside("column", columns)}) continue;
    int32_t *current = {name}_current + {place};
    const int at = (c * {size} + i) * {size} + j;
{_indent(add, 4)}
  }}
}}"""
    return _indent(text, 8)


def _more_state(step: Weigh) -> str:
    name, lines = f"one_{step.identifier}", ""
    if step.neurons.second is not None:
        lines += f"static {_potential_type(step)} {name}_second[{step.size}];\n"
    if step.recurrent is not None:
        lines += f"static int32_t {name}_heard[{step.size}];\n"
    return lines


def _neurons(plan: Plan, step: Weigh, known: dict[str, str]) -> str:
    """Return the functions that take a layer's neurons through a step, and to rest."""
    name = f"one_{step.identifier}"
    last, fires = step is plan.steps[-1], step.neurons.reset is not None
    counts = f"TRACE({',' if last else ''} int32_t *counts)" if fires else ""
    arguments = ("int32_t *units " if last else "") + counts
    body = _update(plan, step, known)
    heard = "" if step.recurrent is None else hear(name, step, known["level"])
    states = ["potential", *(["second"] if step.neurons.second is not None else [])]
    rest = " ".join(f"memset({name}_{each}, 0, sizeof {name}_{each});" for each in states)
    if any("[o]" in line for line in body) or step.shortcut is not None:
        rows, columns, outputs = step.shape
        loops = f"""\
  int n = 0;
  for (int y = 0; y < {rows}; y++)
    for (int x = 0; x < {columns}; x++)
      for (int o = 0; o < {outputs}; o++, n++) {{"""
    else:  # all alike: one loop, which compilers turn into vectors
        loops = f"  for (int n = 0; n < {step.size}; n++) {{"
    return f"""\
static void {name}_step({arguments}) {{
{heard}{loops}
{_indent(chr(10).join(body), 8)}
  }}
}}
static void {name}_rest(void) {{ {rest} }}
"""


def hear(name: str, step: Weigh, level: str) -> str:
    """Return how a recurrent layer hears its own last spikes.

    Args:
      name: of the layer in C.
      step: the layer.
      level: how C reads a neuron's level, at `o` if they differ.
    """
    states = f"{name}_potential[c]", f"{name}_second[c]"
    fired = reached(step.neurons, level.replace("[o]", "[c]"), *states)
    return f"""\
  memset({name}_heard, 0, sizeof {name}_heard);
  for (int c = 0; c < {step.size}; c++)
    if ({fired})
      for (int i = (int){name}_self_start[c]; i < (int){name}_self_start[c + 1]; i++)
        {name}_heard[{name}_self_output[i]] += {name}_self_weight[i];
"""


def numbers_of(step: Weigh) -> dict[str, np.ndarray]:
    """Return the constants of each output of a layer, `[O]` each."""
    neurons = step.neurons
    numbers = {
        "scale": 2**step.shift, "bias": step.bias, "level": neurons.level, "theta": neurons.theta,
        "keep": neurons.keep, "factor": neurons.factor, "right": neurons.right,
    }  # fmt: skip
    if step.shortcut is not None:
        numbers |= {"from": step.shortcut.sources, "gain": step.shortcut.weight}
    return numbers | second_numbers(neurons)


def _update(plan: Plan, step: Weigh, known: dict[str, str]) -> list[str]:
    """Return the step of neuron `n`, without branches."""
    name, neurons = f"one_{step.identifier}", step.neurons
    type_, fires = _potential_type(step), reached(neurons, known["level"])
    lines = [f"int32_t u = {name}_potential[n];"]
    if neurons.second is not None:
        lines.append(f"int32_t s = {name}_second[n];")
    if neurons.reset is not None:
        lines.append(f"const int32_t before = {fires};")
    scale, bias = (f"(uint32_t){known[what]}" for what in ("scale", "bias"))
    hearing = "s" if neurons.current else "u"
    lines += [
        *leave(neurons, known),
        f"uint32_t sum = (uint32_t){hearing} + (uint32_t){name}_current[n] * {scale} + {bias};",
    ]
    if step.shortcut is not None:
        added = step.shortcut
        signal = plan.signals[added.signal]
        wide, across = signal.shape[1] * signal.shape[2], signal.shape[2]
        place = f"y * {added.stride * wide} + x * {added.stride * across} + {known['from']}"
        lines.append(f"sum += (uint32_t)signal{added.signal}[{place}] * (uint32_t){known['gain']};")
    if step.recurrent is not None:
        lines.append(f"sum += (uint32_t){name}_heard[n];")
    lines.append(f"{hearing} = (int32_t)sum;")
    if neurons.current == CURRENT:
        lines.append(hears("u", "s"))
    lines.append(f"{name}_potential[n] = ({type_})u;")
    if neurons.second is not None:
        lines.append(f"{name}_second[n] = ({type_})s;")
    last = step is plan.steps[-1]
    if neurons.reset is None:
        return [*lines, "units[n] += u;"]
    fired = "before" if neurons.fires_first else fires
    return [
        *lines,
        f"const int32_t fired = {fired};",
        f"TRACE(counts[{plan.first_count(step)} + n] += fired;)",
        f"signal{step.target}[n] = (uint8_t)fired;",
        *(["units[n] += fired;"] if last else []),
    ]


def _indent(text: str, by: int) -> str:
    return "\n".join(" " * by + line if line else line for line in text.split("\n"))
