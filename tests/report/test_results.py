"""results.json and the printed table: a contract for programs."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from jaxsnn import report
from jaxsnn.errors import UserError
from jaxsnn.metrics.report import LayerReport, Report


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


def test_lists_of_numbers_stand_on_one_line_each(tmp_path):
    odd = {"curve": [0.5, None, -1e-7], "table": [[1, 2], [3, 4]], "text": "[1,\n  2]", "no": []}
    text = write(tmp_path, [row("dense", **odd)]).read_text()
    assert '"curve": [0.5, null, -1e-07]' in text and "\n        [3, 4]\n" in text
    first = json.loads(text)["rows"][0]
    assert {name: first[name] for name in odd} == odd


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


def test_reports_are_rows_and_read_back(tmp_path):
    layer = LayerReport("conv1", shape=(3, 3, 1, 8), density=0.5, bits=3)
    counted = {"samples": 4, "confusion": ((1, 1), (1, 1)), "accuracy_over_time": (0.25, 0.5)}
    dense = Report("dense", accuracy=0.5, layers=(layer,), extra={"milliseconds": 2.5}, **counted)
    write(tmp_path, [dense, Report("small", bits=4.0)])
    results = report.read_results(tmp_path)
    first, second = map(Report.from_row, results["rows"])
    assert first == dense and second == Report("small", bits=4.0)
    text = io.StringIO()
    report.print_table([dense, second], console=Console(file=text, width=80))
    assert "50.00" in text.getvalue()


def test_damaged_results_are_named(tmp_path):
    whole = json.loads(write(tmp_path).read_text())

    def changed(**fields):
        return json.dumps(whole | fields)

    good = whole["rows"][0]
    for text, match in (
        ("{", "results.json: damaged or cut short: .*expected the results of a run"),
        ("[]", r"results.json is \[\], expected an object with experiment"),
        ("{}", "lacks the field 'experiment'"),
        ("[" * 10**5, "nested too deep"),
        (changed(seconds=float("nan")), "the number NaN is not finite"),
        (changed(seconds="long"), "field 'seconds' is 'long', expected a number in"),
        ('{"rows": [], "rows": []}', "the field 'rows' stands there twice"),
        (changed(rows=[1]), "field 'rows' is .1., expected a list, each item an object"),
        (changed(rows=[good, {"name": "b"}]), "row 2 lacks the field 'accuracy'"),
        (changed(rows=[good | {"bits": [4]}]), "row 1: field 'bits' is .4., expected a finite num"),
        (changed(rows=[good | {"layers": 3}]), "row 1: field 'layers' is 3, expected a list"),
        (changed(rows=[good | {"layers": [{}]}]), "row 1, a layer lacks the field 'name'"),
        (changed(rows=[good | {"accuracy_over_time": 1}]), "field 'accuracy_over_time' is 1"),
        (changed(rows=[good | {"confusion": [1]}]), "field 'confusion' is .1., expected a list"),
        (changed(rows=[good | {"samples": 0}]), "field 'samples' is 0, expected a whole number"),
    ):
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(UserError, match=match):
            report.read_results(tmp_path)
