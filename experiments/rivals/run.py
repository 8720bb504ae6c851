"""What `experiments.rivals` does: a dense network for each seed, and every way of pruning it."""

from statistics import mean, stdev

import experiments.rivals
from experiments import common
from experiments.common import changed
from experiments.rivals.config import PRESETS, Config
from jaxsnn.errors import UserError
from jaxsnn.methods import Result, Trained, admm, gradual
from jaxsnn.methods.result import CONTROL


def run(config: Config) -> None:
    """Train and prune the networks of all seeds, report."""
    method, rivals = config.pruning, config.rivals
    if not rivals.seeds or not rivals.rivals:
        raise UserError("--seeds and --rivals need at least one value each")
    seeds = [method.seed + seed for seed in rivals.seeds]
    problems = [common.load(config, seed=seed, batch_size=method.batch_size) for seed in seeds]
    admm.sparsities(problems[0].net, method.sparsity, method.allocation)
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
        samples=problems[0].data.test.images,
        compared=rivals.rivals[0],
        mean_accuracy=means,
        spread_of_accuracy=spread,
    )
    print(f"\n{summary}")


def _compare(config: Config, problem: common.Problem, run: common.Run) -> Result:
    """Return the networks of one seed; all train for as many epochs from one dense network."""
    method, rivals = config.pruning, config.rivals
    options, fit = method.admm(), run.within(f"{method.seed}")
    dense = common.train_dense(fit, problem, config.dense, method)
    start = (dense, problem.task, problem.data)
    networks = {"dense": dense}
    if method.control:
        networks[CONTROL] = admm.control(*start, options, fit=fit)
    if "ADMM" in rivals.rivals:
        networks["ADMM"] = admm.prune(*start, options, fit=fit)[0]
    if "one-shot" in rivals.rivals:
        networks["one-shot"] = admm.one_shot(*start, options, fit=fit)[0]
    if "gradual" in rivals.rivals:
        along = gradual.Options(
            sparsity=method.sparsity, allocation=method.allocation, seed=method.seed,
            epochs=method.pull_epochs + method.retrain_epochs, end=rivals.ramp_end,
            every=rivals.ramp_every, learning_rate=method.learning_rate,
            batch_size=method.batch_size,
        )  # fmt: skip
        networks["gradual"] = gradual.prune(*start, along, fit=fit)
    trained = {name: Trained(net, problem.task) for name, net in networks.items()}
    return Result.of(trained, problem.data, seed=method.seed)


EXPERIMENT = common.Experiment("rivals", experiments.rivals.__doc__, Config, PRESETS, run)
