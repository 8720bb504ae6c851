"""A run of `experiments.qp_snn`, end to end on small networks, and what it refuses."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import qp_snn as experiment
from experiments.common import skeleton
from experiments.qp_snn_problem import load, ratios_of
from experiments.qp_snn_stages import QpStages, Trained
from jaxsnn import export

TINY = {
    "preset": "smoke", "network": "4C3-6C3-MP2-6C3-AP4-10", "batch-size": 30, "train-epochs": 3,
    "tune-epochs": 2, "learning-rate": 0.02, "calibration-batch-size": 30,
}  # fmt: skip
NAMES = ("dense", "quantized vanilla", "baseline", "quantized rescaled", "compressed")


def arguments(*more):
    return [*(f"--{name}={value}" for name, value in TINY.items()), *more]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, run_in_process):
    """Return the directory of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("qp_snn") / "run"
    run_in_process(experiment, arguments(f"--out={folder}"))
    return folder


def kernels(folder, name):
    params, _, _ = export.load(folder / "models" / f"{name.replace(' ', '-')}.safetensors")
    return {layer: leaves["kernel"] for layer, leaves in params.items() if "kernel" in leaves}


def test_the_dense_network_comes_first_and_the_product_last(results):
    assert [row["name"] for row in results["rows"]] == list(NAMES)
    assert list(results["mean_accuracy"]) == list(NAMES)


def test_half_of_the_channels_are_cut_out_for_good(folder, rows):
    shapes = [kernel.shape for kernel in kernels(folder, "compressed").values()]
    assert shapes == [(3, 3, 1, 2), (3, 3, 2, 3), (3, 3, 3, 6), (6, 10)]
    kept, all_there = 18 + 54 + 162 + 60, 36 + 216 + 324 + 60
    assert rows["compressed"]["density"] == pytest.approx(kept / all_there)
    assert rows["quantized rescaled"]["density"] == 1


@pytest.mark.parametrize("name", NAMES[1:])
def test_hidden_kernels_have_four_bits_and_the_ends_are_floats(folder, rows, name):
    found = kernels(folder, name)
    for layer in ("conv2", "conv3"):
        channels = np.moveaxis(found[layer], -1, 0)
        assert all(len(np.unique(np.abs(channel))) <= 8 for channel in channels)
    assert len(np.unique(found["dense1"])) == found["dense1"].size
    bits = {layer["name"]: layer["bits"] for layer in rows[name]["layers"]}
    assert (bits["conv1"], bits["dense1"]) == (32, 32)


def test_rows_say_what_the_paper_measures(rows):
    quantized = 54 + 162
    floats = 18 + 60 + 10 + 2 * (2 + 3 + 6)  # ends, read-out's bias, scales and shifts of norms
    size = (quantized * 4 / 8 + floats * 4) / 1e6
    assert rows["compressed"]["size_mb"] == pytest.approx(size, rel=1e-12)
    for name in ("baseline", "compressed"):
        assert 0 < rows[name]["levels_used"] <= 1
        assert 0.5 < rows[name]["score_stability"] <= 1 + 1e-6
        assert 0 <= rows[name]["accuracy_before_tuning"] <= 1
    assert rows["dense"]["ms_per_sample"] > 0 and rows["compressed"]["ms_per_sample"] > 0


def test_an_interrupted_run_resumes_to_the_same_bits(folder, tmp_path, monkeypatch, run_in_process):
    again = tmp_path / "run"
    record = skeleton.Run._record

    def stop_in_the_last_phase(run, found):
        record(run, found)
        if (found["phase"], found["epoch"]) == ("full tune", 1):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(skeleton.Run, "_record", stop_in_the_last_phase)
        with pytest.raises(SystemExit) as stop:
            run_in_process(experiment, arguments(f"--out={again}"))
    assert stop.value.code == 130 and not (again / "results.json").exists()
    scores = again / "checkpoints" / "full-scores.npz"
    written = scores.stat().st_mtime_ns
    run_in_process(experiment, [*arguments(f"--out={again}"), "--resume"])
    assert scores.stat().st_mtime_ns == written
    for name in NAMES:
        jax.tree.map(np.testing.assert_array_equal, kernels(again, name), kernels(folder, name))


def config_of(*options):
    return skeleton.parse(experiment.defaults, "qp_snn", arguments(*options))


def test_a_pruned_network_is_the_muted_one(tmp_path):
    config = dataclasses.replace(config_of(), out=str(tmp_path / "run"))
    problem = load(config)
    stages = QpStages(skeleton.Run("qp_snn", config), problem)
    start = problem.start()
    scores = {layer: np.arange(12.0).reshape(2, 6)[:, : 4 + 2 * (layer != "conv1")]
              for layer in ratios_of(problem)}  # fmt: skip
    small = stages.prune(Trained(start, start.params), scores).network
    muted = export.silence(start.params, start.stats, {"conv1": [2, 3], "conv2": [3, 4, 5]})
    x = problem.prepare(jax.random.key(0), problem.data.test.images[:20], False)
    wide = problem.net.apply(*muted, x).readout
    narrow = small.problem.net.apply(small.params, small.stats, x).readout
    np.testing.assert_allclose(narrow, wide, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("preset", skeleton.PRESETS)
@pytest.mark.parametrize("dataset", ["digits", "mnist", "cifar10", "cifar100", "dvs_cifar10"])
def test_every_preset_is_in_range(preset, dataset):
    config = experiment.defaults(preset, dataset)
    config.check()  # raises if one is not
    assert (config.preset, config.dataset) == (preset, dataset)


MISTAKES = {
    "bits": (["--bits=9"], "--bits"),
    "ratio": (["--ratios", "1.0"], "--ratios"),
    "number of ratios": (["--ratios", "0.5", "0.5", "0.5"], "conv1, conv2"),
    "ratio that empties": (["--ratios", "0.9"], "'conv1'"),
    "way": (["--ways", "fulll"], "fulll"),
    "setting": (["--network=resnet20", "--setting=C", "--ratios"], "resnet20"),
    "calibration": (["--calibration-batches=100"], "--calibration-batches"),
    "gamma": (["--gamma=median"], "--gamma"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(mistake, mistake_of):
    options, culprit = MISTAKES[mistake]
    assert culprit in mistake_of(experiment, arguments(*options))
