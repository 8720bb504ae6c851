"""A NIR file means in the framework that it was written for what the network means here."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsnn import network as functional, layers, models
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.export.modules import filled
from jaxsnn.export.nir import to_nir
from jaxsnn.export.nir.files import write_nir
from jaxsnn.export.nir.reader import from_nir
from jaxsnn.export.ties import count_ties
from jaxsnn.neurons import LIF

nir = pytest.importorskip("nir", reason="pip install 'jaxsnn-compress[nir]'")
h5py = pytest.importorskip("h5py")

PEERS = ("snntorch", "norse", "spikingjelly", "sinabs")
PEER_PYTHON = "JAXSNN_PEER_PYTHON"  # an interpreter that has them, where this one has not
IMAGES = (8, 8, 2)


def network(layout, neuron=None, shape=IMAGES, *, gain=1.0, grid=None, **options):
    """Return a network with larger weights, on multiples of `grid`, and its trees.

    `gain` is one factor, or one for each layer.
    """
    neuron = LIF(0.5) if neuron is None else neuron
    net = models.build(layout, shape, neuron, rngs=nnx.Rngs(0), **options)
    params, stats = functional.split(net)[:2]

    def weights(path, leaf):
        leaf = np.asarray(leaf) * (gain[path[0].key] if isinstance(gain, dict) else gain)
        return jnp.asarray(leaf if grid is None else np.round(leaf / grid) * grid, jnp.float32)

    params = jax.tree_util.tree_map_with_path(weights, params)
    return filled(net, params, stats), params, stats


def spikes_in(timesteps, shape=IMAGES, batch=2, rate=0.4):
    return (np.random.default_rng(7).random((timesteps, batch, *shape)) < rate).astype(np.float32)


def run(net, x):
    params, stats, apply, _ = functional.split(net)
    return np.asarray(apply(params, stats, jnp.asarray(x)).readout)


def every_spike(net, x):
    """Return the spikes `[T, B, ...]` of every layer, channels first, and the potentials."""
    names = [n for n, layer in net.synapses().items() if isinstance(layer.neurons, layers.Neurons)]

    def step(membranes, value):
        tape = layers.Tape(train=False, key=None, membranes=membranes)
        net(Signal(value[None], 1), tape)
        return tape.membranes, (tape.activity.spikes, tape.membranes)

    rest = jax.eval_shape(step, {}, jnp.asarray(x[0]))[0]
    rest = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), rest)
    spikes, membranes = jax.jit(lambda x: jax.lax.scan(step, rest, x)[1])(jnp.asarray(x))
    potentials = {name: np.asarray(membranes[name].potential) for name in names}
    return {name: channels_first(spikes[name]) for name in names}, potentials


def channels_first(values):
    return np.moveaxis(np.asarray(values), -1, 2)


# --- In the frameworks ----------------------------------------------------------------------------

HARD = {
    # Potentials that are rounded, as those of a trained network.
    "leaky": ("6C3-AP2-4C3S2-12-5", LIF(0.5), {"gain": 4.0}),
    # Dyadic weights without a leak: exact in float32, and often exactly on the threshold.
    "ties": ("6C3-AP2-4C2V-12-5", LIF(1.0), {"gain": 4.0, "grid": 0.25}),
    "ties fire": ("6C3-AP2-12-5", LIF(1.0, strict=False), {"gain": 4.0, "grid": 0.25}),
    "blocks": ("6C3-6B3M4-8B3S2-5", LIF(0.75), {"gain": 3.0}),
}
# sinabs resets by subtraction and must not get to twice the threshold.
RISING = {"conv1": 0.45, "conv2": 1.5, "dense1": 1.1, "dense2": 0.9}
SOFT = {
    "leaky": ("6C3-AP2-4C3S2-12-5", LIF(0.5, 0.4, reset="soft"), {"gain": RISING}),
    "ties": ("6C3-AP2-4C2V-12-5", LIF(1.0, 1.0, reset="soft"), {"gain": 0.75, "grid": 0.0625}),
    "read-out": ("6C3-AP2-5", LIF(0.5, 0.4, reset="soft"), {"gain": 0.45, "readout": "leaky"}),
}
CASES = {
    "snntorch": HARD,
    "spikingjelly": HARD,
    "norse": {name: case for name, case in HARD.items() if name != "blocks"},
    "sinabs": SOFT,
}


def peer_python(target):
    if importlib.util.find_spec(target) is not None:
        return sys.executable
    if PEER_PYTHON in os.environ:
        return os.environ[PEER_PYTHON]
    pytest.skip(f"{target}: pip install 'jaxsnn-compress[peers]', or name by {PEER_PYTHON} an "
                "interpreter that has it")  # fmt: skip


@pytest.mark.parametrize("target", PEERS)
def test_every_spike_of_every_layer_is_the_same_in_the_framework(target, tmp_path):
    python = peer_python(target)
    x = spikes_in(50)
    nets = {}
    for name, (layout, neuron, options) in CASES[target].items():
        net, *trees = network(layout, neuron, **options)
        graph = to_nir(net, *trees, IMAGES, target=target, example=x)
        write_nir(tmp_path / f"{name}.nir", graph)
        np.save(tmp_path / f"{name}.npy", channels_first(x))
        nets[name] = net
    script = Path(__file__).parent / "nir_peers" / "run.py"
    command = [python, script, target, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, net in nets.items():
        ours, potentials = every_spike(net, x)
        theirs = np.load(tmp_path / f"{name}.npz")
        distances = [
            np.abs(u - np.asarray(net.synapses()[layer].neurons.threshold[...]))
            for layer, u in potentials.items()
        ]
        on = sum(int(np.sum(distance == 0)) for distance in distances)
        # No luck: ties are many, or nothing is so near to the threshold that rounding decides.
        assert on > 100 if "ties" in name else min(d.min() for d in distances) > 1e-6
        for layer, spikes in ours.items():
            assert 0.01 < spikes.mean() < 0.7, (name, layer)
            heard = theirs[f"{layer.replace('/', '_')}_neurons"]
            np.testing.assert_array_equal(spikes, heard, err_msg=f"{name}, {layer}")
        if name == "read-out":
            np.testing.assert_allclose(theirs["dense1_neurons"], run(net, x), rtol=1e-4, atol=1e-6)


# --- By the equations of the standard -------------------------------------------------------------


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
    net, *trees = network("5", neuron, (6,), gain=0.7, grid=0.125, use_bias=False)
    x = spikes_in(20, (6,), rate=0.5)
    graph = to_nir(net, *trees, (6,), target=target, example=x)
    current = x.astype(np.float64) @ graph.nodes["dense1"].weight.T
    ours = run(net, x)
    assert ours.sum() > 5
    np.testing.assert_array_equal(read_by(target, graph.nodes["dense1_neurons"], current), ours)


def test_dense_weights_behind_a_flattening_are_in_the_order_of_channels_first():
    net, *trees = network("5", shape=(2, 3, 4), readout="current")
    graph = to_nir(net, *trees, (2, 3, 4))
    image = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    node = graph.nodes["dense1"]
    there = node.weight @ image.transpose(2, 0, 1).reshape(-1) + node.bias
    np.testing.assert_allclose(there, run(net, image[None, None])[0, 0], rtol=1e-5)
    assert [type(graph.nodes[name]).__name__ for name in ("input", "flatten1", "output")] == [
        "Input", "Flatten", "Output",
    ]  # fmt: skip
    np.testing.assert_array_equal(graph.nodes["input"].input_type["input"], (4, 2, 3))


def test_sums_over_windows_are_taken_back_by_the_next_weights():
    net, *trees = network("3C3-AP2-5", readout="current")
    average, total = (to_nir(net, *trees, IMAGES, target=t) for t in ("nir", "norse"))
    assert isinstance(total.nodes["pool1"], nir.SumPool2d)
    np.testing.assert_array_equal(total.nodes["dense1"].weight * 4, average.nodes["dense1"].weight)
    np.testing.assert_array_equal(total.nodes["dense1"].bias, average.nodes["dense1"].bias)


def test_constants_of_each_channel_are_laid_out_over_the_image():
    net, *trees = network("3C3", LIF(jnp.array([0.0, 0.5, 0.75]), jnp.array([1.0, 2.0, 3.0])))
    node = to_nir(net, *trees, IMAGES, dt=0.5).nodes["conv1_neurons"]
    assert node.tau.shape == (3, 8, 8)
    np.testing.assert_array_equal(node.tau[:, 2, 5], [0.5, 1.0, 2.0])
    np.testing.assert_array_equal(node.v_threshold[:, 7, 0], [1.0, 2.0, 3.0])
    again = from_nir(to_nir(net, *trees, IMAGES)).conv1.neurons
    np.testing.assert_array_equal(again.decay[...], [0.0, 0.5, 0.75])


# --- Ties -----------------------------------------------------------------------------------------


def test_ties_are_counted_by_layer_and_reported_at_the_node():
    net, *_ = network("1-2", LIF(1.0), (1,), use_bias=False)
    params = {"dense1": {"kernel": jnp.array([[0.5]])}, "dense2": {"kernel": jnp.array([[2.0, 1]])}}
    stats = functional.split(net).stats
    x = np.ones((8, 1, 1), np.float32)
    # First layer: 0.5, 1 (tie), 1.5 (spike), and again. Second: 2 or 1 (tie) at each of two spikes,
    # the latter stays on the threshold without input, and is above at the second spike.
    assert count_ties(net, params, stats, x) == {"dense1": 3, "dense2": 3}
    graph = to_nir(net, params, stats, (1,), example=x)
    assert graph.nodes["dense1_neurons"].metadata == {"ties": 3}


# --- There and back -------------------------------------------------------------------------------

LAYOUTS = ["4", "3C3-AP2-4", "2C2S2-6-4", "3C3V-4B3M2-D0.5-4", "3C3-4B3S2-AP2-4"]


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    layout=st.sampled_from(LAYOUTS),
    decay=st.sampled_from([0.3, 0.9, 1.0]),
    readout=st.sampled_from(["spikes", "current", "leaky"]),
    target=st.sampled_from(["nir", "snntorch", "spikingjelly"]),
)
def test_there_and_back_gives_identical_logits(tmp_path_factory, layout, decay, readout, target):
    if readout == "leaky" and target != "nir":
        target = "nir"  # the others have no such read-out
    net, *trees = network(layout, LIF(decay), (6, 6, 2), gain=3.0, readout=readout)
    path = tmp_path_factory.mktemp("nir") / "net.nir"
    size = write_nir(path, to_nir(net, *trees, (6, 6, 2), target=target))
    assert size == path.stat().st_size
    again = from_nir(path)
    x = spikes_in(4, (6, 6, 2))
    np.testing.assert_array_equal(run(again, x), run(net, x))
    assert list(again.synapses()) == list(net.synapses())


@pytest.mark.parametrize("target", ["norse", "sinabs"])
def test_there_and_back_for_those_that_need_other_weights(target):
    layout, neuron, options = CASES[target]["leaky"]
    net, *trees = network(layout, neuron, **options)
    x = spikes_in(30)
    graph = to_nir(net, *trees, IMAGES, target=target, example=x)
    assert run(net, x).sum() > 0
    np.testing.assert_array_equal(run(from_nir(graph), x), run(net, x))


def test_a_vote_becomes_weights():
    net, *trees = network("6-V2", shape=(4,), gain=3.0)
    x = spikes_in(5, (4,))
    again = from_nir(to_nir(net, *trees, (4,)))
    np.testing.assert_allclose(run(again, x), run(net, x), rtol=1e-6)


def test_a_pruned_block_keeps_its_channel_map_and_weights():
    whole = network("4C3-6B3-3", shape=(6, 6, 2), gain=3.0)[0]
    weight = jnp.array([1.0, 0.5, 1.0, 2.0, 1.0, 1.0])
    parts = whole.block1.conv1, whole.block1.conv2
    whole.block1 = layers.Residual(*parts, sources=(3, 0, -1, 1, 1, -1), weight=weight)
    x = spikes_in(4, (6, 6, 2))
    graph = to_nir(whole, *functional.split(whole)[:2], (6, 6, 2))
    again = from_nir(graph)
    assert again.block1.sources == (3, 0, -1, 1, 1, -1)
    np.testing.assert_array_equal(run(again, x), run(whole, x))


# --- What a target cannot express -----------------------------------------------------------------

SOFTLY = LIF(0.5, reset="soft")


@pytest.mark.parametrize(
    "target, layout, neuron, options, message",
    [
        ("nir", "3C3-MP2-4", None, {}, "pool1: a layer MaxPool: NIR for target 'nir'"),
        ("nir", "4R-3", None, {}, "dense1: a recurrent layer"),
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
        ("lava", "4", None, {}, "target 'lava' is unknown; choose one of nir, snntorch, norse"),
    ],
)
def test_what_a_target_cannot_express_is_refused_by_name(target, layout, neuron, options, message):
    net, *trees = network(layout, neuron, **options)
    with pytest.raises(UserError, match=message):
        to_nir(net, *trees, IMAGES, target=target)


def test_neurons_that_would_fire_twice_are_refused_with_their_number():
    net, *trees = network("1", LIF(1.0, reset="soft"), (1,), use_bias=False)
    trees[0] = {"dense1": {"kernel": jnp.array([[2.0]])}}
    with pytest.raises(UserError, match="dense1: .*as 3 potentials do"):
        to_nir(net, *trees, (1,), target="sinabs", example=np.ones((3, 1, 1), np.float32))


def test_other_steps_and_shapes_are_refused():
    net, *trees = network("3C3-4")
    with pytest.raises(UserError, match="dt is 0.0001 for target snntorch, found 0.001"):
        to_nir(net, *trees, IMAGES, target="snntorch", dt=1e-3)
    with pytest.raises(UserError, match="dt must be in"):
        to_nir(net, *trees, IMAGES, dt=0.0)
    with pytest.raises(UserError, match="conv1: needs images with 2 channels, but gets .8, 8, 3"):
        to_nir(net, *trees, (8, 8, 3))


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "nir", None)
    net, *trees = network("4", shape=(3,))
    with pytest.raises(UserError, match="pip install 'jaxsnn-compress.nir.'"):
        to_nir(net, *trees, (3,))


# --- Other people's graphs ------------------------------------------------------------------------


def affine(outputs=2, inputs=2):
    return nir.Affine(weight=np.eye(outputs, inputs), bias=np.zeros(outputs))


def lif(size=2, **other):
    numbers = {"tau": 1e-3, "r": 10.0, "v_leak": 0.0, "v_reset": 0.0, "v_threshold": 1.0} | other
    return nir.LIF(**{name: np.broadcast_to(value, (size,)) for name, value in numbers.items()})


def conv(padding=1, dilation=1, groups=1):
    kernel = np.zeros((2, 2 // groups, 3, 3))
    return nir.Conv2d((8, 8), kernel, 1, padding, dilation, groups, np.zeros(2))


def pool(stride):
    return nir.AvgPool2d(np.array([2, 2]), np.array([stride, stride]), np.array([0, 0]))


def graph_of(shape, nodes, edges=None):
    nodes = {"in": nir.Input(np.array(shape)), **nodes, "out": nir.Output(np.array(shape))}
    names = list(nodes)
    edges = list(zip(names, names[1:], strict=False)) if edges is None else edges
    return nir.NIRGraph(nodes, edges, type_check=False)


def test_a_foreign_neuron_is_read_with_its_gain_and_step():
    net = from_nir(graph_of((2,), {"fc": affine(), "lif": lif(r=5.0)}))
    np.testing.assert_allclose(net.dense1.neurons.decay[...], 0.9, rtol=1e-6)  # 1 - 1e-4 / 1e-3
    np.testing.assert_allclose(net.dense1.kernel[...], 0.5 * np.eye(2), rtol=1e-6)  # 5e-4 / 1e-3
    other = from_nir(graph_of((2,), {"fc": affine(), "lif": lif()}), dt=5e-4, reset="soft")
    np.testing.assert_allclose(other.dense1.neurons.decay[...], 0.5, rtol=1e-6)
    assert other.dense1.neurons.options.reset == "soft"


CUBA = {name: np.ones(2) for name in ("tau_syn", "tau_mem", "r", "v_leak", "v_threshold")}
ROUND = [("in", "fc"), ("fc", "lif"), ("lif", "fc"), ("lif", "out")]
SPLIT = [("in", "a"), ("in", "b"), ("a", "lif"), ("b", "lif"), ("lif", "out")]


@pytest.mark.parametrize(
    "graph, message",
    [
        (lambda: graph_of((2,), {"syn": nir.CubaLIF(**CUBA)}), "'syn' .CubaLIF.: an unknown node"),
        (lambda: graph_of((2,), {"scale": nir.Scale(np.ones(2))}), "node 'scale' .Scale."),
        (lambda: graph_of((2,), {"lif": lif()}), "node 'lif' .LIF.: neurons without weights"),
        (lambda: graph_of((2,), {"fc": affine(), "l": lif(v_leak=1.0)}), "'l' .LIF.: v_leak other"),
        (lambda: graph_of((2,), {"fc": affine(), "l": lif(v_reset=1.0)}), "'l' .*v_reset other"),
        (lambda: graph_of((2,), {"fc": affine(), "l": lif(tau=1e-5)}), "'l' .*tau .* one step"),
        (lambda: graph_of((3,), {"fc": affine()}), "'fc' .Affine.: weights .2, 2. for inputs .3"),
        (lambda: graph_of((2, 8, 8), {"c": conv(padding=2)}), "'c' .Conv2d.: padding .2, 2."),
        (lambda: graph_of((2, 8, 8), {"c": conv(dilation=2)}), "'c' .*dilated"),
        (lambda: graph_of((2, 8, 8), {"c": conv(groups=2)}), "'c' .*channels|'c' .*groups"),
        (lambda: graph_of((2, 8, 8), {"p": pool(1)}), "'p' .AvgPool2d.: windows that overlap"),
        (lambda: graph_of((2, 8), {"fc": affine()}), "'in' .Input.: inputs of shape"),
        (lambda: graph_of((2,), {"fc": affine(), "lif": lif()}, ROUND), "'fc' .*2 nodes before it"),
        (lambda: graph_of((2,), {"a": affine(), "b": affine(), "lif": lif()}, SPLIT), "'in' .*bra"),
        (lambda: graph_of((2,), {"x": affine(), "y": affine()}, [("in", "out")]), "node 'x' .*not"),
        (lambda: nir.Scale(np.ones(2)), "a network is a NIRGraph, found Scale"),
    ],
)  # fmt: skip
def test_a_node_that_no_layer_computes_is_refused_by_name(graph, message):
    with pytest.raises(UserError, match=message):
        from_nir(graph())


def test_a_threshold_of_each_pixel_is_refused():
    uneven = np.ones((2, 8, 8))
    uneven[0, 0, 0] = 2.0
    ones = np.ones((2, 8, 8))
    neurons = nir.LIF(ones * 1e-3, ones * 10, ones * 0, v_threshold=uneven)
    with pytest.raises(UserError, match="'n' .LIF.: v_threshold that is not the same over a chan"):
        from_nir(graph_of((2, 8, 8), {"c": conv(), "n": neurons}))


# --- Damaged files --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good_file(tmp_path_factory):
    net, *trees = network("4", shape=(3,))
    path = tmp_path_factory.mktemp("files") / "good.nir"
    write_nir(path, to_nir(net, *trees, (3,)))
    return path


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.9])
def test_a_truncated_file_is_refused_by_its_name(good_file, tmp_path, keep):
    content = good_file.read_bytes()
    short = tmp_path / "short.nir"
    short.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(UserError, match="short.nir: damaged, or not a NIR file"):
        from_nir(short)


def test_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="none.nir: no such file, expected a NIR file"):
        from_nir(tmp_path / "none.nir")
    with h5py.File(tmp_path / "other.nir", "w") as file:
        file["data"] = np.ones(3)
    with pytest.raises(UserError, match="other.nir: damaged, or not a NIR file"):
        from_nir(tmp_path / "other.nir")


def test_a_file_that_states_more_than_it_can_hold_is_refused_before_it_is_read(good_file, tmp_path):
    path = tmp_path / "large.nir"
    path.write_bytes(good_file.read_bytes())
    with h5py.File(path, "r+") as file:
        node = file["node/nodes/dense1"]
        del node["weight"]
        node.create_dataset("weight", shape=(1 << 20, 1 << 20), dtype="f4", chunks=(64, 64))
    with pytest.raises(UserError, match="large.nir: .*states 439804.* bytes of values"):
        from_nir(path)


def test_a_file_that_points_elsewhere_is_refused(good_file, tmp_path):
    path = tmp_path / "link.nir"
    path.write_bytes(good_file.read_bytes())
    with h5py.File(path, "r+") as file:
        del file["node/nodes/dense1/weight"]
        file["node/nodes/dense1/weight"] = h5py.ExternalLink(str(good_file), "/node")
    with pytest.raises(UserError, match="field weight lies in another place"):
        from_nir(path)
