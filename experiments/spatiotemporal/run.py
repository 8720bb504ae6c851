"""What `experiments.spatiotemporal` does: one call of the method, its tables and its pictures."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from experiments import common
from experiments.common.converted import load_layout
from experiments.spatiotemporal import __doc__ as about
from experiments.spatiotemporal.config import NETWORKS, PRESETS, Config
from jaxsnn.methods import Result, spatiotemporal
from jaxsnn.report import plots


def run(config: Config) -> None:
    """Run the experiment."""
    method, hybrid, problem = config.method, config.hybrid, load_layout(config, NETWORKS)
    spatiotemporal.check(problem.net, problem.task, problem.data, method, hybrid)
    there = common.Run("spatiotemporal", config)
    result = spatiotemporal.compress(
        problem.net, problem.task, problem.data, method, hybrid=hybrid, fit=there.fit
    )
    found = result.found
    taken = next(each["widths"] for each in found["widths"] if each["taken"])
    noise = found["noise"]
    rows = there.finish(
        result,
        title=f"Spatio-temporal pruning on {config.run.dataset}",
        summary=f"{common.summary_of(problem, config.network)} {summary(result, method)}",
        samples=problem.data.test,
        more=(
            ("dimensions", partial(plots.plot_dimensions, found["explained"], taken)),
            ("noise", partial(plots.plot_noise, noise["sigmas"], noise["accuracy"])),
        ),
        **found,
    )
    print_tables(rows, found)


def summary(result: Result, method: spatiotemporal.Options) -> str:
    """Return what the product is, in a sentence."""
    first, product = result.report.rows[0], result.report.rows[-1]
    accuracies = (100 * row.extra["mean_accuracy"] for row in (first, product))
    before, after = (f"{each:.2f} %" for each in accuracies)
    return (
        f"T from {first.timesteps} to {product.timesteps}, {method.bits} bits; {before} before, "
        f"{after} after; {product.extra['energy_ratio']:.1f} times less energy than the unpruned "
        "ANN."
    )


def print_tables(rows: list[dict[str, Any]], found: Mapping[str, Any]) -> None:
    """Print what the table of rows does not have."""
    for row in rows:
        accuracies = ", ".join(f"{100 * each:.2f}" for each in row["accuracy_draws"])
        print(
            f"{row['name']:>12}: {accuracies} %; E(ann) / E = {row['energy_ratio']:.2f} "
            f"(32-bit integers {row['energy_ratio_int32']:.2f})"
        )
    for name, scales in found["scales"].items():
        taken = next(each["scale"] for each in scales if each["taken"])
        print(f"thresholds of the {name} network times {taken:g}")
    for control in found["controls"]:
        ways = (f"{way} {100 * control[way]:.2f} %" for way in ("gradual", "direct", "not trained"))
        print(f"T = {control['timesteps']}: {', '.join(ways)}")
    bits = (f"{each['bits']}: {100 * each['accuracy']:.2f} %" for each in found["quantization"])
    print(f"bits {', '.join(bits)}")
    noise = found["noise"]
    print("noise    " + "".join(f"{sigma:>8g}" for sigma in noise["sigmas"]))
    for name, accuracy in noise["accuracy"].items():
        print(f"{name:>8} " + "".join(f"{100 * each:8.2f}" for each in accuracy))


EXPERIMENT = common.Experiment("spatiotemporal", about, Config, PRESETS, run)
