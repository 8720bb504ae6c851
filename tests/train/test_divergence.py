"""A training that has diverged is noticed, one that is only bad is not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsnn import compress, models, sweep, train
from jaxsnn.data import Split
from jaxsnn.inputs import Inputs
from jaxsnn.neurons import LIF
from jaxsnn.train import Checkpoints, divergence
from jaxsnn.train.divergence import Watch

DRAW = np.random.default_rng(0)
LABELS = (np.arange(90) % 3).astype(np.int32)
SPLIT = Split(DRAW.integers(0, 256, (90, 12), dtype=np.uint8), LABELS)
NET = models.build("8-3", (12,), LIF(0.5, 0.3))
TASK = train.Task(Inputs((12,), 2))
FIT = {"epochs": 2, "batch_size": 10, "show": False}
GRID = {"*/kernel": compress.uniform_grid(4)}

FAR_TOO_LARGE = {
    "sgd": optax.sgd(1e30),
    "quantized": compress.quantized(optax.adam(1e30), GRID),
}


@pytest.mark.long
@pytest.mark.parametrize("name", FAR_TOO_LARGE)
def test_a_learning_rate_that_is_far_too_large_is_one_line(name, tmp_path):
    """Its loss stays finite: spikes are bounded."""
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(train.Diverged) as caught:
        train.fit(TASK, FAR_TOO_LARGE[name], NET, SPLIT, **FIT, checkpoints=checkpoints)
    checkpoints.close()
    message = str(caught.value)
    assert message.startswith("phase 'train' diverged in epoch 1: ") and "\n" not in message
    assert "(loss " in message and ", spike rate " in message and checkpoints.latest() is None
    assert "the last good checkpoint is the phase before; lower the learning rate" in message


@pytest.mark.long
def test_a_training_that_learns_nothing_has_not_diverged():
    for rate in (1e-9, 1.0):  # of random images there is nothing to learn
        trained = train.fit(TASK, optax.adam(rate), NET, SPLIT, **FIT)
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(trained.params))


@pytest.mark.run
def test_lanes_that_diverge_are_marked():
    def lane(point, start):
        return optax.adam(point["learning_rate"]), start

    found = sweep.run(lane, {"learning_rate": [1e-3, 1e30]}, TASK, NET, {"train": SPLIT}, **FIT)
    assert found.diverged.tolist() == [False, True]
    assert [row["diverged"] for row in found.rows] == [False, True]


@pytest.mark.parametrize(
    ("factor", "accuracy", "expected"),
    [(1.1, 0.3, True), (1.1, 0.9, False), (0.9, 0.3, False), (np.inf, 0.9, True)],
)
def test_it_takes_both_chance_and_weights_beyond_all_bounds(factor, accuracy, expected):
    """The bound is 10,000 times the largest weight; what is not finite has no excuse."""
    start = {"kernel": jnp.asarray([[0.5, -2.0]]), "bias": jnp.ones(1)}
    now = {"kernel": start["kernel"] * 1e4 * factor, "bias": 1e9 * start["bias"]}
    traced = jax.jit(divergence.has_diverged)(start, now, jnp.float32(accuracy), LABELS)
    assert bool(traced) == expected
    watch = Watch.over("train", None, start, LABELS)
    figures = {"loss": 1.0, "accuracy": accuracy, "spike_rate": 0.0}
    if not expected:
        watch.check(0, figures, now)
        return
    with pytest.raises(train.Diverged, match="kernel .*nothing was saved"):
        watch.check(0, figures, now)


def test_chance_is_the_most_frequent_class_and_three_deviations():
    labels = np.asarray([2] * 60 + [0] * 30 + [7] * 10)
    expected = 0.6 + 3 * (0.6 * 0.4 / 100) ** 0.5
    assert divergence.chance(labels) == pytest.approx(expected)
    assert float(jax.jit(divergence.chance)(labels)) == pytest.approx(expected)


@pytest.mark.run
def test_trained_constants_do_not_leave_their_range():
    net = models.build("8-3", (12,), LIF(0.9, 0.3), trained=("decay", "threshold"))
    trained = train.fit(TASK, optax.sgd(300.0), net, SPLIT, epochs=1, batch_size=10, show=False)
    constants = [layer["neurons"] for layer in trained.params.values()]
    assert all(0 <= each["decay"] <= 1 and each["threshold"] >= 0.001 for each in constants)
    ends = [each["decay"] in (0, 1) or each["threshold"] == np.float32(0.001) for each in constants]
    assert any(ends)
