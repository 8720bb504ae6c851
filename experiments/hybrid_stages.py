"""The stages of a hybrid training: ANN, thresholds, conversion, tuning; and what they cost."""

from dataclasses import replace
from statistics import mean
from typing import Any

import jax
import numpy as np
import optax

from experiments.common.problem import Network
from experiments.common.stages import Row, Stages
from experiments.hybrid_problem import HybridConfig, HybridProblem
from jaxsnn import data, layers, metrics, models, train, tree
from jaxsnn import network as functional
from jaxsnn.methods import conversion
from jaxsnn.metrics import operations
from jaxsnn.train import calibrate

ENERGY_TABLES = {"": operations.ENERGY_45NM_FLOAT32, "_int32": operations.ENERGY_45NM_INT32}
CALIBRATION_BATCH = 64  # images whose currents are in memory at once


class HybridStages(Stages):
    """Train networks as ANNs and as spiking ones, in a run directory."""

    config: HybridConfig
    problem: HybridProblem

    def train_ann(self, name: str, problem: HybridProblem) -> Network:
        """Train the ANN of a problem's layout from its start values."""
        start, c = problem.ann.start(), self.config
        key = jax.random.fold_in(self.key, 1)
        start = replace(start, params=models.he_start(key, start.params))
        return start.after(self.train(name, start, self.ann_optimizer(), c.ann_epochs))

    def ann_optimizer(self) -> optax.GradientTransformation:
        """Return SGD with momentum and weight decay; the step falls tenfold three times."""
        c = self.config
        rate = self._falling(c.ann_learning_rate, c.ann_epochs, max(c.ann_epochs // 3, 1), 0.1)
        return optax.chain(
            optax.clip_by_global_norm(5.0),  # without norms a first step can be very large
            optax.add_decayed_weights(c.ann_weight_decay),
            optax.sgd(rate, momentum=0.9),
        )

    def thresholds(self, name: str, ann: Network, problem: HybridProblem) -> dict[str, float]:
        """Find the threshold of each layer, first to last, on training images; not yet scaled."""
        c = self.config
        batch_size = min(CALIBRATION_BATCH, c.calibration_images)

        def compute() -> dict[str, Any]:
            long = problem.at(c.calibration_timesteps)
            watched = functional.split(layers.watch(long.module))
            return calibrate.thresholds(
                watched.apply, long.prepare, ann.params, watched.params, watched.stats,
                self.problem.data.train.images, problem.spiking, quantile=c.quantile,
                batches=c.calibration_images // batch_size, batch_size=batch_size, seed=c.seed,
            )  # fmt: skip

        found = {layer: float(v) for layer, v in self.run.arrays(name, compute).items()}
        values = ", ".join(f"{layer} {value:.3g}" for layer, value in found.items())
        self.run.say(f"{name}: {values}")
        return found

    def convert(self, name: str, ann: Network, problem: HybridProblem) -> Network:
        """Return the spiking network that an ANN becomes, not yet tuned."""
        found, scale = self.thresholds(name, ann, problem), self.config.threshold_scale
        start = problem.start()
        network = conversion.convert(ann.params, start.params, start.stats, found, scale=scale)
        if self.config.scores == "ann":
            last = list(problem.net.synapses)[-1].rpartition("/")[0]
            unit = conversion.score_unit(found, scale=scale)
            network = conversion.rescale(*network, {last: unit})
        return Network(problem, *network)

    def tune(self, name: str, start: Network, epochs: int) -> Network:
        """Train a spiking network on, its thresholds and leaks constant."""
        return start.after(self.train(name, start, self.tune_optimizer(epochs), epochs))

    def tune_optimizer(self, epochs: int) -> optax.GradientTransformation:
        """Return Adam with weight decay in the gradient; the step is halved every 5 epochs."""
        c = self.config
        rate = self._falling(c.learning_rate, epochs, 5, 0.5)
        return optax.chain(optax.add_decayed_weights(c.weight_decay), optax.adam(rate))

    def hybrid(self, name: str, problem: HybridProblem) -> tuple[Network, Network]:
        """Train a layout as an ANN, convert it, tune it; return the ANN and the spiking network."""
        ann = self.train_ann(f"{name} ann", problem)
        converted = self.convert(f"{name} thresholds", ann, problem)
        self.look_at(f"{name} converted", converted)
        return ann, self.tune(f"{name} tune", converted, self.config.tune_epochs)

    def look_at(self, name: str, network: Network) -> None:
        """Say how a converted network does on held-out images, and which layer is the quietest."""
        task, split = network.problem.task(), self.held_out
        found = train.evaluate(task, network.params, network.stats, split, batch_size=100)
        samples = len(split.labels)
        rates = {x: float(np.mean(s)) / samples for x, s in found.counts.spikes.items()}
        quiet = min(rates, key=lambda x: rates[x])
        self.run.say(
            f"{name}: {100 * found.accuracy:.2f} % on held-out images; quietest layer {quiet}, "
            f"{rates[quiet]:.3g} spikes per neuron and image"
        )

    @property
    def held_out(self) -> data.Split:
        """Return the images that decisions are made on: held-out ones, if there are some."""
        held_out = self.problem.data.validation
        return held_out if len(held_out.labels) else self.problem.data.train

    def describe(self, name: str, network: Network, found: train.Evaluation) -> Row:
        """Return a row with the published count of operations, and the energy that they need.

        That count takes every weight and tap, and the rates of the neurons before a pooling
        (`operations`); an ANN multiplies, a spiking network adds.
        """
        if not conversion.spiking_layers(network.problem.net.synapses, network.stats):
            row = self._describe_ann(name, network, found)
        else:
            row = super().describe(name, network, found) | self._spiking_costs(network, found)
        test = network.problem.data.test
        more = [self.accuracy(network, test, seed) for seed in range(1, self.draws(network))]
        row["accuracy_draws"] = [found.accuracy, *more]
        row["mean_accuracy"] = mean(row["accuracy_draws"])
        return row

    def accuracy(self, network: Network, split: data.Split, seed: int = 0) -> float:
        """Return the accuracy on a split, with one draw of the input's spikes."""
        task = network.problem.task()
        found = train.evaluate(
            task, network.params, network.stats, split, batch_size=100, seed=seed
        )
        return found.accuracy

    def draws(self, network: Network) -> int:
        """Return how often a network must be evaluated: once, if nothing in it is random."""
        return self.config.draws if network.problem.config.encoding == "poisson" else 1

    def _describe_ann(self, name: str, network: Network, found: train.Evaluation) -> Row:
        """Return the row of an ANN: it has no spikes, all its operations are multiplications."""
        net = network.problem.net
        row = metrics.report(
            name, synapses=net.synapses, params=network.params, counts=found.counts, timesteps=1,
            accuracy=found.accuracy, analog_input=tuple(net.synapses), seed=self.config.seed,
        )  # fmt: skip
        for layer in row["layers"]:
            layer |= {"rate": None, "silent": None, "saturated": None}
        operations_of = self._ann_operations(network, found.counts)
        energies = {
            f"published_energy_pj{suffix}": sum(operations_of.values()) * table.mac
            for suffix, table in ENERGY_TABLES.items()
        }
        none = dict.fromkeys(("spike_rate", "spikes_per_sample"))
        return row | none | {"ann_operations": sum(operations_of.values())} | energies

    def _spiking_costs(self, network: Network, found: train.Evaluation) -> Row:
        net, counts = network.problem.net, found.counts
        dense = self._ann_operations(network, counts)
        samples = int(counts.num_samples)
        rates = operations.chain_rates(list(net.synapses), counts.spikes, counts.events, samples)
        real = 0
        if network.problem.config.encoding == "direct":
            first = next(iter(net.synapses))
            real = dense[first]
            del rates[first]
        added = sum(operations.rate_operations(dense, rates).values())
        spikes = {k: events for k, events in counts.events.items() if k in rates}
        exact = operations.synops_of_totals(
            net.synapses, tree.named_leaves(network.params), spikes | counts.arrivals
        )
        return {
            "ann_operations": sum(dense.values()),
            "rate_operations": added,
            "arrival_synops": sum(exact.values()) / samples,
            "input_rates": rates,
        } | {
            f"published_energy_pj{suffix}": operations.energy(added, real, table=table)
            for suffix, table in ENERGY_TABLES.items()
        }

    def _ann_operations(self, network: Network, counts: metrics.Counts) -> dict[str, int]:
        net = network.problem.net
        shapes = {kernel: counts.events[kernel].shape for kernel in net.synapses}
        return operations.ann_operations(net.synapses, tree.named_leaves(network.params), shapes)

    def _falling(self, start: float, epochs: int, every: int, factor: float) -> optax.Schedule:
        """Return step sizes that fall along a cosine, or by a factor every so many epochs."""
        steps = max(self.problem.steps(epochs), 1)
        if self.config.schedule == "cosine":
            return optax.cosine_decay_schedule(start, steps)
        return optax.exponential_decay(start, self.problem.steps(every), factor, staircase=True)
