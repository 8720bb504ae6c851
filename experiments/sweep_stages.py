"""The stages of a sweep: the dense network, all lanes at once, a row for each, the choice."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.common.problem import Network, Problem
from experiments.common.skeleton import Run
from experiments.common.stages import Row, Stages
from experiments.sweep_problem import SweepConfig, lane
from jaxsnn import sweep, train
from jaxsnn.compress import schedules
from jaxsnn.errors import UserError
from jaxsnn.report.sweep_plots import plot_front, plot_heat
from jaxsnn.sweep.grid import describe

COSTS = {"weight_bytes": "bytes of weights", "synops": "SynOps of one image"}


class SweepStages(Stages):
    """Train the dense network, sweep, and choose, in a run directory."""

    config: SweepConfig

    def __init__(self, run: Run, problem: Problem):
        super().__init__(run, problem)
        self._problems = {problem.config.timesteps: problem}
        self.lanes: list[Row] = []  # rows of the lanes that did not diverge, and of those that did
        self.networks: dict[str, Network] = {}  # name of a row -> the lane's network

    def go(self) -> tuple[Network, Network]:
        """Train, sweep, note the rows, choose; return the dense and the chosen network."""
        dense = self.dense()
        row = self.add_row("dense", dense)
        row["validation_accuracy"] = self._validate(dense)
        swept = self.train_lanes(dense)
        self.lanes = [self.note(swept, number) for number in range(len(swept.rows))]
        chosen = self.choose()
        name = chosen["name"]
        network = self.networks[name]
        product = self.add_row("compressed", network)
        extra = ("lane", "point", "validation_accuracy", "within_tolerance")
        product |= {field: chosen[field] for field in extra} | {"chosen": name}
        self.time(dense, network)
        self.over_time = {k: self.over_time[k] for k in ("dense", "compressed")}
        return dense, network

    def dense(self) -> Network:
        """Train the uncompressed network."""
        epochs, start = self.config.dense_epochs, self.problem.start()
        return start.after(self.train("dense", start, optax.adam(self.rate(epochs)), epochs))

    def train_lanes(self, dense: Network) -> sweep.Swept:
        """Train all lanes from the dense network; what an interrupted run had finished stays."""
        c, data = self.config, self.problem.data
        return sweep.run(
            lane(self.problem), c.grid(),
            {"params": dense.params, "stats": dense.stats, "train": data.train,
             "validation": data.validation},
            axes=c.axes(), lanes=c.lanes, batch_size=c.chunk,
            budget=None if c.memory_mb is None else 1e6 * c.memory_mb,
            directory=self.run.directory / "sweep",
        )  # fmt: skip

    def note(self, swept: sweep.Swept, number: int) -> Row:
        """Evaluate a lane's network on the test images, pack it, and note its row."""
        _, found, _ = swept.lane(number)
        row = swept.rows[number]
        point = {name: row[name] for name in swept.points}
        facts: Row = {"lane": number, "point": point, "diverged": row["diverged"]}
        facts["validation_accuracy"] = row["validation_accuracy"]
        name = describe(point)
        if row["diverged"]:
            self.run.say(f"{name}: diverged")
            self.rows.append({"name": name, "seed": self.config.seed} | facts)
            return self.rows[-1]
        problem = self._problem_of(int(point.get("timesteps", self.config.timesteps)))
        network = Network(problem, **jax.tree.map(jnp.asarray, found))
        measured = self.add_row(name, network, f"lane-{number:03d}")
        measured |= facts
        del measured["layers"]  # of all lanes they would fill a book; the chosen one has them
        self.networks[name] = network
        return measured

    def choose(self) -> Row:
        """Return the row of the smallest network that lost no more than the tolerance.

        Accuracy is that on held-out images. If all lost more, it is the most accurate one.
        """
        c, whole = self.config, self.rows[0]["validation_accuracy"]
        sound = [row for row in self.lanes if not row["diverged"]]
        if not sound:
            raise UserError("every lane diverged: lower --learning-rate, or the values of --axis")
        for row in sound:
            accuracy = row["validation_accuracy"]
            row["within_tolerance"] = schedules.is_accepted(whole, accuracy, c.tolerance)
        near = [row for row in sound if row["within_tolerance"]]
        if near:
            return min(near, key=lambda row: (row["weight_bytes"], -row["validation_accuracy"]))
        self.run.say(
            f"no network lost at most {c.tolerance:g} on held-out images: the best is kept"
        )
        return max(sound, key=lambda row: (row["validation_accuracy"], -row["weight_bytes"]))

    def fronts(self) -> dict[str, Any]:
        """Return for each cost the Pareto front of the lanes, and its share of what it could be.

        The hypervolume is that between nothing and the dense network's cost, chance and 1, as a
        share of this rectangle.
        """
        sound = [row for row in self.lanes if not row["diverged"]]
        accuracies = [row["accuracy"] for row in sound]
        chance = 1 / self.problem.data.num_classes
        found = {}
        for cost in COSTS:
            costs, most = [row[cost] for row in sound], self.rows[0][cost]
            area = sweep.hypervolume(costs, accuracies, (most, chance))
            front = [sound[i]["name"] for i in sweep.pareto(costs, accuracies)]
            found[cost] = {"front": front, "hypervolume": area / (most * (1 - chance))}
        for row in sound:
            row["on_front"] = [cost for cost in COSTS if row["name"] in found[cost]["front"]]
        return found

    def draw_sweep(self, chosen: str) -> None:
        """Draw the fronts, and the maps over sparsity and bits."""
        sound = [row for row in self.lanes if not row["diverged"]]
        dense, folder = self.rows[0], self.run.plots
        names = [row["name"] for row in sound]
        plot_front(
            {title: [row[cost] for row in sound] for cost, title in COSTS.items()},
            [row["accuracy"] for row in sound], folder / "front.png",
            groups=[f"{row['point']['bits']} bits" for row in sound],
            dense=([dense[cost] for cost in COSTS], dense["accuracy"]),
            chosen=names.index(chosen),
        )  # fmt: skip
        flat = [row | row["point"] for row in sound]
        maps = {"accuracy": "test accuracy, %", "weight_bytes": "bytes of weights"}
        plot_heat(flat, "sparsity", "bits", maps, folder / "heat.png")

    def _problem_of(self, timesteps: int) -> Problem:
        """Return the problem at that many time steps: one program for each of them."""
        if timesteps not in self._problems:
            config = replace(self.config, timesteps=timesteps)
            self._problems[timesteps] = replace(self.problem, config=config, tasks={})
        return self._problems[timesteps]

    def _validate(self, network: Network) -> float:
        task, split = network.problem.task(), self.problem.data.validation
        return train.evaluate(task, network.params, network.stats, split).accuracy
