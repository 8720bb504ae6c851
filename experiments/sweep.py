"""A grid of sparsity and bits, and whatever else is a number, trained as one compiled program.

From one dense network every lane prunes its share of the connections and trains on with so many
bits, straight through the quantizer. All lanes are one program: nothing is compiled for a
configuration. Each network is evaluated, counted and packed; the report has the Pareto fronts
(accuracy against bytes and against synaptic operations), and the smallest network that stays
within a tolerance on held-out images is the product.

    python -m experiments.sweep --preset cpu --dataset mnist --data-dir DIR
    python -m experiments.sweep --axis timesteps=2,4 --axis spike_weight=0,0.03 --sparsity 0.8 0.9
"""

from dataclasses import dataclass, replace
from typing import Any

from experiments.common import skeleton
from experiments.sweep_problem import SweepConfig, load
from experiments.sweep_stages import SweepStages


@dataclass(frozen=True)
class Config(SweepConfig):
    """Options of `experiments.sweep`."""


CPU: dict[str, dict[str, Any]] = {
    "digits": {"network": "16C3-AP2-32C3-64-10", "batch_size": 32, "learning_rate": 2e-3,
               "dense_epochs": 40, "tune_epochs": 20},
    "mnist": {"network": "16C3-AP2-32C3-AP2-64-10", "limit": 12_000, "dense_epochs": 12,
              "tune_epochs": 4},
}  # fmt: skip
CPU |= dict.fromkeys(("fashion_mnist", "kmnist"), CPU["mnist"])

# No paper has such a sweep: the whole training set, longer, and a finer grid.
PAPER: dict[str, Any] = {
    "network": "32C3-AP2-32C3-AP2-128-10", "dense_epochs": 40, "tune_epochs": 20,
    "sparsity": (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98), "bits": (2, 3, 4, 5, 6, 8),
}  # fmt: skip
PAPERS = {
    "digits": PAPER | {"network": "32C3-AP2-32C3-128-10", "batch_size": 32, "dense_epochs": 100},
    "mnist": PAPER,
}

SMOKE: dict[str, Any] = {
    "network": "48-10", "limit": 600, "validation": 0.2, "batch_size": 24, "learning_rate": 1e-2,
    "dense_epochs": 8, "tune_epochs": 2, "sparsity": (0.5, 0.8), "bits": (2, 4), "tolerance": 0.03,
}  # fmt: skip


def defaults(preset: str, dataset: str | None) -> Config:
    """Return the defaults of a preset for a data set."""
    dataset = dataset or "digits"
    options = SMOKE if preset == "smoke" else (CPU if preset == "cpu" else PAPERS).get(dataset, {})
    return replace(Config(), preset=preset, dataset=dataset, **options)


def main() -> None:
    """Run the experiment."""
    config = skeleton.parse(defaults, "sweep")
    problem = load(config)
    run = skeleton.Run("sweep", config)
    stages = SweepStages(run, problem)
    dense, chosen = stages.go()
    fronts = stages.fronts()
    run.write_results(stages.rows, fronts=fronts)
    name = stages.rows[-1]["chosen"]
    stages.draw(dense, chosen, "compressed")
    stages.draw_sweep(name)
    found = problem.data
    notes = f" ({found.notes})" if found.notes else ""
    said = "; ".join(
        f"against {cost.replace('_', ' ')}: {len(front['front'])} networks, hypervolume "
        f"{front['hypervolume']:.4f}"
        for cost, front in fronts.items()
    )
    print(f"\nchosen   {name}\nfronts   {said}")
    run.write_page(
        f"A sweep on {config.dataset}",
        f"{config.network}, T = {config.timesteps}, {len(found.train.labels):,} training and "
        f"{len(found.test.labels):,} test images{notes}; {len(stages.lanes)} configurations. "
        f"Fronts: {said}. The row compressed is {name}.",
    )


if __name__ == "__main__":
    skeleton.main(main)
