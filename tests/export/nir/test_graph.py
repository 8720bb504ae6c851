"""A network as a NIR graph: by the equations of its readers, and what they cannot express."""

import sys
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsnn import layers
from jaxsnn.errors import UserError
from jaxsnn.export import from_nir, to_nir
from jaxsnn.export.ties import count_ties
from jaxsnn.network import Network
from jaxsnn.neurons import LIF, AdaptiveLIF, Neuron, SynapticLIF
from jaxsnn.neurons.neuron import POSITIVE
from tests.export.nir.nir_cases import IMAGES, PEERS, network, run, spikes_in

nir = pytest.importorskip("nir")
h5py = pytest.importorskip("h5py")


def read_by(target, node, current):
    """Return the spikes `[T, B, N]` of a node by the target's equation.

    In float64, but for the decay: readers have it in float32, where a very long tau gives 1.
    """
    gain, dt = {"norse": (1.0, 1e-3), "sinabs": (1.0, None)}.get(target, (node.r, 1e-4))
    potential, spikes = np.zeros(current.shape[1:]), []
    for now in current:
        if isinstance(node, nir.IF):
            potential = potential + (now if target == "norse" else dt * gain * now)
        elif target == "sinabs":
            potential = np.exp(-1.0 / node.tau).astype(np.float32) * potential + now
        else:
            decay = (1.0 - dt / node.tau).astype(np.float32)
            potential = decay * (potential - node.v_leak) + dt / node.tau * gain * now
        on = potential >= node.v_threshold
        fired = on if target in ("sinabs", "spikingjelly") else potential > node.v_threshold
        left = potential - node.v_threshold if target == "sinabs" else node.v_reset
        potential = np.where(fired, left, potential)
        spikes.append(fired)
    return np.array(spikes)


@pytest.mark.parametrize("target", ["nir", *PEERS])
@pytest.mark.parametrize("decay, threshold", [(0.5, 0.5), (1.0, 1.0)])  # no tau is rounded
@pytest.mark.parametrize("strict", [True, False])
def test_a_reader_that_follows_its_equation_gets_our_spikes(target, decay, threshold, strict):
    reset = "soft" if target == "sinabs" else "hard"
    neuron = LIF(decay, threshold, reset=reset, strict=strict)
    net = network("5", neuron, (6,), gain=0.7, grid=0.125, use_bias=False)
    x = spikes_in(20, (6,), rate=0.5)
    graph = to_nir(net, None, (6,), target=target, example=x)
    current = x.astype(np.float64) @ graph.nodes["dense1"].weight.T
    ours = run(net, x)
    assert ours.sum() > 5
    np.testing.assert_array_equal(read_by(target, graph.nodes["dense1_neurons"], current), ours)


def test_dense_weights_behind_a_flattening_are_in_the_order_of_channels_first():
    net = network("5", shape=(2, 3, 4), readout="current")
    graph = to_nir(net, None, (2, 3, 4))
    image = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    node = graph.nodes["dense1"]
    there = node.weight @ image.transpose(2, 0, 1).reshape(-1) + node.bias
    np.testing.assert_allclose(there, run(net, image[None, None])[0, 0], rtol=1e-5)
    assert [type(graph.nodes[name]).__name__ for name in ("input", "flatten1", "output")] == [
        "Input", "Flatten", "Output",
    ]  # fmt: skip
    np.testing.assert_array_equal(graph.nodes["input"].input_type["input"], (4, 2, 3))


def test_sums_over_windows_are_taken_back_by_the_next_weights():
    net = network("3C3-AP2-5", readout="current")
    average, total = (to_nir(net, None, IMAGES, target=t) for t in ("nir", "norse"))
    assert isinstance(total.nodes["pool1"], nir.SumPool2d)
    np.testing.assert_array_equal(total.nodes["dense1"].weight * 4, average.nodes["dense1"].weight)
    np.testing.assert_array_equal(total.nodes["dense1"].bias, average.nodes["dense1"].bias)


def test_constants_of_each_channel_are_laid_out_over_the_image():
    net = network("3C3", LIF(jnp.array([0.0, 0.5, 0.75]), jnp.array([1.0, 2.0, 3.0])))
    node = to_nir(net, None, IMAGES, dt=0.5).nodes["conv1_neurons"]
    assert node.tau.shape == (3, 8, 8)
    np.testing.assert_array_equal(node.tau[:, 2, 5], [0.5, 1.0, 2.0])
    np.testing.assert_array_equal(node.v_threshold[:, 7, 0], [1.0, 2.0, 3.0])
    again = from_nir(to_nir(net, None, IMAGES)).module.conv1.neurons
    np.testing.assert_array_equal(again.decay[...], [0.0, 0.5, 0.75])


def test_ties_are_counted_by_layer_and_reported_at_the_node():
    net = network("1-2", LIF(1.0), (1,), use_bias=False)
    params = {"dense1": {"kernel": jnp.array([[0.5]])}, "dense2": {"kernel": jnp.array([[2.0, 1]])}}
    net = net.replace(params=params)
    x = np.ones((8, 1, 1), np.float32)
    # First layer: 0.5, 1 (tie), 1.5 (spike), and again. Second: 2 or 1 (tie) at each of two spikes,
    # the latter stays on the threshold without input, and is above at the second spike.
    assert count_ties(net, x) == {"dense1": 3, "dense2": 3}
    graph = to_nir(net, example=x)
    assert graph.nodes["dense1_neurons"].metadata == {"ties": 3}


SOFTLY = LIF(0.5, reset="soft")


@pytest.mark.parametrize(
    "target, layout, neuron, options, message",
    [
        ("nir", "3C3-MP2-4", None, {}, "pool1: a layer MaxPool: NIR for target 'nir'"),
        ("snntorch", "4R-3", None, {}, "dense1: a recurrent layer"),
        ("nir", "3C3-4", None, {"norm": True}, "conv1: .*export.fold_norms"),
        ("nir", "3C3-4", None, {"dtype": jnp.bfloat16}, "conv1: weights of bfloat16"),
        ("snntorch", "4", SOFTLY, {}, "dense1: reset 'soft' .only 'hard'.: NIR for .*'snntorch'"),
        ("nir", "4", LIF(0.5, order="fire_then_integrate"), {}, "dense1: order"),
        ("sinabs", "4", LIF(0.5), {}, "dense1: reset 'hard'"),
        ("sinabs", "4", SOFTLY, {}, "several spikes in one step .* pass example="),
        ("norse", "4C3-4B3-3", None, {}, "block1: a residual block"),
        ("norse", "4C3-AP2", None, {}, "pool1: an average pool without weights"),
        ("snntorch", "4", None, {"readout": "leaky"}, "dense1: a read-out that integrates"),
        ("spikingjelly", "2", LIF(jnp.array([0.5, 0.6])), {}, "dense1: a decay for each channel"),
        ("snntorch", "2", LIF(0.5, jnp.array([1.0, 2])), {}, "dense1: a threshold for each chan"),
        ("spikingjelly", "2", LIF(0.0), {}, "dense1: decay 0"),
        ("sinabs", "2", SynapticLIF(reset="soft"), {}, "dense1: neurons with a synaptic current"),
        ("nir", "2", SynapticLIF(delayed=True), {}, "a synaptic current that is heard one step la"),
        ("nir", "2", AdaptiveLIF(), {}, "dense1: neurons AdaptiveLIF, its threshold adapts"),
        ("nir", "2-2", None, {"activation": "relu", "readout": "current"}, "dense1: rectified"),
        ("lava", "4", None, {}, "target 'lava' is unknown; choose one of nir, snntorch, norse"),
    ],
)
def test_what_a_target_cannot_express_is_refused_by_name(target, layout, neuron, options, message):
    net = network(layout, neuron, **options)
    with pytest.raises(UserError, match=message):
        to_nir(net, None, IMAGES, target=target)


def test_neurons_that_would_fire_twice_are_refused_with_their_number():
    net = network("1", LIF(1.0, reset="soft"), (1,), use_bias=False)
    net = net.replace(params={"dense1": {"kernel": jnp.array([[2.0]])}})
    with pytest.raises(UserError, match="dense1: .*as 3 potentials do"):
        to_nir(net, None, (1,), target="sinabs", example=np.ones((3, 1, 1), np.float32))


def test_other_steps_and_shapes_are_refused():
    net = network("3C3-4")
    with pytest.raises(UserError, match="dt is 0.0001 for target snntorch, found 0.001"):
        to_nir(net, None, IMAGES, target="snntorch", dt=1e-3)
    with pytest.raises(UserError, match="dt must be in"):
        to_nir(net, None, IMAGES, dt=0.0)
    with pytest.raises(UserError, match="conv1: needs images with 2 channels, but gets .8, 8, 3"):
        to_nir(net, None, (8, 8, 3))
    with pytest.raises(UserError, match="takes images of any size: pass inputs=task.inputs"):
        to_nir(net.replace(input_shape=None))
    with pytest.raises(UserError, match="conv1: needs images with 2 channels, but gets .8, 8."):
        to_nir(net, None, (8, 8))
    with pytest.raises(UserError, match="the shape .H, W, C., .L, C. or .features,., found .8, 0"):
        to_nir(net, None, (8, 0, 2))


@dataclass(frozen=True)
class Halving(Neuron):
    """A neuron of one's own that is a LIF."""

    ranges = {"threshold": POSITIVE}
    nir = "LIF"

    threshold: float = 1.0

    def advance(self, state, current):
        return LIF(0.5, self.threshold).advance(state, current)

    def spikes(self, state):
        return LIF(0.5, self.threshold).spikes(state)

    def as_lif(self):
        return LIF(0.5, self.threshold)


def test_a_neuron_of_ones_own_is_written_as_the_node_that_it_says():
    own = to_nir(network("3", Halving(2.0), (4,))).nodes["dense1_neurons"]
    lif = to_nir(network("3", LIF(0.5, 2.0), (4,))).nodes["dense1_neurons"]
    for field in ("tau", "r", "v_threshold", "v_reset"):
        np.testing.assert_array_equal(getattr(own, field), getattr(lif, field))


class Mine(nnx.Module):
    """A topology of one's own."""

    def __init__(self):
        self.out = layers.Dense(4, 3, neurons=LIF(), rngs=nnx.Rngs(0))

    def __call__(self, signal, tape):
        return self.out(signal, tape)


def test_another_topology_is_refused_by_the_name_of_its_class():
    with pytest.raises(UserError, match="for a Chain of layers, found the topology of Mine"):
        to_nir(Network.of(Mine()))


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "nir", None)
    net = network("4", shape=(3,))
    with pytest.raises(UserError, match="needs the package nir, .* pip install nir"):
        to_nir(net)
