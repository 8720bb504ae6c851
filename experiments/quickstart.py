"""Train a small spiking network on embedded handwritten digits, and make it much smaller.

The dense network is trained, then compressed jointly by ADMM (Deng et al., arXiv 1911.00822): few
connections, few bits, few spikes. No download; some minutes on a laptop.

    python -m experiments.quickstart
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax

from experiments import common
from experiments.common import (
    DataOptions,
    DenseOptions,
    EngineOptions,
    NetworkOptions,
    ProcessOptions,
    RunOptions,
    TaskOptions,
)
from jaxsnn import data
from jaxsnn.methods import Result, admm
from jaxsnn.network import Network
from jaxsnn.train import Fit
from jaxsnn.train.rehearsal import rehearsed


@dataclass(frozen=True)
class Config:
    """Options of `experiments.quickstart`."""

    run: RunOptions = RunOptions()
    data: DataOptions = DataOptions()
    task: TaskOptions = TaskOptions()
    network: NetworkOptions = NetworkOptions()
    engine: EngineOptions = EngineOptions()
    processes: ProcessOptions = ProcessOptions()
    dense: DenseOptions = DenseOptions()
    method: admm.Options = admm.Options()


DIGITS: dict[str, Any] = {
    "start": "firing", "batch_size": 32, "dense_epochs": 30, "dense_learning_rate": 2e-3,
    "order": "together", "learning_rate": 3e-3, "pull_epochs": 20, "retrain_epochs": 40,
    "sparsity": 0.9, "spike_weight": 0.01, "constant_bits": 8,
}  # fmt: skip
SMOKE = DIGITS | {
    "network": "8C3-AP2-16-{classes}", "timesteps": 2, "limit": 300, "dense_epochs": 2,
    "pull_epochs": 1, "retrain_epochs": 1, "sparsity": 0.8,
}  # fmt: skip
PRESETS: common.Presets = {
    "smoke": dict.fromkeys(data.names(), SMOKE)
    | dict.fromkeys(("shd", "ssc"), SMOKE | {"network": "16R-{classes}"}),
    "cpu": {"digits": DIGITS},
}


def run(config: Config) -> None:
    """Train the dense network, compress it, report."""
    method = config.method
    here = config
    if jax.process_count() == 1:  # batches this small gain nothing by a second device
        engine = replace(config.engine, devices=config.engine.devices or 1)
        here = replace(config, engine=engine)
    problem = common.load(here, seed=method.seed, batch_size=method.batch_size)
    admm.sparsities(problem.net, method.sparsity, method.allocation)  # refuses what empties a layer
    run = common.Run("quickstart", config)

    def compress(net: Network, fit: Fit) -> Result:
        return admm.compress(net, problem.task, problem.data, method, fit=fit)

    with rehearsed(partial(compress, problem.net)):
        dense = common.train_dense(run.fit, problem, config.dense, method)
    run.finish(
        compress(dense, run.fit),
        title=f"A spiking network for {config.run.dataset}, compressed",
        summary=common.summary_of(problem, config.network),
        samples=problem.data.test,
    )


EXPERIMENT = common.Experiment("quickstart", __doc__, Config, PRESETS, run)

if __name__ == "__main__":
    common.main(EXPERIMENT)
