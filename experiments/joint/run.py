"""Train a dense network, compress it stage by stage, draw what each stage cost and gained."""

from functools import partial

from experiments import common
from experiments.joint import __doc__ as about
from experiments.joint.config import PRESETS, Config
from jaxsnn.methods import joint
from jaxsnn.report import plots


def run(config: Config) -> None:
    """Run the experiment."""
    m = config.method
    problem = common.load(config, seed=m.seed, batch_size=m.batch_size, **common.QP_SNN)
    joint.check(problem.net, problem.task, problem.data, m)
    there = common.Run("joint", config)
    dense = common.train_dense(there.fit, problem, config.dense, m)
    result = joint.compress(dense, problem.task, problem.data, m, fit=there.fit)
    stages = [row.to_row() for row in result.report.rows if "stage" in row.extra]
    found, names = problem.data, ", ".join(row["stage"] for row in stages)
    there.finish(
        result,
        title=f"A spiking network for {found.name}, compressed in every way",
        summary=f"{common.summary_of(problem, config.network)} Stages in order: {names}; the last "
        "one's network is the row compressed.",
        samples=found.test.images,
        more=[("stages", partial(plots.plot_stages, stages))],
        **result.found,
    )


EXPERIMENT = common.Experiment("joint", about, Config, PRESETS, run)
