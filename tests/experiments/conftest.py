"""What the tests of the experiments share: the smallest run of each, and what it left behind."""

import importlib
import json
import shlex
import sys
from pathlib import Path

import pytest

from experiments.common import command

HERE = Path(__file__).parent

# The smallest run of each experiment: name -> options. Every one keeps the contract of
# test_contract.py, and is made once for all tests that look at what it left behind.
RUNS = {
    "quickstart": "--preset smoke --network 4C3-AP2-{classes} --timesteps 2 --limit 300 "
    "--batch-size 30 --learning-rate 0.02 --penalty 0.01 --dense-epochs 2 --pull-epochs 40 "
    "--order together --no-control --seed 3 --checkpoint-every 0",
    "admm": "--preset smoke --network 4C3-AP2-{classes} --timesteps 2 --limit 300 --batch-size 30 "
    "--learning-rate 0.02 --penalty 0.01 --dense-epochs 8 --pull-epochs 2 --prune-sparsity 0.75 "
    "--sparsity 0.5 --activity-weights 0 0.03",
    "rivals": "--preset smoke --network 4C3-AP2-{classes} --timesteps 2 --limit 60 --batch-size 20 "
    "--dense-epochs 1 --no-control --seeds 0 1 --sparsity 0.5 0.8",
    "joint": "--preset smoke --network 4C3-AP4-8-{classes} --timesteps 2 --limit 120 "
    "--batch-size 30 --stages connections bits --pruning magnitude --sparsity 0.5",
    "spatiotemporal": "--preset smoke --network 4C3-AP2-6C3-AP4-{classes} --learning-rate 0.01 "
    "--timesteps 6 --calibration-timesteps 6 --fewer 4 2 --qat-epochs 1 --ann-epochs 1 "
    "--validation 0 --control-every --uniform --threshold-scales 0.7",
    "spike_thrift": "--preset smoke --network 4C3-AP2-6C3-AP4-{classes} --density 0.4 "
    "--ann-epochs 1 --sparse-epochs 3 --timesteps 6 --calibration-timesteps 6 --validation 0 "
    "--tune-each",
    "sweep": "--preset smoke --network 8-{classes} --timesteps 2 --limit 120 --dense-epochs 1 "
    "--sparsity 0.5 --bits 2 4 --chunk 1 --no-control",
    "qp_snn": "--preset smoke --network 4C3-6C3-MP2-6C3-AP4-{classes} --threshold 0.4 --limit 100 "
    "--batch-size 30 --train-epochs 1 --tune-epochs 1 --calibration-batch-size 30 --seed 3 "
    "--seeds 2",
    "fast": "--preset smoke --network 4C2V-6C3-AP2-{classes} --limit 100 --batch-size 30 --seed 3 "
    "--ways dense average",
}

LONG = {"fast", "qp_snn", "rivals", "spatiotemporal", "spike_thrift"}
KILLED = {"quickstart", "sweep"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Run the long experiments beside the default tier; kill two, for the way back is one."""
    for item in items:
        if item.path.parent != HERE or item.get_closest_marker("run") is None:
            continue
        name = item.callspec.params.get("name") if hasattr(item, "callspec") else None
        name = name or item.path.stem.removeprefix("test_").removesuffix("_run")
        if name in LONG:
            item.add_marker(pytest.mark.thorough)
        if "killed_in_its_last" in item.name and name not in KILLED:
            item.add_marker(pytest.mark.slow)


def experiment_of(name):
    """Return the value EXPERIMENT of an experiment's folder or module."""
    module = importlib.import_module(f"experiments.{name}")
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"experiments.{name}.run")
    return module.EXPERIMENT


@pytest.fixture(scope="session")
def experiment_named():
    """Return the function from an experiment's name to its value EXPERIMENT."""
    return experiment_of


@pytest.fixture(scope="session")
def run_in_process():
    """Return a function that runs an experiment, by name or value, as its command would."""

    def run(experiment, argv):
        if isinstance(experiment, str):
            experiment = experiment_of(experiment)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [experiment.name, *map(str, argv)])
            command.main(experiment)

    return run


@pytest.fixture(scope="session")
def options_of():
    """Return a function from an experiment's name to the options of its smallest run."""
    return lambda name: shlex.split(RUNS[name])


@pytest.fixture(scope="session")
def run_of(tmp_path_factory, run_in_process, options_of):
    """Return a function from an experiment's name to the directory of its smallest run."""
    folders = {}

    def folder(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name) / "run"
            run_in_process(name, ["--out", folders[name], *options_of(name)])
        return folders[name]

    return folder


@pytest.fixture(scope="session", params=RUNS)
def name(request):
    """Return the name of each experiment in turn."""
    return request.param


@pytest.fixture
def experiment(name):
    """Return the value EXPERIMENT of each experiment in turn."""
    return experiment_of(name)


@pytest.fixture(scope="module")
def results(folder):
    """Return what a file's `folder`, the directory of a run, has in results.json."""
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def rows(results):
    """Return the rows of the results by name."""
    return {row["name"]: row for row in results["rows"]}


@pytest.fixture
def mistake_of(tmp_path, capsys, run_in_process):
    """Return a function that gives the one line with which a run stops that writes nothing."""

    def stopped(experiment, argv):
        with pytest.raises(SystemExit) as stop:
            run_in_process(experiment, ["--out", tmp_path / "run", *argv])
        assert stop.value.code == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert not list(tmp_path.iterdir())
        return err

    return stopped
