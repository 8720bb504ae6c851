"""What `experiments.spike_thrift` does: one call of the method, its tables and its page."""

from collections.abc import Mapping
from typing import Any

from experiments import common
from experiments.common.converted import load_layout
from experiments.spike_thrift import __doc__ as about
from experiments.spike_thrift.config import PRESETS, Config
from jaxsnn import export, models
from jaxsnn.errors import UserError
from jaxsnn.methods import Result, spike_thrift
from jaxsnn.network import Network


def load(config: Config) -> tuple[common.Problem, Network | None]:
    """Return the problem and the meta-model, if it has a file; every mistake shows here."""
    name, fc = config.network.network, config.meta.fc
    published = models.spike_thrift_network(name, fc)
    if published is None and fc != "single":
        raise UserError(f"--fc {fc} is for vgg16 and vgg11, not for {name!r}")
    problem = load_layout(config, {} if published is None else {name: published})
    path = config.meta.teacher
    teacher = None if path is None else export.load(path).network
    spike_thrift.check(*_problem(problem), config.method, config.hybrid, teacher)
    return problem, teacher


def run(config: Config) -> None:
    """Run the experiment."""
    problem, teacher = load(config)
    there = common.Run("spike_thrift", config)
    result = spike_thrift.compress(
        *_problem(problem), config.method, hybrid=config.hybrid, teacher=teacher, fit=there.fit
    )
    rows = there.finish(
        result,
        title=f"Spike-Thrift on {config.run.dataset}",
        summary=f"{common.summary_of(problem, config.network)} {summary(result)}",
        samples=problem.data.test,
        found=result.found,
    )
    print_tables(rows, result.found)


def _problem(problem: common.Problem) -> tuple[Any, Any, Any]:
    return problem.net, problem.task, problem.data


def summary(result: Result) -> str:
    """Return what the product is, in a sentence."""
    first, product = result.report.rows[0], result.report.rows[-1]
    extra, spikes = product.extra, result.found["spikes_of_dense"]
    return (
        f"{extra['compression']:.1f} times fewer weights; "
        f"{100 * first.extra['mean_accuracy']:.2f} % dense, {100 * extra['mean_accuracy']:.2f} % "
        f"sparse, with {spikes:.2f} of its spikes; {extra['energy_ratio']:.1f} times less energy "
        f"than the ANN with the same weights ({extra['energy_ratio_int32']:.1f} with 32-bit "
        "integers)."
    )


def print_tables(rows: list[dict[str, Any]], found: Mapping[str, Any]) -> None:
    """Print what the table of rows does not have."""
    for row in rows:
        accuracies = ", ".join(f"{100 * each:.2f}" for each in row["accuracy_draws"])
        print(
            f"{row['name']:>16}: {accuracies} %; {row['compression']:.1f} times fewer weights; "
            f"E(ann) / E = {row['energy_ratio']:.2f} (32-bit integers "
            f"{row['energy_ratio_int32']:.2f})"
        )
    ways = ", ".join(f"{way} {100 * x:.2f} %" for way, x in found["ann_accuracy"].items())
    print(f"sparse ANNs: {ways}")
    tuned = ", ".join(f"{way} {100 * x:.2f} %" for way, x in found["tuned_accuracy"].items())
    print(f"made to spike and tuned: {tuned}")
    lost, recovered = (100 * found[x] for x in ("lost_by_conversion", "recovered_by_tuning"))
    print(f"conversion loses {lost:.2f} points, tuning brings {recovered:.2f} back")
    print(
        f"the sparse network fires {found['spikes_of_dense']:.3f} of the dense one's spikes and is "
        f"{100 * found['below_dense']:.2f} points below it"
    )


EXPERIMENT = common.Experiment("spike_thrift", about, Config, PRESETS, run)
