"""A run of `experiments.joint`, end to end on small networks, and what it refuses."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from experiments import joint as experiment
from experiments.common import skeleton
from experiments.joint_problem import STAGES, groups, load
from experiments.joint_stages import MEASURES, Held, JointStages
from jaxsnn import export, train
from jaxsnn.report import ROW_FIELDS

TINY = {
    "preset": "smoke", "network": "4C3-AP4-8-10", "timesteps": 3, "limit": 300, "batch-size": 30,
    "learning-rate": 0.02, "dense-epochs": 6, "sparsity": 0.5, "tolerance": 1.0,
    "calibration-batch-size": 30,
}  # fmt: skip
OTHER = ("bits", "connections", "channels")


def arguments(*more):
    return [*(f"--{name}={value}" for name, value in TINY.items()), *more]


def config_of(*options):
    return skeleton.parse(experiment.defaults, "joint", arguments(*options))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, run_in_process):
    """Return the directory of an uninterrupted run of all stages, in the default order."""
    folder = tmp_path_factory.mktemp("joint") / "run"
    run_in_process(experiment, arguments(f"--out={folder}", "--pruning=magnitude"))
    return folder


@pytest.fixture(scope="module")
def rows(results):
    return {row["stage"]: row for row in results["rows"]}


@pytest.fixture(scope="module")
def other(folder, tmp_path_factory):
    """Return the directory and rows of a run in another order, two stages trained together."""
    dense, folder = folder, tmp_path_factory.mktemp("joint") / "other"
    options = ("--stages", *OTHER, "--together", "bits", "connections", "--levels=ternary")
    config = dataclasses.replace(config_of(*options), out=str(folder))
    stages = JointStages(skeleton.Run("joint", config), load(config))
    shutil.copytree(dense / "checkpoints" / "dense", folder / "checkpoints" / "dense")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JointStages, "time", lambda *_, **__: None)
        stages.go()
    return folder, stages.rows


def kernels(folder, name):
    params, _, _ = export.load(folder / "models" / f"{name}.safetensors")
    return {layer: leaves["kernel"] for layer, leaves in params.items() if "kernel" in leaves}


def files(rows):
    """Return the names of the packed networks, in order."""
    return [row["name"].replace(" ", "-") for row in rows]


# --- The stages -----------------------------------------------------------------------------------


def test_stages_come_in_the_order_given_and_the_last_is_the_product(results, other):
    assert [row["stage"] for row in results["rows"]] == ["dense", *STAGES]
    names = ["dense", "channels", "connections", "bits", "timesteps", "compressed"]
    assert [row["name"] for row in results["rows"]] == names
    _, rows = other
    assert [row["stage"] for row in rows] == ["dense", "bits and connections", "channels"]
    assert all(set(ROW_FIELDS) <= set(row) for row in rows)


def test_the_dense_network_has_learnt(rows):
    assert rows["dense"]["accuracy"] > 0.3


def test_a_smaller_network_stays_small(folder):
    assert kernels(folder, "dense")["conv1"].shape == (3, 3, 1, 4)
    for name in ("channels", "connections", "bits", "timesteps", "compressed"):
        shapes = [kernel.shape for kernel in kernels(folder, name).values()]
        assert shapes == [(3, 3, 1, 2), (8, 4), (4, 10)]


def test_what_was_pruned_stays_zero(folder, rows):
    pruned = kernels(folder, "connections")
    left = sum(np.count_nonzero(x) for x in pruned.values())
    assert left == pytest.approx((18 + 32 + 40) / 2, abs=3 / 2)  # rounded in each layer
    for name in ("bits", "timesteps", "compressed"):
        for layer, kernel in kernels(folder, name).items():
            # The rescaled levels have no zero, so what is zero is what was pruned.
            np.testing.assert_array_equal(kernel == 0, pruned[layer] == 0)
    assert rows["spikes"]["density"] == pytest.approx(left / (36 + 128 + 40 + 40))


def test_quantized_weights_stay_on_their_grid(folder, other):
    for name in ("bits", "timesteps", "compressed"):
        for kernel in kernels(folder, name).values():
            for channel in kernel.reshape(-1, kernel.shape[-1]).T:
                levels = np.unique(np.abs(channel[channel != 0]))  # of 2 bits: gamma / 3 and gamma
                assert len(levels) <= 2
                if len(levels) == 2:
                    assert levels[1] / levels[0] == pytest.approx(3, rel=1e-5)
    where, rows = other
    for name in files(rows)[1:]:
        assert all(np.unique(np.abs(x)).size <= 2 for x in kernels(where, name).values())


def test_pruning_quantized_weights_keeps_both_sets(other):
    where, _ = other
    pruned = kernels(where, "bits-and-connections")
    assert sum(np.count_nonzero(x) for x in pruned.values()) <= (36 + 128 + 80) // 2
    small = kernels(where, "compressed")
    assert [x.shape for x in small.values()] == [(3, 3, 1, 2), (8, 4), (4, 10)]
    assert all(np.count_nonzero(small[x]) <= np.count_nonzero(pruned[x]) for x in small)


def test_timesteps_fall_and_stay_low(rows):
    assert [row["timesteps"] for row in rows.values()] == [3, 3, 3, 3, 2, 2]
    tried = rows["timesteps"]["tried"]
    assert [each["timesteps"] for each in tried] == [3, 2] and tried[-1]["accepted"]


def test_rows_say_what_each_stage_cost_and_gained(folder, results):
    rows = results["rows"]
    for before, row in zip(rows, rows[1:], strict=False):
        assert row["cost"]["accuracy"] == pytest.approx(before["accuracy"] - row["accuracy"])
        assert row["cost"]["seconds"] > 0
        for measure in MEASURES:
            assert row["gain"][measure] == pytest.approx(before[measure] / row[measure])
            assert row["gain_in_all"][measure] == pytest.approx(rows[0][measure] / row[measure])
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    spent = sum(row["cost"]["seconds"] for row in rows)
    assert spent == pytest.approx(sum(record["seconds"] for record in log))


def test_the_page_has_a_chart_of_the_stages(folder):
    assert (folder / "plots" / "stages.png").exists()
    assert "What each stage cost in accuracy" in (folder / "report.html").read_text("utf-8")


def test_the_packed_product_scores_what_its_row_says(folder, rows):
    path = folder / "models" / "compressed.safetensors"
    params, stats, _ = export.load(path)
    config = config_of("--timesteps=2", "--timesteps-schedule", "1")
    problem = load(config)
    module = export.load_model(path).module
    small = dataclasses.replace(problem, module=module, tasks={})
    found = train.evaluate(small.task(), params, stats, problem.data.test, batch_size=100)
    row = rows["spikes"]
    assert (found.accuracy, path.stat().st_size) == (row["accuracy"], row["file_bytes"])


def test_an_interrupted_run_resumes_to_the_same_bits(
    folder, results, tmp_path, monkeypatch, run_in_process
):
    again = tmp_path / "run"
    shutil.copytree(folder, again)
    for left in ("timesteps-2", "spikes"):  # as if killed after the stage bits
        shutil.rmtree(again / "checkpoints" / left)
    (again / "results.json").unlink()
    log = [json.loads(line) for line in (again / "metrics.jsonl").read_text().splitlines()]
    done = [x for x in log if x["phase"] not in ("timesteps 2", "spikes")]
    (again / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in done))
    for unneeded in ("time", "draw"):
        monkeypatch.setattr(JointStages, unneeded, lambda *_, **__: None)
    run_in_process(experiment, [*arguments(f"--out={again}", "--pruning=magnitude"), "--resume"])
    found = json.loads((again / "results.json").read_text())["rows"]
    for row, same in zip(found, results["rows"], strict=True):
        assert (row["accuracy"], row["gain"]) == (same["accuracy"], same["gain"])
    for name in files(found):
        jax.tree.map(np.testing.assert_array_equal, kernels(again, name), kernels(folder, name))


# --- Parts of them --------------------------------------------------------------------------------


@pytest.fixture
def stages(tmp_path):
    """Return the stages of a run that has not begun, and a network of start values."""
    config = dataclasses.replace(config_of(), out=str(tmp_path / "run"), timesteps_schedule=(2, 1))
    problem = load(config)
    start = problem.start()
    return JointStages(skeleton.Run("joint", config), problem), Held(start, start.params)


def test_masks_lose_the_channels_that_the_network_loses(stages, monkeypatch):
    pipeline, held = stages
    scores = {"conv1": np.array([3.0, 1, 2, 0]), "dense1": np.arange(8.0)}
    monkeypatch.setattr(pipeline, "scores", lambda _: scores)
    random = np.random.default_rng(0)
    left = jax.tree.map(lambda leaf: random.random(leaf.shape) < 0.5, held.free)
    found = pipeline.cut_channels(dataclasses.replace(held, masks=left))
    # 8 x 8 pixels are pooled to 2 x 2: 4 inputs of each channel, channels last.
    inputs = np.array([4 * pixel + channel for pixel in (0, 1, 2, 3) for channel in (0, 2)])
    for tree, whole in ((found.masks, left), (found.free, held.free)):
        np.testing.assert_array_equal(
            tree["conv1"]["kernel"], np.asarray(whole["conv1"]["kernel"])[..., [0, 2]]
        )
        np.testing.assert_array_equal(
            tree["dense1"]["kernel"], np.asarray(whole["dense1"]["kernel"])[inputs][:, 4:]
        )
        np.testing.assert_array_equal(
            tree["dense2"]["kernel"], np.asarray(whole["dense2"]["kernel"])[4:]
        )


@pytest.mark.parametrize(
    ("accuracies", "timesteps", "tried"),
    [((0.9, 0.895, 0.85), 2, 2), ((0.9, 0.8), 3, 1), ((0.9, 0.91, 0.9), 1, 2)],
)
def test_timesteps_fall_until_the_validation_accuracy_does(
    stages, monkeypatch, accuracies, timesteps, tried
):
    pipeline, held = stages
    pipeline.config = dataclasses.replace(pipeline.config, tolerance=0.01)
    found = iter(accuracies)
    monkeypatch.setattr(pipeline, "_validate", lambda _: next(found))
    monkeypatch.setattr(pipeline, "tune", lambda name, held, epochs: held)
    shorter, more = pipeline.shorten(held)
    assert shorter.network.problem.config.timesteps == timesteps
    assert shorter.network.problem.inputs.timesteps == timesteps
    assert [each["accuracy"] for each in more["tried"]] == list(accuracies)
    assert len(more["tried"]) == 1 + tried


def test_the_groups_keep_the_order_given():
    order = ("bits", "connections", "channels", "spikes", "timesteps")
    config = config_of("--stages", *order, "--together", "channels", "connections", "spikes")
    assert groups(config) == [("bits",), ("connections", "channels", "spikes"), ("timesteps",)]


@pytest.mark.parametrize("preset", skeleton.PRESETS)
@pytest.mark.parametrize("dataset", ["digits", "mnist", "cifar10"])
def test_every_preset_is_in_range(preset, dataset):
    config = experiment.defaults(preset, dataset)
    config.check()  # raises if one is not
    assert (config.preset, config.dataset) == (preset, dataset)


MISTAKES = {
    "stage": (["--stages", "bits", "chanels"], "--stages 'chanels'"),
    "stage twice": (["--stages", "bits", "spikes", "bits"], "--stages has 'bits' twice"),
    "no stage": (["--stages"], "--stages needs"),
    "together unknown": (["--stages", "bits", "--together", "bits", "spikes"], "'spikes'"),
    "together alone": (["--together", "bits"], "--together 'bits' is alone"),
    "together apart": (["--together", "channels", "bits"], "next to each other"),
    "rising timesteps": (["--timesteps-schedule", "5"], "--timesteps-schedule"),
    "no timesteps": (["--timesteps-schedule"], "--timesteps-schedule"),
    "no validation": (["--validation=0"], "--validation 0"),
    "ratio": (["--channel-ratios", "1.0"], "--channel-ratios"),
    "number of ratios": (["--channel-ratios", "0.5", "0.5", "0.5"], "conv1, dense1"),
    "ratio that empties": (["--channel-ratios", "0.8"], "'conv1'"),
    "sparsity": (["--sparsity=1.0"], "--sparsity"),
    "sparsity that empties": (["--sparsity=0.995"], "'conv1/kernel'"),
    "calibration": (["--calibration-batches=100"], "--calibration-batches"),
    "bits": (["--bits=9"], "--bits"),
    "bits of the levels": (["--levels=pow2", "--bits=1"], "--bits of --levels pow2"),
    "levels": (["--levels=octal"], "--levels"),
    "spike weight": (["--spike-weight=-1"], "--spike-weight"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(mistake, mistake_of):
    options, culprit = MISTAKES[mistake]
    assert culprit in mistake_of(experiment, arguments(*options))
