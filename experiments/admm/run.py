"""What `experiments.admm` does: one dense network, and every way from it."""

import experiments.admm
from experiments import common
from experiments.admm.config import PRESETS, Config
from jaxsnn.methods import Result, Trained, admm
from jaxsnn.network import Network
from jaxsnn.options import replaced


def run(config: Config) -> None:
    """Train the dense network, go the ways that were asked for, report."""
    method, ways = config.method, config.ways.ways
    problem = common.load(config, seed=method.seed, batch_size=method.batch_size)
    for sparsity in (method.sparsity, config.ways.prune_sparsity):
        admm.sparsities(problem.net, sparsity, method.allocation)  # refuses what empties a layer
    run = common.Run("admm", config)
    dense = common.train_dense(run.fit, problem, config.dense.dense_epochs, method)
    networks = {"dense": Trained(dense, problem.task)}
    for way in (way for way in Config().ways.ways if way in ways):
        name, network = go(way, config, run, problem, dense)
        networks[name] = Trained(network, problem.task)
    run.finish(
        Result.of(networks, problem.data, seed=method.seed),
        title=f"ADMM compression on {config.run.dataset}",
        summary=common.summary_of(problem, config.network.network)
        + " Every compressed network starts from the dense one.",
        samples=problem.data.test.images,
    )


def go(
    way: str, config: Config, run: common.Run, problem: common.Problem, dense: Network
) -> tuple[str, Network]:
    """Return the name of a way's row, and its network; the joint way's is the final product."""
    method, alone = config.method, config.ways
    problem_of = (dense, problem.task, problem.data)
    if way == "joint":
        result = admm.compress(*problem_of, method, fit=run.within("joint"))
        return "compressed", result.network
    if way == "activity":
        chosen = replaced(method, retrain_epochs=alone.activity_epochs)
        return "quiet", admm.quieten(*problem_of, chosen, fit=run.fit)
    chosen = replaced(
        method, spike_weight=0.0, sparsity=alone.prune_sparsity, levels=alone.quantize_levels,
        bits=alone.quantize_bits,
    )  # fmt: skip
    if way == "prune":
        return "pruned", admm.prune(*problem_of, chosen, fit=run.fit)[0]
    if way == "one-shot":
        return "pruned one-shot", admm.one_shot(*problem_of, chosen, fit=run.fit)[0]
    return alone.quantize_levels, admm.quantize(*problem_of, chosen, fit=run.fit)


EXPERIMENT = common.Experiment("admm", experiments.admm.__doc__, Config, PRESETS, run)
