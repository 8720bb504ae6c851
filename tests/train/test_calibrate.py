"""Calibration against the same batches run one by one, and what it refuses."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import Network, encode, models
from jaxsnn.compress.singular import singular_scores
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.inputs import Inputs
from jaxsnn.layers import Activity
from jaxsnn.network import Output
from jaxsnn.neurons import LIF
from jaxsnn.train import Task, calibrate

IMAGES = np.random.default_rng(0).integers(0, 256, (50, 6, 6, 1), dtype=np.uint8)
NUMBERED = np.arange(50, dtype=np.uint8)[:, None, None]
T = 3


# --- A network that shows what it was given -------------------------------------------------------


def show(params, stats, x, *, train=False):
    """Read out the inputs, as they came, scaled by a parameter."""
    return Output(x * params["scale"], {"trained": jnp.float32(train)}, Activity(timesteps=1))


@jax.tree_util.register_static
@dataclass(frozen=True)
class Noted(Task):
    """Gives image numbers, and behind the point a random number and whether it trains."""

    def prepare(self, key, samples, train):
        numbers = samples.astype(jnp.float32)
        return (numbers + 0.5 * jax.random.uniform(key, ()) + 100 * train)[:, 0][None]


TASK = Noted(Inputs((1,), 1, "events"))


def inputs(output):
    return output.readout[0, :, 0]


def shown(scale=1.0):
    return Network.wrap({"scale": jnp.float32(scale)}, show, {"trained": jnp.float32(0)})


def calibration(images=NUMBERED, statistic=inputs, scale=1.0, **options):
    options = {"batches": 3, "batch_size": 10} | options
    return calibrate.over_batches(TASK, shown(scale), images, statistic, **options)


def test_batches_are_shuffled_images_none_twice_prepared_as_in_training():
    found = calibration().batches
    assert found.shape == (3, 10) and (found >= 100).all()
    numbers = np.floor(found).astype(int) - 100
    assert len(set(numbers.ravel())) == 30 and set(numbers.ravel()) <= set(range(50))
    assert (np.diff(numbers.ravel()) < 0).any()
    draws = found - np.floor(found)
    np.testing.assert_allclose(draws, np.broadcast_to(draws[:, :1], (3, 10)), atol=1e-4)
    assert len(set(np.round(np.asarray(draws)[:, 0], 3))) == 3


@pytest.mark.long
def test_the_mean_is_over_batches_and_the_seed_decides_them():
    found, again, other = calibration(), calibration(), calibration(seed=1)
    np.testing.assert_allclose(found.mean, found.batches.mean(0), rtol=1e-6)
    np.testing.assert_array_equal(found.batches, again.batches)
    assert (found.batches != other.batches).any()


def test_the_network_runs_in_evaluation_mode():
    def trained(output):
        return jnp.float32(output.stats["trained"])

    assert calibration(statistic=trained).mean == 0


def test_too_few_images_are_one_clear_line():
    message = "calibration on 3 batches of 10 needs 30 images, but the set has {}: ask for fewer"
    with pytest.raises(UserError, match=message.format(29)):
        calibration(NUMBERED[:29])
    with pytest.raises(UserError, match=message.format(2)):
        calibration(NUMBERED[:2])
    with pytest.raises(UserError, match=r"batches must be in \[1, inf\], found 0"):
        calibration(batches=0)


def test_what_is_not_finite_is_named():
    with pytest.raises(UserError, match="the parameter 'scale' is not finite"):
        calibration(scale=np.nan)
    with pytest.raises(UserError, match="the statistic 'conv1' is not finite"):
        calibration(statistic=lambda output: {"conv1": output.readout.sum() / 0})


def each_batch(images=NUMBERED, statistic=lambda params, output: inputs(output), **options):
    options = {"batches": 3, "batch_size": 10} | options
    return calibrate.each_batch(TASK, shown(), images, statistic, **options)


def test_samples_come_batch_by_batch_prepared_as_in_evaluation_from_one_program():
    traced = []

    def statistic(params, output):
        traced.append(output)
        return {"twice": 2 * params["scale"] * inputs(output)}

    found = [batch["twice"] / 2 for batch in each_batch(statistic=statistic)]
    assert len(traced) == 1 and [type(batch) for batch in found] == 3 * [np.ndarray]
    rows = np.floor(calibration().batches).astype(int) - 100  # the same images, not "trained" on
    np.testing.assert_array_equal(np.floor(found).astype(int), rows)
    assert len({round(float(batch[0] % 1), 3) for batch in found}) == 3


def test_samples_are_refused_as_statistics_are():
    with pytest.raises(UserError, match="calibration on 6 batches of 10 needs 60 images"):
        next(each_batch(batches=6))
    with pytest.raises(UserError, match="devices = 3 does not divide|there are"):
        next(each_batch(devices=3))


# --- A convolutional network with norms -----------------------------------------------------------


@pytest.mark.long
def test_scores_of_a_network_are_those_of_its_batches_alone_on_one_device_or_two():
    net = models.build("4C3-MP2-3", (6, 6, 1), LIF(0.5, 0.5), norm=True, seed=0)
    norm = {"mean": jnp.full(4, 0.1), "var": jnp.full(4, 0.2)}
    net = net.replace(stats={**net.stats, "conv1": {**net.stats["conv1"], "norm": norm}})
    task, options = Task(Inputs((6, 6, 1), T)), {"batches": 2, "batch_size": 8}

    def statistic(output):
        spikes = output.activity.spikes["conv1"], output.activity.pooled["pool1"]
        return {"own": singular_scores(spikes[0], T), "pooled": singular_scores(spikes[1], T)}

    one = calibrate.over_batches(task, net, IMAGES, statistic, **options)
    rows, _ = calibrate.choose(len(IMAGES), *options.values(), 0)
    alone = jax.jit(lambda x: statistic(net(x)))
    for i, chosen in enumerate(rows):
        x = encode.direct(jnp.asarray(IMAGES[chosen], jnp.float32) / 255, T)
        assert isinstance(x, Signal)
        for name, scores in alone(x).items():
            np.testing.assert_allclose(one.batches[name][i], scores, rtol=1e-6)
            assert 0 < scores.max() <= (6 if name == "own" else 3)
    two = calibrate.over_batches(task, net, IMAGES, statistic, devices=2, **options)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), one, two)
