"""What a run leaves behind for programs: results.json, and the table that is printed of it.

A row is one network, a `metrics.Report` or the mapping that it writes; the first row is the dense
baseline, and every ratio is against it.
"""

from __future__ import annotations

import json
import math
import platform
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxsnn import fields, foreign
from jaxsnn.errors import UserError
from jaxsnn.files import write_atomic
from jaxsnn.metrics import warnings
from jaxsnn.metrics.columns import LAYER_COLUMNS, network_table
from jaxsnn.metrics.report import Report, Row
from jaxsnn.release import RELEASE

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "ROW_FIELDS",
    "as_rows",
    "print_table",
    "read_results",
    "to_json",
    "versions",
    "write_results",
]

# What programs may rely on finding in each row of results.json; null where it does not apply.
ROW_FIELDS = (
    *("name", "accuracy", "density", "bits", "weight_bytes", "file_bytes", "timesteps"),
    *("spike_rate", "spikes_per_sample", "synops", "macs", "bit_ops", "energy_pj", "seed"),
)

# The top level of results.json, further fields behind.
FIELDS = ("experiment", "dataset", "preset", "seed", "command", "versions", "seconds", "rows")


_MEASURE = fields.maybe(fields.NUMBER)
RESULTS = dict.fromkeys(FIELDS, fields.TEXT) | {
    "seed": _MEASURE,
    "versions": fields.each(fields.TEXT),
    "seconds": fields.within(0, 1e12),
    "rows": fields.several(fields.OBJECT),
}
ROW = dict.fromkeys(ROW_FIELDS, _MEASURE) | {"name": fields.TEXT}
MORE = {
    "layers": fields.maybe(fields.several(fields.OBJECT)),
    "accuracy_over_time": fields.maybe(fields.several(fields.NUMBER)),
    "samples": fields.maybe(fields.whole(1)),
    "confusion": fields.maybe(fields.several(fields.several(fields.whole(0)))),
}
# A list of numbers as `json.dumps` spreads it over lines; no text has a line break of its own.
SPREAD = re.compile(r"\[\n([-+\d.eE,\snul]+)\]")
LAYER = dict.fromkeys(LAYER_COLUMNS.values(), _MEASURE) | {"shape": fields.maybe(fields.SHAPE)}


def versions() -> dict[str, str]:
    """Return the releases of what a result depends on, and the machine: names -> text."""
    packages = {name: name for name in ("jax", "jaxlib", "flax", "optax", "numpy")}
    packages["orbax"] = "orbax-checkpoint"
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        **{name: _release(package) for name, package in packages.items()},
        "jaxsnn": RELEASE,  # the code that runs, whatever is installed
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
    rows: Sequence[Report | Mapping[str, Any]],
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

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = write_results(
      ...         folder, experiment="own", dataset="digits", preset="none", seed=0,
      ...         command="python own.py", seconds=1.5, rows=[Report("dense", accuracy=0.98)],
      ...     )
      ...     found = read_results(folder)
      >>> found["rows"][0]["accuracy"]
      0.98
    """
    results: dict[str, Any] = {
        "experiment": experiment,
        "dataset": dataset,
        "preset": preset,
        "seed": seed,
        "command": command,
        "versions": versions(),
        "seconds": seconds,
        "rows": [dict.fromkeys(ROW_FIELDS) | row for row in as_rows(rows)],
    }
    if taken := set(results) & set(extra or {}):
        raise UserError(f"extra result {', '.join(sorted(taken))} is a fixed field, rename it")
    if any(not row["name"] for row in results["rows"]):
        raise UserError("a row of the results has no name; the baseline is called 'dense'")
    path = Path(run_dir) / "results.json"
    text = json.dumps(to_json(results | dict(extra or {})), indent=2, allow_nan=False)
    write_atomic(path, SPREAD.sub(lambda found: f"[{' '.join(found[1].split())}]", text) + "\n")
    return path


def to_json(value: Any) -> Any:
    """Return the value as plain JSON types: arrays as lists, NaN and infinity as None.

    >>> to_json({"a": np.array([0.5, np.nan]), "b": (1, True)})
    {'a': [0.5, None], 'b': [1, True]}
    """
    if isinstance(value, Mapping):
        return {str(key): to_json(each) for key, each in value.items()}
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return to_json(np.asarray(value).tolist())
    if isinstance(value, (list, tuple, set)):
        return [to_json(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def read_results(run_dir: str | Path) -> dict[str, Any]:
    """Return what `write_results` wrote; `Report.from_row` reads its rows.

    Args:
      run_dir: folder of the run.

    Raises:
      UserError: if `results.json` is missing, damaged or lacks a field of the contract.

    Example:
      >>> read_results("no such run")
      Traceback (most recent call last):
      ...
      jaxsnn.errors.UserError: ...
    """
    path = Path(run_dir) / "results.json"
    found = foreign.read_json(path, "the results of a run")
    results = fields.check(str(path), found, RESULTS, others=fields.ANY)
    for number, row in enumerate(results["rows"], 1):
        where = f"{path}: row {number}"
        fields.check(where, row, ROW, optional=MORE, others=fields.ANY)
        for layer in row.get("layers") or ():
            fields.check(
                f"{where}, a layer", layer, {"name": fields.TEXT}, optional=LAYER, others=fields.ANY
            )
    return results


def as_rows(rows: Sequence[Report | Mapping[str, Any]]) -> list[Row]:
    """Return reports as rows of results.json; mappings are rows already.

    >>> [row["name"] for row in as_rows([Report("dense"), {"name": "small"}])]
    ['dense', 'small']
    """
    return [row.to_row() if isinstance(row, Report) else dict(row) for row in rows]


def print_table(
    rows: Sequence[Report | Mapping[str, Any]], *, console: Console | None = None
) -> None:
    """Print a line for each network, with ratios to the first one in grey.

    Args:
      rows: the networks; the first is the baseline.
      console: of rich, to print to; None for standard output.

    Example:
      >>> from io import StringIO
      >>> from rich.console import Console
      >>> console = Console(file=StringIO())
      >>> print_table([Report("dense", accuracy=0.98)], console=console)
      >>> "dense" in console.file.getvalue()
      True
    """
    from rich.console import Console

    console = console or Console()
    console.print(network_table(as_rows(rows)))
    for line in warnings.of_rows(as_rows(rows)):
        console.print(f"warning: {line}", highlight=False, soft_wrap=True)


def _release(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
