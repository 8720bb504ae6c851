"""The page of a run stands alone, and a picture that fails costs a line."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from jaxsnn import report
from jaxsnn.errors import UserError
from jaxsnn.report import plots
from jaxsnn.report.page import drawn


def row(name, **changes):
    layers = [
        {"name": "conv1", "shape": [3, 3, 1, 8], "density": 0.5, "bits": 3, "bytes": 40},
        {"name": "out", "shape": [8, 10], "density": 0.1, "bits": 32, "bytes": 320, "rate": None},
    ]
    fields = {"name": name, "accuracy": 0.99, "density": 1.0, "bits": 32, "weight_bytes": 84_000}
    fields |= {"samples": 200, "confusion": [[99, 1], [1, 99]]}
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
    figures = {"of_my_own": "<svg></svg>", "curves": plots.plot_curves(LOG)}
    spikes = {"dense": {"conv1": np.eye(4)}}
    figures["raster"] = plots.plot_raster(spikes, image=np.ones((3, 3)))
    config = {"train": {"epochs": 12}, "note": "<script>"}
    path = report.write_html(
        tmp_path, "ADMM & digits", config=config, summary="Two networks.", figures=figures
    )
    page = path.read_text(encoding="utf-8")
    references = References()
    references.feed(page)
    assert len(references.links) == 2  # the sample and its spikes
    assert all(link.startswith("data:image/png;base64,iVBOR") for link in references.links)
    assert not re.search(r"url\(|@import|<script", page)
    for expected in ("ADMM & digits", "Two networks.", "train.epochs", "x <y>", "3×3×1×8", "of my"):
        assert expected in references.text
    assert "÷20" in references.text and "-0.50" in references.text
    order = re.findall('id="plot-([a-z_]+)"', page)
    assert order == ["accuracies", "confusion", "curves", "layers", "raster", "of_my_own"]


def test_an_accuracy_has_its_interval_and_its_samples(tmp_path):
    write(tmp_path)
    page = report.write_html(tmp_path, "t", config={}).read_text(encoding="utf-8")
    assert "<small class=range>96.43–99.73</small>" in page  # 198 of 200
    assert "counted on 200 test samples" in page
    older = [row("dense", samples=None), row("compressed", samples=None)]
    report.write_results(tmp_path, **FIXED, seconds=2.5, rows=older)
    page = report.write_html(tmp_path, "t", config={}).read_text(encoding="utf-8")
    assert "<small class=range>" not in page and "counted on" not in page


def test_the_page_fits_a_phone_and_dark_rooms(tmp_path):
    write(tmp_path)
    page = report.write_html(tmp_path, "title", config={}).read_text(encoding="utf-8")
    assert "<meta name=viewport content='width=device-width, initial-scale=1'>" in page
    assert "prefers-color-scheme: dark" in page
    style = page[page.index("<style>") : page.index("</style>")]
    rules = style[style.index("body {") :]  # below the two palettes, whose names all rules take
    assert "#" not in rules
    assert set(re.findall(r"var\((--\w+)\)", rules)) == set(re.findall(r"(--\w+):", style))


def test_a_page_without_results_is_refused(tmp_path):
    with pytest.raises(UserError, match="results.json"):
        report.write_html(tmp_path, "t", config={})


def test_a_picture_that_cannot_be_drawn_costs_a_line_and_no_more():
    def fails():
        raise TypeError("Invalid shape\n(2, 34, 34, 2) for image data")

    found, failed = drawn([("raster", fails), ("curves", lambda: "<svg></svg>")])
    assert found == {"curves": "<svg></svg>"}
    assert failed == [
        "picture raster was not drawn: TypeError: Invalid shape (2, 34, 34, 2) for image data"
    ]


def test_why_a_picture_is_missing_stands_on_the_page(tmp_path):
    report.write_results(tmp_path, **FIXED, seconds=2.5, rows=[{"name": "dense"}])
    notes = ["picture raster was not drawn: ValueError: <shape>"]
    path = report.write_html(tmp_path, "t", config={}, notes=notes)
    page = path.read_text(encoding="utf-8")
    assert "picture raster was not drawn: ValueError: &lt;shape&gt;" in page
    assert "<h2>Plots</h2>" in page and "<figure" not in page
