"""What all pictures share: a figure that is lent, colours, notes and legends.

The colours (Okabe and Ito, "Color Universal Design", 2008) are told apart by colour-blind eyes;
black is the dense baseline wherever networks are compared. Legends stand beside the data.
matplotlib is imported only when something is drawn, and its global state is left alone.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxsnn.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["BASELINE", "COLOURS", "STYLE", "legend", "lend_figure", "note"]

BASELINE = "#4d4d4d"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8c6d1f", "#000000")
STYLE: dict[Any, Any] = {
    "figure.dpi": 130,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "image.interpolation": "nearest",
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.edgecolor": "#888888",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "lines.linewidth": 1.6,
    "legend.frameon": False,
}


@contextmanager
def lend_figure(path: str | Path, width: float, height: float) -> Iterator[Figure]:
    """Lend a figure of some inches; write it to its file when the block ends."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        yield figure
        content = io.BytesIO()
        figure.savefig(content, facecolor="white", format=Path(path).suffix[1:] or "png")
        write_atomic(path, content.getvalue())


def note(panel: Axes, text: str, place: Any, shift: tuple[int, int], **style: Any) -> None:
    """Write text some points away from a place."""
    panel.annotate(text, place, xytext=shift, textcoords="offset points", **style)


def legend(panel: Axes) -> None:
    """Put the legend beside the panel."""
    panel.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), borderaxespad=0)
