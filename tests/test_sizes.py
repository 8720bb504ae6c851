"""Sizes: those that the QP-SNN paper prints, from shapes alone."""

from functools import cache

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jaxsnn import models
from jaxsnn.errors import UserError
from jaxsnn.methods import qp_snn
from jaxsnn.metrics import sizes
from jaxsnn.network import split

SHAPES = {10: (32, 32, 3), 100: (32, 32, 3), 200: (64, 64, 3)}  # CIFAR-10, -100, Tiny-ImageNet

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
    """Return the shapes of a network's parameters, pruned as in a setting, without any array."""
    published = models.by_name(network)
    shape = (48, 48, 2) if network == "vggsnn" else SHAPES[classes]
    ratios = qp_snn.ratios(network, setting, classes) if setting else {}

    def params(widths=None):
        net = published(shape, classes=classes, widths=widths, rngs=nnx.Rngs(0))
        return split(net).params

    dense = jax.eval_shape(params)
    if not setting:
        return dense
    kept = {x: int(c * (1 - ratios.get(x, 0))) for x, c in qp_snn.widths(dense).items()}
    del kept["dense1"]
    return jax.eval_shape(lambda: params(list(kept.values())))


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize(("network", "classes", "setting"), PUBLISHED)
def test_the_sizes_are_the_published_ones(network, classes, setting, bits):
    published = PUBLISHED[network, classes, setting][(8, 4, 2).index(bits)]
    found = qp_snn.size_mb(outline(network, classes, setting), bits)
    assert f"{found:.2f}" == f"{published:.2f}"


@pytest.mark.parametrize(
    ("network", "classes", "megabytes"), [("vgg16", 10, 58.88), ("resnet20", 100, 68.4)]
)
def test_the_uncompressed_sizes_are_the_published_ones(network, classes, megabytes):
    assert sizes.megabytes(outline(network, classes)) == pytest.approx(megabytes, abs=0.05)


def test_the_dense_networks_have_their_published_numbers_of_parameters():
    assert round(sizes.count(outline("resnet20", 10), "*/kernel") / 1e6, 3) == 17.038
    assert round(sizes.count(outline("vgg16", 10), "*/kernel") / 1e6, 3) == 14.716


def test_the_connections_left_are_the_published_share():
    # Table 6, to the last digit but one: of all kernels in VGG-16, of the quantized in ResNet-20.
    dense, small = outline("vgg16", 10), outline("vgg16", 10, "B")
    share = sizes.count(small, "*/kernel") / sizes.count(dense, "*/kernel")
    assert share == pytest.approx(0.0961, abs=2e-4)
    dense, small = outline("resnet20", 100), outline("resnet20", 100, "B")
    counts = [
        sum(sizes.count(tree, name) for name in qp_snn.quantized_leaves(tree))
        for tree in (small, dense)
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
