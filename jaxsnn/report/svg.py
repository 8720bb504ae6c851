"""Charts as inline SVG: axes, panels and their marks, each a piece of text.

A panel is one chart; a figure is a few panels, which the page's style lays side by side on a wide
screen and below each other on a phone, where their text stays readable. Colours are the classes
`c0` (the baseline's grey) to `c8`: `report.css` gives each a value in light and one in dark, and
marks take `currentColor`. Pixels that are no chart are PNG inside the page.

The colours are those of Okabe and Ito, "Color Universal Design", 2008, which colour-blind eyes tell
apart.
"""

from __future__ import annotations

import base64
import html
import math
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from jaxsnn.metrics.columns import number

__all__ = [
    "COLOURS",
    "Ruler",
    "Panel",
    "cells",
    "colour_of",
    "colours_of",
    "escape",
    "figure",
    "legend",
    "png",
    "short",
    "tag",
]

COLOURS = 9  # c0 to c8
LETTER = 6.2  # pixels that a letter of a label takes
MOST_TICKS = 5
MOST_POINTS = 500  # of a line


def escape(text: Any) -> str:
    """Return a text as it may stand in HTML."""
    return html.escape(str(text))


def short(value: float) -> str:
    """Write a number in a label: 0.05, 12.5, 3.21M."""
    return number("", value)


def colour_of(index: int) -> str:
    """Return the class of the i-th series: the baseline is grey, all others have a colour."""
    return f"c{index if index < COLOURS else 1 + (index - 1) % (COLOURS - 1)}"


def colours_of(names: Iterable[str], *, first: int = 0) -> dict[str, str]:
    """Return name -> class of its colour, from the one of the first index on.

    >>> colours_of(["dense", "small", "dense"])
    {'dense': 'c0', 'small': 'c1'}
    """
    return {name: colour_of(i) for i, name in enumerate(dict.fromkeys(names), first)}


def tag(name: str, content: str = "", **attributes: Any) -> str:
    """Return an element; numbers are rounded to a tenth of a pixel, `class_` is `class`."""
    parts = []
    for key, value in attributes.items():
        text = f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else escape(value)
        parts.append(f' {key.rstrip("_").replace("_", "-")}="{text}"')
    return f"<{name}{''.join(parts)}>{content}</{name}>"


@dataclass(frozen=True)
class Ruler:
    """One axis of a panel: from where to where, and how values are written below it.

    Attributes:
      low: value at its beginning.
      high: value at its end, another one.
      is_log: whether the logarithm of values is drawn; then `low` > 0.
      label: what it measures.
      names: value -> text, in place of ticks.
    """

    low: float
    high: float
    is_log: bool = False
    label: str = ""
    names: Mapping[float, str] | None = None

    @staticmethod
    def of(
        values: Iterable[float],
        *,
        is_log: bool = False,
        label: str = "",
        margin: float = 0.05,
        at_least: float = 0.0,
    ) -> Ruler:
        """Return the axis that fits values; those that are not finite are left out.

        Args:
          values: all that will be drawn; of a logarithmic axis those above 0 count.
          is_log: whether their logarithm is drawn.
          label: what it measures.
          margin: share of the range that is added at both ends.
          at_least: the least range.
        """
        found = [float(x) for x in values if math.isfinite(x) and (x > 0 or not is_log)]
        found = [math.log10(x) for x in found] if is_log else found
        low, high = (min(found), max(found)) if found else (0.0, 1.0)
        least = at_least or (0.3 if is_log else 1e-3 * max(abs(low), abs(high)) or 1.0)
        missing = max(least - (high - low), 0.0) / 2
        room = margin * max(high - low, least) + missing
        low, high = low - room, high + room
        return Ruler(10**low, 10**high, True, label) if is_log else Ruler(low, high, False, label)

    @staticmethod
    def counted(last: int, label: str) -> Ruler:
        """Return the axis of the whole numbers from 1 on, with a mark at some of them."""
        axis = Ruler(0.5, last + 0.5, label=label)
        every = max(1, round(axis.step))
        return replace(axis, names={float(i): str(i) for i in range(every, last + 1, every)})

    def share(self, value: float) -> float:
        """Return where a value lies: 0 at the beginning, 1 at the end."""
        if self.is_log:
            low, high = math.log10(self.low), math.log10(self.high)
            return (math.log10(max(value, self.low * 1e-9)) - low) / (high - low)
        return (value - self.low) / (self.high - self.low)

    @cached_property
    def step(self) -> float:
        """Distance of the ticks of a linear axis: 1, 2 or 5 times a power of ten."""
        least = abs(self.high - self.low) / MOST_TICKS
        power = 10.0 ** math.floor(math.log10(least))
        return next(power * each for each in (1, 2, 5, 10) if power * each >= least * 0.999)

    @cached_property
    def ticks(self) -> dict[float, str]:
        """Values that are marked -> how they are written."""
        if self.names is not None:
            return dict(self.names)
        if self.is_log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            every = -(-(last - first + 1) // MOST_TICKS)
            found = [10.0**x for x in range(first, last + 1, max(every, 1))]
            if len(found) < 3:
                powers = range(math.floor(math.log10(self.low)), last + 1)
                found = [m * 10.0**x for x in powers for m in (1, 2, 5)]
                found = [x for x in found if self.low <= x <= self.high]
            if len(found) >= 2:
                return {x: short(x) for x in found}
        low, high = min(self.low, self.high), max(self.low, self.high)
        first, last = math.ceil(low / self.step - 1e-6), math.floor(high / self.step + 1e-6)
        digits = max(0, -math.floor(math.log10(self.step) + 1e-9))
        values = [i * self.step for i in range(first, last + 1)]
        return {x: short(x) if self.step >= 500 else f"{x:.{digits}f}" for x in values}

    def begun(self) -> Ruler:
        """Return the axis with its beginning moved down to a round number."""
        return replace(self, low=math.floor(self.low / self.step + 1e-6) * self.step)


@dataclass(frozen=True)
class Panel:
    """One chart: marks are made by its methods and put together by `svg`.

    Attributes:
      title: what is drawn, above.
      x: axis from left to right.
      y: axis from bottom to top; from top to bottom it begins with its larger value.
      width: pixels of the whole, before the page scales it.
      height: the same.
    """

    title: str
    x: Ruler
    y: Ruler
    width: float = 320.0
    height: float = 200.0

    @cached_property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the area of the marks, pixels."""
        letters = max(map(len, self.y.ticks.values()), default=0)
        low = 34.0 if self.x.label else 20.0
        return 8 + LETTER * letters, 30.0, self.width - 10, self.height - low

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the pixel of a pair of values."""
        left, top, right, bottom = self.box
        return left + (right - left) * self.x.share(x), bottom - (bottom - top) * self.y.share(y)

    def line(self, points: Sequence[tuple[float, float]], colour: str, **style: Any) -> str:
        """Draw a line through points, every so many of them where there are too many."""
        points = points[:: max(1, len(points) // MOST_POINTS)]
        pixels = " ".join("{:.1f},{:.1f}".format(*self.at(*each)) for each in points)
        return tag("polyline", class_=f"line {colour}", points=pixels, **style)

    def band(self, points: Sequence[tuple[float, float, float]], colour: str) -> str:
        """Fill what lies between (x, low) and (x, high)."""
        around = [(x, low) for x, low, _ in points] + [(x, high) for x, _, high in points[::-1]]
        pixels = " ".join("{:.1f},{:.1f}".format(*self.at(*each)) for each in around)
        return tag("polygon", class_=f"band {colour}", points=pixels)

    def dot(self, x: float, y: float, colour: str, tip: str = "", radius: float = 3.0) -> str:
        """Draw a point, which says its values when a pointer rests on it."""
        across, down = self.at(x, y)
        inside = tag("title", escape(tip)) if tip else ""
        return tag("circle", inside, class_=f"dot {colour}", cx=across, cy=down, r=radius)

    def stroke(
        self, start: tuple[float, float], end: tuple[float, float], colour: str, kind: str = "thin"
    ) -> str:
        """Draw a straight line: `thin`, as of an interval, or `thick`, as of a level."""
        (x1, y1), (x2, y2) = self.at(*start), self.at(*end)
        return tag("line", class_=f"{kind} {colour}", x1=x1, y1=y1, x2=x2, y2=y2)

    def bar(self, start: float, end: float, y: float, thickness: float, colour: str) -> str:
        """Draw a horizontal bar, some pixels thick, around a value of y."""
        (x1, middle), (x2, _) = self.at(start, y), self.at(end, y)
        place: dict[str, Any] = {"x": min(x1, x2), "y": middle - thickness / 2}
        return tag("rect", class_=f"fill {colour}", **place, width=abs(x2 - x1), height=thickness)

    def text(
        self, x: float, y: float, text: str, right: float = 0.0, down: float = 0.0, kind: str = ""
    ) -> str:
        """Write some pixels right of and below a pair of values."""
        across, below = self.at(x, y)
        return tag("text", escape(text), class_=kind, x=across + right, y=below + down)

    def shade(self, start: float, end: float) -> str:
        """Mark a part of the x axis by a darker ground."""
        left, top, right, bottom = self.box
        first, last = (left + (right - left) * self.x.share(x) for x in (start, end))
        return tag("rect", class_="shade", x=first, y=top, width=last - first, height=bottom - top)

    def image(self, pixels: np.ndarray) -> str:
        """Fill the area of the marks with pixels, each as a block; see `png`."""
        left, top, right, bottom = self.box
        size: dict[str, Any] = {"x": left, "y": top, "width": right - left, "height": bottom - top}
        return tag("image", preserveAspectRatio="none", href=png(pixels), **size)

    def svg(self, *marks: str, grid: str = "xy") -> str:
        """Put axes, title and marks together.

        Args:
          *marks: what lies above the grid.
          grid: the axes whose ticks are drawn as lines: "x", "y", both or none.
        """
        left, top, right, bottom = self.box
        lines, labels = [], []
        for value, text in self.x.ticks.items():
            across = left + (right - left) * self.x.share(value)
            if "x" in grid:
                lines.append(tag("line", class_="grid", x1=across, x2=across, y1=top, y2=bottom))
            labels.append(tag("text", escape(text), class_="mid", x=across, y=bottom + 14))
        for value, text in self.y.ticks.items():
            down = self.at(self.x.low, value)[1]
            if "y" in grid:
                lines.append(tag("line", class_="grid", x1=left, x2=right, y1=down, y2=down))
            labels.append(tag("text", escape(text), class_="end", x=left - 5, y=down + 4))
        if self.x.label:
            text = escape(self.x.label)
            labels.append(tag("text", text, class_="end", x=right, y=self.height - 5))
        title = tag("text", escape(self.title), class_="title", x=2.0, y=14.0)
        content = "".join([*lines, *marks, *labels, title])
        return _svg(self.width, self.height, self.title, content)


def cells(
    title: str,
    table: np.ndarray,
    look: Callable[[int, int], tuple[str, float, str]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    label: str = "",
    width: float = 320.0,
    height: float = 24.0,
) -> str:
    """Draw a table of coloured cells with a text in each.

    Args:
      title: above it.
      table: its shape is that of the cells, `[rows, columns]`.
      look: row, column -> class of the colour, opacity in [0, 1], text.
      rows: names, `[rows]`.
      columns: names, `[columns]`.
      label: below, what the columns are.
      width: pixels of the whole.
      height: pixels of a cell.
    """
    left = 8 + LETTER * max(map(len, rows))
    wide, top = (width - left - 4) / len(columns), 24.0
    bottom = top + height * len(rows)
    parts = [tag("text", escape(title), class_="title", x=2.0, y=14.0)]
    for i, j in np.ndindex(*table.shape):
        colour, opacity, text = look(i, j)
        x, y = left + wide * j, top + height * i
        place: dict[str, Any] = {"x": x, "y": y, "width": wide - 1, "height": height - 1}
        if opacity:
            parts.append(tag("rect", class_=f"fill {colour}", opacity=f"{opacity:.2f}", **place))
        if text:
            place = {"x": x + wide / 2 - 0.5, "y": y + height / 2 + 3.5}
            parts.append(tag("text", escape(text), class_="mid strong", **place))
    for i, name in enumerate(rows):
        y = top + height * (i + 0.5) + 3.5
        parts.append(tag("text", escape(name), class_="end", x=left - 5, y=y))
    for j, name in enumerate(columns):
        parts.append(
            tag("text", escape(name), class_="mid", x=left + wide * (j + 0.5), y=bottom + 13)
        )
    if label:
        parts.append(tag("text", escape(label), class_="end", x=width - 4, y=bottom + 28))
    return _svg(width, bottom + (33 if label else 18), title, "".join(parts))


def figure(panels: Sequence[str], below: str = "", *, columns: int = 3) -> str:
    """Lay panels out in up to so many columns, with a legend or a line below."""
    return f'<div class="panels of{columns}">{"".join(panels)}</div>{below}'


def legend(colours: Mapping[str, str]) -> str:
    """Name the series, name -> class of its colour."""
    keys = [
        f"<span class=key><i class={colour}></i>{escape(name)}</span>"
        for name, colour in colours.items()
    ]
    return f"<p class=legend>{' '.join(keys)}</p>"


def png(pixels: np.ndarray) -> str:
    """Return pixels as a PNG inside an address, `data:image/png;base64,...`.

    >>> png(np.zeros((2, 3, 4), np.uint8))[:27]
    'data:image/png;base64,iVBOR'

    Args:
      pixels: red, green, blue and opacity, uint8 `[H, W, 4]`.
    """
    height, width, _ = pixels.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], 1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    parts = [chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 6, 0, 0, 0))]
    parts += [chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)), chunk(b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(parts)
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _svg(width: float, height: float, title: str, content: str) -> str:
    box = f"0 0 {width:.0f} {height:.0f}"
    return tag("svg", content, viewBox=box, role="img", aria_label=title)
