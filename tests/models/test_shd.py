"""A recurrent network on spoken words: pruned, quantized, counted, packed, and in integers."""

import jax
import numpy as np
import pytest

from jaxsnn import data, export, layers, metrics, models, train, tree
from jaxsnn.compress.masks import keep_fraction
from jaxsnn.compress.projections import prune
from jaxsnn.errors import UserError
from jaxsnn.export.integer import run_integer, to_integer
from jaxsnn.methods import admm, gradual
from jaxsnn.metrics import facts
from jaxsnn.network import Network
from jaxsnn.neurons import LIF

UNITS, STEPS, CLASSES = 40, 9, 4
KERNELS = ["dense1/kernel", "dense1/recurrent", "dense2/kernel", "dense2/recurrent"]
KERNELS += ["dense3/kernel"]


def words(count, seed=0):
    """Make recordings of which each class has units of its own that fire more often."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % CLASSES).astype(np.int32)
    rate = np.full((CLASSES, UNITS), 0.1)
    for label in range(CLASSES):
        rate[label, label * 10 : label * 10 + 10] = 0.8
    spikes = rng.poisson(rate[labels][:, None], (count, STEPS, UNITS))
    return data.Split(spikes.astype(np.uint8), labels)


@pytest.fixture(scope="module")
def spoken():
    """Return a small set in the shape of SHD."""
    splits = words(48), words(8, 1), words(16, 2)
    return data.Dataset("words", *splits, CLASSES, (0.1,), (0.3,))


@pytest.fixture(scope="module")
def problem(spoken):
    """Return network and task."""
    net = models.shd_recurrent(spoken.shape, classes=CLASSES, hidden=(12, 6))
    return net, train.Task(spoken.inputs(), loss="ce")


@pytest.fixture(scope="module")
def result(spoken, problem):
    """Prune and quantize, recurrent weights as well."""
    options = admm.Options(
        sparsity=0.5, bits=4, pull_epochs=1, retrain_epochs=0, batch_size=16, control=False
    )
    return admm.compress(*problem, spoken, options)


def test_the_published_network_has_its_weights():
    shapes = jax.eval_shape(lambda: models.shd_recurrent(classes=35).params)
    sizes = {name: leaf.shape for name, leaf in tree.named_leaves(shapes).items()}
    assert [sizes[name] for name in KERNELS] == [
        (700, 128), (128, 128), (128, 128), (128, 128), (128, 35),
    ]  # fmt: skip
    total = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(models.shd_recurrent).params))
    assert total == 141_312 + 128 + 128 + 20


@pytest.mark.thorough
def test_recurrent_weights_are_pruned_and_quantized(result):
    net, report = result.network, result.report.row("compressed")
    leaves = {name: np.asarray(x) for name, x in tree.named_leaves(net.params).items()}
    kept = {name: np.count_nonzero(leaves[name]) for name in KERNELS}
    total = sum(leaves[name].size for name in KERNELS)
    assert total == 40 * 12 + 12 * 12 + 12 * 6 + 6 * 6 + 6 * 4
    assert sum(kept.values()) <= 0.5 * total + len(KERNELS)
    assert all(0 < kept[name] < leaves[name].size for name in KERNELS if "recurrent" in name)
    assert all(len(np.unique(leaves[name])) <= 16 for name in KERNELS)
    assert report.density == pytest.approx(sum(kept.values()) / total)
    assert set(net.quantized) == set(KERNELS) and report.bits == 4
    rows = {layer.name: layer for layer in report.layers}
    for name in KERNELS:
        row = rows[name.removesuffix("/kernel")]
        assert row.density == pytest.approx(kept[name] / leaves[name].size) and row.bits == 4
        assert 0 < row.bytes < leaves[name].size * 4
    biases = sum(leaves[name].nbytes for name in leaves if name.endswith("bias"))
    assert report.weight_bytes >= sum(rows[x.removesuffix("/kernel")].bytes for x in KERNELS)
    assert report.weight_bytes <= biases + sum(row.bytes or 0 for row in rows.values())


def counted(net, task, samples):
    """Count the additions of every kernel, event by event, over all samples."""
    watched = Network.of(layers.watch(net.module))
    x = task.prepare(jax.random.key(0), samples, False)
    trains = jax.jit(lambda net, x: net(x).activity.trains)(watched, x)
    leaves = {name: np.asarray(leaf) for name, leaf in tree.named_leaves(net.params).items()}
    fan_out = {name: [np.count_nonzero(row) for row in leaves[name]] for name in KERNELS}
    enters = {
        "dense1/kernel": np.asarray(samples).swapaxes(0, 1),
        "dense1/recurrent": np.asarray(trains["dense1"])[:-1],  # nobody hears the last step's
        "dense2/kernel": np.asarray(trains["dense1"]),
        "dense2/recurrent": np.asarray(trains["dense2"])[:-1],
        "dense3/kernel": np.asarray(trains["dense2"]),
    }
    totals = dict.fromkeys(KERNELS, 0)
    for name, events in enters.items():
        for _, _, place in np.argwhere(events):
            totals[name] += fan_out[name][place]
        repeated = events[events > 1]  # a frame of a cochlea may count a unit more than once
        places = np.argwhere(events > 1)[:, 2]
        extra = zip(places, repeated, strict=True)
        totals[name] += sum(fan_out[name][place] * (int(count) - 1) for place, count in extra)
    return totals


@pytest.mark.thorough
def test_synops_of_recurrent_arrivals_are_counted_event_by_event(result, problem, spoken):
    task = problem[1]
    report = metrics.measure(task, result.network, spoken.test, batch_size=6)
    expected = counted(result.network, task, spoken.test.images)
    rows = {layer.name: layer for layer in report.layers}
    for name, total in expected.items():
        row = rows[name.removesuffix("/kernel")]
        assert row.synops == pytest.approx(total / 16, abs=1e-9) and row.macs == 0
    assert expected["dense1/recurrent"] > 0 and expected["dense2/recurrent"] > 0
    assert report.synops == pytest.approx(sum(expected.values()) / 16)
    assert report.macs == 0 and report.bit_ops == pytest.approx(4 * report.synops)


@pytest.mark.thorough
def test_the_product_is_packed_and_loaded(result, problem, spoken, tmp_path):
    inputs, net = problem[1].inputs, result.network
    size = export.save(tmp_path / "words.safetensors", net, inputs)
    model = export.load(tmp_path / "words.safetensors")
    assert model.inputs == inputs and size < 4 * 756 + 12_000
    for name, leaf in tree.named_leaves(net.params).items():
        np.testing.assert_array_equal(tree.named_leaves(model.network.params)[name], leaf)
    assert set(model.network.quantized) == set(KERNELS)
    scores = train.predict(problem[1], net, spoken.test.images)
    np.testing.assert_allclose(model.scores(spoken.test.images), scores, rtol=1e-5, atol=1e-6)


@pytest.mark.long
def test_integers_are_exact_where_the_grids_fit_together(spoken):
    net = models.shd_recurrent(spoken.shape, LIF(0.5, reset="soft"), classes=4, hidden=(12, 6))
    grid = {name: 0.0625 if "recurrent" in name else 0.125 for name in KERNELS}
    params = tree.map_named(
        lambda name, x: np.rint(np.asarray(x) * 3 / (unit := grid.get(name, 0.125))) * unit,
        net.params,
    )
    net = net.replace(params=jax.tree.map(np.float32, params))
    inputs = spoken.inputs()
    integers = to_integer(net, inputs)
    found = run_integer(integers, spoken.test.images.swapaxes(0, 1).astype(np.int32))
    output = jax.jit(lambda net, x: net(x))(
        net, inputs.prepare(jax.random.key(0), spoken.test.images)
    )
    assert integers.exact and output.activity.spikes["dense2"].any()
    for name in ("dense1", "dense2"):
        np.testing.assert_array_equal(found.spikes[name], output.activity.spikes[name])


@pytest.mark.run
def test_gradual_pruning_reaches_recurrent_weights(spoken, problem):
    options = gradual.Options(sparsity=0.6, allocation="uniform", epochs=1, every=1, batch_size=16)
    net = gradual.prune(*problem, spoken, options)
    found = facts.densities(net)
    assert list(found) == KERNELS
    assert all(density == pytest.approx(0.4, abs=0.02) for density in found.values())


@pytest.mark.long
def test_a_number_for_a_layer_is_for_all_of_its_kernels(problem):
    net = problem[0]
    shares = admm.sparsities(net, {"dense1": 0.5, "dense2/recurrent": 0.25, "*": 0.0})
    assert shares == {
        "dense1/kernel": 0.5, "dense1/recurrent": 0.5, "dense2/kernel": 0.0,
        "dense2/recurrent": 0.25, "dense3/kernel": 0.0,
    }  # fmt: skip
    with pytest.raises(UserError, match="conv1"):
        admm.sparsities(net, {"conv1": 0.5})
    masks = keep_fraction(net.params, shares)
    assert masks["dense1"]["recurrent"].sum() == 72
    assert prune(net, admm.prune_recipe(shares))[1]["dense2"]["recurrent"].sum() == 27
