"""Draw the pictures of the docs from the files in results/.

    python tools/pictures.py            draw what is stale, link it from the pages
    python tools/pictures.py --check    change nothing; exit with 1 if anything is stale

Drawn is what `experiments.reproduce --store` wrote with the engine of today, for it knows seeds,
test samples and commit: accuracy against SynOps, bytes of the whole file and time steps, a picture
a file; and all methods together on MNIST and CIFAR-10. Means over the seeds; a bar is one standard
error, of seeds and test set together: sqrt(s^2 / k + p (1 - p) / n). The line is the Pareto front.
Where images were held out and nothing was chosen on them, the larger one of both sets counts.

A page shows a picture between two comments; without such a file nothing stands between them:

    <!-- picture: admm-mnist -->
    <!-- /picture -->

A picture keeps a digest of its numbers, which is what `--check` looks at: another release of
matplotlib draws other bytes of the same numbers. Colours are readable on white and on black.
"""

import argparse
import hashlib
import io
import json
import math
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from experiments.reproduce.measured import (  # noqa: E402
    binomial,
    by_network,
    is_of_today,
    samples_of,
    spread,
)

RESULTS, DOCS = ROOT / "results", ROOT / "docs"
MARKER = re.compile(r"(<!-- picture: (\S+) -->\n)(.*?)(<!-- /picture -->)", re.DOTALL)
DIGEST = re.compile(r"<dc:identifier>([0-9a-f]+)</dc:identifier>")
DRAWING = 1  # raised when the same numbers are to be drawn in another way

COSTS = {"file_bytes": "bytes of the whole file", "synops": "SynOps a sample", "timesteps": "T"}
TOGETHER = {"all-mnist": ("mnist", "MNIST"), "all-cifar10": ("cifar10", "CIFAR-10")}
METHODS = {
    "admm": "ADMM", "rivals": "pruning", "qp_snn": "QP-SNN", "spatiotemporal": "spatio-temporal",
    "spike_thrift": "Spike-Thrift", "joint": "joint", "sweep": "sweep", "fast": "fast recipe",
}  # fmt: skip

MARKERS = {"baseline": "s", "product": "D"}  # others are dots; triangles lie below the axis
GREY = "#777777"
COLOURS = ("#2b83ba", "#d95f02", "#1b9e77", "#c051a0", "#b8860b", "#7570b3", "#c0392b", "#3d8f9f")
SIZE, FONT = (3.5, 3.0), 8  # inches of a panel; points
STYLE = {
    "font.size": FONT, "font.family": "sans-serif", "svg.fonttype": "none",
    "svg.hashsalt": "jaxsnn", "text.color": GREY, "axes.labelcolor": GREY, "axes.edgecolor": GREY,
    "xtick.color": GREY, "ytick.color": GREY, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": GREY, "grid.alpha": 0.25, "axes.axisbelow": True,
    "axes.linewidth": 0.8, "grid.linewidth": 0.6,
}  # fmt: skip


@dataclass(frozen=True)
class Point:
    """One network, over its seeds."""

    name: str
    series: str  # those of one series are of one colour, and joined where there are several
    accuracy: float
    error: float
    costs: dict[str, float]
    kind: str = ""  # baseline, product, or nothing


# Points ----------------------------------------------------------------------------------------


def points(content: dict[str, Any]) -> list[Point]:
    """Return the spiking networks of a file, in its order."""
    groups = by_network(content["rows"])
    found = []
    for name, rows in groups.items():
        number = _best_known(rows[0])
        shares = [row.get(number) for row in rows]
        samples = samples_of(rows[0], number)
        if None in shares or not samples or rows[0].get("spikes_per_sample") is None:
            continue
        share = mean(shares)
        error = math.hypot(spread(shares) / math.sqrt(len(shares)), binomial(share, samples))
        costs = {
            cost: mean(row[cost] for row in rows)
            for cost in COSTS
            if all(row.get(cost) for row in rows)
        }
        kind = "product" if name == "compressed" else ""
        kind = "baseline" if name.startswith("dense") else kind
        series = re.sub(r" \(?[\d.]+ ?%?\)?$", "", name)
        found.append(Point(name, series, share, error, costs, kind))
    return found


def _best_known(row: dict[str, Any]) -> str:
    """Return which accuracy is drawn: that of a second test set if it is the larger one."""
    if (row.get("held_out_samples") or 0) > (row.get("samples") or 0):
        return "held_out_accuracy"
    return "mean_accuracy" if row.get("mean_accuracy") is not None else "accuracy"


def front(costs: Sequence[float], accuracies: Sequence[float]) -> list[int]:
    """Return the numbers of the networks that no other beats in both, cheapest first."""
    kept: list[int] = []
    for number in sorted(range(len(costs)), key=lambda i: (costs[i], -accuracies[i])):
        if not kept or accuracies[number] > accuracies[kept[-1]]:
            kept.append(number)
    return kept


def wanted() -> dict[str, tuple[str, list[Point]]]:
    """Return the pictures that there should be: name -> its title and its points."""
    found: dict[str, tuple[str, list[Point]]] = {}
    together: dict[str, list[Point]] = {name: [] for name in TOGETHER}
    for path in sorted(RESULTS.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if not is_of_today(content):
            continue
        own = points(content)
        if len(own) > 1:
            seeds = len(content.get("seeds", [0]))
            said = f"{seeds} seeds" if seeds > 1 else "1 seed"
            found[path.stem] = (f"{path.stem}, {said}", own)
        method = METHODS.get(content["experiment"], content["experiment"])
        for name, (dataset, _) in TOGETHER.items():
            if content["dataset"] == dataset:
                together[name] += [
                    Point(p.name, method, p.accuracy, p.error, p.costs, p.kind) for p in own
                ]
    for name, (_, title) in TOGETHER.items():
        if {"baseline"} < {point.kind for point in together[name]}:  # and what it became
            found[name] = (f"All methods on {title}", together[name])
    return found


def digest(title: str, drawn: Sequence[Point]) -> str:
    """Return what changes when a picture's numbers do."""
    content = json.dumps([DRAWING, title, *(asdict(point) for point in drawn)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


# Drawing ---------------------------------------------------------------------------------------


def draw(name: str, title: str, drawn: Sequence[Point]) -> bytes:
    """Return a picture as SVG: a panel for each cost that differs between the networks."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    costs = [
        cost for cost in COSTS
        if len({point.costs.get(cost) for point in drawn} - {None}) > 1
        and not (cost == "timesteps" and name in TOGETHER)
    ]  # fmt: skip
    with rc_context(STYLE):
        width = SIZE[0] * max(len(costs), 1)
        figure = Figure(figsize=(width, SIZE[1]))
        axes = figure.subplots(1, max(len(costs), 1), sharey=True, squeeze=False)[0]
        figure.subplots_adjust(0.55 / width, 0.16, 1 - 0.1 / width, 0.9, wspace=0.06)
        for panel, cost in zip(axes, costs, strict=False):
            _panel(panel, cost, [point for point in drawn if cost in point.costs], name in TOGETHER)
        axes[0].set_ylabel("accuracy (%)")
        axes[0].set_title(title, loc="left", fontsize=FONT + 1)
        content = io.BytesIO()
        about = {"Date": None, "Creator": None, "Identifier": digest(title, drawn)}
        figure.savefig(content, format="svg", transparent=True, metadata=about)
    return content.getvalue()


def lowest(accuracies: Sequence[float]) -> float:
    """Return where the axis of accuracy begins, so that one failed network does not squeeze it."""
    best = max(accuracies)
    middle = sorted(best - accuracy for accuracy in accuracies)[len(accuracies) // 2]
    return max(min(accuracies), best - max(3 * middle, 0.01))


def short(value: float) -> str:
    """Return a large number in few signs, such as 10k or 2.5M."""
    for factor, unit in ((1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:g}{unit}"
    return f"{value:g}"


def _panel(panel: Any, cost: str, drawn: Sequence[Point], together: bool) -> None:
    from matplotlib import ticker

    xs = [point.costs[cost] for point in drawn]
    ys = [100 * point.accuracy for point in drawn]
    low = 100 * lowest([point.accuracy for point in drawn])
    top = max(y + 100 * point.error for y, point in zip(ys, drawn, strict=True))
    margin = 0.08 * (top - low) or 0.1
    panel.set_ylim(low - margin, top + margin)
    if max(xs) > 5 * min(xs):
        panel.set_xscale("log")
        panel.set_xlim(min(xs) / 1.6, max(xs) * 1.6)
        panel.minorticks_off()
        if max(xs) < 100 * min(xs):
            panel.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    else:
        room = 0.2 * (max(xs) - min(xs)) or 1.0
        panel.set_xlim(min(xs) - room, max(xs) + room)
        panel.xaxis.set_major_locator(ticker.MaxNLocator(5))
    panel.xaxis.set_major_formatter(lambda x, _: short(x))
    panel.set_xlabel(COSTS[cost])
    best = front(xs, ys)
    line = {"where": "post", "color": GREY, "lw": 1, "zorder": 1}
    panel.step([xs[i] for i in best], [ys[i] for i in best], **line)
    names = dict.fromkeys(p.series for p in drawn if p.kind != "baseline" or together)
    colours = {series: COLOURS[n % len(COLOURS)] for n, series in enumerate(names)}
    for series, colour in colours.items():
        mine = sorted((i for i, p in enumerate(drawn) if p.series == series), key=lambda i: xs[i])
        if len(mine) > 1 and not together:
            line = {"color": colour, "lw": 0.8, "alpha": 0.6}
            panel.plot([xs[i] for i in mine], [ys[i] for i in mine], **line)
    marks: dict[tuple[str, str], list[int]] = {}
    for i, point in enumerate(drawn):
        marker = MARKERS.get(point.kind, "o") if ys[i] >= low else "v"
        marks.setdefault((colours.get(point.series, GREY), marker), []).append(i)
    for (colour, marker), mine in marks.items():
        bars = None if marker == "v" else [100 * drawn[i].error for i in mine]
        places = [xs[i] for i in mine], [max(ys[i], low) for i in mine]
        panel.errorbar(*places, yerr=bars, fmt=marker, color=colour, ms=5, elinewidth=0.8)
    _labels(panel, xs, [max(y, low) for y in ys], drawn, best, colours, together)


def _labels(
    panel: Any, xs: Sequence[float], ys: Sequence[float], drawn: Sequence[Point],
    best: Sequence[int], colours: dict[str, str], together: bool,
) -> None:  # fmt: skip
    """Write names beside the networks, where there is room: products and the front come first."""
    places = panel.transData.transform(list(zip(xs, ys, strict=True))) * 72 / panel.figure.dpi
    frame = panel.get_window_extent().extents * 72 / panel.figure.dpi
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in places]

    def rank(i: int) -> tuple[bool, bool, float]:
        return (drawn[i].kind != "product", i not in best, -ys[i])

    # With all methods together: the front, the products, and the best network of other methods.
    named = {i for i, point in enumerate(drawn) if i in best or point.kind == "product"}
    small = [i for i, point in enumerate(drawn) if point.kind != "baseline"]
    for series in {drawn[i].series for i in small} - {drawn[i].series for i in named & {*small}}:
        named.add(max((i for i in small if drawn[i].series == series), key=ys.__getitem__))
    said: set[str] = set()
    for i in sorted(range(len(drawn)), key=rank):
        point = drawn[i]
        text = point.name
        if together:
            text = point.name if point.kind == "baseline" else point.series
            if text in said or i not in named:
                continue
        elif point.series in said:  # the first one of a series has its name
            text = point.name.removeprefix(point.series).strip() or point.name
        width, height = 0.58 * (FONT - 1) * len(text), FONT
        x, y = places[i]
        for dx, dy in _shifts(width, height):
            box = (x + dx, y + dy, x + dx + width, y + dy + height)
            inside = frame[0] <= box[0] and box[2] <= frame[2]
            inside = inside and frame[1] <= box[1] and box[3] <= frame[3] + height
            others = [each for number, each in enumerate(taken) if number != i]
            if inside and not any(_overlap(box, each) for each in others):
                style = {"fontsize": FONT - 1, "color": colours.get(point.series, GREY)}
                panel.annotate(text, (xs[i], ys[i]), (dx, dy), textcoords="offset points", **style)
                taken.append(box)
                said.add(text if together else point.series)
                break


def _shifts(width: float, height: float) -> list[tuple[float, float]]:
    """Return where a text may stand beside its point: right, left, above, below, at a corner."""
    sides, levels = (6.0, -6 - width), (6.0, -6 - height)
    beside = [*((x, -3.0) for x in sides), *((-width / 2, y) for y in levels)]
    return beside + [(x, y) for x in sides for y in levels]


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


# Pages -----------------------------------------------------------------------------------------


def rewrite(page: str, folder: Path, there: dict[str, tuple[str, list[Point]]]) -> str:
    """Return a page with the pictures that there are between its markers."""

    def one(found: re.Match[str]) -> str:
        if found[2] not in there:
            return f"{found[1]}{found[4]}"
        title = there[found[2]][0]
        path = Path(os.path.relpath(DOCS / "pictures" / f"{found[2]}.svg", folder)).as_posix()
        return f"{found[1]}\n![{title}: test accuracy against what it costs]({path})\n\n{found[4]}"

    return MARKER.sub(one, page)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw and link what is stale, or print it."""
    parser = argparse.ArgumentParser(description="Draw the pictures of the docs from results/.")
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if one is stale")
    check = parser.parse_args(argv).check
    there, folder, stale = wanted(), DOCS / "pictures", []
    for name, (title, drawn) in there.items():
        path = folder / f"{name}.svg"
        old = DIGEST.search(path.read_text(encoding="utf-8")) if path.exists() else None
        if old and old[1] == digest(title, drawn):
            continue
        stale.append(path)
        if not check:
            folder.mkdir(exist_ok=True)
            path.write_bytes(draw(name, title, drawn))
    for path in sorted(folder.glob("*.svg")):
        if path.stem not in there:
            stale.append(path)
            if not check:
                path.unlink()
    for path in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]:
        old_page = path.read_text(encoding="utf-8")
        if (page := rewrite(old_page, path.parent, there)) != old_page:
            stale.append(path)
            if not check:
                path.write_text(page, encoding="utf-8")
    for path in stale:
        done = "is stale; run python tools/pictures.py" if check else "rewritten"
        print(f"{path.relative_to(ROOT)}: {done}", file=sys.stderr if check else sys.stdout)
    return 1 if stale and check else 0


if __name__ == "__main__":
    sys.exit(main())
