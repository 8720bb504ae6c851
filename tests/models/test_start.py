"""Start values: their deviation, and that activations of a deep network keep their size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import encode, models
from jaxsnn.neurons import LIF


def test_kernels_have_the_deviation_of_he_and_nothing_else_changes():
    params = {
        "conv1": {"kernel": jnp.zeros((3, 3, 16, 40)), "bias": jnp.ones(40)},
        "dense1": {"kernel": jnp.zeros((100, 50))},
        "dense2": {"kernel": jnp.zeros((100, 50)), "neurons": {"threshold": jnp.float32(2.0)}},
    }
    found = models.he_start(jax.random.key(0), params)
    assert np.std(found["conv1"]["kernel"]) == pytest.approx((2 / 144) ** 0.5, rel=0.03)
    assert np.std(found["dense1"]["kernel"]) == pytest.approx((2 / 100) ** 0.5, rel=0.03)
    alike = np.corrcoef(found["dense1"]["kernel"].ravel(), found["dense2"]["kernel"].ravel())
    assert abs(alike[0, 1]) < 0.05
    np.testing.assert_array_equal(found["conv1"]["bias"], np.ones(40))
    assert found["dense2"]["neurons"]["threshold"] == 2
    again = models.he_start(jax.random.key(0), params)
    jax.tree.map(np.testing.assert_array_equal, found, again)


def test_a_deep_network_of_relus_keeps_the_size_of_what_passes():
    layout = "-".join(["400"] * 8 + ["10"])
    options = {"readout": "current", "activation": "relu", "use_bias": False}
    net = models.build(layout, (400,), LIF(1.0), **options)
    x = encode.direct(jax.random.normal(jax.random.key(1), (32, 400)), 1)

    @jax.jit
    def size(params):
        magnitude = net.replace(params=params)(x).activity.magnitude
        return magnitude["dense8"].mean() / magnitude["dense1"].mean()

    assert 0.5 < size(models.he_start(jax.random.key(0), net.params)) < 2
    assert size(net.params) < 0.01
