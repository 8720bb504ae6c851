"""What `experiments.rivals` does: a dense network for each seed, and every way of pruning it."""

from statistics import mean, stdev

import experiments.rivals
from experiments import common
from experiments.common import changed
from experiments.rivals.config import PRESETS, Config, Rivals
from jaxsnn.methods import Result, Trained, admm, gradual
from jaxsnn.methods.result import CONTROL
from jaxsnn.network import Network


def run(config: Config) -> None:
    """Train and prune the networks of all seeds, report."""
    method, rivals = config.pruning, config.rivals
    seeds = [method.seed + seed for seed in rivals.seeds]
    problems = [common.load(config, seed=seed, batch_size=method.batch_size) for seed in seeds]
    for sparsity in method.sparsity:
        admm.sparsities(problems[0].net, sparsity, method.allocation)
    run = common.Run("rivals", config)
    results = [
        run.pack(_compare(changed(config, {"seed": seed}), problem, run), several=len(problems) > 1)
        for seed, problem in zip(seeds, problems, strict=True)
    ]
    accuracies = {
        name: [result.report.rows[i].accuracy or 0.0 for result in results]
        for i, name in enumerate(results[0].networks)
    }
    means = {name: mean(values) for name, values in accuracies.items()}
    spread = {name: stdev(v) if len(v) > 1 else None for name, v in accuracies.items()}
    said = ", ".join(f"{name} {100 * value:.2f} %" for name, value in means.items())
    summary = f"Mean test accuracy over seeds {', '.join(map(str, seeds))}: {said}."
    run.finish(
        *results,
        title=f"ADMM against magnitude pruning on {config.run.dataset}",
        summary=f"{common.summary_of(problems[0], config.network)} {summary}",
        samples=problems[0].data.test,
        compared=row_of(rivals.rivals[0], method.sparsity[-1]),
        mean_accuracy=means,
        spread_of_accuracy=spread,
    )
    print(f"\n{summary}")


def row_of(rival: str, sparsity: float) -> str:
    """Return the name of a row.

    >>> row_of("ADMM", 0.98)
    'ADMM 2 %'
    """
    return f"{rival} {100 * (1 - sparsity):g} %"


def _compare(config: Config, problem: common.Problem, run: common.Run) -> Result:
    """Return the networks of one seed; all train for as many epochs from one dense network."""
    method, fit = config.pruning, run.within(f"{config.pruning.seed}")
    dense = common.train_dense(fit, problem, config.dense, method)
    networks = {"dense": dense}
    if method.control:
        epochs = method.pull_epochs + method.retrain_epochs
        networks[CONTROL] = admm.control(
            dense, problem.task, problem.data, method.admm(0.0), epochs=epochs, fit=fit
        )
    for sparsity in method.sparsity:
        for rival in (rival for rival in Rivals().rivals if rival in config.rivals.rivals):
            name = row_of(rival, sparsity)
            networks[name] = _go(rival, sparsity, config, problem, dense, run)
    trained = {name: Trained(net, problem.task) for name, net in networks.items()}
    return Result.of(trained, problem.data, seed=method.seed, held_out=True)


def _go(
    rival: str,
    sparsity: float,
    config: Config,
    problem: common.Problem,
    dense: Network,
    run: common.Run,
) -> Network:
    """Return what a rival makes of the dense network."""
    method, rivals = config.pruning, config.rivals
    start = (dense, problem.task, problem.data)
    fit = run.within(f"{method.seed} {row_of('at', sparsity)}")
    if rival == "ADMM":
        return admm.prune(*start, method.admm(sparsity), fit=fit)[0]
    if rival == "one-shot":
        return admm.one_shot(*start, method.admm(sparsity), fit=fit)[0]
    along = gradual.Options(
        sparsity=sparsity, allocation=method.allocation, seed=method.seed,
        epochs=method.pull_epochs + method.retrain_epochs, end=rivals.ramp_end,
        every=rivals.ramp_every, learning_rate=method.learning_rate, batch_size=method.batch_size,
    )  # fmt: skip
    return gradual.prune(*start, along, fit=fit)


EXPERIMENT = common.Experiment("rivals", experiments.rivals.__doc__, Config, PRESETS, run)
