"""How the command shows facts to people."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxsnn.metrics.columns import number
from jaxsnn.report import to_json

__all__ = [
    "print_facts",
    "print_forms",
    "print_json",
    "print_layers",
    "print_pairs",
    "print_rows",
]

COLUMNS = {
    "shape": "shape",
    "density %": "density",
    "bits": "bits",
    "bytes": "num_bytes",
    "neurons": "neurons",
    "decay": "decay",
    "threshold": "threshold",
}

# What the names of the forms begin with that are alike; a form without places has no beginning.
FORMS = {
    "floats": ("floats",),
    "codes": ("codes", "scaled_", "grid_", "near_", "channel_"),
    "bitmap": ("sparse_",),
    "gaps": ("indexed_",),
    "groups": ("grouped_",),
}


def print_json(facts: Mapping[str, Any]) -> None:
    """Print an object for programs."""
    print(json.dumps(to_json(facts), indent=2, allow_nan=False))


def print_layers(layers: Sequence[Mapping[str, Any]]) -> None:
    """Print a line for each layer."""
    lines = [[row["name"], *(_cell(field, row) for field in COLUMNS.values())] for row in layers]
    print_rows(["layer", *COLUMNS], lines)


def print_pairs(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    """Print the layers of two files side by side, `a → b` where they differ."""
    sides = [{row["name"]: row for row in facts["layers"]} for facts in (first, second)]
    lines = []
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        cells = [name]
        for field in COLUMNS.values():
            pair = [_cell(field, side[name]) if name in side else "none" for side in sides]
            cells.append(pair[0] if pair[0] == pair[1] else " → ".join(pair))
        lines.append(cells)
    print_rows(["layer", *COLUMNS], lines)


def print_forms(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a line for each leaf: its bytes in each kind of form, and what entropy allows."""
    lines = []
    for row in rows:
        cells = [row["name"], number("shape", row["shape"]), f"{100 * row['density']:.3g}"]
        for start in FORMS.values():
            found = [size for form, size in row["forms"].items() if form.startswith(start)]
            cells.append(f"{min(found):,}" if found else number("bytes", None))
        lines.append([*cells, f"{row['bytes']:,}", f"{row['least']:,.0f}", row["form"]])
    head = ["leaf", "shape", "density %", *FORMS, "as it is", "entropy", "form"]
    print_rows(head, lines)


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print names and values, one a line."""
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:{width}}  {value}")


def _cell(field: str, row: Mapping[str, Any]) -> str:
    if field == "num_bytes":
        return f"{row['bytes']:,}"
    value = row[field]
    if field == "neurons":
        return number(field, None) if value is None else f"{value:,}"
    if isinstance(value, list) and field != "shape":
        ends = [f"{end:.4g}" for end in (np.min(value), np.max(value))]
        return ends[0] if ends[0] == ends[1] else " to ".join(ends)
    return number(field, value)


def print_rows(head: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Print lines of cells under a head; the first column to the left, the others to the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1, 0, 1), header_style="bold")
    for i, title in enumerate(head):
        table.add_column(title, justify="right" if i else "left", no_wrap=True)
    for line in lines:
        table.add_row(*map(Text, line))
    width = None if Console().is_terminal else 1000  # what is piped is not cut
    Console(width=width).print(table)
