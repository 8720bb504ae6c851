"""A teacher's scores computed once: the same training as with the teacher in every step."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsnn import models, train
from jaxsnn.data import Split
from jaxsnn.encode import direct
from jaxsnn.errors import UserError
from jaxsnn.inputs import Inputs
from jaxsnn.train import Guide, Task
from jaxsnn.train.guiding import foreseen

SHAPE, T = (6, 6, 1), 2
DRAW = np.random.default_rng(0)
SPLIT = Split(DRAW.integers(0, 256, (24, *SHAPE), np.uint8), DRAW.integers(0, 3, 24, np.int32))
EVENTS = Split(DRAW.integers(0, 2, (24, T, *SHAPE), np.uint8), SPLIT.labels)
TEACHER = models.build("4C3-AP2-3", SHAPE, norm=True, readout="current", seed=1)
GUIDE = Guide(TEACHER, alpha=0.5, temperature=2.0, timesteps=5)


def task_of(encoding="direct", **options):
    return Task(Inputs(SHAPE, T, encoding), loss="ce", guide=GUIDE, **options)


def trained(task, split):
    net = models.build("2C3-AP2-3", SHAPE, readout="current", seed=0)
    found = train.fit(task, optax.sgd(0.1), net, split, epochs=2, batch_size=8, seed=0, show=False)
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (found, net)), strict=True))
    return found.params


@pytest.mark.long
@pytest.mark.parametrize(
    ("encoding", "options"),
    [
        ("direct", {}),
        ("direct", {"micro_batches": 2}),
        ("direct", {"devices": 2, "spike_weight": 0.1}),
        ("events", {}),
    ],
)
def test_scores_that_are_known_train_as_the_teacher_does(encoding, options):
    task, split = task_of(encoding, **options), EVENTS if encoding == "events" else SPLIT
    known = foreseen(task, split.images)
    assert known.guide.teacher is None and known.guide.scores.shape == (24, 3)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        trained(known, split), trained(task, split),
    )  # fmt: skip


@pytest.mark.long
def test_scores_are_those_of_all_the_steps_of_the_teacher():
    known = foreseen(task_of(), SPLIT.images).guide.scores
    values = jnp.asarray(SPLIT.images, jnp.float32) / 255
    scores = TEACHER(direct(values, 5)).readout.mean(0)
    np.testing.assert_allclose(known, scores, atol=1e-6)
    fewer = TEACHER(direct(values, T)).readout.mean(0)
    assert np.abs(known - fewer).max() > 1e-3


@pytest.mark.parametrize(
    "task",
    [
        replace(task_of(), guide=None),
        replace(task_of(), augment="crop-flip"),
        task_of("bernoulli"),
        task_of("poisson"),
        replace(task_of(), active=1),
        replace(task_of(), guide=replace(GUIDE, beta=1.0, stages=("conv1",))),
        replace(task_of(), guide=replace(GUIDE, alpha=None, beta=1.0, stages=("conv1",))),
    ],
)
def test_what_may_differ_between_epochs_is_asked_in_each(task):
    assert foreseen(task, SPLIT.images) is task


def test_scores_of_other_samples_are_refused():
    known = foreseen(task_of(), SPLIT.images)
    few = Split(SPLIT.images[:16], SPLIT.labels[:16])
    with pytest.raises(UserError, match="scores of 24 samples, but split has 16"):
        trained(known, few)


def test_a_guide_without_a_teacher_needs_the_scores_of_the_batch():
    known = foreseen(task_of(), SPLIT.images)
    net = models.build("2C3-AP2-3", SHAPE, readout="current", seed=0)
    x = direct(jnp.asarray(SPLIT.images, jnp.float32) / 255, T)
    with pytest.raises(UserError, match="has scores and no teacher"):
        known.objective(net(x), jnp.asarray(SPLIT.labels), x)
    value = known.objective(net(x), jnp.asarray(SPLIT.labels), x, known.guide.scores)
    assert value == pytest.approx(
        float(task_of().objective(net(x), jnp.asarray(SPLIT.labels), x)), rel=1e-5
    )
