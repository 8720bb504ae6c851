"""The problem of an experiment: the classes come from the data, recordings count as events."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.common import (
    DataOptions,
    DenseOptions,
    EngineOptions,
    NetworkOptions,
    RunOptions,
    TaskOptions,
    load,
    network_of,
    problem,
    task_of,
    train_dense,
)
from jaxsnn import data, export
from jaxsnn.errors import UserError


@dataclasses.dataclass(frozen=True)
class Config:
    """The groups that a problem is made of."""

    run: RunOptions = RunOptions()
    data: DataOptions = DataOptions(limit=100)
    task: TaskOptions = TaskOptions(timesteps=3)
    network: NetworkOptions = NetworkOptions(network="6-{classes}")
    engine: EngineOptions = EngineOptions()


def noise(channels, classes=10, frames=()):
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (50, *frames, 8, 8, channels), dtype=np.uint8)
    split = data.Split(images, draw.integers(0, classes, 50).astype(np.int32))
    statistics = (0.5,) * channels
    return data.Dataset("noise", split, split, split, classes, statistics, statistics)


def test_a_problem_has_data_a_network_and_a_task_that_fit():
    found = load(Config(), seed=3, batch_size=30)
    assert len(found.data.train.labels) == 90
    assert found.net.params["dense2"]["kernel"].shape == (6, 10)
    assert (found.task.inputs.timesteps, found.task.loss) == (3, "mse")
    again = load(Config(), seed=3, batch_size=30)
    np.testing.assert_array_equal(
        found.net.params["dense1"]["kernel"], again.net.params["dense1"]["kernel"]
    )
    assert again.task == found.task


@pytest.mark.parametrize(
    ("layout", "filled"),
    [("8C3-AP2-{classes}", "8C3-AP2-7"), ("16-{10*classes}-V{classes}", "16-70-V7"), ("5", "5")],
)
def test_the_classes_of_a_layout_come_from_the_data(layout, filled):
    assert problem.layout_of(layout, 7) == filled


@pytest.mark.parametrize(
    ("layout", "filled"),
    [("8C3-AP2-12-{classes}", "4C3-AP2-6-10"), ("8C3S2-D0.5-{10*classes}-V{classes}",
     "4C3S2-D0.5-100-V10"), ("16B3S2M6P-AP4-12R-10", "8B3S2M3P-AP4-6R-10"), ("1C3-10", "1C3-10"),
     ("vgg16", "vgg16")],
)  # fmt: skip
def test_a_width_is_a_factor_on_what_is_hidden(layout, filled):
    assert problem.layout_of(layout, 10, 0.5) == filled


def test_a_network_has_a_name_and_a_width():
    net = network_of(NetworkOptions(network="admm_cifar", width=0.0625), tall(), 0)
    assert net.params["conv7"]["kernel"].shape == (3, 3, 64, 128)
    assert net.params["dense3"]["kernel"].shape == (32, 100)


def tall():
    draw = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
    split = data.Split(draw, np.arange(50, dtype=np.int32) % 10)
    return data.Dataset("tall", split, split, split, 10, (0.5,) * 3, (0.25,) * 3)


@pytest.mark.long
def test_start_values_are_those_that_are_asked_for():
    dataset = noise(3)
    task = task_of(TaskOptions(timesteps=3), EngineOptions(), dataset, 10)
    net = network_of(NetworkOptions(network="4C3-16-{classes}"), dataset, 0)
    found = {s: problem.started(net, s, task, dataset, 0) for s in ("uniform", "fan_out", "firing")}
    assert found["uniform"] is net
    spread = {s: float(np.std(each.params["dense1"]["kernel"])) for s, each in found.items()}
    assert spread["fan_out"] == pytest.approx(0.01, rel=0.1)
    assert spread["firing"] > spread["uniform"]


def test_the_step_of_the_dense_network_falls_along_a_cosine_or_tenfold():
    steps = {}

    def fit(task, optimizer, net, split, *, epochs, **options):
        state, found = optimizer.init({"w": np.float32(0)}), []
        for _ in range(epochs * 3):  # three steps an epoch
            updates, state = optimizer.update({"w": np.float32(1)}, state)
            found.append(-float(updates["w"]))
        steps[len(steps)] = found
        return net

    found = load(Config(), seed=0, batch_size=30)
    method = SimpleNamespace(batch_size=30, learning_rate=0.5, seed=0)
    train_dense(fit, found, DenseOptions(dense_epochs=2), method)
    chosen = DenseOptions(dense_epochs=5, dense_learning_rate=0.25, dense_fall=2)
    train_dense(fit, found, chosen, method)
    assert steps[0][0] == pytest.approx(0.5, rel=1e-3) and steps[0][-1] < 0.05
    np.testing.assert_allclose(steps[1], [0.25] * 6 + [0.025] * 6 + [0.0025] * 3, rtol=1e-3)


def test_colours_are_normalised_and_recordings_are_events():
    for dataset, encoding, normalised in (
        (noise(3), "direct", True), (noise(1), "direct", False), (noise(2, frames=(3,)), "events",
                                                                  False),
    ):  # fmt: skip
        task = task_of(TaskOptions(timesteps=3), EngineOptions(), dataset, 10)
        assert task.inputs.encoding == encoding
        assert (task.inputs.mean is not None) == normalised


def test_an_encoding_of_images_is_refused_for_recordings():
    with pytest.raises(UserError, match="inputs are events with timesteps=3, found .*'poisson'"):
        task_of(TaskOptions(encoding="poisson"), EngineOptions(), noise(2, frames=(3,)), 10)


@pytest.mark.parametrize(
    ("engine", "batch", "devices"),
    [({}, 30, 2), ({}, 15, 1), ({"micro_batches": 5}, 15, 1), ({"devices": 1}, 30, 1)],
)
def test_devices_share_a_batch_where_they_divide_it(engine, batch, devices):
    task = task_of(TaskOptions(), EngineOptions(**engine), noise(1), batch)
    assert (task.devices, task.micro_batches) == (devices, engine.get("micro_batches", 1))


@pytest.mark.parametrize(
    ("engine", "message"),
    [({"micro_batches": 4}, "--micro-batches 4 do not divide --batch-size 30"),
     ({"devices": 2, "micro_batches": 10}, "--devices 2 do not divide the 3 samples")],
)  # fmt: skip
def test_parts_that_do_not_divide_a_batch_are_refused(engine, message):
    with pytest.raises(UserError, match=message):
        task_of(TaskOptions(), EngineOptions(**engine), noise(1), 30)


def test_numbers_of_the_products_and_norms_are_options():
    options = NetworkOptions(network="4C3-{classes}", norm=True, dtype="bfloat16")
    net = network_of(options, noise(1), 0)
    assert net.has_norms
    assert net.module.conv1.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("changes", "batch", "message"),
    [({"network": NetworkOptions(network="6-7")}, 30, "7 scores"),
     ({"network": NetworkOptions(network="6-11")}, 30, "11 scores, but digits has 10 classes"),
     ({}, 91, "--batch-size must be in .* found 91"),
     ({"engine": EngineOptions(remat=2)}, 30, "--remat 2 does not divide --timesteps 3"),
     ({"engine": EngineOptions(micro_batches=2),
       "network": NetworkOptions(network="6-{classes}", norm=True)}, 30, "--micro-batches would")],
)  # fmt: skip
def test_what_does_not_fit_the_data_is_refused(changes, batch, message):
    with pytest.raises(UserError, match=message):
        load(dataclasses.replace(Config(), **changes), seed=0, batch_size=batch)


# --- A network to start from ----------------------------------------------------------------------


def test_a_packed_network_is_started_from(tmp_path):
    path = tmp_path / "dense.safetensors"
    first = load(Config(), seed=1, batch_size=10)
    export.save(path, first.net, first.task.inputs)
    chosen = dataclasses.replace(Config().network, weights=str(path))
    found = load(dataclasses.replace(Config(), network=chosen), seed=2, batch_size=10)
    np.testing.assert_array_equal(
        found.net.params["dense1"]["kernel"], first.net.params["dense1"]["kernel"]
    )
    others = dataclasses.replace(chosen, network="7-{classes}")
    with pytest.raises(UserError, match=r"dense1/bias' has the shape \(6,\), in --network \(7,\)"):
        load(dataclasses.replace(Config(), network=others), seed=2, batch_size=10)
