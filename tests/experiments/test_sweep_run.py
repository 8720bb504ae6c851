"""A run of `experiments.sweep`: its lanes, the choice, what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments import common
from experiments.common import command
from experiments.sweep.run import EXPERIMENT, lane, load
from jaxsnn import export, sweep, tree
from jaxsnn.methods import Trainer
from jaxsnn.train import fit

ROOT = Path(__file__).parents[2]
NAMES = ["sparsity=0.5 bits=2", "sparsity=0.5 bits=4"]


@pytest.fixture(scope="module")
def folder(run_of):
    return run_of("sweep")


def config_of(*options):
    return command.parse(EXPERIMENT, ["--preset=smoke", *options])


@pytest.mark.run
def test_the_dense_network_comes_first_and_the_product_last(results):
    assert [row["name"] for row in results["rows"]] == ["dense", *NAMES, "compressed"]


@pytest.mark.run
def test_every_lane_is_as_sparse_and_as_coarse_as_its_point_says(folder, rows):
    for name, bits in zip(NAMES, (2, 4), strict=True):
        net = export.load(folder / "models" / f"{name.replace(' ', '-')}.safetensors").network
        kernels = [x for n, x in tree.named_leaves(net.params).items() if n.endswith("/kernel")]
        left = sum(np.count_nonzero(kernel) for kernel in kernels)
        assert left <= round(0.5 * sum(kernel.size for kernel in kernels))  # 0 is a level, too
        assert all(len(np.unique(np.abs(kernel))) <= 2 ** (bits - 1) for kernel in kernels)
    assert rows[NAMES[0]]["weight_bytes"] < rows[NAMES[1]]["weight_bytes"]


@pytest.mark.run
def test_a_packed_lane_is_as_accurate_as_its_sweep_said(folder, rows):
    split = load(config_of("--limit=120")).data.validation
    for name in NAMES:
        model = export.load(folder / "models" / f"{name.replace(' ', '-')}.safetensors")
        found = np.mean(np.argmax(model.scores(split.images), -1) == split.labels)
        assert abs(found - rows[name]["validation_accuracy"]) <= 1 / len(split.labels) + 1e-6


@pytest.mark.run
def test_the_smallest_network_within_the_tolerance_is_chosen(rows):
    whole = rows["dense"]["validation_accuracy"]
    near = [n for n in NAMES if whole - rows[n]["validation_accuracy"] <= 0.03 + 1e-9]
    product = rows["compressed"]
    assert product["within_tolerance"] == bool(near)
    if near:
        assert product["weight_bytes"] == min(rows[n]["weight_bytes"] for n in near)
    assert rows[product["chosen"]]["accuracy"] == product["accuracy"]


@pytest.mark.run
def test_fronts_lanes_and_pictures_are_there(folder, results, rows):
    for cost, found in results["fronts"].items():
        order = [rows[name][cost] for name in found["front"]]
        assert order == sorted(order) and 0 <= found["hypervolume"] < 1
    assert [row["diverged"] for row in results["lanes"]] == [False, False]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert 'id="plot-front"' in page and 'id="plot-heat"' in page
    lines = (folder / "sweep" / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["bits"] for line in lines] == [2, 4]


@pytest.mark.slow
@pytest.mark.run
def test_the_penalty_of_the_pull_phase_and_time_are_axes():
    config = config_of(
        "--pull-epochs=1", "--limit=60", "--network=8-{classes}", "--sparsity", "0.8", "--bits",
        "8", "--axis", "penalty=0.001,10", "--axis", "timesteps=2", "--axis", "decay=0.5",
    )  # fmt: skip
    problem: common.Problem = load(config)
    trainer = Trainer(fit, problem.data, config.sweep.batch_size, 0)
    found = sweep.run(
        lane(config, problem, trainer), config.sweep.grid(), problem.task, problem.net,
        problem.data, epochs=1, batch_size=config.sweep.batch_size, show=False,
    )  # fmt: skip
    weak, strong = found.products.params["dense1"]["kernel"]
    assert found.points["penalty"].tolist() == pytest.approx([0.001, 10])
    assert 0 < np.count_nonzero(weak) < 0.4 * weak.size
    assert not np.array_equal(weak, strong)
    assert np.asarray(found.products.stats["dense1"]["neurons"]["decay"]).tolist() == [0.5, 0.5]


MISTAKES = {
    "shape": (["--axis", "batch_size=16,32"], "'batch_size' is no traced number"),
    "form": (["--axis", "decay"], "name=v1,v2"),
    "word": (["--axis", "decay=low"], "name=v1,v2"),
    "range": (["--axis", "decay=0.5,1.5"], "axis 'decay' must be in"),
    "steps": (["--axis", "timesteps=2,5"], "axis 'timesteps' must be in [1, 4]"),
    "twice": (["--axis", "bits=2,3"], "--bits"),
    "penalty": (["--axis", "penalty=0.1"], "--pull-epochs"),
    "sparsity": (["--sparsity", "1.0"], "sparsity must be in"),
    "same": (["--bits", "2", "2"], "are the same"),
    "many bits": (["--bits", "9"], "bits must be in [2, 8]"),
    "no choice": (["--validation=0"], "--validation"),
    "emptied": (["--sparsity", "0.9999", "--allocation=uniform"], "would empty"),
    "norm": (["--norm", "--axis", "timesteps=1,2"], "without batch normalisation"),
    "search": (["--search", "0"], "--search must be in"),
    "workers": (["--workers", "2"], "--workers needs --search"),
    "halving": (["--search", "4", "--halving", "3"], "--halving 3 needs as many --tune-epochs"),
    "pull": (["--search", "4", "--halving", "2", "--pull-epochs", "1"], "--pull-epochs 0"),
    "sampler": (["--search", "4", "--sampler", "best"], "--sampler"),
    "grid": (["--search", "5", "--sampler", "grid"], "--sampler grid has 4 points"),
    "storage": (["--search", "4", "--storage", "/no/such/journal"], "/no/such/journal cannot be"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(mistake, mistake_of):
    options, culprit = MISTAKES[mistake]
    assert culprit in mistake_of("sweep", ["--preset=smoke", *options])


# --- Searches -------------------------------------------------------------------------------------

SEARCH = (
    "--preset smoke --network 8-{classes} --timesteps 2 --limit 120 --dense-epochs 1 --no-control "
    "--sparsity 0.3 0.9 --bits 2 8 --tune-epochs 4 --search 12 --chunk 2 --halving 2"
)


@pytest.mark.slow
@pytest.mark.run
def test_a_search_of_two_workers_ends_with_its_front(tmp_path, run_in_process, capsys):
    run_in_process("sweep", ["--out", tmp_path, *SEARCH.split(), "--workers", "2"])
    assert "trials 12/12" in capsys.readouterr().err
    results = json.loads((tmp_path / "results.json").read_text())
    search = results["search"]
    assert len(search["trials"]) == 12
    assert search["lane_epochs"] == sum(row["epochs"] for row in search["trials"]) < 48
    names = [row["name"] for row in results["rows"]]
    assert names == ["dense", *(f"trial {number}" for number in search["front"]), "compressed"]
    for entry in search["hypervolumes"]:
        assert 0 <= entry["weight_bytes"] <= 1 and 0 <= entry["synops"] <= 1
    assert 'id="plot-front"' in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.run
def test_a_search_whose_processes_are_all_killed_resumes(tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "experiments.sweep", "--out", str(run), *SEARCH.split()]
    command += ["--workers", "2", "--tune-epochs", "16"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command, stderr=log, stdout=log, cwd=ROOT, start_new_session=True
        )
    while "trials" not in (tmp_path / "log").read_text():
        assert process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    subprocess.run([*command, "--resume"], cwd=ROOT, check=True, timeout=600)
    results = json.loads((run / "results.json").read_text())
    assert len(results["search"]["trials"]) == 12
