"""What `experiments.admm` does: one dense network, and every way from it."""

import experiments.admm
from experiments import common
from experiments.admm.config import PRESETS, Config
from jaxsnn.methods import Result, Trained, admm
from jaxsnn.methods.result import CONTROL
from jaxsnn.network import Network
from jaxsnn.options import replaced


def run(config: Config) -> None:
    """Train the dense network, go the ways that were asked for, report."""
    method, ways = config.method, config.ways.ways
    problem = common.load(config, seed=method.seed, batch_size=method.batch_size)
    for sparsity in (method.sparsity, config.ways.prune_sparsity):
        admm.sparsities(problem.net, sparsity, method.allocation)  # refuses what empties a layer
    run = common.Run("admm", config)
    dense = common.train_dense(run.fit, problem, config.dense, method)
    networks = {"dense": Trained(dense, problem.task)}
    if method.control and ways:
        epochs = max(epochs_of(way, config) for way in ways)
        start = dense, problem.task, problem.data
        longer = admm.control(*start, method, epochs=epochs, fit=run.fit)
        networks[CONTROL] = Trained(longer, problem.task)
    for way in (way for way in Config().ways.ways if way in ways):
        for name, network in go(way, config, run, problem, dense).items():
            networks[name] = Trained(network, problem.task)
    run.finish(
        Result.of(networks, problem.data, seed=method.seed, held_out=True),
        title=f"ADMM compression on {config.run.dataset}",
        summary=common.summary_of(problem, config.network)
        + " Every compressed network starts from the dense one.",
        samples=problem.data.test,
    )


def epochs_of(way: str, config: Config) -> int:
    """Return for how many epochs a way trains; the control has as many as the longest."""
    method = config.method
    if way == "activity":
        return config.ways.activity_epochs
    return admm.epochs_of(method) if way == "joint" else method.pull_epochs + method.retrain_epochs


def go(
    way: str, config: Config, run: common.Run, problem: common.Problem, dense: Network
) -> dict[str, Network]:
    """Return the rows of a way, name -> network; the joint way's is the final product."""
    method, single = config.method, config.ways
    problem_of = (dense, problem.task, problem.data)
    if way == "joint":
        alone = replaced(method, control=False)  # there is one for all ways
        result = admm.compress(*problem_of, alone, fit=run.within("joint"))
        return {"compressed": result.network}
    if way == "activity":
        chosen = replaced(method, retrain_epochs=single.activity_epochs)
        return {
            f"quiet {weight:g}": admm.quieten(
                *problem_of, replaced(chosen, spike_weight=weight), fit=run.within(f"{weight:g}")
            )
            for weight in single.activity_weights
        }
    chosen = replaced(
        method, spike_weight=0.0, sparsity=single.prune_sparsity, levels=single.quantize_levels,
        bits=single.quantize_bits,
    )  # fmt: skip
    if way == "prune":
        return {"pruned": admm.prune(*problem_of, chosen, fit=run.fit)[0]}
    if way == "one-shot":
        return {"pruned one-shot": admm.one_shot(*problem_of, chosen, fit=run.fit)[0]}
    return {single.quantize_levels: admm.quantize(*problem_of, chosen, fit=run.fit)}


EXPERIMENT = common.Experiment("admm", experiments.admm.__doc__, Config, PRESETS, run)
