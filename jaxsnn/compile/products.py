"""C that multiplies bytes, for networks with most of their weights (`products.c`).

A processor that adds up four products of bytes in each of 16 places at once, or has tiles for them,
is faster without lists of weights than with them, unless few are left. All steps of a layer follow
each other, so that a block of its weights is read once, and neurons take their steps while the sums
are at hand. A border around each image leaves no case for its edges; rows of sums run over it, and
what they find there is not kept.
"""

from collections.abc import Mapping
from importlib import resources

import numpy as np

from jaxsnn.compile.digits import table
from jaxsnn.compile.events import Engine
from jaxsnn.compile.plan import Plan, Pool, Weigh
from jaxsnn.compile.products_layer import GROUP, LINE, TILE, Bytes, Product, own_unit, span
from jaxsnn.compile.products_loops import over_maps, over_recurrent, over_steps

__all__ = ["emit", "fits", "layers_of"]

WEIGHT = 127  # of a byte


def fits(plan: Plan) -> bool:
    """Return whether all values and weights are bytes."""
    for step in plan.layers:
        most = int(np.abs(step.kernel).max(initial=0))
        if step.recurrent is not None:
            own = step.recurrent // own_unit(step.recurrent)
            most = max(most, int(np.abs(own).max(initial=0)))
        if most > WEIGHT:
            return False
    return all(span(wire) <= 255 for wire in plan.signals)


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
        parts.append(_code(layer))
        calls.append(_call(layer))
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


def _code(layer: Product) -> str:
    """Return the tables and the function of a layer."""
    step = layer.step
    if step.recurrent is not None:
        body = over_recurrent(layer)
    else:
        body = (over_maps if layer.positions > 1 else over_steps)(layer)
    weights = {"weights": _weights(layer, step.kernel, layer.groups)}
    if step.recurrent is not None:
        own = (step.recurrent // own_unit(step.recurrent))[None, None]
        weights["own"] = _weights(layer, own, layer.own_groups)
    tables = [table("ALIGNED int8_t", f"{layer.name}_{x}", each) for x, each in weights.items()]
    tables += [text for array, text in layer.neurons.arrays.items() if array in body]
    rows, columns, outputs = step.shape
    counts = "" if step.neurons.reset is None else " TRACE(, int32_t *counts)"
    units = ", int32_t *units" if layer.target is None else ""
    return f"""\
{"".join(tables)}
/* {step.name}: {rows} x {columns} x {outputs} */
static void {layer.name}(Bytes *w{units}{counts}) {{
{body}
}}
"""


def _call(layer: Product) -> str:
    """Return how the function of a layer is called."""
    counts = "" if layer.step.neurons.reset is None else " TRACE(, counts)"
    return f"{layer.name}(w{', units' if layer.target is None else ''}{counts});"


def _weights(layer: Product, kernel: np.ndarray, groups: int) -> list[int]:
    """Return a kernel as [blocks][rows of a window][groups][width][4]."""
    size, _, _, outputs = kernel.shape
    run = kernel.shape[1] * kernel.shape[2]
    more = (0, 0), (0, groups * GROUP - run), (0, layer.blocks * layer.width - outputs)
    laid = np.pad(kernel.reshape(size, run, outputs), more)
    laid = laid.reshape(size, groups, GROUP, layer.blocks, layer.width)
    found: list[int] = laid.transpose(3, 0, 1, 4, 2).ravel().tolist()
    return found


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
