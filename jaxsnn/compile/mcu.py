"""C for a microcontroller: one sample at a time, tables in flash, as little memory as will do.

At every step of time a layer first leaves its potentials at rest, then the weights of each input
that is not 0 are decoded (`streams`) and added to the potentials that they reach, and then it
fires. So there are no currents to keep, but for a constant input, whose currents are computed once.
"""

from importlib import resources

import numpy as np

from jaxsnn.compile.digits import constants, narrowest_type
from jaxsnn.compile.events import Engine, numbers_of
from jaxsnn.compile.mcu_layers import McuLayer, declare, read, size_of, write
from jaxsnn.compile.plan import Plan, Pool, Weigh
from jaxsnn.compile.streams import make_stream

__all__ = ["emit"]


def emit(plan: Plan) -> Engine:
    """Return the C of a plan."""
    common = resources.files("jaxsnn.compile") / "mcu.c"
    parts = [common.read_text(encoding="utf-8"), _signals(plan)]
    once: list[str] = []  # what a constant input asks for
    each: list[str] = []
    rests: list[str] = []
    tables, state = 0, _signal_bytes(plan) + 4 * plan.classes * plan.voters
    for step in plan.steps:
        steady = plan.signals[step.source].constant
        if isinstance(step, Pool):
            parts.append(_pool(plan, step))
            (once if steady else each).append(f"pool{step.target}();")
            continue
        layer = _layer(plan, step)
        parts.append(layer.code())
        tables += layer.table_bytes
        state += layer.state_bytes
        rests.append(f"{layer.name}_rest();")
        if steady:
            once.append(f"{layer.name}_hear();")
        each.append(f"{layer.name}_step({layer.arguments});")
    move = "" if plan.input.constant else f" + t * {plan.input.size}"
    lines = [
        "for (int i = 0; i < UNITS; i++) units[i] = 0;",
        *rests,
        *(["frame = sample;"] if plan.input.constant else []),
        *once,
        f"for (int t = 0; t < {plan.timesteps}; t++) {{",
        *([] if plan.input.constant else [f"  frame = sample{move};"]),
        *(f"  {line}" for line in each),
        "}",
    ]
    return Engine("\n".join(parts), "\n".join(f"  {line}" for line in lines), state, tables)


def _signals(plan: Plan) -> str:
    lines = ["static const SAMPLE *frame; /* the input of this step */", "", "/* between layers */"]
    lines += [declare(plan, index) for index in _stored(plan)]
    return "\n".join(lines) + "\n"


def _signal_bytes(plan: Plan) -> int:
    return 4 + sum(size_of(plan, index) for index in _stored(plan))


def _stored(plan: Plan) -> list[int]:
    """Return the signals that take memory: not the input, nor what a read-out gives."""
    silent = plan.layers[-1].neurons.reset is None
    return list(range(1, len(plan.signals) - silent))


def _layer(plan: Plan, step: Weigh) -> McuLayer:
    name = f"mcu_{step.identifier}"
    outputs = step.kernel.shape[3]
    rows = step.kernel.transpose(2, 0, 1, 3).reshape(-1, outputs)
    numbers = numbers_of(step)
    known, varying = constants(f"{name}_each", numbers)
    heard = None if step.recurrent is None else make_stream(step.recurrent)
    sizes = {f"{name}_each_{what}": _bytes(each) for what, each in numbers.items()}
    return McuLayer(
        plan, step, make_stream(rows), heard, known, varying, sizes, _current_type(plan, step)
    )


def _bytes(numbers: np.ndarray) -> int:
    type_ = narrowest_type(numbers.tolist(), signed=True)
    return len(numbers) * int(type_.removeprefix("int").removesuffix("_t")) // 8


def _current_type(plan: Plan, step: Weigh) -> str:
    """Return the type of what a constant input sums up to, from the bounds of the input."""
    source = plan.signals[step.source]
    up = np.maximum(step.kernel, 0).sum((0, 1, 2))
    down = np.minimum(step.kernel, 0).sum((0, 1, 2))
    low, high = min(source.low, 0), max(source.high, 0)  # a border is 0
    ends = [*(up * high + down * low).tolist(), *(up * low + down * high).tolist()]
    return narrowest_type(ends, signed=True)


def _pool(plan: Plan, step: Pool) -> str:
    source = plan.signals[step.source]
    rows, columns, channels = step.shape
    wide = source.shape[1]
    start = "0" if step.kind == "sum" else "INT32_MIN"
    join = "value += v;" if step.kind == "sum" else "value = v > value ? v : value;"
    place = f"((y * {step.size} + i) * {wide} + x * {step.size} + j) * {channels} + c"
    return f"""\
/* {step.kind} over windows of {step.size} x {step.size}: {rows} x {columns} x {channels} */
static void pool{step.target}(void) {{
  for (int y = 0; y < {rows}; y++)
    for (int x = 0; x < {columns}; x++)
      for (int c = 0; c < {channels}; c++) {{
        int32_t value = {start};
        for (int i = 0; i < {step.size}; i++)
          for (int j = 0; j < {step.size}; j++) {{
            const int32_t v = {read(plan, step.source, place)};
            {join}
          }}
        {write(plan, step.target, f"(y * {columns} + x) * {channels} + c", "value")}
      }}
}}
"""
