"""The pictures that rows of results.json are enough for, with intervals."""

import re

import numpy as np
import pytest

from jaxsnn.errors import UserError
from jaxsnn.metrics.report import LayerReport, Report
from jaxsnn.report import comparisons
from jaxsnn.report.page import drawn

LAYERS = (
    LayerReport("conv1", (3, 3, 1, 8), density=0.5, bits=3, rate=0.1),
    LayerReport("out", (8, 10), density=0.1, bits=32),
)
CONFUSION = ((48, 2), (1, 49))


def report(name, accuracy, **changes):
    fields = {"samples": 100, "synops": 1000.0, "file_bytes": 5000, "layers": LAYERS}
    fields |= {"confusion": CONFUSION, "accuracy_over_time": (0.9, accuracy)}
    return Report(name, accuracy=accuracy, **fields | changes)


ROWS = [
    report("dense", 0.98),
    report("small", 0.97, synops=100.0, file_bytes=800, layers=LAYERS[:1]),
    report("bad", 0.95, synops=500.0, file_bytes=2000, accuracy_over_time=(0.95,)).to_row(),
]


def pictures(rows, **options):
    found, failed = drawn(comparisons.of_rows(rows, **options))
    assert not failed
    return found


def test_rows_are_drawn_as_far_as_they_go():
    everything = ["accuracies", "pareto", "confusion", "layers", "accuracy_over_time"]
    assert list(pictures(ROWS)) == everything
    assert "pareto" not in pictures(ROWS[:2])  # two networks have no front worth the name
    assert not pictures([{"name": "dense"}])
    assert list(pictures([Report("dense", accuracy=0.5), Report("b", accuracy=0.6)])) == [
        "accuracies"
    ]
    unknown = [row.to_row() | {"samples": None} for row in ROWS[:2]]  # of an older run
    assert 'class="thin' not in pictures(unknown)["accuracies"]


def test_the_interval_stands_beside_every_accuracy():
    found = pictures(ROWS)
    told = "dense: 98.00 % (93.00 to 99.45, 100 samples)"
    assert told in found["accuracies"]
    for name, count in (("accuracies", 3), ("pareto", 6)):
        assert len(re.findall('<line class="thin', found[name])) == count
    assert found["accuracy_over_time"].count('class="band') == 2  # one step is a line across
    assert "axis from 8" in found["accuracies"]


def test_the_front_has_the_networks_that_no_other_beats():
    found = pictures(ROWS)["pareto"]
    line = re.search('class="line faint" points="([^"]+)"', found)[1].split()
    dots = re.findall('cx="([^"]+)" cy="([^"]+)"', found)
    ends = {",".join(f"{float(x):.1f}" for x in dots[i]) for i in (0, 1)}  # "bad" is beaten
    assert {line[0], line[-1]} == ends and len(line) == 3


def test_a_confusion_matrix_has_the_counts():
    found = pictures(ROWS[:2])["confusion"]
    assert "dense: 3 of 100 wrong" in found and "small: 3 of 100 wrong" in found
    assert re.findall('class="mid strong"[^>]*>(\\d+)<', found) == ["48", "2", "1", "49"] * 2
    for classes in (1, 20, 100):
        table = np.eye(classes, dtype=int).tolist()
        row = {"name": "a", "confusion": table}
        assert f"0 of {classes} wrong" in comparisons.plot_confusion([row])
    assert "data:image/png" in comparisons.plot_confusion([row])


def test_seeds_of_one_name_are_told_apart():
    found = pictures([report("a", 0.9, seed=0), report("a", 0.91, seed=1)])
    assert "a, seed 0" in found["accuracies"] and "a, seed 1" in found["accuracies"]
    assert found["layers"].count("<span class=key>") == 1  # the last seed counts


@pytest.mark.parametrize("groups", [None, ["a", "a", "b"]])
def test_a_sweep_has_its_front(groups):
    front = comparisons.plot_front(
        {"bytes": [1, 2, 3]}, [0.5, 0.7, 0.6], names=["x", "y", "z"], groups=groups,
        dense=([5], 0.9), chosen=1,
    )  # fmt: skip
    assert front.count("<circle") == 4 and 'r="7"' in front


def test_a_network_has_one_colour_on_the_page():
    ann = report("ann", 0.99, synops=0.0).to_row()  # has no place among SynOps
    found = pictures([ROWS[0], ann, ROWS[1], ROWS[2]])
    for name in ("accuracies", "pareto", "accuracy_over_time"):
        dots = dict(re.findall(r'class="dot (c\d)"[^>]*><title>([^:,]+)', found[name]))
        assert dots["c0"] == "dense" and dots["c2"] == "small"
        assert dots.get("c3", "bad") == "bad"  # of one step it is a line without dots


def test_a_name_that_no_row_has_is_refused():
    with pytest.raises(UserError, match="compared: no row is called 'c'; rows: dense, small, bad"):
        comparisons.of_rows(ROWS, "c")
