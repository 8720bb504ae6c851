"""However a batch is cut, over devices or micro-batches, the numbers stay."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsnn import models, train
from jaxsnn.compress.phase import as_phase
from jaxsnn.data import Split
from jaxsnn.errors import UserError
from jaxsnn.inputs import Inputs
from jaxsnn.neurons import LIF
from jaxsnn.train import loop, parallel

BATCH, TIMESTEPS = 8, 3
KEY, SGD, ADAM = jax.random.key(3), optax.sgd(0.5), optax.adam(1e-2)


@pytest.fixture(scope="module")
def split():
    """Return 21 images, so that the last of three batches is filled up."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (21, 6, 6, 1), dtype=np.uint8)
    return Split(images, draw.integers(0, 4, 21).astype(np.int32))


def task_of(*, layout="3C3-AP2-D0.5-6-4", direct=False, norm=False, **how):
    """Return a network that convolves, pools and drops out, and its task; rates enter the loss."""
    net = models.build(layout, (6, 6, 1), LIF(0.5, 0.3), norm=norm, seed=0)
    inputs = Inputs((6, 6, 1), TIMESTEPS, "direct" if direct else "bernoulli")
    return net, train.Task(inputs, spike_weight=0.1, **how)


def two_steps(split, **how):
    """Return the network and the sums after two training steps."""
    net, task = task_of(**how)
    state = loop.init(net, as_phase(SGD), KEY)
    sums = loop.no_sums()
    device = tuple(map(jnp.asarray, split))
    state, sums = loop.run_steps(task, SGD, BATCH, state, sums, device, jnp.int32(2))
    return jax.tree.map(np.asarray, (state.net, sums._asdict()))


CUTS = [{"devices": 2}, {"micro_batches": 4}, {"devices": 2, "micro_batches": 2}]


@pytest.mark.long
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("direct", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_cut_batch_trains_as_the_whole_one(split, direct, cut):
    whole, parts = (two_steps(split, direct=direct, **how) for how in ({}, cut))
    start = task_of()[0].params["dense1"]["kernel"]
    assert np.abs(whole[0].params["dense1"]["kernel"] - start).max() > 1e-3
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), parts, whole)


@pytest.mark.long
def test_batch_normalisation_averages_over_all_devices(split):
    whole, parts = (two_steps(split, norm=True, **how) for how in ({}, {"devices": 2}))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), parts, whole)


@pytest.mark.long
def test_devices_and_chunks_of_time_go_together(split):
    whole = two_steps(split, layout="6-4")
    parts = two_steps(split, layout="6-4", devices=2, remat=1)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), parts, whole)


@pytest.fixture(scope="module")
def fit(split):
    """Return fit(epochs, devices, checkpoints), from one start."""

    def run(epochs, devices, checkpoints=None):
        net, task = task_of(devices=devices)
        return train.fit(
            task, ADAM, net, split,
            epochs=epochs, batch_size=BATCH, checkpoints=checkpoints, show=False,
        )  # fmt: skip

    return run


@pytest.mark.long
def test_what_two_devices_trained_lies_on_one_and_can_be_resumed(fit, tmp_path):
    whole = fit(2, 2)
    assert all(leaf.devices() == {jax.devices()[0]} for leaf in jax.tree.leaves(whole))
    for epochs in (1, 2):
        checkpoints = train.Checkpoints(tmp_path / "run")
        resumed = fit(epochs, 2, checkpoints)
        checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)


@pytest.mark.long
@pytest.mark.parametrize("devices", [1, 2])
def test_evaluation_counts_every_sample_once_on_any_number_of_devices(split, devices):
    net, task = task_of(direct=True, devices=devices)
    found = train.evaluate(task, net, split, batch_size=BATCH)
    x = task.prepare(KEY, jnp.asarray(split.images), False)
    output = net(x)
    right = (output.readout.mean(0).argmax(-1) == split.labels).mean()
    assert found.accuracy == pytest.approx(right) and found.counts.num_samples == 21
    for name, spikes in output.activity.spikes.items():
        np.testing.assert_array_equal(found.counts.spikes[name], spikes.sum(0))
    scores = train.predict(task, net, split.images, batch_size=BATCH)
    np.testing.assert_allclose(scores, output.readout.mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "how, words",
    [
        ({"devices": 4}, "devices = 4, but there are 2 here"),
        ({"micro_batches": 3}, "micro_batches = 3 does not divide the 8 samples of a batch"),
        ({"micro_batches": 2, "norm": True}, "micro_batches would normalise each part"),
    ],
)
def test_what_does_not_fit_is_said(split, how, words):
    with pytest.raises(UserError, match=words):
        two_steps(split, **how)


def test_devices_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(UserError, match="devices = 2 does not divide the 7 samples of a batch"):
        parallel.over_devices(lambda _, x, y: y, 2, None, jnp.ones((3, 7, 2)), jnp.ones(7))


def test_the_most_devices_divide_the_batch_and_are_there():
    assert [parallel.most_devices(batch) for batch in (1, 2, 7, 64)] == [1, 2, 1, 2]
    assert parallel.most_devices(64, most=1) == 1
