"""Averages of the weights: against a loop, in a phase, in short numbers."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsnn.compress.averaging import averaged
from jaxsnn.errors import UserError


def test_the_phase_hands_over_the_average_and_trains_as_its_optimizer_does():
    draw, decay = np.random.default_rng(0), 0.75
    weights, gradients = draw.normal(size=3), draw.normal(size=(5, 3))
    phase = averaged(optax.sgd(0.1), decay)
    params = {"w": jnp.asarray(weights, jnp.float32)}
    state, mean = phase.optimizer.init(params), weights
    for gradient in gradients:
        updates, state = phase.optimizer.update({"w": jnp.asarray(gradient)}, state, params)
        params = optax.apply_updates(params, updates)
        weights = weights - 0.1 * gradient
        mean = decay * mean + (1 - decay) * weights
    np.testing.assert_allclose(params["w"], weights, rtol=1e-6)
    finished = phase.finish(params, state)
    np.testing.assert_allclose(finished.params["w"], mean, rtol=1e-5)
    assert finished.steps == {}


def test_averages_of_short_numbers_are_kept_long():
    phase, params = averaged(optax.sgd(0.0), 0.999), {"w": jnp.ones(2, jnp.bfloat16)}
    state = phase.optimizer.init(params)
    assert state[1].mean["w"].dtype == jnp.float32
    assert phase.finish(params, state).params["w"].dtype == jnp.bfloat16


def test_a_decay_of_one_is_refused():
    with pytest.raises(UserError, match=r"decay of the average must be in \[0, 1\), found 1"):
        averaged(optax.sgd(0.1), 1.0)
