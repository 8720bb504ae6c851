"""The stages of Spike-Thrift on one problem, each of which resumes where it stopped."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import optax

from experiments.common.problem import Network, Tree
from experiments.common.skeleton import Run
from experiments.common.stages import Row
from experiments.hybrid_stages import ENERGY_TABLES, HybridStages
from experiments.spike_thrift_problem import (
    WAYS,
    SpikeThriftConfig,
    ThriftProblem,
    guided_stats,
    guided_task,
    sparse_start,
)
from jaxsnn import metrics, models, train, tree
from jaxsnn.compress import rewiring, transforms
from jaxsnn.metrics import operations

GROWTH = {
    "momentum": rewiring.by_momentum,
    "gradient": rewiring.by_gradient,
    "random": rewiring.at_random,
}


@dataclass(frozen=True, eq=False)
class Sparse:
    """Hold a sparse ANN and its masks."""

    network: Network
    masks: Tree


class ThriftStages(HybridStages):
    """Train a meta-model and sparse networks under it, as ANNs and as spiking networks."""

    config: SpikeThriftConfig
    problem: ThriftProblem

    def __init__(self, run: Run, problem: ThriftProblem):
        super().__init__(run, problem)
        self.found: dict[str, Any] = {}  # what results.json has beside the rows

    def go(self) -> tuple[Network, Network]:
        """Go through all stages; return the dense spiking network and the sparse one."""
        c = self.config
        teacher = self.meta_model()
        converted = self.convert("dense thresholds", teacher, self.problem)
        epochs = c.tune_epochs if c.dense_tune_epochs is None else c.dense_tune_epochs
        dense = self.tune("dense tune", converted, epochs)
        self.add_row("dense", dense)
        self.add_row("dense converted", converted)
        self.add_row("dense ann", teacher)
        for way in c.ways:
            sparse = self.compress(way, teacher)
            self.add_row(f"{way} ann", sparse.network)
        chosen = c.ways[-1]
        converted = self.convert(f"{chosen} thresholds", sparse.network, self.problem)
        self.add_row("converted", converted)
        product = self.tune_sparse(f"{chosen} tune", converted, sparse.masks)
        self.add_row("compressed", product)
        self._compare(chosen)
        return dense, product

    # ANNs

    def meta_model(self) -> Network:
        """Return the dense ANN: trained, or read from a file."""
        if self.problem.teacher is not None:
            return replace(self.problem.ann.start(), params=self.problem.teacher)
        return self.train_ann("dense ann", self.problem)

    def compress(self, way: str, teacher: Network) -> Sparse:
        """Train a sparse ANN from its start, its masks moving after each epoch."""
        c, problem = self.config, self.problem
        key = jax.random.fold_in(self.key, 3)
        fresh = models.he_start(key, problem.ann.net.params)
        masks, params = sparse_start(problem, teacher.params, fresh)
        optimizer = rewiring.sparse(
            self._sgd(c.sparse_learning_rate, c.sparse_epochs),
            masks,
            keep_gradient=c.growth == "gradient",
        )
        start = Network(problem.ann, params, guided_stats(problem, teacher.params))
        state = self.train(
            f"{way} ann", start, optimizer, c.sparse_epochs,
            task=guided_task(problem, WAYS[way]),
            after_epoch=self._rewired, observe=self._observe,
        )  # fmt: skip
        network = Network(problem.ann, state.params, state.stats["student"])
        return Sparse(network, state.opt_state.confined.masks)

    def _rewired(self, state: train.TrainState) -> train.TrainState:
        """Move the masks, but not after the last epoch: what grows then would stay zero."""
        c = self.config
        if int(state.step) >= self._sparse_steps:
            return state
        key = jax.random.fold_in(self.key, state.step) if c.growth == "random" else None
        opt_state, params = rewiring.rewire(
            state.opt_state, state.params, self._prune_rate(state.step),
            growth=GROWTH[c.growth], redistribute=c.growth == "momentum", key=key,
        )  # fmt: skip
        return state._replace(params=params, opt_state=opt_state)

    def _observe(self, state: train.TrainState) -> Mapping[str, Any]:
        densities = metrics.densities(state.opt_state.confined.masks)
        rate = float(self._prune_rate(state.step))
        return {"prune_rate": rate} | {f"density/{x}": each for x, each in densities.items()}

    @property
    def _sparse_steps(self) -> int:
        return max(self.problem.steps(self.config.sparse_epochs), 1)

    def _prune_rate(self, step: Any) -> jax.Array:
        return rewiring.prune_rate(self._sparse_steps, self.config.prune_rate)(step)

    def ann_optimizer(self) -> optax.GradientTransformation:
        """Return SGD with Nesterov's momentum and weight decay, of the dense ANN."""
        return self._sgd(self.config.ann_learning_rate, self.config.ann_epochs)

    def _sgd(self, rate: float, epochs: int) -> optax.GradientTransformation:
        """Return SGD whose step falls tenfold after 62.5, 75 and 87.5 % of the epochs."""
        return optax.chain(
            optax.clip_by_global_norm(5.0),  # without norms a first step can be very large
            optax.add_decayed_weights(self.config.ann_weight_decay),
            optax.sgd(self._stepped(rate, epochs, (0.625, 0.75, 0.875), 0.1), 0.9, nesterov=True),
        )

    # spiking networks

    def tune_sparse(self, name: str, start: Network, masks: Tree) -> Network:
        """Train a spiking network on, the masks of its ANN unchanged."""
        epochs = self.config.tune_epochs
        optimizer = optax.chain(self.tune_optimizer(epochs), transforms.confine(masks))
        return start.after(self.train(name, start, optimizer, epochs))

    def tune_optimizer(self, epochs: int) -> optax.GradientTransformation:
        """Return AMSGrad with weight decay in the gradient; the step falls fivefold three times."""
        rate = self._stepped(self.config.learning_rate, epochs, (0.6, 0.8, 0.9), 0.2)
        return optax.chain(optax.add_decayed_weights(self.config.weight_decay), optax.amsgrad(rate))

    def _stepped(
        self, start: float, epochs: int, shares: tuple[float, ...], factor: float
    ) -> optax.Schedule:
        """Return step sizes that fall by a factor after shares of the epochs, or along a cosine."""
        steps = max(self.problem.steps(epochs), 1)
        if self.config.schedule == "cosine":
            return optax.cosine_decay_schedule(start, steps)
        return optax.piecewise_constant_schedule(
            start, {round(share * steps): factor for share in shares}
        )

    # what came out

    def describe(self, name: str, network: Network, found: train.Evaluation) -> Row:
        """Return a row with the energy that the weights left over need, and their shares.

        As the published counts (`operations`), but each layer's by its density:

            E(ann) = sum of F d E_mac        E(snn) = sum of F d r E_ac
        """
        row = super().describe(name, network, found)
        net, leaves = network.problem.net, tree.named_leaves(network.params)
        density = metrics.densities(network.params)
        dense = self._ann_operations(network, found.counts)
        left = {kernel: density[kernel] * dense[kernel] for kernel in net.synapses}
        rates = row.get("input_rates")
        added = 0.0 if rates is None else sum(left[x] * rate for x, rate in rates.items())
        real = sum(n for x, n in left.items() if rates is None or x not in rates)
        convolutions = [leaf for leaf in leaves.values() if leaf.ndim == 4]
        energies = {
            f"sparse_energy_pj{suffix}": operations.energy(added, real, table=table)
            for suffix, table in ENERGY_TABLES.items()
        }
        kept = sum(np.count_nonzero(leaf) for leaf in convolutions)
        size = sum(leaf.size for leaf in convolutions)
        return row | energies | {"convolution_density": kept / size if size else None}

    def _compare(self, chosen: str) -> None:
        """Note in each row its compression and its energy against the ANN of the same weights."""
        rows = {row["name"]: row for row in self.rows}
        for row in self.rows:
            row["compression"] = 1 / row["density"]
            dense = row["name"].startswith("dense")
            ann = rows["dense ann" if dense else f"{chosen} ann"]
            for suffix in ENERGY_TABLES:
                field = f"sparse_energy_pj{suffix}"
                row[f"energy_ratio{suffix}"] = ann[field] / row[field]
        accuracy = {name: row["mean_accuracy"] for name, row in rows.items()}
        spikes = {name: rows[name]["spikes_per_sample"] for name in ("dense", "compressed")}
        self.found = {
            "ann_accuracy": {way: accuracy[f"{way} ann"] for way in self.config.ways},
            "lost_by_conversion": accuracy[f"{chosen} ann"] - accuracy["converted"],
            "recovered_by_tuning": accuracy["compressed"] - accuracy["converted"],
            "compression": rows["compressed"]["compression"],
            "spikes_of_dense": spikes["compressed"] / spikes["dense"],
            "below_dense": accuracy["dense"] - accuracy["compressed"],
        }
