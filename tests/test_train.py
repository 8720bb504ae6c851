"""The compiled engine against plain loops, against itself interrupted, and when it breaks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxsnn import encode, losses, models, train
from jaxsnn import network as functional
from jaxsnn.compress import grids, masks, projections, transforms
from jaxsnn.data import Split
from jaxsnn.errors import UserError
from jaxsnn.layers import Activity
from jaxsnn.network import Output
from jaxsnn.neurons import LIF
from jaxsnn.train import progress
from jaxsnn.train.checkpoint import Checkpoints

SIZE, BATCH, TIMESTEPS = 203, 32, 3
STEPS = SIZE // BATCH  # 6, and 11 samples wait for the next shuffling
KEY = jax.random.key(7)


@pytest.fixture(scope="module")
def split():
    """Return images 4 x 4 of four classes, each with one bright row."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 4, SIZE).astype(np.int32)
    images = draw.integers(0, 120, (SIZE, 4, 4, 1), dtype=np.uint8)
    images[np.arange(SIZE), labels] += 130
    return Split(images, labels)


@pytest.fixture(scope="module")
def problem(split):
    """Return a net with norms, its task with random spikes, and an optimizer with every state."""
    net = functional.split(models.build("8-4", (4, 4, 1), LIF(0.5, 0.3), norm=True,
                                        rngs=nnx.Rngs(0)))  # fmt: skip

    def prepare(key, images, training):
        del training
        return encode.bernoulli(key, images.astype(jnp.float32) / 255, TIMESTEPS)

    def loss(output, labels):
        return losses.mean_squared_error(output.readout, labels)

    kept = masks.keep_fraction({"dense1/kernel": 0.5}, net.params)
    optimizer = optax.chain(
        transforms.pull({"dense1/kernel": projections.keep_largest(0.7)}, 1e-2, every=4),
        transforms.latent(optax.adam(1e-2), {"dense2/kernel": grids.ternary_grid()}),
        transforms.confine(kept),
    )
    params = projections.project({"dense1/kernel": projections.on_mask(kept["dense1"]["kernel"])},
                                 net.params)  # fmt: skip
    return net._replace(params=params), train.Task(net.apply, prepare, loss), optimizer, kept


@pytest.fixture(scope="module")
def fit(problem, split):
    """Return fit(epochs, ...), each time from the same start."""
    net, task, optimizer, _ = problem
    start = train.init(net.params, net.stats, optimizer, KEY)

    def run(epochs, **options):
        options = {"batch_size": BATCH, "show": False} | options
        return train.fit(task, optimizer, start, split, epochs=epochs, **options)

    return run


@pytest.fixture(scope="module")
def uninterrupted(fit):
    return fit(4)


def assert_same_bits(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, leaf), other in zip(
        jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        assert leaf.dtype == other.dtype
        np.testing.assert_array_equal(leaf, other, err_msg=jax.tree_util.keystr(path))


# --- A network that keeps a diary: which sample it saw when ---------------------------------------


def diary_apply(params, stats, x, *, train=False, key=None, remat=None):
    """Note the place in the sequence of each sample; the sample's number is its image."""
    del train, key, remat
    size = x.shape[0]
    when = stats["when"].at[x].set(stats["seen"] + jnp.arange(size))
    stats = {"when": when, "seen": stats["seen"] + size}
    readout = jnp.zeros((1, size, 2)) + params["weight"].reshape(1, 1, 1)
    return Output(readout, stats, Activity({"layer": jnp.zeros((size, 1))}, {}, {}, {}, {}))


def diary_prepare(key, images, training):
    del key, training
    return images[:, 0, 0, 0].astype(jnp.int32)


def first_score(output, labels):
    del labels
    return output.readout[0, 0, 0]


DIARY = train.Task(diary_apply, diary_prepare, first_score)
NUMBERED = Split(np.arange(SIZE, dtype=np.uint8).reshape(-1, 1, 1, 1), np.zeros(SIZE, np.int32))


def diary_start(optimizer, key=KEY):
    stats = {"when": jnp.full(SIZE, -1), "seen": jnp.int32(0)}
    return train.init({"weight": jnp.float32(0)}, stats, optimizer, key)


FREEZE = optax.set_to_zero()


def order_of_epoch(epoch, key=KEY):
    """Return the numbers of the samples in the order in which the epoch sees them."""
    start = diary_start(FREEZE, key)._replace(step=jnp.int32(epoch * STEPS))
    end, _ = train.run_steps(
        DIARY, FREEZE, BATCH, start, train.no_sums(), NUMBERED, jnp.int32((epoch + 1) * STEPS)
    )
    when = np.asarray(end.stats["when"])
    return np.argsort(when)[np.sum(when < 0) :]


# --- An epoch -------------------------------------------------------------------------------------


def test_an_epoch_shuffles_all_samples_and_sees_none_twice():
    order = order_of_epoch(0)
    assert len(set(order.tolist())) == STEPS * BATCH
    assert np.any(np.diff(order) < 0)


def test_the_order_depends_on_the_key_and_the_epoch_alone():
    np.testing.assert_array_equal(order_of_epoch(1), order_of_epoch(1))
    assert np.any(order_of_epoch(0) != order_of_epoch(1))
    assert np.any(order_of_epoch(0) != order_of_epoch(0, jax.random.key(8)))


def test_samples_left_over_come_in_other_epochs():
    assert len({i for epoch in range(4) for i in order_of_epoch(epoch).tolist()}) == SIZE


def test_a_compiled_epoch_is_a_python_loop_over_train_step(problem, split, fit):
    net, task, optimizer, _ = problem
    step = jax.jit(partial(train.train_step, task, optimizer))
    state = train.init(net.params, net.stats, optimizer, KEY)
    order, sums = order_of_epoch(0), []
    for i in range(STEPS):
        rows = order[i * BATCH : (i + 1) * BATCH]
        state, new = step(state, split.images[rows], split.labels[rows])
        sums.append(new)
    log = []
    compiled = fit(1, log=log.append)
    # The loop and the single step are compiled apart, and may round sums differently.
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), compiled, state)
    assert log[0]["loss"] == pytest.approx(np.mean([s.loss for s in sums]), rel=1e-4)
    assert log[0]["accuracy"] == sum(float(s.correct) for s in sums) / (STEPS * BATCH)
    assert log[0]["spike_rate"] == pytest.approx(np.mean([s.spike_rate for s in sums]), rel=1e-4)


@pytest.mark.parametrize("chunk", [1, 4])
def test_the_size_of_a_chunk_does_not_change_a_bit(fit, uninterrupted, monkeypatch, chunk):
    monkeypatch.setattr(train, "CHUNK", chunk)
    monkeypatch.setattr(progress.Silence, "live", True)  # a bar that is looked at
    assert_same_bits(fit(4), uninterrupted)


def test_training_learns(fit, split, problem):
    _, task, _, _ = problem
    log = []
    state = fit(15, log=log.append)
    assert log[-1]["loss"] < 0.7 * log[0]["loss"]
    assert train.evaluate(task, state.params, state.stats, split).accuracy > 0.8


# --- What stays as it was -------------------------------------------------------------------------


def test_the_callers_arrays_survive(problem, split):
    net, task, optimizer, _ = problem
    before = jax.tree.map(np.array, (net.params, net.stats))
    state = train.init(net.params, net.stats, optimizer, KEY)
    copy = jax.tree.map(np.array, state)
    train.fit(task, optimizer, state, split, epochs=1, batch_size=BATCH, show=False)
    assert_same_bits(state, copy)
    device = tuple(jnp.asarray(each) for each in split)
    train.run_steps(task, optimizer, BATCH, state, train.no_sums(), device, jnp.int32(1))
    assert_same_bits((net.params, net.stats), before)


def test_confined_weights_stay_exactly_zero(problem, uninterrupted):
    kernel, kept = uninterrupted.params["dense1"]["kernel"], problem[3]["dense1"]["kernel"]
    assert np.all(np.asarray(kernel)[~np.asarray(kept)] == 0)
    assert np.all(np.asarray(kernel)[np.asarray(kept)] != 0)


def test_norms_learn_their_running_statistics(problem, uninterrupted):
    before, after = problem[0].stats["dense1"]["norm"], uninterrupted.stats["dense1"]["norm"]
    assert np.all(before["mean"] != after["mean"])
    assert np.all(before["var"] != after["var"])


# --- Checkpoints ----------------------------------------------------------------------------------


@pytest.mark.parametrize("done", [1, 3])
def test_a_resumed_training_repeats_the_uninterrupted_one(fit, uninterrupted, tmp_path, done):
    first = Checkpoints(tmp_path)
    fit(done, checkpoints=first)
    first.close()
    log = []
    second = Checkpoints(tmp_path)
    resumed = fit(4, checkpoints=second, log=log.append)
    assert_same_bits(resumed, uninterrupted)
    assert [record["epoch"] for record in log] == list(range(done + 1, 5))
    assert_same_bits(fit(4, checkpoints=second, log=log.append), uninterrupted)
    assert len(log) == 4 - done
    second.close()


def test_a_state_changed_after_each_epoch_is_what_is_logged_saved_and_resumed(tmp_path):
    """The change adds the steps so far to the one weight, which is the loss: 0, 6, 6 + 12, ..."""

    def add_steps(state):
        weight = state.params["weight"] + state.step
        return state._replace(params={"weight": weight})

    def run(epochs, folder, log):
        checkpoints = Checkpoints(folder)
        found = train.fit(
            DIARY, FREEZE, diary_start(FREEZE), NUMBERED, epochs=epochs, batch_size=BATCH,
            checkpoints=checkpoints, log=log.append, after_epoch=add_steps, show=False,
            observe=lambda state: {"weight": float(state.params["weight"])},
        )  # fmt: skip
        checkpoints.close()
        return found

    log: list = []
    whole = run(4, tmp_path / "whole", log)
    assert [(r["loss"], r["weight"]) for r in log] == [(0, 6), (6, 18), (18, 36), (36, 60)]
    run(2, tmp_path / "parts", [])
    assert_same_bits(run(4, tmp_path / "parts", []), whole)


def exploding(step):
    """Return an optimizer whose step number `step`, counted from 0, is infinite."""
    return optax.sgd(lambda count: jnp.where(count == step, jnp.inf, 0.01))


@pytest.mark.parametrize(
    ("step", "what"), [(2 * STEPS + 2, "the loss"), (3 * STEPS - 1, "a weight")]
)
def test_a_divergence_keeps_the_last_good_checkpoint(tmp_path, step, what):
    optimizer = exploding(step)
    checkpoints = Checkpoints(tmp_path)
    options = {"epochs": 5, "batch_size": BATCH, "phase": "prune pull", "show": False}
    with pytest.raises(train.Diverged) as caught:
        train.fit(DIARY, optimizer, diary_start(optimizer), NUMBERED, checkpoints=checkpoints,
                  **options)  # fmt: skip
    message = str(caught.value)
    assert f"phase 'prune pull': {what} is not finite any more in epoch 3" in message
    assert f"epoch 2 in {tmp_path}" in message
    assert "\n" not in message
    good = checkpoints.restore(diary_start(optimizer))
    assert good.step == 2 * STEPS
    assert np.isfinite(good.params["weight"])
    checkpoints.close()


def test_a_divergence_without_checkpoints_says_that_nothing_was_saved():
    optimizer = exploding(0)
    with pytest.raises(train.Diverged, match="epoch 1; nothing was saved"):
        train.fit(DIARY, optimizer, diary_start(optimizer), NUMBERED, epochs=1, batch_size=BATCH,
                  show=False)  # fmt: skip


# --- The log and what is refused ------------------------------------------------------------------


def test_a_record_of_the_log(fit, split):
    log = []
    part = Split(split.images[:40], split.labels[:40])
    fit(2, log=log.append, validation=part, phase="retrain", observe=lambda state: {"more": 1})
    keys = {"phase", "epoch", "loss", "accuracy", "spike_rate", "validation_accuracy", "more",
            "seconds"}  # fmt: skip
    assert [set(record) for record in log] == [keys, keys]
    assert [(record["phase"], record["epoch"]) for record in log] == [
        ("retrain", 1),
        ("retrain", 2),
    ]
    for record in log:
        assert all(
            0 <= record[key] <= 1 for key in ("accuracy", "validation_accuracy", "spike_rate")
        )


def test_an_empty_validation_split_is_not_evaluated(fit, split):
    log = []
    fit(1, log=log.append, validation=Split(split.images[:0], split.labels[:0]))
    assert "validation_accuracy" not in log[0]


@pytest.mark.parametrize("batch_size", [0, SIZE + 1])
def test_a_batch_that_does_not_fit_the_data_is_refused(fit, batch_size):
    with pytest.raises(UserError, match="batch_size"):
        fit(1, batch_size=batch_size)


# --- Evaluation -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exact():
    """Return a task whose sums are exact in float32, in whatever order they are taken."""
    net = functional.split(models.build("8-4", (4, 4, 1), LIF(0.5, 0.5), rngs=nnx.Rngs(3)))
    params = jax.tree.map(lambda leaf: jnp.round(leaf * 32) / 16, net.params)

    def prepare(key, images, training):
        del key, training
        return encode.direct(images.astype(jnp.float32) / 256, TIMESTEPS)

    def loss(output, labels):
        return losses.mean_squared_error(output.readout, labels)

    return train.Task(net.apply, prepare, loss), params, net.stats


@pytest.mark.parametrize("batch_size", [29, 40, 500])
def test_an_evaluation_counts_every_sample_once(exact, split, batch_size):
    task, params, stats = exact
    found = train.evaluate(task, params, stats, split, batch_size=batch_size)
    whole = task.apply(params, stats, task.prepare(None, jnp.asarray(split.images), False))
    readout = np.asarray(whole.readout)
    for t in range(TIMESTEPS):
        right = readout[: t + 1].mean(0).argmax(-1) == split.labels
        assert found.accuracy_over_time[t] == np.float32(right.sum()) / np.float32(SIZE)
    assert found.accuracy == found.accuracy_over_time[-1]
    assert 0 < found.accuracy < 1
    assert found.counts.num_samples == SIZE
    for name, spikes in whole.activity.spikes.items():
        np.testing.assert_array_equal(found.counts.spikes[name], spikes.sum(0))
    spikes_in = found.counts.events["dense2/kernel"]
    np.testing.assert_array_equal(spikes_in, whole.activity.events["dense2/kernel"].sum(0))
    assert spikes_in.sum() > 0


def test_the_loss_of_an_evaluation_is_the_mean_over_samples(exact, split):
    task, params, stats = exact
    part = Split(split.images[:200], split.labels[:200])
    whole = task.apply(params, stats, task.prepare(None, jnp.asarray(part.images), False))
    expected = losses.mean_squared_error(whole.readout, jnp.asarray(part.labels))
    found = train.evaluate(task, params, stats, part, batch_size=40)
    assert found.loss == pytest.approx(float(expected), rel=1e-5)


def test_an_evaluation_with_random_input_depends_on_its_seed_alone(problem, split, uninterrupted):
    _, task, _, _ = problem
    params, stats = uninterrupted.params, uninterrupted.stats
    first, same, other = (
        train.evaluate(task, params, stats, split, batch_size=40, seed=seed) for seed in (1, 1, 2)
    )
    assert_same_bits(first.counts, same.counts)
    assert np.any(first.counts.spikes["dense1"] != other.counts.spikes["dense1"])
