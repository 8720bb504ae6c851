"""Pictures are whole charts, whatever the data."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from jaxsnn.errors import UserError
from jaxsnn.report import plots, raster

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


EVENTS = np.ones((12, 9, 4, 2))
DRAWN = {
    "curves": lambda: plots.plot_curves(LOG),
    "one epoch": lambda: plots.plot_curves(LOG[:1]),
    "residuals": lambda: plots.plot_residuals(LOG),
    "raster": lambda: plots.plot_raster({"n": {"a": np.ones((3, 500)), "b": np.zeros((3, 2, 2))}}),
    "two networks": lambda: plots.plot_raster(
        {"n": {"a": np.eye(4), "b": np.eye(4)}, "m": {"b": np.ones((9, 7))}},
        image=np.zeros((5, 5, 1), np.uint8), about="t <",
    ),
    "events": lambda: plots.plot_raster({"n": {"a": np.eye(4)}}, image=np.ones((5, 9, 9, 2))),
    "features": lambda: plots.plot_raster({"n": {"a": np.eye(4)}}, image=np.arange(7)),
    "strip": lambda: plots.plot_raster({"n": {"a": np.eye(4)}}, events=EVENTS),
    "one frame": lambda: plots.plot_raster({"n": {"a": np.ones((1, 5))}}, events=EVENTS[:1]),
    "units": lambda: plots.plot_raster(
        {"n": {"a": np.eye(9)}}, events=np.ones((9, 700), np.uint8)
    ),
    "silent": lambda: plots.plot_raster({"n": {"a": np.eye(4) * 0}}, events=EVENTS * 0),
    "histograms": lambda: plots.plot_histograms(weights(0), weights(1)),
    "emptied": lambda: plots.plot_histograms(weights(0), {"a": {"kernel": np.zeros(3)}}),
    "stages": lambda: plots.plot_stages([STAGE, STAGE | {"stage": "b"}]),
    "dimensions": lambda: plots.plot_dimensions({"a": [0.5, 0.9, 1.0], "b": [1.0]}, {"a": 2}),
    "noise": lambda: plots.plot_noise([0.0, 0.1], {"dense": [0.9, 0.5], "b": [0.9, 0.6]}),
}  # fmt: skip


def charts(markup):
    """Return the charts of a picture, once they are known to be whole and finite."""
    found = [ElementTree.fromstring(x) for x in re.findall("<svg.*?</svg>", markup, re.DOTALL)]
    for each in found:
        for element in each.iter():
            for name, value in element.items():
                assert name in ("href", "aria-label") or not re.search("nan|inf", value), value
    return found


@pytest.mark.parametrize("name", DRAWN)
def test_every_plot_is_a_picture(name):
    found = charts(DRAWN[name]())
    assert found
    for each in found:
        assert each.get("viewBox") and each.get("role") == "img" and each.get("aria-label")
        assert len(list(each)) > 2


def test_phases_are_numbered_and_named():
    picture = plots.plot_curves(LOG)
    assert "held-out" not in picture  # nothing was held out
    assert "<b>1</b> dense · <b>2</b> admm" in picture
    assert picture.count('class="shade"') == 3  # of three panels the second phase
    assert "axis from 89)" in picture


def test_a_map_of_a_sweep_has_a_number_in_each_cell():
    rows = [{"x": x, "y": y, "accuracy": None if x < y else 0.5} for x in (1, 2) for y in (1, 2)]
    heat = plots.plot_heat(rows, "x", "y", {"accuracy": "test accuracy, %"})
    assert re.findall('class="mid strong"[^>]*>([^<]+)<', heat) == ["50.00"] * 3
    assert charts(heat)


def test_a_log_without_residuals_is_refused():
    with pytest.raises(UserError, match="no residuals to plot"):
        plots.plot_residuals(LOG[:2])


@pytest.mark.parametrize(
    "shape", [(), (4,), (4, 7), (4, 3, 5), (4, 3, 5, 1), (4, 3, 5, 2), (4, 3, 5, 3), (4, 3, 5, 6),
              (4, 2, 3, 5, 2)],
)  # fmt: skip
def test_no_shape_of_an_input_costs_the_picture(shape):
    sample = np.ones(shape, np.uint8)
    assert charts(plots.plot_raster({"n": {"a": np.eye(4)}}, image=sample))
    assert raster.as_image(sample).ndim in (2, 3)
    if shape:
        assert charts(plots.plot_raster({"n": {"a": np.eye(4)}}, events=sample))


def test_a_large_layer_is_thinned_evenly_in_a_raster():
    chosen = raster._chosen([np.arange(2 * 999).reshape(2, 999)])
    assert len(chosen) == raster.MAX_RASTER
    assert chosen[0] == 0 and chosen[-1] == 998


def test_neurons_that_fired_in_one_network_are_drawn_though_they_are_few():
    dense, small = np.zeros((3, 1000)), np.zeros((2, 1000))
    dense[1, 353] = small[1, 999] = 1
    chosen = raster._chosen([dense, small])
    assert len(chosen) == raster.MAX_RASTER and {353, 999} <= set(chosen)
    assert (np.diff(chosen) > 0).all()  # in their order


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
