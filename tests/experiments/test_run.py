"""The run directory: what is refused, what is resumed, what is logged, what a picture may cost."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest

from experiments.common import Run, RunOptions, run
from jaxsnn import metrics, models, native, train, tree
from jaxsnn.errors import UserError
from jaxsnn.inputs import Inputs
from jaxsnn.methods import Result, Trained
from jaxsnn.options import checked


@checked
class Toy:
    """Options of the toy."""

    seed: int = 0


@dataclass(frozen=True)
class Config:
    """Options of a toy experiment."""

    run: RunOptions = RunOptions()
    method: Toy = Toy()


@checked
class Short:
    """Options of a toy with a choice of numbers."""

    seed: int = 0
    dtype: str = "auto"


@dataclass(frozen=True)
class ShortConfig:
    """Options of a toy experiment with a choice of numbers."""

    run: RunOptions = RunOptions()
    method: Short = Short()


def start(out=None, seed=0, **options):
    return Run("toy", Config(RunOptions(out=out and str(out), **options), Toy(seed=seed)))


def dead_process():
    """Return the number of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


# --- The run directory ----------------------------------------------------------------------------


def test_a_new_run_makes_its_directory_and_writes_its_configuration(tmp_path, capsys):
    run = start(tmp_path / "a" / "b", seed=3)
    assert run.directory == tmp_path / "a" / "b"
    assert json.loads((run.directory / "config.json").read_text())["seed"] == 3
    assert str(run.directory) in capsys.readouterr().err


def test_the_log_says_once_which_path_convolutions_and_products_take(tmp_path, capsys):
    for options in ({}, {"resume": True}):
        start(tmp_path / "run", **options).close()
        lines = capsys.readouterr().err.splitlines()
        assert lines.count(native.describe()) == 1
        assert not any(line.startswith("products") for line in lines)  # it has no such option
    config = ShortConfig(RunOptions(out=str(tmp_path / "short")), Short())
    Run("toy", config).close()
    assert native.choose_dtype()[1] in capsys.readouterr().err.splitlines()


def test_an_empty_directory_may_be_given(tmp_path):
    start(tmp_path)
    assert (tmp_path / "config.json").exists()


def test_a_directory_in_use_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty; add --resume or choose another"):
        start(tmp_path)
    with pytest.raises(UserError, match="is a file; choose another name"):
        start(tmp_path / "thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("name", "message"),
    [(b"file/run", "Not a directory"), (b"caf\xe9", "is not UTF-8"), (b"x" * 256, "256 bytes")],
)
def test_a_directory_that_cannot_be_is_named_and_nothing_is_made(tmp_path, name, message):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=message):
        start(tmp_path / os.fsdecode(name))
    with pytest.raises(UserError, match=f"{message}|holds no run"):
        start(tmp_path / os.fsdecode(name), resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_a_process_killed_at_its_start_left_counts_as_nothing(tmp_path, monkeypatch):
    dead = f".config.json.{dead_process()}"
    (tmp_path / dead).write_text('{"pres')
    (tmp_path / ".lock").write_text("1")
    with pytest.raises(UserError, match="holds no run"):
        start(tmp_path, resume=True)
    run = start(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "config.json"]
    run.close()
    (tmp_path / "models").mkdir()
    for name in (dead, f"models/.dense.safetensors.{dead_process()}"):
        (tmp_path / name).write_text("half")
    start(tmp_path, resume=True)
    assert not [path for path in tmp_path.rglob(".*") if path.name != ".lock"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "toy-digits-cpu-0").mkdir(parents=True)
    (tmp_path / "runs" / "toy-digits-cpu-0" / dead).write_text("half")
    assert str(start().directory) == "runs/toy-digits-cpu-0"


@pytest.mark.thorough
def test_a_directory_that_another_process_has_is_refused_and_left_alone(tmp_path):
    run = start(tmp_path, seed=1)
    before = (tmp_path / "config.json").read_text()
    code = "from tests.experiments.test_run import start; start({!r}, seed=1, resume={})"
    for resume, message in ((True, "is in use by another process"), (False, "is not empty")):
        other = subprocess.run(
            [sys.executable, "-c", code.format(str(tmp_path), resume)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert message in other.stderr
    assert (tmp_path / "config.json").read_text() == before
    run.close()


def test_resuming_needs_a_run(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        start(tmp_path, resume=True)
    assert not list(tmp_path.iterdir())


def test_resuming_with_another_option_names_it(tmp_path):
    start(tmp_path, seed=1)
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(UserError, match=r"has seed = 1, not 2; give the same options"):
        start(tmp_path, seed=2, resume=True)
    assert (tmp_path / "config.json").read_text() == before


def test_resuming_from_another_data_folder_is_allowed(tmp_path):
    start(tmp_path, data_dir="here")
    assert start(tmp_path, data_dir="there", resume=True).directory == tmp_path


def test_resuming_a_broken_configuration_is_one_line(tmp_path):
    for text in ('{"seed": ', "[]", '{"seed": NaN}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match=r"config\.json.* a run's configuration"):
            start(tmp_path, resume=True)
        assert (tmp_path / "config.json").read_text() == text


GOOD = '{"phase": "dense", "epoch": 1, "seconds": 0.5, "loss": 2}'


@pytest.mark.parametrize(
    "text",
    ['{"pha\n', "[]\n", '{"phase": "dense"}\n', GOOD.replace("1,", '"1",') + "\n",
     GOOD.replace("0.5", "null") + "\n", "\n", GOOD.replace("2}", "3}") + "\n"],
)  # fmt: skip
def test_resuming_a_broken_log_is_one_line_that_names_the_line(tmp_path, text):
    start(tmp_path)
    (tmp_path / "metrics.jsonl").write_text(f"{GOOD}\n{text}")
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2"):
        start(tmp_path, resume=True)


@pytest.mark.parametrize("end", ['{"phase": "dense", "epo', "\n{", '{"phase": "dense"}', "\0"])
def test_a_last_line_that_was_not_finished_is_no_record(tmp_path, end):
    start(tmp_path)
    (tmp_path / "metrics.jsonl").write_text(f"{GOOD}\n{end}".replace("\n\n", "\n"))
    assert start(tmp_path, resume=True).log == [json.loads(GOOD)]
    (tmp_path / "metrics.jsonl").write_text(GOOD)  # whole but for its end
    assert start(tmp_path, resume=True).log == [json.loads(GOOD)]


def test_without_out_runs_are_numbered_and_the_newest_is_resumed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="there is no run in runs/toy-digits-cpu-5"):
        start(seed=5, resume=True)
    names = [str(start(seed=5).directory) for _ in range(3)]
    stem = "runs/toy-digits-cpu-5"
    assert names == [stem, f"{stem}-2", f"{stem}-3"]
    assert str(start(seed=5, resume=True).directory) == f"{stem}-3"


# --- The log --------------------------------------------------------------------------------------


def log_of(run):
    lines = (run.directory / "metrics.jsonl").read_text().splitlines()
    return [(row["phase"], row["epoch"], row["loss"]) for row in map(json.loads, lines)]


def record(phase, epoch, loss):
    return {"phase": phase, "epoch": epoch, "loss": loss, "seconds": 0.5}


def test_an_epoch_repeated_after_an_interruption_replaces_its_record(tmp_path):
    run = start(tmp_path)
    for row in (record("dense", 1, 0.5), record("dense", 2, 0.4), record("pull", 1, 0.3)):
        run._record(row)
    assert log_of(run) == [("dense", 1, 0.5), ("dense", 2, 0.4), ("pull", 1, 0.3)]
    run.close()
    resumed = start(tmp_path, resume=True)
    resumed._record(record("pull", 1, 0.25))
    assert log_of(resumed) == [("dense", 1, 0.5), ("dense", 2, 0.4), ("pull", 1, 0.25)]


def test_numbers_that_json_has_not_are_null_in_the_log(tmp_path):
    run = start(tmp_path)
    run._record(record("dense", 1, float("nan")))
    assert log_of(run) == [("dense", 1, None)]


def test_figures_go_to_a_table_too(tmp_path):
    run = start(tmp_path, log="csv")
    for row in (record("dense", 1, 0.5), record("pull", 1, 0.25) | {"penalty": 0.125}):
        run._record(row)
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["loss"] for row in rows] == ["0.5", "0.25"]
    assert [row["penalty"] for row in rows] == ["", "0.125"]


@pytest.mark.long
def test_figures_go_to_tensorboard_too(tmp_path):
    pytest.importorskip("tensorboardX")
    run = start(tmp_path, log="tensorboard")
    run._record(record("dense", 1, 0.5))
    run._hook.close()
    assert b"dense/loss" in next((tmp_path / "tensorboard").iterdir()).read_bytes()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
@pytest.mark.filterwarnings("ignore:Exception ignored")  # the file cannot be closed either
def test_a_full_disk_is_one_line_for_tensorboard(tmp_path, monkeypatch):
    writer = pytest.importorskip("tensorboardX.event_file_writer")
    full = writer.RecordWriter
    monkeypatch.setattr(writer, "RecordWriter", lambda path: full("/dev/full"))
    run = start(tmp_path, log="tensorboard")
    with pytest.raises(UserError, match=r"tensorboard: cannot be written: No space left"):
        run._record(record("dense", 1, 0.5))


def test_without_the_package_tensorboard_is_one_line_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match=r"needs the package tensorboardX: pip install"):
        start(tmp_path / "run", log="tensorboard")
    assert not list(tmp_path.iterdir())


# --- Stages ---------------------------------------------------------------------------------------


def test_arrays_of_a_stage_are_computed_once(tmp_path):
    run, calls = start(tmp_path), []

    def compute():
        calls.append(1)
        return {"scores": np.arange(3)}

    for each in (run, start(tmp_path, resume=True)):
        np.testing.assert_array_equal(each.arrays("a stage", compute)["scores"], np.arange(3))
    assert calls == [1]
    (tmp_path / "checkpoints" / "a-stage.npz").write_bytes(b"damage")
    with pytest.raises(UserError, match=r"a-stage\.npz: damaged .*; delete it to go on"):
        run.arrays("a stage", compute)


def test_two_phases_of_one_name_are_noticed(tmp_path):
    run = start(tmp_path)
    run._phases.add("a-phase")  # the folder of its checkpoints
    for name in ("a-phase", "a phase", "a/phase"):
        with pytest.raises(ValueError, match=f"two phases of the run are called '{name}'"):
            run.fit(name=name)


@pytest.mark.long
def test_what_fails_in_the_background_is_one_line_at_the_end(tmp_path):
    run = start(tmp_path / "run")
    (run.directory / "models").write_text("a file where a folder should be")
    net, task = models.build("4-2", (3,)), train.Task(Inputs((3,), timesteps=1))
    result = Result(
        net, task, {"dense": Trained(net, task)}, metrics.Comparison((metrics.Report("dense"),))
    )
    assert run.pack(result) is result
    with pytest.raises(UserError, match=r"models"):
        run.finish(result, title="toy", summary="")
    assert not (run.directory / "results.json").exists()


def test_starved_outputs_are_those_of_kernels_alone():
    net = models.build("6R-3", (4,), seed=0)
    gone = {"dense2/kernel": 1, "dense1/recurrent": 2}  # leaf -> output without weights

    def cut(name, leaf):
        return leaf.at[:, gone[name]].set(0.0) if name in gone else leaf

    net = net.replace(params=tree.map_named(cut, net.params))
    task = train.Task(Inputs((4,), timesteps=2, encoding="events"))
    assert run._row(metrics.Report("net"), Trained(net, task))["starved_outputs"] == 1
