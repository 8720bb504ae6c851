"""The stages of QP-SNN on one problem, each of which resumes where it stopped."""

import time
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

import jax
import numpy as np

from experiments.common.problem import Network, Problem, Tree
from experiments.common.skeleton import Run
from experiments.common.stages import Row, Stages
from experiments.qp_snn_problem import WAYS, QpConfig, Quantizer, Score, Way, ratios_of
from jaxsnn import export, train, tree
from jaxsnn.compress import rescaling as rescaled, singular, transforms
from jaxsnn.methods import qp_snn
from jaxsnn.network import Output
from jaxsnn.train import calibrate

Scores = dict[str, Any]  # layer -> score of each channel on each calibration batch, [n, C]


@dataclass(frozen=True, eq=False)
class Trained:
    """Hold a network as it is seen, and the free copies of its weights that it is made from."""

    network: Network
    free: Tree


class QpStages(Stages):
    """Train, score, prune and tune the network of a problem, in a run directory."""

    config: QpConfig

    def __init__(self, run: Run, problem: Problem):
        super().__init__(run, problem)
        self._quantized: dict[Quantizer, Trained] = {}

    def go(self) -> tuple[Network, Network]:
        """Go every way; return the dense network and the last small one."""
        dense = self.dense()
        self.add_row("dense", dense.network, self._named("dense"))
        small = dense.network
        for name, way in WAYS.items():
            if name not in self.config.ways:
                continue
            if self.config.order == "pq":
                trained = dense
            elif way.quantizer not in self._quantized:
                trained = self._quantized[way.quantizer] = self.quantized(way.quantizer)
                row = self.add_row(
                    f"quantized {way.quantizer}",
                    trained.network,
                    self._named(f"quantized {way.quantizer}"),
                )
                self._note_quantizer(row, trained, way.quantizer)
            else:
                trained = self._quantized[way.quantizer]
            small = self.compress(name, way, trained)
        self.time(dense.network, small)
        return dense.network, small

    def dense(self) -> Trained:
        """Train the uncompressed network."""
        return self._train(
            self._named("dense"), self.problem.start(), None, self.config.train_epochs
        )

    def quantized(self, quantizer: Quantizer) -> Trained:
        """Train from scratch with quantized weights, all channels there."""
        name = self._named(f"quantized {quantizer}")
        epochs = self.config.train_epochs
        return self._train(name, self.problem.start(), quantizer, epochs)

    def prune(self, trained: Trained, found: Scores) -> Trained:
        """Remove the channels of the lowest scores; return the smaller network, not yet tuned.

        Args:
          trained: the network.
          found: layer -> score of each channel on each batch, `[n, C]`.
        """
        kept = singular.kept_channels(
            self._aligned({layer: scores.mean(0) for layer, scores in found.items()}),
            ratios_of(self.problem),
        )
        start, c = trained.network, self.config

        def shrink(params):
            module = export.shrink(
                self.problem.module, params, start.stats, kept, shortcuts=c.shortcuts
            )
            return self.problem.start_with(module)

        free = shrink(trained.free)
        network = replace(shrink(start.params), problem=free.problem)
        if c.reinit_norm:
            fresh = qp_snn.fresh_norms(network.params, network.stats)
            network = replace(network, params=fresh[0], stats=fresh[1])
            free = replace(free, params=qp_snn.fresh_norms(free.params, free.stats)[0])
        return Trained(network, free.params)

    def tune(self, name: str, pruned: Trained, quantizer: Quantizer | None) -> Trained:
        """Train a smaller network on."""
        start = replace(pruned.network, params=pruned.free)
        return self._train(self._named(f"{name} tune"), start, quantizer, self.config.tune_epochs)

    def compress(self, name: str, way: Way, trained: Trained) -> Network:
        """Go from a trained network to the pruned, quantized and tuned one; note its row."""
        found = self.scores(name, trained.network, way.score)
        pruned = self.prune(trained, found)
        before = train.evaluate(
            pruned.network.problem.task(), pruned.network.params, pruned.network.stats,
            self.problem.data.test, batch_size=100,
        )  # fmt: skip
        if self.config.order == "pq":
            pruned = self.tune(f"{name} float", pruned, None)
        tuned = self.tune(name, pruned, way.quantizer)
        title = "compressed" if name == "full" else name
        row = self.add_row(title, tuned.network, self._named(title))
        self._note_quantizer(row, tuned, way.quantizer)
        row["score"], row["accuracy_before_tuning"] = way.score, before.accuracy
        row["score_stability"] = (
            min(float(singular.score_stability(batches)) for batches in found.values())
            if self.config.calibration_batches > 1
            else None
        )
        return tuned.network

    def scores(self, name: str, network: Network, kind: Score) -> Scores:
        """Return layer -> score of each channel on each calibration batch, `[n, C]`."""
        c, timesteps = self.config, self.config.timesteps
        chosen = list(ratios_of(self.problem))

        def statistic(output: Output) -> dict[str, jax.Array]:
            if kind == "membrane":
                potential = output.activity.magnitude
                return {x: singular.membrane_scores(potential[x], timesteps) for x in chosen}
            spikes = self._spike_maps(output)
            return {x: singular.singular_scores(spikes[x], timesteps) for x in chosen}

        def compute() -> Scores:
            start = time.perf_counter()
            found = calibrate.over_batches(
                network.problem.net.apply, network.problem.prepare, network.params, network.stats,
                self.problem.data.train.images, statistic, batches=c.calibration_batches,
                batch_size=c.calibration_batch_size, seed=c.seed,
            )  # fmt: skip
            scores = {layer: np.asarray(found.batches[layer]) for layer in chosen}
            seconds = time.perf_counter() - start
            self.run.say(f"{name}: {kind} scores of {len(chosen)} layers in {seconds:.1f} s")
            return scores

        return self.run.arrays(self._named(f"{name} scores"), compute)

    def _named(self, name: str) -> str:
        """Return a phase's name in this run: with its seed, if there are several."""
        return name if len(self.config.seeds) == 1 else f"{name} {self.config.seed}"

    def _train(
        self, name: str, start: Network, quantizer: Quantizer | None, epochs: int
    ) -> Trained:
        """Train a phase, straight through a quantizer if there is one; keep the free copies."""
        c = self.config
        if quantizer is None:
            optimizer = qp_snn.optimizer(self.rate(epochs), c.optimizer, c.weight_decay)
            trained = start.after(self.train(name, start, optimizer, epochs))
            return Trained(trained, trained.params)
        projection = self._quantizer(quantizer)
        recipe = dict.fromkeys(qp_snn.quantized_leaves(start.params), projection)
        rule = rescaled.gradient_rule(c.rule, projection)
        inner = qp_snn.optimizer(self.rate(epochs), c.optimizer, c.weight_decay)
        optimizer = transforms.latent(inner, recipe, straight_through=rule)
        state = self.train(
            name, start, optimizer, epochs, visible=lambda p: transforms.visible(recipe, p)
        )
        latent = transforms.find(state.opt_state, transforms.LatentState)
        snapped = transforms.snap(recipe, latent, state.params)
        network = replace(start.after(state), params=snapped)
        return Trained(network, transforms.free_params(latent, state.params))

    def _quantizer(self, name: Quantizer) -> rescaled.Quantizer:
        c = self.config
        if name == "vanilla":
            return rescaled.vanilla(c.bits)
        return rescaled.rescaled(c.bits, gamma=c.gamma, per=c.gamma_per)

    def _spike_maps(self, output: Output) -> dict[str, jax.Array]:
        """Return layer -> spikes `[B, H, W, C]`, behind a max pooling where that is asked for."""
        maps = dict(output.activity.spikes)
        if self.config.score_after_pool:
            names = self.problem.module.names
            for name, after in zip(names, names[1:], strict=False):
                if after in output.activity.pooled:
                    maps[name] = output.activity.pooled[after]
        return maps

    def _aligned(self, scores: dict[str, Any]) -> dict[str, Any]:
        """Give the blocks of one width the sum of their outputs' scores, if they are aligned."""
        if self.config.kept == "independent":
            return scores
        joined = [name for name in scores if name.endswith("/conv2")]
        sums: dict[int, Any] = {}
        for name in joined:
            width = scores[name].size
            sums[width] = sums.get(width, 0.0) + scores[name]
        return scores | {name: sums[scores[name].size] for name in joined}

    def _note_quantizer(self, row: Row, trained: Trained, quantizer: Quantizer) -> None:
        """Say in a row what the paper measures of a quantized network: size and used levels."""
        leaves, chosen = tree.named_leaves(trained.free), self._quantizer(quantizer)
        codes = [
            rescaled.integers(chosen, leaves[name]).codes
            for name in qp_snn.quantized_leaves(trained.free)
        ]
        row["quantizer"] = quantizer
        row["size_mb"] = qp_snn.size_mb(trained.free, self.config.bits)
        row["levels_used"] = mean(float(rescaled.utilisation(x, self.config.bits)) for x in codes)
