"""QP-SNN's choices: which layers are pruned and quantized, how much, and how it trains."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxsnn import models
from jaxsnn.errors import UserError
from jaxsnn.methods import qp_snn
from jaxsnn.metrics import operations
from jaxsnn.network import split
from jaxsnn.neurons import LIF


def outline(layout, shape=(8, 8, 3), **options):
    def params():
        return split(models.build(layout, shape, LIF(0.5, 1.0), rngs=nnx.Rngs(0), **options)).params

    return jax.eval_shape(params)


def named(make):
    return jax.eval_shape(lambda: split(make(rngs=nnx.Rngs(0))).params)


@pytest.mark.parametrize(
    ("network", "setting", "classes", "kept"),
    [
        ("vgg16", "A", 10, [35, 35, 70, 70, 140, 140, 140, 250, 250, 250, 250, 250]),
        ("vgg16", "B", 10, [32, 32, 65, 65, 130, 130, 130, 102, 102, 102, 102, 102]),
        ("vgg16", "B", 200, [35, 35, 70, 70, 140, 140, 140, 194, 194, 194, 194, 194]),
        ("vggsnn", "A", 10, [32, 64, 128, 76, 153, 153, 153]),
        ("vggsnn", "C", 10, [11, 23, 46, 17, 35, 35, 35]),
        ("resnet20", "A", 10, [57, 89, 89, 51, 89, 51, 89, *3 * (102, 179), 204, 204, 204]),
        ("resnet20", "B", 100, [57, 83, 83, 32, 83, 32, 83, *3 * (64, 166), 128, 128, 128]),
    ],
)
def test_the_ratios_give_the_published_widths_of_exactly_the_prunable_layers(
    network, setting, classes, kept
):
    params = named(models.by_name(network))
    ratios = qp_snn.ratios(network, setting, classes)
    widths = qp_snn.widths(params)
    assert tuple(ratios) == qp_snn.prunable(params)
    assert [int(widths[x] * (1 - r)) for x, r in ratios.items()] == kept


@pytest.mark.parametrize(
    ("network", "setting", "classes"),
    [("vgg16", "C", 10), ("resnet20", "A", 200), ("vggsnn", "A", 100), ("vgg9", "A", 10)],
)
def test_settings_that_the_paper_has_not_are_errors(network, setting, classes):
    message = f"no published ratios for '{network}' with {classes} classes, setting '{setting}'"
    with pytest.raises(UserError, match=message):
        qp_snn.ratios(network, setting, classes)


def test_layers_come_in_order_and_numbers_are_no_letters():
    params = outline("-".join(["2C3"] * 11) + "-2B3-4-3")
    order = [f"conv{i}" for i in range(1, 12)] + ["block1/conv1", "block1/conv2"]
    assert list(qp_snn.widths(params)) == [*order, "dense1", "dense2"]
    assert qp_snn.quantized_leaves(params)[0] == "conv2/kernel"
    assert qp_snn.quantized_leaves(params)[-1] == "dense1/kernel"


def test_what_enters_the_read_out_is_not_pruned():
    assert qp_snn.prunable(outline("4C3-5C3-6")) == ("conv1",)
    assert qp_snn.prunable(outline("4C3-5C3-7-6")) == ("conv1", "conv2")
    assert qp_snn.prunable(outline("5-6", (4,))) == ()
    blocks = qp_snn.prunable(outline("4C3-4B3-8B3-8B3-6"))
    assert blocks == ("conv1", "block1/conv1", "block1/conv2", "block2/conv1", "block3/conv1")


def test_layers_of_other_names_are_errors():
    with pytest.raises(UserError, match="layer 'stem' must be named conv, block, dense and a num"):
        qp_snn.widths({"stem": {"kernel": jnp.zeros((3, 2))}})


def test_size_counts_the_inner_kernels_at_few_bits():
    params = outline("4C3-5C3-6", norm=True, use_bias="readout")
    full = 27 * 4 + 2 * 4 + 2 * 5 + 64 * 5 * 6 + 6
    assert qp_snn.size_mb(params, 2) == pytest.approx((full * 32 + 9 * 4 * 5 * 2) / 8e6)


def test_fresh_norms_are_those_of_a_new_network():
    net = split(models.build("4C3-3", (4, 4, 1), LIF(), norm=True, rngs=nnx.Rngs(0)))
    worn = jax.tree.map(lambda leaf: leaf + 2, (net.params, net.stats))
    params, stats = qp_snn.fresh_norms(*worn)
    jax.tree.map(
        np.testing.assert_array_equal, params["conv1"]["norm"], net.params["conv1"]["norm"]
    )
    jax.tree.map(np.testing.assert_array_equal, stats["conv1"]["norm"], net.stats["conv1"]["norm"])
    np.testing.assert_array_equal(params["conv1"]["kernel"], worn[0]["conv1"]["kernel"])
    np.testing.assert_array_equal(
        stats["conv1"]["neurons"]["decay"], worn[1]["conv1"]["neurons"]["decay"]
    )


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_the_decay_is_in_the_gradient_of_convolution_kernels_alone(name):
    params = {
        "conv1": {"kernel": jnp.full((1, 1, 1, 1), 4.0), "bias": jnp.full(1, 4.0)},
        "dense1": {"kernel": jnp.full((1, 1), 4.0)},
    }
    rule = qp_snn.optimizer(0.5, name, weight_decay=0.25)
    updates, _ = rule.update(jax.tree.map(jnp.zeros_like, params), rule.init(params), params)
    moved = optax.apply_updates(params, updates)
    # The gradient is 0.25 * 4 = 1; the first step of Adam is its sign times the rate.
    assert moved["conv1"]["kernel"].item() == pytest.approx(3.5, abs=1e-5)
    assert moved["conv1"]["bias"].item() == moved["dense1"]["kernel"].item() == 4.0


def test_unknown_optimizers_are_errors():
    with pytest.raises(UserError, match="optimizer 'lion' is unknown; choose adam or sgd"):
        qp_snn.optimizer(0.1, "lion")


@pytest.mark.parametrize(
    ("channels", "timesteps", "synops", "millijoule"),
    [(64, 4, 54.60e6, 0.2047), (32, 4, 11.63e6, 0.0459), (64, 2, 415.64e6, 0.7563)],
)
def test_the_published_energies_are_those_of_our_table(channels, timesteps, synops, millijoule):
    """Table 6: VGG-16, pruned VGG-16, ResNet-20; the SynOps printed there are those of one step."""
    stem = 32 * 32 * 27 * channels  # multiplied once for all steps
    found = operations.energy(timesteps * synops, stem)
    assert found / 1e9 == pytest.approx(millijoule, abs=5e-5)
