"""Spike-Thrift: what a sparse ANN learns from, where it starts, how its masks move."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import data, losses, models, train, tree
from jaxsnn.compress import masks
from jaxsnn.errors import UserError
from jaxsnn.methods import conversion, spike_thrift
from jaxsnn.methods.result import Trainer
from jaxsnn.methods.spike_thrift import WAYS, Options

pytestmark = pytest.mark.long

CONVERTED = dict(models.CONVERTED)
OPTIONS = Options(density=0.4, alpha=0.75, beta=20.0)
KEPT = 125  # 0.4 of the 312 weights, rounded


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", limit=100)


@pytest.fixture(scope="module")
def net(digits):
    layout = "4C3-AP2-6C3-AP4-10"
    return models.build(layout, digits.shape, activation="relu", seed=1, **CONVERTED)


@pytest.fixture(scope="module")
def task(digits):
    return train.Task(digits.inputs(1), loss="ce")


def batch(digits, task):
    images, labels = (jnp.asarray(part[:8]) for part in digits.train)
    return task.prepare(jax.random.key(0), images, True), labels


# --- What a sparse ANN learns from ----------------------------------------------------------------


@pytest.mark.thorough
def test_a_teacher_like_the_student_leaves_the_labels_share_alone(digits, task, net):
    x, labels = batch(digits, task)
    output = net(x, train=True, key=jax.random.key(0))
    alone = float(losses.cross_entropy(output.readout, labels))
    for name, share in (("ce", 1.0), ("kl", 0.25), ("at", 1.0), ("all", 0.25)):
        guided = spike_thrift.guided_task(task, net, WAYS[name], OPTIONS)
        assert float(guided.objective(output, labels, x)) == pytest.approx(share * alone, rel=1e-5)
        resting = float(guided.objective(output, labels, x, train=False))
        assert resting == pytest.approx(alone)
    assert spike_thrift.guided_task(task, net, WAYS["ce"], OPTIONS).guide is None


def test_the_loss_is_that_of_both_read_outs_and_of_the_ends_of_stages(digits, task, net):
    x, labels = batch(digits, task)
    teacher = net.replace(params=models.he_start(jax.random.key(1), net.params))
    guided = spike_thrift.guided_task(task, teacher, WAYS["all"], OPTIONS)
    student, guide = net(x), teacher(x)
    terms = (
        losses.cross_entropy(student.readout, labels),
        losses.distillation(student.readout, guide.readout, 4.0),
    )
    attention = sum(
        jnp.mean((losses.attention_map(student.activity.spikes[stage])
                  - losses.attention_map(guide.activity.spikes[stage])) ** 2)
        for stage in ("conv1", "conv2")
    )  # fmt: skip
    expected = float(0.25 * terms[0] + 0.75 * terms[1] + 20.0 / 2 * attention)
    assert float(guided.objective(student, labels, x)) == pytest.approx(expected, rel=1e-5)
    assert attention > 1e-4


def test_stages_end_before_poolings_and_with_the_images():
    def ends(layout, **options):
        return spike_thrift.stage_ends(models.build(layout, (8, 8, 1), **CONVERTED | options))

    expected = ("conv2", "conv3", "conv5")
    assert ends("4C3-D0.1-4C3-AP2-4C3-MP2-4C3-D0.2-4C3-10") == expected
    assert ends("4C3-D0.1-4C3-AP2-4C3-MP2-4C3-D0.2-4C3-10", activation="relu") == expected
    assert ends("4C3-4C3-AP2-4B3-8B3S2P-10") == ("block1/conv2", "block2/conv2")
    with pytest.raises(UserError, match="no convolution whose attention maps"):
        ends("20-10")


# --- Where it starts ------------------------------------------------------------------------------


def count(found):
    return sum(int(leaf.sum()) for leaf in jax.tree.leaves(found))


def test_a_random_start_has_exact_counts_and_the_gain_of_its_density(net):
    found, params = spike_thrift.sparse_start(net, OPTIONS, seed=0)
    assert count(found) == KEPT
    fresh = models.he_start(jax.random.fold_in(jax.random.key(0), 3), net.params)
    mask, kernel = found["conv2"]["kernel"], fresh["conv2"]["kernel"]
    gain = (mask.size / mask.sum()) ** 0.5
    expected = jnp.where(mask, gain * kernel, 0.0)
    np.testing.assert_allclose(params["conv2"]["kernel"], expected, rtol=1e-5)


def test_a_student_may_begin_with_the_largest_weights_of_its_teacher(net):
    chosen = replace(OPTIONS, begin="teacher")
    found, params = spike_thrift.sparse_start(net, chosen, seed=0)
    kernel, mask = net.params["conv2"]["kernel"], found["conv2"]["kernel"]
    assert count(found) == KEPT
    assert jnp.abs(kernel[mask]).min() > jnp.abs(kernel[~mask]).max()
    # The energy of the layer is the teacher's: the gain is ||W|| / ||M W||, not 1 / sqrt(density).
    gain = jnp.linalg.norm(kernel.ravel()) / jnp.linalg.norm((kernel * mask).ravel())
    np.testing.assert_allclose(params["conv2"]["kernel"], gain * kernel * mask, rtol=1e-5)
    assert gain < 0.8 * (mask.size / mask.sum()) ** 0.5


@pytest.mark.thorough
def test_a_deep_student_that_begins_with_its_teacher_does_not_explode():
    layout = "-".join(["16C3"] * 6 + ["AP8", "10"])
    teacher = models.build(layout, (8, 8, 1), activation="relu", seed=0, **CONVERTED)
    teacher = teacher.replace(params=models.he_start(jax.random.key(0), teacher.params))
    x = jax.random.uniform(jax.random.key(1), (1, 32, 8, 8, 1))
    chosen = Options(density=0.05, begin="teacher")
    found, params = spike_thrift.sparse_start(teacher, chosen, seed=0)
    dense = float(teacher(x).readout.std())
    sparse = float(teacher.replace(params=params)(x).readout.std())
    assert 1 / 3 < sparse / dense < 3
    # The gain of random masks would multiply the scores a hundredfold.
    wrong = jax.tree.map(lambda m, w: m * w / jnp.mean(m) ** 0.5, found, teacher.params)
    assert float(teacher.replace(params=wrong)(x).readout.std()) > 100 * dense


# --- How its masks move ---------------------------------------------------------------------------


@pytest.mark.parametrize("growth", ["momentum", "gradient", "random"])
def test_masks_move_after_an_epoch_but_not_after_the_last(growth, digits, net):
    chosen = replace(OPTIONS, growth=growth, sparse_epochs=2)
    trainer = Trainer(train.fit, digits, 45, 0)  # two steps an epoch
    start = masks.keep_fraction(net.params, {"*/kernel": 0.6})
    phase = spike_thrift.rewiring_phase(start, trainer, chosen, conversion.DEFAULTS)
    params, state = phase.begin(net.params), phase.optimizer.init(net.params)
    update, after_epoch = jax.jit(phase.optimizer.update), jax.jit(phase.after_epoch)
    gradient = jax.tree.map(jnp.ones_like, net.params)
    moved = []
    for step in range(4):
        _, state = update(gradient, state, params)
        if step % 2:
            before = tree.named_leaves(state.confined.masks)
            params, state = after_epoch(params, state)
            after = tree.named_leaves(state.confined.masks)
            moved.append(any((after[name] != mask).any() for name, mask in before.items()))
            assert sum(int(m.sum()) for m in after.values()) == count(start)
            if growth != "momentum":  # which alone moves weights between layers
                assert all(after[name].sum() == mask.sum() for name, mask in before.items())
    assert moved == [True, False]


# --- What it refuses ------------------------------------------------------------------------------


def test_what_cannot_be_compressed_is_refused_at_the_door(digits, net):
    spiking = train.Task(digits.inputs(4, "poisson"))
    hybrid = conversion.Options(order="integrate_then_fire", calibration_images=40)

    def refused(message, chosen=OPTIONS, student=net, teacher=None):
        with pytest.raises(UserError, match=message):
            spike_thrift.check(student, spiking, digits, chosen, hybrid, teacher)

    flat = models.build("20-10", digits.shape, **CONVERTED)
    refused("no convolution whose attention maps", student=flat)
    spike_thrift.check(flat, spiking, digits, replace(OPTIONS, beta=0.0), hybrid)
    refused(r"leaves 'conv1/kernel' \(36 weights\) without any", replace(OPTIONS, density=0.004))
    other = models.build("4C3-AP2-5C3-AP4-10", digits.shape, activation="relu", **CONVERTED)
    refused(r"'conv2/kernel' has the shape \(3, 3, 4, 5\), that of the student", teacher=other)
    for ways, message in ((("all", "some"), "'some' is unknown"), (("all", "all"), "twice")):
        with pytest.raises(UserError, match=message):
            Options(ways=ways)
    with pytest.raises(UserError, match="prune_rate must be in"):
        Options(prune_rate=0.001)  # below the last rate it would rise
