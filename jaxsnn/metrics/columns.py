"""The columns of tables, and how a measure is written in them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["COLUMNS", "LAYER_COLUMNS", "factor", "network_table", "number", "plain_table", "ratio"]

# Title and field of the columns that compare networks, and of those that compare layers. Density
# and bits are those of the kernels, the bytes those of all parameters.
COLUMNS = {
    "accuracy %": "accuracy",
    "density %": "density",
    "kernel bits": "bits",
    "weights kB": "weight_bytes",
    "file kB": "file_bytes",
    "steps": "timesteps",
    "spikes": "spikes_per_sample",
    "SynOps": "synops",
    "energy nJ": "energy_pj",
}
LAYER_COLUMNS = {
    "shape": "shape",
    "density %": "density",
    "kernel bits": "bits",
    "weights kB": "bytes",
    "SynOps": "synops",
    "MACs": "macs",
    "neurons": "neurons",
    "spike rate": "rate",
    "silent": "silent",
    "saturated": "saturated",
}


def number(field: str, value: Any) -> str:
    """Write a measure as it stands in a table; a dash where it does not apply.

    >>> number("density", 0.05), number("synops", 3.21e6), number("energy_pj", None)
    ('5', '3.21M', '–')
    """
    if value is None:
        return "–"
    if field == "shape":
        return "×".join(map(str, value))
    if field == "accuracy":
        return f"{100 * value:.2f}"
    if field == "density":
        return f"{100 * value:.3g}"
    if field in ("weight_bytes", "file_bytes", "bytes"):
        return f"{value / 1000:.1f}"
    return _short(value / 1000 if field == "energy_pj" else value)


def ratio(field: str, row: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """Write how a measure compares with the baseline's, accuracy in points of a hundred.

    >>> ratio("bits", {"bits": 4}, {"bits": 32}), ratio("accuracy", {"accuracy": 0.5}, {})
    ('÷8', '')

    Args:
      field: of the rows.
      row: of a network.
      base: of the baseline.

    Returns:
      The text, empty for the baseline itself and where there is nothing to compare.
    """
    value, reference = row.get(field), base.get(field)
    if row is base or value is None or reference is None:
        return ""
    if field == "accuracy":
        return f"{100 * (value - reference):+.2f}"
    if not value or not reference or value == reference:
        return ""
    return factor(reference / value)


def factor(times: float) -> str:
    """Write by what factor a measure became smaller, or larger.

    >>> factor(8), factor(0.5), factor(1032.6)
    ('÷8', '×2', '÷1,033')

    Args:
      times: old value over new, > 0.
    """
    sign, size = ("÷", times) if times >= 1 else ("×", 1 / times)
    return sign + (f"{size:,.0f}" if size >= 1000 else f"{size:.3g}")


def network_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Make a table of rich with a line for each network, ratios to the first one in grey."""
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
        table.add_row(Text(str(row["name"])), *cells)
    return table


def plain_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write the table of networks as plain text, lines of any length.

    >>> print(plain_table([{"name": "dense", "bits": 32}, {"name": "small", "bits": 4}]))
              accuracy density kernel weights file                      energy
     network         %       %   bits      kB   kB steps spikes SynOps      nJ
     dense           –       –     32       –    –     –      –      –       –
     small           –       –      4       –    –     –      –      –       –
                                   ÷8
    """
    from rich.console import Console

    text = io.StringIO()
    console = Console(file=text, width=1000, no_color=True, highlight=False, force_terminal=False)
    console.print(network_table(rows))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _short(value: float) -> str:
    """Write four digits and a power of a thousand: 3.21M."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.4g}{unit}"
    return f"{value:.4g}"
