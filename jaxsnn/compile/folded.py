"""C for one sample, a layer after the other, each through all steps of time (`folded.c`).

Nothing but a layer's own neurons carries over from one step to the next. So a layer's weights are
read once for all steps, and a step of time is one more position.
"""

from collections.abc import Mapping
from importlib import resources

import numpy as np

from jaxsnn.compile.costs import cost, dense_work, prices, rates
from jaxsnn.compile.digits import narrowest_type
from jaxsnn.compile.events import Engine
from jaxsnn.compile.folded_dense import DenseLayer
from jaxsnn.compile.folded_layers import FoldedLayer, can_pool
from jaxsnn.compile.layouts import Layout, fitting_bits
from jaxsnn.compile.plan import Plan, Pool, Weigh

__all__ = ["emit", "layers_of", "layouts_of"]

ADDENDS = 8  # that a word should have room for before its sums are cut
TERMS = 2500  # weights of a dense layer that is written out


def emit(plan: Plan, way: str | None = None) -> Engine:
    """Return the C of a plan; `way` is how all dense layers add up, the cheapest if left out."""
    layouts = layouts_of(plan, way)
    layers = {layer.step.target: layer for layer in layers_of(plan, layouts, way)}
    places = [place for layer in layers.values() for place in layer.places]
    common = (resources.files("jaxsnn.compile") / "folded.c").read_text(encoding="utf-8")
    parts = [
        f"\ntypedef {narrowest_type(places)} PLACE;\ntypedef int32_t PART;\n",
        common,
        _load(plan, layouts[0]),
    ]
    calls = ["memset(units, 0, UNITS * sizeof(int32_t));", "take_in(sample);"]
    inside = pooled(plan, layouts)
    for index in inside:
        del layouts[index]
    parts.insert(2, _buffers(layouts))
    for step in plan.steps:
        if isinstance(step, Pool):
            if step.source in inside:
                continue
            parts.append(_pool(step, layouts[step.source], layouts[step.target]))
            calls.append(f"fold_pool{step.target}();")
        else:
            parts.append(layers[step.target].code())
            calls.append(layers[step.target].call)
    state = sum(layout.size * layout.bits // 8 for layout in layouts.values())
    state += sum(layer.state_bytes for layer in layers.values())
    tables = sum(layer.table_bytes for layer in layers.values())
    return Engine("\n".join(parts), "\n".join("  " + call for call in calls), state, tables)


def layers_of(
    plan: Plan, layouts: Mapping[int, Layout], way: str | None = None
) -> list[FoldedLayer | DenseLayer]:
    """Return the layers with weights."""
    found: list[FoldedLayer | DenseLayer] = []
    pools = pooled(plan, layouts)
    for step in plan.layers:
        source, pool = layouts[step.source], pools.get(step.target)
        written = step.target if pool is None else pool.target
        target = None if step is plan.steps[-1] else layouts[written]
        if source.words:
            chosen = way or way_of(plan, step)
            found.append(DenseLayer(plan, step, source, target, chosen))
            continue
        beside = None if step.shortcut is None else layouts[step.shortcut.signal]
        found.append(FoldedLayer(plan, step, source, target, beside, pool))
    return found


def pooled(plan: Plan, layouts: Mapping[int, Layout]) -> dict[int, Pool]:
    """Return the pools that the layer before them does: its signal -> pool."""
    added = {step.shortcut.signal for step in plan.layers if step.shortcut is not None}
    makers = {step.target: step for step in plan.layers}
    return {
        step.source: step
        for step in plan.steps
        if isinstance(step, Pool)
        and step.source in makers
        and step.source not in added
        and not layouts[makers[step.source].source].words
        and can_pool(makers[step.source], layouts[makers[step.source].source], step)
    }


def layouts_of(plan: Plan, way: str | None = None) -> dict[int, Layout]:
    """Return where each signal lies that a step reads."""
    shapes = {0: plan.input.shape} | {step.target: step.shape for step in plan.steps}
    layouts = {}
    for step in plan.steps:
        wire = plan.signals[step.source]
        times = 1 if wire.constant else plan.timesteps
        span = max(1, wire.high - wire.low)
        dense = isinstance(step, Weigh) and is_dense(step, wire.shape)
        stride = step.stride if isinstance(step, Weigh) else 1
        bits = fitting_bits(span, ADDENDS if isinstance(step, Weigh) else 1)
        if dense and isinstance(step, Weigh) and (way or way_of(plan, step)) == "terms":
            bits = 16
        layouts[step.source] = Layout(wire, shapes[step.source], times, dense, bits, stride)
    return layouts


def way_of(plan: Plan, step: Weigh) -> str:
    """Return how a dense layer adds up most cheaply: "terms", "lists" or "rows"."""
    wire, weights = plan.signals[step.source], int(np.count_nonzero(step.kernel))
    most = int(np.abs(step.kernel).sum((0, 1, 2)).max()) * max(1, wire.high - wire.low)
    written_out = ["terms"] if weights <= TERMS and most < 2**15 else []
    times, rate = 1 if wire.constant else plan.timesteps, rates(plan)[step.source]

    def price(way: str) -> float:
        return cost(dense_work(step, wire, times, way, rate), prices(plan.processor))

    return min((*written_out, "lists", "rows"), key=price)


def is_dense(step: Weigh, shape: tuple[int, int, int]) -> bool:
    """Return whether each output sees all inputs, at one position."""
    single = step.shape[0] * step.shape[1] == 1 and step.kernel.shape[0] == 1
    return single and step.kernel.shape[2] == shape[0] * shape[1] * shape[2]


def _buffers(layouts: Mapping[int, Layout]) -> str:
    lines = ["/* what goes from layer to layer, all steps of time */"]
    lines += [f"static {each.type} signal{i}[{each.size}];" for i, each in layouts.items()]
    return "\n".join(lines) + "\n"


def _fill(index: int, layout: Layout) -> str:
    """Return how a border gets the value that stands for 0, where memory does not have it yet."""
    low = layout.wire.low
    if low == 0 or sum(layout.wire.border) == 0:
        return ""
    return f"  for (int i = 0; i < {layout.size}; i++) signal{index}[i] = {-low};\n"


def _load(plan: Plan, layout: Layout) -> str:
    """Return the function that lays a sample out."""
    rows, columns, channels = layout.shape
    place = layout.place("c", "t", "y", "x")
    return f"""\
static void take_in(const SAMPLE *sample) {{
{_fill(0, layout)}\
  for (int t = 0; t < {layout.times}; t++)
    for (int y = 0; y < {rows}; y++)
      for (int x = 0; x < {columns}; x++)
        for (int c = 0; c < {channels}; c++) {{
          const int32_t value = clip(sample[((t * {rows} + y) * {columns} + x) * {channels} + c]);
          signal0[{place}] = ({layout.type})(value - ({layout.wire.low}));
        }}
}}
"""


def _pool(step: Pool, source: Layout, target: Layout) -> str:
    rows, columns, channels = step.shape
    n, index = step.size, step.source
    value = source.place("c", "t", f"y * {n} + i", f"x * {n} + j")
    first = source.place("c", "t", f"y * {n}", f"x * {n}")
    start = "0" if step.kind == "sum" else f"signal{index}[{first}]"
    join = "value += v;" if step.kind == "sum" else "value = v > value ? v : value;"
    return f"""\
/* {step.kind} over windows of {n} x {n}: {rows} x {columns} x {channels} */
static void fold_pool{step.target}(void) {{
{_fill(step.target, target)}\
  for (int c = 0; c < {channels}; c++)
    for (int t = 0; t < {source.times}; t++)
      for (int y = 0; y < {rows}; y++)
        for (int x = 0; x < {columns}; x++) {{
          uint32_t value = {start};
          for (int i = 0; i < {n}; i++)
            for (int j = 0; j < {n}; j++) {{
              const uint32_t v = signal{index}[{value}];
              {join}
            }}
          signal{step.target}[{target.place("c", "t", "y", "x")}] = ({target.type})value;
        }}
}}
"""
