"""The stages of an ADMM compression on one problem, each a phase that resumes, each with a row."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.problem import Network, Problem, Tree
from experiments.skeleton import Run
from jaxsnn import encode, export, metrics, plots, train
from jaxsnn.compress import admm, masks, transforms
from jaxsnn.compress.admm import Levels
from jaxsnn.compress.projections import Recipe
from jaxsnn.encode import Signal

Row = dict[str, Any]


class Stages:
    """Train and compress the network of a problem, phase by phase, in a run directory."""

    def __init__(self, run: Run, problem: Problem):
        self.run = run
        self.problem = problem
        self.config = problem.config
        self.key = jax.random.key(problem.config.seed)
        self.rows: list[Row] = []
        self.over_time: dict[str, Any] = {}

    def dense(self, name: str = "dense") -> Network:
        """Train the uncompressed network."""
        start = Network(self.problem.net.params, self.problem.net.stats)
        epochs = self.config.dense_epochs
        return _network(self._train(name, start, optax.adam(self._rate(epochs)), epochs))

    def quieten(self, dense: Network, name: str = "activity") -> Network:
        """Train on with the mean firing rate in the loss."""
        epochs, weight = self.config.activity_epochs, self.config.spike_weight
        return _network(self._train(name, dense, optax.adam(self._rate(epochs)), epochs, weight))

    def prune(
        self, dense: Network, sparsity: float, name: str = "prune", spike_weight: float = 0.0
    ) -> tuple[Network, Tree]:
        """Pull towards sparse weights, prune, retrain under the masks."""
        recipe = admm.prune_recipe(self.problem.sparsities(sparsity))
        pulled = self._pull(f"{name} pull", dense, recipe, spike_weight)
        return self._prune_hard(
            f"{name} retrain", pulled, recipe, self.config.retrain_epochs, spike_weight
        )

    def prune_one_shot(
        self, dense: Network, sparsity: float, name: str = "one-shot"
    ) -> tuple[Network, Tree]:
        """Prune by magnitude at once and retrain: the rival, with the same number of epochs."""
        epochs = self.config.pull_epochs + self.config.retrain_epochs
        recipe = admm.prune_recipe(self.problem.sparsities(sparsity))
        return self._prune_hard(f"{name} retrain", dense, recipe, epochs, 0.0)

    def quantize(
        self,
        dense: Network,
        levels: Levels,
        bits: int,
        name: str = "quantize",
        spike_weight: float = 0.0,
        kept: Tree = None,
    ) -> Network:
        """Pull towards a grid, project, retrain straight through."""
        recipe = admm.quantize_recipe(levels, bits, masks=kept)
        return self._on_grid(dense, recipe, name, spike_weight, kept)

    def joint(self, dense: Network, name: str = "joint") -> Network:
        """Prune, quantize and quieten: one after the other, or in one ADMM phase."""
        c = self.config
        if c.joint_order == "together":
            recipe = admm.joint_recipe(
                self.problem.sparsities(c.joint_sparsity), c.joint_levels, c.joint_bits
            )
            return self._on_grid(dense, recipe, name, c.spike_weight)
        pruned, kept = self.prune(dense, c.joint_sparsity, f"{name} prune", c.spike_weight)
        return self.quantize(
            pruned, c.joint_levels, c.joint_bits, f"{name} quantize", c.spike_weight, kept
        )

    def add_row(self, name: str, network: Network, file: str | None = None) -> Row:
        """Evaluate a network on the test images, pack it to a file, and note its row."""
        problem, c = self.problem, self.config
        found = train.evaluate(problem.task(), *network, problem.data.test, batch_size=100)
        stem = (file or name).replace(" ", "-")
        file_bytes = export.save(
            self.run.models / f"{stem}.safetensors", network.params, network.stats,
            {"name": name, "accuracy": f"{found.accuracy:.6f}", "network": c.network},
        )  # fmt: skip
        row = metrics.report(
            name,
            synapses=problem.net.synapses,
            params=network.params,
            counts=found.counts,
            timesteps=c.timesteps,
            accuracy=found.accuracy,
            analog_input=(next(iter(problem.net.synapses)),) if c.encoding == "direct" else (),
            cached_input=True,
            seed=c.seed,
            file_bytes=file_bytes,
        )
        starved = masks.starved_outputs(masks.of_nonzeros(network.params))
        row["starved_outputs"] = sum(starved.values())
        self.rows.append(row)
        self.over_time[name] = np.asarray(found.accuracy_over_time)
        layers = row["layers"]
        silent = [f"{x['silent']} in {x['name']}" for x in layers if x["silent"]]
        note = f"; never fired: {', '.join(silent)}" if silent else ""
        self.run.say(f"{name}: {100 * found.accuracy:.2f} % on test{note}")
        return row

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

    def _rate(self, epochs: int) -> optax.Schedule:
        steps = max(self.problem.steps(epochs), 1)
        return optax.cosine_decay_schedule(self.config.learning_rate, steps)

    def _train(
        self,
        name: str,
        start: Network,
        optimizer: optax.GradientTransformation,
        epochs: int,
        spike_weight: float = 0.0,
        *,
        visible: Callable[[Tree], Tree] = lambda params: params,
        observe: Callable[[train.TrainState], Mapping[str, Any]] | None = None,
    ) -> train.TrainState:
        """Train one phase, its randomness a function of the seed and the phase's name alone."""
        problem = self.problem
        key = jax.random.fold_in(self.key, int.from_bytes(name.encode()[-4:]) ^ len(name))
        state = train.init(start.params, start.stats, optimizer, key)
        state = state._replace(params=visible(state.params))
        return self.run.phase(
            name, problem.task(spike_weight), optimizer, state, problem.data.train,
            epochs=epochs, batch_size=self.config.batch_size,
            validation=problem.data.validation, observe=observe,
        )  # fmt: skip

    def _pull(
        self, name: str, start: Network, recipe: Recipe, spike_weight: float, kept: Tree = None
    ) -> Network:
        """Run the ADMM phase and log its residuals."""
        epochs = self.config.pull_epochs
        optimizer = admm.optimizer(
            self._rate(epochs),
            recipe,
            penalty=admm.penalty_schedule(self.problem.steps(epochs), initial=self.config.penalty),
            every=max(self.problem.steps(1) // self.config.dual_steps, 1),
            mode=self.config.penalty_mode,
            masks=kept,
        )

        def observe(state: train.TrainState) -> dict[str, float]:
            pulled = transforms.find(state.opt_state, transforms.PullState)
            found = transforms.residuals(pulled, state.params)
            primal = {f"primal/{leaf}": float(r.primal) for leaf, r in found.items()}
            dual = {f"dual/{leaf}": float(r.dual) for leaf, r in found.items()}
            return primal | dual | {"penalty": float(pulled.penalty)}

        return _network(self._train(name, start, optimizer, epochs, spike_weight, observe=observe))

    def _prune_hard(
        self, name: str, start: Network, recipe: Recipe, epochs: int, spike_weight: float
    ) -> tuple[Network, Tree]:
        """Cut what lies outside the set and retrain what is left."""
        params, kept = admm.hard_prune(start.params, recipe)
        optimizer = admm.retrain_masked(self._rate(epochs), kept)
        pruned = Network(params, start.stats)
        return _network(self._train(name, pruned, optimizer, epochs, spike_weight)), kept

    def _on_grid(
        self, start: Network, recipe: Recipe, name: str, spike_weight: float, kept: Tree = None
    ) -> Network:
        """Pull towards the recipe's set, project onto it, and retrain straight through."""
        pulled = self._pull(f"{name} pull", start, recipe, spike_weight, kept)
        epochs = self.config.retrain_epochs
        optimizer = admm.retrain_quantized(self._rate(epochs), recipe)
        project = partial(admm.hard_quantize, recipe=recipe)
        name = f"{name} retrain"
        state = self._train(name, pulled, optimizer, epochs, spike_weight, visible=project)
        latent = transforms.find(state.opt_state, transforms.LatentState)
        return Network(transforms.snap(recipe, latent, state.params), state.stats)

    def _spikes(self, network: Network, image: np.ndarray) -> dict[str, np.ndarray]:
        """Return the spikes `[T, *neurons]` of each layer: differences of the sums up to each t."""

        @jax.jit
        def sums(params, stats, image):
            x = self.problem.prepare(jax.random.key(0), image[None], False)
            times = range(1, self.config.timesteps + 1)
            starts = [encode.direct(x.value, t) if isinstance(x, Signal) else x[:t] for t in times]
            outputs = [self.problem.net.apply(params, stats, start) for start in starts]
            spikes = [output.activity.spikes for output in outputs]
            return jax.tree.map(
                lambda *layer: jnp.concatenate([jnp.zeros_like(layer[0]), *layer]), *spikes
            )

        layers = sums(*network, image).items()
        return {name: np.diff(spikes, axis=0) for name, spikes in layers}


def _network(state: train.TrainState) -> Network:
    return Network(state.params, state.stats)
