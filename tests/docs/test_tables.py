"""The numbers of the docs are those of results/, and the maker of tables says what is wrong."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("tables", ROOT / "tools" / "tables.py")
tables = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tables)

ROWS = [
    {"name": "dense", "seed": 0, "accuracy": 0.9876, "file_bytes": 120_000, "at": {"rate": 0.1}},
    {"name": "small", "seed": 0, "accuracy": 0.975, "file_bytes": 1_000, "at": {"rate": 0.2}},
    {"name": "dense", "seed": 1, "accuracy": 0.9976, "file_bytes": 120_000, "at": {"rate": 0.1}},
]


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Put one results file in a folder of its own."""
    content = {"rows": ROWS, "found": {"a": [1.0, 2.5]}, "seconds": 90}
    (tmp_path / "run.json").write_text(json.dumps(content))
    monkeypatch.setattr(tables, "RESULTS", tmp_path)


def page(marker):
    return f"before\n<!-- table: {marker}\n-->\nold\n<!-- /table -->\nafter"


def test_every_page_is_up_to_date():
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        assert tables.rewrite(text) == text, f"{path}: run python tools/tables.py"


def test_a_table_has_a_row_for_each_row_and_computes_ratios(results):
    made = tables.rewrite(
        page(
            "run#rows\nwhere: seed=0\ncall: small = compressed\nbold: small\nnetwork: name\n"
            "accuracy: accuracy as %1\nagainst dense: accuracy - rows[dense].accuracy as points\n"
            "smaller: rows[dense].file_bytes / file_bytes as x"
        )
    )
    assert made.splitlines()[-9:] == [
        "-->",
        "",
        "| network | accuracy | against dense | smaller |",
        "| --- | --- | --- | --- |",
        "| dense | 98.8 % | +0.0 | 1x |",
        "| **compressed** | **97.5 %** | **-1.3** | **120x** |",
        "",
        "<!-- /table -->",
        "after",
    ]
    assert tables.rewrite(made) == made


def test_a_pivot_table_spreads_a_field_over_columns_and_takes_the_mean(results):
    made = tables.table("run#rows\ndown: name\nacross: seed\ncell: accuracy as %2\nmean: yes")
    assert made.splitlines() == [
        "| name | seed 0 | seed 1 | mean |",
        "| --- | --- | --- | --- |",
        "| dense | 98.76 % | 99.76 % | 99.26 ± 0.71 % |",
        "| small | 97.50 % | | 97.50 % |",
    ]


def test_the_items_of_an_object_are_rows(results):
    assert tables.table("run#found\nway: name\nlast: value[1] as n1").endswith("| a | 2.5 |\n")


def test_values_stand_in_sentences(results):
    text = "It has <!-- value: run rows[name=dense&seed=1].accuracy as %2 -->0 %<!-- /value -->."
    assert tables.rewrite(text).endswith("-->99.76 %<!-- /value -->.")


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("gone#rows\na: name", r"results/gone\.json does not exist"),
        ("run#rows\na: nme", "no 'nme' on the path"),
        ("run#rows\na: rows[tiny].accuracy", "no row is 'tiny'"),
        ("run#rows\na: accuracy as percent", "format 'percent' is unknown; there are n, %"),
        ("run#rows\nwhere: seed=7\na: name", "no row of results/run.json has seed=7"),
        ("run#rows\naccuracy", "has no ': '"),
    ],
)
def test_a_marker_that_cannot_be_filled_is_named(results, marker, message):
    with pytest.raises(tables.Stale, match=message):
        tables.table(marker)


def test_a_question_mark_leaves_a_cell_empty(results):
    assert tables.table("run#rows\na: name\nb: ?spikes as n").endswith("| dense | |\n| small | |\n")


# --- Several seeds --------------------------------------------------------------------------------

SEVERAL = [
    {"name": name, "seed": seed, "samples": 100, "accuracy": accuracy, "file_bytes": size}
    for seed, size in ((0, 100), (1, 200))
    for name, accuracy, size in (("dense", 0.9, 10 * size), ("small", 0.8 + 0.02 * seed, size))
]


@pytest.fixture
def seeds(results, tmp_path):
    content = {"rows": SEVERAL, "seconds": 90}
    (tmp_path / "run.json").write_text(json.dumps(content))


def test_rows_of_several_seeds_are_one_line_with_mean_and_standard_deviation(seeds):
    made = tables.table(
        "run#rows\nname: name\naccuracy: accuracy as %1\nbinomial: error of accuracy as gap1\n"
        "file: file_bytes as kB2\nsmaller: rows[dense].file_bytes / file_bytes as x\n"
        "gone: ?rate as n"
    )
    assert made.splitlines()[2:] == [
        # The ratio is that of each seed, and alike in both; so is the accuracy of dense.
        "| dense | 90.0 % | 3.2 | 1.50 ± 0.71 kB | 1x | |",
        "| small | 81.0 ± 1.4 % | 4.0 | 0.15 ± 0.07 kB | 10x | |",
    ]


def test_so_are_the_rows_of_a_study(results, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"studies": {"one": SEVERAL}}))
    made = tables.table("run#studies.one\nname: name\nfile: file_bytes as n")
    assert made.splitlines()[3] == "| small | 150 ± 71 |"


@pytest.mark.parametrize("marker", ["where: seed=1\nname: name", "seed: seed\nname: name"])
def test_a_table_by_seeds_keeps_them_apart(seeds, marker):
    assert tables.table(f"run#rows\n{marker}").count("small") == (1 if "where" in marker else 2)


def test_a_value_in_a_sentence_is_the_mean_over_the_seeds(seeds):
    text = "<!-- value: run {} --><!-- /value -->"
    found = [
        tables.rewrite(f"a {text.format(path)}").split("-->")[1].removesuffix("<!-- /value ")
        for path in ("rows[small].accuracy as %1", "rows[name=small&seed=1].accuracy as %1",
                     "seconds as n", "rows[dense].file_bytes / rows[small].file_bytes as x")
    ]  # fmt: skip
    assert found == ["81.0 ± 1.4 %", "82.0 %", "90", "10x"]


def test_an_error_needs_the_number_of_samples(results):
    with pytest.raises(tables.Stale, match="no 'samples' on the path"):
        tables.table("run#rows\na: error of accuracy as gap1")
    assert tables.table("run#rows\na: name\nb: ?error of accuracy as gap1").count("| |") == 2
