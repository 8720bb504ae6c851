"""A search: Optuna asks for points, the engine of the sweeps trains them, as one compiled program.

A worker has as many lanes as it computes at a time. Whenever lanes are free it asks for as many
points; a call of its one program trains all lanes for a segment; what has ended is told. Lanes for
which there is no point any more repeat one of the others, and what they find is thrown away: the
number of lanes never changes, so a worker compiles once.

Without halving a segment is the whole training. With halving it is the epochs between two looks at
the lanes; those that lose are replaced by new points, while the others go on from where they are
(`segments`, `halving`). Workers meet in the storage alone (`trials`).
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn import tree
from jaxsnn.arrays import check_whole
from jaxsnn.data import Dataset, Split
from jaxsnn.errors import UserError
from jaxsnn.network import Network
from jaxsnn.sweep import chunks
from jaxsnn.sweep.fronts import beaten
from jaxsnn.sweep.grid import Axis
from jaxsnn.sweep.halving import rungs_of
from jaxsnn.sweep.lane import LaneFunction, Splits, splits_of
from jaxsnn.sweep.space import Space, checked_space, types_of
from jaxsnn.sweep.trials import Direction, Trials
from jaxsnn.sweep.worker import Networks, SearchEngine, Worker, say
from jaxsnn.train import Task

__all__ = ["MEASURES", "OBJECTIVES", "Searched", "front_of", "search"]

OBJECTIVES: dict[str, Direction] = {
    "accuracy": "maximize", "weight_bytes": "minimize", "synops": "minimize",
}  # fmt: skip
MEASURES = (
    "accuracy", "density", "bits", "weight_bytes", "spike_rate", "spikes_per_sample", "synops",
    "macs", "bit_ops", "energy_pj", "energy_pj_int32",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Searched:
    """What a search has found: all workers return the same, but for `networks` and `calls`.

    Attributes:
      rows: one dictionary for each trial that ended with a result, by its number: `trial`, its
        axes, its objectives (None where it lost), `ended` ("whole", "halved" or "diverged"),
        `epochs` that it was trained, `worker`.
      front: numbers of the trials that were trained to the end and that no other beats.
      networks: number of a trial on the front -> its network, of the trials of this worker, or of
        all whose file is in the directory.
      lane_epochs: epochs of all lanes together, over all workers.
      calls: of the compiled program, by this worker.
    """

    rows: list[dict[str, Any]]
    front: list[int]
    networks: dict[int, Network]
    lane_epochs: int
    calls: int


def search(
    lane: LaneFunction,
    space: Space,
    task: Task,
    net: Network,
    data: Dataset | Splits,
    *,
    trials: int,
    epochs: int,
    batch_size: int,
    objectives: Mapping[str, Direction] = OBJECTIVES,
    halving: int | None = None,
    sampler: Any = None,
    storage: Any = None,
    study: str = "sweep",
    judge: str = "validation",
    seed: int = 0,
    axes: Mapping[str, Axis] | None = None,
    lanes: chunks.Mode = "auto",
    chunk: int = 8,
    budget: float | None = None,
    devices: int | None = None,
    directory: str | Path | None = None,
    log: Callable[[dict[str, Any]], None] | None = None,
    show: bool = True,
) -> Searched:
    """Search a space for the best networks, with Optuna's samplers and one compiled program.

    Call it in as many processes as there should be workers, all with the same arguments and one
    storage: each returns when the search is over. A worker that dies loses the points that it was
    computing; others ask for them again.

    Args:
      lane: (point, start network) -> (phase, network), or a `Lane`; as of `run`.
      space: axis -> a distribution of `optuna.distributions`, or numbers to choose from.
      task: input and loss of all lanes.
      net: what they start from.
      data: a data set, or name -> (samples, labels) with "train" among them.
      trials: points to try, over all workers.
      epochs: of a whole training.
      batch_size: samples of a step.
      objectives: fields of a `metrics.Report` -> "maximize" or "minimize".
      halving: of so many lanes at a rung one goes on (`sweep.halving`); None trains all to the end.
      sampler: of optuna; its default if None. Each worker needs its own, with its own seed.
      storage: of optuna; or the path of a journal file, for processes of one machine; or a URL,
        such as `sqlite:///search.db`, `postgresql://...` or `grpc://HOST:PORT`. None: this process.
      study: name of the search in the storage.
      judge: the split on which networks are measured.
      seed: of shuffling and encoding, where a lane has none.
      axes: which axes there are, with their ranges (`sweep.AXES`); None lets any name pass.
      lanes: "vmap" (together), "loop" (in turn) or "auto".
      chunk: lanes of this worker, rounded up to a multiple of the devices.
      budget: bytes of memory on each device; if left out, 80 % of what is free.
      devices: local devices to spread the lanes over; all, if left out.
      directory: where the networks are kept that were on the front when they ended.
      log: called after each call of the program with its figures: `call`, `lanes`, `loss`,
        `seconds`, and `ended`, worker -> its trials; what it raises ends the worker, whose points
        are given back.
      show: whether to print a line after each call.

    Returns:
      What was found.

    Raises:
      UserError: if an argument is refused, the storage cannot be used or holds another search, or
        optuna is not installed.

    Example:
      >>> import optax
      >>> from jaxsnn import compress, data, models
      >>> digits = data.load("digits", limit=60)
      >>> net, task = models.build("8-10", digits.shape), Task(digits.inputs(timesteps=2))
      >>> def lane(point, start):
      ...     grid = compress.uniform_grid(point["bits"])
      ...     return compress.quantized(optax.adam(1e-2), {"*/kernel": grid}), start
      >>> short = {"epochs": 1, "batch_size": 30, "show": False}
      >>> found = search(lane, {"bits": [2, 4, 8]}, task, net, digits, trials=2, chunk=2, **short)
      >>> len(found.rows), found.lane_epochs, found.calls
      (2, 2, 1)
    """
    if jax.process_count() > 1:
        raise UserError("workers of a search share its storage: start them without --coordinator")
    rungs = rungs_of(epochs, halving)
    ranges = checked_space(space, axes)
    objectives = _checked(objectives)
    check_whole("chunk", chunk, 1, 1 << 20)
    check_whole("devices", devices or 1, 1, len(jax.local_devices()))
    splits = splits_of(task, net, data, batch_size)
    if judge not in splits:
        raise UserError(f"judge {judge!r} is no split with samples; there are {', '.join(splits)}")
    facts = {
        "epochs": epochs, "batch_size": batch_size, "halving": halving, "judge": judge,
        "seed": seed, "data": _digest(splits), "network": _shapes(net),
    }  # fmt: skip
    there = Trials(storage, study, trials, ranges, objectives, facts, sampler)
    engine = SearchEngine(
        lane, task, net, splits, types_of(ranges, axes), rungs, judge=judge, count=trials,
        chunk=chunk, batch_size=batch_size, seed=seed, mode=lanes, budget=budget, devices=devices,
    )  # fmt: skip
    networks = Networks(directory, engine.net)

    def tell(record: dict[str, Any]) -> None:
        if show:
            say(record, trials)
        if log is not None:
            log(record)

    with there:
        Worker(there, engine, networks, rungs, epochs=epochs, keep=halving).work(tell)
    rows = there.ended()
    front = front_of(rows, objectives)
    lane_epochs = sum(row["epochs"] for row in rows)
    return Searched(rows, front, networks.of(front), lane_epochs, engine.calls)


def front_of(rows: Sequence[Mapping[str, Any]], objectives: Mapping[str, Direction]) -> list[int]:
    """Return the numbers of the trials that were trained to the end and that no other beats.

    >>> rows = [{"trial": 3, "accuracy": 0.9, "synops": 10.0, "ended": "whole"}]
    >>> front_of(rows, {"accuracy": "maximize", "synops": "minimize"})
    [3]

    Args:
      rows: of a `Searched`.
      objectives: name -> direction.
    """
    whole = [row for row in rows if row["ended"] == "whole"]
    signs = {name: -1.0 if way == "maximize" else 1.0 for name, way in objectives.items()}
    losses = [[sign * row[name] for name, sign in signs.items()] for row in whole]
    out: Sequence[bool] = beaten(losses).tolist() if whole else []
    return [row["trial"] for row, is_out in zip(whole, out, strict=True) if not is_out]


def _checked(objectives: Mapping[str, Direction]) -> dict[str, Direction]:
    """Return the objectives, each a number of a report with a direction."""
    if not objectives:
        raise UserError(f"objectives are empty: give some of {', '.join(MEASURES)}")
    for name, way in objectives.items():
        if name not in MEASURES:
            raise UserError(f"objective {name!r} is unknown; there are {', '.join(MEASURES)}")
        if way not in ("maximize", "minimize"):
            raise UserError(f"objective {name!r} must be 'maximize' or 'minimize', found {way!r}")
    return dict(objectives)


def _digest(splits: Mapping[str, Split]) -> str:
    """Return what tells one set of data from others."""
    found = hashlib.sha256()
    for name, split in splits.items():
        for each in map(np.asarray, split):
            found.update(f"{name} {each.shape} {each.dtype}".encode())
            found.update(np.ascontiguousarray(each).tobytes())
    return found.hexdigest()[:16]


def _shapes(net: Network) -> str:
    """Return what tells the leaves of one network from those of others, their numbers aside."""
    leaves = tree.named_leaves(net).items()
    text = " ".join(f"{name} {jnp.shape(leaf)} {jnp.result_type(leaf)}" for name, leaf in leaves)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
