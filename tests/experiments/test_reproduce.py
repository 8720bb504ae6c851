"""Stored rows: written, compared within their error, resumed, and rerun."""

import json
import math
import os
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

import jaxsnn
from experiments.common import command, flat
from experiments.reproduce import comparing, run, runs, storing
from experiments.reproduce.comparing import LOST, SAME, WITHIN
from experiments.reproduce.config import ROOT, Config
from experiments.reproduce.rows import COMPARED, ROWS, Row
from jaxsnn import report
from jaxsnn.errors import UserError

ROW = Row("own", "digits", "A row of the tests.", 0.1, more="--rate 0.5", seeds=(0, 1, 2))
OF_EACH = len(COMPARED) - 1  # numbers of a network without a second test set
ACCURACIES = {0: 0.98, 1: 0.97, 2: 0.975}


def results_of(words, accuracies=ACCURACIES):
    """Write what a run of the options leaves behind, as the programs do."""
    folder, seed = Path(words[words.index("--out") + 1]), int(words[words.index("--seed") + 1])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    about = {"seed": seed, "samples": 1000, "synops": 500.0 + seed, "density": 0.1}
    rows = [
        about | {"name": "dense", "accuracy": 0.99, "density": 1.0, "file_bytes": 9000},
        about | {"name": "small", "accuracy": accuracies[seed], "file_bytes": 700},
    ]
    report.write_results(
        folder, experiment="own", dataset="digits", preset="cpu", seed=seed, seconds=2.0,
        command=f"python -m {shlex.join(words)}", rows=rows, extra={"widths": [4, seed]},
    )  # fmt: skip


@pytest.fixture
def started():
    """Return the list of the commands that `start` was given."""
    return []


@pytest.fixture
def start(started):
    """Return what runs a program of the tests: at once, and it always works."""

    def at_once(words, log):
        started.append(words)
        results_of(words)
        return 0

    return at_once


@pytest.fixture
def config(tmp_path):
    return Config(only=("mine",), out=tmp_path / "runs", results=tmp_path / "results")


@pytest.fixture
def stored(config, start):
    """Store the row, and return the path of its file."""
    (config.results).mkdir()
    assert run.reproduce(replace(config, store=True), {"mine": ROW}, start)
    return config.results / "mine.json"


def change(path, network, number, value):
    content = json.loads(path.read_text())
    for row in content["rows"]:
        if row["name"] == network:
            row[number] = value
    path.write_text(json.dumps(content))


# --- Store, and reproduce -------------------------------------------------------------------------


def test_a_stored_file_has_all_seeds_their_means_and_where_they_come_from(stored):
    content = json.loads(stored.read_text())
    assert [(row["name"], row["seed"]) for row in content["rows"]] == [
        (name, seed) for seed in (0, 1, 2) for name in ("dense", "small")
    ]
    assert content["command"] == "python -m experiments.reproduce --only mine --store"
    assert content["commands"][1] == (
        "python -m experiments.own --preset cpu --dataset digits --rate 0.5 --seed 1"
    )
    assert content["seeds"] == [0, 1, 2] and content["seconds"] == 6.0
    assert content["machine"]["cores"] and content["versions"]["jaxsnn"] == jaxsnn.__version__
    assert content["widths"] == [4, 0]
    assert content["further"][0] == {"seed": 1, "part": "", "widths": [4, 1]}
    small = content["means"][1]
    assert (small["name"], small["seeds"], small["samples"]) == ("small", 3, 1000)
    assert small["accuracy"] == pytest.approx(0.975)
    assert small["sd"]["accuracy"] == pytest.approx(0.005)  # of 98, 97 and 97.5 %
    assert small["accuracy_error"] == pytest.approx(math.sqrt(0.975 * 0.025 / 1000), rel=0.05)
    assert small["accuracy_low"] < 0.975 < small["accuracy_high"]


def test_the_file_is_one_that_reports_and_comparisons_read(stored, tmp_path):
    (tmp_path / "results.json").write_text(stored.read_text())
    assert len(report.read_results(tmp_path)["rows"]) == 6


def test_what_is_run_again_is_the_same(stored, config, start, started, capsys, tmp_path):
    again = replace(config, out=tmp_path / "again", seeds=(1,))
    assert run.reproduce(again, {"mine": ROW}, start)
    assert started[-1] == ["experiments.own", *ROW.arguments(1), "--out", str(
        (tmp_path / "again" / "mine" / "seed1").resolve())]  # fmt: skip
    out = capsys.readouterr().out
    assert "mine  small  accuracy: same  97.00 %" in out
    assert f"mine: {2 * OF_EACH} of {2 * OF_EACH} numbers reproduced" in out


@pytest.mark.parametrize(
    ("network", "number", "value", "expected"),
    [
        ("small", "accuracy", 0.97, WITHIN),  # half a point; three errors are 1.8
        ("small", "accuracy", 0.90, LOST),
        ("small", "file_bytes", 701, WITHIN),
        ("small", "file_bytes", 7000, LOST),
        ("dense", "synops", None, None),  # what a stored row has not is not compared
        ("dense", "name", "whole", LOST),  # and a network that the new run has not is lost
    ],
)
def test_a_changed_number_is_judged(
    stored, config, start, capsys, network, number, value, expected
):
    change(stored, network, number, value)
    assert run.reproduce(config, {"mine": ROW}, start) == (expected != LOST)
    out = capsys.readouterr().out
    assert (f": {LOST}" in out) == (expected == LOST)
    assert (f": {WITHIN}" in out) == (expected == WITHIN)


def test_a_file_of_one_seed_from_before_is_compared_too(config, start, tmp_path):
    results_of(["experiments.own", "--seed", "0", "--out", str(tmp_path / "results")])
    (tmp_path / "results" / "results.json").rename(tmp_path / "results" / "mine.json")
    assert run.reproduce(config, {"mine": ROW}, start)


def test_the_rule_is_that_of_the_docstring():
    old, new = {0: 0.95, 1: 0.97}, {5: 0.94}
    found = comparing.judge("n", "accuracy", old, new, None, 100)
    p = (100 * 0.96 + 2) / 104
    error = math.sqrt((0.01**2 * 2 + p * (1 - p) / 100) * (1 / 2 + 1))
    assert found.text == WITHIN
    assert f"({0.02 / error:.1f} errors of 3 allowed)" in found.why
    assert comparing.judge("n", "synops", {0: 100.0}, {0: 121.0}, 0.05, None).text == WITHIN
    assert comparing.judge("n", "synops", {0: 100.0}, {0: 122.0}, 0.05, None).text == LOST
    assert comparing.judge("n", "synops", {0: 100.0}, {0: 100.00001}, 0.05, None).text == SAME
    assert comparing.judge("n", "synops", {0: 100.0}, {}, 0.05, None).text == LOST


# --- Interrupted, and mistakes --------------------------------------------------------------------


def test_an_interrupted_row_goes_on_where_it_stopped(config, start, started):
    def killed(words, log):
        if words[words.index("--seed") + 1] == "0":
            return start(words, log)
        folder = Path(words[words.index("--out") + 1])
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        log.write_text("epoch 1\n\nerror: no room\n")
        return 2

    config.results.mkdir()
    with pytest.raises(UserError, match=r"seed1 ended with 2: epoch 1 \| error: no room"):
        run.reproduce(replace(config, store=True), {"mine": ROW}, killed)
    assert run.reproduce(replace(config, store=True), {"mine": ROW}, start)
    seeds = [words[words.index("--seed") + 1] for words in started]
    assert seeds == ["0", "1", "2"]  # the first one is not run again
    assert ["--resume" in words for words in started] == [False, True, False]
    assert (config.results / "mine.json").exists()


def test_a_folder_with_a_run_of_other_options_is_refused(stored, config, start):
    other = replace(ROW, more="--rate 0.7")
    with pytest.raises(UserError, match=r"has a run of .*--rate 0.5.* and this row is .*0.7"):
        run.reproduce(config, {"mine": other}, start)


def test_a_row_starts_from_the_network_of_another_row(config, start, started):
    later = replace(ROW, more="--rate 0.1", seeds=(1,), start="first")
    rows = {"first": ROW, "mine": later}
    asked = replace(config, store=True)
    assert run.reproduce(asked, rows, start)
    first, mine = started
    weights = Path(mine[mine.index("--weights") + 1])
    assert Path(first[first.index("--out") + 1]) / "models" / "dense.safetensors" == weights
    content = storing.read(config.results / "mine.json")
    assert content["commands"] == [
        "python -m experiments.own --preset cpu --dataset digits --rate 0.1 --seed 1 "
        "--weights RUNS/first/seed1/models/dense.safetensors"
    ]
    assert content["seconds"] == 2.0  # of this row alone
    assert run.reproduce(asked, rows, start) and started == [first, mine]  # both are read back


def test_parts_of_a_seed_are_runs_of_their_own(config, start, started):
    row = replace(ROW, seeds=(0,), parts={"10 %": "--keep 0.1", "2 %": "--keep 0.02"})
    config.results.mkdir()
    assert run.reproduce(replace(config, store=True), {"mine": row}, start)
    assert [words[words.index("--keep") + 1] for words in started] == ["0.1", "0.02"]
    content = storing.read(config.results / "mine.json")
    assert [row["part"] for row in content["rows"]] == ["10 %", "10 %", "2 %", "2 %"]
    assert [line["name"] for line in content["means"]] == 2 * ["dense", "small"]
    assert run.reproduce(config, {"mine": row}, start)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": ("none",)}, "--only 'none' is unknown; choose some of mine"),
        ({}, r"mine.json does not exist: nothing to compare with; add --store"),
        ({"only": (), "store": True}, "--store needs --only"),
        ({"seeds": (1, 1)}, "--seeds 1 1: one stands there twice"),
    ],
)
def test_a_mistake_is_named_before_anything_is_run(config, options, message, start, started):
    with pytest.raises(UserError, match=message):
        run.reproduce(replace(config, **options), {"mine": ROW}, start)
    assert not started


# --- The rows -------------------------------------------------------------------------------------


def test_the_list_says_what_is_stored_and_by_which_engine(stored, config, capsys):
    rows = {"mine": ROW, "other": replace(ROW, seeds=(0,), minutes=7)}
    assert run.reproduce(replace(config, only=()), rows)
    head, mine, other = capsys.readouterr().out.splitlines()
    assert mine.split()[:2] == ["mine", "0"]
    content = json.loads(stored.read_text())
    assert f"{content['stored']}  {content['versions']['jaxsnn']}" in mine
    assert other.split()[:3] == ["other", "7", "no"]
    assert mine.index("digits, 3 seeds. A row") == head.index("what it shows")


def test_every_row_is_a_preset_that_there_is(experiment_named):
    for name, row in ROWS.items():
        sets = experiment_named(row.experiment).presets[row.preset]
        assert row.dataset in sets, name
        assert row.minutes > 0 and row.seeds and set(row.compared) >= {"density", "file_bytes"}


@pytest.mark.run
@pytest.mark.thorough
def test_every_row_is_a_command_of_its_program(experiment_named):
    for row in ROWS.values():
        for part in row.parts:
            config = command.parse(experiment_named(row.experiment), row.arguments(3, part))
            options = flat(config)
            assert [options[key] for key in ("preset", "dataset", "seed")] == [
                row.preset, row.dataset, 3
            ]  # fmt: skip
            assert options.get("seeds", (0,)) == (0,)  # this program gives them one at a time


@pytest.mark.run
@pytest.mark.thorough
def test_a_tiny_row_is_stored_and_reproduced_by_its_program(
    config, run_in_process, options_of, capsys
):
    options = options_of("quickstart")
    del options[options.index("--seed") : options.index("--seed") + 2]
    more = shlex.join([*options, "--pull-epochs", "1"])
    row = Row("quickstart", "digits", "Tiny.", 0.1, more, "smoke", seeds=(1,))

    def in_process(words, log):
        run_in_process(words[0].removeprefix("experiments."), words[1:])
        return 0

    config.results.mkdir()
    assert run.reproduce(replace(config, store=True), {"mine": row}, in_process)
    again = replace(config, out=config.out / "again")
    assert run.reproduce(again, {"mine": row}, in_process)
    out = capsys.readouterr().out
    assert out.count(f": {SAME}") == 2 * OF_EACH  # dense, and compressed
    assert WITHIN not in out and LOST not in out
    assert storing.read(config.results / "mine.json")["rows"][0]["samples"] == 359


def _stored_in_minutes():
    """Return the stored rows that take less than ten minutes, by the engine of today."""
    for name in ROWS:
        path = ROOT / "results" / f"{name}.json"
        if path.exists() and (found := storing.read(path)).get("commit"):
            if found["seconds"] < 600:
                yield name


# pytest -m slow tests/experiments/test_reproduce.py, with the data in $JAXSNN_DATA
@pytest.mark.slow
@pytest.mark.parametrize("name", list(_stored_in_minutes()))
def test_what_is_stored_is_still_reproduced(name, tmp_path, capsys):
    if ROWS[name].dataset != "digits" and "JAXSNN_DATA" not in os.environ:
        pytest.skip("$JAXSNN_DATA does not name the folder of the data")
    held = run.reproduce(Config(only=(name,), out=tmp_path))
    assert held, capsys.readouterr().out


@pytest.mark.slow
def test_the_command_stores_and_compares_in_processes_of_their_own(tmp_path):
    """Kill it, too: what was begun is resumed."""
    config = Config(only=("smoke",), out=tmp_path / "runs", results=tmp_path, store=True)
    assert run.reproduce(replace(config, seeds=(0,)))
    assert run.reproduce(replace(config, seeds=(0,), store=False))
    broken = runs.start(["experiments.quickstart", "--preset", "huge"], tmp_path / "log")
    assert broken == 2
    assert "'huge' is unknown" in (tmp_path / "log").read_text()
