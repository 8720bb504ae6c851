"""What `experiments.joint` refuses, the chart that only it draws, and runs with a budget."""

import json
import shutil
from unittest.mock import ANY

import pytest

from experiments.joint.run import compiled
from jaxsnn import compress, data, models, train
from jaxsnn.export.whole import to_whole_numbers
from jaxsnn.methods import Result, joint
from jaxsnn.methods.pipeline import level_recipe
from jaxsnn.metrics import Comparison
from jaxsnn.neurons import LIF

MISTAKES = {
    "stage": (["--stages", "bits", "chanels"], "chanels"),
    "stage twice": (["--stages", "bits", "spikes", "bits"], "stages has 'bits' twice"),
    "together alone": (["--together", "bits"], "together 'bits' is alone"),
    "rising timesteps": (["--timesteps-schedule", "5"], "5"),
    "no validation": (["--validation=0"], "validation"),
    "ratio": (["--channel-ratios", "1.0"], "--channel-ratios"),
    "layer of a ratio": (["--channel-ratios", "conv9=0.5"], "conv9"),
    "sparsity that empties": (["--sparsity=0.9999"], "conv1/kernel"),
    "calibration": (["--calibration-batches=100"], "calibration_batches"),
    "bits of the levels": (["--levels=pow2", "--bits=1"], "bits of levels pow2"),
    "two budgets": (["--bytes=900", "--points=1"], "give one of them"),
    "bytes": (["--bytes=90"], "bytes 90: the smallest file that was reached takes "),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(mistake, mistake_of):
    options, culprit = MISTAKES[mistake]
    assert culprit in mistake_of("joint", ["--preset=smoke", *options])


@pytest.mark.run
def test_the_page_has_a_chart_of_the_stages(run_of):
    folder = run_of("joint")
    assert "What each stage cost in accuracy" in (folder / "report.html").read_text("utf-8")


NO_COMPILER = {"reason": ANY}


@pytest.mark.thorough
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_the_c_file_of_a_product_decides_as_the_product_does():
    digits, neuron = data.load("digits", limit=60), LIF(0.5, 0.5)
    inputs = digits.inputs(timesteps=2)
    net = models.build("4C3-AP4-8-10", digits.shape, neuron, readout="current", seed=0)
    task = train.Task(inputs, loss="ce")
    levels = level_recipe(joint.Options(), 2, net, task)
    found = {}
    for name, each in {"whole": compress.project(net, levels), "floats": net}.items():
        product = to_whole_numbers(each, 8)
        found[name] = compiled(Result(product, task, {}, Comparison(())), digits)
    assert found["whole"] == {"images": 359, "equal": 359}
    assert "quantize these, or allow rounding" in found["floats"]["reason"]


BUDGET = ["--preset", "smoke", "--network", "4C3-AP4-16-{classes}", "--timesteps", "2", "--limit",
          "120", "--batch-size", "30", "--stages", "channels", "connections", "bits", "exit",
          "--pruning", "magnitude", "--calibration-batches", "1", "--distill", "0.5", "--tidy",
          "--constant-bits", "8", "--same-bytes", "--bytes", "900",
          "--channels-epochs", "0"]  # fmt: skip


@pytest.mark.slow  # `pytest -m slow tests/experiments/test_joint_run.py`
def test_a_run_with_a_budget_that_was_killed_resumes_to_the_same_files(tmp_path, run_in_process):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_in_process("joint", ["--out", whole, *BUDGET])
    results = json.loads((whole / "results.json").read_text())
    names = [row["name"] for row in results["rows"]]
    assert names[:3] == ["dense", "dense control", "int8"] and names[-1] == "compressed"
    product = results["rows"][-1]
    assert results["budget"]["met"] and product["file_bytes"] <= 900
    assert abs(product["file_bytes"] - results["budget"]["file_bytes"]) <= 8  # of its metadata
    assert 1 <= product["timesteps"] <= 2 and product["exit"]["most_timesteps"] == 2
    assert "For 900 bytes" in (whole / "report.html").read_text("utf-8")
    assert results["compiled"] in ({"images": 359, "equal": 359}, NO_COMPILER)

    shutil.copytree(whole, killed)
    log = (killed / "metrics.jsonl").read_text().splitlines(keepends=True)
    last = ("bits", "dense control", "small ANN", "small int8 ANN")
    for name in last:
        shutil.rmtree(killed / "checkpoints" / name.replace(" ", "-"), ignore_errors=True)
    kept = [line for line in log if json.loads(line)["phase"] not in last]
    (killed / "metrics.jsonl").write_text("".join(kept))
    shutil.rmtree(killed / "models")
    (killed / "results.json").unlink()
    run_in_process("joint", ["--out", killed, *BUDGET, "--resume"])
    assert json.loads((killed / "results.json").read_text())["budget"] == results["budget"]
    for path in (whole / "models").iterdir():
        assert (killed / "models" / path.name).read_bytes() == path.read_bytes()
