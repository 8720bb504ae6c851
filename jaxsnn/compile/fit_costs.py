"""Fit the prices of `costs` to this processor: time layers of some sizes, each kind of work alone.

python -m jaxsnn.compile.fit_costs --out costs.json
"""

import ctypes
import json
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from jaxsnn.compile import costs, events, folded
from jaxsnn.compile.plan import Constants, Plan, Weigh, Wire
from jaxsnn.compile.source import one_sample, sample_size
from jaxsnn.files import write_atomic
from jaxsnn.native.builder import build, find_compiler

__all__ = ["fit_prices", "layer", "processor"]

FLAGS = ("-std=c99", "-O3", "-march=native")
SECONDS = 0.05  # of the shortest measurement
LOOP = """
void repeat(const SAMPLE *samples, int count, int rounds) {
  int32_t scores[CLASSES];
  for (int r = 0; r < rounds; r++)
    for (int i = 0; i < count; i++) net_predict(samples + i * SAMPLE_SIZE, scores);
}
"""
SAMPLES = 16
DENSE = ((128, 64, 0.1), (256, 128, 0.1), (256, 128, 0.9), (512, 64, 0.5))
FEW = ((64, 16, 0.5), (128, 64, 0.1), (64, 128, 0.1), (256, 64, 0.1))
MAPS = ((8, 8, 8, 0.5), (16, 8, 8, 0.1), (16, 16, 16, 0.3), (28, 4, 16, 0.5), (28, 8, 4, 0.1))
RATES = (0.02, 0.2)
SPIKES = 0.1


@dataclass(frozen=True)
class FitCosts:
    """Measure the prices of `jaxsnn.compile.costs` on this processor."""

    out: Path
    """The JSON file to write."""


def layer(
    side: int, inputs: int, outputs: int, density: float, *, timesteps: int = 4, seed: int = 0
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
    neurons = Constants(
        level=1000 * whole, theta=1000 * whole, keep=0 * whole, factor=whole, right=whole,
        reset="hard", fires_first=False, bits=24,
    )  # fmt: skip
    border = (size // 2, size // 2)
    source = Wire((side, side, inputs), 0, 1, constant=False, border=border)
    step = Weigh(
        "layer", 0, 1, (side, side, outputs), kernel, 1, 4 * whole, whole, None, None, neurons
    )
    target = Wire((side, side, outputs), 0, 1, constant=False)
    return Plan((source, target), (step,), timesteps, side * side * outputs, 1)


def fit_prices() -> dict[str, Any]:
    """Return the prices, the processor they are for, and how far off they are."""
    found: dict[str, float] = {}
    off: list[float] = []

    def family(rows: list[tuple[costs.Work, float]]) -> None:
        kinds = sorted(rows[0][0])
        amounts = np.array([[work[kind] for kind in kinds] for work, _ in rows])
        times = np.array([seconds for _, seconds in rows])
        values = _not_negative(amounts / times[:, None])  # relative errors count alike
        found.update(zip(kinds, values.tolist(), strict=True))
        off.extend(np.abs(amounts @ values / times - 1).tolist())

    family([_maps(*each) for each in MAPS])
    family([_dense(*each, "terms", SPIKES) for each in FEW])
    family([_dense(*each, "lists", SPIKES) for each in DENSE])
    family([_dense(*each, "rows", rate) for each in DENSE[1:] for rate in RATES])
    family([_events(*each, rate) for each in MAPS[:4] for rate in RATES])
    return {
        "processor": processor(),
        "nanoseconds": {kind: round(value, 4) for kind, value in sorted(found.items())},
        "median_error": round(float(np.median(off)), 3),
    }


def _maps(side: int, inputs: int, outputs: int, density: float) -> tuple[costs.Work, float]:
    plan = layer(side, inputs, outputs, density)
    work = costs.maps_work(plan, plan.layers[0], folded.layouts_of(plan)[0])
    return work, _time(plan, folded.emit(plan), SPIKES)


def _dense(
    inputs: int, outputs: int, density: float, way: str, rate: float
) -> tuple[costs.Work, float]:
    plan = layer(1, inputs, outputs, density)
    step = plan.layers[0]
    work = costs.dense_work(step, plan.input, plan.timesteps, way, rate)
    return work, _time(plan, folded.emit(plan, way), rate)


def _events(
    side: int, inputs: int, outputs: int, density: float, rate: float
) -> tuple[costs.Work, float]:
    plan = layer(side, inputs, outputs, density)
    return costs.events_work(plan, plan.layers[0], rate), _time(plan, events.emit(plan), rate)


def _time(plan: Plan, engine: events.Engine, rate: float) -> float:
    """Return the nanoseconds of a sample, as the processor counts them."""
    sizes = f"#define NET_SAMPLE {sample_size(plan)}\n#define NET_CLASSES {plan.classes}\n"
    code = (
        f"{sizes}#include <stdint.h>\n#include <string.h>\n{one_sample(plan, 'net', engine)}{LOOP}"
    )
    library = ctypes.CDLL(str(build(code, FLAGS, compiler=find_compiler())))
    size = plan.input.size * plan.timesteps
    samples = (np.random.default_rng(1).random((SAMPLES, size)) < rate).astype(np.uint8)
    pointer, rounds = samples.ctypes.data_as(ctypes.c_void_p), 1
    library.repeat(pointer, SAMPLES, 1)
    while True:
        begin = time.process_time()
        library.repeat(pointer, SAMPLES, rounds)
        taken = time.process_time() - begin
        if taken >= SECONDS:
            return taken / (rounds * SAMPLES) * 1e9
        rounds *= 4


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
