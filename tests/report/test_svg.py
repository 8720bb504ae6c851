"""Charts are whole SVG whose colours the page knows, and marks lie where their values are."""

import base64
import math
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from jaxsnn.report import svg
from jaxsnn.report.svg import Panel, Ruler

STYLE = (Path(svg.__file__).parent / "report.css").read_text(encoding="utf-8")


def numbers(text, name):
    return [float(x) for x in re.findall(rf' {name}="([^"]+)"', text)]


def test_marks_lie_where_their_values_are():
    panel = Panel("t", Ruler(0.0, 10.0), Ruler(1.0, 100.0, is_log=True), width=200, height=100)
    left, top, right, bottom = panel.box
    mark = panel.dot(2.5, 10.0, "c1", "a <tip>")
    assert numbers(mark, "cx") == [pytest.approx(left + (right - left) / 4, abs=0.05)]
    assert numbers(mark, "cy") == [pytest.approx((top + bottom) / 2, abs=0.05)]
    assert "<title>a &lt;tip&gt;</title>" in mark
    down = Panel("t", Ruler(0.0, 1.0), Ruler(3.0, -1.0), width=200, height=100)
    assert down.at(0.0, -1.0)[1] < down.at(0.0, 3.0)[1]  # from top to bottom
    bar = panel.bar(0.0, 5.0, 10.0, 8.0, "c2")
    assert numbers(bar, "width") == [pytest.approx((right - left) / 2, abs=0.05)]


@pytest.mark.parametrize(
    ("axis", "written"),
    [
        (Ruler(0.0, 1.0), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (Ruler(97.3, 99.1), ["97.5", "98.0", "98.5", "99.0"]),
        (Ruler(0.0, 52_000.0), ["0", "20k", "40k"]),
        (Ruler(1e3, 1e6, True), ["1k", "10k", "100k", "1M"]),
        (Ruler(0.8, 7.0, True), ["1", "2", "5"]),
        (Ruler(1e-9, 1.0, True), ["1e-09", "1e-07", "1e-05", "0.001", "0.1"]),
        (Ruler.counted(3, ""), ["1", "2", "3"]),
        (Ruler.counted(60, ""), ["20", "40", "60"]),
    ],
)
def test_ticks_are_round_numbers(axis, written):
    assert list(axis.ticks.values()) == written
    assert all(-1e-6 <= axis.share(value) <= 1 + 1e-6 for value in axis.ticks)


def test_an_axis_fits_whatever_it_is_given():
    for values in ([], [3.0], [0.0, 0.0], [math.nan, 2.0], [-1e-300, 1e30], [5, 6]):
        for is_log in (False, True):
            axis = Ruler.of(values, is_log=is_log)
            assert axis.low < axis.high and len(axis.ticks) > 0
            finite = [x for x in values if math.isfinite(x) and (x > 0 or not is_log)]
            assert all(axis.low <= x <= axis.high for x in finite)
    assert Ruler(97.3, 99.1).begun().low == 97.0


def test_every_class_of_a_mark_has_a_style():
    source = "".join(path.read_text("utf-8") for path in Path(svg.__file__).parent.glob("*.py"))
    named = set(re.findall(r'class_="([a-z ]+)"', source))
    for name in {x for each in named for x in each.split()} - {"c"}:
        assert f".{name} " in STYLE or f".{name}," in STYLE, name
    for index in range(svg.COLOURS):
        assert f".c{index} {{ color: var(--c{index}); }}" in STYLE
    assert svg.colour_of(0) == "c0"
    assert "c0" not in {svg.colour_of(i) for i in range(1, 40)}


def test_long_lines_are_thinned():
    panel = Panel("t", Ruler(0, 10_000), Ruler(0, 1))
    drawn = panel.line([(i, 0.5) for i in range(10_000)], "c1")
    assert svg.MOST_POINTS <= len(drawn.split()) < 2 * svg.MOST_POINTS + 10


def test_pixels_become_a_png():
    pixels = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    data = base64.b64decode(svg.png(pixels).partition(",")[2])
    assert struct.unpack(">2I", data[16:24]) == (3, 2)
    start = data.index(b"IDAT") + 4
    lines = zlib.decompressobj().decompress(data[start:])
    assert lines == b"".join(b"\0" + row.tobytes() for row in pixels)
