"""Norms: which there are, and what a LayerNorm is."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsnn import export, layers, models
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.layers import Integrator, Tape
from jaxsnn.layers.norms import kind_of, make_norm


def dense(**options):
    options = {"neurons": Integrator(), "norm": "layer", "rngs": nnx.Rngs(0)} | options
    return layers.Dense(3, 4, **options)


@pytest.mark.parametrize("train", [False, True])
def test_a_layer_norm_is_the_formula(train):
    layer, random = dense(), np.random.default_rng(0)
    layer.norm.scale[...] = jnp.asarray(random.random(4), jnp.float32)
    layer.norm.bias[...] = jnp.asarray(random.random(4), jnp.float32)
    x = random.standard_normal((2, 1, 3)).astype(np.float32)
    current = x @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])
    spread = np.sqrt(current.var(-1, keepdims=True) + 1e-5)
    expected = (current - current.mean(-1, keepdims=True)) / spread
    expected = expected * np.asarray(layer.norm.scale[...]) + np.asarray(layer.norm.bias[...])
    found = layer(Signal(jnp.asarray(x), 2), Tape(train=train)).value
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_short_currents_are_normalised_in_float32():
    layer = dense(dtype=jnp.bfloat16)
    x = jnp.ones((2, 3), jnp.bfloat16)
    found = layer.current(x, Tape(), jnp.bfloat16)
    exact = layer.current(x, Tape(), jnp.float32)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), exact, rtol=0.05, atol=0.05)


def test_norms_have_names():
    kinds = {kind: kind_of(make_norm(kind, 3, nnx.Rngs(0))) for kind in (False, True, "layer")}
    assert kinds == {False: False, True: "batch", "layer": "layer"}
    with pytest.raises(
        UserError, match="norm 'group' is unknown; choose one of batch, layer, or F"
    ):
        dense(norm="group")


def test_a_layer_norm_stays_and_its_channels_are_not_cut():
    net = models.build("4-4-3", (3,), norm="layer", use_bias=False)
    assert not net.has_norms and kind_of(net.module.dense1.norm) == "layer"
    with pytest.raises(
        UserError, match="'dense1' has a LayerNorm, whose factor each input sets an"
    ):
        export.fold_norms(net)
    with pytest.raises(UserError, match="'dense1' has a LayerNorm, which averages over them"):
        export.shrink(net, {"dense1": [0]})
    assert export.shrink(net).params["dense1"]["kernel"].shape == (3, 4)
