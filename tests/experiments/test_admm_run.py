"""The ADMM experiments from the command line: what they leave behind, killed, resumed, misused."""

import gzip
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import admm, quickstart
from experiments.admm_stages import load
from experiments.common import skeleton
from jaxsnn import export, metrics, train
from jaxsnn.report import ROW_FIELDS

ROOT = Path(__file__).parents[2]
PLOTS = ("curves", "residuals", "layers", "histograms", "accuracy_over_time", "raster")

# As small as a network with a convolution, a pooling and learning can be.
TINY = {
    "preset": "smoke", "network": "4C3-AP2-10", "timesteps": 2, "limit": 300, "batch-size": 30,
    "learning-rate": 0.02, "penalty": 0.01,
}  # fmt: skip
WAYS = TINY | {"dense-epochs": 8, "pull-epochs": 2, "sparsity": 0.75, "joint-sparsity": 0.5}
QUICK = TINY | {"dense-epochs": 2, "pull-epochs": 40, "joint-order": "together", "seed": 3}


def arguments(out, options):
    words = (word for name, value in options.items() for word in (f"--{name}", str(value)))
    return ["--out", str(out), *words]


def log_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# --- Every way ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ways(tmp_path_factory, run_in_process):
    """Return the directory of a run of `experiments.admm` that went every way."""
    folder = tmp_path_factory.mktemp("admm") / "run"
    run_in_process(admm, arguments(folder, WAYS))
    return folder


@pytest.fixture(scope="module")
def results(ways):
    return json.loads((ways / "results.json").read_text())


def test_the_results_keep_the_contract(results):
    assert list(results)[:8] == [
        *("experiment", "dataset", "preset", "seed", "command", "versions", "seconds", "rows")
    ]
    found = [results[key] for key in ("experiment", "dataset", "preset", "seed")]
    assert found == ["admm", "digits", "smoke", 0]
    assert results["command"].startswith("python -m experiments.admm --out ")
    for row in results["rows"]:
        assert set(ROW_FIELDS) <= set(row)
        assert None not in [row[field] for field in ROW_FIELDS]


def test_the_dense_network_comes_first_and_the_product_last(results):
    names = [row["name"] for row in results["rows"]]
    assert names == ["dense", "pruned", "pruned one-shot", "ternary", "quiet", "compressed"]


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
    assert [rows[name]["bits"] for name in ("dense", "pruned", "quiet")] == [32, 32, 32]
    assert rows["ternary"]["bits"] == 2
    assert 2 <= rows["compressed"]["bits"] <= 3


def test_what_was_not_pruned_is_dense(rows):
    assert [rows[name]["density"] for name in ("dense", "quiet")] == [1, 1]


@pytest.mark.parametrize("name", ["dense", "pruned", "ternary", "compressed"])
def test_a_packed_network_is_the_one_that_was_measured(ways, rows, name):
    path = ways / "models" / f"{name}.safetensors"
    params, _, metadata = export.load(path)
    row = rows[name]
    assert path.stat().st_size == row["file_bytes"]
    accuracy = f"{row['accuracy']:.6f}"
    assert metadata == {"name": name, "accuracy": accuracy, "dataset": "digits"}
    assert metrics.density(params) == row["density"]
    levels = {"ternary": 1, "compressed": 3}.get(name)
    for layer in ("conv1", "dense1") if levels else ():
        magnitudes = np.unique(np.abs(params[layer]["kernel"]))
        multiples = magnitudes[magnitudes > 0] / magnitudes.max()
        assert len(multiples) <= levels
        assert np.allclose(multiples * levels, np.rint(multiples * levels)) or len(multiples) < 3


def test_packed_networks_score_what_the_results_say(ways, rows):
    problem = load(skeleton.parse(admm.defaults, "admm", arguments(ways, WAYS)))
    for name in ("dense", "compressed"):
        params, stats, _ = export.load(ways / "models" / f"{name}.safetensors")
        found = train.evaluate(problem.task(), params, stats, problem.data.test, batch_size=100)
        assert found.accuracy == rows[name]["accuracy"]


def test_compression_makes_the_file_smaller(rows):
    assert rows["compressed"]["weight_bytes"] < rows["dense"]["weight_bytes"] / 8
    assert rows["compressed"]["file_bytes"] < rows["dense"]["file_bytes"]


def test_the_log_has_a_record_for_each_epoch_of_each_phase(ways):
    log = log_of(ways)
    phases = [(record["phase"], record["epoch"]) for record in log]
    pulls = ["prune pull", "quantize pull", "joint prune pull", "joint quantize pull"]
    retrains = [*(pull.replace("pull", "retrain") for pull in pulls), "activity"]
    epochs = (
        {"dense": 8, "one-shot retrain": 3} | dict.fromkeys(pulls, 2) | dict.fromkeys(retrains, 1)
    )
    assert sorted(phases) == sorted((p, e + 1) for p, count in epochs.items() for e in range(count))
    assert phases[:8] == [("dense", epoch) for epoch in range(1, 9)]
    for record in log:
        names = {"loss", "accuracy", "spike_rate", "validation_accuracy", "seconds"}
        assert all(np.isfinite(record[name]) for name in names)
        residuals = {f"{kind}/{layer}/kernel" for kind in ("primal", "dual") for layer in
                     ("conv1", "dense1")}  # fmt: skip
        assert (residuals | {"penalty"} <= record.keys()) == (record["phase"] in pulls)


def test_the_penalty_grows_and_pulls_the_weights_to_their_set(ways):
    pull = [record for record in log_of(ways) if record["phase"] == "quantize pull"]
    assert pull[-1]["penalty"] == pytest.approx(100 * WAYS["penalty"])
    assert pull[-1]["primal/dense1/kernel"] < pull[0]["primal/dense1/kernel"]


def test_the_report_is_one_page_with_all_plots(ways):
    assert {path.stem for path in (ways / "plots").iterdir()} == set(PLOTS)
    page = (ways / "report.html").read_text(encoding="utf-8")
    assert page.count('src="data:image/png;base64,') == len(PLOTS)
    assert not re.findall(r'(?:src|href)="?(?:http|/)', page)
    assert "joint quantize" not in page  # phases are in the plots; rows have names of their own
    for name in ("pruned one-shot", "compressed", "joint_sparsity"):
        assert name in page


# --- Killed and resumed ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quick(tmp_path_factory, run_in_process):
    """Return the directory of an uninterrupted run of `experiments.quickstart`."""
    folder = tmp_path_factory.mktemp("quick") / "run"
    run_in_process(quickstart, arguments(folder, QUICK))
    return folder


def test_the_quickstart_prunes_and_quantizes_together(quick):
    dense, compressed = json.loads((quick / "results.json").read_text())["rows"]
    assert (dense["name"], compressed["name"]) == ("dense", "compressed")
    assert compressed["density"] <= 0.21
    assert compressed["bits"] <= 3
    assert {path.stem for path in (quick / "plots").iterdir()} == set(PLOTS)
    assert {record["phase"] for record in log_of(quick)} == {"dense", "joint pull", "joint retrain"}


def test_a_killed_run_resumes_to_the_same_bits(quick, tmp_path, run_in_process):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "experiments.quickstart", *arguments(folder, QUICK)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    for line in process.stderr:
        if line.split()[:4] == [b"joint", b"pull", b"epoch", b"5/40"]:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.stderr.close()
    assert process.wait() == -signal.SIGKILL
    done = len(log_of(folder)) - 2
    assert 4 <= done < 40  # an epoch is shown before it is logged
    assert not (folder / "results.json").exists()

    run_in_process(quickstart, [*arguments(folder, QUICK), "--resume"])
    assert without_time(log_of(folder)) == without_time(log_of(quick))
    for name in ("dense", "compressed"):
        found, expected = (
            export.load(each / "models" / f"{name}.safetensors") for each in (folder, quick)
        )
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def without_time(log):
    return [{key: value for key, value in record.items() if key != "seconds"} for record in log]


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
    "data set": (["--dataset", "mnits"], "mnits"),
    "data folder": (["--dataset", "mnist", "--data-dir", "/no/such/folder"], "/no/such/folder"),
    "preset": (["--preset", "huge"], "huge"),
    "option": (["--sparsitty", "0.5"], "--sparsitty"),
    "sparsity": (["--sparsity", "1.5"], "--sparsity"),
    "sparsity that empties": (["--preset", "smoke", "--sparsity", "0.9999"], "empty"),
    "bits": (["--bits", "0"], "--bits"),
    "joint bits": (["--joint-bits", "1"], "bits"),
    "levels": (["--levels", "octal"], "--levels"),
    "layout": (["--network", "8C3-AP2-oops-10"], "oops"),
    "scores": (["--network", "8C3-AP2-16-7"], "10 classes"),
    "ways": (["--ways", "prune", "jiont"], "jiont"),
    "batch": (["--batch-size", "2000"], "--batch-size"),
    "learning rate": (["--learning-rate", "nan"], "--learning-rate"),
    "limit": (["--limit", "0"], "limit"),
    "timesteps": (["--timesteps", "0"], "--timesteps"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(mistake, mistake_of):
    options, culprit = MISTAKES[mistake]
    assert culprit in mistake_of(admm, options)


def test_a_damaged_file_is_one_line_and_writes_nothing(damaged, mistake_of):
    options = ["--dataset", "mnist", "--data-dir", str(damaged)]
    assert "train-images-idx3-ubyte.gz" in mistake_of(admm, options)


def test_a_mistake_in_a_process_of_its_own(tmp_path):
    command = [sys.executable, "-m", "experiments.admm", "--sparsity", "1.5"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "run")], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: --sparsity must be in [0.0, 1.0), found 1.5")
    assert not list(tmp_path.iterdir())


# When one array fails, Orbax closes its event loop; threads that read the others then complain.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint_stops_the_resumed_run(quick, tmp_path, capsys, run_in_process):
    folder = tmp_path / "run"
    subprocess.run(["cp", "-r", quick, folder], check=True)
    newest = max((folder / "checkpoints" / "dense").iterdir())
    for path in newest.rglob("manifest.ocdbt"):
        path.write_bytes(b"")
    with pytest.raises(SystemExit) as stop:
        run_in_process(quickstart, [*arguments(folder, QUICK), "--resume"])
    assert stop.value.code == 2
    time.sleep(0.1)  # until those threads have ended, so that no other test hears of them
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: checkpoint {newest} is damaged")


# --- The presets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", skeleton.PRESETS)
@pytest.mark.parametrize("dataset", ["digits", "mnist", "fashion_mnist", "kmnist", "cifar10"])
def test_every_preset_is_in_range(preset, dataset):
    for experiment in (admm, quickstart):
        config = experiment.defaults(preset, dataset)
        config.check()  # raises if one is not
        assert (config.preset, config.dataset) == (preset, dataset)
