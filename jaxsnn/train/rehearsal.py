"""A rehearsal: whatever a method compiles, while the network that it is given still trains.

Who starts a method waits for XLA at each of its phases. What these will run is known beforehand,
but for the weights. So the method is called once before, on the untrained network, with a `Fit`
that takes no step; another thread does that while the first network trains.

    with rehearsed(lambda fit: admm.compress(net, task, data, options, fit=fit)):
        dense = train.fit(task, adam, net, data.train, epochs=30, batch_size=32)
    result = admm.compress(dense, task, data, options)
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxsnn.compress.phase import Phase, as_phase
from jaxsnn.data import Split
from jaxsnn.network import Network
from jaxsnn.train import evaluation, host, parallel
from jaxsnn.train.fitting import Fit, begun
from jaxsnn.train.loop import end_epoch, end_phase, no_sums, phase_key, run_steps
from jaxsnn.train.task import Task

__all__: list[str] = []  # nothing here is promised to users


class Over(Exception):
    """Ends a rehearsal that nobody needs any more."""


@contextlib.contextmanager
def rehearsed(method: Callable[[Fit], Any]) -> Iterator[None]:
    """Let another thread compile what a method will run, while the code inside does its work.

    At the end of the block the rehearsal finishes the phase that it is at, and leaves out the rest.
    On one core, and where several processes have to do the same in the same order, there is none.

    Args:
      method: calls the method with the `Fit` that it gets. What goes wrong in there is left for
        the method itself to say, when it is called in earnest.
    """
    if host.cores() == 1 or jax.process_count() > 1:
        yield
        return
    over = threading.Event()

    def fit(*args: Any, **options: Any) -> Network:
        if over.is_set():
            raise Over
        return rehearse(*args, **options)

    def run() -> None:
        with contextlib.suppress(Exception):
            method(fit)

    thread = threading.Thread(target=run, name="rehearsal")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def rehearse(
    task: Task,
    phase: Phase | optax.GradientTransformation,
    net: Network,
    split: Split,
    *,
    epochs: int,
    batch_size: int,
    validation: Split | None = None,
    seed: int = 0,
    name: str = "train",
) -> Network:
    """Compile what `fit` would run, with its arguments, and return the network without training."""
    phase = as_phase(phase, name="phase")
    optimizer, phase, state = begun(phase, net, phase_key(seed, name))
    state, device = parallel.replicate((state, jax.device_put(tuple(split))), task.devices)
    if epochs:
        state, _ = run_steps(task, optimizer, batch_size, state, no_sums(), device, jnp.int32(0))
        state = end_epoch(phase, state)
        if validation is not None and len(validation.labels):
            evaluation.prepare(task, state.net, validation)
        if phase.observe is not None:
            phase.observe(state.net.params, state.opt_state)
    return end_phase(phase, parallel.gather(state, task.devices))
