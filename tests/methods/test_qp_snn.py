"""QP-SNN: which layers are pruned and quantized, how it trains, the whole method on small data."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsnn import data, export, layers, models, train
from jaxsnn.errors import UserError
from jaxsnn.inputs import Inputs
from jaxsnn.methods import channels, qp_snn
from jaxsnn.metrics import operations
from jaxsnn.network import Network
from jaxsnn.neurons import LIF


def outline(layout, shape=(8, 8, 3), **options):
    """Return a network with shapes in the place of arrays, and its inputs."""
    build = partial(models.build, layout, shape, LIF(0.5, 1.0), seed=0, **options)
    return jax.eval_shape(build), Inputs(shape, timesteps=2)


def published(name):
    network = getattr(models, name)
    return jax.eval_shape(partial(network, seed=0)), Inputs(network.input_shape, timesteps=2)


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
    net, inputs = published(network)
    ratios = qp_snn.ratios(network, setting, classes)
    assert tuple(ratios) == qp_snn.prunable(net, inputs)
    found = channels.kept({x: np.zeros((1, width_of(net, x))) for x in ratios}, ratios)
    assert [len(each) for each in found.values()] == kept


def width_of(net, layer):
    params = net.params
    for part in layer.split("/"):
        params = params[part]
    return params["kernel"].shape[-1]


@pytest.mark.parametrize(
    ("network", "setting", "classes"),
    [("vgg16", "C", 10), ("resnet20", "A", 200), ("vggsnn", "A", 100), ("vgg9", "A", 10)],
)
def test_settings_that_the_paper_has_not_are_errors(network, setting, classes):
    message = f"no published ratios for '{network}' with {classes} classes, setting '{setting}'"
    with pytest.raises(UserError, match=message):
        qp_snn.ratios(network, setting, classes)


@pytest.mark.long
def test_of_resnet20_all_but_the_ends_are_quantized_and_the_blocks_of_512_keep_their_outputs():
    net, inputs = published("resnet20")
    blocks = [f"block{i}/conv{j}" for i in range(1, 10) for j in (1, 2)]
    kept = {f"block{i}/conv2" for i in (7, 8, 9)}
    assert qp_snn.prunable(net, inputs) == ("conv1", *(x for x in blocks if x not in kept))
    assert qp_snn.quantized_leaves(net, inputs) == tuple(f"{x}/kernel" for x in blocks)
    assert channels.joined(net, inputs) == {
        f"block{i}/conv2": tuple(f"block{j}/conv2" for j in range(first, first + 3))
        for first in (1, 4, 7)
        for i in range(first, first + 3)
    }


@pytest.mark.parametrize(
    ("network", "megabytes"),
    [("resnet20", 8.586536), ("vgg16", 7.415592), ("vggsnn", 4.818984)],
)
@pytest.mark.long
def test_whole_networks_have_the_size_of_the_paper_at_four_bits(network, megabytes):
    net, inputs = published(network)
    assert qp_snn.size_mb(net, inputs, 4) == pytest.approx(megabytes, abs=1e-9)


def test_layers_come_in_order_and_numbers_are_no_letters():
    net, inputs = outline("-".join(["2C3"] * 11) + "-2B3-4-3")
    order = [f"conv{i}" for i in range(2, 12)] + ["block1/conv1", "block1/conv2", "dense1"]
    assert qp_snn.quantized_leaves(net, inputs) == tuple(f"{layer}/kernel" for layer in order)


@pytest.mark.parametrize(
    ("layout", "shape", "found"),
    [
        ("4C3-5C3-6", (8, 8, 3), ("conv1",)),
        ("4C3-5C3-7-6", (8, 8, 3), ("conv1", "conv2")),
        ("5-6", (4,), ()),
        ("4C3-4B3-8B3-8B3-6", (8, 8, 3),
         ("conv1", "block1/conv1", "block1/conv2", "block2/conv1", "block3/conv1")),
    ],
)  # fmt: skip
def test_what_enters_the_read_out_is_not_pruned(layout, shape, found):
    assert qp_snn.prunable(*outline(layout, shape)) == found


class Mine(nnx.Module):
    """Free names, in no alphabetical order, and a skip of one's own."""

    def __init__(self, rngs):
        neuron = LIF(0.5, 1.0)
        self.z = layers.Conv((8, 8, 1), 4, neurons=neuron, rngs=rngs)
        self.b = layers.Conv((8, 8, 4), 6, neurons=neuron, rngs=rngs)
        self.a = layers.Conv((8, 8, 6), 6, neurons=neuron, rngs=rngs)
        self.c = layers.Conv((8, 8, 6), 5, neurons=neuron, rngs=rngs)
        self.pool = layers.MaxPool(2)
        self.conv1 = layers.Conv((4, 4, 5), 3, neurons=neuron, rngs=rngs)
        self.out = layers.Dense(48, 10, neurons=layers.Integrator(), rngs=rngs)
        self.flatten = layers.Flatten()

    def __call__(self, x, tape):
        first = self.b(self.z(x, tape), tape)
        joined = self.a(first, tape) + first
        hidden = self.conv1(self.pool(self.c(joined, tape), tape), tape)
        return self.out(self.flatten(hidden, tape), tape)


def test_a_topology_of_ones_own_is_cut_where_channels_go_alone():
    net = Network.of(Mine(nnx.Rngs(0)))
    keep = {"z": [0, 1], "c": [0, 2, 4]}
    assert set(keep) <= set(qp_snn.prunable(net, TASK.inputs))
    small = export.shrink(net, keep, inputs=TASK.inputs)
    kernels = {name: leaf["kernel"].shape[-2:] for name, leaf in small.params.items()}
    assert kernels == {
        "z": (1, 2), "b": (2, 6), "a": (6, 6), "c": (6, 3), "conv1": (3, 3), "out": (48, 10),
    }  # fmt: skip


def test_the_topology_is_read_off_a_pass_and_no_name_counts():
    net, inputs = Network.of(Mine(nnx.Rngs(0))), Inputs((8, 8, 1), timesteps=2)
    # a and b are added to each other; conv1 enters the read-out.
    assert qp_snn.prunable(net, inputs) == ("z", "c")
    assert qp_snn.quantized_leaves(net, inputs) == tuple(
        f"{x}/kernel" for x in ("b", "a", "c", "conv1")
    )


@pytest.mark.long
def test_spikes_are_scored_before_or_behind_the_pooling_that_follows():
    net = Network.of(Mine(nnx.Rngs(0)))
    net = net.replace(params=jax.tree.map(lambda leaf: 8 * leaf, net.params))  # it fires
    task = train.Task(Inputs((8, 8, 1), timesteps=2))
    images = np.random.default_rng(0).integers(0, 255, (20, 8, 8, 1), np.uint8)
    options = qp_snn.Options(calibration_batches=2, calibration_batch_size=10)
    before = qp_snn.scores(net, task, images, options)
    behind = qp_snn.scores(net, task, images, dataclasses.replace(options, score_after_pool=True))
    assert {x: each.shape for x, each in before.items()} == {"z": (2, 4), "c": (2, 5)}
    np.testing.assert_array_equal(before["z"], behind["z"])
    assert before["c"].max() > 4 >= behind["c"].max()  # ranks of 8 x 8 maps, and of 4 x 4


def test_aligned_blocks_choose_their_channels_by_the_sum_of_their_scores():
    net, inputs = outline("4C3-4B3-4B3-8B3-6")
    names = qp_snn.prunable(net, inputs)
    found = {x: np.zeros((1, width_of(net, x))) for x in names}
    found["block1/conv2"] = np.asarray([[9, 1, 2, 0]])
    found["block2/conv2"] = np.asarray([[0, 1, 3, 4]])
    options = qp_snn.Options(ratios=0.5)
    alone = qp_snn.kept(net, inputs, found, options)
    assert [alone[f"block{i}/conv2"].tolist() for i in (1, 2)] == [[0, 2], [2, 3]]
    options = dataclasses.replace(options, kept="aligned")
    aligned = qp_snn.kept(net, inputs, found, options)
    assert [aligned[f"block{i}/conv2"].tolist() for i in (1, 2)] == [[0, 2], [0, 2]]


def test_size_counts_the_inner_kernels_at_few_bits():
    net, inputs = outline("4C3-5C3-6", norm=True, use_bias="readout")
    full = 27 * 4 + 2 * 4 + 2 * 5 + 64 * 5 * 6 + 6
    size = (full * 32 + 9 * 4 * 5 * 2) / 8e6
    assert qp_snn.size_mb(net, inputs, 2) == pytest.approx(size)
    assert qp_snn.size_mb(net, inputs, {"conv2": 2}) == pytest.approx(size)


def test_layers_have_bits_of_their_own():
    net, inputs = outline("4C3-5C3-6C3-6")
    found = qp_snn.recipe(net, inputs, qp_snn.Options(bits={"conv3": 2, "conv*": 8}))
    assert {name: each.bits for name, each in found.items()} == {
        "conv2/kernel": 8, "conv3/kernel": 2,
    }  # fmt: skip
    some = qp_snn.recipe(net, inputs, qp_snn.Options(bits={"conv3": 2}, quantizer="vanilla"))
    assert list(some) == ["conv3/kernel"] and some["conv3/kernel"].gamma is None


def test_fresh_norms_are_those_of_a_new_network():
    net = models.build("4C3-3", (4, 4, 1), LIF(), norm=True)
    worn = jax.tree.map(lambda leaf: leaf + 2, net)
    fresh = qp_snn.fresh_norms(worn)
    for part, old in ((fresh.params, net.params), (fresh.stats, net.stats)):
        jax.tree.map(np.testing.assert_array_equal, part["conv1"]["norm"], old["conv1"]["norm"])
    np.testing.assert_array_equal(fresh.params["conv1"]["kernel"], worn.params["conv1"]["kernel"])
    np.testing.assert_array_equal(
        fresh.stats["conv1"]["neurons"]["decay"], worn.stats["conv1"]["neurons"]["decay"]
    )
    again = qp_snn.fresh_norms(worn, ("dense1",), seed=1).params["dense1"]
    assert np.std(again["kernel"]) == pytest.approx(0.01, rel=0.2)
    np.testing.assert_array_equal(again["bias"], np.zeros(3))


def test_unknown_optimizers_are_refused():
    with pytest.raises(UserError, match="optimizer must be one of 'adam', 'sgd', found"):
        qp_snn.Options(optimizer="lion")


DIGITS = data.load("digits", limit=90, validation=0.0)
TASK = train.Task(DIGITS.inputs(timesteps=2), loss="ce")
TINY = qp_snn.Options(
    train_epochs=1, batch_size=30, learning_rate=0.02, tune_epochs=1, tune_batch_size=45,
    tune_learning_rate=0.01, calibration_batches=2, calibration_batch_size=30,
)  # fmt: skip


def start():
    options = {"norm": True, "use_bias": "readout", "readout": "current"}
    return models.build("4C3-6C3-MP2-6C3-AP4-10", (8, 8, 1), LIF(0.5, 0.4), **options)


def small(options):
    """Return a result, and what each phase was trained with."""
    phases = {}

    def fit(task, phase, net, split, **more):
        phases[more["name"]] = more["epochs"], more["batch_size"]
        return train.fit(task, phase, net, split, **more, show=False)

    return qp_snn.compress(start(), TASK, DIGITS, options, fit=fit), phases


@pytest.fixture(scope="module")
def whole():
    return small(TINY)


@pytest.mark.slow
def test_the_method_trains_cuts_and_tunes(whole):
    result, phases = whole
    assert phases == {
        "dense": (1, 30), "dense control": (1, 45), "quantized rescaled": (1, 30),
        "tuned rescaled singular": (1, 45),
    }  # fmt: skip
    names = ["dense", "dense control", "quantized rescaled", "compressed"]
    assert list(result.networks) == names
    shapes = [leaf["kernel"].shape for leaf in result.network.params.values() if "kernel" in leaf]
    assert shapes == [(3, 3, 1, 2), (3, 3, 2, 3), (3, 3, 3, 6), (6, 10)]
    assert result.found["widths"] == {"conv1": 2, "conv2": 3}
    assert all(0.5 < each <= 1 + 1e-6 for each in result.found["stability"].values())


@pytest.mark.slow
@pytest.mark.parametrize("row", ["quantized rescaled", "compressed"])
def test_hidden_kernels_stand_on_a_grid_of_four_bits_and_the_ends_are_floats(whole, row):
    net = whole[0].networks[row].network
    assert list(net.quantized) == ["conv2/kernel", "conv3/kernel"]
    for name, leaf in net.quantized.items():
        layer = name.removesuffix("/kernel")
        np.testing.assert_array_equal(leaf.decode(), net.params[layer]["kernel"])
        assert np.all(np.abs(leaf.codes) <= 15) and np.all(leaf.codes % 2)
    ends = net.params["conv1"]["kernel"], net.params["dense1"]["kernel"]
    assert all(len(np.unique(end)) == end.size for end in ends)


@pytest.mark.slow
def test_rows_have_what_the_paper_measures(whole):
    dense, control, quantized, compressed = whole[0].report.rows
    floats = 18 + 60 + 10 + 2 * (2 + 3 + 6)  # ends, read-out's bias, scales and shifts of norms
    size = ((54 + 162) * 4 / 8 + floats * 4) / 1e6
    assert compressed.extra["size_mb"] == pytest.approx(size, rel=1e-12)
    assert 0 < compressed.extra["levels_used"] <= 1 and 0 < quantized.extra["levels_used"] <= 1
    assert 0 <= compressed.extra["accuracy_before_tuning"] <= 1
    stability = whole[0].found["stability"]
    assert compressed.extra["score_stability"] == min(stability.values())
    assert (compressed.extra["quantizer"], compressed.extra["score"]) == ("rescaled", "singular")
    assert not dense.extra and not control.extra


@pytest.mark.slow  # trains four more networks
def test_the_other_order_prunes_floats_first_and_the_ablation_has_other_parts():
    options = dataclasses.replace(
        TINY, order="pq", quantizer="vanilla", score="membrane", dense_epochs=0, reinit_norm=True,
        shortcuts="padded", calibration_batches=1, rule="mask", tune_optimizer="sgd",
    )  # fmt: skip
    result, phases = small(options)
    assert phases == {
        "dense": (0, 30), "dense control": (2, 45), "tuned float membrane": (1, 45),
        "tuned vanilla membrane": (1, 45),
    }  # fmt: skip
    first = result.networks["dense"].network
    jax.tree.map(np.testing.assert_array_equal, first.params, start().params)  # as it was given
    assert list(result.network.quantized) == ["conv2/kernel", "conv3/kernel"]
    assert result.report.rows[-1].extra["score_stability"] is None


@pytest.mark.slow
def test_a_cut_network_is_the_muted_one():
    net = start()
    options = dataclasses.replace(TINY, score="membrane")
    thin = qp_snn.cut(net, TASK, DIGITS.train, options, ratios=0.4)
    found = qp_snn.scores(net, TASK, DIGITS.train.images, options)
    kept = channels.kept(found, {"conv1": 0.4, "conv2": 0.4})
    assert [len(each) for each in kept.values()] == [2, 3]
    muted = export.silence(net, kept)
    x = TASK.prepare(jax.random.key(0), DIGITS.test.images[:20], False)
    np.testing.assert_allclose(thin(x).readout, muted(x).readout, rtol=1e-5, atol=1e-6)


MISTAKES = {
    "a ratio that empties": ({"ratios": 0.9}, "'conv1'"),
    "a pattern of ratios": ({"ratios": {"conv7": 0.5}}, "conv7.*conv1, conv2"),
    "a pattern of bits": ({"bits": {"dense7": 2}}, "dense7"),
    "calibration": ({"calibration_batches": 100}, "calibration_batches 100 of"),
    "a batch": ({"tune_batch_size": 5000}, "tune_batch_size"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_before_anything_is_trained(mistake):
    changes, message = MISTAKES[mistake]
    with pytest.raises(UserError, match=message):
        small(dataclasses.replace(TINY, **changes, train_epochs=1000))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 9}, "bits must be in"),
        ({"ratios": 1.0}, "ratios must be in"),
        ({"gamma": "median"}, "gamma must be one of"),
    ],
)
def test_options_know_their_range(changes, message):
    with pytest.raises(UserError, match=message):
        qp_snn.Options(**changes)


@pytest.mark.long
def test_networks_that_cannot_be_cut_are_refused():
    apply = lambda params, x: x.reshape(*x.shape[:2], -1) @ params["w"]  # noqa: E731
    foreign = Network.wrap({"w": jnp.ones((64, 10))}, apply)
    with pytest.raises(UserError, match="foreign"):
        qp_snn.compress(foreign, TASK, DIGITS, TINY)
    with pytest.raises(UserError, match="no channels can be removed"):
        qp_snn.cut(models.build("6C3-10", (8, 8, 1)), TASK, DIGITS.train, TINY)
    with pytest.raises(UserError, match="nothing to quantize"):
        qp_snn.compress(models.build("6C3-10", (8, 8, 1)), TASK, DIGITS, TINY)


@pytest.mark.parametrize(
    ("channels", "timesteps", "synops", "millijoule"),
    [(64, 4, 54.60e6, 0.2047), (32, 4, 11.63e6, 0.0459), (64, 2, 415.64e6, 0.7563)],
)
def test_the_published_energies_are_those_of_our_table(channels, timesteps, synops, millijoule):
    """Table 6: VGG-16, pruned VGG-16, ResNet-20; the SynOps printed there are those of one step."""
    stem = 32 * 32 * 27 * channels  # multiplied once for all steps
    found = operations.energy(timesteps * synops, stem)
    assert found / 1e9 == pytest.approx(millijoule, abs=5e-5)
