"""Statistics of norms measured anew: against a loop over the same batches."""

import jax
import numpy as np
import pytest

from jaxsnn import inputs, models
from jaxsnn.errors import UserError
from jaxsnn.train import Task
from jaxsnn.train.calibrate import choose
from jaxsnn.train.settling import settle_norms

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 6), np.uint8)
TASK = Task(inputs.Inputs((6,), timesteps=2))


def test_norms_settle_on_the_statistics_of_the_batches_and_nothing_else_changes():
    net = models.build("5-3", (6,), norm=True, seed=1)
    after = settle_norms(TASK, net, IMAGES, batches=3, batch_size=4, seed=2)
    kernel, bias = (np.asarray(net.params["dense1"][name]) for name in ("kernel", "bias"))
    mean, var = np.zeros(5), np.ones(5)
    for rows in choose(12, 3, 4, 2)[0]:
        current = IMAGES[rows] / 255 @ kernel + bias  # the same at both steps
        mean, var = 0.9 * mean + 0.1 * current.mean(0), 0.9 * var + 0.1 * current.var(0)
    found = after.stats["dense1"]["norm"]
    np.testing.assert_allclose(found["mean"], mean, atol=1e-6)
    np.testing.assert_allclose(found["var"], var, rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, after.params, net.params)


def test_a_network_without_norms_stays_and_too_few_images_are_refused():
    net = models.build("5-3", (6,), seed=1)
    assert settle_norms(TASK, net, IMAGES, batches=1, batch_size=4) is net
    with pytest.raises(UserError, match="needs 5000 images, but the set has 12"):
        settle_norms(TASK, net, IMAGES)
