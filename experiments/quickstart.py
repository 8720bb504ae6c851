"""Train a small spiking network on embedded handwritten digits, and make it much smaller.

The dense network is trained, then compressed jointly by ADMM (Deng et al., arXiv 1911.00822): few
connections, few bits, few spikes. No download; some minutes on a laptop.

    python -m experiments.quickstart
"""

from dataclasses import dataclass, replace

from experiments.admm_stages import AdmmConfig, AdmmStages, load
from experiments.common import skeleton


@dataclass(frozen=True)
class Config(AdmmConfig):
    """Options of `experiments.quickstart`."""


def defaults(preset: str, dataset: str | None) -> Config:
    """Return the defaults of a preset; they are made for the digits."""
    base = Config(
        preset=preset, dataset=dataset or "digits", batch_size=32, learning_rate=2e-3,
        dense_epochs=60, pull_epochs=40, retrain_epochs=60, joint_sparsity=0.9, spike_weight=0.01,
    )  # fmt: skip
    if preset == "smoke":
        return replace(
            base, network="8C3-AP2-16-10", timesteps=2, limit=300, dense_epochs=2, pull_epochs=1,
            retrain_epochs=1, joint_sparsity=0.8,
        )  # fmt: skip
    return base


def main() -> None:
    """Run the experiment."""
    config = skeleton.parse(defaults, "quickstart")
    problem = load(config)
    run = skeleton.Run("quickstart", config)
    stages = AdmmStages(run, problem)
    dense = stages.dense()
    stages.add_row("dense", dense)
    compressed = stages.joint(dense)
    stages.add_row("compressed", compressed)
    run.write_results(stages.rows)
    stages.draw(dense, compressed, "compressed")
    run.write_page(
        f"A spiking network for {config.dataset}, compressed",
        f"{config.network}, T = {config.timesteps}; {len(problem.data.train.labels):,} training "
        f"and {len(problem.data.test.labels):,} test images.",
    )


if __name__ == "__main__":
    skeleton.main(main)
