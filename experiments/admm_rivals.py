"""ADMM pruning against one-shot magnitude pruning, at very few connections, over several seeds.

The claim (after Deng et al., arXiv 1911.00822): pulling the weights towards a sparse set before
pruning keeps more accuracy than cutting the small ones at once. Both start from the same dense
network, keep the same number of weights in each layer, and train for the same number of epochs.

    python -m experiments.admm_rivals --preset cpu --dataset mnist --data-dir DIR
"""

from dataclasses import dataclass, replace
from statistics import mean

from experiments import admm
from experiments.admm_stages import AdmmConfig, AdmmStages, load
from experiments.common import skeleton
from jaxsnn.errors import UserError


@dataclass(frozen=True)
class Config(AdmmConfig):
    """Options of `experiments.admm_rivals`."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the networks that are trained and pruned; --seed is not used."""


def defaults(preset: str, dataset: str | None) -> Config:
    """Return the defaults of `experiments.admm`, but 2 % left, and fewer images on a CPU."""
    base = vars(admm.defaults(preset, dataset))
    options = {name: value for name, value in base.items() if name != "ways"}
    if preset == "smoke":
        return Config(**options | {"seeds": (0,)})
    limit = 20_000 if preset == "cpu" and dataset == "mnist" else options["limit"]
    return Config(**options | {"sparsity": 0.98, "limit": limit})


def main() -> None:
    """Run the experiment."""
    config = skeleton.parse(defaults, "admm_rivals")
    if not config.seeds:
        raise UserError("--seeds needs at least one seed")
    problems = [load(replace(config, seed=seed)) for seed in config.seeds]
    run = skeleton.Run("admm_rivals", config)
    rows = []
    for problem in problems:
        seed = problem.config.seed
        stages = AdmmStages(run, problem)
        dense = stages.dense(f"dense {seed}")
        stages.add_row("dense", dense, f"dense-{seed}")
        pulled, _ = stages.prune(dense, config.sparsity, f"ADMM {seed}")
        stages.add_row("ADMM", pulled, f"ADMM-{seed}")
        cut, _ = stages.prune_one_shot(dense, config.sparsity, f"one-shot {seed}")
        stages.add_row("one-shot", cut, f"one-shot-{seed}")
        rows += stages.rows
    names = ("dense", "ADMM", "one-shot")
    means = {name: mean(row["accuracy"] for row in rows if row["name"] == name) for name in names}
    run.write_results(rows, mean_accuracy=means)
    lines = [f"{name} {100 * value:.2f} %" for name, value in means.items()]
    summary = f"Mean test accuracy over seeds {', '.join(map(str, config.seeds))}: " + ", ".join(
        lines
    )
    print(f"\n{summary}")
    stages.draw(dense, pulled, "ADMM")
    run.write_page(f"ADMM against one-shot pruning on {config.dataset}", summary)


if __name__ == "__main__":
    skeleton.main(main)
