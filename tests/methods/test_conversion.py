"""Hybrid training: which networks it takes, in which unit scores come out, what it refuses."""

from dataclasses import replace

import jax
import numpy as np
import optax
import pytest

from jaxsnn import data, models, train
from jaxsnn.encode import direct
from jaxsnn.errors import UserError
from jaxsnn.methods import conversion
from jaxsnn.methods.result import Trainer
from jaxsnn.options import replaced

CONVERTED = dict(models.CONVERTED)
SHORT = conversion.Options(
    ann_epochs=0, tune_epochs=0, batch_size=50, order="integrate_then_fire", scores="ann",
    calibration_images=40, calibration_timesteps=5, quantile=0.99, threshold_scale=0.7,
)  # fmt: skip


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", limit=100)


@pytest.fixture(scope="module")
def task(digits):
    return train.Task(digits.inputs(5, "poisson"), loss="ce")


@pytest.fixture(scope="module")
def net(digits):
    net = models.build("AP2-8-10", digits.shape, activation="relu", seed=3, **CONVERTED)
    return net.replace(params=models.he_start(jax.random.key(0), net.params))


def trainer(digits):
    return Trainer(train.fit, digits, 50, 0)


@pytest.fixture(scope="module")
def found(digits, task, net):
    return conversion.hybrid("test", net, task, trainer(digits), SHORT)


@pytest.mark.long
def test_without_epochs_the_weights_given_are_converted_as_they_are(net, found):
    jax.tree.map(np.testing.assert_array_equal, found.ann.params, net.params)
    kernels = [x.params["dense1"]["kernel"] for x in (found.converted, net)]
    np.testing.assert_array_equal(*kernels)
    threshold = found.converted.stats["dense1"]["neurons"]["threshold"]
    assert threshold == pytest.approx(0.7 * found.thresholds["dense1"])
    jax.tree.map(np.testing.assert_array_equal, found.spiking.params, found.converted.params)


@pytest.mark.long
def test_the_scores_come_out_in_the_unit_of_the_ann(digits, net, found):
    unit = 0.7 * found.thresholds["dense1"]
    kernels = [x.params["dense2"]["kernel"] for x in (found.converted, net)]
    np.testing.assert_allclose(kernels[0], unit * kernels[1], rtol=1e-6)
    values = digits.test.images[:50] / 255.0
    scores = found.converted(direct(values, 200)).readout.mean(0)
    exact = net(direct(values, 1)).readout[0]
    slope = np.vdot(scores, exact) / np.vdot(exact, exact)
    assert slope == pytest.approx(1, abs=0.1)  # thresholds clip the largest activations


@pytest.mark.long
def test_the_scale_that_is_right_most_often_on_held_out_images_is_taken(digits, task, net):
    still = replace(task, inputs=digits.inputs(5))
    one, thresholds, scales = conversion.take_over(net, still, trainer(digits), SHORT)
    assert scales == [{"scale": 0.7, "accuracy": None, "taken": True}]
    images = digits.validation.images
    labels = np.asarray(train.predict(still, one, images).argmax(-1), np.int32)
    known = replace(digits, validation=data.Split(images, labels))  # 0.7 is always right
    chosen = replaced(SHORT, threshold_scale=1e4, threshold_scales=(0.7, 2e4))  # nothing fires
    best, again, scales = conversion.take_over(net, still, trainer(known), chosen)
    jax.tree.map(np.testing.assert_array_equal, best, one)
    assert again == thresholds
    assert [(x["scale"], x["taken"]) for x in scales] == [(1e4, False), (0.7, True), (2e4, False)]
    assert scales[1]["accuracy"] == 1 > scales[0]["accuracy"] == scales[2]["accuracy"]


@pytest.mark.long
def test_a_spiking_network_is_taken_as_the_layout_of_its_ann(digits, task, net, found):
    spiking = models.build("AP2-8-10", digits.shape, **CONVERTED).replace(params=net.params)
    again = conversion.hybrid("test", spiking, task, trainer(digits), SHORT)
    assert again.converted.program == found.converted.program
    jax.tree.map(np.testing.assert_array_equal, again.converted, found.converted)


def test_the_task_of_the_ann_shows_the_values_once(task):
    still = conversion.ann_task(replace(task, remat=5, spike_weight=0.5))
    assert (still.inputs.timesteps, still.inputs.encoding) == (1, "direct")
    assert (still.remat, still.spike_weight, still.loss) == (None, 0.0, "ce")


def test_step_sizes_fall_as_published_or_along_a_cosine(digits):
    steps = len(digits.train.labels) // 50
    chosen = conversion.Options(schedule="steps")
    rate = conversion.falling(trainer(digits), chosen, 1.0, 10, (0.6, 0.8, 0.9), 0.2)
    found = [float(rate(epoch * steps)) for epoch in (0, 5, 6, 8, 9)]
    np.testing.assert_allclose(found, [1, 1, 0.2, 0.04, 0.008], rtol=1e-5)
    chosen = conversion.Options(schedule="cosine")
    cosine = conversion.falling(trainer(digits), chosen, 1.0, 10, (), 1.0)
    assert float(cosine(5 * steps)) == pytest.approx(0.5)


@pytest.mark.long
def test_an_injected_fit_trains_both_phases(digits, task, net):
    phases = []

    def fit(task, phase, net, split, *, name, epochs, **options):
        assert isinstance(phase, optax.GradientTransformation)
        phases.append((name, epochs, task.inputs.timesteps))
        return net

    chosen = replaced(SHORT, ann_epochs=2, tune_epochs=3)
    result = conversion.compress(net, task, digits, chosen, fit=fit)
    assert phases == [
        ("conversion ann", 2, 1), ("conversion tune", 3, 5), ("dense control", 3, 1)
    ]  # fmt: skip
    names = ["ann", "dense control", "converted", "spiking"]
    assert [row.name for row in result.report.rows] == names
    assert list(result.found["thresholds"]) == ["dense1"]
    # With epochs the ANN starts from He's values.
    start = models.he_start(jax.random.fold_in(jax.random.key(0), 1), net.params)
    jax.tree.map(np.testing.assert_array_equal, result.networks["ann"].network.params, start)


def test_what_cannot_be_converted_is_refused_at_the_door(digits, task):
    def refused(layout, message, chosen=SHORT, to=task, **options):
        net = models.build(layout, digits.shape, **CONVERTED | options)
        with pytest.raises(UserError, match=message):
            conversion.check(net, to, chosen, digits)

    refused("8-10", "layer 'dense1' has a bias, which does not survive", use_bias=True)
    refused("4C3-10", "layer 'conv1' has a norm", norm=True)
    refused("8R-10", "layer 'dense1' has recurrent weights")
    refused("8-10", "layer 'dense2' fires, but is read out", readout="spikes")
    inputs = digits.inputs(5, "bernoulli")
    refused("8-10", "'bernoulli' does not suit a conversion", to=replace(task, inputs=inputs))
    many = replaced(SHORT, calibration_images=999)
    refused("8-10", "calibration_images 999 is more than the 90 training images", many)
    late = replaced(SHORT, order="fire_then_integrate", calibration_timesteps=1)
    refused("8-10", "layer 'dense1' cannot spike within 1 timesteps", late)
    refused("8-10", "remat 3 does not divide 5 timesteps", to=replace(task, remat=3))
