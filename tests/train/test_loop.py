"""The compiled engine against plain loops, against itself interrupted, and when it breaks."""

import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsnn import Network, compress, models, train
from jaxsnn.compress import grids, latent_weights, masks, projections, transforms
from jaxsnn.compress.phase import Finished, as_phase
from jaxsnn.data import Split
from jaxsnn.errors import UserError
from jaxsnn.inputs import Inputs
from jaxsnn.layers import Activity
from jaxsnn.network import Output
from jaxsnn.neurons import LIF
from jaxsnn.train import Checkpoints, fitting, loop, progress

SIZE, BATCH, TIMESTEPS = 203, 32, 3
STEPS = SIZE // BATCH  # 6, and 11 samples wait for the next shuffling
KEY = loop.phase_key(7, "train")


@pytest.fixture(scope="module")
def split():
    """Return images 4 x 4 of four classes, each with one bright row."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 4, SIZE).astype(np.int32)
    images = draw.integers(0, 120, (SIZE, 4, 4, 1), dtype=np.uint8)
    images[np.arange(SIZE), labels] += 130
    return Split(images, labels)


@pytest.fixture(scope="module")
def problem():
    """Return a task with random spikes, an optimizer with every state, a net with norms, masks."""
    net = models.build("8-4", (4, 4, 1), LIF(0.5, 0.3), norm=True, seed=0)
    kept = masks.keep_fraction(net.params, {"dense1/kernel": 0.5})
    optimizer = optax.chain(
        transforms.pull({"dense1/kernel": projections.keep_largest(0.7)}, 1e-2, every=4),
        latent_weights.latent(optax.adam(1e-2), {"dense2/kernel": grids.ternary_grid()}),
        transforms.confine(kept),
    )
    recipe = {"dense1/kernel": projections.on_mask(kept["dense1"]["kernel"])}
    net = net.replace(params=projections.project(net.params, recipe))
    return train.Task(Inputs((4, 4, 1), TIMESTEPS, "bernoulli")), optimizer, net, kept


@pytest.fixture(scope="module")
def fit(problem, split):
    """Return fit(epochs, ...), each time from the same start."""
    task, optimizer, net, _ = problem

    def run(epochs, **options):
        options = {"batch_size": BATCH, "seed": 7, "show": False} | options
        return train.fit(task, optimizer, net, split, epochs=epochs, **options)

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


def diary_apply(params, stats, x):
    """Note the place in the sequence of each sample; the sample's number is its only feature."""
    number = x[0, :, 0].astype(jnp.int32)
    size = len(number)
    when = stats["when"].at[number].set(stats["seen"] + jnp.arange(size))
    stats = {"when": when, "seen": stats["seen"] + size}
    readout = jnp.zeros((1, size, 2)) + params["weight"].reshape(1, 1, 1)
    return Output(readout, stats, Activity({"layer": jnp.zeros((size, 1))}, timesteps=1))


def first_score(readout, labels):
    del labels
    return readout[0, 0, 0]


DIARY = train.Task(Inputs((1,), 1, "events"), loss=first_score)
NUMBERED = Split(np.arange(SIZE, dtype=np.uint8).reshape(-1, 1, 1), np.zeros(SIZE, np.int32))


def diary():
    stats = {"when": jnp.full(SIZE, -1), "seen": jnp.int32(0)}
    return Network.wrap({"weight": jnp.float32(0)}, diary_apply, stats)


FREEZE = optax.chain(optax.set_to_zero(), optax.scale_by_schedule(lambda count: 0.0))
STILL = as_phase(FREEZE)


def order_of_epoch(epoch, key=KEY):
    """Return the numbers of the samples in the order in which the epoch sees them."""
    start = loop.init(diary(), STILL, key)._replace(step=jnp.int32(epoch * STEPS))
    end, _ = loop.run_steps(
        DIARY, FREEZE, BATCH, start, loop.no_sums(), NUMBERED, jnp.int32((epoch + 1) * STEPS)
    )
    when = np.asarray(end.net.stats["when"])
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


@pytest.mark.long
def test_a_compiled_epoch_is_a_python_loop_over_train_step(problem, split, fit):
    task, optimizer, net, _ = problem
    step = jax.jit(partial(loop.train_step, task, optimizer))
    state = loop.init(net, as_phase(optimizer), KEY)
    order, sums = order_of_epoch(0), []
    for i in range(STEPS):
        rows = order[i * BATCH : (i + 1) * BATCH]
        state, new = step(state, split.images[rows], split.labels[rows])
        sums.append(new)
    log = []
    compiled = fit(1, log=log.append)
    # The loop and the single step are compiled apart, and may round sums differently.
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), compiled, state.net)
    assert log[0]["loss"] == pytest.approx(np.mean([s.loss for s in sums]), rel=1e-4)
    assert log[0]["accuracy"] == sum(float(s.correct) for s in sums) / (STEPS * BATCH)
    assert log[0]["spike_rate"] == pytest.approx(np.mean([s.spike_rate for s in sums]), rel=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("chunk", [1, 4])
def test_the_size_of_a_chunk_does_not_change_a_bit(fit, uninterrupted, monkeypatch, chunk):
    monkeypatch.setattr(fitting, "CHUNK", chunk)
    monkeypatch.setattr(progress.Silence, "live", True)  # a bar that is looked at
    assert_same_bits(fit(4), uninterrupted)


@pytest.mark.long
def test_training_learns(fit, split, problem):
    log = []
    net = fit(15, log=log.append)
    assert log[-1]["loss"] < 0.7 * log[0]["loss"]
    assert train.evaluate(problem[0], net, split).accuracy > 0.8


# --- What stays as it was -------------------------------------------------------------------------


@pytest.mark.long
def test_the_callers_arrays_survive(problem, split, fit):
    task, optimizer, net, _ = problem
    before = jax.tree.map(np.array, net)
    fit(1)
    assert_same_bits(net, before)
    state = loop.init(net, as_phase(optimizer), KEY)
    device = tuple(jnp.asarray(each) for each in split)
    loop.run_steps(task, optimizer, BATCH, state, loop.no_sums(), device, jnp.int32(1))
    assert_same_bits(net, before)


@pytest.mark.long
def test_a_trained_network_trains_on(problem, split, uninterrupted):
    task, _, _, _ = problem
    options = {"epochs": 1, "batch_size": BATCH, "show": False}
    log: list = []
    more = train.fit(task, optax.adam(1e-3), uninterrupted, split, log=log.append, **options)
    assert [record["epoch"] for record in log] == [1] and np.isfinite(log[0]["loss"])
    assert (more.params["dense1"]["kernel"] != uninterrupted.params["dense1"]["kernel"]).any()
    none = train.fit(task, optax.adam(1e-3), more, split, **(options | {"epochs": 0}))
    assert_same_bits(none, more)


@pytest.mark.long
def test_confined_weights_stay_exactly_zero(problem, uninterrupted):
    kernel, kept = uninterrupted.params["dense1"]["kernel"], problem[3]["dense1"]["kernel"]
    assert np.all(np.asarray(kernel)[~np.asarray(kept)] == 0)
    assert np.all(np.asarray(kernel)[np.asarray(kept)] != 0)


@pytest.mark.long
def test_norms_learn_their_running_statistics(problem, uninterrupted):
    before, after = problem[2].stats["dense1"]["norm"], uninterrupted.stats["dense1"]["norm"]
    assert np.all(before["mean"] != after["mean"])
    assert np.all(before["var"] != after["var"])


# --- Checkpoints ----------------------------------------------------------------------------------


def stored(problem, folder):
    """Return the newest state of a folder: weights, optimizer, key and step."""
    _, optimizer, net, _ = problem
    checkpoints = Checkpoints(folder)
    state = checkpoints.restore(loop.init(net, as_phase(optimizer), KEY))
    checkpoints.close()
    return state


@pytest.mark.long
def test_a_resumed_training_repeats_the_uninterrupted_one(problem, fit, uninterrupted, tmp_path):
    whole = Checkpoints(tmp_path / "whole")
    assert_same_bits(fit(4, checkpoints=whole), uninterrupted)
    whole.close()
    first = Checkpoints(tmp_path / "parts")
    fit(3, checkpoints=first)
    first.close()
    log: list = []
    second = Checkpoints(tmp_path / "parts")
    assert_same_bits(fit(4, checkpoints=second, log=log.append), uninterrupted)
    assert [record["epoch"] for record in log] == [4]
    # What is finished is not done again.
    assert_same_bits(fit(4, checkpoints=second, log=log.append), uninterrupted)
    assert len(log) == 1
    second.close()
    # Not only the weights: duals, free copies, moments, key and step.
    assert_same_bits(*(stored(problem, tmp_path / name) for name in ("parts", "whole")))


def test_checkpoints_are_as_far_apart_as_they_may_be_and_the_last_epoch_has_one(tmp_path):
    saved = {}
    for every in (0.0, 1e6):
        checkpoints = Checkpoints(tmp_path / f"{every:g}", keep=9, every=every)
        train.fit(DIARY, FREEZE, diary(), NUMBERED, epochs=3, batch_size=BATCH, show=False,
                  checkpoints=checkpoints)  # fmt: skip
        checkpoints.close()
        names = (path.name for path in checkpoints.directory.iterdir())
        saved[every] = sorted(name for name in names if name.isdigit())
    assert saved == {0.0: ["1", "2", "3"], 1e6: ["3"]}


@pytest.mark.long
def test_a_damaged_checkpoint_is_trained_again_to_the_same_bits(
    fit, uninterrupted, tmp_path, capsys
):
    first = Checkpoints(tmp_path)
    fit(3, checkpoints=first)
    first.close()
    for path in (tmp_path / "3").glob("**/d/*"):
        path.write_bytes(path.read_bytes()[::-1])
    log: list = []
    second = Checkpoints(tmp_path)
    assert_same_bits(fit(4, checkpoints=second, log=log.append), uninterrupted)
    second.close()
    assert [record["epoch"] for record in log] == [3, 4]
    assert f"checkpoint {tmp_path / '3'} is damaged: " in capsys.readouterr().err


@pytest.mark.long
def test_another_training_does_not_go_on_from_a_checkpoint(fit, problem, split, tmp_path):
    """Masks of another sparsity would be replaced by those of the checkpoint, in silence."""
    task, _, net, _ = problem
    checkpoints = Checkpoints(tmp_path)
    options = {"batch_size": BATCH, "epochs": 1, "checkpoints": checkpoints, "show": False}

    def prune(sparsity, **more):
        kept = masks.keep_fraction(net.params, {"dense1/kernel": sparsity})
        phase = compress.pruned(optax.sgd(0.1), kept)
        return train.fit(task, phase, net, split, **(options | more))

    prune(0.5)
    for sparsity, more, message in (
        (0.75, {}, r"with mask \S*dense1/kernel = 0\.5 kept, CRC-32 \w+, not 0\.25 kept"),
        (0.5, {"batch_size": 16}, "with batch_size = 32, not 16; give the same, or another folder"),
        (0.5, {"seed": 1}, "with seed = 0, not 1"),
        (0.5, {"name": "retrain"}, "with name = train, not retrain"),
        (0.5, {"epochs": 0}, "epochs = 0, but checkpoint .* is after 1"),
    ):
        with pytest.raises(UserError, match=message):
            prune(sparsity, **more)
    checkpoints.close()


SCRIPT = """
import sys, numpy, optax
from jaxsnn import models, train
from jaxsnn.data import Split
from jaxsnn.inputs import Inputs
images, labels = numpy.zeros((8, 2), numpy.uint8), numpy.zeros(8, numpy.int32)
net = models.build("2", (2,), seed=0)
train.fit(train.Task(Inputs((2,), 1)), optax.sgd(0.1), net, Split(images, labels), epochs=3,
          batch_size=4, checkpoints=train.Checkpoints(sys.argv[1]), show=False)
"""


@pytest.mark.thorough
@pytest.mark.long
def test_the_last_checkpoint_of_a_script_that_just_ends_is_there(tmp_path):
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], check=True)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() == 3
    checkpoints.close()


@pytest.mark.long
def test_a_state_changed_after_each_epoch_is_what_is_logged_saved_and_resumed(tmp_path):
    """The change adds the steps so far to the one weight, which is the loss: 0, 6, 6 + 12, ..."""

    def add_steps(params, opt_state):
        count = opt_state[1].count
        return {"weight": params["weight"] + count}, opt_state

    phase = compress.Phase(
        FREEZE, after_epoch=add_steps, observe=lambda params, _: {"weight": params["weight"]}
    )

    def run(epochs, folder, log):
        checkpoints = Checkpoints(folder)
        found = train.fit(
            DIARY, phase, diary(), NUMBERED, epochs=epochs, batch_size=BATCH,
            checkpoints=checkpoints, log=log.append, show=False,
        )  # fmt: skip
        checkpoints.close()
        return found

    log: list = []
    whole = run(4, tmp_path / "whole", log)
    assert [(r["loss"], r["weight"]) for r in log] == [(0, 6), (6, 18), (18, 36), (36, 60)]
    run(2, tmp_path / "parts", [])
    assert_same_bits(run(4, tmp_path / "parts", []), whole)


def test_a_phase_begins_and_finishes_a_training():
    """Begin sets the weight to 5, each epoch sees it there, finish halves it."""
    phase = compress.Phase(
        FREEZE,
        begin=lambda params: {"weight": params["weight"] + 5},
        finish=lambda params, _: Finished({"weight": params["weight"] / 2}, {}),
    )
    log: list = []
    found = train.fit(DIARY, phase, diary(), NUMBERED, epochs=2, batch_size=BATCH,
                      log=log.append, show=False)  # fmt: skip
    assert [record["loss"] for record in log] == [5, 5] and found.params["weight"] == 2.5


def exploding(step):
    """Return an optimizer whose step number `step`, counted from 0, is infinite."""
    return optax.sgd(lambda count: jnp.where(count == step, jnp.inf, 0.01))


@pytest.mark.long
@pytest.mark.parametrize(("step", "what"), [(2 * STEPS + 2, "the loss"), (3 * STEPS - 1, "weight")])
def test_a_divergence_keeps_the_last_good_checkpoint(tmp_path, step, what):
    optimizer = exploding(step)
    checkpoints = Checkpoints(tmp_path)
    options = {"epochs": 5, "batch_size": BATCH, "name": "prune pull", "show": False}
    with pytest.raises(train.Diverged) as caught:
        train.fit(DIARY, optimizer, diary(), NUMBERED, checkpoints=checkpoints, **options)
    message = str(caught.value)
    assert f"phase 'prune pull' diverged in epoch 3: {what} is not finite" in message
    assert f"epoch 2 in {tmp_path}" in message
    assert "\n" not in message
    good = checkpoints.restore(loop.init(diary(), as_phase(optimizer), KEY))
    assert good.step == 2 * STEPS
    assert np.isfinite(good.net.params["weight"])
    checkpoints.close()


def test_a_divergence_without_checkpoints_says_that_nothing_was_saved():
    optimizer = exploding(0)
    with pytest.raises(train.Diverged, match="epoch 1: .*; nothing was saved"):
        train.fit(DIARY, optimizer, diary(), NUMBERED, epochs=1, batch_size=BATCH, show=False)


# --- The log and what is refused ------------------------------------------------------------------


@pytest.mark.long
def test_a_record_of_the_log(problem, split):
    log = []
    part = Split(split.images[:40], split.labels[:40])
    task, _, net, _ = problem
    phase = compress.Phase(FREEZE, observe=lambda params, state: {"more": 1})
    train.fit(task, phase, net, split, epochs=2, batch_size=BATCH, validation=part,
              name="retrain", log=log.append, show=False)  # fmt: skip
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


# --- Random numbers and compiled programs ---------------------------------------------------------


def test_every_phase_draws_from_a_key_of_its_whole_name_and_seed():
    names = ("one-shot retrain", "quantize retrain", "train", "a train", "kl ann", "at ann")
    keys = {tuple(jax.random.key_data(loop.phase_key(0, name)).tolist()) for name in names}
    keys.add(tuple(jax.random.key_data(loop.phase_key(1, "train")).tolist()))
    assert len(keys) == len(names) + 1
    np.testing.assert_array_equal(
        *(jax.random.key_data(loop.phase_key(3, "train")) for _ in range(2))
    )


TRACED = []


def counted(readout, labels):
    TRACED.append(readout.shape)
    return jnp.square(readout.mean(0)).mean() + 0 * labels.sum()


@pytest.mark.long
def test_an_optimizer_may_look_at_its_numbers(split):
    """An array in it is an argument of the program only if its code in Python does not read it."""

    def descent(rate):
        def update(gradient, state, params=None):
            del params
            return jax.tree.map(lambda g: -rate * g if float(rate) > 0 else g, gradient), state

        return optax.GradientTransformation(lambda params: (), update)

    task = train.Task(Inputs((4, 4, 1), TIMESTEPS))
    net = models.build("4", (4, 4, 1), seed=0)
    options = {"epochs": 1, "batch_size": BATCH, "show": False}
    for rate in (0.25, 0.5):
        found = train.fit(task, descent(jnp.asarray(rate)), net, split, **options)
        assert_same_bits(found, train.fit(task, optax.sgd(rate), net, split, **options))


@pytest.mark.long
def test_an_evaluation_that_was_compiled_beside_the_training_is_not_compiled_again(
    split, monkeypatch
):
    monkeypatch.setattr(fitting, "FEW_CORES", 0)
    task = train.Task(Inputs((4, 4, 1), TIMESTEPS))
    held = Split(split.images[:50], split.labels[:50])
    for layout in ("4", "5-4"):  # the first compiles what is the same for all networks
        net, log = models.build(layout, (4, 4, 1), seed=0), []
        with train.Timing() as timing:
            trained = train.fit(task, optax.sgd(0.1), net, split, epochs=1, batch_size=BATCH,
                                validation=held, log=log.append, show=False)  # fmt: skip
        found = {row["phase"]: row for row in timing.rows()}
        assert found["in the background"]["compile"] > 0 and found["train"]["waiting"] > 0
        with train.Timing() as timing:
            accuracy = train.evaluate(task, trained, held).accuracy
        assert accuracy == log[0]["validation_accuracy"]
        assert timing.rows()[0]["programs"] == timing.rows()[0]["cached"] == 0
    assert found["train"]["programs"] + found["train"]["cached"] <= 3  # none of the evaluation


@pytest.mark.long
def test_equal_tasks_and_equal_networks_share_one_compiled_program(split):
    inputs = Inputs((4, 4, 1), TIMESTEPS)
    programs = loop._run_steps._cache_size()
    for seed in range(3):
        task = train.Task(Inputs((4, 4, 1), TIMESTEPS), loss=counted)
        assert task == train.Task(inputs, loss=counted) and hash(task) == hash(
            train.Task(inputs, loss=counted)
        )
        net = models.build("4", (4, 4, 1), seed=seed)
        kept = masks.keep_fraction(net.params, {"*/kernel": 0.5})  # others for each network
        phase = compress.pruned(optax.sgd(optax.exponential_decay(0.1, 5, 0.5)), kept)
        train.fit(task, phase, net, split, epochs=1, batch_size=BATCH, show=False)
        train.evaluate(task, net, split, batch_size=BATCH)
        if seed == 0:
            first = len(TRACED)
    assert len(TRACED) == first and loop._run_steps._cache_size() == programs + 1
    assert task != train.Task(inputs, loss=counted, spike_weight=0.1) != task.at(2)


def summed(params, stats, x, train=False):
    """Return scores that do not matter; add up what the network was shown."""
    shown = {"sum": stats["sum"] + x.sum((0, 1)), "epochs": stats["epochs"] + 1 / STEPS}
    readout = x.mean((2, 3, 4))[..., None] * params["w"].reshape(1, 1, -1)
    return readout, shown if train else stats


def test_two_epochs_show_every_image_and_its_mirror_image(split):
    images, labels = split.images[: STEPS * BATCH], split.labels[: STEPS * BATCH]
    stats = {"sum": jnp.zeros((4, 4, 1)), "epochs": jnp.float32(0)}
    net = Network.wrap({"w": jnp.ones(4)}, summed, stats)
    task = train.Task(Inputs((4, 4, 1), 1), augment="alternate")  # a border of no pixel
    after = train.fit(
        task, optax.sgd(0.0), net, Split(images, labels), epochs=2, batch_size=BATCH, show=False
    )
    expected = images.astype(np.float64).sum(0) / 255
    np.testing.assert_allclose(after.stats["sum"], expected + expected[:, ::-1], rtol=1e-5)
    assert after.stats["epochs"] == pytest.approx(2.0, rel=1e-5)
