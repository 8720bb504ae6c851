"""What a sample costs each engine, in nanoseconds.

Work is counted by kind: additions of rows, steps of neurons, weights that an event adds, ... What
each costs depends on the instructions that there are. The prices in `costs.json` were fitted to
measurements on the processor that it names; `fit_costs` does it again on another:

    python -m jaxsnn.compile.fit_costs --out costs.json
"""

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources

import numpy as np

from jaxsnn.compile.layouts import Layout
from jaxsnn.compile.plan import Plan, Pool, Weigh, Wire
from jaxsnn.compile.products_layer import LINE, Product

__all__ = [
    "LANES", "cost", "dense_work", "events_work", "hearing_work", "lanes_work", "maps_work",
    "prices", "products_work", "rates",
]  # fmt: skip

Work = dict[str, float]  # kind -> how often

INPUT_RATE, SPIKE_RATE = 0.2, 0.1  # of values that are not 0: what a network is expected to see
ROW = 32  # bytes of a word that the prices are counted by
STORED = 4  # times slower are potentials that no register holds from step to step
LANES = {"amx": 512, "avx512_vnni": 512, "avx2": 256, "other": 128}  # samples of a word
TILE = 8  # words that a run of a list goes over at once


@cache
def prices(processor: str) -> dict[str, float]:
    """Return the nanoseconds of each kind of work on one of `plan.PROCESSORS`."""
    text = (resources.files("jaxsnn.compile") / "costs.json").read_text(encoding="utf-8")
    found: dict[str, float] = json.loads(text)["nanoseconds"][processor]
    return found


def cost(work: Work, prices: Mapping[str, float]) -> float:
    """Return the nanoseconds of some work.

    Example:
      >>> cost({"row": 10.0}, {"row": 0.5})
      5.0
    """
    return sum(prices[kind] * amount for kind, amount in work.items())


def rates(plan: Plan) -> dict[int, float]:
    """Return the share of each signal's values that is expected not to be 0."""
    found = {0: INPUT_RATE}
    for step in plan.steps:
        found[step.target] = SPIKE_RATE
        if isinstance(step, Pool):
            found[step.target] = 1 - (1 - found[step.source]) ** step.size**2
    return found


def maps_work(plan: Plan, step: Weigh, source: Layout) -> Work:
    """Return the work of a layer over positions (`folded_layers`)."""
    lanes = source.times * source.rows * source.columns
    rows = -(-lanes * source.bits // (8 * ROW))
    neurons = step.shape[2] * step.shape[0] * source.columns * plan.timesteps
    runs = 2 * step.shape[2] * _digits(step.kernel)
    return {"row": _addends(step.kernel) * rows, "run": runs * -(-rows // TILE), "neuron": neurons}


def dense_work(step: Weigh, source: Wire, times: int, way: str, rate: float) -> Work:
    """Return the work of a dense layer (`folded_dense`): "terms", "lists" or "rows"."""
    outputs = step.kernel.shape[3]
    if way == "terms":
        weights, words = int(np.count_nonzero(step.kernel)), -(-times // 4)
        return {"term": weights * words, "output": outputs * times}
    if way == "rows":
        active = source.size * times * rate
        return {"value": active * outputs, "scan": source.size * times, "output": outputs * times}
    words, runs = -(-times // 8), 2 * outputs * _digits(step.kernel)
    return {"entry": _addends(step.kernel) * words, "word_run": runs * words,
            "output": outputs * times}  # fmt: skip


def hearing_work(plan: Plan, step: Weigh) -> Work:
    """Return the work of a layer that adds up its own spikes one by one."""
    if step.recurrent is None:
        return {}
    spikes = SPIKE_RATE * plan.timesteps
    return {"event": spikes * np.count_nonzero(step.recurrent), "look": step.size * plan.timesteps}


def events_work(plan: Plan, step: Weigh, rate: float) -> Work:
    """Return the work of a layer that is driven by events (`events`)."""
    source = plan.signals[step.source]
    times = 1 if source.constant else plan.timesteps
    active = source.size * times * rate
    size = step.kernel.shape[0]
    share = (step.shape[0] * step.shape[1]) / (source.shape[0] * source.shape[1])
    places = size**2 * min(1.0, share)
    each = np.count_nonzero(step.kernel) / step.kernel.shape[2] * min(1.0, share)
    own = hearing_work(plan, step)
    return {"look": source.size * times + own.get("look", 0), "place": active * places,
            "event": active * each + own.get("event", 0),
            "potential": step.size * plan.timesteps}  # fmt: skip


def products_work(layer: Product) -> Work:
    """Return the work of a layer as products of bytes (`products`)."""
    step, steps = layer.step, layer.plan.timesteps
    lines = layer.blocks * layer.width // LINE
    positions = -(-layer.positions // layer.rows) * layer.rows
    rows, taps = positions * layer.source.times, step.kernel.shape[0] * layer.groups
    work = {"kept": float(positions * steps * lines)}
    if layer.tiled and layer.plan.processor == "amx":
        return work | {"tile": taps / 16 * lines * rows / 16}
    work |= {"product": taps * lines * rows, "line": 0.0}
    if layer.positions == 1:  # few rows share what is read of the weights
        work["line"] = taps * lines * -(-rows // 8)
    if step.recurrent is not None:
        own = -(-step.shape[2] // 4) * lines * steps
        work |= {kind: work[kind] + own for kind in ("product", "line")}
    return work


def lanes_work(plan: Plan, step: Weigh) -> Work:
    """Return the work of a layer for many samples, a bit each (`lanes`), for one of them."""
    source, lanes = plan.signals[step.source], LANES[plan.processor]
    positions, times = step.shape[0] * step.shape[1], 1 if source.constant else plan.timesteps
    bits = _addends(step.kernel) * source.planes * positions * times
    if step.recurrent is not None:
        bits += _addends(step.recurrent) * plan.timesteps
    leaks = int(np.abs(step.neurons.factor).max()).bit_count()  # each bit adds a potential up
    stored = 1 if step.recurrent is None else STORED
    planes = step.size * plan.timesteps * step.neurons.bits * stored * max(1, leaks)
    return {"bit": bits / lanes, "plane": planes / lanes}


def _addends(kernel: np.ndarray) -> int:
    """Return the signed powers of two of all weights."""
    size = np.abs(kernel)
    digits = size ^ (3 * size)  # a bit for each
    return int(sum(((digits >> bit) & 1).sum() for bit in range(1, 34)))


def _digits(kernel: np.ndarray) -> int:
    return max(1, int(np.abs(kernel).max()).bit_length())
