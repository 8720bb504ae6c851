"""The ADMM experiments: what each way does to a network, a run that is killed, files in pieces."""

import gzip
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import common
from experiments.common import command
from experiments.rivals import run as rivals
from experiments.rivals.config import Pruning
from jaxsnn import export, metrics, train
from jaxsnn.errors import UserError

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.run


def log_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# --- Every way ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(run_of):
    """Return the directory of a run of `experiments.admm` that went every way."""
    return run_of("admm")


def test_the_dense_network_comes_first_and_the_product_last(rows):
    assert list(rows) == ["dense", "dense control", "pruned", "pruned one-shot", "ternary",
                          "quiet 0", "quiet 0.03", "compressed"]  # fmt: skip


def test_the_networks_have_learnt(rows):
    assert rows["dense"]["accuracy"] > 0.4
    assert all(row["accuracy"] > 0.2 for row in rows.values())


@pytest.mark.parametrize(
    ("name", "density"), [("pruned", 0.25), ("pruned one-shot", 0.25), ("compressed", 0.5)]
)
def test_connections_are_removed_as_ordered(rows, name, density):
    sizes = [np.prod(layer["shape"]) for layer in rows[name]["layers"] if layer["shape"]]
    rounding = len(sizes) / sum(sizes)
    if name == "compressed":  # the grid has a level 0, on which survivors may land
        assert 0.5 * density < rows[name]["density"] <= density + rounding
    else:
        assert rows[name]["density"] == pytest.approx(density, abs=rounding)


def test_both_ways_of_pruning_keep_as_many_in_each_layer(rows):
    layers = (
        [layer["density"] for layer in rows[n]["layers"]] for n in ("pruned", "pruned one-shot")
    )
    assert next(layers) == next(layers)


def test_bits_are_as_ordered(rows):
    assert [rows[name]["bits"] for name in ("dense", "pruned", "quiet 0")] == [32, 32, 32]
    assert rows["ternary"]["bits"] == 2
    assert 2 <= rows["compressed"]["bits"] <= 3


def test_what_was_not_pruned_is_dense(rows):
    assert [rows[name]["density"] for name in ("dense", "quiet 0")] == [1, 1]


def test_the_density_of_the_convolutions_stands_beside_that_of_all(rows):
    conv1 = next(layer for layer in rows["pruned"]["layers"] if layer["name"] == "conv1")
    assert rows["pruned"]["convolution_density"] == pytest.approx(conv1["density"])
    assert rows["dense"]["convolution_density"] == 1


@pytest.mark.parametrize("name", ["dense", "pruned", "ternary", "compressed"])
def test_a_packed_network_is_the_one_that_was_measured(folder, rows, name):
    path = folder / "models" / f"{name}.safetensors"
    packed = export.load(path)
    row = rows[name]
    assert path.stat().st_size == row["file_bytes"]
    accuracy = f"{row['accuracy']:.6f}"
    assert packed.metadata == {"name": name, "accuracy": accuracy, "dataset": "digits"}
    assert metrics.density(packed.network) == row["density"]
    levels = {"ternary": 1, "compressed": 3}.get(name)
    for layer in ("conv1", "dense1") if levels else ():
        magnitudes = np.unique(np.abs(packed.network.params[layer]["kernel"]))
        multiples = magnitudes[magnitudes > 0] / magnitudes.max()
        assert len(multiples) <= levels
        assert np.allclose(multiples * levels, np.rint(multiples * levels)) or len(multiples) < 3


def test_packed_networks_score_what_the_results_say(folder, rows, options_of):
    from experiments.admm.run import EXPERIMENT

    config = command.parse(EXPERIMENT, options_of("admm"))
    problem = common.load(config, seed=0, batch_size=30)
    for name in ("dense", "compressed"):
        packed = export.load(folder / "models" / f"{name}.safetensors")
        assert packed.inputs == problem.task.inputs
        found = train.evaluate(problem.task, packed.network, problem.data.test)
        assert found.accuracy == rows[name]["accuracy"]


def test_held_out_images_are_a_second_test_set(rows):
    for row in rows.values():
        assert row["held_out_samples"] == 30 and 0 <= row["held_out_accuracy"] <= 1
        assert row["held_out_accuracy"] * 30 == pytest.approx(round(row["held_out_accuracy"] * 30))


def test_compression_makes_the_file_smaller(rows):
    assert rows["compressed"]["weight_bytes"] < rows["dense"]["weight_bytes"] / 8
    assert rows["compressed"]["file_bytes"] < rows["dense"]["file_bytes"]


def test_the_log_has_the_residuals_of_each_pull(folder):
    log = log_of(folder)
    phases = [(record["phase"], record["epoch"]) for record in log]
    pulls = ["prune pull", "quantize pull", "joint prune pull", "joint quantize pull"]
    retrains = [*(pull.replace("pull", "retrain") for pull in pulls), "0 activity", "0.03 activity"]
    epochs = (
        {"dense": 8, "dense control": 6, "one-shot retrain": 3}
        | dict.fromkeys(pulls, 2)
        | dict.fromkeys(retrains, 1)
    )
    assert sorted(phases) == sorted((p, e + 1) for p, count in epochs.items() for e in range(count))
    assert phases[:8] == [("dense", epoch) for epoch in range(1, 9)]
    for record in log:
        names = {"loss", "accuracy", "spike_rate", "validation_accuracy", "seconds"}
        assert all(np.isfinite(record[name]) for name in names)
        residuals = {f"{kind}/{layer}/kernel" for kind in ("primal", "dual") for layer in
                     ("conv1", "dense1")}  # fmt: skip
        assert (residuals | {"penalty"} <= record.keys()) == (record["phase"] in pulls)


def test_the_penalty_grows_and_pulls_the_weights_to_their_set(folder):
    # Two epochs of a smoke run move the weights little; towards a grid, not always nearer.
    pull = [record for record in log_of(folder) if record["phase"] == "joint prune pull"]
    assert pull[-1]["penalty"] == pytest.approx(100 * 0.01)
    for layer in ("conv1", "dense1"):
        assert pull[-1][f"primal/{layer}/kernel"] < pull[0][f"primal/{layer}/kernel"]


# --- Killed and resumed ---------------------------------------------------------------------------


def test_the_quickstart_prunes_and_quantizes_together(run_of):
    folder = run_of("quickstart")
    dense, compressed = json.loads((folder / "results.json").read_text())["rows"]
    assert (dense["name"], compressed["name"]) == ("dense", "compressed")
    assert compressed["density"] <= 0.21
    assert compressed["bits"] <= 3
    assert 'id="plot-residuals"' in (folder / "report.html").read_text(encoding="utf-8")
    assert {record["phase"] for record in log_of(folder)} == {"dense", "pull", "retrain"}


@pytest.mark.slow  # starts a process; the contract kills every run in this one
def test_a_killed_run_resumes_to_the_same_bits(run_of, options_of, tmp_path, run_in_process):
    whole, folder = run_of("quickstart"), tmp_path / "run"
    argv = ["--out", str(folder), *options_of("quickstart")]
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.quickstart", *argv],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    for line in process.stderr:
        if line.split()[:3] == [b"pull", b"epoch", b"5/40"]:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.stderr.close()
    assert process.wait() == -signal.SIGKILL
    done = len(log_of(folder)) - 2  # of the dense network
    assert 4 <= done < 40  # an epoch is shown before it is logged
    assert not (folder / "results.json").exists()

    run_in_process("quickstart", [*argv, "--resume"])
    assert without_time(log_of(folder)) == without_time(log_of(whole))
    for name in ("dense", "compressed"):
        packed = [each / "models" / f"{name}.safetensors" for each in (folder, whole)]
        assert packed[0].read_bytes() == packed[1].read_bytes()


def without_time(log):
    return [{key: value for key, value in record.items() if key != "seconds"} for record in log]


def test_damaged_checkpoints_stop_the_resumed_run(
    run_of, options_of, tmp_path, capsys, run_in_process
):
    folder = tmp_path / "run"
    shutil.copytree(run_of("quickstart"), folder)
    phase = folder / "checkpoints" / "dense"
    for path in phase.rglob("manifest.ocdbt"):
        path.write_bytes(b"")
    with pytest.raises(SystemExit) as stop:
        run_in_process("quickstart", ["--out", folder, *options_of("quickstart"), "--resume"])
    assert stop.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: checkpoint {phase / '2'} is damaged")
    assert last.endswith(f"and so is 1 before it; delete {phase} to start again")


# --- Mistakes -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """Return a folder of MNIST whose training images are cut short."""
    folder = tmp_path_factory.mktemp("mnist")
    for split, size in (("train", 20), ("t10k", 10)):
        images = struct.pack(">4i", 0x803, size, 28, 28) + bytes(size * 28 * 28)
        labels = struct.pack(">2i", 0x801, size) + bytes(size)
        images = images[:-100] if split == "train" else images
        (folder / f"{split}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (folder / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return folder


MISTAKES = {
    "sparsity": (["--sparsity", "1.5"], "--sparsity must be in [0, 1), found 1.5"),
    "sparsity of a layer": (["--sparsity", "conv9=0.5"], "'conv9/*' matches no leaf"),
    "sparsity that empties": (["--preset", "smoke", "--prune-sparsity", "0.9999"], "empty"),
    "bits": (["--bits", "0"], "--bits"),
    "bits of the levels": (["--bits", "1"], "--bits of the levels uniform"),
    "levels": (["--levels", "octal"], "--levels"),
    "layout": (["--network", "8C3-AP2-oops-10"], "oops"),
    "ways": (["--ways", "prune", "jiont"], "jiont"),
    "batch": (["--batch-size", "2000"], "--batch-size"),
    "learning rate": (["--learning-rate", "nan"], "--learning-rate"),
    "timesteps": (["--timesteps", "0"], "--timesteps"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(mistake, mistake_of):
    options, culprit = MISTAKES[mistake]
    assert culprit in mistake_of("admm", options)


def test_a_damaged_file_is_one_line_and_writes_nothing(damaged, mistake_of):
    options = ["--dataset", "mnist", "--data-dir", str(damaged)]
    assert "train-images-idx3-ubyte.gz" in mistake_of("admm", options)


def test_a_mistake_in_a_process_of_its_own(tmp_path):
    command = [sys.executable, "-m", "experiments.admm", "--sparsity", "1.5"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "run")], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: --sparsity must be in [0, 1), found 1.5")
    assert not list(tmp_path.iterdir())


# --- Rivals ---------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_rivals_keep_as_many_weights_and_are_compared_over_seeds(run_of):
    results = json.loads((run_of("rivals") / "results.json").read_text())
    rivals = ("ADMM", "one-shot", "gradual")
    names = ("dense", *(f"{rival} {left} %" for left in (50, 20) for rival in rivals))
    assert [(row["name"], row["seed"]) for row in results["rows"]] == [
        (name, seed) for seed in (0, 1) for name in names
    ]
    for first in (1, 4, 8, 11):
        rows = results["rows"][first : first + 3]
        kept = [[x["density"] for x in row["layers"]] for row in rows]
        assert kept[0] == kept[1] == kept[2]
        assert rows[0]["density"] == pytest.approx(
            float(rows[0]["name"].split()[1]) / 100, abs=0.02
        )
    for i, name in enumerate(names):
        accuracies = [results["rows"][each]["accuracy"] for each in (i, i + 7)]
        assert results["mean_accuracy"][name] == pytest.approx(np.mean(accuracies))
        assert results["spread_of_accuracy"][name] == pytest.approx(np.std(accuracies, ddof=1))


@pytest.mark.parametrize("options", [{"sparsity": ()}, {"sparsity": (0.5, 0.5)}])
def test_rivals_remove_something_and_nothing_twice(options):
    with pytest.raises(UserError, match="sparsity needs at least one value, none of them twice"):
        Pruning(**options)


def test_an_earlier_configuration_of_rivals_has_one_sparsity(tmp_path):
    (tmp_path / "config.json").write_text('{"sparsity": 0.9}')
    config = command.parse(rivals.EXPERIMENT, ["--config", str(tmp_path / "config.json")])
    assert config.pruning.sparsity == (0.9,)
