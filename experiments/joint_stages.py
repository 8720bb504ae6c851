"""The stages of the joint pipeline: each adds a set to stay in, and all later ones stay there too.

What was achieved so far is a value, `Held`: the network, its width and its timesteps among it, the
masks, whether weights are quantized, the weight on spikes. A stage changes that value (it enters a
set), and `tune` trains whatever is held, with every set of it in force.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
import optax

from experiments.admm_stages import sparsities
from experiments.common.problem import Network, Problem, Tree
from experiments.common.skeleton import Run
from experiments.common.stages import Row, Stages
from experiments.joint_problem import JointConfig, groups, ratios_of
from jaxsnn import export, train, tree
from jaxsnn.compress import rescaling as rescaled, schedules, singular, transforms
from jaxsnn.compress.projections import Projection
from jaxsnn.methods import admm
from jaxsnn.network import Output
from jaxsnn.train import calibrate

MEASURES = ("weight_bytes", "synops", "bit_ops", "timesteps", "spikes_per_sample")


@dataclass(frozen=True, eq=False)
class Held:
    """Hold a network and the sets that it stays in."""

    network: Network  # as it is seen
    free: Tree  # weights that the visible ones are made from, themselves if not quantized
    masks: Tree = None  # what may be non-zero; None if all may
    quantized: bool = False
    spike_weight: float = 0.0


class JointStages(Stages):
    """Train and compress the network of a problem, stage by stage, in a run directory."""

    config: JointConfig

    def __init__(self, run: Run, problem: Problem):
        super().__init__(run, problem)
        self._phases: list[str] = []  # trained since the last row

    def go(self) -> tuple[Network, Network]:
        """Go all stages; return the dense network and the compressed one."""
        start = self.problem.start()
        dense = held = self.tune("dense", Held(start, start.params), self.config.dense_epochs)
        self.note("dense", dense)
        parts = groups(self.config)
        for group in parts:
            name = " and ".join(group)
            held, more = self.stage(name, group, held)
            row = self.note(name, held, "compressed" if group is parts[-1] else None)
            row |= more
        self.time(dense.network, held.network, rounds=3)
        return dense.network, held.network

    def stage(self, name: str, group: tuple[str, ...], held: Held) -> tuple[Held, Row]:
        """Enter the sets of a stage, or of several together, and train; return more of its row."""
        if group == ("timesteps",):
            return self.shorten(held)
        for each in group:
            held = self._seen(self._enter(each, held))
        epochs = sum(getattr(self.config, f"{each}_epochs") for each in group)
        return self.tune(name, held, epochs), {}

    def note(self, stage: str, held: Held, name: str | None = None) -> Row:
        """Add the row of a stage: what it cost and gained, against the row before and in all."""
        row = self.add_row(name or stage, held.network)
        before, dense = self.rows[max(len(self.rows) - 2, 0)], self.rows[0]
        seconds = sum(each["seconds"] for each in self.run.log if each["phase"] in self._phases)
        self._phases.clear()
        row["stage"] = stage
        row["cost"] = {"accuracy": before["accuracy"] - row["accuracy"], "seconds": seconds}
        row["gain"], row["gain_in_all"] = _factors(row, before), _factors(row, dense)
        if row is not dense:
            gains = ", ".join(f"{x:.3g} in {m}" for m, x in row["gain"].items() if x and x != 1)
            self.run.say(
                f"{stage}: {-100 * row['cost']['accuracy']:+.2f} points in {seconds:.0f} s; "
                f"factors: {gains or 'none'}"
            )
        return row

    def tune(self, name: str, held: Held, epochs: int) -> Held:
        """Train with every set in force that is held; return what is held then."""
        return self._tune(name, held, epochs, optax.adam(self.rate(epochs)))

    def cut_channels(self, held: Held) -> Held:
        """Remove the channels of the lowest scores for good, from weights and masks."""
        network = held.network
        kept = singular.kept_channels(self.scores(network), ratios_of(self.problem))

        def cut(params: Tree) -> Network:
            problem = network.problem
            return problem.start_with(export.shrink(problem.module, params, network.stats, kept))

        small = cut(held.free)
        left = held.masks
        if left is not None:
            whole = jax.tree.map(
                lambda mask, leaf: np.broadcast_to(np.asarray(mask, np.float32), leaf.shape),
                left, held.free,
            )  # fmt: skip
            left = jax.tree.map(lambda leaf: leaf != 0, cut(whole).params)
        return replace(held, network=small, free=small.params, masks=left)

    def prune(self, held: Held) -> Held:
        """Remove the smallest connections, after a phase that pulls them to zero or at once."""
        c = self.config
        shares = sparsities(held.network.problem, c.allocation, c.sparsity)
        recipe = admm.prune_recipe(shares)
        if c.pruning == "admm":
            held = self._pull("connections pull", held, recipe)
        free, kept = admm.hard_prune(held.free, recipe)
        return replace(held, free=free, masks=kept)

    def shorten(self, held: Held) -> tuple[Held, Row]:
        """Reduce the timesteps while the validation accuracy stays; return the tries too."""
        c = self.config

        def go(held: Held, timesteps: int) -> tuple[Held, float]:
            shorter = self._at(held, timesteps)
            tuned = self.tune(f"timesteps {timesteps}", shorter, c.timesteps_epochs)
            found = self._validate(tuned)
            self.run.say(f"{timesteps} time steps: {100 * found:.2f} % on validation")
            return tuned, found

        accuracy = self._validate(held)
        self.run.say(f"{c.timesteps} time steps: {100 * accuracy:.2f} % on validation")
        held, _, tried = schedules.shorten(
            go, held, accuracy, c.timesteps, c.timesteps_schedule, tolerance=c.tolerance
        )
        first = {"timesteps": c.timesteps, "accuracy": accuracy, "accepted": True}
        return held, {"tried": [first, *(each._asdict() for each in tried)]}

    def scores(self, network: Network) -> dict[str, Any]:
        """Return layer -> score of each channel, `[C]`: the rank of its spike maps.

        A neuron of a dense layer has a map of one pixel, whose rank is 1 if it fired at all.
        """
        c, timesteps = self.config, network.problem.config.timesteps
        chosen = list(ratios_of(self.problem))

        def statistic(output: Output) -> dict[str, jax.Array]:
            spikes = output.activity.spikes
            maps = {
                x: spikes[x] if spikes[x].ndim == 4 else spikes[x][:, None, None] for x in chosen
            }
            return {x: singular.singular_scores(maps[x], timesteps) for x in chosen}

        def compute() -> dict[str, Any]:
            found = calibrate.over_batches(
                network.problem.net.apply, network.problem.prepare, network.params, network.stats,
                self.problem.data.train.images, statistic, batches=c.calibration_batches,
                batch_size=c.calibration_batch_size, seed=c.seed,
            )  # fmt: skip
            return {layer: np.asarray(found.mean[layer]) for layer in chosen}

        return self.run.arrays("channels scores", compute)

    def _enter(self, stage: str, held: Held) -> Held:
        """Add the set of a stage to what is held."""
        if stage == "channels":
            return self.cut_channels(held)
        if stage == "connections":
            return self.prune(held)
        if stage == "bits":
            return replace(held, quantized=True)
        if stage == "timesteps":
            return self._at(held, self.config.timesteps_schedule[-1])
        return replace(held, spike_weight=self.config.spike_weight)

    def _seen(self, held: Held) -> Held:
        """Return the same with the visible weights in the sets, before any training."""
        params = transforms.visible(self._grids(held), held.free) if held.quantized else held.free
        return replace(held, network=replace(held.network, params=params))

    def _at(self, held: Held, timesteps: int) -> Held:
        """Return the same with another number of timesteps."""
        problem = held.network.problem
        config = replace(problem.config, timesteps=timesteps)
        other = replace(problem, config=config, tasks={})
        return replace(held, network=replace(held.network, problem=other))

    def _validate(self, held: Held) -> float:
        """Return the accuracy on the validation images."""
        network, problem = held.network, held.network.problem
        return train.evaluate(
            problem.task(), network.params, network.stats, problem.data.validation, batch_size=100
        ).accuracy

    def _pull(self, name: str, held: Held, recipe: dict[str, Projection]) -> Held:
        """Run an ADMM phase inside the sets that are held, and log its residuals."""
        c = self.config
        penalty = admm.penalty_schedule(self.problem.steps(c.pull_epochs), initial=c.penalty)
        every = max(self.problem.steps(1) // c.dual_steps, 1)
        optimizer = admm.optimizer(self.rate(c.pull_epochs), recipe, penalty=penalty, every=every)

        def observe(state: train.TrainState) -> dict[str, float]:
            pulled = transforms.find(state.opt_state, transforms.PullState)
            found = transforms.residuals(pulled, _free(held, state))
            primal = {f"primal/{leaf}": float(r.primal) for leaf, r in found.items()}
            dual = {f"dual/{leaf}": float(r.dual) for leaf, r in found.items()}
            return primal | dual | {"penalty": float(pulled.penalty)}

        return self._tune(name, held, c.pull_epochs, optimizer, observe)

    def _tune(
        self,
        name: str,
        held: Held,
        epochs: int,
        optimizer: optax.GradientTransformation,
        observe: Any = None,
    ) -> Held:
        """Train with an optimizer inside the sets that are held."""
        self._phases.append(name)
        start = replace(held.network, params=held.free)
        go = partial(self.train, name, start, epochs=epochs, spike_weight=held.spike_weight,
                     observe=observe)  # fmt: skip
        if held.quantized:
            recipe = self._grids(held)
            state = go(
                optimizer=transforms.latent(optimizer, recipe),
                visible=partial(transforms.visible, recipe),
            )
            latent = transforms.find(state.opt_state, transforms.LatentState)
            params = transforms.snap(recipe, latent, state.params)
        else:
            if held.masks is not None:
                optimizer = optax.chain(optimizer, transforms.confine(held.masks))
            state = go(optimizer=optimizer)
            params = state.params
        network = replace(start.after(state), params=params)
        return replace(held, network=network, free=_free(held, state))

    def _grids(self, held: Held) -> dict[str, Projection]:
        """Return the recipe of the quantized weights, zero outside the masks."""
        c = self.config
        if c.levels != "rescaled":
            return admm.quantize_recipe(c.levels, c.bits, masks=held.masks)
        if held.masks is None:
            return {"*/kernel": rescaled.rescaled(c.bits)}
        kept = tree.named_leaves(held.masks)
        kernels = tree.match({"*/kernel": True}, held.masks)
        return {name: rescaled.rescaled(c.bits, kept=kept[name]) for name in kernels}


def _free(held: Held, state: train.TrainState) -> Tree:
    """Return the weights that the visible ones are made from."""
    if not held.quantized:
        return state.params
    latent = transforms.find(state.opt_state, transforms.LatentState)
    return transforms.free_params(latent, state.params)


def _factors(row: Row, base: Row) -> dict[str, float | None]:
    """Return by what factor each measure is smaller than in another row."""
    return {m: base[m] / row[m] if row[m] else None for m in MEASURES}
