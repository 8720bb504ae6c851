"""What the published codes descend with: decays in the gradient, of which leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsnn import compress
from jaxsnn.errors import UserError
from jaxsnn.methods import optimizers


@pytest.mark.long
@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_the_decay_is_in_the_gradient_of_convolution_kernels_alone(name):
    params = {
        "conv1": {"kernel": jnp.full((1, 1, 1, 1), 4.0), "bias": jnp.full(1, 4.0)},
        "dense1": {"kernel": jnp.full((1, 1), 4.0)},
    }
    rule = optimizers.descent(0.5, name, conv_decay=0.25)
    updates, _ = rule.update(jax.tree.map(jnp.zeros_like, params), rule.init(params), params)
    moved = optax.apply_updates(params, updates)
    # The gradient is 0.25 * 4 = 1; the first step of Adam is its sign times the rate.
    assert moved["conv1"]["kernel"].item() == pytest.approx(3.5, abs=1e-5)
    assert moved["conv1"]["bias"].item() == moved["dense1"]["kernel"].item() == 4.0


def test_unknown_optimizers_are_refused():
    with pytest.raises(UserError, match="optimizer 'lion' is unknown; choose adam or sgd"):
        optimizers.descent(0.1, "lion")


def test_the_norm_term_is_the_gradient_of_the_norms_of_the_selected_leaves():
    kernel = jnp.asarray(np.random.default_rng(6).normal(size=(8, 3)), jnp.float32)
    params = {"out": {"bias": jnp.ones(3), "kernel": kernel}}
    decay = optimizers.norm_decay(0.5, {"*/kernel": compress.keep_largest(0.5)})
    nothing = jax.tree.map(jnp.zeros_like, params)
    found, _ = decay.update(nothing, decay.init(params), params)
    expected = jax.grad(lambda leaf: 0.5 * jnp.sqrt(jnp.sum(leaf**2)))(params["out"]["kernel"])
    np.testing.assert_allclose(found["out"]["kernel"], expected, rtol=1e-6)
    assert not jnp.any(found["out"]["bias"])
