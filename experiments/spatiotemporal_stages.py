"""The stages of spatio-temporal pruning on one problem, each of which resumes where it stopped."""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import optax

from experiments.common.problem import Network, Tree
from experiments.common.skeleton import Run
from experiments.common.stages import Row
from experiments.hybrid_problem import HybridProblem
from experiments.hybrid_stages import HybridStages
from experiments.robustness import noise_sweep
from experiments.spatiotemporal_problem import SpatioTemporalConfig, convolutions
from jaxsnn import data, tree
from jaxsnn.compress import grids, principal, schedules, transforms
from jaxsnn.compress.principal import Moments
from jaxsnn.compress.schedules import Stage
from jaxsnn.methods import conversion
from jaxsnn.network import Output
from jaxsnn.train import calibrate

ANALYSIS_BATCH = 50  # images whose potentials are on the host at once


class SpatioTemporalStages(HybridStages):
    """Make a spiking network narrow, short and coarse, in a run directory."""

    config: SpatioTemporalConfig

    def __init__(self, run: Run, problem: HybridProblem):
        super().__init__(run, problem)
        self.found: dict[str, Any] = {}  # what results.json has beside the rows

    def go(self) -> tuple[Network, Network]:
        """Go through all stages; return the dense network and the product."""
        ann, dense = self.hybrid("unpruned", self.problem)
        self.add_row("dense", dense)
        self.add_row("ann", ann)

        narrow_problem = self.narrow(dense)
        narrow_ann, narrow = self.hybrid("narrow", narrow_problem)
        self.add_row("narrow", narrow)
        self.add_row("narrow ann", narrow_ann)

        short, stages = self.shorten(narrow)
        self.add_row("short", short)
        self.control(narrow_ann, narrow, short, stages)

        product = self.quantize(short)
        self.add_row("compressed", product)
        self.noise({"ann": ann, "dense": dense, "narrow": narrow, "short": short})
        for row in self.rows:
            for suffix in ("", "_int32"):
                field = f"published_energy_pj{suffix}"
                row[f"energy_ratio{suffix}"] = self._row("ann")[field] / row[field]
        return dense, product

    # space

    def moments(self, network: Network) -> dict[str, Moments]:
        """Return layer -> moments of the convolutions' mean drive, or mean potential."""
        c, problem = self.config, network.problem
        chosen = convolutions(cast(HybridProblem, problem))
        synapses, timesteps = problem.net.synapses, problem.config.timesteps

        def statistic(params: Tree, output: Output) -> dict[str, Any]:
            if c.variable == "potential":
                potential = {x: output.activity.potential[x] for x in chosen}
                return principal.mean_potential(potential, timesteps)
            events = {f"{x}/kernel": output.activity.events[f"{x}/kernel"] for x in chosen}
            return principal.drive(synapses, tree.named_leaves(params), events, timesteps)

        def compute() -> dict[str, np.ndarray]:
            found: dict[str, Moments] = {}
            batches = calibrate.each_batch(
                problem.net.apply, problem.prepare, network.params, network.stats,
                problem.data.train.images, statistic, seed=c.seed,
                batches=max(c.pca_images // ANALYSIS_BATCH, 1),
                batch_size=min(ANALYSIS_BATCH, c.pca_images),
            )  # fmt: skip
            for batch in batches:
                found = principal.update(found, batch)
            return {
                f"{x}/{part}": getattr(found[x], part) for x in chosen for part in found[x]._fields
            }

        saved = self.run.arrays("principal components", compute)
        return {x: Moments(*(saved[f"{x}/{part}"] for part in Moments._fields)) for x in chosen}

    def narrow(self, network: Network) -> HybridProblem:
        """Choose the widths of the narrow network; return its problem, yet to be trained."""
        c, moments = self.config, self.moments(network)
        whole = _size(self.problem)
        found = {}
        for variance in c.variances:
            widths = principal.widths(
                moments, variance, rule=c.rule, multiple=c.multiple,
                rows_per_channel=c.rows_per_channel,
            )  # fmt: skip
            kept = principal.depth_cut(widths) if c.depth_cut else widths
            problem = self.problem.resized(kept)
            found[variance] = problem, kept, _size(problem) / whole
        best = min(found, key=lambda variance: abs(found[variance][2] - c.size))
        for variance, (_, widths, share) in found.items():
            listed = "-".join(str(width) for width in widths.values())
            mark = "  <- taken" if variance == best else ""
            self.run.say(f"variance {variance:g}: {listed}, {share:.3f} of the weights{mark}")
        self.found["widths"] = [
            {"variance": variance, "widths": widths, "share": share, "taken": variance == best}
            for variance, (_, widths, share) in found.items()
        ]
        shares = {x: principal.explained(principal.finish(moments[x])) for x in moments}
        self.found["explained"] = {x: share.round(6) for x, share in shares.items()}
        return found[best][0]

    # time

    def shorten(self, network: Network) -> tuple[Network, list[Stage]]:
        """Train over fewer and fewer time steps while the held-out accuracy holds."""
        c, held_out = self.config, self.held_out

        def stage(network: Network, timesteps: int) -> tuple[Network, float]:
            problem = cast(HybridProblem, network.problem).at(timesteps)
            start = Network(problem, network.params, network.stats)
            tuned = self.tune(f"T {timesteps}", start, c.fewer_epochs)
            found = self.mean_accuracy(tuned, held_out)
            self.run.say(f"T = {timesteps}: {100 * found:.2f} % on held-out images")
            return tuned, found

        first = self.mean_accuracy(network, held_out)
        self.run.say(f"T = {c.timesteps}: {100 * first:.2f} % on held-out images")
        short, _, stages = schedules.shorten(
            stage, network, first, c.timesteps, c.fewer, tolerance=c.tolerance
        )
        begun = Stage(c.timesteps, first, True)
        self.found["stages"] = [each._asdict() for each in (begun, *stages)]
        return short, stages

    def control(self, ann: Network, narrow: Network, short: Network, stages: list[Stage]) -> None:
        """Compare with training at the final T at once, and with no training there at all.

        Direct training starts from the converted ANN and has as many epochs as the way through all
        accepted stages, the tuning at T0 included.
        """
        c, timesteps = self.config, short.problem.config.timesteps
        accepted = sum(stage.accepted for stage in stages)
        problem = cast(HybridProblem, short.problem)
        converted = self.convert("narrow thresholds", ann, problem)
        epochs = c.tune_epochs + accepted * c.fewer_epochs
        direct = self.tune(f"direct T {timesteps}", converted, epochs)
        row = self.add_row("direct", direct)
        self.found["control"] = {
            "timesteps": timesteps,
            "gradual": self._row("short")["mean_accuracy"],
            "direct": row["mean_accuracy"],
            "not trained": self.mean_accuracy(
                Network(problem, narrow.params, narrow.stats), problem.data.test
            ),
            "epochs": epochs,
        }

    # precision

    def quantize(self, short: Network) -> Network:
        """Measure the accuracy at each number of bits; return the network at the chosen one."""
        c = self.config
        table = []
        for bits in c.bit_widths:
            rounded = Network(short.problem, self._rounded(short.params, bits), short.stats)
            accuracy = self.mean_accuracy(rounded, short.problem.data.test)
            table.append({"bits": bits, "accuracy": accuracy})
            self.run.say(f"{bits} bits: {100 * accuracy:.2f} % on test")
        self.found["quantization"] = table
        if not c.qat_epochs:
            product = Network(short.problem, self._rounded(short.params, c.bits), short.stats)
        else:
            product = self._trained_coarse(short)
        self.found["whole_number_weights"] = self._whole_numbers(product)
        return product

    def _rounded(self, params: Tree, bits: int) -> Tree:
        return transforms.visible(self._recipe(params, bits), params)

    def _recipe(self, params: Tree, bits: int) -> dict[str, Any]:
        grid = grids.symmetric_uniform(bits, quantile=self.config.clip)
        return dict.fromkeys(tree.named_leaves(params), grid)

    def _trained_coarse(self, short: Network) -> Network:
        """Train with quantized weights, straight through the rounding."""
        c = self.config
        recipe = self._recipe(short.params, c.bits)
        optimizer: optax.GradientTransformation = transforms.latent(
            self.tune_optimizer(c.qat_epochs), recipe
        )
        state = self.train(
            "quantized", short, optimizer, c.qat_epochs,
            visible=lambda params: transforms.visible(recipe, params),
        )  # fmt: skip
        latent = transforms.find(state.opt_state, transforms.LatentState)
        return Network(short.problem, transforms.snap(recipe, latent, state.params), state.stats)

    def _whole_numbers(self, product: Network) -> dict[str, float]:
        """Rescale weights and thresholds together to whole weights; compare the accuracies."""
        recipe = self._recipe(product.params, self.config.bits)
        factors = {
            name.rpartition("/")[0]: float(1.0 / recipe[name].fit(leaf).scale)
            for name, leaf in tree.named_leaves(product.params).items()
        }
        params, stats = conversion.rescale(product.params, product.stats, factors)
        leaves = tree.named_leaves(params).values()
        return {
            "largest": max(float(np.abs(leaf).max()) for leaf in leaves),
            "off_whole": max(float(np.abs(leaf - np.rint(leaf)).max()) for leaf in leaves),
            "accuracy": self.accuracy(
                Network(product.problem, params, stats), product.problem.data.test
            ),
        }

    # noise

    def noise(self, networks: Mapping[str, Network]) -> None:
        """Measure the accuracies on noisy test images."""
        c, test = self.config, self.problem.data.test
        some = data.Split(test.images[: c.noise_images], test.labels[: c.noise_images])

        def compute() -> dict[str, np.ndarray]:
            return {
                name: noise_sweep(network, some, c.sigmas, seeds=c.noise_seeds)
                for name, network in networks.items()
            }

        found = self.run.arrays("noise", compute)
        self.found["noise"] = {
            "sigmas": list(c.sigmas),
            "images": len(some.labels),
            "seeds": c.noise_seeds,
            "accuracy": {name: found[name].mean(0) for name in networks},
            "deviation": {name: found[name].std(0) for name in networks},
        }

    def mean_accuracy(self, network: Network, split: data.Split) -> float:
        """Return the accuracy on a split, the mean over draws of the input's spikes."""
        draws = self.draws(network)
        return float(np.mean([self.accuracy(network, split, seed) for seed in range(draws)]))

    def _row(self, name: str) -> Row:
        return next(row for row in self.rows if row["name"] == name)


def _size(problem: HybridProblem) -> int:
    return sum(leaf.size for leaf in tree.named_leaves(problem.net.params).values())
