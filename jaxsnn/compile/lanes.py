"""C for many samples at once: a bit is a sample, a number is planes of bits (`lanes.c`).

A neuron's sum counts bits with carry-save adders, whatever the weights: each is a few signed powers
of two, and a spike is counted at each of them. Potentials are planes, too, exactly as many as the
proof of the integer network asks for, so every operation acts on all samples of a word.
"""

import math
from dataclasses import dataclass

import numpy as np

from jaxsnn.compile.digits import Gather, constants, gather, narrowest_type, table
from jaxsnn.compile.plan import Plan, Pool, Weigh, Wire

__all__ = ["Lanes", "emit"]


@dataclass(frozen=True)
class Lanes:
    """The C of the batch engine: tables, functions and how to call them, and its memory."""

    offset_type: str
    run_type: str
    functions: str
    calls: str
    arena: int  # words of the working memory


def emit(plan: Plan) -> Lanes:
    """Return the C of a plan."""
    places, arena = _place(plan)
    gathers = {id(step): _gathers(plan, step) for step in plan.layers}
    every = [g for pair in gathers.values() for g in pair if g is not None]
    offset_type = narrowest_type(offset for g in every for offset in g.offsets)
    run_type = narrowest_type(number for g in every for number in g.runs)
    functions, calls = [], []
    for step in plan.steps:
        target = f"arena + {places[step.target]}"
        if isinstance(step, Pool):
            name = f"many_pool{step.target}"
            functions.append(_pool(name, plan, step))
            calls.append(f"  {name}(arena + {places[step.source]}, {target});")
            continue
        functions.append(_weigh(plan, step, gathers[id(step)]))
        added = step.shortcut
        extra = f"arena + {places[added.signal]}, " if added is not None else ""
        calls.append(
            f"  many_{step.identifier}(arena + {places[step.source]}, {extra}{target}, samples, "
            f"scores{'' if step.neurons.reset is None else ' TRACE(, counts)'});"
        )
    return Lanes(offset_type, run_type, "\n".join(functions), "\n".join(calls), arena)


def memory_of(signal: Wire, plan: Plan) -> int:
    """Return the words of a signal at all steps of time."""
    steps = 1 if signal.constant else plan.timesteps
    return math.prod(signal.padded) * signal.shape[2] * signal.planes * steps


def stride_of(signal: Wire) -> int:
    """Return the words from a step of time to the next; 0 if all are the same."""
    words = math.prod(signal.padded) * signal.shape[2] * signal.planes
    return 0 if signal.constant else words


def _place(plan: Plan) -> tuple[list[int], int]:
    """Return where each signal lies: memory is used again when its last reader is done."""
    last = dict.fromkeys(range(len(plan.signals)), 0)
    for time, step in enumerate(plan.steps, 1):
        last[step.source] = last[step.target] = time
        if isinstance(step, Weigh) and step.shortcut is not None:
            last[step.shortcut.signal] = time
    places: list[int] = []
    for index, signal in enumerate(plan.signals):
        size = memory_of(signal, plan)
        taken = sorted(
            (places[i], places[i] + memory_of(plan.signals[i], plan))
            for i in range(index)
            if last[i] >= index
        )
        start = 0
        for begin, end in taken:
            if begin - start >= size:
                break
            start = max(start, end)
        places.append(start)
    ends = [p + memory_of(s, plan) for p, s in zip(places, plan.signals, strict=True)]
    return places, max(ends)


def _gathers(plan: Plan, step: Weigh) -> tuple[Gather, Gather | None]:
    """Return the lists of a layer's kernel, and of what is added besides."""
    source = plan.signals[step.source]
    size, _, channels, outputs = step.kernel.shape
    width = source.padded[1]
    rows, columns, inputs = np.meshgrid(
        np.arange(size), np.arange(size), np.arange(channels), indexing="ij"
    )
    places = ((rows * width + columns) * channels + inputs).ravel() * source.planes
    kernel = step.kernel.reshape(-1, outputs)
    main = gather(kernel, places, source.planes, source.low)
    if step.recurrent is not None:
        return main, gather(step.recurrent, np.arange(outputs), 1, 0)
    if step.shortcut is None:
        return main, None
    added, signal = step.shortcut, plan.signals[step.shortcut.signal]
    weights = np.zeros((signal.shape[2], outputs), np.int64)
    weights[added.sources, np.arange(outputs)] = added.weight
    places = np.arange(signal.shape[2]) * signal.planes
    return main, gather(weights, places, signal.planes, signal.low)


def _pool(name: str, plan: Plan, step: Pool) -> str:
    source, target = plan.signals[step.source], plan.signals[step.target]
    rows, columns, channels = step.shape
    planes, wide = source.planes, source.padded[1]
    row, cell = wide * channels * planes, channels * planes
    out_row = (columns + sum(target.border)) * channels * target.planes
    shift = target.border[0] * (out_row + channels * target.planes)
    time = 1 if source.constant else plan.timesteps
    if step.kind == "sum":
        body = f"""\
          for (int p = 0; p < {target.planes}; p++) to[p] = NONE;
          for (int i = 0; i < {step.size}; i++)
            for (int j = 0; j < {step.size}; j++)
              add(to, {target.planes}, from + i * {row} + j * {cell}, {planes}, 0);"""
    else:
        body = f"""\
          for (int p = 0; p < {planes}; p++) to[p] = from[p];
          for (int k = 1; k < {step.size**2}; k++) {{
            const V *other = from + k / {step.size} * {row} + k % {step.size} * {cell};
            const V less = below(to, other, {planes});
            for (int p = 0; p < {planes}; p++) to[p] = (to[p] & ~less) | (other[p] & less);
          }}"""
    return f"""\
/* {step.kind} over windows of {step.size} x {step.size}: {rows} x {columns} x {channels} */
static void {name}(const V *in, V *out) {{
  clear(out, {memory_of(target, plan)}, {target.planes}, {-target.low});
  for (int t = 0; t < {time}; t++)
    for (int y = 0; y < {rows}; y++)
      for (int x = 0; x < {columns}; x++)
        for (int c = 0; c < {channels}; c++) {{
          const V *from = in + t * {stride_of(source)} + y * {step.size * row}
            + x * {step.size * cell} + c * {planes};
          V *to = out + t * {stride_of(target)} + {shift} + y * {out_row}
            + (x * {channels} + c) * {target.planes};
{body}
        }}
}}
"""


def _weigh(plan: Plan, step: Weigh, gathers: tuple[Gather, Gather | None]) -> str:
    main, extra = gathers
    name, neurons, outputs = f"many_{step.identifier}", step.neurons, step.kernel.shape[3]
    tables = [
        table("RUN", f"{name}_runs", main.runs),
        table("OFFSET", f"{name}_bits", main.offsets),
    ]
    constant = (main.constant << step.shift) + step.bias
    if extra is not None:
        tables += [
            table("RUN", f"{name}_more_runs", extra.runs),
            table("OFFSET", f"{name}_more_bits", extra.offsets),
        ]
        constant = constant + extra.constant
    numbers = {
        "shift": step.shift,
        "constant": constant,
        "level": neurons.level.clip(-(2 ** (neurons.bits - 1)), 2 ** (neurons.bits - 1)),
        "theta": neurons.theta,
        "keep": neurons.keep,
        "factor": neurons.factor,
        "right": neurons.right,
    }
    known, varying = constants(f"{name}_each", numbers)
    body = _steps(plan, step, main, extra, known)
    tables += [text for array, text in varying.items() if array in body]
    rows, columns, _ = step.shape
    added = ", const V *more" if step.shortcut is not None else ""
    counts = "" if neurons.reset is None else " TRACE(, int32_t *counts)"
    heading = f"/* {step.name}: {rows} x {columns} x {outputs}, {len(main.offsets)} bits counted */"
    return (
        "\n".join(tables)
        + f"""\
{heading}
static void {name}(const V *in{added}, V *out, int samples, int32_t *scores{counts}) {{
{body}
}}
"""
    )


def _steps(
    plan: Plan, step: Weigh, main: Gather, extra: Gather | None, known: dict[str, str]
) -> str:
    """Return the loops of a layer: positions, outputs, and time inside, so potentials stay near."""
    name, neurons = f"many_{step.identifier}", step.neurons
    source, target = plan.signals[step.source], plan.signals[step.target]
    rows, columns, outputs = step.shape
    last, bits, recurrent = step is plan.steps[-1], neurons.bits, step.recurrent is not None
    row = source.padded[1] * source.shape[2] * source.planes
    cell = source.shape[2] * source.planes
    out_row = (columns + sum(target.border)) * outputs
    begin = target.border[0] * (out_row + outputs)
    unit = f"(y * {columns} + x) * {outputs} + o"
    total = min(64, bits + plan.timesteps.bit_length()) if neurons.reset is None else 32
    lines = []
    if not last:
        lines.append(f"  clear(out, {memory_of(target, plan)}, 1, 0);")
    lines += [
        f"  for (int y = 0; y < {rows}; y++)",
        f"    for (int x = 0; x < {columns}; x++) {{",
        f"      const V *window = in + y * {step.stride * row} + x * {step.stride * cell};",
    ]
    if step.shortcut is not None:
        signal, apart = plan.signals[step.shortcut.signal], step.shortcut.stride
        across = signal.shape[2] * signal.planes
        down = signal.padded[1] * across
        skip = signal.border[0] * (down + across)
        lines.append(
            f"      const V *beside = more + {skip} + y * {apart * down} + x * {apart * across};"
        )
    lines += [
        *(
            [f"      V *cell = out + {begin} + y * {out_row} + x * {outputs};"]
            if not last or recurrent
            else []
        ),
        f"      const RUN *run = {name}_runs;",
        f"      const OFFSET *bit = {name}_bits;",
    ]
    if extra is not None:
        lines += [
            f"      const RUN *more_run = {name}_more_runs;",
            f"      const OFFSET *more_bit = {name}_more_bits;",
        ]
    at_rest = f"pick(0 >= {known['level']})"
    clear_u = f"for (int i = 0; i < {bits}; i++) u[i] = NONE;"
    if recurrent:
        lines += [
            f"      static THREAD_LOCAL V state[{outputs}][{bits}], at_rest[{outputs}];",
            *([f"      static THREAD_LOCAL V totals[{outputs}][{total}];"] if last else []),
            f"      for (int o = 0; o < {outputs}; o++) {{",
            "        V *u = state[o];",
            f"        {clear_u}",
            f"        at_rest[o] = {at_rest};",
            *([f"        for (int i = 0; i < {total}; i++) totals[o][i] = NONE;"] if last else []),
            "      }",
            f"      for (int t = 0; t < {plan.timesteps}; t++) {{",
            f"        const V *beside = t ? cell + (t - 1) * {stride_of(target)} : at_rest;",
            f"        run = {name}_runs, bit = {name}_bits;",
            f"        more_run = {name}_more_runs, more_bit = {name}_more_bits;",
            f"        for (int o = 0; o < {outputs}; o++) {{",
            "          V *u = state[o];",
            *(["          V *sum = totals[o];"] if last else []),
            "          V before = beside[o];",
        ]
    else:
        lines += [
            f"      for (int o = 0; o < {outputs}; o++) {{",
            f"        V u[{bits}];",
            f"        {clear_u}",
            f"        V before = {'NONE' if neurons.reset is None else at_rest};",
            *(
                [
                    f"        V sum[{total}];",
                    f"        for (int i = 0; i < {total}; i++) sum[i] = NONE;",
                ]
                if last
                else []
            ),
        ]
        if source.constant:
            lines += [
                f"        V a[{main.planes}];",
                f"        for (int i = 0; i < {main.planes}; i++) a[i] = NONE;",
                f"        collect(a, {main.planes}, window, run, bit);",
            ]
        lines.append(f"        for (int t = 0; t < {plan.timesteps}; t++) {{")
    lines += _step(plan, step, main, extra, known, last=last)
    lines.append("        }")
    advance = ["        bit = past_bits(run, bit);", "        run = past_runs(run);"]
    if extra is not None:
        advance += [
            "        more_bit = past_bits(more_run, more_bit);",
            "        more_run = past_runs(more_run);",
        ]
    if recurrent:
        lines[-1:] = [*("  " + line for line in advance), "        }", "      }"]
        if last:
            lines += [
                f"      for (int o = 0; o < {outputs}; o++)",
                f"        to_integers(totals[o], {total}, scores + {unit}, samples, UNITS);",
            ]
    else:
        lines += advance
        if last:
            lines.append(f"        to_integers(sum, {total}, scores + {unit}, samples, UNITS);")
        lines.append("      }")
    lines.append("    }")
    unused = "out" if last and not recurrent else "scores, (void)samples"
    return "\n".join([*([] if last and recurrent else [f"  (void){unused};"]), *lines])


def _step(
    plan: Plan,
    step: Weigh,
    main: Gather,
    extra: Gather | None,
    known: dict[str, str],
    *,
    last: bool,
) -> list[str]:
    """Return one step of time of one neuron: rest, current, fire."""
    neurons, source, target = step.neurons, plan.signals[step.source], plan.signals[step.target]
    bits, reset = neurons.bits, neurons.reset
    lines = ["(void)before;"]
    if not (source.constant and step.recurrent is None):
        lines += [
            f"V a[{main.planes}];",
            f"for (int i = 0; i < {main.planes}; i++) a[i] = NONE;",
            f"collect(a, {main.planes}, window + t * {stride_of(source)}, run, bit);",
        ]
    more = max(1, int(np.abs(neurons.factor).max()).bit_length())
    leaks = f"leak(u, {bits}, {more}, {known['keep']}, {known['factor']}, {known['right']});"
    taken = f"add_number(u, {bits}, -{known['theta']}, before);"
    forgets = not (neurons.keep.any() or neurons.factor.any())
    if forgets and reset in (None, "hard", "soft"):
        lines.append(f"for (int i = 0; i < {bits}; i++) u[i] = NONE;")
    elif reset == "hard":
        lines += [f"for (int i = 0; i < {bits}; i++) u[i] &= ~before;", leaks]
    elif reset == "soft":
        lines += [taken, leaks]
    elif reset == "soft_undecayed":
        lines += [leaks, taken]
    else:
        lines.append(leaks)
    lines += [
        f"add(u, {bits}, a, {main.planes}, {known['shift']});",
        f"add_number(u, {bits}, {known['constant']}, ALL);",
    ]
    if extra is not None:
        apart = 0 if step.shortcut is None else stride_of(plan.signals[step.shortcut.signal])
        lines += [
            f"V b[{extra.planes}];",
            f"for (int i = 0; i < {extra.planes}; i++) b[i] = NONE;",
            f"collect(b, {extra.planes}, beside + t * {apart}, more_run, more_bit);",
            f"add(u, {bits}, b, {extra.planes}, 0);",
        ]
    if reset is None:
        lines += [f"add_signed(sum, {_total_bits(plan, step)}, u, {bits});"]
    else:
        lines += [
            f"const V after = reaches(u, {bits}, {known['level']});",
            f"const V fired = {'before' if neurons.fires_first else 'after'};",
        ]
        if step.recurrent is None:
            lines.append("before = after;")
        if last:
            lines.append("carry_on(sum, 32, fired);")
        if not last or step.recurrent is not None:
            lines.append(f"cell[t * {stride_of(target)} + o] = fired;")
        first = sum(
            other.shape[0] * other.shape[1] * other.shape[2] for other in _before(plan, step)
        )
        _, columns, outputs = step.shape
        unit = f"{first} + (y * {columns} + x) * {outputs} + o"
        lines.append(f"TRACE(tally(fired, counts + {unit}, samples, COUNTS);)")
    return ["          " + line for line in lines]


def _total_bits(plan: Plan, step: Weigh) -> int:
    return min(64, step.neurons.bits + plan.timesteps.bit_length())


def _before(plan: Plan, step: Weigh) -> list[Weigh]:
    """Return the layers whose counts come before a layer's."""
    counted = list(plan.counted)
    return counted[: [other is step for other in counted].index(True)]
