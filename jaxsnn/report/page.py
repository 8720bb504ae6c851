"""What a run leaves behind: results.json, a printed table and one page of HTML.

A row is one network, as `metrics.report` measures it; the first row is the dense baseline, and
every ratio is against it.
"""

from __future__ import annotations

import base64
import html
import json
import math
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxsnn.errors import UserError
from jaxsnn.files import write_atomic
from jaxsnn.metrics import Row
from jaxsnn.metrics.columns import COLUMNS, LAYER_COLUMNS, number, ratio

if TYPE_CHECKING:
    from rich.console import Console

# What programs may rely on finding in each row of results.json; null where it does not apply.
ROW_FIELDS = (
    *("name", "accuracy", "density", "bits", "weight_bytes", "file_bytes", "timesteps"),
    *("spike_rate", "spikes_per_sample", "synops", "macs", "bit_ops", "energy_pj", "seed"),
)

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


def versions() -> dict[str, str]:
    """Return the releases of what a result depends on, and the machine: names -> text."""
    packages = {name: name for name in ("jax", "jaxlib", "flax", "optax", "numpy")}
    packages |= {"orbax": "orbax-checkpoint", "jaxsnn": "jaxsnn-compress"}
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        **{name: _release(package) for name, package in packages.items()},
        "platform": platform.platform(),
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
    }


def write_results(
    run_dir: str | Path,
    *,
    experiment: str,
    dataset: str,
    preset: str,
    seed: int,
    command: str,
    seconds: float,
    rows: Sequence[Mapping[str, Any]],
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write `results.json`, the contract with programs that read a run.

    Every row has at least the fields `ROW_FIELDS`. NaN and infinity become null, arrays lists.

    Args:
      run_dir: folder of the run.
      experiment: name of the module, `admm`.
      dataset: name of the data set.
      preset: name of the preset.
      seed: of the run.
      command: the line that repeats it.
      seconds: what it took, compile time included.
      rows: the networks; the first is the baseline.
      extra: more top-level fields; the fixed ones cannot be replaced.

    Returns:
      The path of the file, which appears under its name only when it is complete.

    Raises:
      UserError: if a row has no name, or `extra` names a fixed field.
    """
    results: dict[str, Any] = {
        "experiment": experiment,
        "dataset": dataset,
        "preset": preset,
        "seed": seed,
        "command": command,
        "versions": versions(),
        "seconds": seconds,
        "rows": [dict.fromkeys(ROW_FIELDS) | dict(row) for row in rows],
    }
    if taken := set(results) & set(extra or {}):
        raise UserError(f"extra result {', '.join(sorted(taken))} is a fixed field, rename it")
    if any(not row["name"] for row in results["rows"]):
        raise UserError("a row of the results has no name; the baseline is called 'dense'")
    path = Path(run_dir) / "results.json"
    text = json.dumps(to_json(results | dict(extra or {})), indent=2, allow_nan=False)
    write_atomic(path, text + "\n")
    return path


def to_json(value: Any) -> Any:
    """Return the value as plain JSON types: arrays as lists, NaN and infinity as None."""
    if isinstance(value, Mapping):
        return {str(key): to_json(each) for key, each in value.items()}
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return to_json(np.asarray(value).tolist())
    if isinstance(value, (list, tuple, set)):
        return [to_json(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def print_table(rows: Sequence[Mapping[str, Any]], *, console: Console | None = None) -> None:
    """Print a line for each network, with ratios to the first one in grey.

    Args:
      rows: of `metrics.report`; the first is the baseline.
      console: of rich, to print to; None for standard output.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 0, 0, 1), header_style="bold")
    table.add_column("network")
    for title in COLUMNS:
        table.add_column(title.replace(" ", "\n"), justify="right")
    for row in rows:
        cells = []
        for field in COLUMNS.values():
            small = ratio(field, row, rows[0])
            cell = Text(number(field, row.get(field)))
            cells.append(cell.append(f"\n{small}", style="dim") if small else cell)
        table.add_row(str(row["name"]), *cells)
    (console or Console()).print(table)


def write_html(
    run_dir: str | Path,
    title: str,
    *,
    config: Mapping[str, Any],
    summary: str = "",
    figures: Mapping[str, str | Path] | None = None,
) -> Path:
    """Write `report.html`, one page that needs no other file.

    Args:
      run_dir: folder of the run; its `results.json` gives the tables.
      title: heading of the page.
      config: the configuration, nested mappings of plain values.
      summary: a paragraph below the heading.
      figures: caption -> PNG; None for all in `run_dir/plots`, those of `CAPTIONS` first.

    Returns:
      The path of the page.

    Raises:
      UserError: if `results.json` or a figure cannot be read.
    """
    run_dir = Path(run_dir)
    try:
        results = json.loads((run_dir / "results.json").read_text(encoding="utf-8"))
        figures = _plots(run_dir / "plots") if figures is None else figures
        pictures = [_picture(caption, Path(path)) for caption, path in figures.items()]
    except (OSError, ValueError) as error:
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
        "<p class=meta>Small figures compare with the first row. Spikes, SynOps (additions of a "
        "non-zero weight) and energy (45 nm, float32: 4.6 pJ for a multiplication, 0.9 pJ for an "
        "addition) are those of one sample over all time steps.</p>",
        *(["<h2>Plots</h2>", *pictures] if pictures else []),
        "<h2>Layers</h2>",
        *(_layer_table(row) for row in rows if row.get("layers")),
        "<h2>Configuration</h2>",
        _pairs(_flatten(to_json(config))),
        "<h2>Versions</h2>",
        _pairs(results["versions"]),
        "<h2>Command</h2>",
        f"<pre>{_escape(results['command'])}</pre>",
    ]
    head = f"<meta charset=utf-8><title>{_escape(title)}</title><style>{style}</style>"
    path = run_dir / "report.html"
    page = "\n".join(part for part in body if part)
    write_atomic(path, f"<!doctype html>\n<html lang=en>{head}<body>\n{page}\n</body></html>\n")
    return path


def _release(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


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
