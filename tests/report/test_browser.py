"""The page of a run in a real browser, at the width of a desk and of a phone.

Needs a Chromium, whose command is in JAXSNN_BROWSER, with options of its own if it wants some:

    JAXSNN_BROWSER=/usr/bin/chromium python -m pytest -m slow tests/report/test_browser.py

JAXSNN_REPORT=FILE looks at that page in place of one that is made here.
"""

import json
import os
import queue
import shlex
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from jaxsnn import report
from jaxsnn.metrics.report import LayerReport, Report
from jaxsnn.report import plots

WIDTHS = (1280, 390)

# Shows the page in frames of these widths, and sends what it found as JSON.
LOOK = """<!doctype html><meta charset=utf-8><body><script>
const found = [], errors = [];
function look(frame, width) {
  const inside = frame.contentDocument, root = inside.documentElement;
  for (const each of inside.querySelectorAll("details")) each.open = true;
  const over = [...inside.querySelectorAll("body *")].filter(each =>
    !each.closest(".wide") && !each.closest("pre") && !each.closest("svg")
    && each.getBoundingClientRect().right > width + 1);
  const images = [...inside.images], charts = [...inside.querySelectorAll("svg")];
  const texts = [...inside.querySelectorAll("svg text")].map(each => {
    const chart = each.ownerSVGElement;
    const scale = chart.getBoundingClientRect().width / chart.viewBox.baseVal.width;
    return scale * parseFloat(frame.contentWindow.getComputedStyle(each).fontSize);
  });
  found.push({
    width: frame.contentWindow.innerWidth, scroll: root.scrollWidth,
    over: over.map(each => each.tagName + "." + each.getAttribute("class")),
    images: images.length,
    missing: images.filter(each => !each.complete || !each.naturalWidth).length,
    charts: charts.length,
    empty: charts.filter(each => !each.getBoundingClientRect().height).length,
    smallest: Math.min(...texts),
  });
}
window.addEventListener("error", event => errors.push(event.message));
for (const width of WIDTHS) {
  const frame = document.createElement("iframe");
  frame.style = `width:${width}px;height:900px;border:0`;
  frame.onload = () => {
    look(frame, width);
    if (found.length === WIDTHS.length)
      fetch("/found", {method: "POST", body: JSON.stringify({found, errors})});
  };
  frame.src = "/report.html";
  document.body.append(frame);
}
</script>"""


def browser():
    """Return the command of a browser, or skip the test."""
    command = shlex.split(os.environ.get("JAXSNN_BROWSER", ""))
    if not command or shutil.which(command[0]) is None:
        pytest.skip("no browser: set JAXSNN_BROWSER to the path of a Chromium")
    return command


def page_of(folder):
    """Write the page of a made-up run with every kind of picture, and return it."""
    if given := os.environ.get("JAXSNN_REPORT"):
        return Path(given).read_text(encoding="utf-8")
    names = ["conv1", "block1/convolution_of_a_long_name", "out"]
    layers = tuple(LayerReport(x, (3, 3, 64, 128), density=0.5, bits=3, rate=0.1) for x in names)
    confusion = tuple(map(tuple, (np.eye(10, dtype=int) * 95 + 1).tolist()))
    rows = [
        Report(
            f"network {i} with a long name", accuracy=0.95 - i / 100, samples=1000,
            synops=1e6 / (i + 1), file_bytes=90_000 // (i + 1), layers=layers,
            confusion=confusion, accuracy_over_time=(0.8, 0.9, 0.95 - i / 100),
        )
        for i in range(4)
    ]  # fmt: skip
    about = {"experiment": "own", "dataset": "digits", "preset": "none", "seed": 0, "seconds": 1.0}
    report.write_results(folder, **about, command="python " + "x" * 200, rows=rows)
    log = [
        {"phase": f"p{i // 9}", "loss": 1 / i, "accuracy": 0.9, "spike_rate": 0.1}
        for i in range(1, 40)
    ]
    spikes = {name: {"conv1": np.eye(9), "out": np.ones((9, 500))} for name in ("dense", "small")}
    figures = {
        "curves": plots.plot_curves(log),
        "raster": plots.plot_raster(spikes, events=np.ones((9, 34, 34, 2)), about="The first."),
        "histograms": plots.plot_histograms(
            *({"a": {"kernel": np.random.default_rng(0).normal(size=(40, 40))}} for _ in range(2))
        ),
    }
    config = {"a/very/long/path" * 9: "b" * 300}
    path = report.write_html(folder, "A run " * 9, config=config, figures=figures)
    return path.read_text(encoding="utf-8")


class Server(ThreadingHTTPServer):
    """Hand the page to a browser of this machine, and take what was found in it."""

    def __init__(self, page):
        super().__init__(("127.0.0.1", 0), Handler)
        look = LOOK.replace("WIDTHS", json.dumps(WIDTHS))
        self.pages = {"/look.html": look.encode(), "/report.html": page.encode()}
        self.found, self.asked = queue.Queue(), set()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.add(self.path)
        content = self.server.pages.get(self.path)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(content or b"")

    def do_POST(self):
        self.server.found.put(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.mark.slow
def test_the_page_fits_a_desk_and_a_phone(tmp_path):
    command, page = browser(), page_of(tmp_path)
    with Server(page) as server, open(tmp_path / "log", "wb") as log:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000"]
        options += ["--enable-logging=stderr", "--remote-debugging-port=0"]  # which keeps it open
        options += [f"--user-data-dir={tmp_path / 'profile'}"]
        address = f"http://127.0.0.1:{server.server_port}/look.html"
        process = subprocess.Popen([*command, *options, address], stdout=log, stderr=log)
        try:
            seen = json.loads(server.found.get(timeout=300))
        finally:
            process.terminate()
            process.wait()
            server.shutdown()
    told = (tmp_path / "log").read_text(encoding="utf-8", errors="replace")
    assert not seen["errors"] and ":CONSOLE" not in told, told
    assert server.asked <= {"/look.html", "/report.html", "/favicon.ico"}  # it needs no other file
    assert sorted(each["width"] for each in seen["found"]) == sorted(WIDTHS)
    for each in seen["found"]:
        assert each["scroll"] <= each["width"] and not each["over"], each
        assert each["missing"] == 0 and each["empty"] == 0 and each["charts"] > 3, each
        assert each["images"] == page.count("<img "), each
        assert each["smallest"] >= 7.5, each  # pixels
