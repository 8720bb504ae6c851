"""Train a dense network, compress it stage by stage, draw what each stage cost and gained."""

from functools import partial

import optax

from experiments import common
from experiments.joint import __doc__ as about
from experiments.joint.config import PRESETS, Config
from jaxsnn.methods import Trainer, joint
from jaxsnn.report import plots


def run(config: Config) -> None:
    """Run the experiment."""
    m, build = config.method, partial(common.by_name, config.network, width=config.dense.width)
    problem = common.load(config, seed=m.seed, batch_size=m.batch_size, build=build)
    joint.check(problem.net, problem.task, problem.data, m)
    there = common.Run("joint", config)
    trainer, epochs = Trainer(there.fit, problem.data, m.batch_size, m.seed), config.dense
    adam = optax.adam(trainer.cosine(m.learning_rate, epochs.dense_epochs))
    dense = trainer("dense", problem.task, adam, problem.net, epochs.dense_epochs)
    result = joint.compress(dense, problem.task, problem.data, m, fit=there.fit)
    stages = [row.to_row() for row in result.report.rows[1:]]
    found, names = problem.data, ", ".join(row["stage"] for row in stages)
    notes = f" ({found.notes})" if found.notes else ""
    there.finish(
        result,
        title=f"A spiking network for {found.name}, compressed in every way",
        summary=f"{config.network.network}, T = {config.task.timesteps}, "
        f"{len(found.train.labels):,} training and {len(found.test.labels):,} test images{notes}. "
        f"Stages in order: {names}; the last one's network is the row compressed.",
        samples=found.test.images,
        more=[("stages", partial(plots.plot_stages, stages))],
        **result.found,
    )


EXPERIMENT = common.Experiment("joint", about, Config, PRESETS, run)
