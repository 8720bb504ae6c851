"""The stages of a compression on one problem, each a phase that resumes, each with a row."""

import math
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.common.problem import Network, Problem, Tree
from experiments.common.skeleton import Run
from jaxsnn import export, layers, metrics, train
from jaxsnn import network as functional
from jaxsnn.compress import masks
from jaxsnn.report import plots

Row = dict[str, Any]


class Stages:
    """Train the networks of a problem, phase by phase, in a run directory, and note their rows."""

    def __init__(self, run: Run, problem: Problem):
        self.run = run
        self.problem = problem
        self.config = problem.config
        self.key = jax.random.key(problem.config.seed)
        self.rows: list[Row] = []
        self.over_time: dict[str, Any] = {}

    def add_row(self, name: str, network: Network, file: str | None = None) -> Row:
        """Evaluate a network on the test images, pack it to a file, and note its row."""
        problem, c = network.problem, network.problem.config
        found = train.evaluate(
            problem.task(), network.params, network.stats, problem.data.test, batch_size=100
        )
        stem = (file or name).replace(" ", "-")
        file_bytes = export.save(
            self.run.models / f"{stem}.safetensors", network.params, network.stats,
            {"name": name, "accuracy": f"{found.accuracy:.6f}", "dataset": c.dataset},
            module=problem.module, inputs=problem.inputs,
        )  # fmt: skip
        row = self.describe(name, network, found) | {"file_bytes": file_bytes}
        starved = masks.starved_outputs(masks.of_nonzeros(network.params))
        row["starved_outputs"] = sum(starved.values())
        self.rows.append(row)
        _count_removed_channels(row, self.rows[0])
        self.over_time[name] = np.asarray(found.accuracy_over_time)
        silent = [f"{x['silent']} in {x['name']}" for x in row["layers"] if x["silent"]]
        note = f"; never fired: {', '.join(silent)}" if silent else ""
        self.run.say(f"{name}: {100 * found.accuracy:.2f} % on test{note}")
        return row

    def describe(self, name: str, network: Network, found: train.Evaluation) -> Row:
        """Return the row of a network that was evaluated on the test images."""
        problem, c = network.problem, network.problem.config
        kernels = problem.net.synapses
        return metrics.report(
            name,
            synapses=kernels,
            params=network.params,
            counts=found.counts,
            timesteps=c.timesteps,
            accuracy=found.accuracy,
            analog_input=(next(iter(kernels)),) if c.encoding == "direct" else (),
            cached_input=True,
            seed=c.seed,
        )

    def time(self, before: Network, after: Network, rounds: int = 5) -> None:
        """Note in the first and the last row how long inference takes, in turns, milliseconds."""
        seconds: list[list[float]] = [[], []]
        images = jnp.asarray(self.problem.data.test.images)
        for turn in range(-1, rounds):  # the first compiles
            for network, times in zip((before, after), seconds, strict=True):
                task, start = network.problem.task(), time.perf_counter()
                train.predict(task, network.params, network.stats, images).block_until_ready()
                times += [time.perf_counter() - start] * (turn >= 0)
        for row, times in zip((self.rows[0], self.rows[-1]), seconds, strict=True):
            row["ms_per_sample"] = 1e3 * median(times) / len(images)

    def draw(self, before: Network, after: Network, compared: str) -> None:
        """Draw all plots of the run."""
        folder = self.run.plots
        plots.plot_curves(self.run.log, folder / "curves.png")
        if any(key.startswith("primal/") for record in self.run.log for key in record):
            plots.plot_residuals(self.run.log, folder / "residuals.png")
        rows = [row for row in self.rows if row["name"] in ("dense", compared)]
        plots.plot_layers(rows, folder / "layers.png")
        plots.plot_histograms(before.params, after.params, folder / "histograms.png")
        plots.plot_accuracy_over_time(self.over_time, folder / "accuracy_over_time.png")
        image = self.problem.data.test.images[0]
        title = f"spikes of {compared} on one test image"
        plots.plot_raster(
            self._spikes(after, image), folder / "raster.png", image=image, title=title
        )

    def rate(self, epochs: int) -> optax.Schedule:
        steps = max(self.problem.steps(epochs), 1)
        return optax.cosine_decay_schedule(self.config.learning_rate, steps)

    def train(
        self,
        name: str,
        start: Network,
        optimizer: optax.GradientTransformation,
        epochs: int,
        spike_weight: float = 0.0,
        *,
        task: train.Task | None = None,
        visible: Callable[[Tree], Tree] = lambda params: params,
        observe: Callable[[train.TrainState], Mapping[str, Any]] | None = None,
        after_epoch: Callable[[train.TrainState], train.TrainState] | None = None,
    ) -> train.TrainState:
        """Train one phase, its randomness a function of the seed and the phase's name alone."""
        problem = start.problem
        key = jax.random.fold_in(self.key, int.from_bytes(name.encode()[-4:]) ^ len(name))
        state = train.init(start.params, start.stats, optimizer, key)
        state = state._replace(params=visible(state.params))
        return self.run.phase(
            name, task or problem.task(spike_weight), optimizer, state, problem.data.train,
            epochs=epochs, batch_size=self.config.batch_size,
            validation=problem.data.validation, observe=observe, after_epoch=after_epoch,
        )  # fmt: skip

    def _spikes(self, network: Network, image: np.ndarray) -> dict[str, np.ndarray]:
        """Return the spikes `[T, *neurons]` of each layer on one image."""
        problem = network.problem
        watched = functional.split(layers.watch(problem.module))

        @jax.jit
        def trains(params, stats, image):
            x = problem.prepare(jax.random.key(0), image[None], False)
            return watched.apply(params, stats, x).activity.trains

        found = trains(network.params, network.stats, image)  # sorted by name, as jit's dicts are
        names = [name for name in problem.module.synapses() if name in found]
        return {name: np.asarray(found[name])[:, 0] for name in names}


def _count_removed_channels(row: Row, dense: Row) -> None:
    """Turn the densities of a row, measured in its own network, into shares of the dense one's."""
    whole = {x["name"]: math.prod(x["shape"]) for x in dense["layers"] if x["shape"]}
    own = {x["name"]: math.prod(x["shape"]) for x in row["layers"] if x["shape"]}
    for layer in row["layers"]:
        if layer["shape"]:
            layer["density"] *= own[layer["name"]] / whole[layer["name"]]
    row["density"] *= sum(own.values()) / sum(whole.values())
