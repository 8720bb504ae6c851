"""One page of HTML about a run, which needs no other file and can be mailed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxsnn.files import write_atomic
from jaxsnn.metrics import warnings
from jaxsnn.metrics.columns import COLUMNS, LAYER_COLUMNS, number, ratio
from jaxsnn.metrics.intervals import wilson
from jaxsnn.metrics.report import Row
from jaxsnn.report import comparisons
from jaxsnn.report.comparisons import Picture
from jaxsnn.report.results import read_results, to_json
from jaxsnn.report.svg import escape

__all__ = ["CAPTIONS", "drawn", "write_html"]

# What `write_html` says below the pictures of these names, which come first and in this order.
CAPTIONS = {
    "accuracies": "Accuracy on the test set. Lines are 95 % intervals (Wilson), of the test "
    "samples, not of other seeds of the training.",
    "pareto": "Accuracy against what the networks cost, with 95 % intervals.",
    "stages": "What each stage cost in accuracy, and by what factor it made each measure smaller.",
    "confusion": "Confusions on the test set.",
    "accuracy_over_time": "Accuracy of a decision after each time step; of up to four networks "
    "with 95 % intervals.",
    "curves": "Accuracy, loss and spikes per neuron and time step over the epochs; every other "
    "phase is on a darker ground.",
    "residuals": "Primal residual (weights to their set) and dual residual (how far the set's "
    "point moved) of each layer.",
    "layers": "Density, bits and spike rate of each layer.",
    "raster": "Spikes of one sample.",
    "histograms": "Weights before and after compression, zeros left out.",
}
MOST_OPEN = 3  # networks whose tables of layers are all unfolded
SHOWN = ("accuracy", "file_bytes", "density", "bits", "synops")  # at the top, of the product


def drawn(pictures: Iterable[Picture]) -> tuple[dict[str, str], list[str]]:
    """Draw pictures; one that cannot be drawn costs a line, never the report.

    >>> drawn([("one", lambda: "<svg></svg>"), ("two", lambda: 1 / 0)])
    ({'one': '<svg></svg>'}, ['picture two was not drawn: ZeroDivisionError: division by zero'])

    Args:
      pictures: names, and what draws each.

    Returns:
      Name -> HTML; a line for each that could not be drawn.
    """
    found, failed = {}, []
    for name, picture in pictures:
        try:
            found[name] = picture()
        except Exception as error:  # whatever it is: the results matter more than a picture
            reason = " ".join(str(error).split())[:200]
            failed.append(f"picture {name} was not drawn: {type(error).__name__}: {reason}")
    return found, failed


def write_html(
    run_dir: str | Path,
    title: str,
    *,
    config: Mapping[str, Any],
    summary: str = "",
    figures: Mapping[str, str] | None = None,
    compared: str | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Write `report.html`, one page that needs no other file.

    Tables and the pictures that compare networks come from the run's `results.json`.

    Args:
      run_dir: folder of the run.
      title: heading of the page.
      config: the configuration, nested mappings of plain values.
      summary: a paragraph below the heading.
      figures: further pictures, name -> HTML, as the functions of `report.plots` return it.
      compared: the network that is drawn beside the first one; the last if left out.
      notes: lines below the pictures, such as why one could not be drawn.

    Returns:
      The path of the page.

    Raises:
      UserError: if `results.json` cannot be read, or no row is called `compared`.

    Example:
      >>> import tempfile
      >>> from jaxsnn.report.results import write_results
      >>> about = {"experiment": "own", "dataset": "digits", "preset": "none", "seed": 0}
      >>> about |= {"command": "python own.py", "seconds": 1.5}
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = write_results(folder, **about, rows=[{"name": "dense"}])
      ...     page = write_html(folder, "My run", config={"rate": 0.1}).read_text()
      >>> "<h1>My run</h1>" in page
      True
    """
    run_dir = Path(run_dir)
    results = read_results(run_dir)
    rows = results["rows"]
    found, failed = drawn(comparisons.of_rows(rows, compared)) if rows else ({}, [])
    pictures = _pictures(found | dict(figures or {}), [*notes, *failed])
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    head = (
        "<meta charset=utf-8><meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{style}</style>"
    )
    body = "\n".join(_body(results, title, summary, config, compared, pictures))
    path = run_dir / "report.html"
    write_atomic(path, f"<!doctype html>\n<html lang=en>{head}<body>\n{body}\n</body></html>\n")
    return path


def _body(
    results: Mapping[str, Any],
    title: str,
    summary: str,
    config: Mapping[str, Any],
    compared: str | None,
    pictures: Sequence[str],
) -> list[str]:
    """Return the parts of a page, from its heading on."""
    rows = results["rows"]
    where = [results["experiment"], results["dataset"], f"preset {results['preset']}"]
    where += [f"seed {results['seed']}", f"{results['seconds']:.0f} s"]
    return [
        f"<h1>{escape(title)}</h1>",
        f"<p class=meta>{escape(' · '.join(where))}</p>",
        _at_a_glance(rows, compared),
        *([f"<p>{escape(summary)}</p>"] if summary else []),
        "<h2>Networks</h2>",
        _network_table(rows),
        _explained(rows),
        *(f"<p>Warning: {escape(line)}.</p>" for line in warnings.of_rows(rows)),
        *pictures,
        "<h2>Layers</h2>",
        *(
            _layer_table(row, is_open=len(rows) <= MOST_OPEN or i in (0, len(rows) - 1))
            for i, row in enumerate(rows)
            if row.get("layers")
        ),
        "<h2>Command</h2>",
        f"<pre>{escape(results['command'])}</pre>",
        f"<details><summary>Configuration</summary>{_pairs(_flatten(to_json(config)))}</details>",
        f"<details><summary>Versions</summary>{_pairs(results['versions'])}</details>",
    ]


def _at_a_glance(rows: Sequence[Row], compared: str | None) -> str:
    """Show what the product is worth and costs, each measure beside the baseline's."""
    if len(rows) < 2:
        return ""
    product = next((row for row in rows[::-1] if row["name"] == compared), rows[-1])
    titles = {field: title for title, field in COLUMNS.items()}
    cards = "".join(
        f"<div>{escape(titles[field])}<b>{number(field, product[field])}</b>"
        f"<small>{ratio(field, product, rows[0]) or 'as before'}</small></div>"
        for field in SHOWN
        if product.get(field) is not None
    )
    names = f"{escape(product['name'])}, against {escape(rows[0]['name'])}"
    return f"<p class=meta>{names}:</p><div class=cards>{cards}</div>"


def _explained(rows: Sequence[Row]) -> str:
    counts = sorted({row["samples"] for row in rows if row.get("samples")})
    counted = (
        f"Accuracies were counted on {' or '.join(f'{n:,}' for n in counts)} test samples; the "
        "range below each is its 95 % interval (Wilson). "
    )
    return (
        f"<p class=meta>{counted if counts else ''}Small coloured figures compare with the first "
        "row. Density and bits are those of the "
        "kernels; the bytes of weights are those of all parameters, biases and norms included, and "
        "sum up in the tables of layers; the file has running statistics and a header besides. "
        "Spikes, SynOps (additions of a non-zero weight) and energy (45 nm, float32: 4.6 pJ for a "
        "multiplication, 0.9 pJ for an addition) are those of one sample over all time steps.</p>"
    )


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Make a table of cells that are HTML already."""
    top = "".join(f"<th>{escape(title)}</th>" for title in head)
    rest = "\n".join("<tr>" + "".join(f"<td>{c}</td>" for c in line) + "</tr>" for line in lines)
    return f"<div class=wide><table><tr>{top}</tr>\n{rest}\n</table></div>"


def _network_table(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        cells = [
            f"{number(field, row.get(field))}{_range(field, row)}"
            f"<small>{ratio(field, row, rows[0])}</small>"
            for field in COLUMNS.values()
        ]
        lines.append([f"<b>{escape(row['name'])}</b>", *cells])
    return _table(["network", *COLUMNS], lines)


def _range(field: str, row: Row) -> str:
    """Write the 95 % interval of an accuracy, where it is known on how many samples it stands."""
    if field != "accuracy" or row.get(field) is None or not row.get("samples"):
        return ""
    low, high = wilson(row[field], row["samples"])
    return f"<small class=range>{100 * low:.2f}–{100 * high:.2f}</small>"


def _layer_table(row: Row, *, is_open: bool) -> str:
    lines = [
        [escape(layer["name"]), *(number(f, layer.get(f)) for f in LAYER_COLUMNS.values())]
        for layer in row["layers"]
    ]
    table = _table(["layer", *LAYER_COLUMNS], lines)
    return f"<details{' open' * is_open}><summary>{escape(row['name'])}</summary>{table}</details>"


def _pairs(values: Mapping[str, Any]) -> str:
    lines = "\n".join(
        f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in values.items()
    )
    return f"<table class=pairs>{lines}</table>"


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return `{"train.epochs": 12}` for `{"train": {"epochs": 12}}`."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _pictures(found: Mapping[str, str], notes: Sequence[str]) -> list[str]:
    """Return the part of the page with pictures and with notes; nothing if there are none."""
    order = [*(name for name in CAPTIONS if name in found), *sorted(set(found) - set(CAPTIONS))]
    parts = [_picture(name, found[name]) for name in order]
    parts += [f"<p class=meta>{escape(note)}</p>" for note in notes]
    return ["<h2>Plots</h2>", *parts] if parts else []


def _picture(name: str, content: str) -> str:
    caption = escape(CAPTIONS.get(name, name.replace("_", " ")))
    label = escape(name.replace(" ", "-"))
    return (
        f'<figure class=plot id="plot-{label}">{content}<figcaption>{caption}</figcaption></figure>'
    )
