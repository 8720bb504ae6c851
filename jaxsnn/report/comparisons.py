"""Pictures of networks beside each other: what the rows of results.json are enough for.

Axes of accuracies begin where the data does, and say so in their titles. An accuracy that was
counted on some samples has its 95 % interval (`metrics.intervals.wilson`) beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jaxsnn.errors import UserError
from jaxsnn.metrics.intervals import wilson
from jaxsnn.metrics.report import Report
from jaxsnn.report import svg
from jaxsnn.report.results import as_rows
from jaxsnn.report.svg import Panel, Ruler, colour_of, colours_of, short
from jaxsnn.sweep.fronts import pareto

__all__ = [
    "Picture",
    "bars",
    "of_rows",
    "percent",
    "plot_accuracies",
    "plot_accuracy_over_time",
    "plot_confusion",
    "plot_front",
    "plot_layers",
    "said",
    "shortened",
]

Rows = Sequence[Mapping[str, Any]]  # of results.json
Colours = Mapping[str, str]  # name of a network -> class of its colour
Picture = tuple[str, Callable[[], str]]  # its name, what draws it

COSTS = {"synops": "SynOps of a sample", "file_bytes": "bytes of the file"}
MOST_NUMBERED = 40  # networks that are listed by name, with their intervals
MOST_WRITTEN = 12  # classes whose confusions are written as numbers
MOST_CLASSES = 40  # classes whose confusions are cells with an element each
RIGHT_WRONG = ((52, 138, 209), (213, 94, 0))  # of pixels, seen in light and in dark


def of_rows(
    rows: Sequence[Report | Mapping[str, Any]], compared: str | None = None
) -> list[Picture]:
    """Return the pictures that the rows of results.json are enough for.

    Args:
      rows: the networks, the baseline first.
      compared: the network that is drawn beside the baseline where two are; the last if left out.
        Of several rows of a name, such as one a seed, the last counts.

    Raises:
      UserError: if no row is called `compared`.
    """
    rows = as_rows(rows)
    last = {row["name"]: row for row in rows}
    if compared is not None and compared not in last:
        raise UserError(f"compared: no row is called {compared!r}; rows: {', '.join(last)}")
    both: list[str] = [rows[0]["name"], compared or rows[-1]["name"]]
    pair = [last[name] for name in dict.fromkeys(both)]
    colours = colours_of(last)
    found: list[Picture] = []
    known = [row for row in rows if row.get("accuracy") is not None]
    if 1 < len(known) <= MOST_NUMBERED:
        found.append(("accuracies", partial(plot_accuracies, known, colours)))
    placed = [row for row in known if all((row.get(cost) or 0) > 0 for cost in COSTS)]
    if len(placed) > 2:
        costs = {title: [row[cost] for row in placed] for cost, title in COSTS.items()}
        front = partial(
            plot_front,
            costs,
            [row["accuracy"] for row in placed],
            names=[_full_name(row, rows) for row in placed],
            groups=[row["name"] for row in placed] if len(last) < len(rows) else None,
            samples=[row.get("samples") for row in placed],
            colours=colours,
        )
        found.append(("pareto", front))
    if any(row.get("confusion") for row in pair):
        found.append(("confusion", partial(plot_confusion, pair)))
    if any(row.get("layers") for row in pair):
        found.append(("layers", partial(plot_layers, pair)))
    several = list(last.values()) if len(last) < svg.COLOURS else pair
    over_time = [row for row in several if row.get("accuracy_over_time")]
    if over_time:
        found.append(("accuracy_over_time", partial(plot_accuracy_over_time, over_time, colours)))
    return found


def plot_accuracies(rows: Rows, colours: Colours | None = None) -> str:
    """Draw the accuracy of each network with its interval, from low to high.

    Args:
      rows: the networks, the baseline first; each has an accuracy.
      colours: name -> class of its colour, where it is known from other pictures.
    """
    colours = colours or colours_of(row["name"] for row in rows)
    shown, spans = [100 * row["accuracy"] for row in rows], [_span(row) for row in rows]
    x = percent([*shown, *(end for span in spans for end in span)])
    names = {float(i): shortened(_full_name(row, rows), 26) for i, row in enumerate(rows)}
    y = Ruler(len(rows) - 0.4, -0.6, names=names)
    panel = Panel(said("accuracy, %", x), x, y, width=420.0, height=46.0 + 20 * len(rows))
    marks = []
    for i, (value, span) in enumerate(zip(shown, spans, strict=True)):
        colour = colours[rows[i]["name"]]
        if span[0] < span[1]:
            marks.append(panel.stroke((span[0], i), (span[1], i), colour))
        marks.append(panel.dot(value, i, colour, _told(rows[i])))
    return svg.figure([panel.svg(*marks, grid="x")], columns=1)


def plot_front(
    costs: Mapping[str, Sequence[float]],
    accuracies: Sequence[float],
    *,
    names: Sequence[str],
    groups: Sequence[str] | None = None,
    samples: Sequence[int | None] | None = None,
    dense: tuple[Sequence[float], float] | None = None,
    chosen: int | None = None,
    colours: Colours | None = None,
) -> str:
    """Draw the accuracy of networks against what they cost, with the Pareto front.

    Args:
      costs: what a cost is called -> that of each network, `[N]`, > 0; a panel for each.
      accuracies: of the networks, `[N]`, in [0, 1].
      names: of the networks, `[N]`; without groups up to 40 are numbered and listed below.
      groups: of each network, those of one name in one colour, `[N]`.
      samples: how many each accuracy was counted on, `[N]`, for the interval.
      dense: a baseline's cost in each panel, and its accuracy.
      chosen: number of the network to mark.
      colours: name, or that of a group -> class of its colour; the baseline's is "dense".
    """
    few = len(names) <= MOST_NUMBERED
    kinds = list(dict.fromkeys(groups or names))
    colours = colours or colours_of(["dense"] * bool(dense) + kinds)
    points = []
    for i, name in enumerate(names):
        counted = samples[i] if samples and few else None
        span = _span({"accuracy": accuracies[i], "samples": counted})
        colour = colours[groups[i] if groups else name]
        points.append(_Point(name, 100 * float(accuracies[i]), span, colour))
    ends = [end for point in points for end in point.span]
    y = percent([*ends, 100 * dense[1]] if dense else ends)
    panels = []
    for k, (title, cost) in enumerate(costs.items()):
        base = (float(dense[0][k]), 100 * dense[1]) if dense else None
        numbered = few and not groups
        panels.append(_front(title, cost, points, y, base, chosen, numbered=numbered))
    if groups:
        named = {name: colours[name] for name in ["dense"] * bool(dense) + kinds}
    else:
        named = {f"{i} {name}": colours[name] for i, name in enumerate(names, 1) if few}
    note = "The large point is the chosen network. " if chosen is not None else ""
    line = f"<p class=meta>{note}Line: Pareto front, the networks that no other beats in both.</p>"
    return svg.figure(panels, svg.legend(named) + line, columns=2)


class _Point(NamedTuple):
    name: str
    accuracy: float  # percent
    span: tuple[float, float]  # its interval, percent
    colour: str


def _front(
    title: str,
    costs: Sequence[float],
    points: Sequence[_Point],
    y: Ruler,
    base: tuple[float, float] | None,
    chosen: int | None,
    *,
    numbered: bool,
) -> str:
    """Draw one panel of `plot_front`."""
    x = Ruler.of([*costs, *(base or ())[:1]], is_log=True, label=title)
    panel = Panel(said("accuracy, %", y), x, y, width=420.0, height=260.0)
    front = [(float(costs[i]), points[i].accuracy) for i in pareto(costs, [p[1] for p in points])]
    corners = [p for a, b in zip(front, front[1:], strict=False) for p in (a, (b[0], a[1]))]
    marks = [panel.line([*corners, *front[-1:]], "faint")]
    for i, (cost, (name, accuracy, span, colour)) in enumerate(zip(costs, points, strict=True)):
        if span[0] < span[1]:
            marks.append(panel.stroke((cost, span[0]), (cost, span[1]), colour))
        tip = f"{name}: {accuracy:.2f} %, {short(cost)}"
        marks.append(panel.dot(cost, accuracy, colour, tip, 7.0 if i == chosen else 3.2))
        if numbered:
            marks.append(panel.text(cost, accuracy, str(i + 1), 6, -4, "small strong"))
    if base:
        marks.append(panel.dot(*base, "c0", "dense", 4.0))
    return panel.svg(*marks)


def plot_confusion(rows: Rows) -> str:
    """Draw how many test samples of each class were decided for each class.

    Args:
      rows: the networks; those without `confusion` are left out.
    """
    panels = []
    for row in rows:
        if not row.get("confusion"):
            continue
        table = np.asarray(row["confusion"])
        total, wrong = int(table.sum()), int(table.sum() - np.trace(table))
        title = f"{row['name']}: {wrong:,} of {total:,} wrong"
        panels.append(_confusion(title, table))
    line = "Rows are true classes. Blue is right, orange wrong: the fuller, the more of a row."
    return svg.figure(panels, f"<p class=meta>{line}</p>", columns=2)


def plot_layers(rows: Sequence[Report | Mapping[str, Any]]) -> str:
    """Draw density, bits and spike rate of each layer, networks side by side.

    Args:
      rows: the networks, the baseline first; few read well.
    """
    rows = as_rows(rows)
    measures = {"density": "density", "bits": "bits per weight", "rate": "spikes / neuron / step"}
    of = [{layer["name"]: layer for layer in row.get("layers") or ()} for row in rows]
    layers = list(dict.fromkeys(name for each in of for name in each))
    panels = []
    for field, title in measures.items():
        values = {
            name: [each.get(name, {}).get(field) for each in of]
            for name in layers
            if any(each.get(name, {}).get(field) is not None for each in of)
        }
        if values:
            panels.append(bars(title, values))
    return svg.figure(panels, svg.legend(colours_of(row["name"] for row in rows)))


def plot_accuracy_over_time(rows: Rows, colours: Colours | None = None) -> str:
    """Draw the accuracy of a decision after 1, 2, ..., T time steps.

    A network of one step beside longer ones, such as an ANN, is a line across.

    Args:
      rows: the networks, the baseline first; each has `accuracy_over_time`, in [0, 1].
      colours: name -> class of its colour, where it is known from other pictures.
    """
    colours = colours or colours_of(row["name"] for row in rows)
    series = [[100 * float(x) for x in row["accuracy_over_time"]] for row in rows]
    longest = max(map(len, series))
    x = Ruler.counted(longest, "time steps")
    y = percent([value for values in series for value in values])
    panel = Panel(said("accuracy, %", y), x, y, width=420.0, height=230.0)
    marks = []
    for row, values in zip(rows, series, strict=True):
        colour = colours[row["name"]]
        if len(values) == 1 < longest:
            across = [(1.0, values[0]), (float(longest), values[0])]
            marks.append(panel.line(across, colour, stroke_dasharray="5 3"))
            continue
        if len(rows) <= 4:
            spans = [_span({**row, "accuracy": value / 100}) for value in values]
            ends = [(t, max(a, y.low), min(b, y.high)) for t, (a, b) in enumerate(spans, 1)]
            marks.append(panel.band(ends, colour))
        marks.append(panel.line(list(enumerate(values, 1)), colour))
        for t, value in enumerate(values, 1) if longest <= 40 else ():
            marks.append(panel.dot(t, value, colour, f"{row['name']}, {t} steps: {value:.2f} %"))
    named = {row["name"]: colours[row["name"]] for row in rows}
    return svg.figure([panel.svg(*marks)], svg.legend(named), columns=1)


def bars(
    title: str,
    values: Mapping[str, Sequence[float | None]],
    *,
    write: Callable[[float], str] = "{:.3g}".format,
    is_factor: bool = False,
    first: int = 0,
) -> str:
    """Draw a panel of horizontal bars, a group of them for each name, from 0 or a factor of 1.

    Args:
      title: what they measure.
      values: name -> a value for each series; None where there is none.
      write: how a value is written at the end of its bar.
      is_factor: whether values are factors, drawn by their logarithm.
      first: index of the first series' colour.
    """
    series = max(map(len, values.values()))
    known = [float(x) for each in values.values() for x in each if x is not None]
    begin, rise = float(is_factor), 10.0 * series + 8
    if is_factor:
        x = Ruler(min([0.8, *known]), 3 * max([2.0, *known]), True, names={})
    else:
        reach = max([*known, 0.0]) - min([*known, 0.0]) or 1.0
        x = Ruler(min([*known, 0.0]), max([*known, 0.0]) + 0.3 * reach, names={})
    names = {float(i): shortened(name, 18) for i, name in enumerate(values)}
    y = Ruler(len(values) - 0.5, -0.5, names=names)
    panel = Panel(title, x, y, height=46.0 + rise * len(values))
    marks = [panel.stroke((begin, y.low), (begin, y.high), "c0")]
    for i, each in enumerate(values.values()):
        for k, value in enumerate(each):
            if value is None:
                continue
            at, value = i + (k - (len(each) - 1) / 2) * 10 / rise, float(value)
            marks.append(panel.bar(begin, value, at, 8.0, colour_of(first + k)))
            marks.append(panel.text(max(value, begin), at, write(value), 4, 3.5, "small"))
    return panel.svg(*marks, grid="")


def percent(values: Iterable[float]) -> Ruler:
    """Return the axis that fits accuracies in percent, from a round number that is near the data.

    >>> percent([98.1, 99.2]).low
    98.0
    """
    axis = Ruler.of(values, at_least=1.0)
    return replace(axis, low=max(axis.low, 0.0), high=min(axis.high, 100.0)).begun()


def said(title: str, axis: Ruler) -> str:
    """Add to a title where its axis begins, unless that is 0.

    >>> said("accuracy, %", percent([98.1, 99.2]))
    'accuracy, % (axis from 98)'
    """
    return f"{title} (axis from {axis.low:.4g})" if axis.low > 0 else title


def shortened(text: str, most: int) -> str:
    """Return the end of a text that is too long."""
    return text if len(text) <= most else "…" + text[-most:]


def _span(row: Mapping[str, Any]) -> tuple[float, float]:
    """Return the 95 % interval of an accuracy, percent; the accuracy twice where none is known."""
    share, samples = float(row["accuracy"]), row.get("samples")
    low, high = wilson(share, samples) if samples else (share, share)
    return 100 * low, 100 * high


def _told(row: Mapping[str, Any]) -> str:
    low, high = _span(row)
    interval = f" ({low:.2f} to {high:.2f}, {row['samples']:,} samples)" if low < high else ""
    return f"{row['name']}: {100 * row['accuracy']:.2f} %{interval}"


def _full_name(row: Mapping[str, Any], rows: Rows) -> str:
    """Return the name of a row, with its seed where others have the name, too."""
    alone = sum(each["name"] == row["name"] for each in rows) == 1
    return str(row["name"]) if alone else f"{row['name']}, seed {row.get('seed')}"


def _confusion(title: str, table: np.ndarray) -> str:
    classes = len(table)
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    if classes > MOST_CLASSES:
        pixels = np.zeros((classes, classes, 4), np.uint8)
        pixels[...] = (*RIGHT_WRONG[1], 0)
        pixels[np.arange(classes), np.arange(classes)] = (*RIGHT_WRONG[0], 0)
        pixels[..., 3] = np.rint(255 * np.sqrt(share))
        x = Ruler(-0.5, classes - 0.5, label="class decided for")
        y = replace(x, low=x.high, high=x.low, label="")
        panel = Panel(title, x, y, width=420.0, height=440.0)
        return panel.svg(panel.image(pixels), grid="")

    def look(i: int, j: int) -> tuple[str, float, str]:
        colour, deep = ("c1", 0.1 + 0.5 * share[i, j]) if i == j else ("c2", share[i, j] ** 0.5)
        text = short(float(table[i, j])) if classes <= MOST_WRITTEN and table[i, j] else ""
        return colour, float(min(deep, 0.75)) if table[i, j] else 0.0, text

    every = 1 if classes <= MOST_WRITTEN else 5
    names = [str(i) if i % every == 0 else "" for i in range(classes)]
    return svg.cells(
        title, table, look, rows=names, columns=names, label="class decided for", width=420.0,
        height=max(9.0, 280 / classes),
    )  # fmt: skip
