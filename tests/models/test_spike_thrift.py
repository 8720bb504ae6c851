"""The networks of Spike-Thrift: their published numbers of weights, and what they consist of."""

import jax
import numpy as np
import pytest

from jaxsnn import layers, tree
from jaxsnn.errors import UserError
from jaxsnn.models import spike_thrift_network, thrift_vgg16


def shapes(name, fc="single", **options):
    """Return leaf name -> shape of the parameters, without allocating any."""
    net = jax.eval_shape(lambda: spike_thrift_network(name, fc)(**options))
    return {name: leaf.shape for name, leaf in tree.named_leaves(net.params).items()}


def weights(name, fc="single", *, dense, **options):
    """Return the number of weights, in dense layers or in all others."""
    found = shapes(name, fc, **options)
    chosen = [shape for leaf, shape in found.items() if leaf.startswith("dense") == dense]
    return sum(int(np.prod(shape)) for shape in chosen)


@pytest.mark.long
def test_the_networks_have_their_published_numbers_of_weights():
    assert weights("vgg16", dense=False) == 14_710_464
    assert weights("vgg16", "wide", dense=True) == 2048 * 4096 + 4096 * 4096 + 4096 * 10
    assert weights("vgg16", dense=True) == 2048 * 10
    # Tiny-ImageNet: 64 x 64 pixels and 200 classes, 4 x 4 pixels left.
    tiny = shapes("vgg16", input_shape=(64, 64, 3), classes=200)
    assert tiny["dense1/kernel"] == (8192, 200)
    assert weights("vgg11", dense=False) == 10_987_200
    assert weights("vgg11", "wide", dense=True, classes=100) == 8192 * 4096 + 4096 * 4196
    assert weights("resnet12", dense=False) == 4_966_080
    assert weights("resnet12", dense=True) == 2048 * 10


def test_only_kernels_are_trained_and_only_changes_of_shape_are_projected():
    found = shapes("resnet12")
    assert all(leaf.endswith("/kernel") for leaf in found)
    projected = [leaf for leaf in found if "projection" in leaf]
    assert projected == [f"block{i}/projection/kernel" for i in (2, 3, 4)]
    assert found["block4/projection/kernel"] == (1, 1, 256, 512)


def test_a_factor_on_the_width_acts_on_dense_layers_too():
    found = shapes("vgg16", "wide", width=0.25)
    assert found["conv1/kernel"] == (3, 3, 3, 16) and found["dense2/kernel"] == (1024, 1024)


def test_poolings_are_averages_and_take_the_place_of_dropout():
    module = jax.eval_shape(thrift_vgg16).module
    kinds = [type(getattr(module, name)).__name__ for name in module.names]
    assert kinds.count("AveragePool") == 4 and kinds.count("Dropout") == 8
    pairs = list(zip(kinds, kinds[1:], strict=False))
    assert ("Dropout", "AveragePool") not in pairs and ("AveragePool", "Dropout") not in pairs
    plain = thrift_vgg16.words(dropout=0.0)
    assert "D0" not in plain and plain.startswith("64C3-64C3-AP2")
    assert isinstance(module.dense1.neurons, layers.Integrator)


def test_a_wide_network_that_there_is_not_is_refused():
    assert spike_thrift_network("lenet") is None
    with pytest.raises(UserError, match="fc 'wide' is unknown for resnet12"):
        spike_thrift_network("resnet12", "wide")
