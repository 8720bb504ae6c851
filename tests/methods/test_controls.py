"""Controls of the same bytes: their files fit, and no wider ANN does."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxsnn import data, models, train
from jaxsnn.errors import UserError
from jaxsnn.inputs import Inputs
from jaxsnn.methods import controls
from jaxsnn.methods.result import Trainer
from jaxsnn.models import variants


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", limit=60)


@pytest.fixture(scope="module")
def net(digits):
    return models.build("16C3-AP4-32-10", digits.shape, norm=True, readout="current")


@pytest.fixture
def anns(digits, net):
    trainer = Trainer(train.fit, digits, 30, 0)
    return controls.SmallAnns(trainer, net, train.Task(digits.inputs(timesteps=2)), 0.01)


@pytest.mark.parametrize(("bits", "numbers"), [(32, 1), (8, 2)])
@pytest.mark.long
def test_the_widths_are_the_largest_that_fit(net, digits, bits, numbers):
    def weight_bytes(widths):
        a, b = widths.values()
        return (9 * a + 4 * a * b + 10 * b) * bits // 8 + 4 * numbers * (a + b + 10)

    found = controls.widths_within(net, digits.inputs(timesteps=1), 3000, bits)
    wider = {"conv1": 16 * (found["dense1"] + 1) // 32, "dense1": found["dense1"] + 1}
    assert weight_bytes(found) <= 3000 < weight_bytes(wider)
    assert controls.widths_within(net, digits.inputs(timesteps=1), 50, bits) is None


@pytest.mark.parametrize("num_bytes", [900, 2000, 7000])
def test_widths_are_the_widest_of_networks_that_are_made(num_bytes):
    inputs = Inputs((12, 12, 2), timesteps=1)
    net = models.build("6C3-AP2-9C3V-MP2-12-7", (12, 12, 2), readout="current")
    found = controls.widths_within(net, inputs, num_bytes, 32)

    def bytes_of(part):
        widths = {"conv1": 6 * part // 12, "conv2": 9 * part // 12, "dense1": part}
        small = variants.resized(net, {k: max(v, 1) for k, v in widths.items()}, inputs)
        kernels = [leaf for leaf in jax.tree.leaves(small.params) if leaf.ndim > 1]
        return 4 * sum(leaf.size + leaf.shape[-1] for leaf in kernels)

    part = found["dense1"]
    assert bytes_of(part) <= num_bytes and (part == 12 or bytes_of(part + 1) > num_bytes)


@pytest.mark.slow  # trains two networks
def test_a_small_ann_takes_no_more_bytes_than_it_may(anns, digits):
    found = anns.of(4000, epochs=1)
    assert list(found) == ["small ANN", "small int8 ANN"]
    widths = []
    for each in found.values():
        assert 3000 < controls.file_bytes(each.network, each.task.inputs, "digits") <= 4000
        assert each.task.inputs.timesteps == 1 and not each.network.has_norms
        assert train.evaluate(each.task, each.network, digits.test).accuracy > 0.05
        widths.append(each.network.params["dense1"]["kernel"].shape[-1])
    assert widths[1] > 1.5 * widths[0]
    grid = found["small int8 ANN"].network.quantized["dense1/kernel"]
    assert np.abs(np.asarray(grid.codes)).max() <= 127
    assert anns.of(60, epochs=1) == {}


def test_recordings_and_networks_without_other_widths_are_refused(anns, digits):
    frames = train.Task(Inputs((8, 8, 1), 2, "events"))
    with pytest.raises(UserError, match="same_bytes trains ANNs"):
        replace(anns, task=frames).check()
    block = models.build("4C3-4B3-AP2-10", digits.shape, readout="current")
    with pytest.raises(UserError, match="cannot get another width"):
        replace(anns, net=block).check()
