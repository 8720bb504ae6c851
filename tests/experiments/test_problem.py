"""The problem of an experiment: the classes come from the data, recordings count as events."""

import dataclasses

import numpy as np
import pytest

from experiments.common import (
    DataOptions,
    EngineOptions,
    NetworkOptions,
    RunOptions,
    TaskOptions,
    load,
    network_of,
    problem,
    task_of,
)
from jaxsnn import data
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
     ({}, 91, "--batch-size must be in .* found 91")],
)  # fmt: skip
def test_what_does_not_fit_the_data_is_refused(changes, batch, message):
    with pytest.raises(UserError, match=message):
        load(dataclasses.replace(Config(), **changes), seed=0, batch_size=batch)
