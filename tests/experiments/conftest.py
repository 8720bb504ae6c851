"""What the tests of the experiments share: a run in this process, and what it left behind."""

import json
import sys

import pytest

from experiments.common import skeleton


@pytest.fixture(scope="session")
def run_in_process():
    """Return a function that runs an experiment's module with arguments, as its command would."""

    def run(experiment, argv):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [experiment.__name__, *argv])
            skeleton.main(experiment.main)

    return run


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
            run_in_process(experiment, ["--out", str(tmp_path / "run"), *argv])
        assert stop.value.code == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert not list(tmp_path.iterdir())
        return err

    return stopped
