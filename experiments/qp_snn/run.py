"""What `experiments.qp_snn` does: one dense network, and every way from it."""

import math
from dataclasses import replace
from statistics import mean
from typing import Any

from experiments import common
from experiments.qp_snn import __doc__ as about
from experiments.qp_snn.config import PRESETS, WAYS, Config
from jaxsnn.methods import Result, qp_snn
from jaxsnn.metrics import Comparison
from jaxsnn.network import Network
from jaxsnn.options import replaced
from jaxsnn.train import Fit


def load(config: Config, seed: int) -> tuple[common.Problem, qp_snn.Options]:
    """Return a problem and the options of one seed; every mistake of the user's shows here."""
    method, chosen = replaced(config.method, seed=seed), config.ablation
    batch_size = math.gcd(method.batch_size, method.tune_batch_size or method.batch_size)
    problem = common.load(config, seed=seed, batch_size=batch_size, **common.QP_SNN)
    if chosen.setting is not None:
        classes = problem.data.num_classes
        ratios = qp_snn.ratios(config.network.network, chosen.setting, classes)
        method = replaced(method, ratios=ratios)
    qp_snn.check(problem.net, problem.task, problem.data, method)
    return problem, method


def go(ways: tuple[str, ...], problem: common.Problem, method: qp_snn.Options, fit: Fit) -> Result:
    """Go every way; what two ways share, the dense and a quantized network, is trained once."""
    trained: dict[str, Network] = {}

    def once(*args: Any, name: str, **options: Any) -> Network:
        if name not in trained:
            trained[name] = fit(*args, name=name, **options)
        return trained[name]

    networks, rows = {}, {}
    for way in (way for way in WAYS if way in ways):
        options = replaced(method, **WAYS[way])
        result = qp_snn.compress(problem.net, problem.task, problem.data, options, fit=once)
        for row in result.report.rows:
            name = way if row.name == "compressed" and way != "full" else row.name
            networks[name] = result.networks[row.name]
            rows[name] = replace(row, name=name)
    first, *_, last = networks
    times = common.timed(networks[first], networks[last], problem.data.test.images)
    for name, milliseconds in zip((first, last), times, strict=True):
        extra = {**rows[name].extra, "ms_per_sample": milliseconds}
        rows[name] = replace(rows[name], extra=extra)
    return replace(result, networks=networks, report=Comparison(tuple(rows.values())))


def run(config: Config) -> None:
    """Run the experiment."""
    chosen = config.ablation
    parts = [load(config, config.method.seed + more) for more in chosen.seeds]
    there = common.Run("qp_snn", config)
    several = len(parts) > 1
    results = [
        there.pack(
            go(chosen.ways, *part, there.within(f"seed {part[1].seed}") if several else there.fit),
            several=several,
        )
        for part in parts
    ]
    found = {
        name: mean(result.report.row(name).accuracy or 0.0 for result in results)
        for name in results[0].networks
    }
    means = "; ".join(f"{name} {100 * value:.2f} %" for name, value in found.items())
    there.finish(
        *results,
        title=f"QP-SNN on {config.run.dataset}",
        summary=f"{common.summary_of(parts[0][0], config.network)} Mean accuracy over {len(parts)} "
        f"seed{'s' * several}: {means}.",
        samples=parts[0][0].data.test,
        mean_accuracy=found,
    )


EXPERIMENT = common.Experiment("qp_snn", about, Config, PRESETS, run)
