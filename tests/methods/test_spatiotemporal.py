"""Spatio-temporal pruning: the widths taken, the stages of time, the bits, the noise."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import data, models, train
from jaxsnn.compress import symmetric_uniform
from jaxsnn.compress.principal import Moments
from jaxsnn.errors import UserError
from jaxsnn.methods import conversion, hybrids, measuring, spatiotemporal
from jaxsnn.methods.result import Trained, Trainer
from jaxsnn.models.variants import spiking_of
from jaxsnn.options import replaced

pytestmark = pytest.mark.long

HYBRID = conversion.Options(
    batch_size=50, order="integrate_then_fire", calibration_images=40, calibration_timesteps=4
)
OPTIONS = spatiotemporal.Options(
    variances=(0.95, 0.5), size=0.5, pca_images=50, rows_per_channel=1.0, fewer=(3, 2),
    fewer_epochs=0, tolerance=1.0, draws=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", limit=100)


@pytest.fixture(scope="module")
def start(digits):
    ann = models.build("4C3-AP4-10", digits.shape, activation="relu", **dict(models.CONVERTED))
    ann = ann.replace(params=models.he_start(jax.random.key(0), ann.params))
    net = spiking_of(ann, conversion.neuron(HYBRID))
    return Trained(net, train.Task(digits.inputs(4, "poisson"), loss="ce"))


def trainer(digits):
    return Trainer(train.fit, digits, 50, 0)


def moments_of(variances):
    scatter = np.diag(np.asarray(variances, np.float64))
    return Moments(1000, np.zeros(len(variances)), 1000 * scatter)


def test_the_widths_nearest_to_the_size_asked_for_are_taken(start):
    inputs, found = start.task.inputs, {"conv1": moments_of([60, 30, 8, 2])}
    chosen = replaced(OPTIONS, size=0.7)
    thin, facts = spatiotemporal.narrow(start.network, inputs, found, chosen, seed=0)
    assert [each["widths"] for each in facts["widths"]] == [{"conv1": 3}, {"conv1": 1}]
    assert [each["share"] for each in facts["widths"]] == [0.75, 0.25]
    assert [each["taken"] for each in facts["widths"]] == [True, False]
    assert thin.params["conv1"]["kernel"].shape == (3, 3, 1, 3)
    assert facts["explained"] == {"conv1": [0.6, 0.9, 0.98, 1.0]}
    small = replaced(OPTIONS, size=0.2)
    thin, facts = spatiotemporal.narrow(start.network, inputs, found, small)
    assert thin.params["dense1"]["kernel"].shape == (4, 10)


def test_the_moments_are_those_of_the_drive_of_each_convolution(digits, start):
    images = digits.train.images
    found = spatiotemporal.moments(start.network, start.task, images, OPTIONS)
    assert list(found) == ["conv1"] and found["conv1"].rows == 50 * 64
    still = replace(start.task, inputs=replace(start.task.inputs, encoding="direct"))
    exact = spatiotemporal.moments(start.network, still, images, OPTIONS)
    # The mean over random spikes comes near to that of the values.
    np.testing.assert_allclose(found["conv1"].mean, exact["conv1"].mean, atol=0.1)
    few = replaced(OPTIONS, rows_per_channel=1000.0)
    with pytest.raises(UserError, match="layer 'conv1': 4 channels need 4000 rows"):
        spatiotemporal.narrow(start.network, start.task.inputs, found, few)


def test_no_epochs_leave_the_weights_alone_at_every_number_of_steps(digits, start):
    short, stages, at = spatiotemporal.shorten(start, trainer(digits), OPTIONS, HYBRID)
    assert short.task.inputs.timesteps == 2 and list(at) == [4, 3, 2] and at[2] is short
    assert [stage.timesteps for stage in stages] == [4, 3, 2]
    jax.tree.map(np.testing.assert_array_equal, short.network.params, start.network.params)


@pytest.mark.parametrize("every", [True, False])
def test_each_number_of_steps_has_a_control_of_as_many_epochs(digits, start, every):
    trained = []

    def fit(task, phase, net, split, *, name, epochs, **options):
        trained.append((name, task.inputs.timesteps, epochs))
        return net

    at = {steps: Trained(start.network, start.task.at(steps)) for steps in (4, 3, 2, 1)}
    options = replaced(HYBRID, tune_epochs=5)
    found = hybrids.controls(
        start.network, at, 2, Trainer(fit, digits, 50, 0), options, epochs=3, every=every
    )
    expected = [("direct 3", 3, 5 + 3), ("direct 2", 2, 5 + 6), ("direct 1", 1, 5 + 9)]
    assert trained == (expected if every else expected[1:2])
    assert [each.timesteps for each in found] == ([3, 1, 2] if every else [2])
    assert found[-1].names == ("short", "direct") and found[-1].direct.task == at[2].task


def test_without_epochs_the_product_is_the_rounded_network(digits, start):
    product = spatiotemporal.quantize(start, trainer(digits), OPTIONS, HYBRID)
    rounded = jax.tree.map(symmetric_uniform(5), start.network.params)
    jax.tree.map(np.testing.assert_array_equal, product.network.params, rounded)
    assert set(product.network.quantized) == {"conv1/kernel", "dense1/kernel"}
    whole = measuring.whole_numbers(product, digits.test)
    assert whole["largest"] == pytest.approx(15) and whole["off_whole"] < 1e-5


def test_noise_of_zero_is_the_clean_accuracy_and_much_noise_costs(digits, start):
    still = Trained(start.network, replace(start.task, inputs=digits.inputs(4, scale="half")))
    images = digits.test.images[:100]
    labels = np.asarray(train.predict(still.task, still.network, images).argmax(-1), np.int32)
    split = data.Split(images, labels)  # so that the network is always right
    found = measuring.noise_sweep(still, split, (0.0, 100.0), seeds=2)
    assert found.shape == (2, 2) and np.all(found[:, 0] == 1.0) and np.all(found[:, 1] < 1.0)


def test_noise_is_in_units_of_the_normalised_image(digits):
    seen = digits.inputs(1, scale="half")
    pixels = jnp.asarray(digits.test.images[:2], jnp.float32)
    shifted = seen.normalise(pixels + 255.0 * 0.5 * 0.25)
    np.testing.assert_allclose(shifted - seen.normalise(pixels), 0.25, atol=1e-5)


def test_a_spiking_network_of_one_step_is_no_ann(digits, start):
    one = Trained(start.network, start.task.at(1))
    row = measuring.measured({"dense": one}, digits, 1, seed=0)["dense"]
    assert row.timesteps == 1 and row.spike_rate is not None and row.extra["rate_operations"] > 0


def test_what_cannot_be_pruned_is_refused_at_the_door(digits, start):
    def refused(message, net=start.network, chosen=OPTIONS, hybrid=HYBRID):
        with pytest.raises(UserError, match=message):
            spatiotemporal.check(net, start.task, digits, chosen, hybrid)

    options = dict(models.CONVERTED)
    refused("no convolution to make narrow", models.build("20-10", digits.shape, **options))
    refused(
        "layer 'block1', a Residual, cannot get another width",
        models.build("4C3-4B3-10", digits.shape, **options),
    )
    refused("must fall, found 5 after 4", chosen=replaced(OPTIONS, fewer=(5,)))
    refused("pca_images 999 is more than the 90", chosen=replaced(OPTIONS, pca_images=999))
    refused("narrow_ann_epochs is needed", hybrid=replaced(HYBRID, ann_epochs=0))
    late = replaced(HYBRID, order="fire_then_integrate")
    refused("cannot spike within 1", chosen=replaced(OPTIONS, fewer=(1,)), hybrid=late)
    with pytest.raises(UserError, match="bit_widths needs at least one value"):
        spatiotemporal.Options(bit_widths=())
    with pytest.raises(UserError, match="variances must be in"):
        spatiotemporal.Options(variances=(1.5,))
