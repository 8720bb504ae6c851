"""What `experiments.qp_snn` adds to the contract of all experiments: ways, seeds, options."""

import json

import pytest

from experiments.common import command
from experiments.qp_snn import run as experiment
from experiments.qp_snn.config import PRESETS
from jaxsnn import export
from jaxsnn.methods import qp_snn

NAMES = ("dense", "dense control", "quantized vanilla", "baseline", "quantized rescaled",
         "compressed")  # fmt: skip


@pytest.fixture(scope="module")
def folder(run_of):
    """Return the directory of the smallest run, of two ways."""
    return run_of("qp_snn")


@pytest.mark.run
def test_the_dense_network_comes_first_and_the_product_last(results):
    assert [(row["name"], row["seed"]) for row in results["rows"]] == [(x, 3 + 2) for x in NAMES]
    assert results["mean_accuracy"] == {row["name"]: row["accuracy"] for row in results["rows"]}


@pytest.mark.run
def test_what_two_ways_share_is_trained_once(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["phase"] for line in lines] == [
        "dense", "dense control", "quantized vanilla", "tuned vanilla membrane",
        "quantized rescaled", "tuned rescaled singular",
    ]  # fmt: skip


@pytest.mark.run
def test_half_of_the_channels_are_cut_out_for_good(folder, rows):
    net = export.load(folder / "models" / "compressed.safetensors").network
    shapes = [leaves["kernel"].shape for leaves in net.params.values() if "kernel" in leaves]
    assert shapes == [(3, 3, 1, 2), (3, 3, 2, 3), (3, 3, 3, 6), (6, 10)]
    kept, all_there = 18 + 54 + 162 + 60, 36 + 216 + 324 + 60
    assert rows["compressed"]["density"] == pytest.approx(kept / all_there)
    assert rows["compressed"]["convolution_density"] == pytest.approx(
        (kept - 60) / (36 + 216 + 324)
    )
    assert rows["quantized rescaled"]["density"] == 1
    assert list(net.quantized) == ["conv2/kernel", "conv3/kernel"]


@pytest.mark.run
def test_rows_say_what_the_paper_measures(rows):
    for name in ("baseline", "compressed"):
        assert set(rows[name]) >= {"size_mb", "levels_used", "score", "accuracy_before_tuning",
                                   "score_stability"}  # fmt: skip
        bits = {x["name"]: x["bits"] for x in rows[name]["layers"] if x["shape"]}
        assert bits == {"conv1": 32, "conv2": 4, "conv3": 4, "dense1": 32}
    assert (rows["baseline"]["score"], rows["baseline"]["quantizer"]) == ("membrane", "vanilla")
    assert rows["dense"]["ms_per_sample"] > 0 and rows["compressed"]["ms_per_sample"] > 0


def test_the_paper_s_preset_is_the_recipe_of_table_8():
    config = command.preset_of(experiment.EXPERIMENT, "paper", "cifar10")
    m = config.method
    assert (m.optimizer, m.learning_rate, m.batch_size, m.train_epochs) == ("sgd", 0.1, 256, 300)
    assert (m.tune_optimizer, m.tune_learning_rate, m.tune_epochs) == ("adam", 1e-3, 150)
    assert m.ratios == qp_snn.ratios("vgg16", "A", 10) and config.task.timesteps == 4
    assert set(PRESETS["paper"]) >= {"cifar10", "cifar100", "tiny_imagenet", "dvs_cifar10"}


MISTAKES = {
    "bits": (["--bits=9"], "--bits"),
    "bits of a layer": (["--bits=conv7=2"], "conv7"),
    "ratio": (["--ratios", "1.0"], "--ratios"),
    "a layer without a ratio": (["--ratios", "conv7=0.5"], "conv1, conv2"),
    "ratio that empties": (["--ratios", "0.95"], "'conv1'"),
    "way": (["--ways", "fulll"], "fulll"),
    "no way": (["--ways"], "ways"),
    "a seed twice": (["--seeds", "0", "0"], "seeds needs at least one value, none of them twice"),
    "setting": (["--network=resnet20", "--width=0.0625", "--setting=C"], "'resnet20'"),
    "calibration": (["--calibration-batches=100"], "calibration_batches 100"),
    "gamma": (["--gamma=median"], "--gamma"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(mistake, mistake_of):
    options, culprit = MISTAKES[mistake]
    assert culprit in mistake_of(experiment.EXPERIMENT, options)
