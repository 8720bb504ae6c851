"""Published energies from rates, against the published sizes and sums by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsnn import Network, layers, metrics, models, train, tree
from jaxsnn.data import Split
from jaxsnn.errors import UserError
from jaxsnn.inputs import Inputs
from jaxsnn.layers.tape import Feed
from jaxsnn.layers.walk import Flow
from jaxsnn.metrics import operations, published
from jaxsnn.neurons import LIF

SHAPE = (8, 8, 1)
SPLIT = Split(
    np.random.default_rng(0).integers(0, 255, (12, *SHAPE)).astype(np.uint8),
    (np.arange(12) % 3).astype(np.int32),
)


def vgg9(width=1.0):
    """Return the VGG9 of Chowdhury et al. 2021 on CIFAR-10, shapes in place of arrays."""
    return jax.eval_shape(lambda: models.vgg9(width=width))


def kernel_sizes(net):
    leaves = tree.named_leaves(net.params)
    return [math.prod(leaves[f"{layer}/kernel"].shape) for layer in net.order]


def counts_of(spikes, events, samples, analog=()):
    return metrics.Counts(
        spikes=spikes, events=events, num_samples=samples, steps=4 * samples, arrivals={},
        broken=dict.fromkeys(events, False), analog=analog, cached=(), products={},
    )  # fmt: skip


def flow_of(*sources):
    """Return the flow of kernels a, b, ... fed by the given layers."""
    feeds = {
        f"{layer}/kernel": Feed(f"{layer}/kernel", layer, fed, (1,), (1,))
        for layer, fed in zip("abcdef", sources, strict=False)
    }
    return flow_through(feeds)


def flow_through(feeds):
    return Flow(feeds, readout=(), analog=(), cached=(), pools={})


def test_operations_of_the_published_network():  # spatiotemporal.md, oracle 11
    net = vgg9()
    sizes = kernel_sizes(net)
    assert sizes == [1728, 73728, 147456, 294912, 589824, 1179648, 2359296, 2359296, 20480]
    counted = published.ann_operations(net.flow(Inputs((32, 32, 3), timesteps=1)), net.params)
    assert sum(counted.values()) == 209_408_000
    assert round(operations.energy(0, sum(counted.values())) * 1e-6, 2) == 963.28  # pJ -> uJ
    assert kernel_sizes(vgg9(0.5)) == [864, *(size // 4 for size in sizes[1:-1]), 10240]


def test_a_layer_saves_energy_below_a_rate_of_5_11():  # spatiotemporal.md, oracle 12
    name = "conv2/kernel"
    flow = flow_through({name: Feed(name, "conv2", ("conv1",), (16, 16, 64), (16, 16, 128))})
    shape = jax.ShapeDtypeStruct((3, 3, 64, 128), np.float32)
    counted = published.ann_operations(flow, {"conv2": {"kernel": shape}})
    assert counted == {name: 18_874_368}
    ann = operations.energy(0, counted[name])
    for rate, ratio in ((2.0, 2.556), (4.6 / 0.9, 1.0)):
        added = published.rate_operations(counted, {name: rate})[name]
        assert math.isclose(ann / operations.energy(added, 0), ratio, abs_tol=5e-4)
    assert published.rate_operations(counted, {name: 2.0}) == {name: 37_748_736}


def test_rates_are_those_of_what_feeds_a_kernel():
    spikes = {"a": np.full((4, 4, 2), 6), "b": np.array([[[3, 0, 0]]])}
    events = {"a/kernel": np.full((4, 4, 1), 10), "b/kernel": np.zeros((2, 2, 2))}
    events |= {"c/kernel": np.zeros(3)}
    flow = flow_of((), ("a",), ("b",))
    rates = published.feeding_rates(flow, counts_of(spikes, events, 4))
    assert rates == {"a/kernel": 2.5, "b/kernel": 1.5, "c/kernel": 0.25}
    analog = published.feeding_rates(flow, counts_of(spikes, events, 4, analog=("a/kernel",)))
    assert analog == {"b/kernel": 1.5, "c/kernel": 0.25}
    with pytest.raises(UserError, match="c/kernel is fed by 'b', whose spikes"):
        published.feeding_rates(flow, counts_of({"a": spikes["a"]}, events, 4))


@pytest.mark.long
def test_a_projection_hears_what_its_block_does_and_a_sum_both_its_parts():
    class Mine(nnx.Module):
        def __init__(self):
            rngs, n = nnx.Rngs(0), LIF(0.5)
            self.z = layers.Conv(SHAPE, 4, neurons=n, rngs=rngs)
            self.y = layers.Conv(4, 4, neurons=n, rngs=rngs)
            conv1 = layers.Conv(4, 6, neurons=n, stride=2, rngs=rngs)
            through = layers.Conv(
                4, 6, 1, neurons=layers.Integrator(), stride=2, use_bias=False, rngs=rngs
            )
            conv2 = layers.Conv(6, 6, neurons=n, rngs=rngs)
            self.x = layers.Residual(conv1, conv2, projection=through)
            self.a = layers.Dense(6, 3, neurons=layers.Integrator(), rngs=rngs)

        def __call__(self, signal, tape):
            z = self.z(signal, tape)
            return self.a(layers.mean_pixels(self.x(z + self.y(z, tape), tape)), tape)

    net = Network.of(Mine())
    net = net.replace(params=jax.tree.map(lambda leaf: leaf * 4, net.params))
    task = train.Task(Inputs(SHAPE, 3, "bernoulli"))
    counts = train.evaluate(task, net, SPLIT).counts
    rates = published.feeding_rates(net.flow(task.inputs), counts)
    of = {name: float(np.mean(spikes)) / 12 for name, spikes in counts.spikes.items()}
    assert of["z"] > 0 and of["y"] > 0 and of["x/conv1"] > 0
    assert rates["y/kernel"] == pytest.approx(of["z"])
    assert rates["x/conv1/kernel"] == pytest.approx(of["z"] + of["y"])
    assert rates["x/projection/kernel"] == rates["x/conv1/kernel"]
    assert rates["x/conv2/kernel"] == pytest.approx(of["x/conv1"])
    assert rates["a/kernel"] == pytest.approx(of["x/conv2"])
    assert rates["z/kernel"] == pytest.approx(float(np.mean(counts.events["z/kernel"])) / 12)


def test_three_ways_to_count_spikes_behind_an_average_pooling():
    rng = np.random.default_rng(0)
    spikes = rng.random((5, 4, 4, 3)) < 0.4  # [T, H, W, C]
    windows = spikes.reshape(5, 2, 2, 2, 2, 3).sum((2, 4))  # spikes of each pooled entry and step
    kernels = {"b/kernel": np.ones((12, 7), np.float32)}
    flow = flow_through({"b/kernel": Feed("b/kernel", "b", ("a",), (12,), (7,))})
    counts = counts_of({"a": spikes.sum(0)}, {"b/kernel": windows.sum(0).reshape(12)}, 1)
    dense = published.ann_operations(flow, kernels)
    by_rate = published.rate_operations(dense, published.feeding_rates(flow, counts))["b/kernel"]

    def by_events(events):
        totals = {"b/kernel": events.sum(0).reshape(12)}
        maps = {"b/kernel": lambda x, kernel: x @ kernel}
        return operations.synops_of_totals(maps, kernels, totals)["b/kernel"]

    assert math.isclose(by_rate, spikes.sum() / 4 * 7)
    assert by_events(windows) == spikes.sum() * 7
    assert by_events(windows > 0) == (windows > 0).sum() * 7
    assert by_rate < by_events(windows > 0) < by_events(windows)


def test_rates_that_are_none_and_unknown_kernels_are_refused():
    for rate in (-0.1, math.nan, math.inf):
        with pytest.raises(UserError, match="rate of d/kernel must be in"):
            published.rate_operations({"d/kernel": 3}, {"d/kernel": rate})
    with pytest.raises(UserError, match="rates name 'e/kernel'; known kernels: d/kernel"):
        published.rate_operations({"d/kernel": 3}, {"e/kernel": 1.0})


def halved(net):
    """Return a network with every other weight of its kernels at 0."""

    def halve(name, leaf):
        keep = jnp.arange(leaf.size).reshape(leaf.shape) % 2
        return leaf * keep * 4 if leaf.ndim > 1 else leaf

    return net.replace(params=tree.map_named(halve, net.params))


@pytest.mark.long
def test_the_energy_of_a_spiking_network_is_the_sum_by_hand():
    net = halved(models.build("4C3-AP2-5C3-AP2-3", SHAPE, seed=0, readout="current"))
    task = train.Task(Inputs(SHAPE, timesteps=4))
    found = train.evaluate(task, net, SPLIT)
    energy = published.published_energy(net, task.inputs, found)
    first, second, last = 9 * 4 * 64, 9 * 4 * 5 * 16, 20 * 3
    rates = [float(np.mean(found.counts.spikes[x])) / 12 for x in ("conv1", "conv2")]
    assert min(rates) > 0
    assert energy["ann_operations"] == first + second + last
    assert energy["input_rates"] == dict(
        zip(("conv2/kernel", "dense1/kernel"), map(pytest.approx, rates), strict=True)
    )
    added = rates[0] * second + rates[1] * last
    assert energy["rate_operations"] == pytest.approx(added)
    assert energy["published_energy_pj"] == pytest.approx(4.6 * first + 0.9 * added)
    assert energy["published_energy_pj_int32"] == pytest.approx(3.2 * first + 0.1 * added)
    assert energy["sparse_energy_pj"] == pytest.approx(energy["published_energy_pj"] / 2)
    assert energy["convolution_density"] == 0.5
    maps, leaves = net.synapses, tree.named_leaves(net.params)
    arrivals = operations.synops_of_totals(maps, leaves, found.counts.arrivals)
    assert set(arrivals) == {"conv2/kernel", "dense1/kernel"}
    assert energy["arrival_synops"] == sum(arrivals.values()) / 12
    report = metrics.Report.of("a", net, found, extra=energy)
    assert 0 < energy["arrival_synops"] < report.synops
    assert report.to_row()["sparse_energy_pj"] == energy["sparse_energy_pj"]


@pytest.mark.long
def test_an_ann_only_multiplies():
    net = halved(models.build("4C3-AP2-3", SHAPE, activation="relu", readout="current"))
    inputs = Inputs(SHAPE, timesteps=1)
    found = train.evaluate(train.Task(inputs), net, SPLIT)
    energy = published.published_energy(net, inputs, found.counts)
    count = 9 * 4 * 64 + 64 * 3
    assert energy["ann_operations"] == count and energy["rate_operations"] == 0
    assert energy["published_energy_pj"] == pytest.approx(4.6 * count)
    assert energy["sparse_energy_pj_int32"] == pytest.approx(3.2 * count / 2)
    assert energy["input_rates"] == {} and energy["arrival_synops"] == 0


def test_a_foreign_function_has_no_published_energy():
    net = Network.wrap({"w": jnp.ones((64, 3))}, lambda p, x: x.reshape(*x.shape[:2], 64) @ p["w"])
    with pytest.raises(UserError, match="foreign function has no layers"):
        published.published_energy(net, Inputs(SHAPE, 1), counts_of({}, {}, 1))
