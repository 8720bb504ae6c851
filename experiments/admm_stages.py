"""ADMM compression on one problem: its options, and its stages, each a phase that resumes."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import jax
import numpy as np
import optax

from experiments.common import problem as problems
from experiments.common.problem import (
    Network,
    Problem,
    TrainingConfig,
    Tree,
    check_positive,
    option,
)
from experiments.common.stages import Stages
from jaxsnn import models, train
from jaxsnn.arrays import check_range, check_whole
from jaxsnn.compress import masks, transforms
from jaxsnn.compress.projections import Recipe
from jaxsnn.methods import admm
from jaxsnn.methods.admm import Levels
from jaxsnn.surrogate import rectangle


@dataclass(frozen=True)
class AdmmConfig(TrainingConfig):
    """Options of the ADMM experiments."""

    dense_epochs: int = 10
    """Epochs of the dense network."""
    pull_epochs: int = 3
    """Epochs of each ADMM phase."""
    retrain_epochs: int = 3
    """Epochs of each retraining after a hard step."""
    activity_epochs: int = 4
    """Epochs of the activity regularization alone."""
    penalty: float = 1e-4
    """ADMM penalty rho at the start; it grows tenfold after each third of the phase."""
    penalty_mode: Literal["squared", "norm"] = "squared"
    """The penalty: squared, or norm as in the authors' script."""
    dual_steps: int = 10
    """Dual updates in each epoch of an ADMM phase."""
    sparsity: float = 0.95
    """Share of the connections removed by pruning alone."""
    allocation: Literal["root", "uniform"] = "root"
    """How to spread a sparsity: root (a layer keeps as the root of its size) or uniform."""
    levels: Levels = "ternary"
    """Levels of quantization alone: binary, ternary, uniform or pow2."""
    bits: int = 2
    """Bits of the levels uniform and pow2."""
    spike_weight: float = 0.03
    """Weight of the mean firing rate in the loss, for activity regularization."""
    joint_sparsity: float = 0.9
    """Share of the connections removed in the joint way."""
    joint_levels: Levels = "uniform"
    """Levels of the joint way."""
    joint_bits: int = 3
    """Bits of the joint way's levels uniform and pow2."""
    joint_order: Literal["sequence", "together"] = "sequence"
    """The joint way: sequence (prune, then quantize the survivors) or together (one ADMM phase)."""

    def check(self) -> None:
        """Refuse options out of range, by name, before anything is made."""
        super().check()
        check_range("--sparsity", self.sparsity, 0.0, 1.0, open_high=True)
        check_range("--joint-sparsity", self.joint_sparsity, 0.0, 1.0, open_high=True)
        check_positive("penalty", self.penalty)
        check_range("--spike-weight", self.spike_weight, 0.0, np.inf, open_high=True)
        for name in ("dual_steps", "dense_epochs", "pull_epochs"):
            check_whole(option(name), getattr(self, name), 1, 1 << 20)
        for name in ("retrain_epochs", "activity_epochs"):
            check_whole(option(name), getattr(self, name), 0, 1 << 20)
        for name in ("bits", "joint_bits"):
            check_whole(option(name), getattr(self, name), 1, 8)
        for levels, bits in (("levels", "bits"), ("joint_levels", "joint_bits")):
            most = {"uniform": 8, "pow2": 6}.get(getattr(self, levels))
            if most is not None:
                name = f"{option(bits)} of {option(levels)} {getattr(self, levels)}"
                check_whole(name, getattr(self, bits), 2, most)


def load(config: AdmmConfig) -> Problem:
    """Read the data and build the network; every mistake of the user's shows here."""

    def build(shape, classes, neuron, rngs):
        del classes  # the layout says it
        return models.build(config.network, shape, neuron, rngs=rngs)

    problem = problems.load(config, rectangle(1.0), build)
    for sparsity in (config.sparsity, config.joint_sparsity):
        recipe = sparsities(problem, config.allocation, sparsity)
        # The shapes are enough to refuse a sparsity that would empty a layer.
        jax.eval_shape(partial(masks.keep_fraction, recipe), problem.net.params)
    return problem


def sparsities(problem: Problem, allocation: str, sparsity: float) -> dict[str, float]:
    """Return kernel name -> share to remove, for a share of all connections."""
    exponent = {"root": 0.5, "uniform": 1.0}[allocation]
    return masks.spread(sparsity, problem.net.params, exponent=exponent)


class AdmmStages(Stages):
    """Train and compress the network of a problem, phase by phase, in a run directory."""

    config: AdmmConfig

    def dense(self, name: str = "dense") -> Network:
        """Train the uncompressed network."""
        start = self.problem.start()
        epochs = self.config.dense_epochs
        return start.after(self.train(name, start, optax.adam(self.rate(epochs)), epochs))

    def quieten(self, dense: Network, name: str = "activity") -> Network:
        """Train on with the mean firing rate in the loss."""
        epochs, weight = self.config.activity_epochs, self.config.spike_weight
        return dense.after(self.train(name, dense, optax.adam(self.rate(epochs)), epochs, weight))

    def prune(
        self, dense: Network, sparsity: float, name: str = "prune", spike_weight: float = 0.0
    ) -> tuple[Network, Tree]:
        """Pull towards sparse weights, prune, retrain under the masks."""
        recipe = admm.prune_recipe(self._sparsities(sparsity))
        pulled = self._pull(f"{name} pull", dense, recipe, spike_weight)
        return self._prune_hard(
            f"{name} retrain", pulled, recipe, self.config.retrain_epochs, spike_weight
        )

    def prune_one_shot(
        self, dense: Network, sparsity: float, name: str = "one-shot"
    ) -> tuple[Network, Tree]:
        """Prune by magnitude at once and retrain: the rival, with the same number of epochs."""
        epochs = self.config.pull_epochs + self.config.retrain_epochs
        recipe = admm.prune_recipe(self._sparsities(sparsity))
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
                self._sparsities(c.joint_sparsity), c.joint_levels, c.joint_bits
            )
            return self._on_grid(dense, recipe, name, c.spike_weight)
        pruned, kept = self.prune(dense, c.joint_sparsity, f"{name} prune", c.spike_weight)
        return self.quantize(
            pruned, c.joint_levels, c.joint_bits, f"{name} quantize", c.spike_weight, kept
        )

    def _pull(
        self, name: str, start: Network, recipe: Recipe, spike_weight: float, kept: Tree = None
    ) -> Network:
        """Run the ADMM phase and log its residuals."""
        epochs = self.config.pull_epochs
        optimizer = admm.optimizer(
            self.rate(epochs),
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

        return start.after(
            self.train(name, start, optimizer, epochs, spike_weight, observe=observe)
        )

    def _prune_hard(
        self, name: str, start: Network, recipe: Recipe, epochs: int, spike_weight: float
    ) -> tuple[Network, Tree]:
        """Cut what lies outside the set and retrain what is left."""
        params, kept = admm.hard_prune(start.params, recipe)
        optimizer = admm.retrain_masked(self.rate(epochs), kept)
        pruned = replace(start, params=params)
        return pruned.after(self.train(name, pruned, optimizer, epochs, spike_weight)), kept

    def _on_grid(
        self, start: Network, recipe: Recipe, name: str, spike_weight: float, kept: Tree = None
    ) -> Network:
        """Pull towards the recipe's set, project onto it, and retrain straight through."""
        pulled = self._pull(f"{name} pull", start, recipe, spike_weight, kept)
        epochs = self.config.retrain_epochs
        optimizer = admm.retrain_quantized(self.rate(epochs), recipe)
        project = partial(admm.hard_quantize, recipe=recipe)
        name = f"{name} retrain"
        state = self.train(name, pulled, optimizer, epochs, spike_weight, visible=project)
        latent = transforms.find(state.opt_state, transforms.LatentState)
        return replace(start.after(state), params=transforms.snap(recipe, latent, state.params))

    def _sparsities(self, sparsity: float) -> dict[str, float]:
        return sparsities(self.problem, self.config.allocation, sparsity)
