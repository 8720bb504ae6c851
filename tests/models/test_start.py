"""Start values: their deviation, and that activations of a deep network keep their size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import encode, layers, models
from jaxsnn.errors import UserError
from jaxsnn.network import Network
from jaxsnn.neurons import LIF


@pytest.mark.long
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


@pytest.mark.long
def test_the_start_of_the_codes_of_vgg_depends_on_the_outputs():
    params = {
        "conv1": {"kernel": jnp.zeros((3, 3, 16, 64)), "bias": jnp.ones(64)},
        "dense1": {"kernel": jnp.zeros((100, 50))},
    }
    found = models.fan_out_start(jax.random.key(0), params)
    assert np.std(found["conv1"]["kernel"]) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.03)
    assert np.std(found["dense1"]["kernel"]) == pytest.approx(0.01, rel=0.03)
    np.testing.assert_array_equal(found["conv1"]["bias"], np.ones(64))


@pytest.mark.long
def test_scaled_start_values_make_every_layer_of_a_deep_network_fire():
    net = models.build("-".join(["64"] * 5 + ["10"]), (64,), LIF(0.25, 0.75))
    x = encode.direct(jax.random.normal(jax.random.key(1), (32, 64)), 4)
    found = models.firing_start(net, x)

    @jax.jit
    def rates(net):
        return {layer: each.mean() / 4 for layer, each in net(x).activity.spikes.items()}

    assert min(rates(net).values()) == 0 and min(rates(found).values()) > 0.1
    for layer, leaves in found.params.items():  # one factor for a layer
        factors = [leaf / net.params[layer][name] for name, leaf in leaves.items()]
        np.testing.assert_allclose(factors[0].mean(), factors[1].mean(), rtol=1e-4)
    watched = Network.of(layers.watch(found.module))
    current = jax.jit(lambda net: net(x).activity.current)(watched)
    for each in current.values():
        assert float(jnp.std(each)) == pytest.approx(0.75, rel=1e-3)
    with pytest.raises(UserError, match="without norms"):
        models.firing_start(models.build("8-3", (64,), norm=True), x)


@pytest.mark.long
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
