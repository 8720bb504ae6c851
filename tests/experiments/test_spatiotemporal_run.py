"""What the smallest run of `experiments.spatiotemporal` left behind, beyond the contract."""

import math

import numpy as np
import pytest

from experiments.common import command
from experiments.spatiotemporal.run import EXPERIMENT, load_layout
from jaxsnn import cli, export, tree
from jaxsnn.compress import symmetric_uniform

NAMES = ("dense", "dense control", "ann", "narrow", "narrow ann", "uniform", "uniform ann", "T 4",
         "direct T 4", "short", "direct", "compressed")  # fmt: skip
pytestmark = pytest.mark.run


@pytest.fixture(scope="module")
def folder(run_of):
    return run_of("spatiotemporal")


def kernels(folder, name):
    net = export.load(folder / "models" / f"{name.replace(' ', '-')}.safetensors").network
    return tree.named_leaves(net.params)


def test_all_stages_have_a_row_with_their_own_time(results):
    assert [row["name"] for row in results["rows"]] == list(NAMES)
    steps = [6, 6, 1, 6, 1, 6, 1, 4, 4, 2, 2, 2]
    assert [row["timesteps"] for row in results["rows"]] == steps
    assert [len(row["accuracy_over_time"]) for row in results["rows"]] == steps


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
    assert rows["compressed"]["bits"] == 5
    for name, leaf in kernels(folder, "compressed").items():
        np.testing.assert_allclose(symmetric_uniform(5)(leaf), leaf, rtol=1e-6, err_msg=name)
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
    controls = results["controls"]
    assert [(each["timesteps"], each["epochs"]) for each in controls] == [(4, 1 + 1), (2, 1 + 2)]
    for control, names in zip(controls, [("T 4", "direct T 4"), ("short", "direct")], strict=True):
        accuracies = [rows[name]["mean_accuracy"] for name in names]
        assert [control["gradual"], control["direct"]] == accuracies
    assert results["control"] == controls[-1]
    assert [stage["timesteps"] for stage in results["stages"]] == [6, 4, 2]


def test_the_uniform_network_has_the_size_of_the_narrow_one_and_equal_shares(folder):
    uniform, narrow = (kernels(folder, name) for name in ("uniform", "narrow"))
    sizes = [sum(leaf.size for leaf in found.values()) for found in (uniform, narrow)]
    c1, c2 = (uniform[f"conv{i}/kernel"].shape[-1] for i in (1, 2))
    assert (c1, c2) in [(4 * part // 6 or 1, part) for part in range(1, 7)]
    assert abs(sizes[0] - sizes[1]) <= 60


def test_the_scale_of_the_thresholds_is_the_best_on_held_out_images(results):
    assert set(results["scales"]) == {"dense", "narrow", "uniform"}
    for tried in results["scales"].values():
        assert [each["scale"] for each in tried] == [1.0, 0.7]
        best = max(each["accuracy"] for each in tried)
        assert [each["accuracy"] for each in tried if each["taken"]] == [best]


def test_a_file_gives_the_accuracy_that_its_row_states(folder, rows, capsys):
    cli.main(["eval", str(folder / "models" / "compressed.safetensors"), "--dataset", "digits"])
    assert f"{100 * rows['compressed']['accuracy']:.2f} %" in capsys.readouterr().out


def test_the_pictures_of_dimensions_and_noise_are_there(folder):
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert 'id="plot-dimensions"' in page and 'id="plot-noise"' in page


MISTAKES = {
    "rising schedule": (["--fewer", "4", "8"], "must fall"),
    "coding": (["--encoding=bernoulli"], "choose poisson or direct"),
    "unknown order": (["--order=fire"], "--order"),
    "bits": (["--bits=1"], "--bits"),
    "images": (["--pca-images=9999"], "pca_images 9999"),
    "no convolution": (["--network=20-10"], "no convolution"),
    "chunks of a later T": (["--remat=4"], "remat 4 does not divide 6"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(mistake, mistake_of):
    options, culprit = MISTAKES[mistake]
    assert culprit in mistake_of("spatiotemporal", ["--preset=smoke", *options])


def test_a_single_channel_is_not_normalised():
    config = command.parse(EXPERIMENT, ["--preset=smoke"])
    assert load_layout(config, {}).task.inputs.mean is None
