"""Spatio-temporal pruning: fewer channels, fewer time steps, 5-bit weights; energy and noise.

Chowdhury, Garg and Roy 2021, "Spatio-Temporal Pruning and Quantization for Low-latency Spiking
Neural Networks", arXiv 2104.12528. An ANN is trained, converted to a spiking network and tuned. The
principal components of its potentials say how wide each convolution must be; a network of that size
is trained in the same way, then over fewer and fewer time steps, each from the weights of the one
before; at last its weights are rounded. The energies are compared with the ANN that was not pruned.

    python -m experiments.spatiotemporal --preset cpu --dataset cifar10 --data-dir DIR
"""

from dataclasses import dataclass, replace
from typing import Any

from experiments.common import skeleton
from experiments.spatiotemporal_problem import SpatioTemporalConfig, load
from experiments.spatiotemporal_stages import SpatioTemporalStages
from jaxsnn.report import plots


@dataclass(frozen=True)
class Config(SpatioTemporalConfig):
    """Options of `experiments.spatiotemporal`."""


COMMON: dict[str, Any] = {
    "network": "vgg9", "decay": 0.9901, "threshold": 1.0, "loss": "ce", "encoding": "poisson",
}  # fmt: skip

# T0 is a third of the paper's, widths a quarter; neurons integrate first, which suits few steps.
# Where the thresholds' product is large, tuning must begin with the scores in the ANN's unit.
SHORT: dict[str, Any] = {
    "timesteps": 32, "order": "integrate_then_fire", "calibration_timesteps": 32,
    "schedule": "cosine", "ann_learning_rate": 0.05, "learning_rate": 5e-4, "dropout": 0.1,
    "fewer": (20, 12, 8, 6, 4), "tune_epochs": 2, "fewer_epochs": 1,
    "variances": (0.999, 0.995, 0.99, 0.98, 0.97, 0.95, 0.93, 0.9), "noise_images": 1000,
    "noise_seeds": 2, "validation": 0.1, "weight_decay": 1e-4,
}  # fmt: skip
CPU: dict[str, dict[str, Any]] = {
    "digits": SHORT | {"network": "16C3-D0.1-32C3-AP2-32C3-D0.1-32C3-AP4-10", "batch_size": 32,
                       "ann_epochs": 40, "tune_epochs": 10, "fewer_epochs": 5, "pca_images": 1000,
                       "calibration_images": 256, "scores": "ann", "threshold_scale": 0.7},
    "mnist": SHORT | {"network": "16C3-AP2-32C3-D0.1-32C3-AP2-64C3-AP7-10",
                      "limit": 12_000, "ann_epochs": 10, "pca_images": 1500, "scores": "ann",
                      "threshold_scale": 0.7, "size": 0.14, "qat_epochs": 1},
    "cifar10": SHORT | {"width": 0.25, "augment": "crop-flip", "limit": 20_000, "ann_epochs": 30,
                        "pca_images": 2000},
}  # fmt: skip
CPU |= dict.fromkeys(("fashion_mnist", "kmnist"), CPU["mnist"])
CPU["cifar100"] = CPU["cifar10"] | {"network": "vgg11"}

# Published where it is known (at second hand); epochs of the ANN, the schedule of T and the noise
# are ours, as is the batch.
PAPER: dict[str, Any] = {
    "timesteps": 100, "augment": "crop-flip", "validation": 0.1, "batch_size": 64,
    "ann_epochs": 300, "ann_learning_rate": 0.1, "tune_epochs": 20, "learning_rate": 1e-4,
    "remat": 5,
}  # fmt: skip
PAPERS: dict[str, dict[str, Any]] = {
    "digits": CPU["digits"] | {"timesteps": 100, "fewer": (75, 50, 40, 30, 25, 20, 15, 10)},
    "mnist": PAPER | {"network": CPU["mnist"]["network"], "augment": "none"},
    "cifar10": PAPER,
    "cifar100": PAPER | {"network": "vgg11", "fewer": (75, 50, 40, 30, 25, 20, 15, 10)},
}

SMOKE: dict[str, Any] = SHORT | {
    "network": "6C3-AP2-8C3-AP4-10", "limit": 300, "batch_size": 50, "ann_epochs": 2,
    "timesteps": 8, "calibration_timesteps": 8, "calibration_images": 64, "tune_epochs": 1,
    "fewer": (6, 4), "fewer_epochs": 1, "tolerance": 1.0, "variances": (0.99, 0.9),
    "pca_images": 200, "rows_per_channel": 20.0, "draws": 2, "bit_widths": (8, 5, 2),
    "sigmas": (0.0, 0.5), "noise_images": 100, "scores": "ann",
}  # fmt: skip


def defaults(preset: str, dataset: str | None) -> Config:
    """Return the defaults of a preset for a data set."""
    dataset = dataset or "digits"
    options = SMOKE if preset == "smoke" else (CPU if preset == "cpu" else PAPERS).get(dataset, {})
    return replace(Config(), preset=preset, dataset=dataset, **COMMON | options)


def main() -> None:
    """Run the experiment."""
    config = skeleton.parse(defaults, "spatiotemporal")
    problem = load(config)
    run = skeleton.Run("spatiotemporal", config)
    stages = SpatioTemporalStages(run, problem)
    before, after = stages.go()
    rows, found = stages.rows, stages.found
    run.write_results(rows, accuracy_over_time=stages.over_time, **found)
    _print_summary(rows, found)
    stages.draw(before, after, "compressed")
    taken = next(each["widths"] for each in found["widths"] if each["taken"])
    plots.plot_dimensions(found["explained"], taken, run.plots / "dimensions.png")
    noise = found["noise"]
    plots.plot_noise(noise["sigmas"], noise["accuracy"], run.plots / "noise.png")
    compressed = rows[-1]
    run.write_page(
        f"Spatio-temporal pruning on {config.dataset}",
        f"{problem.layout}; T from {config.timesteps} to {compressed['timesteps']}, "
        f"{config.bits} bits, {compressed['density']:.3f} of the weights; "
        f"{100 * rows[0]['mean_accuracy']:.2f} % before, "
        f"{100 * compressed['mean_accuracy']:.2f} % after; {compressed['energy_ratio']:.1f} times "
        f"less energy than the unpruned ANN. {len(problem.data.train.labels):,} training and "
        f"{len(problem.data.test.labels):,} test images.",
    )


def _print_summary(rows: list[dict[str, Any]], found: dict[str, Any]) -> None:
    """Print what the table of rows does not have."""
    for row in rows:
        accuracies = ", ".join(f"{100 * each:.2f}" for each in row["accuracy_draws"])
        print(
            f"{row['name']:>12}: {accuracies} %; E(ann) / E = {row['energy_ratio']:.2f} "
            f"(32-bit integers {row['energy_ratio_int32']:.2f})"
        )
    control = found["control"]
    ways = ", ".join(
        f"{way} {100 * control[way]:.2f} %" for way in ("gradual", "direct", "not trained")
    )
    print(f"T = {control['timesteps']}: {ways}")
    bits = ", ".join(
        f"{each['bits']}: {100 * each['accuracy']:.2f} %" for each in found["quantization"]
    )
    print(f"bits {bits}")
    noise = found["noise"]
    print("noise    " + "".join(f"{sigma:>8g}" for sigma in noise["sigmas"]))
    for name, accuracy in noise["accuracy"].items():
        print(f"{name:>8} " + "".join(f"{100 * each:8.2f}" for each in accuracy))


if __name__ == "__main__":
    skeleton.main(main)
