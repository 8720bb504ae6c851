"""One page of HTML about a run, which needs no other file."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxsnn.errors import UserError
from jaxsnn.files import write_atomic
from jaxsnn.metrics import warnings
from jaxsnn.metrics.columns import COLUMNS, LAYER_COLUMNS, number, ratio
from jaxsnn.metrics.report import Row
from jaxsnn.report.results import read_results, to_json

__all__ = ["CAPTIONS", "write_html"]

# What `write_html` says below the plots of these file names.
CAPTIONS = {
    "stages": "What each stage cost in accuracy, and by what factor it made each measure smaller.",
    "curves": "Accuracy, loss and spikes per neuron and time step over the epochs; grey marks "
    "every other phase.",
    "residuals": "Primal residual (weights to their set) and dual residual (how far the set's "
    "point moved) of each layer.",
    "layers": "Density, bits and spike rate of each layer.",
    "accuracy_over_time": "Accuracy of a decision after each time step.",
    "raster": "Spikes of one sample.",
    "histograms": "Weights before and after compression, zeros left out.",
}


def write_html(
    run_dir: str | Path,
    title: str,
    *,
    config: Mapping[str, Any],
    summary: str = "",
    figures: Mapping[str, str | Path] | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Write `report.html`, one page that needs no other file.

    Args:
      run_dir: folder of the run; its `results.json` gives the tables.
      title: heading of the page.
      config: the configuration, nested mappings of plain values.
      summary: a paragraph below the heading.
      figures: caption -> PNG; None for all in `run_dir/plots`, those of `CAPTIONS` first.
      notes: lines below the plots, such as why one could not be drawn.

    Returns:
      The path of the page.

    Raises:
      UserError: if `results.json` or a figure cannot be read.

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
    try:
        figures = _plots(run_dir / "plots") if figures is None else figures
        pictures = [_picture(caption, Path(path)) for caption, path in figures.items()]
    except OSError as error:
        raise UserError(f"cannot make a page of {run_dir}: {error}") from error
    rows = results["rows"]
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    where = [results["experiment"], results["dataset"], f"preset {results['preset']}"]
    where += [f"seed {results['seed']}", f"{results['seconds']:.0f} s"]
    body = [
        f"<h1>{_escape(title)}</h1>",
        f"<p class=meta>{_escape(' · '.join(where))}</p>",
        f"<p>{_escape(summary)}</p>" if summary else "",
        "<h2>Networks</h2>",
        _network_table(rows),
        "<p class=meta>Small figures compare with the first row. Density and bits are those of the "
        "kernels; the bytes of weights are those of all parameters, biases and norms included, and "
        "sum up in the tables of layers; the file has running statistics and a header besides. "
        "Spikes, SynOps (additions of a non-zero weight) and energy (45 nm, float32: 4.6 pJ for a "
        "multiplication, 0.9 pJ for an addition) are those of one sample over all time steps.</p>",
        *(f"<p>Warning: {_escape(line)}.</p>" for line in warnings.of_rows(rows)),
        *(["<h2>Plots</h2>", *pictures] if pictures or notes else []),
        *(f"<p class=meta>{_escape(note)}</p>" for note in notes),
        "<h2>Layers</h2>",
        *(_layer_table(row) for row in rows if row.get("layers")),
        "<h2>Configuration</h2>",
        _pairs(_flatten(to_json(config))),
        "<h2>Versions</h2>",
        _pairs(results["versions"]),
        "<h2>Command</h2>",
        f"<pre>{_escape(results['command'])}</pre>",
    ]
    head = (
        "<meta charset=utf-8><meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{_escape(title)}</title><style>{style}</style>"
    )
    path = run_dir / "report.html"
    page = "\n".join(part for part in body if part)
    write_atomic(path, f"<!doctype html>\n<html lang=en>{head}<body>\n{page}\n</body></html>\n")
    return path


def _escape(text: Any) -> str:
    return html.escape(str(text))


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Make a table of cells that are HTML already."""
    top = "".join(f"<th>{_escape(title)}</th>" for title in head)
    rest = "\n".join("<tr>" + "".join(f"<td>{c}</td>" for c in line) + "</tr>" for line in lines)
    return f"<div class=wide><table><tr>{top}</tr>\n{rest}\n</table></div>"


def _network_table(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        cells = [
            f"{number(field, row.get(field))}<small>{ratio(field, row, rows[0])}</small>"
            for field in COLUMNS.values()
        ]
        lines.append([f"<b>{_escape(row['name'])}</b>", *cells])
    return _table(["network", *COLUMNS], lines)


def _layer_table(row: Row) -> str:
    lines = [
        [_escape(layer["name"]), *(number(f, layer.get(f)) for f in LAYER_COLUMNS.values())]
        for layer in row["layers"]
    ]
    return f"<h3>{_escape(row['name'])}</h3>" + _table(["layer", *LAYER_COLUMNS], lines)


def _pairs(values: Mapping[str, Any]) -> str:
    lines = "\n".join(
        f"<tr><th>{_escape(key)}</th><td>{_escape(value)}</td></tr>"
        for key, value in values.items()
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


def _plots(folder: Path) -> dict[str, Path]:
    """Return caption -> picture of a folder, the known ones first and in their order."""
    found = {path.stem: path for path in sorted(folder.glob("*.png"))}
    order = [*(stem for stem in CAPTIONS if stem in found), *sorted(set(found) - set(CAPTIONS))]
    return {CAPTIONS.get(stem, stem.replace("_", " ")): found[stem] for stem in order}


def _picture(caption: str, path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    alt = _escape(caption)
    image = f'<img alt="{alt}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{alt}</figcaption></figure>"
