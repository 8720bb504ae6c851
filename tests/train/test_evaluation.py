"""Running over a data set: every sample counts once, however it is cut into batches."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import losses, models, train
from jaxsnn.data import Split
from jaxsnn.inputs import Inputs
from jaxsnn.neurons import LIF
from jaxsnn.train import evaluation

SIZE, TIMESTEPS = 83, 3


@pytest.fixture(scope="module")
def split():
    """Return frames of events, 4 x 4 pixels, of four classes."""
    draw = np.random.default_rng(0)
    frames = draw.integers(0, 4, (SIZE, TIMESTEPS, 4, 4, 1), dtype=np.uint8)
    return Split(frames, draw.integers(0, 4, SIZE).astype(np.int32))


@pytest.fixture(scope="module")
def exact():
    """Return a task whose sums are exact in float32, in whatever order they are taken."""
    net = models.build("8-4", (4, 4, 1), LIF(0.5, 0.5), seed=3)
    params = jax.tree.map(lambda leaf: jnp.round(leaf * 32) / 16, net.params)
    return train.Task(Inputs((4, 4, 1), TIMESTEPS, "events")), net.replace(params=params)


@pytest.fixture(scope="module")
def whole(exact, split):
    """Return the output for all samples at once."""
    task, net = exact
    return net(task.prepare(jax.random.key(0), jnp.asarray(split.images), False))


@pytest.mark.long
@pytest.mark.parametrize("batch_size", [29, 100])
def test_an_evaluation_counts_every_sample_once(exact, whole, split, batch_size):
    found = train.evaluate(*exact, split, batch_size=batch_size)
    readout = np.asarray(whole.readout)
    for t in range(TIMESTEPS):
        right = readout[: t + 1].mean(0).argmax(-1) == split.labels
        assert found.accuracy_over_time[t] == np.float32(right.sum()) / np.float32(SIZE)
    assert found.accuracy == found.accuracy_over_time[-1]
    assert 0 < found.accuracy < 1
    expected = np.zeros_like(found.confusion)
    np.add.at(expected, (split.labels, readout.mean(0).argmax(-1)), 1)
    np.testing.assert_array_equal(found.confusion, expected)
    assert found.counts.num_samples == SIZE and found.counts.timesteps == TIMESTEPS
    for name, spikes in whole.activity.spikes.items():
        np.testing.assert_array_equal(found.counts.spikes[name], spikes.sum(0))
    spikes_in = found.counts.events["dense2/kernel"]
    np.testing.assert_array_equal(spikes_in, whole.activity.events["dense2/kernel"].sum(0))
    assert spikes_in.sum() > 0


@pytest.mark.long
def test_the_loss_of_an_evaluation_is_the_mean_over_samples(exact, whole, split):
    part = Split(split.images[:58], split.labels[:58])
    expected = losses.mean_squared_error(whole.readout[:, :58], jnp.asarray(part.labels))
    found = train.evaluate(*exact, part, batch_size=29)
    assert found.loss == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.long
def test_tasks_that_differ_in_training_share_a_program_and_keep_their_losses(exact, split):
    task, net = exact
    plain = train.evaluate(task, net, split)
    known = evaluation._evaluate._cache_size()
    other = replace(task, spike_weight=0.5, remat=1, micro_batches=1)
    quieter = train.evaluate(other, net, split)
    assert evaluation._evaluate._cache_size() == known
    fired = sum(float(counts.sum()) for counts in plain.counts.spikes.values())
    neurons = sum(counts.size for counts in plain.counts.spikes.values())
    assert quieter.loss > plain.loss + 0.4 * fired / (neurons * SIZE * TIMESTEPS) > plain.loss
    assert quieter.accuracy == plain.accuracy


def test_scores_are_the_mean_of_the_read_out_over_time(exact, whole, split):
    scores = train.predict(*exact, split.images, batch_size=29)
    np.testing.assert_array_equal(scores, whole.readout.mean(0))


def test_inside_a_compiled_program_it_measures_the_same(exact, split):
    task, net = exact
    device = jnp.asarray(split.images), jnp.asarray(split.labels)
    traced = evaluation.evaluate_traced
    measure = jax.jit(lambda net, split: traced(task, net, split, batch_size=29))
    over_time, loss, counts = measure(net, device)
    found = train.evaluate(task, net, split, batch_size=29)
    np.testing.assert_array_equal(over_time, found.accuracy_over_time)
    assert float(loss) == found.loss
    jax.tree.map(np.testing.assert_array_equal, counts, found.counts)


@pytest.mark.long
def test_an_evaluation_with_random_input_depends_on_its_seed_alone(split):
    images = split.images[:, 0] * 60
    net = models.build("8-4", (4, 4, 1), LIF(0.5, 0.3), seed=0)
    task = train.Task(Inputs((4, 4, 1), TIMESTEPS, "bernoulli"))
    first, same, other = (
        train.evaluate(task, net, Split(images, split.labels), batch_size=29, seed=seed)
        for seed in (1, 1, 2)
    )
    jax.tree.map(np.testing.assert_array_equal, first.counts, same.counts)
    assert np.any(first.counts.spikes["dense1"] != other.counts.spikes["dense1"])
