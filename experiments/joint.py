"""The joint pipeline: channels, connections, bits, timesteps and spikes, one after the other.

None of the four papers has it whole. From a dense network: cut out the channels whose spike maps
have the lowest rank (Wei et al. 2025), prune connections by ADMM and damp spikes (Deng et al.
2019), quantize what is left with a scale for each channel (Wei et al. 2025), and go on with fewer
and fewer time steps (Chowdhury et al. 2021). Stages are left out or reordered with --stages, or
trained in one phase with --together. What a stage achieved all later ones keep; each has a row in
the report.

    python -m experiments.joint --preset cpu --dataset mnist --data-dir DIR
"""

from dataclasses import dataclass, replace
from typing import Any

from experiments.common import skeleton
from experiments.joint_problem import JointConfig, load
from experiments.joint_stages import JointStages
from jaxsnn.report import plots


@dataclass(frozen=True)
class Config(JointConfig):
    """Options of `experiments.joint`."""


COMMON: dict[str, Any] = {"decay": 0.5, "threshold": 1.0, "loss": "ce"}

CPU: dict[str, dict[str, Any]] = {
    "digits": {"network": "16C3-32C3-AP2-64-10", "batch_size": 32, "learning_rate": 2e-3,
               "validation": 0.2, "dense_epochs": 40, "channels_epochs": 20, "sparsity": 0.8,
               "pull_epochs": 20, "connections_epochs": 20, "bits_epochs": 40,
               "timesteps_epochs": 20, "spikes_epochs": 60},
    "mnist": {"limit": 30_000, "validation": 0.05, "timesteps_schedule": (4, 2), "dense_epochs": 3,
              "channels_epochs": 2, "pull_epochs": 1, "connections_epochs": 1, "bits_epochs": 1,
              "timesteps_epochs": 2, "spike_weight": 0.5, "spikes_epochs": 8},
    "cifar10": {"network": "32C3-AP2-64C3-AP2-128-10", "timesteps": 4,
                "timesteps_schedule": (2, 1), "augment": "crop-flip", "limit": 10_000,
                "batch_size": 50, "validation": 0.1, "dense_epochs": 10, "channel_ratios": (0.25,),
                "sparsity": 0.75, "spikes_epochs": 4},
}  # fmt: skip
CPU |= dict.fromkeys(("fashion_mnist", "kmnist"), CPU["mnist"])

# No paper has this pipeline: its parts are trained for as long as theirs are.
LONG: dict[str, Any] = {
    "dense_epochs": 100, "channels_epochs": 50, "pull_epochs": 30, "connections_epochs": 30,
    "bits_epochs": 50, "timesteps_epochs": 30, "spikes_epochs": 50,
}  # fmt: skip
PAPER: dict[str, dict[str, Any]] = {
    "digits": CPU["digits"] | LONG,
    "mnist": CPU["mnist"] | LONG,
    "cifar10": LONG | {"network": "vgg16", "timesteps": 4, "timesteps_schedule": (3, 2, 1),
                       "augment": "autoaugment", "batch_size": 128, "validation": 0.05,
                       "dense_epochs": 300, "bits": 4},
}  # fmt: skip

SMOKE: dict[str, Any] = {
    "network": "8C3-AP2-16-10", "timesteps": 4, "timesteps_schedule": (2,), "limit": 500,
    "batch_size": 50, "sparsity": 0.7, "dense_epochs": 3, "channels_epochs": 1, "pull_epochs": 1,
    "connections_epochs": 1, "bits_epochs": 1, "timesteps_epochs": 1, "spikes_epochs": 1,
    "calibration_batches": 2, "calibration_batch_size": 50,
}  # fmt: skip


def defaults(preset: str, dataset: str | None) -> Config:
    """Return the defaults of a preset for a data set."""
    dataset = dataset or "digits"
    options = SMOKE if preset == "smoke" else (CPU if preset == "cpu" else PAPER).get(dataset, {})
    return replace(Config(), preset=preset, dataset=dataset, **COMMON | options)


def main() -> None:
    """Run the experiment."""
    config = skeleton.parse(defaults, "joint")
    problem = load(config)
    run = skeleton.Run("joint", config)
    stages = JointStages(run, problem)
    dense, compressed = stages.go()
    run.write_results(stages.rows)
    stages.draw(dense, compressed, "compressed")
    plots.plot_stages(stages.rows[1:], run.plots / "stages.png")
    found = problem.data
    notes = f" ({found.notes})" if found.notes else ""
    run.write_page(
        f"A spiking network for {config.dataset}, compressed in every way",
        f"{config.network}, T = {config.timesteps}, {len(found.train.labels):,} training and "
        f"{len(found.test.labels):,} test images{notes}. Stages in order: "
        f"{', '.join(row['stage'] for row in stages.rows[1:])}; the last one's network is the row "
        "compressed.",
    )


if __name__ == "__main__":
    skeleton.main(main)
