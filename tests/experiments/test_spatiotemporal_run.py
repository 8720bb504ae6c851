"""A run of `experiments.spatiotemporal`, end to end on small networks, and what it refuses."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from experiments import spatiotemporal as experiment
from experiments.common import skeleton
from experiments.robustness import noise_sweep
from experiments.spatiotemporal_problem import load
from experiments.spatiotemporal_stages import SpatioTemporalStages
from jaxsnn import cli, data, export, tree
from jaxsnn.compress import grids

TINY = [
    "--preset=smoke", "--network=4C3-AP2-6C3-AP4-10", "--learning-rate=0.01", "--timesteps=6",
    "--calibration-timesteps=6", "--qat-epochs=1", "--fewer", "4",
]  # fmt: skip
NAMES = ("dense", "ann", "narrow", "narrow ann", "short", "direct", "compressed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, run_in_process):
    """Return the directory of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("spatiotemporal") / "run"
    run_in_process(experiment, [*TINY, f"--out={folder}"])
    return folder


def kernels(folder, name):
    params, _, _ = export.load(folder / "models" / f"{name.replace(' ', '-')}.safetensors")
    return tree.named_leaves(params)


def test_all_stages_have_a_row(results):
    assert [row["name"] for row in results["rows"]] == list(NAMES)
    assert [row["timesteps"] for row in results["rows"]] == [6, 1, 6, 1, 4, 4, 4]


def test_the_narrow_networks_have_the_widths_that_were_found(folder, results, rows):
    taken = next(each for each in results["widths"] if each["taken"])
    c1, c2 = taken["widths"]["conv1"], taken["widths"]["conv2"]
    shapes = [(3, 3, 1, c1), (3, 3, c1, c2), (c2, 10)]
    for name in ("narrow", "narrow ann", "short", "compressed"):
        assert [leaf.shape for leaf in kernels(folder, name).values()] == shapes
    whole, own = 36 + 216 + 60, sum(math.prod(shape) for shape in shapes)
    assert taken["share"] == pytest.approx(own / whole)
    assert rows["narrow"]["density"] == pytest.approx(own / whole)
    # More variance never needs fewer dimensions.
    counts = [sum(each["widths"].values()) for each in results["widths"]]
    assert counts == sorted(counts, reverse=True)


def test_the_product_has_5_bits_and_whole_weights_with_its_thresholds(folder, results, rows):
    assert rows["compressed"]["bits"] <= 5
    for name, leaf in kernels(folder, "compressed").items():
        levels = grids.symmetric_uniform(5).fit(leaf).levels
        np.testing.assert_allclose(grids.symmetric_uniform(5)(leaf), leaf, rtol=1e-6, err_msg=name)
        rounded = grids.symmetric_uniform(5).fit(kernels(folder, "short")[name]).levels
        assert np.mean(np.abs(levels - rounded)) < 1.5  # trained on, from these
    assert [each["bits"] for each in results["quantization"]] == [8, 5, 2]
    whole = results["whole_number_weights"]
    assert whole["largest"] == pytest.approx(15) and whole["off_whole"] < 1e-4
    # Equal up to potentials within rounding of a threshold.
    assert whole["accuracy"] == pytest.approx(rows["compressed"]["accuracy"], abs=0.02)


def test_the_published_energies_follow_from_rates(rows):
    ann, dense = rows["ann"], rows["dense"]
    # 8 x 8: 64 (9 x 4) + 16 (9 x 4 x 6) + 6 x 10 multiplications
    operations_of = [64 * 36, 16 * 216, 60]
    assert ann["ann_operations"] == sum(operations_of)
    assert ann["published_energy_pj"] == pytest.approx(4.6 * sum(operations_of))
    added = sum(np.multiply(operations_of, list(dense["input_rates"].values())))
    assert dense["rate_operations"] == pytest.approx(added)
    assert dense["energy_ratio"] == pytest.approx(4.6 * sum(operations_of) / (0.9 * added))
    assert dense["energy_ratio_int32"] == pytest.approx(3.2 * sum(operations_of) / (0.1 * added))
    # Several spikes of a pooled window may be one arrival, never the other way.
    assert 0 < dense["arrival_synops"] <= dense["synops"]
    assert ann["spike_rate"] is None and ann["macs"] > 0


def test_accuracies_are_means_over_draws_of_the_input(rows):
    for name in NAMES:
        found = rows[name]["accuracy_draws"]
        assert len(found) == (1 if "ann" in name else 2) and found[0] == rows[name]["accuracy"]
        assert rows[name]["mean_accuracy"] == pytest.approx(np.mean(found))


def test_fewer_timesteps_are_compared_with_both_controls(results, rows):
    control = results["control"]
    assert control["timesteps"] == 4 and control["epochs"] == 1 + 1
    assert control["gradual"] == rows["short"]["mean_accuracy"]
    assert control["direct"] == rows["direct"]["mean_accuracy"]
    assert [stage["timesteps"] for stage in results["stages"]] == [6, 4]
    assert len(results["accuracy_over_time"]["dense"]) == 6


def test_every_file_gives_the_accuracy_that_its_row_states(folder, rows, capsys):
    for name in ("ann", "compressed"):
        cli.main(["eval", str(folder / "models" / f"{name}.safetensors"), "--dataset", "digits"])
        assert f"{100 * rows[name]['accuracy']:.2f} %" in capsys.readouterr().out


def test_plots_are_there(folder):
    found = {path.name for path in (folder / "plots").iterdir()}
    assert {"dimensions.png", "noise.png", "accuracy_over_time.png", "raster.png"} <= found


def test_an_interrupted_run_resumes_to_the_same_bits(folder, tmp_path, monkeypatch, run_in_process):
    again = tmp_path / "run"
    record = skeleton.Run._record

    def stop_at_four_steps(run, found):
        record(run, found)
        if found["phase"] == "T 4":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(skeleton.Run, "_record", stop_at_four_steps)
        with pytest.raises(SystemExit) as stop:
            run_in_process(experiment, [*TINY, f"--out={again}"])
    assert stop.value.code == 130 and not (again / "results.json").exists()
    run_in_process(experiment, [*TINY, f"--out={again}", "--resume"])
    for name in NAMES:
        one, other = kernels(folder, name), kernels(again, name)
        jax.tree.map(np.testing.assert_array_equal, one, other)


def config_of(*options):
    return skeleton.parse(experiment.defaults, "spatiotemporal", [*TINY, *options])


def test_no_epochs_leave_the_weights_alone_at_every_number_of_steps(tmp_path):
    config = dataclasses.replace(config_of(), fewer_epochs=0, out=str(tmp_path / "run"))
    problem = load(config)
    stages = SpatioTemporalStages(skeleton.Run("spatiotemporal", config), problem)
    start = problem.start()
    short, each = stages.shorten(start)
    assert short.problem.config.timesteps == 4 and len(each) == 1
    jax.tree.map(np.testing.assert_array_equal, short.params, start.params)


def test_noise_of_zero_is_the_clean_accuracy_and_much_noise_costs():
    problem = load(config_of("--encoding=direct"))
    images = problem.data.test.images[:100]
    network = problem.ann.start()
    scores = problem.ann.net.apply(
        network.params, network.stats, problem.ann.prepare(jax.random.key(0), images, False)
    ).readout.mean(0)
    labels = np.asarray(scores.argmax(-1), np.int32)  # so that the network is always right
    found = noise_sweep(network, data.Split(images, labels), (0.0, 100.0), seeds=2)
    assert found.shape == (2, 2) and np.all(found[:, 0] == 1.0) and np.all(found[:, 1] < 1.0)


def test_a_spiking_network_of_one_step_is_no_ann(tmp_path):
    config = config_of("--encoding=direct", f"--out={tmp_path / 'run'}")
    problem = load(config)
    stages = SpatioTemporalStages(skeleton.Run("spatiotemporal", config), problem)
    row = stages.add_row("dense", problem.at(1).start())
    assert row["timesteps"] == 1 and "rate_operations" in row and row["spike_rate"] is not None


@pytest.mark.parametrize("preset", skeleton.PRESETS)
@pytest.mark.parametrize("dataset", ["digits", "mnist", "cifar10", "cifar100"])
def test_every_preset_is_in_range(preset, dataset):
    config = experiment.defaults(preset, dataset)
    config.check()  # raises if one is not
    assert (config.preset, config.dataset) == (preset, dataset)


MISTAKES = {
    "variance": (["--variances", "1.5"], "--variances"),
    "rising schedule": (["--fewer", "4", "6"], "must fall"),
    "schedule at 0": (["--fewer", "4", "0"], "at least 1"),
    "delay": (["--order=fire_then_integrate", "--fewer", "2"], "'conv2' cannot spike"),
    "coding": (["--encoding=bernoulli"], "choose poisson or direct"),
    "unknown order": (["--order=fire"], "--order"),
    "bits": (["--bits=1"], "--bits"),
    "images": (["--pca-images=9999"], "--pca-images 9999"),
    "no convolution": (["--network=20-10"], "no convolution"),
    "classes": (["--network=4C3-AP4-7"], "7 scores"),
    "quantile": (["--quantile=0"], "--quantile"),
    "chunks of T": (["--remat=4"], "--remat 4 does not divide 6"),
    "chunks of a later T": (["--remat=3"], "--remat 3 does not divide 4"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(mistake, mistake_of):
    options, culprit = MISTAKES[mistake]
    assert culprit in mistake_of(experiment, [*TINY, *options])


def test_too_few_rows_name_the_layer_and_keep_the_stages_before(tmp_path, capsys, run_in_process):
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as stop:
        run_in_process(experiment, [*TINY, f"--out={out}", "--rows-per-channel=1000"])
    assert stop.value.code == 2
    assert "layer 'conv2': 6 channels need 6000 rows" in capsys.readouterr().err
    assert (out / "checkpoints" / "unpruned-tune").is_dir()
