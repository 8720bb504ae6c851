"""What the studies time: calls in turns, and some steps of the compiled epoch."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import optax

from experiments.bench.rounds import Effort
from jaxsnn import compress, train
from jaxsnn.compress.phase import as_phase
from jaxsnn.network import Network
from jaxsnn.train import loop


def in_turns(
    calls: dict[str, Callable[[], Any]],
    effort: Effort,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Return the median seconds of each call, taken in turns after two calls to warm up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
        call()
    start = time.perf_counter()
    while time.perf_counter() - start < effort.seconds * effort.rounds * len(calls):
        for name, call in calls.items():
            before = clock()
            call()
            times[name].append(clock() - before)
    return {name: statistics.median(found) for name, found in times.items()}


class Epoch:
    """Run some steps of the compiled epoch at each call.

    Args:
      task: input and loss.
      phase: what trains.
      net: the network to begin with.
      split: samples and labels of as many batches as there are steps.
      steps: of one call.
    """

    def __init__(
        self,
        task: train.Task,
        phase: compress.Phase | optax.GradientTransformation,
        net: Network,
        split: tuple[Any, Any],
        steps: int,
    ):
        phase = as_phase(phase)
        self.task, self.optimizer, self.split, self.steps = task, phase.optimizer, split, steps
        self.batch_size = len(split[1]) // steps
        self.state = loop.init(net, phase, jax.random.key(0))

    def __call__(self) -> None:
        """Take the steps, and wait for them."""
        stop = self.state.step + self.steps
        self.state, _ = loop.run_steps(
            self.task,
            self.optimizer,
            self.batch_size,
            self.state,
            loop.no_sums(),
            self.split,
            stop,
        )
        jax.block_until_ready(self.state)
