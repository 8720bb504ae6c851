"""Pictures of a sweep: Pareto fronts, and how a measure falls over two axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsnn.report.figures import BASELINE, COLOURS, legend, lend_figure
from jaxsnn.sweep.fronts import pareto

__all__ = ["plot_front", "plot_heat"]


def plot_front(
    panels: Mapping[str, Sequence[float]],
    accuracies: Sequence[float],
    path: str | Path,
    *,
    groups: Sequence[str],
    dense: tuple[Sequence[float], float],
    chosen: int | None = None,
) -> None:
    """Draw the accuracy of networks against what they cost, with the Pareto front.

    Args:
      panels: what a cost is called -> that of each network, `[N]`, > 0; a panel for each.
      accuracies: of the networks, `[N]`, in [0, 1].
      path: the PNG to write.
      groups: of each network, those of one name in one colour, `[N]`.
      dense: the baseline's cost in each panel, and its accuracy.
      chosen: number of the network to mark.
    """
    names, values = list(dict.fromkeys(groups)), np.asarray(accuracies, float)
    of = np.asarray([names.index(group) for group in groups])
    with lend_figure(path, 1.4 + 3.9 * len(panels), 3.6) as figure:
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for i, (panel, (title, costs)) in enumerate(zip(axes, panels.items(), strict=True)):
            cost = np.asarray(costs, float)
            front = pareto(cost, values)
            style: dict[str, Any] = {"color": "#888888", "lw": 1, "zorder": 1}
            panel.step(cost[front], values[front], where="post", label="front", **style)
            for number, name in enumerate(names):
                colour, mine = COLOURS[number % len(COLOURS)], of == number
                panel.plot(cost[mine], values[mine], "o", ms=4, color=colour, label=name)
            panel.plot(dense[0][i], dense[1], "s", ms=5, color=BASELINE, label="dense")
            if chosen is not None:
                place = {"ms": 10, "mfc": "none", "mec": "black", "mew": 1.2, "label": "chosen"}
                panel.plot(cost[chosen], values[chosen], "o", **place)
            panel.set_xscale("log")
            panel.set_xlabel(title)
        axes[0].set_ylabel("accuracy")
        legend(axes[-1])


def plot_heat(
    rows: Sequence[Mapping[str, float | None]],
    across: str,
    down: str,
    measures: Mapping[str, str],
    path: str | Path,
) -> None:
    """Draw measures over two axes of a sweep, the mean over all others, as maps with numbers.

    Args:
      rows: of the networks: the two axes and the measures; None where there is none.
      across: the axis from left to right.
      down: the axis from top to bottom.
      measures: field of the rows -> what it is called; accuracies are written in percent.
      path: the PNG to write.
    """
    columns = sorted({float(row[across] or 0) for row in rows})
    lines = sorted({float(row[down] or 0) for row in rows})
    width, height = 1.2 + 0.62 * len(columns), 1.0 + 0.4 * len(lines)
    with lend_figure(path, width * len(measures), height) as figure:
        axes = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
        for panel, (field, title) in zip(axes, measures.items(), strict=True):
            table = np.full((len(lines), len(columns)), np.nan)
            for i, line in enumerate(lines):
                for j, column in enumerate(columns):
                    found = [
                        row[field] for row in rows
                        if (row[across], row[down]) == (column, line) and row[field] is not None
                    ]  # fmt: skip
                    if found:
                        table[i, j] = np.mean(np.asarray(found, float))
            panel.imshow(np.log(table), cmap="viridis", aspect="auto")
            middle = np.nanmean(np.log(table)) if np.isfinite(table).any() else 0.0
            for (i, j), value in np.ndenumerate(table):
                text = f"{100 * value:.2f}" if "accuracy" in field else f"{value:,.4g}"
                text = f"{value:,.0f}" if value >= 1000 else text
                colour = "white" if np.log(value) < middle else "black"
                if np.isfinite(value):
                    panel.text(j, i, text, ha="center", va="center", fontsize=7, color=colour)
            panel.grid(visible=False)
            panel.set_title(title)
            panel.set_xlabel(across)
            panel.set_xticks(range(len(columns)), [f"{x:.4g}" for x in columns])
            panel.set_yticks(range(len(lines)), [f"{x:.4g}" for x in lines])
        axes[0].set_ylabel(down)
