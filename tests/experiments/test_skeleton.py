"""The command line, the run directory and the log that all experiments share."""

import dataclasses
import json

import pytest

from experiments import admm, quickstart
from experiments.common import skeleton
from jaxsnn.errors import UserError

# --- The command line -----------------------------------------------------------------------------


def parse(*argv):
    return skeleton.parse(admm.defaults, "admm", list(argv))


@pytest.mark.parametrize("preset", skeleton.PRESETS)
@pytest.mark.parametrize("dataset", ["digits", "mnist", "cifar10", "kmnist"])
def test_a_preset_gives_the_defaults_of_its_data_set(preset, dataset):
    assert parse("--preset", preset, "--dataset", dataset) == admm.defaults(preset, dataset)


def test_without_options_it_is_the_cpu_preset_on_digits():
    assert parse() == admm.defaults("cpu", "digits")


def test_presets_differ():
    configs = [admm.defaults(preset, "mnist") for preset in skeleton.PRESETS]
    assert len({c.dense_epochs for c in configs}) == 3
    assert quickstart.defaults("smoke", None) != quickstart.defaults("cpu", None)


def test_an_option_overrides_the_preset_and_nothing_else():
    found = parse(
        "--preset=smoke", "--dense-epochs", "7", "--ways", "prune", "joint", "--augment=crop-flip"
    )
    expected = dataclasses.replace(
        admm.defaults("smoke", None), dense_epochs=7, ways=("prune", "joint"), augment="crop-flip"
    )
    assert found == expected


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["--preset", "nope"], ["'nope'", "smoke, cpu, paper"]),
        (["--no-such-option", "1"], ["--no-such-option"]),
        (["--dense-epochs", "many"], ["--dense-epochs", "many"]),
        (["--sparsity"], ["--sparsity"]),
        (["stray"], ["stray"]),
    ],
)
def test_a_wrong_option_is_one_line_that_names_it(argv, parts):
    with pytest.raises(UserError) as caught:
        parse(*argv)
    message = str(caught.value)
    assert not set(message) & set("\n│╭╰─")
    for part in parts:
        assert part in message


def test_help_lists_every_option_and_ends_well(capsys):
    with pytest.raises(SystemExit) as stop:
        parse("--help")
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for field in dataclasses.fields(admm.Config):
        assert "--" + field.name.replace("_", "-") in out


def test_a_users_mistake_is_one_line_and_code_2(capsys):
    def body():
        raise UserError("sparsity is 2, but must be in [0, 1)")

    with pytest.raises(SystemExit) as stop:
        skeleton.main(body)
    assert stop.value.code == 2
    assert capsys.readouterr() == ("", "error: sparsity is 2, but must be in [0, 1)\n")


def test_an_interruption_says_how_to_go_on(capsys):
    def body():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        skeleton.main(body)
    assert stop.value.code == 130
    assert "--resume" in capsys.readouterr().err


def test_a_mistake_of_ours_keeps_its_traceback():
    def body():
        raise RuntimeError

    with pytest.raises(RuntimeError):
        skeleton.main(body)


# --- The run directory ----------------------------------------------------------------------------


def start(out=None, **options):
    return skeleton.Run("toy", skeleton.CommonConfig(out=out and str(out), **options))


def test_a_new_run_makes_its_directory_and_writes_its_configuration(tmp_path, capsys):
    run = start(tmp_path / "a" / "b", seed=3)
    assert run.directory == tmp_path / "a" / "b"
    assert json.loads((run.directory / "config.json").read_text())["seed"] == 3
    assert str(run.directory) in capsys.readouterr().err


def test_an_empty_directory_may_be_given(tmp_path):
    start(tmp_path)
    assert (tmp_path / "config.json").exists()


def test_a_directory_in_use_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty; add --resume or choose another"):
        start(tmp_path)
    with pytest.raises(UserError, match="not empty"):
        start(tmp_path / "thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/run"):
        start(tmp_path / "file" / "run")


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
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(UserError, match=r"config\.json is not a run's configuration"):
        start(tmp_path, resume=True)


def test_resuming_a_broken_log_is_one_line(tmp_path):
    start(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"phase": "dense"}\n{"pha')
    with pytest.raises(UserError, match=r"metrics\.jsonl is not a run's log"):
        start(tmp_path, resume=True)


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
    resumed = start(tmp_path, resume=True)
    resumed._record(record("pull", 1, 0.25))
    assert log_of(resumed) == [("dense", 1, 0.5), ("dense", 2, 0.4), ("pull", 1, 0.25)]


def test_numbers_that_json_has_not_are_null_in_the_log(tmp_path):
    run = start(tmp_path)
    run._record(record("dense", 1, float("nan")))
    assert log_of(run) == [("dense", 1, None)]


def test_results_name_experiment_data_preset_seed_and_command(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["toy.py", "--out", "a folder"])
    run = start(tmp_path, seed=4)
    run._record(record("dense", 1, 0.5) | {"seconds": 900.0})
    run.write_results([{"name": "dense"}], more={"spread": 0.5})
    results = json.loads((tmp_path / "results.json").read_text())
    expected = {
        "experiment": "toy", "dataset": "digits", "preset": "cpu", "seed": 4,
        "command": "python -m experiments.toy --out 'a folder'", "more": {"spread": 0.5},
    }  # fmt: skip
    assert expected.items() <= results.items()
    assert results["seconds"] == 900.0  # of the interrupted process, not of this one alone
    assert results["rows"][0]["name"] == "dense"
