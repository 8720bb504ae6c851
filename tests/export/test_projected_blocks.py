"""Residual blocks whose shortcut is a convolution of 1 x 1, through the files that leave."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import encode, export, models
from jaxsnn.errors import UserError
from jaxsnn.export.architecture import describe, rebuild
from jaxsnn.neurons import LIF


@pytest.fixture(scope="module")
def net():
    options = {"readout": "current", "use_bias": False, "seed": 0}
    return models.build("3C3-4B3S2P-3", (4, 4, 1), LIF(0.5, 0.3), **options)


@pytest.mark.long
def test_a_file_describes_and_restores_it(net, tmp_path):
    text = json.loads(json.dumps(describe(net.module)))
    assert text[1]["kind"] == "projected_residual" and describe(rebuild(text)) == text
    export.save(tmp_path / "net.safetensors", net)
    again = export.load(tmp_path / "net.safetensors").network
    x = encode.direct(jnp.ones((1, 4, 4, 1)), 3)
    np.testing.assert_array_equal(again(x).readout, net(x).readout)


def test_nir_holds_its_weights(net):
    graph = export.to_nir(net, inputs=(4, 4, 1))
    kernel = np.asarray(net.params["block1"]["projection"]["kernel"])[0, 0]
    found = np.asarray(graph.nodes["block1_shortcut"].weight)[:, :, 0, 0]
    np.testing.assert_allclose(found / found.flat[0], kernel.T / kernel.flat[0], rtol=1e-5)


def test_its_channels_are_cut_with_those_of_the_shortcut(net):
    keep = {"conv1": [0, 1], "block1/conv1": [1, 3], "block1/conv2": [0, 2, 3]}
    small = export.shrink(net, keep)
    found, whole = (each.params["block1"]["projection"]["kernel"] for each in (small, net))
    np.testing.assert_array_equal(found, np.asarray(whole)[:, :, :2][..., [0, 2, 3]])
    with pytest.raises(UserError, match="no layer 'block1/projection' to shrink"):
        export.shrink(net, {"block1/projection": [0]})
