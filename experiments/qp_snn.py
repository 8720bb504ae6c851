"""QP-SNN: quantize the weights with rescaling, prune whole channels by singular values, shrink.

Wei et al. 2025, "QP-SNN: Quantized and Pruned Spiking Neural Networks", ICLR 2025, arXiv
2502.05905. A network is trained with quantized weights, its channels are scored on what they do,
the lowest are cut out for good, and the smaller network is fine-tuned. Beside the full method stand
the rows of its ablation: another quantizer (vanilla), another score (the membrane potential's).

    python -m experiments.qp_snn --preset cpu --dataset cifar10 --data-dir DIR
"""

from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

from experiments.common import skeleton
from experiments.qp_snn_problem import WAYS, QpConfig, load
from experiments.qp_snn_stages import QpStages


@dataclass(frozen=True)
class Config(QpConfig):
    """Options of `experiments.qp_snn`."""


COMMON: dict[str, Any] = {"decay": 0.5, "threshold": 1.0, "loss": "ce", "timesteps": 2}

CPU: dict[str, dict[str, Any]] = {
    "digits": {"network": "16C3-32C3-MP2-32C3-AP4-10", "ratios": (0.5,), "batch_size": 32,
               "learning_rate": 2e-3, "train_epochs": 40, "tune_epochs": 20,
               "ways": tuple(WAYS)},
    "mnist": {"network": "16C3-32C3-MP2-32C3-64C3-MP2-64C3-AP7-10", "ratios": (0.5,),
              "limit": 20_000, "validation": 0.05, "train_epochs": 5, "tune_epochs": 3},
    "cifar10": {"network": "vgg16", "width": 0.25, "augment": "crop-flip", "limit": 20_000,
                "validation": 0.05, "train_epochs": 10, "tune_epochs": 6},
}  # fmt: skip
CPU |= dict.fromkeys(("fashion_mnist", "kmnist"), CPU["mnist"])
CPU["nmnist"] = CPU["mnist"] | {"network": "16C3-32C3-MP2-32C3-64C3-MP2-64C3-AP8-10",
                                "timesteps": 10, "limit": None, "batch_size": 50}  # fmt: skip

# The authors' settings: VGG-16 at T = 4, 300 epochs of training and 150 of tuning.
PAPER: dict[str, Any] = {
    "network": "vgg16", "timesteps": 4, "augment": "autoaugment", "validation": 0.0,
    "batch_size": 128, "train_epochs": 300, "tune_epochs": 150, "ways": tuple(WAYS),
}  # fmt: skip
PAPERS: dict[str, dict[str, Any]] = {
    "digits": CPU["digits"] | {"train_epochs": 300, "tune_epochs": 150},
    "mnist": CPU["mnist"] | {"limit": None, "train_epochs": 300, "tune_epochs": 150},
    "cifar10": PAPER,
    "cifar100": PAPER,
    "tiny_imagenet": PAPER | {"augment": "crop-flip"},
    "dvs_cifar10": PAPER | {"network": "vggsnn", "timesteps": 10, "augment": "events",
                            "batch_size": 64},
}  # fmt: skip

SMOKE: dict[str, Any] = {
    "network": "6C3-8C3-MP2-8C3-AP4-10", "ratios": (0.5,), "limit": 300, "batch_size": 50,
    "train_epochs": 2, "tune_epochs": 1, "calibration_batches": 2, "calibration_batch_size": 50,
}  # fmt: skip


def defaults(preset: str, dataset: str | None) -> Config:
    """Return the defaults of a preset for a data set."""
    dataset = dataset or "digits"
    options = SMOKE if preset == "smoke" else (CPU if preset == "cpu" else PAPERS).get(dataset, {})
    return replace(Config(), preset=preset, dataset=dataset, **COMMON | options)


def main() -> None:
    """Run the experiment."""
    config = skeleton.parse(defaults, "qp_snn")
    problems = [load(replace(config, seed=config.seed + more)) for more in config.seeds]
    run = skeleton.Run("qp_snn", config)
    rows = []
    for problem in problems:
        stages = QpStages(run, problem)
        before, after = stages.go()
        rows += stages.rows
    names = list(dict.fromkeys(row["name"] for row in rows))
    means = {n: mean(row["accuracy"] for row in rows if row["name"] == n) for n in names}
    run.write_results(rows, mean_accuracy=means)
    lines = "; ".join(f"{name} {100 * value:.2f} %" for name, value in means.items())
    stages.draw(before, after, rows[-1]["name"])
    found = problem.data
    notes = f" ({found.notes})" if found.notes else ""
    run.write_page(
        f"QP-SNN on {config.dataset}",
        f"{config.network}, T = {config.timesteps}, {config.bits} bits, "
        f"{len(found.train.labels):,} training and {len(found.test.labels):,} test images{notes}. "
        f"Mean accuracy over {len(problems)} seed{'s' * (len(problems) > 1)}: {lines}.",
    )


if __name__ == "__main__":
    skeleton.main(main)
