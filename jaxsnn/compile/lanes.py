"""C for many samples at once: a bit is a sample, a number is planes of bits (`lanes.c`).

A neuron's sum counts bits with carry-save adders, whatever the weights: each is a few signed powers
of two, and a spike is counted at each of them. Potentials are planes, too, exactly as many as the
proof of the integer network asks for, so every operation acts on all samples of a word.
"""

from dataclasses import dataclass

import numpy as np

from jaxsnn.compile.digits import Gather, constants, gather, narrowest_type, table
from jaxsnn.compile.lane_loops import LayerCode
from jaxsnn.compile.plan import Plan, Pool, Weigh
from jaxsnn.compile.second import second_numbers

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
    functions, calls, own = [], [], 0
    for step in plan.steps:
        target = f"arena + {places[step.target]}"
        if isinstance(step, Pool):
            name = f"many_pool{step.target}"
            functions.append(_pool(name, plan, step))
            calls.append(f"  {name}(arena + {places[step.source]}, {target});")
            continue
        text, words = _weigh(plan, step, gathers[id(step)])
        functions.append(text)
        own = max(own, words)
        added = step.shortcut
        extra = f"arena + {places[added.signal]}, " if added is not None else ""
        extra += f"arena + {arena}, " if words else ""
        calls.append(
            f"  many_{step.identifier}(arena + {places[step.source]}, {extra}{target}, samples, "
            f"scores{'' if step.neurons.reset is None else ' TRACE(, counts)'});"
        )
    return Lanes(offset_type, run_type, "\n".join(functions), "\n".join(calls), arena + own)


def _place(plan: Plan) -> tuple[list[int], int]:
    """Return where each signal lies: memory is used again when its last reader is done."""
    last = dict.fromkeys(range(len(plan.signals)), 0)
    for time, step in enumerate(plan.steps, 1):
        last[step.source] = last[step.target] = time
        if isinstance(step, Weigh) and step.shortcut is not None:
            last[step.shortcut.signal] = time
    places: list[int] = []
    for index, signal in enumerate(plan.signals):
        size = signal.words(plan.timesteps)
        taken = sorted(
            (places[i], places[i] + plan.signals[i].words(plan.timesteps))
            for i in range(index)
            if last[i] >= index
        )
        start = 0
        for begin, end in taken:
            if begin - start >= size:
                break
            start = max(start, end)
        places.append(start)
    ends = [p + s.words(plan.timesteps) for p, s in zip(places, plan.signals, strict=True)]
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
  clear(out, {target.words(plan.timesteps)}, {target.planes}, {-target.low});
  for (int t = 0; t < {time}; t++)
    for (int y = 0; y < {rows}; y++)
      for (int x = 0; x < {columns}; x++)
        for (int c = 0; c < {channels}; c++) {{
          const V *from = in + t * {source.stride} + y * {step.size * row}
            + x * {step.size * cell} + c * {planes};
          V *to = out + t * {target.stride} + {shift} + y * {out_row}
            + (x * {channels} + c) * {target.planes};
{body}
        }}
}}
"""


def _weigh(plan: Plan, step: Weigh, gathers: tuple[Gather, Gather | None]) -> tuple[str, int]:
    """Return a layer's tables and function, and the words that it works in."""
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
    known, varying = constants(f"{name}_each", numbers | second_numbers(neurons))
    code = LayerCode(plan, step, main, extra, known)
    body, words = code.body(), code.own_words
    tables += [text for array, text in varying.items() if array in body]
    rows, columns, _ = step.shape
    added = ", const V *more" if step.shortcut is not None else ""
    added += ", V *own" if words else ""
    counts = "" if neurons.reset is None else " TRACE(, int32_t *counts)"
    heading = f"/* {step.name}: {rows} x {columns} x {outputs}, {len(main.offsets)} bits counted */"
    text = (
        "\n".join(tables)
        + f"""\
{heading}
static void {name}(const V *in{added}, V *out, int samples, int32_t *scores{counts}) {{
{body}
}}
"""
    )
    return text, words
