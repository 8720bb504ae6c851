"""What each neuron of ours costs beside LIF, at equal shapes.

The bar: at most 1.2 times LIF's time for each state that a neuron carries. It is measured where it
is seen, in a training step and in a pass of whole networks, and where nothing else is: neurons
alone, forward and with their reverse pass. All calls of a network are timed in turns, in one
process; beside the wall clock the processor's own time is given, which other programs disturb less.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from rich.console import Console

from experiments.bench.contenders import Contender
from experiments.bench.rounds import Effort
from experiments.bench.studies.timing import Epoch, in_turns
from experiments.bench.tables import new_table
from jaxsnn import models, train
from jaxsnn.inputs import Inputs
from jaxsnn.neurons import LIF, PLIF, AdaptiveLIF, Neuron, SynapticLIF, unroll

Rows = list[dict[str, Any]]

BAR = 1.2  # of LIF's time, for each state
REFERENCE = "LIF"
NEURONS: dict[str, Neuron] = {
    REFERENCE: LIF(0.5, 0.5),
    "PLIF": PLIF(0.0, 0.25),
    "SynapticLIF": SynapticLIF(0.5, 0.5, 0.5),
    "AdaptiveLIF": AdaptiveLIF(0.5, 0.5, 0.125, 0.75),
}
STEPS = 2  # in one call of the compiled epoch
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


class Case(NamedTuple):
    """A network; without a layout neurons alone, of the input's shape."""

    layout: str
    shape: tuple[int, ...]
    timesteps: int
    batch: int
    rate: float = 0.2  # of the input's spikes

    @property
    def title(self) -> str:
        return self.layout or "neurons alone"


CASES = (
    Case("", (4096,), 16, 32),
    Case("256-256-10", (784,), 25, 64),
    Case("16C3-AP2-32C3-AP2-10", (28, 28, 1), 4, 32),
)
Calls = dict[tuple[str, str], Callable[[], Any]]  # what is computed, neuron


def calls_of(case: Case, seed: int) -> Calls:
    """Return what is timed, for each neuron."""
    random = np.random.default_rng(seed)
    found: Calls = {}
    for name, neuron in NEURONS.items():
        made = alone(case, neuron, random) if not case.layout else network(case, neuron, random)
        found |= {(what, name): call for what, call in made.items()}
    return found


def alone(case: Case, neuron: Neuron, random: np.random.Generator) -> dict[str, Callable[[], Any]]:
    """Return a pass of neurons, and one with its derivative."""
    shape = case.timesteps, case.batch, *case.shape
    current = jnp.asarray(random.normal(0.2, 0.5, shape), jnp.float32)

    def total(current: Array) -> Array:
        spikes: Array = unroll(neuron, current)[0]
        return spikes.sum()

    forward, gradient = jax.jit(total), jax.jit(jax.grad(total))
    return {
        "forward": lambda: jax.block_until_ready(forward(current)),
        "with its gradient": lambda: jax.block_until_ready(gradient(current)),
    }


def network(
    case: Case, neuron: Neuron, random: np.random.Generator
) -> dict[str, Callable[[], Any]]:
    """Return a pass of a network, and a training step."""
    task = train.Task(Inputs(case.shape, case.timesteps, "events"), loss="ce")
    net = models.build(case.layout, case.shape, neuron)
    size = STEPS * case.batch
    events = random.random((size, case.timesteps, *case.shape)) < case.rate
    split = events.astype(np.uint8), random.integers(0, 10, size).astype(np.int32)
    x = task.prepare(jax.random.key(0), jnp.asarray(split[0][: case.batch]), False)
    forward = jax.jit(lambda net, x: net(x).readout)
    data = jnp.asarray(split[0]), jnp.asarray(split[1])
    epoch = Epoch(task, optax.adam(1e-3), net, data, STEPS)
    return {
        "inference": lambda: jax.block_until_ready(forward(net, x)),
        "training": epoch,
    }


def rows_of(case: Case, seconds: dict[str, dict[tuple[str, str], float]]) -> Rows:
    """Return a row for each neuron, against LIF.

    Args:
      case: the network.
      seconds: clock -> what is computed and neuron -> its median.
    """
    rows = []
    for what, name in seconds["wall"]:
        states = len(NEURONS[name].State._fields)
        row: dict[str, Any] = {
            "network": case.title, "what": what, "neuron": name, "states": states,
        }  # fmt: skip
        for clock, found in seconds.items():
            ratio = found[what, name] / found[what, REFERENCE]
            row |= {f"{clock}_ms": 1e3 * found[what, name] / (STEPS if what == "training" else 1)}
            row |= {f"{clock}_ratio": ratio, f"{clock}_per_state": ratio / states}
        rows.append(row | {"within": row["wall_per_state"] <= BAR})
    return rows


def neurons(console: Console, peers: dict[str, Contender], effort: Effort, seed: int) -> Rows:
    """Time every neuron in every case, and print the ratios to LIF."""
    del peers
    rows = []
    for case in CASES:
        effort.say(f"neurons: {case.title}")
        calls = calls_of(case, seed)
        named = {f"{what}: {name}": call for (what, name), call in calls.items()}
        seconds = {}
        for clock, read in CLOCKS.items():
            found = in_turns(named, effort, read)
            seconds[clock] = dict(zip(calls, found.values(), strict=True))
        rows += rows_of(case, seconds)
    show(console, rows)
    return rows


def show(console: Console, rows: Rows) -> None:
    """Print times and ratios."""
    title = f"Neurons beside LIF: at most {BAR} times its time for each state"
    table = new_table(title, "", "", "", "states", "ms", "ratio", "per state", "of CPU time")
    for row in rows:
        numbers = (row["wall_ms"], row["wall_ratio"], row["wall_per_state"])
        cells = [f"{number:.3g}" for number in (*numbers, row["processor_per_state"])]
        table.add_row(row["network"], row["what"], row["neuron"], str(row["states"]), *cells)
    console.print(table)
