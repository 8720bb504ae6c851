"""The page of a run stands alone, and a picture that fails costs a line."""

import re
from html.parser import HTMLParser

import pytest

from jaxsnn import report
from jaxsnn.errors import UserError
from jaxsnn.report import plots

PNG = b"\x89PNG\r\n\x1a\n"


def row(name, **changes):
    layers = [
        {"name": "conv1", "shape": [3, 3, 1, 8], "density": 0.5, "bits": 3, "bytes": 40},
        {"name": "out", "shape": [8, 10], "density": 0.1, "bits": 32, "bytes": 320, "rate": None},
    ]
    fields = {"name": name, "accuracy": 0.99, "density": 1.0, "bits": 32, "weight_bytes": 84_000}
    return fields | {"layers": layers} | changes


ROWS = [row("dense"), row("compressed", accuracy=0.985, weight_bytes=4_200)]
LOG = [{"phase": "dense", "epoch": epoch, "loss": 1 / epoch} for epoch in (1, 2)]
FIXED = dict(experiment="admm", dataset="digits", preset="smoke", seed=1, command="x <y>")


def write(folder):
    return report.write_results(folder, **FIXED, seconds=2.5, rows=ROWS)


class References(HTMLParser):
    """Collect what a page would load, and its text."""

    def __init__(self):
        super().__init__()
        self.links, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def test_the_page_needs_no_other_file(tmp_path):
    write(tmp_path)
    plots.plot_curves(LOG, tmp_path / "plots" / "curves.png")
    (tmp_path / "plots" / "of_my_own.png").write_bytes(PNG)
    config = {"train": {"epochs": 12}, "note": "<script>"}
    path = report.write_html(tmp_path, "ADMM & digits", config=config, summary="Two networks.")
    page = path.read_text(encoding="utf-8")
    references = References()
    references.feed(page)
    assert len(references.links) == 2
    assert all(link.startswith("data:image/png;base64,iVBOR") for link in references.links)
    assert not re.search(r"url\(|@import|<script", page)
    for expected in ("ADMM & digits", "Two networks.", "train.epochs", "x <y>", "3×3×1×8", "of my"):
        assert expected in references.text
    assert "÷20" in references.text and "-0.50" in references.text


def test_the_page_fits_a_phone_and_dark_rooms(tmp_path):
    write(tmp_path)
    page = report.write_html(tmp_path, "title", config={}).read_text(encoding="utf-8")
    assert "<meta name=viewport content='width=device-width, initial-scale=1'>" in page
    assert "prefers-color-scheme: dark" in page
    style = page[page.index("<style>") : page.index("</style>")]
    rules = style[style.index("body {") :]  # below the two palettes, whose names all rules take
    assert "#" not in rules
    assert set(re.findall(r"var\((--\w+)\)", rules)) == set(re.findall(r"(--\w+):", style))


def test_a_page_without_results_or_with_a_missing_figure_is_refused(tmp_path):
    with pytest.raises(UserError, match="results.json"):
        report.write_html(tmp_path, "t", config={})
    write(tmp_path)
    with pytest.raises(UserError, match="none.png"):
        report.write_html(tmp_path, "t", config={}, figures={"a": tmp_path / "none.png"})
    assert "<figure" not in report.write_html(tmp_path, "t", config={}).read_text(encoding="utf-8")


def test_why_a_picture_is_missing_stands_on_the_page(tmp_path):
    write(tmp_path)
    notes = ["picture raster was not drawn: ValueError: <shape>"]
    path = report.write_html(tmp_path, "t", config={}, notes=notes)
    page = path.read_text(encoding="utf-8")
    assert "picture raster was not drawn: ValueError: &lt;shape&gt;" in page
    assert "<h2>Plots</h2>" in page and "<figure" not in page
