"""Fit the prices of `costs` to this processor: time layers of some sizes, each kind of work alone.

python -m jaxsnn.compile.fit_costs --out costs.json
"""

import ctypes
import json
import platform
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from jaxsnn.compile import costs, events, folded, products
from jaxsnn.compile.plan import PROCESSORS, Constants, Plan, Weigh, Wire, this_processor
from jaxsnn.compile.source import many_samples, one_sample, sample_size
from jaxsnn.files import write_atomic
from jaxsnn.native.builder import build, find_compiler

__all__ = ["fit_prices", "layer", "processor"]

FLAGS = ("-std=c99", "-O3")
OF_PROCESSORS = {
    "amx": ("-march=sapphirerapids",), "avx512_vnni": ("-march=icelake-server",),
    "avx2": ("-march=haswell",), "other": (),
}  # fmt: skip
SECONDS = 0.03  # of the shortest measurement
REPEATS = 7  # of which the fastest counts: others may use the processor, too
LOOP = """
void repeat(const SAMPLE *samples, int count, int rounds) {
  static int32_t scores[1024 * CLASSES];
  for (int r = 0; r < rounds; r++)
    CALL;
}
"""
ONE = "for (int i = 0; i < count; i++) net_predict(samples + i * SAMPLE_SIZE, scores)"
MANY = "net_predict_batch(samples, scores, count)"
SAMPLES, SAMPLES_OF_MANY = 16, 1024
DENSE = ((128, 64, 0.1), (256, 128, 0.1), (256, 128, 0.9), (512, 64, 0.5))
FEW = ((64, 16, 0.5), (128, 64, 0.1), (64, 128, 0.1), (256, 64, 0.1))
MAPS = ((8, 8, 8, 0.5), (16, 8, 8, 0.1), (16, 16, 16, 0.3), (28, 4, 16, 0.5), (28, 8, 4, 0.1))
BLOCKS = ((16, 64, 64, 1.0), (8, 128, 128, 1.0), (8, 256, 32, 1.0), (28, 16, 16, 1.0),
          (12, 8, 24, 1.0), (28, 1, 16, 1.0), (20, 10, 32, 1.0), (6, 4, 64, 1.0), (3, 64, 64, 1.0),
          (3, 128, 64, 1.0))  # fmt: skip
ROWS = ((256, 128, 1.0), (2048, 256, 1.0), (64, 10, 1.0), (512, 64, 1.0))
BITS = (
    (8, 16, 32, 1.0),
    (16, 128, 64, 0.1),
    (32, 64, 64, 0.1),
    (8, 128, 64, 0.5),
    (28, 8, 16, 0.2),
)
RATES = (0.02, 0.2)
SPIKES = 0.1


@dataclass(frozen=True)
class FitCosts:
    """Measure the prices of `jaxsnn.compile.costs` on this processor."""

    out: Path
    """The JSON file to write."""


def layer(
    side: int,
    inputs: int,
    outputs: int,
    density: float,
    *,
    timesteps: int = 4,
    bits: int = 24,
    seed: int = 0,
    processor: str = PROCESSORS[-1],
) -> Plan:
    """Return a network of one layer: a convolution of 3 x 3, or a dense layer for a side of 1.

    Example:
      >>> layer(1, 8, 4, 0.5).steps[0].shape
      (1, 1, 4)
    """
    random = np.random.default_rng(seed)
    size = 1 if side == 1 else 3
    shape = (size, size, inputs, outputs)
    kernel = random.integers(1, 4, shape) * random.choice([-1, 1], shape)
    kernel = kernel * (random.random(shape) < density)
    whole = np.ones(outputs, np.int64)
    each = np.arange(outputs) % 3  # as folded norms have it, channels differ
    neurons = Constants(
        level=1000 + each, theta=1000 * whole, keep=0 * whole, factor=whole, right=whole,
        reset="hard", fires_first=False, bits=bits,
    )  # fmt: skip
    border = (size // 2, size // 2)
    source = Wire((side, side, inputs), 0, 1, constant=False, border=border)
    step = Weigh(
        "layer", 0, 1, (side, side, outputs), kernel, 1, 4 + each, each, None, None, neurons
    )
    target = Wire((side, side, outputs), 0, 1, constant=False)
    return Plan((source, target), (step,), timesteps, side * side * outputs, 1, processor)


def followed(plan: Plan) -> Plan:
    """Return a network with one more neuron behind it, which hears little: its layer's are inside.

    Example:
      >>> followed(layer(8, 2, 4, 0.5)).layers[1].shape
      (1, 1, 1)
    """
    step, signal, index = plan.layers[0], plan.signals[-1], len(plan.signals)
    n, whole = step.neurons, np.ones(1, np.int64)
    neurons = replace(n, level=1000 * whole, theta=1000 * whole, keep=0 * whole, factor=whole,
                      right=whole)  # fmt: skip
    kernel = np.zeros((1, 1, signal.size, 1), np.int64)
    kernel[0, 0, :4] = 1
    last = Weigh("last", index - 1, index, (1, 1, 1), kernel, 1, whole, whole, None, None, neurons)
    flat = replace(signal, shape=(1, 1, signal.size))
    signals = *plan.signals[:-1], flat, Wire((1, 1, 1), 0, 1, constant=False)
    return replace(plan, signals=signals, steps=(*plan.steps, last), classes=1)


def led(plan: Plan) -> Plan:
    """Return a network with a layer in front, which hears one channel of the samples.

    Example:
      >>> [step.name for step in led(layer(8, 2, 4, 0.5)).layers]
      ['first', 'layer']
    """
    step, source = plan.layers[0], plan.signals[0]
    front = layer(source.shape[0], 1, source.shape[2], 0.5, processor=plan.processor)
    steps = (
        replace(front.layers[0], name="first"),
        replace(step, source=1, target=2),
    )
    return replace(plan, signals=(front.signals[0], source, plan.signals[1]), steps=steps)


def fit_prices() -> dict[str, Any]:
    """Return the prices for this processor, those with fewer instructions, and how far off."""
    known = PROCESSORS[PROCESSORS.index(this_processor()) :]
    found = {name: _prices_of(name) for name in known}
    return {
        "processor": processor(),
        "nanoseconds": {name: prices for name, (prices, _) in found.items()},
        "median_error": {name: off for name, (_, off) in found.items()},
    }


def _prices_of(kind: str) -> tuple[dict[str, float], float]:
    """Return the prices of one of `PROCESSORS`, and the median of their relative errors."""
    found: dict[str, float] = {}
    off: list[float] = []

    def family(rows: list[tuple[costs.Work, float]]) -> None:
        kinds = sorted({kind for work, _ in rows for kind in work})
        amounts = np.array([[work.get(kind, 0.0) for kind in kinds] for work, _ in rows])
        times = np.array([seconds for _, seconds in rows])
        values = _not_negative(amounts / times[:, None])  # relative errors count alike
        found.update(zip(kinds, values.tolist(), strict=True))
        off.extend(np.abs(amounts @ values / times - 1).tolist())

    plan_of = partial(layer, processor=kind)
    dense_of = partial(layer, 1, processor=kind)
    family([_maps(plan_of(*each)) for each in MAPS])
    family([_dense(dense_of(*each), "terms", SPIKES) for each in FEW])
    family([_dense(dense_of(*each), "lists", SPIKES) for each in DENSE])
    family([_dense(dense_of(*each), "rows", rate) for each in DENSE[1:] for rate in RATES])
    family([_events(plan_of(*each), rate) for each in MAPS[:4] for rate in RATES])
    family([_products(plan_of(*each)) for each in BLOCKS]
           + [_products(dense_of(*each)) for each in ROWS])  # fmt: skip
    family([_lanes(plan_of(*each, bits=bits)) for each in BITS for bits in (12, 24)])
    prices = {kind: round(value, 5) for kind, value in sorted(found.items())}
    return prices, round(float(np.median(off)), 3)


def _maps(plan: Plan) -> tuple[costs.Work, float]:
    work = costs.maps_work(plan, plan.layers[0], folded.layouts_of(plan)[0])
    return work, _time(plan, folded.emit(plan), SPIKES)


def _dense(plan: Plan, way: str, rate: float) -> tuple[costs.Work, float]:
    step = plan.layers[0]
    work = costs.dense_work(step, plan.input, plan.timesteps, way, rate)
    return work, _time(plan, folded.emit(plan, way), rate)


def _events(plan: Plan, rate: float) -> tuple[costs.Work, float]:
    return costs.events_work(plan, plan.layers[0], rate), _time(plan, events.emit(plan), rate)


def _products(plan: Plan) -> tuple[costs.Work, float]:
    plan = followed(plan)
    work = costs.products_work(products.layers_of(plan)[1])
    return work, _time(plan, products.emit(plan), SPIKES)


def _lanes(plan: Plan) -> tuple[costs.Work, float]:
    plan = followed(led(plan))
    work: costs.Work = {}
    for step in plan.layers:
        for kind, amount in costs.lanes_work(plan, step).items():
            work[kind] = work.get(kind, 0.0) + amount
    return work, _time(plan, None, SPIKES)


def _time(plan: Plan, engine: events.Engine | None, rate: float) -> float:
    """Return the nanoseconds of a sample, as the processor counts them; many, without an engine."""
    sizes = f"#define NET_SAMPLE {sample_size(plan)}\n#define NET_CLASSES {plan.classes}\n"
    if engine is None:
        code, call, count = many_samples(plan, "net"), MANY, SAMPLES_OF_MANY
    else:
        code, call, count = one_sample(plan, "net", engine), ONE, SAMPLES
    code = f"{sizes}#include <stdint.h>\n#include <string.h>\n{code}{LOOP.replace('CALL', call)}"
    flags = (*FLAGS, *OF_PROCESSORS[plan.processor])
    library = ctypes.CDLL(str(build(code, flags, compiler=find_compiler())))
    size = plan.input.size * plan.timesteps
    samples = (np.random.default_rng(1).random((count, size)) < rate).astype(np.uint8)
    pointer, rounds = samples.ctypes.data_as(ctypes.c_void_p), 1

    def seconds() -> float:
        begin = time.process_time()
        library.repeat(pointer, count, rounds)
        return time.process_time() - begin

    while seconds() < SECONDS:
        rounds *= 4
    return min(seconds() for _ in range(REPEATS)) / (rounds * count) * 1e9


def _not_negative(amounts: np.ndarray) -> np.ndarray:
    """Return the prices, none negative, of the least squared relative errors."""
    left = list(range(amounts.shape[1]))
    while True:
        prices = np.zeros(amounts.shape[1])
        prices[left] = np.linalg.lstsq(amounts[:, left], np.ones(len(amounts)), rcond=None)[0]
        if (prices >= 0).all():
            return prices
        left.remove(int(prices.argmin()))


def processor() -> str:
    """Return the name of the processor, where it can be read."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.machine()


def main(options: FitCosts) -> None:
    """Measure, and write the file."""
    found = fit_prices()
    write_atomic(options.out, json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main(tyro.cli(FitCosts, description=__doc__))
