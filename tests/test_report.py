"""What a run writes: a contract for programs, pictures that exist, a page that stands alone."""

import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from jaxsnn import report
from jaxsnn.errors import UserError
from jaxsnn.report import plots

PNG = b"\x89PNG\r\n\x1a\n"


def row(name, **changes):
    layers = [
        {"name": "conv1", "shape": [3, 3, 1, 8], "density": 0.5, "bits": 3, "bytes": 40},
        {"name": "out", "shape": [8, 10], "density": 0.1, "bits": 32, "bytes": 320, "rate": None},
    ]
    layers[0] |= {"rate": 0.1, "silent": 2, "saturated": 0, "neurons": 8, "synops": 5, "macs": 0}
    fields = {"name": name, "accuracy": 0.99, "density": 1.0, "bits": 32, "weight_bytes": 84_000}
    fields |= {"spikes_per_sample": 1234.5, "synops": 3.21e6, "energy_pj": 2e6, "layers": layers}
    return fields | changes


ROWS = [row("dense"), row("compressed", accuracy=0.985, weight_bytes=4_200, synops=3.21e5)]
LOG = [
    {"phase": phase, "epoch": epoch, "loss": 1 / epoch, "accuracy": 0.9, "spike_rate": 0.1}
    | ({"primal/a/kernel": 0.5**epoch, "dual/a/kernel": 0.0} if phase == "admm" else {})
    for phase in ("dense", "admm")
    for epoch in (1, 2)
]
FIXED = dict(experiment="admm", dataset="digits", preset="smoke", seed=1, command="x <y>")


def write(folder, rows=ROWS, **changes):
    return report.write_results(folder, **FIXED | {"seconds": 2.5, "rows": rows} | changes)


def test_results_have_every_field_of_the_contract(tmp_path):
    path = write(tmp_path / "run", extra={"phases": ["dense"]})
    results = json.loads(path.read_text())
    assert path.name == "results.json" and [path] == list(path.parent.iterdir())
    top = "experiment dataset preset seed command versions seconds rows phases"
    assert list(results) == top.split()
    fields = "name accuracy density bits weight_bytes file_bytes timesteps spike_rate "
    fields += "spikes_per_sample synops macs bit_ops energy_pj seed"
    for each, name in zip(results["rows"], ("dense", "compressed"), strict=True):
        assert each["name"] == name and set(fields.split()) <= set(each)
    assert results["rows"][0]["file_bytes"] is None
    names = "python jax jaxlib flax optax numpy orbax jaxsnn platform device"
    assert list(results["versions"]) == names.split()


def test_what_is_no_number_becomes_null_and_arrays_become_lists(tmp_path):
    odd = {"accuracy": float("nan"), "synops": np.float32(np.inf), "seed": np.int64(3)}
    path = write(tmp_path, [row("dense", **odd, curve=np.array([0.5, np.nan]))])
    first = json.loads(path.read_text(), parse_constant=pytest.fail)["rows"][0]
    assert (first["accuracy"], first["synops"], first["seed"]) == (None, None, 3)
    assert first["curve"] == [0.5, None]


def test_a_fixed_field_and_a_row_without_name_are_refused(tmp_path):
    with pytest.raises(UserError, match="extra result rows is a fixed field"):
        write(tmp_path, extra={"rows": []})
    with pytest.raises(UserError, match="a row of the results has no name"):
        write(tmp_path, [{"accuracy": 1.0}])
    assert not list(tmp_path.iterdir())


def test_the_table_shows_ratios_to_the_first_network():
    text = io.StringIO()
    report.print_table(ROWS, console=Console(file=text, width=80))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80 and "…" not in text.getvalue()
    compressed = next(i for i, line in enumerate(lines) if line.strip().startswith("compressed"))
    assert {"98.50", "4.2", "321k"} <= set(lines[compressed].split())
    assert lines[compressed + 1].split() == ["-0.50", "÷20", "÷10"]


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


def test_a_page_without_results_or_with_a_missing_figure_is_refused(tmp_path):
    with pytest.raises(UserError, match="results.json"):
        report.write_html(tmp_path, "t", config={})
    write(tmp_path)
    with pytest.raises(UserError, match="none.png"):
        report.write_html(tmp_path, "t", config={}, figures={"a": tmp_path / "none.png"})
    assert "<figure" not in report.write_html(tmp_path, "t", config={}).read_text(encoding="utf-8")


def weights(seed):
    leaf = np.random.default_rng(seed).normal(size=(4, 12))
    return {"a": {"kernel": leaf}, "b": {"kernel": np.sign(leaf) * (leaf > 0)}}


@pytest.mark.parametrize(
    "draw",
    [
        lambda path: plots.plot_curves(LOG, path),
        lambda path: plots.plot_curves(LOG[:1], path),
        lambda path: plots.plot_residuals(LOG, path),
        lambda path: plots.plot_layers(ROWS, path),
        lambda path: plots.plot_raster({"a": np.ones((3, 500)), "b": np.zeros((3, 2, 2))}, path),
        lambda path: plots.plot_raster(
            {"a": np.eye(4)}, path, image=np.zeros((5, 5, 1), np.uint8), title="t"
        ),
        lambda path: plots.plot_histograms(weights(0), weights(1), path),
        lambda path: plots.plot_histograms(weights(0), {"a": {"kernel": np.zeros(3)}}, path),
        lambda path: plots.plot_accuracy_over_time({"dense": [0.5, 0.9], "b": [0.4, 0.8]}, path),
        lambda path: plots.plot_accuracy_over_time({"dense": [0.5, 0.9], "ann": [0.95]}, path),
    ],
    ids="curves one_epoch residuals layers raster image histograms emptied time one_step".split(),
)
def test_every_plot_is_a_picture(draw, tmp_path):
    path = tmp_path / "plots" / "picture.png"
    draw(path)
    content = path.read_bytes()
    assert content.startswith(PNG) and len(content) > 3000


def test_a_log_without_residuals_is_refused(tmp_path):
    with pytest.raises(UserError, match="no residuals to plot"):
        plots.plot_residuals(LOG[:2], tmp_path / "picture.png")
    assert not list(tmp_path.iterdir())


def test_a_large_layer_is_thinned_evenly_in_a_raster():
    spikes = np.arange(2 * 999).reshape(2, 999)
    chosen = plots._choose(spikes)
    assert chosen.shape == (2, plots.MAX_RASTER)
    assert chosen[0, 0] == 0 and chosen[0, -1] == 998
