"""Layouts: their words, their sizes, their mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import layers, models, tree
from jaxsnn.errors import UserError
from jaxsnn.inputs import Inputs
from jaxsnn.layers import walk
from jaxsnn.neurons import LIF


def outline(make, *args, **options):
    """Return leaf name -> shape of a model's parameters, without allocating any."""
    net = jax.eval_shape(lambda: make(*args, **options))
    return {name: leaf.shape for name, leaf in tree.named_leaves(net.params).items()}


def kernels(make, *args, **options):
    """Return the number of weights of each kernel, first layer to last."""
    shapes = outline(make, *args, **options)
    order = {"conv": 0, "dense": 1}
    names = sorted(
        (name for name in shapes if name.endswith("/kernel")),
        key=lambda name: (order[name.split("/")[0].rstrip("0123456789")], name),
    )
    return [int(np.prod(shapes[name])) for name in names]


def build(layout, shape=(4, 4, 1), **options):
    """Build a network whose arrays are only shapes, and return its module."""
    return jax.eval_shape(lambda: models.build(layout, shape, LIF(0.5, 0.5), **options)).module


def test_the_admm_mnist_net_has_the_sizes_of_the_released_one():
    sizes = kernels(models.mnist_conv)
    assert sizes == [288, 9216, 200704, 1280] and sum(sizes) == 211_488
    shapes = outline(models.mnist_conv)
    assert shapes["conv1/kernel"] == (3, 3, 1, 32) and shapes["dense1/kernel"] == (1568, 128)
    assert shapes["dense2/bias"] == (10,) and len(shapes) == 8


def test_the_admm_cifar_net_has_62_million_weights():
    assert sum(kernels(models.admm_cifar)) == 62_150_016
    assert not [name for name in outline(models.admm_cifar, use_bias=False) if "bias" in name]


def test_the_stbp_nets():
    assert kernels(models.mlp) == [784 * 512, 512 * 10]
    convs = [9 * a * b for a, b in [(3, 128), (128, 256), (256, 512), (512, 1024), (1024, 512)]]
    dense = [8 * 8 * 512 * 1024, 1024 * 512, 512 * 100]
    assert kernels(models.stbp_cifar) == convs + dense
    quarter = kernels(models.stbp_cifar, width=0.25, classes=100)
    assert quarter[0] == 27 * 32 and quarter[1] == convs[1] // 16 and quarter[-1] == 128 * 1000


@pytest.mark.long
def test_the_nets_of_qp_snn_have_their_published_sizes():
    def weights(make):
        shapes = outline(make)
        return sum(int(np.prod(s)) for name, s in shapes.items() if "norm" not in name)

    # The authors also have 64 biases in front of the first norm of VGG-16.
    assert weights(models.vgg16) + 64 == 14_715_658
    assert weights(models.resnet20) == 17_038_026
    shapes = outline(models.vggsnn)
    assert shapes["conv1/kernel"] == (3, 3, 2, 64) and shapes["dense1/kernel"] == (4608, 10)
    assert outline(models.resnet20)["block4/conv1/kernel"] == (3, 3, 128, 256)


@pytest.mark.long
def test_the_nets_of_qp_snn_take_the_widths_that_pruning_keeps():
    widths = [57, 89, 89, 51, 89, 51, 89, *3 * (102, 179), *3 * (204, 512)]
    shapes = outline(models.resnet20, widths=widths)
    found = [shapes["conv1/kernel"][-1]] + [
        shapes[f"block{block}/conv{i}/kernel"][-1] for block in range(1, 10) for i in (1, 2)
    ]
    assert found == widths
    shapes = outline(models.vgg16, (64, 64, 3), classes=200, widths=range(3, 16))
    assert [shapes[f"conv{i}/kernel"][-1] for i in range(1, 14)] == list(range(3, 16))
    assert shapes["dense1/kernel"] == (2 * 2 * 15, 200)
    quarter = outline(models.vggsnn, width=0.25)
    assert [quarter[f"conv{i}/kernel"][-1] for i in (1, 4, 8)] == [16, 64, 128]


def test_widths_that_do_not_fit_are_errors():
    with pytest.raises(UserError, match="widths must be 13 numbers, found 2"):
        outline(models.vgg16, widths=(64, 64))
    with pytest.raises(UserError, match="widths must be in"):
        outline(models.vggsnn, widths=8 * (0,))
    with pytest.raises(UserError, match="width must be in"):
        outline(models.vggsnn, width=0.0)


def test_vgg9_and_vgg11_have_the_sizes_of_the_spatio_temporal_paper():
    sizes = [1728, 73728, 147456, 294912, 589824, 1179648, 2359296, 2359296, 20480]
    assert kernels(models.vgg9) == sizes and sum(sizes) == 7_026_368
    half = [864, *(size // 4 for size in sizes[1:-1]), 10_240]
    assert kernels(models.vgg9, width=0.5) == half
    assert sum(kernels(models.vgg9, classes=100)) == 7_210_688
    assert sum(kernels(models.vgg11, classes=100)) == 11_192_000
    assert all(name.endswith("/kernel") for name in outline(models.vgg9))  # no biases, no norms


def test_vgg9_has_its_neurons_and_its_dropout():
    net = jax.eval_shape(models.vgg9)
    image = jax.ShapeDtypeStruct((1, 1, 32, 32, 3), jnp.float32)
    spikes = jax.eval_shape(lambda net, x: net(x), net, image).activity.spikes
    module = net.module
    assert sum(layer.size for layer in spikes.values()) == 188_416
    # Pooling stands in the place of the dropout behind the other four.
    assert [getattr(module, f"dropout{i}").rate for i in range(1, 5)] == [0.2] * 4
    assert "D" not in models.vgg9.words(dropout=0.0)


def test_the_outputs_of_the_named_nets_are_classes():
    for make, shape in (
        (models.mlp, (784,)),
        (models.mnist_conv, (28, 28, 1)),
        (models.stbp_cifar, (32, 32, 3)),
        (models.admm_cifar, (32, 32, 3)),
    ):
        net, x = jax.eval_shape(make), Inputs(shape, 2).abstract(3)
        assert jax.eval_shape(lambda net, x: net(x).readout, net, x).shape == (2, 3, 10)


def test_layers_are_named_by_kind_and_number():
    chain = build("4C3-AP2-D0.5-8C5S2-MP1-6R-9-V3")
    assert chain.names == (
        "conv1", "pool1", "dropout1", "conv2", "pool2", "flatten1", "dense1", "dense2", "vote",
    )  # fmt: skip
    assert isinstance(chain.pool1, layers.AveragePool) and isinstance(chain.pool2, layers.MaxPool)
    assert chain.pool2.ties == "first" and build("MP2-3", ties="shared").pool1.ties == "shared"
    assert isinstance(chain.dense1, layers.Recurrent) and chain.dropout1.rate == 0.5
    assert chain.conv2.stride == 2 and chain.conv2.kernel.shape == (5, 5, 4, 8)
    assert list(walk.maps(chain)) == [
        "conv1/kernel", "conv2/kernel", "dense1/kernel", "dense1/recurrent", "dense2/kernel",
    ]  # fmt: skip


def test_an_ann_has_the_parameters_of_the_spiking_network_and_no_constants():
    options = {"readout": "current", "use_bias": False}
    for layout, shape in (("4C3-AP2-D0.5-6-3", (4, 4, 1)), ("2C3-3B3S2M4-3", (4, 4, 1))):
        ann = models.build(layout, shape, LIF(), activation="relu", **options)
        snn = models.build(layout, shape, LIF(), **options)
        jax.tree.map(np.testing.assert_array_equal, ann.params, snn.params)
        assert ann.stats == {} and list(ann.synapses) == list(snn.synapses)
    for wrong, message in (
        ({"activation": "tanh"}, "activation 'tanh' is unknown; choose spikes or relu"),
        ({"activation": "relu"}, "activation 'relu' needs a readout that does not spike: choose c"),
        ({"readout": "relu"}, "readout 'relu' is unknown"),
        (
            {"activation": "relu", "readout": "current", "trained": ("decay",)},
            "activation 'relu' has no constants to train, found decay",
        ),
    ):
        with pytest.raises(UserError, match=message):
            build("4-3", (2,), **wrong)
    with pytest.raises(UserError, match="'4R' hears its spikes: readout spikes only, no relu"):
        build("4R-3", (2,), activation="relu", readout="current")


def test_norms_are_in_hidden_layers_only():
    chain = build("4C3-6-3", norm=True, use_bias=False)
    assert chain.conv1.norm is not None and chain.dense1.norm is not None
    assert chain.dense2.norm is None and chain.dense2.bias is None


def test_biases_may_be_left_to_the_read_out():
    shapes = outline(models.mnist_conv, norm=True, use_bias="readout")
    assert [name for name in shapes if name.endswith("/bias") and "norm" not in name] == [
        "dense2/bias"
    ]
    with pytest.raises(UserError, match="use_bias 'last' is unknown; choose True, False or"):
        build("3", (2,), use_bias="last")


def test_a_residual_block_may_have_another_width_in_its_middle():
    chain = build("4C3-8B3S2M3-3")
    assert chain.block1.conv1.kernel.shape == (3, 3, 4, 3) and chain.block1.conv1.stride == 2
    assert chain.block1.conv2.kernel.shape == (3, 3, 3, 8)
    assert chain.dense1.kernel.shape == (2 * 2 * 8, 3)


def test_read_outs():
    neuron = LIF(jnp.asarray([0.5, 0.25, 0.125]), 0.5)
    for readout, decay in (("current", None), ("leaky", neuron.decay)):
        last = models.build("3", (2,), neuron, readout=readout).module.dense1.neurons
        assert isinstance(last, layers.Integrator)
        assert last.decay is None if decay is None else (last.decay[...] == decay).all()
    assert isinstance(build("3", (2,)).dense1.neurons, layers.Neurons)


def test_trained_constants_are_parameters_of_every_spiking_layer():
    shapes = outline(models.mlp, (4, 3, 2), trained=("threshold", "decay"), readout="current")
    constants = {name for name in shapes if "neurons" in name}
    assert constants == {"dense1/neurons/threshold", "dense1/neurons/decay"}


@pytest.mark.parametrize(
    "word",
    ["8c3", "C3", "8C", "8C3S", "0C3", "8C0", "8C3S0", "AP", "AP0", "XP2", "0", "R", "-8", "", "D1",
     "8C3M4", "8B3V", "8B3M0", "8B3M4S2", "D2.0", "V", "V0", "8RR", "3.5", " 8"],
)  # fmt: skip
def test_words_that_are_no_layers_are_named(word):
    with pytest.raises(UserError) as error:
        build(f"8-{word}-3", (4,))
    if not word.startswith("-"):  # which is an empty word before a good one
        assert f"{word!r} is not a layer; write 32C3" in str(error.value)
    assert repr(f"8-{word}-3") in str(error.value)


@pytest.mark.parametrize(
    ("layout", "shape", "message"),
    [
        ("8-4C3", (4, 4, 1), r"'4C3' needs images, but gets \(8,\)"),
        ("MP2-3", (16,), r"'MP2' needs images, but gets \(16,\)"),
        ("2C3-AP2-AP4-3", (4, 4, 1), "'AP4' leaves nothing"),
        ("2C5V-3", (4, 4, 1), "'2C5V' leaves nothing"),
        ("4C3-2B3-3", (4, 4, 1), "'2B3' cannot add its input to its output"),
        ("4C3-4B3", (4, 4, 1), "'4B3' cannot add"),
        ("12-V5", (4,), r"'V5' cannot end \(12,\)"),
        ("12-V3-3", (4,), "'V3' cannot end"),
        ("3C3-V3", (4, 4, 1), r"'V3' cannot end \(4, 4, 3\)"),
        ("AP2-D0.5", (4, 4, 1), "'AP2-D0.5' has no layer with weights"),
    ],
)
def test_layers_that_do_not_fit_are_named(layout, shape, message):
    with pytest.raises(UserError, match=message) as error:
        build(layout, shape)
    assert repr(layout) in str(error.value)


def test_unknown_read_outs_are_errors():
    with pytest.raises(UserError, match="readout 'rate' is unknown; choose spikes, current or"):
        build("3", readout="rate")
    with pytest.raises(UserError, match="'5R' hears its spikes: readout spikes only"):
        build("4-5R", readout="current")
