"""Pictures of a run: how it trained, what a method found, what became of the weights.

Each takes plain data and returns a piece of HTML with charts in SVG. What compares networks is in
`report.comparisons`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from jaxsnn import tree
from jaxsnn.errors import UserError
from jaxsnn.metrics.columns import factor
from jaxsnn.report import svg
from jaxsnn.report.comparisons import bars, percent, said, shortened
from jaxsnn.report.raster import plot_raster
from jaxsnn.report.svg import Panel, Ruler, colour_of, colours_of, short

__all__ = [
    "Log",
    "plot_curves",
    "plot_dimensions",
    "plot_heat",
    "plot_histograms",
    "plot_noise",
    "plot_raster",
    "plot_residuals",
    "plot_stages",
]

Log = Sequence[Mapping[str, Any]]  # rows of metrics.jsonl, in order


def plot_curves(log: Log) -> str:
    """Draw accuracy, loss and spikes per neuron and step over the epochs, phases shaded.

    Args:
      log: rows of `metrics.jsonl`, in order; a curve is drawn for each of `accuracy`,
        `validation_accuracy`, `loss`, `validation_loss` and `spike_rate` that some row has.
    """
    panels = [
        _over_epochs(log, "accuracy, %", ["accuracy", "validation_accuracy"]),
        _over_epochs(log, "loss", ["loss", "validation_loss"]),
        _over_epochs(log, "spikes / neuron / step", ["spike_rate"]),
    ]
    names = ["training"]
    if any(row.get(f"validation_{x}") is not None for row in log for x in ("accuracy", "loss")):
        names.append("held-out images")
    below = svg.legend(colours_of(names, first=1)) + _phase_line(log)
    return svg.figure([panel for panel in panels if panel], below)


def plot_residuals(log: Log) -> str:
    """Draw how far each leaf is from its set (primal) and how far the set moved (dual).

    Args:
      log: rows of `metrics.jsonl`; fields `primal/LEAF` and `dual/LEAF` are drawn.

    Raises:
      UserError: if no row has a residual.
    """
    leaves = list(dict.fromkeys(f[7:] for row in log for f in row if f.startswith("primal/")))
    if not leaves:
        raise UserError("no field primal/LEAF in the log: there are no residuals to plot")
    rows = [row for row in log if any(f"primal/{leaf}" in row for leaf in leaves)]
    panels = [
        _over_epochs(
            rows,
            f"{kind} residual",
            [f"{kind}/{leaf}" for leaf in leaves],
            is_log=True,
            width=420.0,
        )
        for kind in ("primal", "dual")
    ]
    return svg.figure(
        panels, svg.legend(colours_of(leaves, first=1)) + _phase_line(rows), columns=2
    )


def plot_histograms(before: Any, after: Any, *, where: str = "*/kernel") -> str:
    """Draw the weights of each layer before and after compression, zeros left out.

    Args:
      before: parameters of the baseline, nested dictionary.
      after: parameters of the compressed network, with the same names.
      where: pattern of the leaves to draw.
    """
    trees = [tree.named_leaves(each) for each in (before, after)]
    panels = []
    for name in tree.match({where: True}, after):
        leaves = [np.asarray(each[name], np.float32).reshape(-1) for each in trees]
        largest = max(float(np.abs(leaf).max(initial=0)) for leaf in leaves) or 1.0
        for i, (leaf, when) in enumerate(zip(leaves, ("before", "after"), strict=True)):
            panels.append(_histogram(f"{shortened(name, 22)} {when}", leaf, largest, colour_of(i)))
    return svg.figure(panels, columns=2)


def plot_stages(rows: Log) -> str:
    """Draw what each stage of a pipeline cost in accuracy, and by what factors it gained.

    Args:
      rows: a row for each stage, in order. `stage` is its name, `cost["accuracy"]` what it lost
        against the stage before, `gain` measure -> factor against it, above 1 if it became less,
        and `gain_in_all` the same against the first network.
    """
    points = [0.0 - 100 * row["cost"]["accuracy"] for row in rows]
    names = [row["stage"] for row in rows]
    lost = {name: [x] for name, x in zip(names, points, strict=True)}
    title = f"accuracy, points: {sum(points):+.2f} in all"
    panels = [bars(title, lost, write="{:+.2f}".format)]
    for measure in rows[0]["gain"]:
        gained = {
            name: [row["gain"][measure] or 1.0] for name, row in zip(names, rows, strict=True)
        }
        total = rows[-1]["gain_in_all"][measure]
        title = measure.replace("_", " ") + (f": {factor(total)} in all" if total else "")
        panels.append(bars(title, gained, write=_factor_or_same, is_factor=True, first=1))
    return svg.figure(panels)


def plot_dimensions(explained: Mapping[str, Any], widths: Mapping[str, int]) -> str:
    """Draw the variance that is left behind the first principal components of each layer.

    Args:
      explained: layer -> share of the variance in the first k components, `[C]`.
      widths: layer -> the number of components that was taken.
    """
    left = {name: np.maximum(1 - np.asarray(x), 1e-6).tolist() for name, x in explained.items()}
    x = Ruler.of([1.0, *map(len, left.values())], label="components", at_least=1.0)
    y = Ruler.of([each for rest in left.values() for each in rest], is_log=True)
    panel = Panel("share of the variance left", x, y, width=420.0, height=260.0)
    marks, names = [], []
    for i, (name, rest) in enumerate(left.items(), 1):
        kept = widths.get(name)
        names.append(f"{name}: {kept} of {len(rest)}" if kept else f"{name}: left out")
        marks.append(panel.line(list(enumerate(rest, 1)), colour_of(i)))
        if kept:
            marks.append(panel.dot(kept, rest[kept - 1], colour_of(i), names[-1], 4.0))
    return svg.figure([panel.svg(*marks)], svg.legend(colours_of(names, first=1)), columns=1)


def plot_noise(sigmas: Sequence[float], series: Mapping[str, Any]) -> str:
    """Draw the accuracy of networks on images with more and more noise.

    Args:
      sigmas: standard deviations of the noise, rising.
      series: network -> accuracies in [0, 1], one for each sigma.
    """
    x = Ruler.of(sigmas, label="standard deviation of the noise")
    y = percent([100 * float(value) for values in series.values() for value in values])
    panel = Panel(said("accuracy, %", y), x, y, width=420.0, height=230.0)
    marks = []
    for i, (name, values) in enumerate(series.items()):
        points = [(float(s), 100 * float(v)) for s, v in zip(sigmas, values, strict=True)]
        marks.append(panel.line(points, colour_of(i)))
        marks += [panel.dot(*each, colour_of(i), f"{name}: {each[1]:.2f} %") for each in points]
    return svg.figure([panel.svg(*marks)], svg.legend(colours_of(series)), columns=1)


def plot_heat(
    rows: Sequence[Mapping[str, float | None]], across: str, down: str, measures: Mapping[str, str]
) -> str:
    """Draw measures over two axes of a sweep, the mean over all others, as maps with numbers.

    Args:
      rows: of the networks: the two axes and the measures; None where there is none.
      across: the axis from left to right.
      down: the axis from top to bottom.
      measures: field of the rows -> what it is called; accuracies are written in percent.
    """
    columns = sorted({float(row[across] or 0) for row in rows})
    lines = sorted({float(row[down] or 0) for row in rows})
    panels = []
    for field, title in measures.items():
        table = np.full((len(lines), len(columns)), np.nan)
        for i, j in np.ndindex(*table.shape):
            here = [
                row[field] for row in rows if (row[across], row[down]) == (columns[j], lines[i])
            ]
            if known := [x for x in here if x is not None]:
                table[i, j] = np.mean(np.asarray(known, float))
        panels.append(_heat(title, table, lines, columns, f"{down} down, {across} across"))
    return svg.figure(panels, columns=2)


def _heat(
    title: str, table: np.ndarray, lines: list[float], columns: list[float], label: str
) -> str:
    known = table[np.isfinite(table)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)

    def look(i: int, j: int) -> tuple[str, float, str]:
        value = float(table[i, j])
        if not math.isfinite(value):
            return "c1", 0.0, ""
        text = f"{100 * value:.2f}" if title.startswith("test accuracy") else f"{value:,.4g}"
        text = f"{value:,.0f}" if value >= 1000 else text
        return "c1", 0.08 + 0.5 * (value - low) / ((high - low) or 1.0), text

    named = [[f"{x:.4g}" for x in axis] for axis in (lines, columns)]
    return svg.cells(title, table, look, rows=named[0], columns=named[1], label=label, width=420.0)


def _factor_or_same(times: float) -> str:
    return "same" if times == 1 else factor(times)


def _histogram(title: str, leaf: np.ndarray, largest: float, colour: str) -> str:
    """Draw the weights of a leaf that are not 0: levels of a grid as lines, others as steps."""
    kept = leaf[leaf != 0]
    values, counts = np.unique(kept, return_counts=True)
    is_grid = values.size <= 32
    if not is_grid:
        counts, values = np.histogram(kept, bins=60, range=(-largest, largest))
    top = float(counts.max(initial=1))
    x, y = Ruler(-largest, largest), Ruler(0.0, top, names={0.0: "0", top: short(top)})
    title = f"{title}: {1 - kept.size / leaf.size:.1%} zero"
    panel = Panel(title, x, y, width=420.0, height=110.0)
    if is_grid:
        levels = zip(values.tolist(), counts.tolist(), strict=True)
        return panel.svg(*(panel.stroke((v, 0), (v, n), colour, "thick") for v, n in levels))
    edges, heights = np.repeat(values, 2)[1:-1].tolist(), np.repeat(counts, 2).tolist()
    steps = [(e, 0.0, float(n)) for e, n in zip(edges, heights, strict=True)]
    return panel.svg(panel.band(steps, f"{colour} solid"))


def _over_epochs(
    log: Log, title: str, fields: Sequence[str], *, is_log: bool = False, width: float = 320.0
) -> str:
    """Draw fields over the rows of a log that have them; nothing if none has."""
    scale = 100.0 if title.endswith("%") else 1.0
    lines = [
        [(i, scale * row[f]) for i, row in enumerate(log, 1) if row.get(f) is not None]
        for f in fields
    ]
    if is_log:  # zero has no place there
        lines = [[(i, value) for i, value in line if value > 0] for line in lines]
    values = [value for line in lines for _, value in line]
    if not values:
        return ""
    if scale > 1:
        y = percent(values)
        title = said(title, y)
    elif fields == ["spike_rate"]:
        y = Ruler.of([0.0, *values], margin=0.0)
    else:
        y = Ruler.of(values, is_log=is_log)
    panel = Panel(title, Ruler.counted(len(log), "epoch"), y, width=width, height=210.0)
    marks = []
    for k, (_, start, length) in enumerate(_phases(log)):
        if k % 2:
            marks.append(panel.shade(start + 0.5, start + length + 0.5))
        if 280 * length / len(log) > 12:
            marks.append(panel.text(start + 0.5, y.high, str(k + 1), 3, -3, "small"))
    for k, line in enumerate(lines, 1):
        if line:
            dashes = {"stroke_dasharray": "2 3"} if k >= svg.COLOURS else {}
            marks.append(panel.line(line, colour_of(k), **dashes))
            few = line if len(log) < 25 else ()
            marks += [panel.dot(x, v, colour_of(k), f"epoch {x}: {v:.4g}", 2.0) for x, v in few]
    return panel.svg(*marks, grid="y")


def _phases(log: Log) -> list[tuple[str, int, int]]:
    """Return (name, first row, number of rows) of each phase, in order."""
    phases: list[tuple[str, int, int]] = []
    for name, rows in groupby(log, key=lambda row: str(row.get("phase", ""))):
        start = phases[-1][1] + phases[-1][2] if phases else 0
        phases.append((name, start, len(list(rows))))
    return phases


def _phase_line(log: Log) -> str:
    """Name the numbered phases; every other is on a darker ground."""
    names = [f"<b>{i}</b> {svg.escape(name)}" for i, (name, _, _) in enumerate(_phases(log), 1)]
    return f"<p class=meta>Phases: {' · '.join(names)}</p>"
