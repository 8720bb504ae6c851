"""Reports against hand counts; the facts come with the counts, nobody passes them again."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsnn import Network, coding, compress, layers, metrics, models, train, tree
from jaxsnn.data import Split
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.export import pack, save
from jaxsnn.inputs import Inputs
from jaxsnn.layers import Activity
from jaxsnn.metrics import counts as counting
from jaxsnn.metrics import facts
from jaxsnn.neurons import LIF

FIRST = np.array([[1.0, 0, 2], [0, 3, 0], [0, 0, 4], [5, 0, 0]], np.float32)
SPLIT = Split(
    np.random.default_rng(0).integers(0, 255, (12, 8, 8, 1)).astype(np.uint8),
    (np.arange(12) % 3).astype(np.int32),
)


class TwoLayers(nnx.Module):
    """4 real inputs, 128 neurons of which 3 have inputs, 2 read-outs."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.fc1 = layers.Dense(4, 128, neurons=LIF(0.5), rngs=rngs)
        self.out = layers.Dense(128, 2, neurons=layers.Integrator(), rngs=rngs)

    def __call__(self, x, tape):
        return self.out(self.fc1(x, tape), tape)


def two_layers(timesteps=4, cached=("fc1/kernel",)):
    """Return the network, and counts of 2 samples that are written by hand."""
    net = Network.of(TwoLayers())
    second = np.tile(np.where(np.arange(64).reshape(32, 2) < 48, 0.5, 0.0), (4, 1))
    params = {
        "fc1": {"kernel": np.pad(FIRST, ((0, 0), (0, 125))), "bias": np.zeros(128, np.float32)},
        "out": {"kernel": second.astype(np.float32), "bias": np.ones(2, np.float32)},
    }
    spikes = np.zeros((2, 128), np.float32)
    spikes[:, :3] = [[0, timesteps, 1], [0, timesteps, 2]]
    events = {"fc1/kernel": np.full((2, 4), 0.3, np.float32), "out/kernel": spikes}
    seen = Activity(
        spikes={"fc1": jnp.asarray(spikes)}, events=jax.tree.map(jnp.asarray, events),
        timesteps=timesteps, analog=("fc1/kernel",), cached=cached,
    )  # fmt: skip
    return net.replace(params=params), counting.accumulate(counting.no_counts(seen), seen)


@pytest.mark.long
def test_a_report_counts_per_sample():
    net, counts = two_layers(cached=())
    found = train.Evaluation(0.75, 0.1, jnp.asarray([0.5, 0.5, 0.75, 0.75]), counts)
    report = metrics.Report.of("dense", net, found, seed=3, file_bytes=999)
    assert report.spikes_per_sample == (8 + 3) / 2
    assert report.spike_rate == 11 / 2 / (128 * 4)
    assert report.macs == 5 * 4
    assert report.synops == 2 * 11 / 2
    assert report.energy_pj == pytest.approx(20 * 4.6 + 11 * 0.9)
    assert report.energy_pj_int32 == pytest.approx(20 * 3.2 + 11 * 0.1)
    assert report.density == (5 + 192) / (512 + 256)
    assert report.bits == (5 * coding.bits(net.params["fc1"]["kernel"]) + 192 * 1) / 197
    assert report.bit_ops == 11 * 1
    assert report.weight_bytes == sum(map(coding.num_bytes, jax.tree.leaves(net.params)))
    assert (report.accuracy, report.seed, report.file_bytes) == (0.75, 3, 999)
    assert report.samples == 2 and report.confusion is None
    assert report.accuracy_over_time == (0.5, 0.5, 0.75, 0.75) and report.timesteps == 4
    first, out, others = report.layers
    assert (others.name, others.shape, others.bits) == ("biases and norms", None, None)
    assert others.bytes == sum(coding.num_bytes(net.params[name]["bias"]) for name in net.params)
    assert first.name == "fc1" and first.shape == (4, 128) and first.macs == 20
    assert first.silent == 126 and first.saturated == 1 and first.neurons == 128
    assert out.rate is None and out.synops == 11 and out.bits == 1
    assert out.bytes == coding.num_bytes(net.params["out"]["kernel"]) < 256 // 8 + 24


def test_a_constant_input_is_multiplied_once():
    once = metrics.Report.of("a", *two_layers(cached=("fc1/kernel",)))
    always = metrics.Report.of("b", *two_layers(cached=()))
    assert always.macs == 4 * once.macs
    assert once.accuracy is None and once.accuracy_over_time is None


@pytest.mark.long
def test_real_input_that_nobody_called_analog_is_multiplied_at_every_step():
    net, counts = two_layers(cached=())
    seen = Activity(
        spikes={"fc1": jnp.zeros((2, 128))}, timesteps=4,
        events={"fc1/kernel": jnp.full((2, 4), 0.3), "out/kernel": jnp.zeros((2, 128))},
    )  # fmt: skip
    unnamed = counting.accumulate(counting.no_counts(seen), seen)
    assert metrics.Report.of("a", net, unnamed).macs == metrics.Report.of("a", net, counts).macs
    assert metrics.Report.of("a", net, unnamed).synops == 0


@pytest.mark.long
def test_a_report_names_what_is_wrong():
    net, counts = two_layers()
    with pytest.raises(UserError, match="report of 'a': no sample was counted"):
        metrics.Report.of("a", net, dataclasses.replace(counts, num_samples=0))
    less = {"fc1/kernel": counts.events["fc1/kernel"]}
    with pytest.raises(UserError, match="no events were counted for out/kernel"):
        metrics.Report.of("a", net, dataclasses.replace(counts, events=less))
    with pytest.raises(UserError, match="extra names the field 'bits'"):
        metrics.Report.of("a", net, counts, extra={"bits": 3})


@pytest.mark.long
def test_a_row_is_json_and_reads_back():
    report = metrics.Report.of("dense", *two_layers(), extra={"published_energy_pj": 1.5})
    row = json.loads(json.dumps(report.to_row()))
    assert row["published_energy_pj"] == 1.5 and row["layers"][0]["shape"] == [4, 128]
    assert metrics.Report.from_row(row) == report
    contract = "name accuracy density bits weight_bytes file_bytes timesteps spike_rate "
    contract += "spikes_per_sample synops macs bit_ops energy_pj energy_pj_int32 seed "
    contract += "samples layers accuracy_over_time confusion published_energy_pj"
    assert list(row) == contract.split()
    with pytest.raises(UserError, match="no name"):
        metrics.Report.from_row({"accuracy": 1.0})


@pytest.mark.long
def test_a_report_and_the_density_agree_with_recurrent_weights():
    net = models.build("6R-3", (64,), seed=0)
    dense = {"kernel": jnp.zeros((64, 6)), "recurrent": jnp.ones((6, 6)), "bias": jnp.ones(6)}
    net = net.replace(params=net.params | {"dense1": dense})
    task = train.Task(Inputs((64,), timesteps=3, encoding="bernoulli"))
    samples = SPLIT.images.reshape(12, 64)
    report = metrics.measure(task, net, Split(samples, SPLIT.labels))
    assert report.density == metrics.density(net) == metrics.density(net.params)
    assert report.density == (36 + 18) / (64 * 6 + 36 + 18)
    by_leaf = facts.densities(net)
    assert by_leaf["dense1/recurrent"] == 1.0 and by_leaf["dense1/kernel"] == 0.0
    assert [layer.name for layer in report.layers[:-1]] == ["dense1", "dense1/recurrent", "dense2"]


def test_density_of_the_released_mnist_network():  # admm.md, oracle 10
    sizes = {"conv1": 288, "conv2": 9216, "fc1": 200704, "fc2": 1280}
    kept = {"conv1": 49, "conv2": 738, "fc1": 1807, "fc2": 90}
    params = {
        name: {
            "kernel": (np.arange(size) < kept[name]).astype(np.float32).reshape(-1, 2),
            "bias": np.ones(7),
        }
        for name, size in sizes.items()
    }
    assert metrics.density(params) == 2684 / 211488
    assert math.isclose(metrics.density(params), 0.012691, abs_tol=5e-7)
    assert facts.densities(params)["conv1/kernel"] == 49 / 288
    assert metrics.density(params, where="*/bias") == 1.0


@pytest.mark.long
def test_a_leaf_on_a_known_grid_has_the_bits_of_the_grid():
    net, counts = two_layers()
    recipe = {"out/kernel": compress.uniform_grid(4)}
    steps = {
        "out/kernel": compress.quantize(recipe["out/kernel"], net.params["out"]["kernel"]).step
    }
    known = net.replace(params=compress.project(net.params, recipe), steps=steps)
    assert metrics.Report.of("a", known, counts).layers[1].bits == 4
    assert metrics.Report.of("a", known.replace(params=known.params), counts).layers[1].bits == 1


class Skip(nnx.Module):
    """A topology of one's own with a recurrent layer and a norm."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.a = layers.Dense(64, 6, neurons=LIF(0.5), norm=True, rngs=rngs)
        self.b = layers.Recurrent(6, 6, neurons=LIF(0.5), rngs=rngs)
        self.out = layers.Dense(6, 3, neurons=layers.Integrator(), use_bias=False, rngs=rngs)

    def __call__(self, x, tape):
        return self.out(self.b(a := self.a(x, tape), tape) + a, tape)


NETS = {
    "recurrent": lambda: models.build("6R-3", (64,), seed=0),
    "norms": lambda: models.build("4C3-AP2-3", (8, 8, 1), seed=0, norm=True),
    "residual": lambda: models.build("4C3-4B3-6B3S2P-3", (8, 8, 1), seed=0, norm=True),
    "own": lambda: Network.of(Skip()),
    "no biases": lambda: models.build("4C3-3", (8, 8, 1), seed=0, use_bias=False),
}


@pytest.mark.long
@pytest.mark.parametrize("name", NETS)
def test_density_bits_and_bytes_agree_and_sum_up_to_the_byte(name, tmp_path):
    net = NETS[name]()
    net = compress.project(net, dict.fromkeys(net.synapses, compress.uniform_grid(3)))
    found = facts.stored(net)
    leaves = tree.named_leaves(net.params)
    kernels = {n: np.asarray(leaves[n]) for n in net.synapses}
    # Every leaf with two axes is a kernel, recurrent ones too; nothing else is.
    assert kernels.keys() == {n for n, leaf in leaves.items() if leaf.ndim > 1}
    kept = sum(np.count_nonzero(kernel) for kernel in kernels.values())
    share = kept / sum(kernel.size for kernel in kernels.values())
    assert found.network["density"] == metrics.density(net) == metrics.density(net.params) == share
    assert found.network["bits"] == 3
    # The packed file holds these bytes, and statistics and a header besides.
    size = save(tmp_path / "net", net)
    contents = pack.read(tmp_path / "net")
    params = {n: x.nbytes for n, x in contents.tensors.items() if n.startswith("params/")}
    stats = sum(x.nbytes for n, x in contents.tensors.items() if n.startswith("stats/"))
    header = size - sum(x.nbytes for x in contents.tensors.values())
    assert sum(each["bytes"] for each in found.layers.values()) == found.network["weight_bytes"]
    assert found.network["weight_bytes"] == sum(params.values()) == size - stats - header
    others = [n for n in leaves if n not in kernels]
    assert (facts.OTHERS in found.layers) == bool(others)
    if others:
        assert found.layers[facts.OTHERS]["bytes"] == sum(params[f"params/{n}"] for n in others)


def test_an_ann_multiplies_everywhere_and_has_no_spikes():
    options = {"activation": "relu", "readout": "current", "use_bias": False}
    net = models.build("4C3-AP2-3", (8, 8, 1), seed=0, **options)
    report = metrics.measure(train.Task(Inputs((8, 8, 1), timesteps=1)), net, SPLIT)
    assert report.spike_rate is None and report.spikes_per_sample is None
    assert report.synops == 0 and report.macs == 4 * (3 * 8 - 2) ** 2 + 64 * 3
    first, out = report.layers
    assert (first.neurons, first.rate, first.silent, first.saturated) == (256, None, None, None)
    assert first.macs == 4 * 22**2 and out.macs == 64 * 3 and out.neurons is None


def test_of_a_foreign_function_the_weights_are_measured_and_no_operations():
    params = {"w": jnp.ones((64, 3)).at[:32].set(0.0), "b": jnp.ones(3)}
    net = Network.wrap(params, lambda p, x: x.reshape(*x.shape[:2], 64) @ p["w"])
    report = metrics.measure(train.Task(Inputs((8, 8, 1), timesteps=2)), net, SPLIT)
    assert report.density == metrics.density(net) == 0.5 and report.timesteps == 2
    assert [layer.name for layer in report.layers] == ["w", "biases and norms"]
    for field in ("spike_rate", "spikes_per_sample", "synops", "macs", "energy_pj", "bit_ops"):
        assert getattr(report, field) is None
    assert metrics.Report.from_row(report.to_row()) == report


@pytest.mark.long
def test_a_comparison_is_a_table_with_ratios_to_the_first():
    net = models.build("4C3-AP2-3", (8, 8, 1), seed=0)
    half, _ = compress.prune(net, {"conv1/kernel": compress.keep_largest(0.5)})
    task = train.Task(Inputs((8, 8, 1), timesteps=2))
    found = metrics.compare(task, SPLIT, dense=net, pruned=half)
    assert [row.name for row in found.rows] == ["dense", "pruned"]
    assert found.row("pruned").layers[0].density == 0.5
    assert found.to_rows()[0]["macs"] == found.rows[0].macs
    lines = str(found).splitlines()
    assert lines[2].split()[0] == "dense" and lines[3].split()[0] == "pruned"
    assert "÷" in lines[4] and "\x1b" not in str(found) and all(x == x.rstrip() for x in lines)
    with pytest.raises(UserError, match="no row is called 'x'; rows: dense, pruned"):
        found.row("x")
    with pytest.raises(UserError, match="networks: none was given"):
        metrics.compare(task, SPLIT)


@pytest.mark.long
def test_an_event_input_costs_additions_and_a_constant_one_multiplications_once():
    net = models.build("4C3-AP2-3", (8, 8, 1), seed=0)
    signal = Signal(jnp.ones((5, 2, 8, 8, 1)), 5)
    constant = Signal(jnp.ones((2, 8, 8, 1)), 5, constant=True, analog=True)
    rows = []
    for x in (signal, constant):
        seen = net(x).activity
        counts = counting.accumulate(counting.no_counts(seen), seen)
        rows.append(metrics.Report.of("a", net, counts))
    taps = 4 * 22**2  # of 4 kernels of 3 x 3 on 8 x 8 pixels, borders left out
    assert rows[0].layers[0].synops == 5 * taps and rows[0].macs == 0
    assert rows[1].layers[0].synops == 0 and rows[1].macs == taps


def test_facts_of_layers_and_of_the_network_agree():
    net, counts = two_layers()
    counts = jax.tree.map(np.asarray, counts)
    stored = facts.stored(net)
    del stored.layers[facts.OTHERS]
    bits = facts.widths(net, stored)
    done = facts.computed(net, counts, bits)
    assert sum(each["synops"] for each in done.layers.values()) == done.network["synops"]
    assert sum(each["macs"] for each in done.layers.values()) == done.network["macs"]
    assert set(stored.layers) == set(done.layers) == {"fc1", "out"}
