"""What the smallest run of `experiments.spike_thrift` left behind, beyond the contract."""

import json

import numpy as np
import pytest

from experiments.common import command
from experiments.spike_thrift.run import EXPERIMENT, load
from jaxsnn import export, tree
from jaxsnn.methods import spike_thrift

SIZES = {"conv1/kernel": 36, "conv2/kernel": 216, "dense1/kernel": 60}
KEPT = 125  # 0.4 of them, rounded
NAMES = ("dense", "dense control", "dense converted", "dense ann", "ce ann", "ce converted",
         "ce tuned", "all ann", "converted", "compressed")  # fmt: skip
pytestmark = pytest.mark.run


@pytest.fixture(scope="module")
def folder(run_of):
    return run_of("spike_thrift")


def kernels(folder, name):
    net = export.load(folder / "models" / f"{name.replace(' ', '-')}.safetensors").network
    return tree.named_leaves(net.params)


def test_the_dense_network_comes_first_and_the_product_last(results):
    assert [row["name"] for row in results["rows"]] == list(NAMES)
    assert [row["timesteps"] for row in results["rows"]] == [6, 6, 6, 1, 1, 6, 6, 1, 6, 6]


def test_the_number_of_weights_stays_while_they_move(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    found = [r for r in map(json.loads, lines) if r["phase"] == "all ann"]
    counts = [{x: r[f"density/{x}"] * SIZES[x] for x in SIZES} for r in found]
    assert len(counts) == 3
    for count in counts:
        assert sum(count.values()) == pytest.approx(KEPT)
    assert max(abs(counts[0][x] - counts[1][x]) for x in SIZES) > 0  # moved between layers
    assert counts[2] == counts[1]  # and not after the last epoch
    assert found[0]["prune_rate"] > found[1]["prune_rate"] > found[2]["prune_rate"]
    assert found[2]["prune_rate"] == pytest.approx(0.005)


def test_tuning_leaves_the_masks_and_changes_the_weights(folder, results, rows):
    ann, converted, product = (kernels(folder, x) for x in ("all ann", "converted", "compressed"))
    unit = np.prod(list(results["found"]["thresholds"].values()))  # scores are those of the ANN
    for name in SIZES:
        factor = unit if name == "dense1/kernel" else 1
        np.testing.assert_allclose(converted[name], factor * ann[name], rtol=1e-5)
        assert not np.any(np.asarray(product[name])[np.asarray(ann[name]) == 0])
        assert np.any(product[name] != converted[name])
    nonzeros = sum(np.count_nonzero(leaf) for leaf in product.values())
    assert nonzeros <= KEPT and rows["compressed"]["density"] == pytest.approx(nonzeros / 312)
    assert rows["compressed"]["compression"] == pytest.approx(312 / nonzeros)
    convolutions = sum(np.count_nonzero(product[x]) for x in ("conv1/kernel", "conv2/kernel"))
    assert rows["compressed"]["convolution_density"] == pytest.approx(convolutions / 252)


def test_energies_count_the_weights_that_are_left(folder, rows):
    # 8 x 8 pixels: 64 (9 x 4) + 16 (9 x 4 x 6) + 6 x 10 multiplications of the dense ANN
    operations_of = {"conv1/kernel": 64 * 36, "conv2/kernel": 16 * 216, "dense1/kernel": 60}
    product = kernels(folder, "compressed")
    left = {x: n * np.count_nonzero(product[x]) / SIZES[x] for x, n in operations_of.items()}
    rates = rows["compressed"]["input_rates"]
    added = sum(left[x] * rates[x] for x in left)
    assert rows["compressed"]["sparse_energy_pj"] == pytest.approx(0.9 * added)
    assert rows["compressed"]["sparse_energy_pj_int32"] == pytest.approx(0.1 * added)
    ann = kernels(folder, "all ann")
    multiplied = sum(n * np.count_nonzero(ann[x]) / SIZES[x] for x, n in operations_of.items())
    assert rows["all ann"]["sparse_energy_pj"] == pytest.approx(4.6 * multiplied)
    ratio = rows["compressed"]["energy_ratio_int32"]
    assert ratio == pytest.approx(3.2 * multiplied / (0.1 * added))
    assert rows["dense"]["energy_ratio"] == pytest.approx(
        rows["dense"]["published_energy_pj"] ** -1 * 4.6 * sum(operations_of.values())
    )


def test_every_way_is_compared_with_the_ann_of_its_own_weights(folder, rows):
    ann, tuned = kernels(folder, "ce ann"), kernels(folder, "ce tuned")
    for name in SIZES:
        np.testing.assert_array_equal(np.asarray(tuned[name])[np.asarray(ann[name]) == 0], 0)
    for suffix in ("", "_int32"):
        energy = f"sparse_energy_pj{suffix}"
        ratio = rows["ce ann"][energy] / rows["ce tuned"][energy]
        assert rows["ce tuned"][f"energy_ratio{suffix}"] == pytest.approx(ratio)
    assert rows["ce ann"]["energy_ratio"] == rows["all ann"]["energy_ratio"] == 1


def test_what_is_found_follows_from_the_rows(results, rows):
    found = results["found"]
    accuracy = {name: row["mean_accuracy"] for name, row in rows.items()}
    assert found["ann_accuracy"] == {way: accuracy[f"{way} ann"] for way in ("ce", "all")}
    tuned = {"ce": accuracy["ce tuned"], "all": accuracy["compressed"]}
    assert found["tuned_accuracy"] == tuned
    lost = accuracy["all ann"] - accuracy["converted"]
    assert found["lost_by_conversion"] == pytest.approx(lost)
    assert found["below_dense"] == pytest.approx(accuracy["dense"] - accuracy["compressed"])
    shares = rows["compressed"]["spikes_per_sample"] / rows["dense"]["spikes_per_sample"]
    assert found["spikes_of_dense"] == pytest.approx(shares)


def test_a_meta_model_from_a_file_takes_the_place_of_training(folder, options_of):
    path = folder / "models" / "dense-ann.safetensors"
    config = command.parse(EXPERIMENT, [*options_of("spike_thrift"), f"--teacher={path}"])
    problem, teacher = load(config)
    spike_thrift.check_teacher(teacher, problem.net)
    assert teacher.program == problem.net.program
    for name, leaf in tree.named_leaves(teacher.params).items():
        np.testing.assert_array_equal(leaf, kernels(folder, "dense ann")[name])


def test_a_meta_model_that_does_not_match_is_named(folder, mistake_of):
    path = folder / "models" / "dense-ann.safetensors"
    options = ["--preset=smoke", "--network=4C3-AP2-5C3-AP4-10", f"--teacher={path}"]
    error = mistake_of("spike_thrift", options)
    assert "'conv2/kernel' has the shape (3, 3, 4, 6), that of the student (3, 3, 4, 5)" in error


MISTAKES = {
    "density of nothing": (["--density=0"], "--density must be in (0"),
    "density too low": (["--density=0.002"], "leaves 'conv1/kernel' (54 weights) without any"),
    "way": (["--ways", "all", "some"], "some"),
    "ways twice": (["--ways", "all", "all"], "none of them twice"),
    "delay": (["--order=fire_then_integrate", "--timesteps=2"], "layer 'conv2' cannot spike"),
    "delay of thresholds": (["--order=fire_then_integrate", "--calibration-timesteps=1"],
                            "layer 'conv1' cannot spike within 1 timesteps"),
    "wide": (["--fc=wide"], "--fc wide is for vgg16 and vgg11"),
    "no images": (["--network=20-10"], "no convolution whose attention maps"),
    "teacher that is not there": (["--teacher=nowhere.safetensors"], "nowhere.safetensors"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(mistake, mistake_of):
    options, culprit = MISTAKES[mistake]
    assert culprit in mistake_of("spike_thrift", ["--preset=smoke", *options])
