"""Sizes: those that the QP-SNN paper prints, from shapes alone."""

from functools import cache

import jax
import jax.numpy as jnp
import pytest

from jaxsnn import models, tree
from jaxsnn.errors import UserError
from jaxsnn.inputs import Inputs
from jaxsnn.methods import qp_snn
from jaxsnn.metrics import sizes

SHAPES = {10: (32, 32, 3), 100: (32, 32, 3), 200: (64, 64, 3)}  # CIFAR-10, -100, Tiny-ImageNet

CIFAR = Inputs((32, 32, 3), timesteps=1)

# Wei et al. 2502.05905, table 1: MB with 8, 4 and 2 bits; all rows but those of SEW-ResNet18.
PUBLISHED = {
    ("resnet20", 10, "A"): (6.27, 3.16, 1.61),
    ("resnet20", 10, "B"): (3.92, 1.98, 1.02),
    ("vgg16", 10, "A"): (4.28, 2.16, 1.10),
    ("vgg16", 10, "B"): (1.45, 0.74, 0.39),
    ("resnet20", 100, "A"): (6.45, 3.35, 1.79),
    ("resnet20", 100, "B"): (4.10, 2.17, 1.20),
    ("vgg16", 100, "A"): (2.48, 1.35, 0.79),
    ("vgg16", 100, "B"): (1.85, 1.04, 0.63),
    ("vgg16", 200, "A"): (5.90, 3.78, 2.72),
    ("vgg16", 200, "B"): (4.67, 3.17, 2.41),
    ("vggsnn", 10, "A"): (1.61, 0.90, 0.55),
    ("vggsnn", 10, "B"): (1.05, 0.62, 0.41),
    ("vggsnn", 10, "C"): (0.40, 0.29, 0.24),
}


@cache
def outline(network, classes, setting=None):
    """Return a network of shapes, pruned as in a setting, without any array."""
    published = getattr(models, network)
    shape = (48, 48, 2) if network == "vggsnn" else SHAPES[classes]
    dense = jax.eval_shape(lambda: published(shape, classes=classes))
    if not setting:
        return dense
    ratios = models.qp_snn.ratios(network, setting, classes)
    leaves = tree.named_leaves(dense.params)
    channels = {layer: leaves[f"{layer}/kernel"].shape[-1] for layer in dense.order[:-1]}
    widths = [int(c * (1 - ratios.get(layer, 0))) for layer, c in channels.items()]
    return jax.eval_shape(lambda: published(shape, classes=classes, widths=widths))


def inputs(network, classes):
    shape = (48, 48, 2) if network == "vggsnn" else SHAPES[classes]
    return Inputs(shape, timesteps=1)


@pytest.mark.long
@pytest.mark.parametrize(("network", "classes", "setting"), PUBLISHED)
def test_the_sizes_are_the_published_ones(network, classes, setting):
    net = outline(network, classes, setting)
    quantized = qp_snn.quantized_leaves(net, inputs(network, classes))
    found = [sizes.megabytes(net.params, dict.fromkeys(quantized, bits)) for bits in (8, 4, 2)]
    published = PUBLISHED[network, classes, setting]
    assert [f"{x:.2f}" for x in found] == [f"{x:.2f}" for x in published]


@pytest.mark.parametrize(
    ("network", "classes", "megabytes"), [("vgg16", 10, 58.88), ("resnet20", 100, 68.4)]
)
def test_the_uncompressed_sizes_are_the_published_ones(network, classes, megabytes):
    assert sizes.megabytes(outline(network, classes).params) == pytest.approx(megabytes, abs=0.05)


def test_the_dense_networks_have_their_published_numbers_of_parameters():
    assert round(sizes.count(outline("resnet20", 10).params, "*/kernel") / 1e6, 3) == 17.038
    assert round(sizes.count(outline("vgg16", 10).params, "*/kernel") / 1e6, 3) == 14.716


@pytest.mark.long
def test_the_connections_left_are_the_published_share():
    # Table 6, to the last digit but one: of all kernels in VGG-16, of the quantized in ResNet-20.
    dense, small = outline("vgg16", 10), outline("vgg16", 10, "B")
    share = sizes.count(small.params, "*/kernel") / sizes.count(dense.params, "*/kernel")
    assert share == pytest.approx(0.0961, abs=2e-4)
    dense, small = outline("resnet20", 100), outline("resnet20", 100, "B")
    counts = [
        sum(sizes.count(net.params, name) for name in qp_snn.quantized_leaves(net, CIFAR))
        for net in (small, dense)
    ]
    assert counts[0] / counts[1] == pytest.approx(0.2269, abs=2e-4)


def test_bits_by_hand():
    params = {"conv1": {"kernel": jnp.zeros((3, 5))}, "norm": {"scale": jnp.zeros(7)}}
    assert sizes.num_bits(params) == (15 + 7) * 32
    assert sizes.num_bits(params, {"*/kernel": 3}) == 15 * 3 + 7 * 32
    assert sizes.num_bits(params, {"norm/*": 1, "*": 2}) == 15 * 2 + 7
    assert sizes.count(params) == 22 and sizes.count(params, "norm/*") == 7


def test_widths_and_patterns_out_of_range_are_errors():
    params = {"conv1": {"kernel": jnp.zeros((3, 5))}}
    with pytest.raises(UserError, match="width of 'conv1/kernel' must be in"):
        sizes.num_bits(params, {"*": 33})
    with pytest.raises(UserError, match="'dense' matches no leaf"):
        sizes.num_bits(params, {"dense": 2})
