"""What every experiment keeps: files and fields, resumed runs, one line for a mistake, a help."""

import dataclasses
import json
import re
import shutil

import pytest

from experiments.common import command, flat
from jaxsnn.cli import arguments
from jaxsnn.errors import UserError
from jaxsnn.report.results import ROW_FIELDS

PICTURES = {"accuracies", "confusion", "curves", "layers", "histograms", "accuracy_over_time"}
PICTURES |= {"raster"}
FIXED = ["experiment", "dataset", "preset", "seed", "command", "versions", "seconds", "rows"]


def json_of(path):
    return json.loads(path.read_text(encoding="utf-8"))


def log_of(folder):
    """Return the log of a run without the time that each epoch took."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def rows_of(folder):
    """Return the rows of a run without what depends on the clock."""
    clock = ("ms_per_sample", "train_seconds", "core_seconds")
    rows = json_of(folder / "results.json")["rows"]
    return [{k: v for k, v in row.items() if k not in clock} for row in rows]


def pictures_of(folder):
    """Return name -> picture of a run's page."""
    page = (folder / "report.html").read_text(encoding="utf-8")
    return dict(re.findall('<figure class=plot id="plot-([^"]+)">(.*)</figure>', page))


# --- What a run leaves behind ---------------------------------------------------------------------


@pytest.mark.run
def test_the_results_have_the_fields_that_programs_rely_on(name, run_of):
    results = json_of(run_of(name) / "results.json")
    assert list(results)[:8] == FIXED
    assert results["experiment"] == name
    assert results["command"].startswith(f"python -m experiments.{name} --out ")
    assert len({(row["name"], row["seed"]) for row in results["rows"]}) == len(results["rows"])
    for row in results["rows"]:
        assert set(ROW_FIELDS) <= set(row)
        is_ann = row["spike_rate"] is None  # which has no spikes to count
        missing = {field for field in ROW_FIELDS if row[field] is None}
        assert missing == ({"spike_rate", "spikes_per_sample"} if is_ann else set())
        assert not is_ann or name in ("spatiotemporal", "spike_thrift")


@pytest.mark.run
def test_every_network_of_the_results_is_packed(name, run_of):
    folder = run_of(name)
    packed = {path.stat().st_size for path in (folder / "models").iterdir()}
    assert {row["file_bytes"] for row in rows_of(folder)} <= packed


@pytest.mark.run
def test_the_report_is_one_page_with_all_pictures(name, run_of):
    folder = run_of(name)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert set(re.findall('id="plot-([^"]+)"', page)) >= PICTURES
    assert "was not drawn" not in page and len(page) < 1_500_000
    assert set(re.findall(r'(?:src|href)="([^,]*)', page)) == {"data:image/png;base64"}
    for row in rows_of(folder):
        assert row["name"] in page


@pytest.mark.run
def test_the_log_has_a_record_for_each_epoch_of_each_phase(name, run_of):
    records = log_of(run_of(name))
    phases = list(dict.fromkeys(record["phase"] for record in records))
    for phase in phases:
        epochs = [record["epoch"] for record in records if record["phase"] == phase]
        assert epochs == list(range(1, len(epochs) + 1))


@pytest.mark.run
def test_the_configuration_of_a_run_is_an_input(name, experiment, run_of, options_of):
    folder = run_of(name)
    given = command.parse(experiment, ["--out", str(folder), *options_of(name)])
    read = command.parse(experiment, ["--config", str(folder / "config.json")])
    starts = {"config": None, "out": None}
    assert dataclasses.replace(read, run=dataclasses.replace(read.run, **starts)) == (
        dataclasses.replace(given, run=dataclasses.replace(given.run, **starts))
    )


# --- Killed and resumed ---------------------------------------------------------------------------


@pytest.mark.run
def test_a_run_that_was_killed_in_its_last_phase_resumes_to_the_same_files(
    name, run_of, options_of, run_in_process, tmp_path
):
    whole, killed = run_of(name), tmp_path / "run"
    shutil.copytree(whole, killed)
    last = log_of(killed)[-1]["phase"]
    shutil.rmtree(killed / "checkpoints" / re.sub("[ %]+", "-", last))
    shutil.rmtree(killed / "models")
    for left in ("results.json", "report.html"):
        (killed / left).unlink()
    lines = (killed / "metrics.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["phase"] != last]
    (killed / "metrics.jsonl").write_text("".join(kept))

    run_in_process(name, ["--out", killed, *options_of(name), "--resume"])
    assert sorted(map(str, log_of(killed))) == sorted(map(str, log_of(whole)))
    assert rows_of(killed) == rows_of(whole)
    for path in (whole / "models").iterdir():
        assert (killed / "models" / path.name).read_bytes() == path.read_bytes()
    assert pictures_of(killed) == pictures_of(whole)


# --- The command line -----------------------------------------------------------------------------

MISTAKES = {
    "preset": (["--preset", "huge"], "'huge' is unknown; choose one of smoke, "),
    "data set": (["--dataset", "mnits"], "--dataset 'mnits' is unknown; choose one of digits, "),
    "option": (["--no-such-option", "1"], "--no-such-option"),
    "stray word": (["stray"], "stray"),
    "range": (["--batch-size", "0"], "--batch-size must be in [1, "),
    "not a number": (["--learning-rate", "many"], "--learning-rate"),
    "scores": (["--network", "4C3-AP2-7"], "--network ends in 7 scores, but digits has 10 classes"),
    "limit": (["--limit", "0"], "--limit must be"),
    "data folder": (["--dataset=mnist", "--preset=smoke", "--data-dir=/no/such"], "/no/such"),
    "config file": (["--config", "/no/such/file"], "/no/such/file: no such file"),
    "resume": (["--resume"], "holds no run"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(name, mistake, mistake_of):
    argv, expected = MISTAKES[mistake]
    assert expected in mistake_of(name, argv)


def test_the_help_shows_the_options_that_the_program_has_in_groups(name, experiment, capsys):
    with pytest.raises(SystemExit) as stop:
        command.parse(experiment, ["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    shown = set(re.findall(r"^[│ ] (--[a-z][\w-]*)", out, re.MULTILINE)) - {"--help"}
    assert shown == {arguments.flag(each) for each in flat(experiment.config())}
    for field in dataclasses.fields(experiment.config):
        assert f"{field.name.replace('_', '-')} options" in out
    assert experiment.about.partition("\n")[0] in out


def test_every_preset_is_in_range_and_can_be_written_down(experiment):
    found = 0
    for preset, sets in experiment.presets.items():
        for dataset in sets:
            config = command.preset_of(experiment, preset, dataset)
            values = flat(config)
            assert (values["preset"], values["dataset"]) == (preset, dataset)
            found += 1
            if dataset == "digits":  # the others are read alike, and reading takes its time
                assert command.parse(experiment, command.words_of(experiment, values)) == config
    assert found >= 2


def test_a_pair_without_a_preset_is_refused_with_those_that_there_are(experiment):
    missing = [
        (preset, dataset)
        for preset, sets in experiment.presets.items()
        for dataset in experiment.presets["smoke"]
        if dataset not in sets
    ]
    for preset, dataset in missing[:1]:
        with pytest.raises(
            UserError, match=f"no values for --dataset {dataset}; there are smoke: "
        ):
            command.preset_of(experiment, preset, dataset)


def test_two_groups_never_have_an_option_of_one_name(experiment):
    assert flat(experiment.config())
