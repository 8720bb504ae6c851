"""A run of `experiments.spike_thrift`, end to end on small networks, and what it refuses."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments import spike_thrift as experiment
from experiments.common import skeleton
from experiments.common.problem import Network
from experiments.spike_thrift_problem import (
    WAYS,
    guided_stats,
    guided_task,
    load,
    sparse_start,
    stage_ends,
)
from experiments.spike_thrift_stages import ThriftStages
from jaxsnn import cli, export, losses, models, train, tree
from jaxsnn.compress import masks, rewiring
from jaxsnn.errors import UserError
from jaxsnn.methods import conversion
from jaxsnn.neurons import LIF

TINY = ["--preset=smoke", "--network=4C3-AP2-6C3-AP4-10", "--density=0.4", "--sparse-epochs=3"]
SIZES = {"conv1/kernel": 36, "conv2/kernel": 216, "dense1/kernel": 60}
KEPT = 125  # 0.4 of them, rounded
NAMES = ("dense", "dense converted", "dense ann", "ce ann", "all ann", "converted", "compressed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, run_in_process):
    """Return the directory of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("spike_thrift") / "run"
    run_in_process(experiment, [*TINY, f"--out={folder}"])
    return folder


def kernels(folder, name):
    params, _, _ = export.load(folder / "models" / f"{name.replace(' ', '-')}.safetensors")
    return tree.named_leaves(params)


def config_of(*options):
    return skeleton.parse(experiment.defaults, "spike_thrift", [*TINY, *options])


def test_the_dense_network_comes_first_and_the_product_last(results):
    assert [row["name"] for row in results["rows"]] == list(NAMES)
    assert [row["timesteps"] for row in results["rows"]] == [8, 8, 1, 1, 1, 8, 8]


def test_the_number_of_weights_stays_while_they_move(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    found = [r for r in map(json.loads, lines) if r["phase"] == "all ann"]
    counts = [{x: r[f"density/{x}"] * SIZES[x] for x in SIZES} for r in found]
    assert len(counts) == 3
    for count in counts:
        assert sum(count.values()) == pytest.approx(KEPT)
    uniform = {x: 0.4 * size for x, size in SIZES.items()}
    assert max(abs(counts[0][x] - uniform[x]) for x in SIZES) > 1  # moved between layers
    assert counts[2] == counts[1]  # and not after the last epoch
    assert found[0]["prune_rate"] > found[1]["prune_rate"] > found[2]["prune_rate"]
    assert found[2]["prune_rate"] == pytest.approx(0.005)


def test_tuning_leaves_the_masks_and_changes_the_weights(folder, rows):
    ann, converted, product = (kernels(folder, x) for x in ("all ann", "converted", "compressed"))
    thresholds = dict(np.load(folder / "checkpoints" / "all-thresholds.npz"))
    unit = {"dense1/kernel": conversion.score_unit(thresholds)}  # scores are those of the ANN
    for name in SIZES:
        np.testing.assert_allclose(converted[name], unit.get(name, 1) * ann[name], rtol=1e-6)
        assert not np.any(product[name][ann[name] == 0] * 1.0)
        assert np.any(product[name] != ann[name])
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


def test_what_is_found_follows_from_the_rows(results, rows):
    found = results["found"]
    accuracy = {name: row["mean_accuracy"] for name, row in rows.items()}
    assert found["ann_accuracy"] == {way: accuracy[f"{way} ann"] for way in ("ce", "all")}
    lost = accuracy["all ann"] - accuracy["converted"]
    assert found["lost_by_conversion"] == pytest.approx(lost)
    assert found["below_dense"] == pytest.approx(accuracy["dense"] - accuracy["compressed"])
    shares = rows["compressed"]["spikes_per_sample"] / rows["dense"]["spikes_per_sample"]
    assert found["spikes_of_dense"] == pytest.approx(shares)


def test_the_file_gives_the_accuracy_that_its_row_states(folder, rows, capsys):
    cli.main(["eval", str(folder / "models" / "compressed.safetensors"), "--dataset", "digits"])
    assert f"{100 * rows['compressed']['accuracy']:.2f} %" in capsys.readouterr().out


def test_an_interrupted_run_resumes_to_the_same_bits(folder, tmp_path, monkeypatch, run_in_process):
    """Masks, momentum, thresholds and the teacher come back with the checkpoints."""
    again, record = tmp_path / "run", skeleton.Run._record

    def stop_while_masks_move(run, found):
        record(run, found)
        if (found["phase"], found["epoch"]) == ("all ann", 2):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(skeleton.Run, "_record", stop_while_masks_move)
        with pytest.raises(SystemExit) as stop:
            run_in_process(experiment, [*TINY, f"--out={again}"])
    assert stop.value.code == 130 and not (again / "results.json").exists()
    run_in_process(experiment, [*TINY, f"--out={again}", "--resume"])
    for name in NAMES:
        one, other = kernels(folder, name), kernels(again, name)
        jax.tree.map(np.testing.assert_array_equal, one, other)


# --- What a sparse ANN learns from ----------------------------------------------------------------


@pytest.fixture(scope="module")
def problem():
    return load(config_of("--limit=100", "--alpha=0.75"))


def batch(problem):
    images, labels = (jnp.asarray(x[:8]) for x in problem.data.train)
    return problem.ann.prepare(jax.random.key(0), images, True), labels


def test_a_teacher_like_the_student_leaves_the_labels_share_alone(problem):
    params, (x, labels) = problem.ann.net.params, batch(problem)
    stats = guided_stats(problem, params)
    for name, share in (("ce", 1.0), ("kl", 0.25), ("at", 1.0), ("all", 0.25)):
        task = guided_task(problem, WAYS[name])
        output = task.apply(params, stats, x, train=True, key=jax.random.key(0))
        labels_alone = float(losses.cross_entropy(output.readout, labels))
        assert float(task.loss(output, labels)) == pytest.approx(share * labels_alone, rel=1e-5)
    resting = task.apply(params, stats, x)
    assert resting.teacher is None
    assert float(task.loss(resting, labels)) == pytest.approx(labels_alone)


def test_the_loss_is_that_of_both_read_outs_and_of_the_ends_of_stages(problem):
    net, (x, labels) = problem.ann.net, batch(problem)
    teacher = models.he_start(jax.random.key(1), net.params)
    task = guided_task(problem, WAYS["all"])
    output = task.apply(net.params, guided_stats(problem, teacher), x, train=True)
    student, guide = (net.apply(p, net.stats, x) for p in (net.params, teacher))
    terms = (
        losses.cross_entropy(student.readout, labels),
        losses.distillation(student.readout, guide.readout, 4.0),
    )
    attention = sum(
        jnp.mean((losses.attention_map(student.activity.spikes[stage])
                  - losses.attention_map(guide.activity.spikes[stage])) ** 2)
        for stage in ("conv1", "conv2")
    )  # fmt: skip
    expected = float(0.25 * terms[0] + 0.75 * terms[1] + problem.config.beta / 2 * attention)
    assert float(task.loss(output, labels)) == pytest.approx(expected, rel=1e-5)
    assert attention > 1e-4


def test_stages_end_before_poolings_and_with_the_images():
    def ends(layout):
        neuron, options = LIF(), {"readout": "current", "use_bias": False}
        return stage_ends(models.build(layout, (8, 8, 1), neuron, rngs=nnx.Rngs(0), **options))

    assert ends("4C3-D0.1-4C3-AP2-4C3-MP2-4C3-D0.2-4C3-10") == ("conv2", "conv3", "conv5")
    assert ends("4C3-4C3-AP2-4B3-8B3S2P-10") == ("block1/conv2", "block2/conv2")
    with pytest.raises(UserError, match="no convolution whose attention maps"):
        ends("20-10")


@pytest.mark.parametrize("growth", ["gradient", "random"])
def test_other_rules_of_growth_move_masks_within_their_layers(growth, problem, tmp_path):
    config = config_of(f"--growth={growth}", f"--out={tmp_path / 'run'}")
    stages = ThriftStages(skeleton.Run("spike_thrift", config), problem)
    stages.config = config
    net = problem.ann.net
    start = masks.keep_fraction({"*/kernel": 0.6}, net.params)
    optimizer = rewiring.sparse(stages._sgd(0.1, 1), start, keep_gradient=growth == "gradient")
    state = train.init(net.params, {}, optimizer, jax.random.key(0))
    gradient = jax.tree.map(jnp.ones_like, net.params)
    _, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    state = state._replace(opt_state=opt_state, step=jnp.int32(1))
    moved = stages._rewired(state).opt_state.confined.masks
    for name, mask in tree.named_leaves(moved).items():
        before = tree.named_leaves(start)[name]
        assert mask.sum() == before.sum() and (mask != before).any()


def test_a_student_may_begin_with_the_largest_weights_of_its_teacher(problem):
    teacher = models.he_start(jax.random.key(1), problem.ann.net.params)
    problem = dataclasses.replace(problem, config=config_of("--begin=teacher"))
    masks_found, params = sparse_start(problem, teacher, problem.ann.net.params)
    kernel, mask = teacher["conv2"]["kernel"], masks_found["conv2"]["kernel"]
    assert sum(int(leaf.sum()) for leaf in jax.tree.leaves(masks_found)) == KEPT
    assert jnp.abs(kernel[mask]).min() > jnp.abs(kernel[~mask]).max()
    gain = (mask.size / mask.sum()) ** 0.5
    np.testing.assert_allclose(params["conv2"]["kernel"][mask], gain * kernel[mask], rtol=1e-5)


# --- Options --------------------------------------------------------------------------------------


def test_a_meta_model_from_a_file_takes_the_place_of_training(folder):
    path = folder / "models" / "dense-ann.safetensors"
    problem = load(config_of(f"--teacher={path}"))
    stages = ThriftStages.__new__(ThriftStages)
    stages.problem = problem
    network = stages.meta_model()
    assert isinstance(network, Network) and network.problem is problem.ann
    jax.tree.map(np.testing.assert_array_equal, tree.named_leaves(network.params),
                 kernels(folder, "dense ann"))  # fmt: skip


@pytest.mark.parametrize("preset", skeleton.PRESETS)
@pytest.mark.parametrize("dataset", ["digits", "mnist", "cifar10", "cifar100", "tiny_imagenet"])
def test_every_preset_is_in_range(preset, dataset):
    config = experiment.defaults(preset, dataset)
    config.check()  # raises if one is not
    assert (config.preset, config.dataset) == (preset, dataset)


MISTAKES = {
    "density of nothing": (["--density=0"], "--density must be in (0.0, 1.0], found 0.0"),
    "density too low": (["--density=0.004"], "leaves 'conv1/kernel' (36 weights) without any"),
    "way": (["--ways", "all", "some"], "--ways 'some' is unknown"),
    "ways twice": (["--ways", "all", "all"], "none of them twice"),
    "delay": (["--order=fire_then_integrate", "--timesteps=2"], "layer 'conv2' cannot spike"),
    "delay of thresholds": (["--order=fire_then_integrate", "--calibration-timesteps=1"],
                            "layer 'conv1' cannot spike within 1 timesteps"),
    "remat": (["--remat=3"], "--remat 3 does not divide 8 timesteps"),
    "wide": (["--fc=wide"], "--fc wide is for vgg16 and vgg11"),
    "no images": (["--network=20-10"], "no convolution whose attention maps"),
    "temperature": (["--temperature=0"], "--temperature must be in (0.0, inf)"),
    "teacher that is not there": (["--teacher=nowhere.safetensors"], "nowhere.safetensors"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(mistake, mistake_of):
    options, culprit = MISTAKES[mistake]
    assert culprit in mistake_of(experiment, [*TINY, *options])


def test_a_meta_model_that_does_not_match_is_named(folder, mistake_of):
    path = folder / "models" / "dense-ann.safetensors"
    options = [*TINY, "--network=4C3-AP2-5C3-AP4-10", f"--teacher={path}"]
    error = mistake_of(experiment, options)
    assert "'conv2/kernel' has the shape (3, 3, 4, 6), that of the student (3, 3, 4, 5)" in error
