"""Several processes that run one experiment together: their options, and who writes and prints."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import jax

import jaxsnn
from experiments.common.options import flat
from jaxsnn.options import Range, Whole, checked
from jaxsnn.train import distributed

__all__ = ["ADDRESS", "LOCAL", "ProcessOptions", "together"]

ADDRESS = {"coordinator", "num_processes", "process_id", "coordinator_timeout"}
LOCAL = {*ADDRESS, "devices"}  # what may change when a run is resumed
OWN = {*ADDRESS, "data_dir", "config", "cache"}  # what may differ from process to process


@checked
class ProcessOptions:
    """Several processes, on one host or many: each is started with the same other options."""

    coordinator: str | None = None
    """Address HOST:PORT of process 0, or auto: ask SLURM, Open MPI or the TPU pod. Left out: one
    process."""
    num_processes: Annotated[int | None, Whole(1)] = None
    """How many processes there are in all; left out with auto."""
    process_id: Annotated[int | None, Whole(0)] = None
    """Which of them this one is, from 0 on; left out with auto. Process 0 writes and prints."""
    coordinator_timeout: Annotated[float, Range(0, float("inf"), open_low=True, open_high=True)] = (
        distributed.WAIT
    )
    """Seconds in which all processes must have come."""


@contextlib.contextmanager
def together(config: Any) -> Iterator[None]:
    """Run what is inside with the other processes that a configuration names, if it does.

    Args:
      config: groups of options, `processes` among them where a program can do so.

    Raises:
      UserError: on all processes, if they do not meet or were given other options.
    """
    options = getattr(config, "processes", ProcessOptions())
    given = {name: str(value) for name, value in flat(config).items() if name not in OWN}
    releases = {"the release of jax": jax.__version__, "the release of jaxsnn": jaxsnn.__version__}
    with (
        distributed.processes(
            options.coordinator, options.num_processes, options.process_id,
            facts=given | releases, timeout=options.coordinator_timeout,
        ),
        _only_the_first_prints(),
    ):  # fmt: skip
        yield


@contextlib.contextmanager
def _only_the_first_prints() -> Iterator[None]:
    """Of several processes let the first print its results, and no library beside it."""
    if jax.process_count() == 1:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    with open(kept, "w", encoding="utf-8") as own, open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)  # where Gloo says who is connected
        try:
            with contextlib.redirect_stdout(own if distributed.is_first() else nowhere):
                yield
        finally:
            own.flush()
            os.dup2(kept, 1)
