"""From measurements to rows, a table and a chart."""

import math
import statistics
from collections.abc import Collection
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from experiments.bench import machine

Row = dict[str, Any]

# Relative differences above which two contenders do not compute the same network: of the initial
# loss, and of the output spikes' number, where one spike that rounding flips may count a little.
SAME_LOSS = 1e-4
SAME_RATE = 1e-2
# The same in bfloat16, whose products are rounded to 8 bits: spikes near the threshold flip.
SAME_SHORT = 5e-2

# Cores that other programs may keep busy during a measurement before the table says so.
BUSY = 0.15

WIDTH = 100

TICKS = (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)


def is_same(one: Row, other: Row, *, short: bool = False) -> bool:
    """Return whether two measurements are of the same network on the same batch.

    Silent networks show nothing: they are never the same. `short`: both have bfloat16 products.
    """
    bounds = {"loss": SAME_LOSS, "rate": SAME_RATE}
    if short:
        bounds = dict.fromkeys(bounds, SAME_SHORT)
    return other["rate"] > 0 and all(
        abs(one[name] - other[name]) <= bound * abs(other[name]) for name, bound in bounds.items()
    )


def summarize(
    rounds: dict[str, list[Row]],
    references: dict[str, str | None],
    limit: dict[str, Any],
    short: Collection[str] = (),
) -> list[Row]:
    """Turn the measurements of each contender into one row each.

    Args:
      rounds: contender -> what each of its processes measured.
      references: contender -> the contender of ours it is compared to, None if to nobody.
      limit: from `limits.estimate`.
      short: contenders whose products are in bfloat16.
    """
    medians = {
        name: statistics.median(run["median_ms"] for run in runs) for name, runs in rounds.items()
    }
    rows = []
    for name, runs in rounds.items():
        reference = references[name]
        same = reference is not None and is_same(runs[0], rounds[reference][0], short=name in short)
        row = {
            "contender": name,
            "median_ms": medians[name],
            "least_ms": min(run["median_ms"] for run in runs),
            "greatest_ms": max(run["median_ms"] for run in runs),
            "loss": runs[0]["loss"],
            "rate": runs[0]["rate"],
            "reference": reference,
            "reference_ms": None if reference is None else medians[reference],
            "same": same,
            "ratio": medians[name] / medians[reference] if same and reference else None,
            "of_product_rate": limit["products_ms"] / medians[name],
            "cores": statistics.median(run["cores_busy"] for run in runs),
            "peak_mib": max(run["peak_mib"] for run in runs),
            "start_seconds": statistics.median(run["start_seconds"] for run in runs),
            "compile_seconds": compile_seconds(runs),
            "device_mib": runs[0].get("device_mib"),
            "temporaries_mib": runs[0].get("temporaries_mib"),
            "rounds": runs,
        }
        rows.append(row)
    return rows


def compile_seconds(runs: list[Row]) -> float | None:
    """Return what passes until the first step is done, without imports and the step itself.

    That is building the network, moving it, and compilation, whoever compiles.
    """
    if "import_seconds" not in runs[0]:
        return None
    taken = (
        run["start_seconds"] - run["import_seconds"] - run.get("unit", 1) * run["median_ms"] / 1e3
        for run in runs
    )
    return max(statistics.median(taken), 0.0)


def judge(row: Row) -> str:
    """Return a row's ratio as text, or why there is none."""
    if row["reference"] is None:
        return "other net"
    return f"{row['ratio']:.2f}x" if row["same"] else "other loss"


def new_table(title: str, *headings: str) -> Table:
    """Return an empty table; its first column is of names, the others of numbers.

    Below it stands what it was measured on.
    """
    table = Table(
        title=title, title_justify="left", caption=machine.name(), caption_justify="left",
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
    )  # fmt: skip
    table.add_column(headings[0], no_wrap=True)
    for heading in headings[1:]:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def show(console: Console, title: str, rows: list[Row], notes: dict[str, str]) -> None:
    """Print the rows of one workload.

    Rows of ours that only serve as another's reference are left out: their time is in its "ours".
    Of a GPU the memory is its own.
    """
    table = new_table(
        title, "", "ms/step", "spread", "ours", "ratio", "of rate", "cores", "MiB", "start s",
        "compile s",
    )  # fmt: skip
    shown = [row for row in rows if "/" not in row["contender"]]
    for row in shown:
        reference = row["reference_ms"]
        table.add_row(
            row["contender"],
            f"{row['median_ms']:.4g}",
            f"{row['least_ms']:.4g}-{row['greatest_ms']:.4g}",
            "" if reference is None else f"{reference:.4g}",
            judge(row),
            f"{row['of_product_rate']:.0%}",
            f"{row['cores']:.2f}",
            f"{row['device_mib'] or row['peak_mib']:.0f}",
            f"{row['start_seconds']:.1f}",
            "" if row["compile_seconds"] is None else f"{row['compile_seconds']:.1f}",
        )
    console.print(table)
    for row in shown:
        if note := notes.get(row["contender"]):
            console.print(f"  {row['contender']}: {note}", style="dim", highlight=False)
    others = max(run["others_busy"] or 0.0 for row in rows for run in row["rounds"])
    if others > BUSY:
        console.print(f"  other programs kept up to {others:.1f} cores busy: do not trust this")


def describe(limit: dict[str, Any], rates: dict[str, Any], dtype: str) -> str:
    """Return a line with the least that a step costs."""
    return (
        f"  at least {limit['limit_ms']:.3g} ms: {limit['flops'] / 1e9:.3g} GFLOP at "
        f"{rates[dtype] / 1e9:.3g} G/s take {limit['products_ms']:.3g} ms, "
        f"{limit['bytes'] / 1e6:.3g} MB at {rates['bytes'] / 1e9:.3g} GB/s "
        f"{limit['memory_ms']:.3g} ms"
    )


def draw(path: Path, cases: list[dict[str, Any]]) -> None:
    """Write a bar chart: for each workload, how many times ours every contender's step takes."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    columns = min(3, len(cases))
    lines = -(-len(cases) // columns)
    tallest = max(len(bars_of(case)) for case in cases)
    figure, grid = pyplot.subplots(
        lines, columns, figsize=(4.6 * columns, lines * (0.9 + 0.27 * tallest)), squeeze=False
    )
    for axes in grid.flat[len(cases) :]:
        axes.set_axis_off()
    for axes, case in zip(grid.flat, cases, strict=False):
        bars = bars_of(case)
        names, widths = [bar[0] for bar in bars], [bar[1] for bar in bars]
        colours = ["#1f6f8b" if name.startswith("jaxsnn") else "#c4c4c4" for name in names]
        axes.barh(names, widths, color=colours)
        axes.invert_yaxis()
        axes.set_xscale("log")
        low, high = min(1.0, *widths) / 1.6, max(2.0, *widths)
        axes.set_xlim(low, high * 6 ** (0.6 + 0.15 * math.log10(high)))  # room for the labels
        ticks = [tick for tick in TICKS if low < tick <= high]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.axvline(1.0, color="black", linewidth=0.6)
        for position, (_, width, text) in enumerate(bars):
            label = axes.text(width * 1.05, position, text, va="center", fontsize=7)
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
        axes.set_title(case["workload"], fontsize=10)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("time / ours in the same flavour", fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def milliseconds(value: float) -> str:
    """Return a time with at least three digits: "65.3 ms", "1206 ms"."""
    return f"{value:.3g} ms" if value < 100 else f"{value:.0f} ms"


def bars_of(case: dict[str, Any]) -> list[tuple[str, float, str]]:
    """Return (name, length, label) of a chart's bars; who computes another network has none."""
    return [
        (row["contender"], row["ratio"], f"{row['ratio']:.2f}x  {milliseconds(row['median_ms'])}")
        for row in case["rows"]
        if row["ratio"] is not None and "/" not in row["contender"]
    ]
