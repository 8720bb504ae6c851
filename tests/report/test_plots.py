"""Pictures exist, whatever the data."""

import numpy as np
import pytest

from jaxsnn.errors import UserError
from jaxsnn.metrics.report import LayerReport, Report
from jaxsnn.report import plots, raster, sweep_plots

PNG = b"\x89PNG\r\n\x1a\n"
LAYERS = (
    LayerReport("conv1", (3, 3, 1, 8), density=0.5, bits=3, rate=0.1),
    LayerReport("out", (8, 10), density=0.1, bits=32),
)
ROWS = [Report("dense", layers=LAYERS), Report("compressed", layers=LAYERS[:1]).to_row()]
STAGE = {"stage": "a", "cost": {"accuracy": 0.01}, "gain": {"weight_bytes": 4.0, "synops": 1.0}}
STAGE |= {"gain_in_all": {"weight_bytes": 8.0, "synops": None}}
LOG = [
    {"phase": phase, "epoch": epoch, "loss": 1 / epoch, "accuracy": 0.9, "spike_rate": 0.1}
    | ({"primal/a/kernel": 0.5**epoch, "dual/a/kernel": 0.0} if phase == "admm" else {})
    for phase in ("dense", "admm")
    for epoch in (1, 2)
]


def weights(seed):
    leaf = np.random.default_rng(seed).normal(size=(4, 12))
    return {"a": {"kernel": leaf}, "b": {"kernel": np.sign(leaf) * (leaf > 0)}}


IDS = "curves one_epoch residuals layers raster image events features strip one_frame units silent "
IDS += "histograms emptied time "
IDS += "one_step stages dimensions noise front heat"


@pytest.mark.parametrize(
    "draw",
    [
        lambda path: plots.plot_curves(LOG, path),
        lambda path: plots.plot_curves(LOG[:1], path),
        lambda path: plots.plot_residuals(LOG, path),
        lambda path: plots.plot_layers(ROWS, path),
        lambda path: plots.plot_raster({"a": np.ones((3, 500)), "b": np.zeros((3, 2, 2))}, path),
        lambda path: plots.plot_raster(
            {"a": np.eye(4)}, path, image=np.zeros((5, 5, 1), np.uint8), title="t"
        ),
        lambda path: plots.plot_raster({"a": np.eye(4)}, path, image=np.ones((5, 9, 9, 2))),
        lambda path: plots.plot_raster({"a": np.eye(4)}, path, image=np.arange(7)),
        lambda path: plots.plot_raster({"a": np.eye(4)}, path, events=np.ones((12, 9, 4, 2))),
        lambda path: plots.plot_raster({"a": np.ones((1, 5))}, path, events=np.ones((1, 9, 9, 2))),
        lambda path: plots.plot_raster({"a": np.eye(9)}, path, events=np.ones((9, 700), np.uint8)),
        lambda path: plots.plot_raster({"a": np.eye(4) * 0}, path, events=np.zeros((4, 3, 3, 2))),
        lambda path: plots.plot_histograms(weights(0), weights(1), path),
        lambda path: plots.plot_histograms(weights(0), {"a": {"kernel": np.zeros(3)}}, path),
        lambda path: plots.plot_accuracy_over_time({"dense": [0.5, 0.9], "b": [0.4, 0.8]}, path),
        lambda path: plots.plot_accuracy_over_time({"dense": [0.5, 0.9], "ann": [0.95]}, path),
        lambda path: plots.plot_stages([STAGE, STAGE | {"stage": "b"}], path),
        lambda path: plots.plot_dimensions({"a": [0.5, 0.9, 1.0], "b": [1.0]}, {"a": 2}, path),
        lambda path: plots.plot_noise([0.0, 0.1], {"dense": [0.9, 0.5], "b": [0.9, 0.6]}, path),
        lambda path: sweep_plots.plot_front(
            {"bytes": [1, 2, 3]},
            [0.5, 0.7, 0.6],
            path,
            groups=["a", "a", "b"],
            dense=([5], 0.9),
            chosen=1,
        ),
        lambda path: sweep_plots.plot_heat(
            [{"x": x, "y": y, "accuracy": None if x < y else 0.5} for x in (1, 2) for y in (1, 2)],
            "x",
            "y",
            {"accuracy": "accuracy"},
            path,
        ),
    ],
    ids=IDS.split(),
)
def test_every_plot_is_a_picture(draw, tmp_path):
    path = tmp_path / "plots" / "picture.png"
    draw(path)
    content = path.read_bytes()
    assert content.startswith(PNG) and len(content) > 3000


def test_a_log_without_residuals_is_refused(tmp_path):
    with pytest.raises(UserError, match="no residuals to plot"):
        plots.plot_residuals(LOG[:2], tmp_path / "picture.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "shape", [(), (4,), (4, 7), (4, 3, 5), (4, 3, 5, 1), (4, 3, 5, 2), (4, 3, 5, 3), (4, 3, 5, 6),
              (4, 2, 3, 5, 2)],
)  # fmt: skip
def test_no_shape_of_an_input_costs_the_picture(shape, tmp_path):
    sample = np.ones(shape, np.uint8)
    plots.plot_raster({"a": np.eye(4)}, tmp_path / "image.png", image=sample)
    assert raster.as_image(sample).ndim in (2, 3)
    if shape:
        plots.plot_raster({"a": np.eye(4)}, tmp_path / "events.png", events=sample)


def test_a_large_layer_is_thinned_evenly_in_a_raster():
    spikes = np.arange(2 * 999).reshape(2, 999)
    chosen = raster._choose(spikes)
    assert chosen.shape == (2, raster.MAX_RASTER)
    assert chosen[0, 0] == 0 and chosen[0, -1] == 998


def test_neurons_that_fired_are_drawn_though_they_are_few():
    spikes = np.zeros((3, 20, 50))
    spikes[1, 7, 3] = spikes[2, 19, 49] = 1
    chosen = raster._choose(spikes)
    assert chosen.shape == (3, raster.MAX_RASTER) and chosen.sum() == 2
    assert np.argwhere(chosen)[1].tolist() == [2, raster.MAX_RASTER - 1]  # in their order


def test_frames_of_events_are_a_picture_in_two_colours():  # a recording of N-MNIST: [T, 34, 34, 2]
    frames = np.zeros((4, 34, 34, 2), np.uint8)
    frames[:, 3, 5, 0] = 1  # four events of one polarity, two of the other
    frames[:2, 7, 9, 1] = 1
    image = raster.as_image(frames)
    assert image.shape == (34, 34, 3) and image.min() >= 0 and image.max() <= 1
    np.testing.assert_array_equal(image[0, 0], [1, 1, 1])
    np.testing.assert_allclose(image[3, 5], np.array([0x00, 0x72, 0xB2]) / 255)
    np.testing.assert_allclose(image[7, 9], 1 - (1 - np.array([0xD5, 0x5E, 0x00]) / 255) / 2)
    np.testing.assert_array_equal(raster.as_image(np.zeros((2, 3, 3, 2))), np.ones((3, 3, 3)))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((7,), (7, 1)), ((5, 4), (5, 4)), ((5, 4, 1), (5, 4)), ((5, 4, 3), (5, 4, 3)),
     ((5, 4, 6), (5, 4)), ((2, 5, 4, 1), (5, 4)), ((2, 5, 4, 3), (5, 4, 3))],
)  # fmt: skip
def test_every_sample_is_a_picture(shape, expected):
    assert raster.as_image(np.ones(shape)).shape == expected
    assert raster.as_image(np.ones(shape, np.uint8)).shape == expected
