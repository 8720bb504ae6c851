"""What is trained: a value; its input and loss; and the doors, each mistake one line."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsnn import data, layers, losses, metrics, models, train
from jaxsnn.data import Split
from jaxsnn.encode import direct
from jaxsnn.errors import UserError
from jaxsnn.inputs import Inputs
from jaxsnn.network import Network, Output
from jaxsnn.neurons import LIF
from jaxsnn.train import Guide, Task

SHAPE = (4, 4, 1)
IMAGES = np.random.default_rng(0).integers(0, 256, (12, *SHAPE), dtype=np.uint8)
LABELS = (np.arange(12) % 3).astype(np.int32)


def network(seed=0, layout="5-3", **options):
    return models.build(layout, SHAPE, LIF(0.5, 0.3), seed=seed, **options)


# --- A value --------------------------------------------------------------------------------------


def test_tasks_compare_by_value():
    task = Task(Inputs(SHAPE, 4), loss=losses.cross_entropy, spike_weight=0.5)
    same = Task(Inputs(SHAPE, 4), loss=losses.cross_entropy, spike_weight=0.5)
    assert task == same and hash(task) == hash(same)
    for change in ({"loss": "ce"}, {"spike_weight": 0.0}, {"active": 2}, {"devices": 2}):
        assert replace(task, **change) != task
    assert task.at(2).inputs.timesteps == 2 and task.at(4) == task
    assert jax.tree.leaves(task) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": "direct"}, r"inputs must be an Inputs, such as data.inputs\(timesteps=4\)"),
        ({"loss": "hinge"}, "loss 'hinge' is unknown; choose one of mse, ce, ce_sum"),
        ({"augment": "mirror"}, "augmentation 'mirror' is unknown; choose one of none"),
        ({"spike_weight": -1}, r"spike_weight must be in \[0, inf\), found -1"),
        ({"active": 5}, r"active must be in \[1, 4\], found 5"),
        ({"remat": 0}, "remat must be in"),
        ({"micro_batches": 0}, "micro_batches must be in"),
        ({"devices": 1.5}, "devices must be a whole number, found 1.5"),
    ],
)
def test_what_a_task_cannot_be_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        Task(**({"inputs": Inputs(SHAPE, 4)} | options))


# --- What is minimised ----------------------------------------------------------------------------


def objective(task, net, x):
    return task.objective(task.run(net, x), jnp.asarray(LABELS), x)


@pytest.mark.long
def test_the_objective_is_the_loss_and_a_price_for_each_spike():
    net, task = network(), Task(Inputs(SHAPE, 4), loss="ce", spike_weight=0.5)
    x = task.prepare(jax.random.key(0), jnp.asarray(IMAGES), False)
    output = net(x)
    rate = sum(spikes.sum() for spikes in output.activity.spikes.values()) / (4 * 12 * 8)
    assert 0.05 < rate < 0.95
    expected = losses.cross_entropy(output.readout, jnp.asarray(LABELS)) + 0.5 * rate
    np.testing.assert_allclose(objective(task, net, x), expected, rtol=1e-6)
    own = replace(task, loss=losses.cross_entropy)
    assert objective(own, net, x) == objective(task, net, x)


@pytest.mark.long
@pytest.mark.parametrize("loss", ["ce", "ce_sum"])
def test_steps_that_do_not_count_change_neither_loss_nor_gradient(loss):
    """A network of 4 steps whose first 2 count, with the number traced, is that of 2 steps."""
    net = network(readout="leaky")
    guide = Guide(network(seed=1), alpha=0.5)
    values = jnp.asarray(IMAGES, jnp.float32) / 255

    def gradient(params, active, task, timesteps):
        task = replace(task, active=active, guide=guide if loss == "ce" else None)
        x, moved = direct(values, timesteps), net.replace(params=params)
        return task.objective(task.run(moved, x, train=True), jnp.asarray(LABELS), x)

    task = Task(Inputs(SHAPE, 4), loss=loss, spike_weight=0.5)
    run = jax.jit(jax.value_and_grad(gradient), static_argnums=(2, 3))
    found = run(net.params, jnp.int32(2), task, 4)
    expected = run(net.params, None, task.at(2), 2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), found,
                 expected)  # fmt: skip
    whole = run(net.params, jnp.int32(4), task, 4)
    assert abs(float(whole[0] - found[0])) > 1e-4


@pytest.mark.long
@pytest.mark.parametrize("remat", [None, 2])
def test_what_is_recorded_is_that_of_the_steps_that_count(remat):
    """Spikes, potentials, events and operations of 3 of 4 steps are those of a run of 3."""
    net = network(layout="4C3-AP2-3C2-MP2-6R-3")
    task = replace(Task(Inputs(SHAPE, 4, "poisson"), active=3))
    key, images = jax.random.key(0), jnp.asarray(IMAGES)
    found = task.run(net, task.prepare(key, images, False), remat=remat)
    short = task.at(3)
    expected = replace(short, active=None).run(net, short.prepare(key, images, False))
    record, true = found.activity, expected.activity
    assert record.steps == 3 == true.steps and record.arrivals and record.pooled
    for name in ("spikes", "potential", "magnitude", "events", "arrivals", "pooled"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
                     getattr(record, name), getattr(true, name))  # fmt: skip
    if remat is None:
        reports = [
            metrics.measure(each, net, SPLIT, batch_size=5)
            for each in (task, replace(short, active=None))
        ]
        assert reports[0].to_row() == reports[1].to_row() and reports[0].timesteps == 3
        assert reports[0].synops > 0 and len(reports[0].accuracy_over_time) == 3


def test_a_wrapped_function_says_itself_which_steps_it_counts():
    def apply(params, x, active=None):
        counted = x if active is None else x[:active]
        record = layers.Activity({"own": counted.sum(0)}, timesteps=len(x), active=active)
        return Output(x * params, {}, record)

    task = Task(Inputs(SHAPE, 4, "bernoulli"), active=2)
    x = task.prepare(jax.random.key(0), jnp.asarray(IMAGES), False).reshape(4, 12, -1)
    found = task.run(Network.wrap(jnp.float32(1), apply), x)
    np.testing.assert_array_equal(found.activity.spikes["own"], x[:2].sum(0))
    with pytest.raises(UserError, match="must take the argument active="):
        task.run(Network.wrap(jnp.float32(1), lambda params, x: apply(params, x)), x)


@pytest.mark.long
def test_a_guide_adds_what_the_teacher_knows_in_training_alone():
    net, teacher = network(), network(seed=1)
    labels = jnp.asarray(LABELS)
    guide = Guide(teacher, alpha=0.5, temperature=2.0)
    task = Task(Inputs(SHAPE, 3), loss="ce", guide=guide)
    x = direct(jnp.asarray(IMAGES, jnp.float32) / 255, 3)
    output = net(x)
    expected = losses.attention_guided(
        output.readout, labels, teacher(x).readout, alpha=0.5, temperature=2.0, beta=None
    )
    np.testing.assert_allclose(task.objective(output, labels, x), expected, rtol=1e-6)
    plain = task.objective(output, labels, x, train=False)
    np.testing.assert_allclose(plain, losses.cross_entropy(output.readout, labels), rtol=1e-6)
    # Of a constant input it sees its own number of steps, of any other the student's.
    longer = replace(task, guide=replace(guide, timesteps=5))
    seen = teacher(direct(x.value, 5)).readout
    more = losses.attention_guided(
        output.readout, labels, seen, alpha=0.5, temperature=2.0, beta=None
    )
    np.testing.assert_allclose(longer.objective(output, labels, x), more, rtol=1e-6)
    assert abs(more - expected) > 1e-5
    drawn = x.over_time()
    np.testing.assert_allclose(longer.objective(output, labels, drawn), expected, rtol=1e-6)
    # The teacher travels as arrays: another one needs no other program.
    assert len(jax.tree.leaves(task)) == len(jax.tree.leaves(teacher))


@pytest.mark.long
def test_training_images_are_augmented_and_others_are_not():
    task = Task(Inputs((8, 8, 1), 2), augment="crop-flip")
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8))
    plain = task.prepare(jax.random.key(0), images, False)
    np.testing.assert_allclose(plain.value, images / 255, rtol=1e-6)
    assert (task.prepare(jax.random.key(0), images, True).value != plain.value).any()


# --- The doors ------------------------------------------------------------------------------------

TASK = Task(Inputs(SHAPE, 2))
SPLIT = Split(IMAGES, LABELS)
EVENTS = Task(Inputs(SHAPE, 3, "events"))
SGD = optax.sgd(0.1)
FRAMES = np.zeros((12, 3, *SHAPE), np.uint8)

WRONG_SPLITS = [
    (data.load("digits", limit=20), "split must be one split of the data set, such as data.train"),
    ("digits", r"split must be \(samples, labels\), found str"),
    ((IMAGES, LABELS, LABELS), r"split must be \(samples, labels\), found tuple"),
    ((LABELS, IMAGES), r"samples of the shape \(\), but the task's inputs are made for \(4, 4, 1"),
    ((IMAGES.tolist(), LABELS), "the samples of split must be an array, found list"),
    ((IMAGES[..., 0], LABELS), r"samples of the shape \(4, 4\), but the task's inputs"),
    ((IMAGES / 255, LABELS), "must have uint8 samples, 0 to 255, found float64"),
    ((IMAGES, np.eye(3)[LABELS]), r"labels of split .* shape \(12, 3\): of one-hot labels take"),
    ((IMAGES, LABELS[:5]), r"the labels of split must be whole numbers \[12\].*shape \(5,\)"),
    ((IMAGES, LABELS.astype(float)), "the labels of split must be whole numbers, found float"),
    ((IMAGES, LABELS + 1), "the network ends in 3 scores, but split has a label 3"),
    ((IMAGES, LABELS - 1), "the labels of split must be at least 0, found -1"),
    ((IMAGES[:0], LABELS[:0]), "split holds no samples"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG_SPLITS, ids=lambda value: None)
def test_data_that_do_not_fit_are_one_line_before_anything_runs(wrong, message):
    net = network()
    with pytest.raises(UserError, match=message) as caught:
        train.fit(TASK, optax.adam(1e-3), net, wrong, epochs=1, batch_size=2)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=message):
        train.evaluate(TASK, net, wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": Inputs(SHAPE, 2)}, "task must be a train.Task, .*found Inputs"),
        ({"net": {"w": 1}}, r"net must be a Network \(models.build, .*found dict"),
        ({"phase": optax.adam}, "phase must be an optax optimizer or a Phase .*found function"),
        ({"phase": "adam"}, "phase must be an optax optimizer or a Phase .*found str"),
        ({"validation": (IMAGES / 255, LABELS)}, "validation must have uint8 samples"),
        ({"validation": data.load("digits", limit=20)}, "validation must be one split"),
        ({"net": models.build("3", (5,))}, "layer 'dense1' takes 5 features, found an input"),
        ({"checkpoints": "folder"}, "checkpoints must be train.Checkpoints.*found str"),
        ({"batch_size": 13}, r"batch_size must be in \[1, 12\], found 13"),
        ({"epochs": -1}, "epochs must be in"),
        # Time and batch of recordings exchanged, and images where recordings are expected.
        ({"task": EVENTS, "split": (FRAMES.swapaxes(0, 1), LABELS)}, r"shape \(12, 4, 4, 1\)"),
        ({"task": EVENTS}, r"samples of the shape \(4, 4, 1\), .* made for \(3, 4, 4, 1\)"),
    ],
    ids=lambda value: None,
)
def test_arguments_that_do_not_fit_are_one_line_before_anything_runs(change, message):
    given = {"task": TASK, "phase": optax.adam(1e-3), "net": network(), "split": SPLIT}
    given |= {"epochs": 1, "batch_size": 2} | change
    with pytest.raises(UserError, match=message) as caught:
        train.fit(**given)
    assert "\n" not in str(caught.value)


def test_samples_to_predict_are_checked_too():
    with pytest.raises(UserError, match="samples must have uint8 samples, 0 to 255, found float64"):
        train.predict(TASK, network(), IMAGES / 255)
    with pytest.raises(UserError, match="task must be a train.Task"):
        train.predict(network(), TASK, IMAGES)
