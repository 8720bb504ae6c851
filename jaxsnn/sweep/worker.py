"""A worker of a search: its compiled program, its lanes, the networks that it keeps."""

import contextlib
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn import archive, tree
from jaxsnn.data import Split
from jaxsnn.errors import UserError
from jaxsnn.files import make_folder, remove_temporaries, write_atomic
from jaxsnn.metrics import Report
from jaxsnn.network import Network
from jaxsnn.sweep import chunks
from jaxsnn.sweep.fronts import beaten
from jaxsnn.sweep.halving import Rungs, losers
from jaxsnn.sweep.lane import LaneFunction
from jaxsnn.sweep.segments import AXIS, FRESH, begun, segment
from jaxsnn.sweep.space import arrays
from jaxsnn.sweep.trials import Trials
from jaxsnn.train import Task, parallel

__all__ = ["Networks", "SearchEngine", "Worker", "say"]

Tree = Any
Trial = Any  # of optuna
Record = dict[str, Any]

WAIT = 1.0  # seconds between two looks at the trials of others, where there is nothing to do


class SearchEngine:
    """The compiled program of all calls, and the state in which each lane was left.

    Args:
      lane: what a point trains.
      task: of all lanes that bring none of their own.
      net: what lanes start from.
      splits: name -> (samples, labels).
      types: axis -> int32 or float32.
      rungs: when lanes are looked at.
      judge: the split that they are evaluated on.
      count: trials of the search: there are no more lanes than these.
      chunk: lanes, rounded up to a multiple of the devices.
      batch_size, seed: of the training.
      mode, budget, devices: of `chunks.build_program`; None for all devices.

    Attributes:
      lanes: how many, 0 before it is compiled.
      calls: of the program so far.
      net: shapes of the network that a lane returns.
    """

    def __init__(
        self,
        lane: LaneFunction,
        task: Task,
        net: Network,
        splits: Mapping[str, Split],
        types: Mapping[str, np.dtype[Any]],
        rungs: Rungs,
        *,
        judge: str,
        count: int,
        chunk: int,
        batch_size: int,
        seed: int,
        mode: chunks.Mode,
        budget: float | None,
        devices: int | None,
    ):
        function = segment(
            lane, task, epochs=rungs.segment, batch_size=batch_size, seed=seed, judge=judge,
            goes_on=bool(rungs.ages),
        )  # fmt: skip
        data = jax.tree.map(jnp.asarray, {"start": net, "splits": dict(splits)})
        point: Any = {
            f"{AXIS}{name}": jax.ShapeDtypeStruct((), kind) for name, kind in types.items()
        }
        states = begun(lane, point, data) if rungs.ages else {}
        if states:
            point |= {FRESH: jax.ShapeDtypeStruct((), np.dtype(bool)), **states}
        self._lowered = jax.jit(function).lower(point, data)
        self.net, self.lanes, self.calls = self._lowered.out_info["net"], 0, 0
        self._types, self._states, self._data = dict(types), states, data

        def compiled() -> chunks.Program:
            usable = min(devices or len(jax.local_devices()), count, chunk)
            self._data = parallel.replicate(data, usable)
            return chunks.build_program(
                function, point, self._data, count=count, batch_size=chunk, budget=budget,
                mode=chunks.mode_of(self._lowered, mode), devices=usable,
            )  # fmt: skip

        self._compiled = compiled

    def compile(self) -> None:
        """Compile the program, once; a search that is over needs none."""
        self._program = self._compiled()
        self.lanes = self._program.lanes
        self._state = {
            name: jnp.zeros((self.lanes, *x.shape), x.dtype) for name, x in self._states.items()
        }

    def run(self, points: Sequence[Mapping[str, float]], fresh: Sequence[bool]) -> Record:
        """Train all lanes for a segment.

        Args:
          points: of each lane.
          fresh: whether it starts from its point, or goes on from where it was left.

        Returns:
          Network, counts and metrics of each lane, leaves `[lanes, ...]`.
        """
        numbers = arrays(points, self._types)
        point = {f"{AXIS}{name}": jnp.asarray(values) for name, values in numbers.items()}
        if self._state:
            point |= {FRESH: jnp.asarray(fresh), **self._state}
        found: Record = self._program.call(point, self._data)
        if self._state:
            self._state = dict(zip(self._state, found.pop("state"), strict=True))
        self.calls += 1
        return found


class Networks:
    """The networks of this worker that no whole trial beat when they ended.

    Args:
      directory: where they are kept for other processes, too; None for nowhere.
      shapes: of a network.
    """

    def __init__(self, directory: str | Path | None, shapes: Network):
        self._directory = None if directory is None else Path(directory)
        self._shapes = shapes
        self._own: dict[int, tuple[list[float], Network]] = {}
        if self._directory is not None:
            make_folder(self._directory, "the folder of the search")
            remove_temporaries(self._directory)

    def save(self, number: int, losses: Sequence[float], net: Network) -> None:
        """Keep the network of a trial."""
        self._own[number] = list(losses), net
        out = beaten([each for each, _ in self._own.values()])
        lost = [number for number, is_out in zip(self._own, out, strict=True) if is_out]
        self._own = {n: each for n, each in self._own.items() if n not in lost}
        if self._directory is not None:
            write_atomic(self._path(number), archive.pack(tree.named_leaves(net)))

    def of(self, numbers: Sequence[int]) -> dict[int, Network]:
        """Return the networks of some trials, of those that are known here.

        Raises:
          UserError: if a file is damaged or of another search.
        """
        found = {n: self._own[n][1] if n in self._own else self._read(n) for n in numbers}
        return {n: jax.tree.map(jnp.asarray, net) for n, net in found.items() if net is not None}

    def _read(self, number: int) -> Network | None:
        if self._directory is None or not self._path(number).exists():
            return None
        path, shapes = self._path(number), tree.named_leaves(self._shapes)
        leaves = archive.read(path)
        for name, shape in shapes.items():
            leaf = leaves.get(name, np.zeros(0, bool))
            if leaf.dtype == np.dtype(f"V{shape.dtype.itemsize}"):  # how npy writes bfloat16
                leaves[name] = leaf = leaf.view(shape.dtype)
            if (leaf.shape, leaf.dtype) != (shape.shape, shape.dtype):
                raise UserError(f"{path}: no network of this search; delete it to go on")
        structure = jax.tree.structure(self._shapes)
        net: Network = jax.tree.unflatten(structure, [leaves[name] for name in shapes])
        return net

    def _path(self, number: int) -> Path:
        return Path(self._directory or ".", f"{number:05d}.npz")


class Worker:
    """Ask, train, tell, until the search has no more points to try.

    Args:
      trials: of the search.
      engine: what trains them.
      networks: what keeps them.
      rungs: when lanes are judged.
      epochs: of a whole training.
      keep: of so many lanes at a rung one goes on; without rungs it does not matter.
    """

    def __init__(
        self,
        trials: Trials,
        engine: SearchEngine,
        networks: Networks,
        rungs: Rungs,
        *,
        epochs: int,
        keep: int | None,
    ):
        self._trials, self._engine, self._networks = trials, engine, networks
        self._rungs, self._epochs, self._keep = rungs, epochs, keep or 1
        self._lanes: list[Trial | None] = []
        self._ages: list[int] = []  # epochs of each lane

    def work(self, log: Callable[[Record], None]) -> None:
        """Work until all trials have ended; on an error the own ones are given back.

        Args:
          log: called after each call of the program.
        """
        if self._trials.is_over():
            return
        self._engine.compile()
        self._lanes, self._ages = [None] * self._engine.lanes, [0] * self._engine.lanes
        try:
            while True:
                self._fill()
                busy = [i for i, trial in enumerate(self._lanes) if trial is not None]
                if busy:
                    log(self._round(busy))
                elif self._trials.is_over():
                    return
                else:
                    time.sleep(WAIT)
        except BaseException:
            with contextlib.suppress(UserError):
                self._trials.release([trial for trial in self._lanes if trial is not None])
            raise

    def _fill(self) -> None:
        """Give each free lane a new point, as far as there are some."""
        free = [i for i, trial in enumerate(self._lanes) if trial is None]
        for i, trial in zip(free, self._trials.ask(len(free)), strict=False):
            self._lanes[i] = trial

    def _round(self, busy: list[int]) -> Record:
        """Train all lanes for a segment and tell what has ended; return the figures."""
        start = time.perf_counter()
        repeated: Trial = self._lanes[busy[0]]
        points = [(trial or repeated).params for trial in self._lanes]
        found = self._engine.run(points, [age == 0 for age in self._ages])
        metrics = jax.device_get(found.pop("metrics"))
        for i in busy:
            self._ages[i] += self._rungs.segment
        whole = [i for i in busy if self._ages[i] == self._epochs]
        due = [i for i in busy if i in whole or self._ages[i] in self._rungs.ages]
        broken = {i for i in busy if metrics["diverged"][i]}
        measured = self._measured(found, metrics, [i for i in due if i not in broken])
        broken |= {i for i, (values, _) in measured.items() if not all(map(math.isfinite, values))}
        for i in broken:
            self._end(i, None, "diverged")
        for i in whole:
            if i not in broken:
                self._finish(i, *measured[i])
        for age in self._rungs.ages:
            mine = {i: measured[i][0] for i in due if self._ages[i] == age and i not in broken}
            self._judge(age, {i: self._trials.losses(values) for i, values in mine.items()})
        return {
            "call": self._engine.calls,
            "lanes": len(busy),
            "loss": float(np.mean(metrics["loss"][busy])),
            "ended": Counter(row["worker"] for row in self._trials.ended()),
            "seconds": round(time.perf_counter() - start, 3),
        }

    def _measured(
        self, found: Record, metrics: Record, lanes: Sequence[int]
    ) -> dict[int, tuple[list[float], Network]]:
        """Return the values of the objectives, and the network, of some lanes."""
        if not lanes:
            return {}
        nets, counts = jax.device_get((found["net"], found["counts"]))
        measured = {}
        for i in lanes:
            net, count = jax.tree.map(lambda leaf, i=i: leaf[i], (nets, counts))
            report = Report.of(f"trial {i}", net, count)
            report = replace(report, accuracy=float(metrics["accuracy"][i]))
            values = []
            for name in self._trials.objectives:
                value = getattr(report, name)
                if value is None:
                    raise UserError(f"objective {name!r} is not known of this network: drop it")
                values.append(float(value))
            measured[i] = values, net
        return measured

    def _finish(self, lane: int, values: list[float], net: Network) -> None:
        """Tell the values of a lane that was trained to the end, after its network is kept."""
        trial, losses = self._lanes[lane], self._trials.losses(values)
        others = [self._trials.losses(each) for each in self._trials.values()]
        if trial is not None and not beaten([losses, *others])[0]:
            self._networks.save(trial.number, losses, net)
        self._end(lane, values, "whole")

    def _judge(self, age: int, mine: Mapping[int, list[float]]) -> None:
        """End the lanes that lose at a rung."""
        for i, losses in mine.items():
            self._trials.reach(self._lanes[i], age, losses)
        if mine:
            own = {trial.number for i in mine if (trial := self._lanes[i]) is not None}
            reached = self._trials.reached(age)
            others = [losses for number, losses in reached.items() if number not in own]
            for i, is_out in zip(
                mine, losers(list(mine.values()), others, self._keep), strict=True
            ):
                if is_out:
                    self._end(i, None, "halved")

    def _end(self, lane: int, values: list[float] | None, how: str) -> None:
        """Tell the end of a lane's trial, and free the lane."""
        self._trials.tell(self._lanes[lane], values, {"ended": how, "epochs": self._ages[lane]})
        self._lanes[lane], self._ages[lane] = None, 0


def say(record: Mapping[str, Any], total: int) -> None:
    """Print a line about a call of the program on stderr, with the trials of all workers."""
    each = " + ".join(str(count) for _, count in sorted(record["ended"].items()))
    ended = sum(record["ended"].values())
    shares = f" ({each})" if len(record["ended"]) > 1 else ""
    print(
        f"search  trials {ended}/{total}{shares}  call {record['call']}  lanes {record['lanes']}  "
        f"loss {record['loss']:.4f}  {record['seconds']:.1f} s",
        file=sys.stderr,
        flush=True,
    )
