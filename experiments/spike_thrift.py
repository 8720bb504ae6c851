"""Spike-Thrift: a very sparse network from one training, guided by a dense one, made to spike.

Kundu, Datta, Pedram and Beerel 2021, "Spike-Thrift: Towards Energy-Efficient Deep Spiking Neural
Networks by Limiting Spiking Activity via Attention-Guided Compression", WACV, pp. 3953-3962. A
dense ANN, the meta-model, guides the training of a sparse one whose weights move to where they are
needed; that one is converted to a spiking network and tuned with its masks unchanged. Beside it
stand sparse ANNs that learn from less, and the dense spiking network. The text of the paper is not
public: what is built here follows its abstract and the public codes that it stands on, and no row
is a reproduction of a published one.

    python -m experiments.spike_thrift --preset cpu --dataset cifar10 --data-dir DIR
"""

from dataclasses import dataclass, replace
from typing import Any

from experiments.common import skeleton
from experiments.spike_thrift_problem import WAYS, SpikeThriftConfig, load
from experiments.spike_thrift_stages import ThriftStages


@dataclass(frozen=True)
class Config(SpikeThriftConfig):
    """Options of `experiments.spike_thrift`."""


COMMON: dict[str, Any] = {
    "network": "vgg16", "decay": 1.0, "threshold": 1.0, "loss": "ce_sum", "encoding": "poisson",
}  # fmt: skip

# A tenth of the published T; neurons integrate first, which suits few steps, and thresholds lie
# below the few largest currents. Small maps of attention have a small weight, and small layers of
# small images more than their share of the weights. The published loss on summed scores is too sure
# of itself to tune with; that on their mean in the ANN's unit is not.
SHORT: dict[str, Any] = {
    "timesteps": 10, "order": "integrate_then_fire", "calibration_timesteps": 10, "loss": "ce",
    "scores": "ann", "schedule": "cosine", "ann_learning_rate": 0.05, "sparse_learning_rate": 0.05,
    "ann_weight_decay": 1e-4, "learning_rate": 2e-3, "weight_decay": 0.0, "dropout": 0.1,
    "quantile": 0.99, "validation": 0.05, "spread": "erk", "beta": 20.0,
}  # fmt: skip
CPU: dict[str, dict[str, Any]] = {
    "digits": SHORT | {"network": "16C3-D0.1-32C3-AP2-32C3-D0.1-32C3-AP4-10", "batch_size": 32,
                       "ann_epochs": 40, "sparse_epochs": 60, "tune_epochs": 10,
                       "calibration_images": 256, "ways": tuple(WAYS), "validation": 0.1},
    "mnist": SHORT | {"network": "32C3-AP2-32C3-AP2-128-10", "limit": 10_000, "density": 0.045,
                      "ann_epochs": 10, "sparse_epochs": 20, "tune_epochs": 4},
    "cifar10": SHORT | {"network": "16C3-AP2-32C3-32C3-AP2-64C3-64C3-AP2-128C3-AP4-10",
                        "augment": "crop-flip", "limit": 30_000, "timesteps": 8,
                        "calibration_timesteps": 8, "ann_epochs": 24, "sparse_epochs": 30,
                        "tune_epochs": 4, "learning_rate": 3e-3, "spread": "uniform"},
}  # fmt: skip
CPU |= dict.fromkeys(("fashion_mnist", "kmnist"), CPU["mnist"])
CPU["cifar100"] = CPU["cifar10"]

# T, epochs and densities as far as they are known, at second hand; the rest is ours.
PAPER: dict[str, Any] = {
    "timesteps": 100, "calibration_timesteps": 100, "augment": "crop-flip", "validation": 0.0,
    "batch_size": 128, "ann_epochs": 240, "ann_learning_rate": 0.05, "ann_weight_decay": 5e-4,
    "sparse_epochs": 240, "tune_epochs": 30, "learning_rate": 1e-4, "density": 0.03,
    "quantile": 1.0, "threshold_scale": 0.7, "ways": tuple(WAYS), "remat": 10,
}  # fmt: skip
PAPERS: dict[str, dict[str, Any]] = {
    "digits": CPU["digits"] | {"timesteps": 100, "calibration_timesteps": 100},
    "mnist": PAPER | {"network": CPU["mnist"]["network"], "augment": "none"},
    "cifar10": PAPER,
    "cifar100": PAPER | {"network": "vgg11", "timesteps": 120, "calibration_timesteps": 120},
    "tiny_imagenet": PAPER | {"timesteps": 150, "calibration_timesteps": 150, "density": 0.4},
}

SMOKE: dict[str, Any] = SHORT | {
    "network": "6C3-AP2-8C3-AP4-10", "limit": 300, "batch_size": 50, "ann_epochs": 2,
    "sparse_epochs": 2, "tune_epochs": 1, "timesteps": 8, "calibration_timesteps": 8,
    "calibration_images": 64, "density": 0.3, "draws": 2,
}  # fmt: skip


def defaults(preset: str, dataset: str | None) -> Config:
    """Return the defaults of a preset for a data set."""
    dataset = dataset or "digits"
    options = SMOKE if preset == "smoke" else (CPU if preset == "cpu" else PAPERS).get(dataset, {})
    return replace(Config(), preset=preset, dataset=dataset, **COMMON | options)


def main() -> None:
    """Run the experiment."""
    config = skeleton.parse(defaults, "spike_thrift")
    problem = load(config)
    run = skeleton.Run("spike_thrift", config)
    stages = ThriftStages(run, problem)
    before, after = stages.go()
    rows, found = stages.rows, stages.found
    run.write_results(rows, found=found)
    _print_summary(rows, found)
    stages.draw(before, after, "compressed")
    product = rows[-1]
    run.write_page(
        f"Spike-Thrift on {config.dataset}",
        f"{problem.layout}, T = {config.timesteps}; {product['compression']:.1f} times fewer "
        f"weights; {100 * rows[0]['mean_accuracy']:.2f} % dense, "
        f"{100 * product['mean_accuracy']:.2f} % sparse, with "
        f"{found['spikes_of_dense']:.2f} of its spikes; {product['energy_ratio']:.1f} times less "
        "energy than the ANN with the same weights "
        f"({product['energy_ratio_int32']:.1f} with 32-bit integers). "
        f"{len(problem.data.train.labels):,} training and {len(problem.data.test.labels):,} test "
        "images.",
    )


def _print_summary(rows: list[dict[str, Any]], found: dict[str, Any]) -> None:
    """Print what the table of rows does not have."""
    for row in rows:
        accuracies = ", ".join(f"{100 * each:.2f}" for each in row["accuracy_draws"])
        print(
            f"{row['name']:>16}: {accuracies} %; {row['compression']:.1f} times fewer weights; "
            f"E(ann) / E = {row['energy_ratio']:.2f} (32-bit integers "
            f"{row['energy_ratio_int32']:.2f})"
        )
    ways = ", ".join(f"{way} {100 * x:.2f} %" for way, x in found["ann_accuracy"].items())
    print(f"sparse ANNs: {ways}")
    lost, recovered = (100 * found[x] for x in ("lost_by_conversion", "recovered_by_tuning"))
    print(f"conversion loses {lost:.2f} points, tuning brings {recovered:.2f} back")
    print(
        f"the sparse network fires {found['spikes_of_dense']:.3f} of the dense one's spikes and is "
        f"{100 * found['below_dense']:.2f} points below it"
    )


if __name__ == "__main__":
    skeleton.main(main)
