"""The search in place of the grid: what a worker does, and the processes that are the others."""

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import common
from experiments.sweep.choice import COSTS, Chosen, Tried
from experiments.sweep.config import Config
from jaxsnn import metrics, sweep, tree
from jaxsnn.errors import UserError
from jaxsnn.files import make_folder
from jaxsnn.methods import Result, Trained
from jaxsnn.network import Network
from jaxsnn.report.comparisons import Picture, plot_front
from jaxsnn.sweep.searching import Searched
from jaxsnn.sweep.space import need_optuna
from jaxsnn.sweep.trials import open_storage

CHUNK = 8  # lanes of a worker
GRACE = 60.0  # seconds that the other workers have to end after the last trial
FOLDER = "search"  # in the run directory: journal, networks, what the other workers print
START = "start"  # the dense network, for the other workers


def check(config: Config) -> None:
    """Refuse a search that this machine cannot do, before anything is made."""
    if jax.process_count() > 1:
        raise UserError("--search shares a storage: give --workers, not --num-processes")
    need_optuna().logging.set_verbosity(need_optuna().logging.WARNING)
    if config.search.storage is not None:
        open_storage(config.search.storage)
    workers, backend = config.search.workers or 1, jax.default_backend()
    if workers > 1 and backend != "cpu":
        raise UserError(
            f"--workers {workers} would share one {backend}: give more --chunk, and start the "
            "command once on each device with the same --storage"
        )


def searched(
    config: Config, problem: common.Problem, there: common.Run, dense: Network, lane: Any
) -> Tried:
    """Search, this process being the first of the workers."""
    start = {"params": dense.params, "stats": dense.stats}
    there.arrays(START, lambda: tree.named_leaves(start))
    with others(config, there) as look:
        found = work(config, problem, there.directory, dense, lane, look)
    rows = {row["trial"]: row for row in found.rows}
    steps = config.task.timesteps
    networks = {
        f"trial {number}": Trained(net, problem.task.at(int(rows[number].get("timesteps", steps))))
        for number, net in found.networks.items()
    }
    if not networks:
        raise UserError(
            "no network of the front is in the run directory: every lane diverged (lower "
            "--learning-rate), or the workers of other machines found them"
        )
    accuracies = {f"trial {number}": rows[number]["accuracy"] for number in found.networks}
    extra = {
        "front": found.front,
        "lane_epochs": found.lane_epochs,
        "hypervolumes": hypervolumes(problem, dense, found),
        "trials": found.rows,
    }
    return Tried(networks, accuracies, pictures(found), {"search": extra})


def work(
    config: Config,
    problem: common.Problem,
    directory: Path,
    dense: Network,
    lane: Any,
    log: Callable[[dict[str, Any]], None] | None = None,
    index: int = 0,
) -> Searched:
    """Do what each worker does; the first one prints and returns the networks of all."""
    c, s = config.sweep, config.search
    folder = make_folder(directory / FOLDER, "the folder of the search")
    return sweep.search(
        lane, space_of(config), problem.task, dense,
        {"train": problem.data.train, "validation": problem.data.validation},
        trials=s.search or 1, epochs=c.tune_epochs, batch_size=c.batch_size, halving=s.halving,
        sampler=sampler_of(config, index), storage=s.storage or str(folder / "journal.log"),
        study=s.study or "sweep", seed=c.seed, axes=c.axes(config.task.timesteps), lanes=c.lanes,
        chunk=c.chunk or CHUNK, budget=None if c.memory_mb is None else 1e6 * c.memory_mb,
        directory=folder / "networks", log=log,
    )  # fmt: skip


@contextlib.contextmanager
def others(config: Config, there: common.Run) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Run the other workers beside this one; yield what looks whether they are alive."""
    folder = make_folder(there.directory / FOLDER, "the folder of the search")
    processes, gone = {}, set()
    for index in range(1, config.search.workers or 1):
        command = [
            sys.executable,
            "-m",
            "experiments.sweep.worker",
            str(there.directory),
            str(index),
        ]
        with open(folder / f"worker-{index}.log", "ab") as output:
            processes[index] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        # One that nobody has waited for counts as alive.
        threading.Thread(target=processes[index].wait, daemon=True).start()

    def look(record: Any = None) -> None:
        del record
        for index, process in processes.items():
            if process.poll() not in (None, 0) and index not in gone:
                gone.add(index)
                there.say(
                    f"worker {index} ended with code {process.returncode}: the others ask for its "
                    f"points again; {folder / f'worker-{index}.log'} has its last words"
                )

    try:
        yield look
        for process in processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
        look()
    finally:
        for process in processes.values():
            process.terminate()
            process.wait()


def space_of(config: Config) -> dict[str, Any]:
    """Return axis -> distribution: from the least to the greatest value of the grid.

    Step sizes and penalties are drawn by their logarithm.
    """
    distributions = need_optuna().distributions
    axes, found = config.sweep.axes(config.task.timesteps), {}
    for name, values in config.sweep.grid().items():
        low, high = min(values), max(values)
        if axes[name].whole:
            found[name] = distributions.IntDistribution(int(low), int(high))
        else:
            is_log = name in ("learning_rate", "penalty") and low > 0
            found[name] = distributions.FloatDistribution(low, high, log=is_log)
    return found


def sampler_of(config: Config, index: int) -> Any:
    """Return the sampler of a worker: of a search of one process by its seed, else any."""
    samplers, s = need_optuna().samplers, config.search
    is_alone = (s.workers or 1) == 1 and s.storage is None and not config.run.resume
    entropy = config.sweep.seed if is_alone and index == 0 else None
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    if s.sampler == "grid":
        grid = {name: list(values) for name, values in config.sweep.grid().items()}
        return samplers.GridSampler(grid, seed=seed)
    kinds = {"random": samplers.RandomSampler, "nsga2": samplers.NSGAIISampler}
    return kinds.get(s.sampler or "", samplers.TPESampler)(seed=seed)


def hypervolumes(
    problem: common.Problem, dense: Network, found: Searched
) -> list[dict[str, float]]:
    """Return how the fronts grew on held-out images, after each trial that came to its end.

    Each entry has `lane_epochs`, those of all trials so far in the order of their numbers, and for
    each cost the hypervolume as a share, as of `choice.fronts`.
    """
    whole = metrics.measure(problem.task, dense, problem.data.validation)
    chance, spent, trace = 1 / problem.data.num_classes, 0, []
    rows: list[dict[str, Any]] = []
    for row in found.rows:
        spent += row["epochs"]
        if row["ended"] == "whole":
            rows.append(row)
            entry: dict[str, float] = {"lane_epochs": spent}
            for cost in COSTS:
                most = getattr(whole, cost)
                points = [each[cost] for each in rows], [each["accuracy"] for each in rows]
                entry[cost] = sweep.hypervolume(*points, (most, chance)) / (most * (1 - chance))
            trace.append(entry)
    return trace


def pictures(found: Searched) -> Callable[[Result, Chosen], list[Picture]]:
    """Return what draws all networks that were trained to the end, with the fronts."""
    rows = [row for row in found.rows if row["ended"] == "whole"]

    def of(whole: Result, chosen: Chosen) -> list[Picture]:
        dense, names = whole.report.rows[0], [f"trial {row['trial']}" for row in rows]
        front = partial(
            plot_front,
            {title: [row[cost] for row in rows] for cost, title in COSTS.items()},
            [row["accuracy"] for row in rows],
            names=names,
            groups=[f"{row['bits']} bits" for row in rows],
            dense=([getattr(dense, cost) for cost in COSTS], chosen.validation["dense"]),
            chosen=names.index(chosen.name),
        )
        return [("front", front)]

    return of
