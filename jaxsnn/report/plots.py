"""Pictures of a run, each from plain data to one PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxsnn import tree
from jaxsnn.errors import UserError
from jaxsnn.metrics.columns import factor
from jaxsnn.metrics.report import Report
from jaxsnn.report.figures import BASELINE, COLOURS, legend, lend_figure, note
from jaxsnn.report.raster import plot_raster
from jaxsnn.report.results import as_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "Log",
    "plot_accuracy_over_time",
    "plot_curves",
    "plot_dimensions",
    "plot_histograms",
    "plot_layers",
    "plot_noise",
    "plot_raster",
    "plot_residuals",
    "plot_stages",
]

Log = Sequence[Mapping[str, Any]]  # rows of metrics.jsonl, in order


def plot_curves(log: Log, path: str | Path) -> None:
    """Draw accuracy, loss and spikes per neuron and step over the epochs, phases shaded.

    Args:
      log: rows of `metrics.jsonl`, in order; a curve is drawn for each of `accuracy`,
        `validation_accuracy`, `loss` and `spike_rate` that some row has.
      path: the PNG to write.
    """
    panels = {
        "accuracy": {"accuracy": "training", "validation_accuracy": "validation"},
        "loss": {"loss": "training", "validation_loss": "validation"},
        "spike rate": {"spike_rate": "training"},
    }
    with lend_figure(path, 7.6, 5.6) as figure:
        axes = figure.subplots(len(panels), 1, sharex=True)
        for panel, (label, curves) in zip(axes, panels.items(), strict=True):
            for colour, (field, name) in zip(COLOURS, curves.items(), strict=False):
                _line(panel, log, field, label=name, color=colour)
            panel.set_ylabel(label)
            _shade_phases(panel, log)
            if len(panel.get_legend_handles_labels()[0]) > 1:
                legend(panel)
        axes[2].set_ylim(bottom=0)
        _name_phases(axes[0], log)
        _epoch_axis(axes[-1], len(log))


def plot_residuals(log: Log, path: str | Path) -> None:
    """Draw how far each leaf is from its set (primal) and how far the set moved (dual).

    Args:
      log: rows of `metrics.jsonl`; fields `primal/LEAF` and `dual/LEAF` are drawn.
      path: the PNG to write.

    Raises:
      UserError: if no row has a residual.
    """
    leaves = list(dict.fromkeys(f[7:] for row in log for f in row if f.startswith("primal/")))
    if not leaves:
        raise UserError("no field primal/LEAF in the log: there are no residuals to plot")
    rows = [row for row in log if any(f"primal/{leaf}" in row for leaf in leaves)]
    with lend_figure(path, 7.6, 4.4) as figure:
        axes = figure.subplots(2, 1, sharex=True)
        for panel, kind in zip(axes, ("primal", "dual"), strict=True):
            for i, leaf in enumerate(leaves):
                dashes = "-" if i < len(COLOURS) else ":"
                style = {"color": COLOURS[i % len(COLOURS)], "ls": dashes, "label": leaf}
                _line(panel, rows, f"{kind}/{leaf}", positive=True, **style)
            panel.set_yscale("log")
            panel.set_ylabel(f"{kind} residual")
            _shade_phases(panel, rows)
        legend(axes[0])
        _name_phases(axes[0], rows)
        _epoch_axis(axes[-1], len(rows))


def plot_layers(rows: Sequence[Report | Mapping[str, Any]], path: str | Path) -> None:
    """Draw density, bits and spike rate of each layer, networks side by side.

    Args:
      rows: the networks, the baseline first; eight or fewer read well.
      path: the PNG to write.
    """
    rows = as_rows(rows)
    measures = {"density": "density", "bits": "bits per weight", "rate": "spikes / neuron / step"}
    drawn = [
        x for row in rows for x in row["layers"] if any(x.get(f) is not None for f in measures)
    ]
    layers = list(dict.fromkeys(layer["name"] for layer in drawn))
    height = 0.8 / len(rows)
    with lend_figure(path, 8.6, 1.2 + len(layers) * max(0.42, 0.16 * len(rows))) as figure:
        axes = figure.subplots(1, len(measures), sharey=True)
        for i, row in enumerate(rows):
            of = {layer["name"]: layer for layer in row["layers"]}
            colour = BASELINE if i == 0 else COLOURS[(i - 1) % len(COLOURS)]
            places = np.arange(len(layers)) + (i - (len(rows) - 1) / 2) * height
            for panel, field in zip(axes, measures, strict=True):
                values = [of.get(layer, {}).get(field) for layer in layers]
                known = [(p, v) for p, v in zip(places, values, strict=True) if v is not None]
                style = {"height": 0.9 * height, "color": colour, "label": row["name"]}
                panel.barh([p for p, _ in known], [v for _, v in known], **style)
                for place, value in known:
                    note(panel, f"{value:.3g}", (value, place), (3, 0), fontsize=7, va="center")
        for panel, label in zip(axes, measures.values(), strict=True):
            panel.set_title(label)
            panel.grid(axis="y", visible=False)
            panel.margins(x=0.18)
            panel.set_xlim(left=0)
            panel.tick_params(axis="y", length=0)
        axes[0].set_yticks(range(len(layers)), layers)
        axes[0].invert_yaxis()
        legend(axes[-1])


def plot_histograms(before: Any, after: Any, path: str | Path, *, where: str = "*/kernel") -> None:
    """Draw the weights of each layer before and after compression, zeros left out.

    Args:
      before: parameters of the baseline, nested dictionary.
      after: parameters of the compressed network, with the same names.
      path: the PNG to write.
      where: pattern of the leaves to draw.
    """
    trees = [tree.named_leaves(each) for each in (before, after)]
    names = list(tree.match({where: True}, after))
    with lend_figure(path, 7.6, 0.7 + 1.25 * len(names)) as figure:
        axes = figure.subplots(len(names), 2, sharex="row", squeeze=False)
        for name, panels in zip(names, axes, strict=True):
            pairs = zip(panels, trees, (BASELINE, COLOURS[0]), strict=True)
            for panel, leaves, colour in pairs:
                leaf = np.asarray(leaves[name], np.float32).reshape(-1)
                kept = leaf[leaf != 0]
                values, counts = np.unique(kept, return_counts=True)
                if values.size <= 32:  # on a grid: one bar for each level
                    panel.vlines(values, 0, counts, color=colour, lw=2.5)
                else:
                    panel.hist(kept, bins=60, color=colour)
                panel.set_title(f"{name}: {1 - kept.size / leaf.size:.1%} zero", fontsize=8)
                panel.set_ylim(bottom=0)
                panel.margins(x=0.04)
        axes[0, 0].annotate("before", (0, 1.28), xycoords="axes fraction", weight="bold")
        axes[0, 1].annotate("after", (0, 1.28), xycoords="axes fraction", weight="bold")
        figure.supylabel("number of weights", fontsize=9)


def plot_accuracy_over_time(series: Mapping[str, Any], path: str | Path) -> None:
    """Draw the accuracy of a decision after 1, 2, ..., T time steps.

    A network of one step beside longer ones, such as an ANN, is a line across.

    Args:
      series: network -> accuracies `[T]` in [0, 1], the baseline first.
      path: the PNG to write.
    """
    longest = max(map(len, series.values()))
    with lend_figure(path, 6.6, 3.0) as figure:
        panel = figure.subplots()
        for i, (name, values) in enumerate(series.items()):
            colour = BASELINE if i == 0 else COLOURS[(i - 1) % len(COLOURS)]
            if len(values) == 1 < longest:
                panel.axhline(float(values[0]), color=colour, ls="--", label=name)
                continue
            steps = np.arange(1, len(values) + 1)
            panel.plot(steps, np.asarray(values), color=colour, marker="o", ms=3.5, label=name)
        panel.set_xlabel("time steps")
        panel.set_ylabel("accuracy")
        panel.locator_params(axis="x", integer=True)
        legend(panel)


def plot_stages(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draw what each stage of a pipeline cost in accuracy, and by what factors it gained.

    Args:
      rows: a row for each stage, in order. `stage` is its name, `cost["accuracy"]` what it lost
        against the stage before, `gain` measure -> factor against it, above 1 if it became less,
        and `gain_in_all` the same against the first network.
      path: the PNG to write.
    """
    measures = list(rows[0]["gain"])
    places, names = range(len(rows)), [row["stage"] for row in rows]
    colours = [COLOURS[i % len(COLOURS)] for i in places]
    with lend_figure(path, 2.2 + 1.5 * (1 + len(measures)), 1.0 + 0.34 * len(rows)) as figure:
        axes = figure.subplots(1, 1 + len(measures), sharey=True)
        points = [0.0 - 100 * row["cost"]["accuracy"] for row in rows]
        axes[0].barh(places, points, color=colours)
        for place, x in zip(places, points, strict=True):
            note(axes[0], f"{x:+.2f}", (max(x, 0.0), place), (3, 0), fontsize=7, va="center")
        axes[0].set_title(f"accuracy, points\n{sum(points):+.2f} in all")
        axes[0].margins(x=0.3)
        for panel, measure in zip(axes[1:], measures, strict=True):
            factors = [row["gain"][measure] or 1.0 for row in rows]
            panel.barh(places, [x - 1 for x in factors], left=1, color=colours)
            for place, x in zip(places, factors, strict=True):
                text = "same" if x == 1 else factor(x)
                note(panel, text, (max(x, 1.0), place), (3, 0), fontsize=7, va="center")
            total = rows[-1]["gain_in_all"][measure]
            panel.set_title(
                f"{measure.replace('_', ' ')}\n" + (f"{factor(total)} in all" if total else "")
            )
            panel.set_xscale("log", base=2)
            panel.set_xlim(min(0.8, *factors), 2 * max(2.0, *factors))
            panel.set_xticks([])
        for panel in axes:
            panel.grid(visible=False)
            panel.tick_params(axis="y", length=0)
        axes[0].set_yticks(places, names)
        axes[0].invert_yaxis()


def plot_dimensions(
    explained: Mapping[str, Any], widths: Mapping[str, int], path: str | Path
) -> None:
    """Draw the variance that is left behind the first principal components of each layer.

    Args:
      explained: layer -> share of the variance in the first k components, `[C]`.
      widths: layer -> the number of components that was taken.
      path: the PNG to write.
    """
    with lend_figure(path, 6.6, 3.0) as figure:
        panel = figure.subplots()
        for i, (name, shares) in enumerate(explained.items()):
            rest, colour = 1 - np.asarray(shares), COLOURS[i % len(COLOURS)]
            counts = np.arange(1, len(rest) + 1)
            kept = widths.get(name)
            label = f"{name}: {kept} of {len(rest)}" if kept else f"{name}: left out"
            panel.plot(counts, np.maximum(rest, 1e-6), color=colour, label=label)
            if kept:
                panel.plot(kept, max(rest[kept - 1], 1e-6), "o", color=colour, ms=4)
        panel.set_yscale("log")
        panel.set_xlabel("components")
        panel.set_ylabel("share of variance left")
        legend(panel)


def plot_noise(sigmas: Sequence[float], series: Mapping[str, Any], path: str | Path) -> None:
    """Draw the accuracy of networks on images with more and more noise.

    Args:
      sigmas: standard deviations of the noise, rising.
      series: network -> accuracies in [0, 1], one for each sigma.
      path: the PNG to write.
    """
    with lend_figure(path, 6.6, 3.0) as figure:
        panel = figure.subplots()
        for i, (name, values) in enumerate(series.items()):
            colour = BASELINE if i == 0 else COLOURS[(i - 1) % len(COLOURS)]
            panel.plot(sigmas, np.asarray(values), color=colour, marker="o", ms=3.5, label=name)
        panel.set_xlabel("standard deviation of the noise")
        panel.set_ylabel("accuracy")
        legend(panel)


def _line(panel: Axes, log: Log, field: str, *, positive: bool = False, **style: Any) -> None:
    """Draw a field over the rows that have it; zero has no place on a logarithmic axis."""
    points = [(i + 1, row[field]) for i, row in enumerate(log) if row.get(field) is not None]
    points = [(x, y) for x, y in points if y > 0 or not positive]
    if points:
        alone: dict[str, Any] = {"marker": "o", "ms": 3} if len(points) < 25 else {}
        panel.plot(*zip(*points, strict=True), **alone, **style)


def _phases(log: Log) -> list[tuple[str, int, int]]:
    """Return (name, first row, number of rows) of each phase, in order."""
    phases: list[tuple[str, int, int]] = []
    for name, rows in groupby(log, key=lambda row: str(row.get("phase", ""))):
        start = phases[-1][1] + phases[-1][2] if phases else 0
        phases.append((name, start, len(list(rows))))
    return phases


def _shade_phases(panel: Axes, log: Log) -> None:
    for i, (_, start, length) in enumerate(_phases(log)):
        if i % 2:
            panel.axvspan(start + 0.5, start + length + 0.5, color="#f3f3f3", lw=0, zorder=0)


def _name_phases(panel: Axes, log: Log) -> None:
    """Write the names of the phases above the panel, each at its own start."""
    phases = _phases(log)
    crowded = any(length / len(log) < 0.018 * len(name) for name, _, length in phases)
    for name, start, _ in phases:
        style = {"fontsize": 8, "color": "#555555", "rotation": 30 * crowded}
        note(panel, name, (start + 0.5, 1), (1, 3), xycoords=("data", "axes fraction"), **style)


def _epoch_axis(panel: Axes, length: int) -> None:
    panel.set_xlim(0.5, length + 0.5)
    panel.set_xlabel("epoch")
    panel.locator_params(axis="x", integer=True, min_n_ticks=1)
