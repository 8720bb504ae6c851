"""Which of the swept networks is the product, and the fronts that all of them make."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from experiments.common import Problem, summary_of
from experiments.sweep.config import Config
from jaxsnn import sweep, train
from jaxsnn.compress import schedules
from jaxsnn.methods import Result, Trained
from jaxsnn.methods.result import CONTROL
from jaxsnn.metrics import Comparison, Report
from jaxsnn.report.comparisons import Picture, plot_front
from jaxsnn.report.plots import plot_heat
from jaxsnn.sweep.grid import point_name

BASELINES = ("dense", CONTROL)
COSTS = {"weight_bytes": "bytes of weights", "synops": "SynOps of one image"}


class Chosen(NamedTuple):
    """The product, and where it stands among the others."""

    name: str  # of its row
    within_tolerance: bool
    validation: dict[str, float]  # name of a row -> accuracy on held-out images
    fronts: dict[str, Any]  # cost -> names on the Pareto front, and its hypervolume


class Tried(NamedTuple):
    """What a sweep or a search hands over."""

    networks: dict[str, Trained]  # name of a row -> a network that may be chosen
    accuracies: dict[str, float]  # name of a row -> its accuracy on held-out images
    pictures: Callable[[Result, Chosen], list[Picture]]
    extra: dict[str, Any]  # further fields of results.json


def lanes(whole: Result) -> list[Report]:
    """Return the rows of the swept networks."""
    return [row for row in whole.report.rows if row.name not in (*BASELINES, "compressed")]


def choose(
    config: Config, problem: Problem, whole: Result, accuracies: Mapping[str, float]
) -> Chosen:
    """Return the smallest network that lost no more than the tolerance on held-out images.

    If all lost more, it is the most accurate one. The accuracies on held-out images are those of
    the rows, by name; the baselines are evaluated here.
    """
    split = problem.data.validation
    validation = {
        name: accuracies[name]
        if name in accuracies
        else train.evaluate(each.task, each.network, split).accuracy
        for name, each in whole.networks.items()
    }
    rows = lanes(whole)

    def is_near(row: Report) -> bool:
        tolerance = config.sweep.tolerance
        return schedules.is_accepted(validation["dense"], validation[row.name], tolerance)

    near = [row for row in rows if is_near(row)]
    if near:
        best = min(near, key=lambda row: (row.weight_bytes or 0, -validation[row.name]))
    else:
        best = max(rows, key=lambda row: (validation[row.name], -(row.weight_bytes or 0)))
    return Chosen(best.name, bool(near), validation, fronts(problem, whole))


def fronts(problem: Problem, whole: Result) -> dict[str, Any]:
    """Return for each cost the Pareto front of the lanes, and its share of what it could be.

    The hypervolume is that between nothing and the dense network's cost, chance and 1, as a share
    of this rectangle.
    """
    dense, rows = whole.report.rows[0], lanes(whole)
    accuracies = [row.accuracy for row in rows]
    chance, found = 1 / problem.data.num_classes, {}
    for cost in COSTS:
        costs, most = [getattr(row, cost) for row in rows], getattr(dense, cost)
        area = sweep.hypervolume(costs, accuracies, (most, chance))
        front = [rows[i].name for i in sweep.pareto(costs, accuracies)]
        found[cost] = {"front": front, "hypervolume": area / (most * (1 - chance))}
    return found


def with_product(whole: Result, chosen: Chosen) -> Result:
    """Return the result with the chosen network as its last row, "compressed".

    The layers of all lanes would fill a book; only the dense and the chosen network keep theirs.
    """
    rows = []
    for row in whole.report.rows:
        on = [cost for cost, each in chosen.fronts.items() if row.name in each["front"]]
        facts = {"validation_accuracy": chosen.validation[row.name], "on_front": on}
        rows.append(replace(row, extra={**row.extra, **facts}))
    best = next(row for row in rows if row.name == chosen.name)
    facts = {"chosen": chosen.name, "within_tolerance": chosen.within_tolerance}
    product = replace(best, name="compressed", extra={**best.extra, **facts})
    trained = whole.networks[chosen.name]
    return replace(
        whole,
        network=trained.network,
        task=trained.task,
        networks={**whole.networks, "compressed": trained},
        report=Comparison((*rows, product)),
    )


def pictures(swept: sweep.Swept) -> Callable[[Result, Chosen], list[Picture]]:
    """Return what draws the fronts of a grid, and the maps over sparsity and bits."""
    points = {point_name(p): p for p in ({a: row[a] for a in swept.points} for row in swept.rows)}

    def of(whole: Result, chosen: Chosen) -> list[Picture]:
        dense, rows = whole.report.rows[0], lanes(whole)
        names = [row.name for row in rows]
        front = partial(
            plot_front,
            {title: [getattr(row, cost) for row in rows] for cost, title in COSTS.items()},
            [row.accuracy or 0.0 for row in rows],
            names=names,
            samples=[row.samples for row in rows],
            groups=[f"{points[name]['bits']} bits" for name in names],
            dense=([getattr(dense, cost) for cost in COSTS], dense.accuracy or 0.0),
            chosen=names.index(chosen.name),
        )
        flat = [row.to_row() | points[row.name] for row in rows]
        maps = {"accuracy": "test accuracy, %", "weight_bytes": "bytes of weights"}
        heat = partial(plot_heat, flat, "sparsity", "bits", maps)
        return [("front", front), ("heat", heat)]

    return of


def said(found: dict[str, Any]) -> str:
    """Return the fronts in words."""
    return "; ".join(
        f"against {cost.replace('_', ' ')}: {len(front['front'])} networks, hypervolume "
        f"{front['hypervolume']:.4f}"
        for cost, front in found.items()
    )


def summary(config: Config, problem: Problem, chosen: Chosen) -> str:
    """Return the paragraph above the table."""
    return (
        f"{summary_of(problem, config.network)} {len(set(chosen.validation) - set(BASELINES))} "
        f"configurations. Fronts: {said(chosen.fronts)}. The row compressed is {chosen.name}."
    )
