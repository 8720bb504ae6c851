"""A NIR graph as a network: there and back, other people's graphs, damaged files."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsnn import layers, tree
from jaxsnn.errors import UserError
from jaxsnn.export import from_nir, to_nir
from jaxsnn.inputs import Inputs
from jaxsnn.network import Network
from jaxsnn.neurons import LIF, SynapticLIF
from tests.export.nir.nir_cases import CASES, IMAGES, network, run, spikes_in

nir = pytest.importorskip("nir")
h5py = pytest.importorskip("h5py")


LAYOUTS = ["4", "3C3-AP2-4", "2C2S2-6-4", "3C3V-4B3M2-D0.5-4", "3C3-4B3S2-AP2-4"]


@pytest.mark.slow
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
    net = network(layout, LIF(decay), (6, 6, 2), gain=3.0, readout=readout)
    path = tmp_path_factory.mktemp("nir") / "net.nir"
    to_nir(net, path, Inputs((6, 6, 2), timesteps=4), target=target)
    again = from_nir(path)
    x = spikes_in(4, (6, 6, 2))
    np.testing.assert_array_equal(run(again, x), run(net, x))
    assert again.order == net.order


@pytest.mark.long
@pytest.mark.parametrize("target", ["norse", "sinabs"])
def test_there_and_back_for_those_that_need_other_weights(target):
    layout, neuron, options = CASES[target]["leaky"]
    net = network(layout, neuron, **options)
    x = spikes_in(30)
    graph = to_nir(net, None, IMAGES, target=target, example=x)
    assert run(net, x).sum() > 0
    np.testing.assert_array_equal(run(from_nir(graph), x), run(net, x))


@pytest.mark.long
def test_a_vote_becomes_weights():
    net = network("6-V2", shape=(4,), gain=3.0)
    x = spikes_in(5, (4,))
    again = from_nir(to_nir(net))
    np.testing.assert_allclose(run(again, x), run(net, x), rtol=1e-6)


@pytest.mark.long
def test_a_pruned_block_keeps_its_channel_map_and_weights():
    module = network("4C3-6B3-3", shape=(6, 6, 2), gain=3.0).module
    weight = jnp.array([1.0, 0.5, 1.0, 2.0, 1.0, 1.0])
    parts = module.block1.conv1, module.block1.conv2
    module.block1 = layers.Residual(*parts, sources=(3, 0, -1, 1, 1, -1), weight=weight)
    whole = Network.of(module)
    x = spikes_in(4, (6, 6, 2))
    again = from_nir(to_nir(whole, None, (6, 6, 2)))
    assert again.module.block1.sources == (3, 0, -1, 1, 1, -1)
    np.testing.assert_array_equal(run(again, x), run(whole, x))


def affine(scale=1.0, bias=2):
    return nir.Affine(weight=scale * np.eye(2), bias=np.zeros(bias))


def lif(size=2, **other):
    numbers = {"tau": 1e-3, "r": 10.0, "v_leak": 0.0, "v_reset": 0.0, "v_threshold": 1.0} | other
    return nir.LIF(**{name: np.broadcast_to(value, (size,)) for name, value in numbers.items()})


def conv(padding=1, dilation=1, groups=1):
    kernel = np.zeros((2, 2 // groups, 3, 3))
    return nir.Conv2d((8, 8), kernel, 1, padding, dilation, groups, np.zeros(2))


def changed(node, field, value):
    setattr(node, field, value)
    return node


def pool(stride):
    return nir.AvgPool2d(np.array([2, 2]), np.array([stride, stride]), np.array([0, 0]))


def graph_of(shape, nodes, edges=None):
    nodes = {"in": nir.Input(np.array(shape)), **nodes, "out": nir.Output(np.array(shape))}
    names = list(nodes)
    edges = list(zip(names, names[1:], strict=False)) if edges is None else edges
    return nir.NIRGraph(nodes, edges, type_check=False)


def test_a_foreign_neuron_is_read_with_its_gain_and_step():
    net = from_nir(graph_of((2,), {"fc": affine(), "lif": lif(r=5.0)}))
    layer = net.module.dense1
    np.testing.assert_allclose(layer.neurons.decay[...], 0.9, rtol=1e-6)  # 1 - 1e-4 / 1e-3
    np.testing.assert_allclose(layer.kernel[...], 0.5 * np.eye(2), rtol=1e-6)  # 5e-4 / 1e-3
    graph = graph_of((2,), {"fc": affine(), "lif": lif()})
    other = from_nir(graph, dt=5e-4, reset="soft").module
    np.testing.assert_allclose(other.dense1.neurons.decay[...], 0.5, rtol=1e-6)
    assert other.dense1.neurons.options.reset == "soft"


CUBA = {name: np.ones(2) for name in ("tau_syn", "tau_mem", "r", "v_leak", "v_threshold")}
ROUND = [("in", "fc"), ("fc", "lif"), ("lif", "fc"), ("lif", "out")]
NO_DELAY = [("in", "a"), ("a", "b"), ("b", "a"), ("b", "out")]
TWICE = [("in", "fc"), ("fc", "lif"), ("lif", "lif"), ("lif", "r"), ("r", "lif"), ("lif", "out")]
AROUND = [("in", "fc"), ("fc", "lif"), ("lif", "r"), ("r", "lif"), ("lif", "out")]


def recurrent(weights):
    return graph_of((2,), {"fc": affine(2.0), "lif": lif(), "r": weights}, AROUND)


SPLIT = [("in", "a"), ("in", "b"), ("a", "lif"), ("b", "lif"), ("lif", "out")]


@pytest.mark.parametrize(
    "graph, message",
    [
        (lambda: graph_of((2,), {"syn": nir.CubaLIF(**CUBA)}), "'syn' .CubaLIF.: neurons without"),
        (lambda: graph_of((2,), {"scale": nir.Scale(np.ones(2))}), "node 'scale' .Scale."),
        (lambda: graph_of((2,), {"a": affine(), "s": nir.Scale(np.ones(3))}), "node 's' .Scale."),
        (lambda: graph_of((2,), {"lif": lif()}), "node 'lif' .LIF.: neurons without weights"),
        (lambda: graph_of((2,), {"fc": affine(), "l": lif(v_leak=1.0)}), "'l' .LIF.: v_leak other"),
        (lambda: graph_of((2,), {"fc": affine(), "l": lif(v_reset=1.0)}), "'l' .*v_reset other"),
        (lambda: graph_of((2,), {"fc": affine(), "l": lif(tau=1e-5)}), "'l' .*tau .* one step"),
        (lambda: graph_of((3,), {"fc": affine()}), "'fc' .Affine.: weights .2, 2. for inputs .3"),
        (lambda: graph_of((2, 8, 8), {"c": conv(padding=2)}), "'c' .Conv2d.: padding .2, 2."),
        (lambda: graph_of((2, 8, 8), {"c": conv(dilation=2)}), "'c' .*dilated"),
        (lambda: graph_of((2, 8, 8), {"c": changed(conv(), "groups", 3)}), "'c' .*6 channels"),
        (lambda: graph_of((2, 8, 8), {"p": pool(1)}), "'p' .AvgPool2d.: windows that overlap"),
        (lambda: graph_of((2, 8, 8, 8, 8), {"c": conv()}), "'in' .Input.: inputs of shape"),
        (lambda: graph_of((2, 8), {"fc": affine()}), "'fc' .Affine.: weights .2, 2. for inputs .8"),
        (lambda: graph_of((2,), {"fc": affine(), "lif": lif()}, ROUND), "'fc' .Affine.: a cycle o"),
        (lambda: graph_of((2,), {"a": affine(), "b": affine()}, NO_DELAY), "'a' .Affine.: a cycle "
         "without delay, .* only neurons hear themselves"),
        (lambda: graph_of((2,), {"fc": affine(), "lif": lif(), "r": affine()}, TWICE), "a cycle"),
        (lambda: graph_of((2,), {"fc": affine(), "l": changed(lif(), "v_reset", None)}),
         "'l' .LIF.: does not say how it resets; pass reset='hard'"),
        (lambda: recurrent(nir.Linear(np.ones((3, 3)))), "'r' .Linear.: weights .3, 3. for n"),
        (lambda: graph_of((2,), {"a": affine(), "b": affine(), "lif": lif()}, SPLIT), "'in' .*bra"),
        (lambda: graph_of((2,), {"x": affine(), "y": affine()}, [("in", "out")]), "node 'x' .*not"),
        (lambda: nir.Scale(np.ones(2)), "a network is a NIRGraph, found Scale"),
        (lambda: graph_of((2,), {"fc": affine(np.nan)}), "'fc' .Affine.: field 'weight' is"),
        (lambda: graph_of((2,), {"fc": affine(1e39)}), "'fc' .Affine.: field 'weight' is"),
        (lambda: graph_of((2,), {"fc": affine(bias=3)}), "'fc' .Affine.: a bias .3,. for weights"),
        (lambda: graph_of((2,), {"fc": affine(1e38), "l": lif(r=1e3)}), "'fc' .*beyond float32"),
        (lambda: graph_of((2,), {"fc": affine(), "l": lif(tau=0)}), "'l' .*field 'tau' is .*above"),
        (lambda: graph_of((2,), {"fc": affine(), "l": lif(v_threshold=-1)}), "field 'v_threshold'"),
        (lambda: graph_of((2, 8, 8), {"c": changed(conv(), "stride", 0)}), "'c' .*'stride' is 0"),
        (lambda: graph_of((2, 2, 2), {"c": conv(padding=0)}), "'c' .Conv2d.: a kernel .3, 3, 2, 2"),
        (lambda: graph_of((0,), {"fc": affine()}), "'in' .Input.: inputs of shape"),
        (lambda: graph_of((2,), {"fc": affine()}, [("in", "x")]), "edge .* ends nowhere"),
    ],
)  # fmt: skip
def test_a_node_that_no_layer_computes_is_refused_by_name(graph, message):
    with pytest.raises(UserError, match=message):
        from_nir(graph())


@pytest.mark.parametrize("nested", [False, True])
def test_neurons_that_hear_themselves_are_a_recurrent_layer(nested):
    weight = np.array([[0.0, 3.0], [-1.0, 0.5]])
    graph = recurrent(nir.Affine(weight=weight, bias=np.array(0.25)))
    if nested:  # as snnTorch writes it: the neurons and their loop are a graph of their own
        inner = graph_of((2,), {"lif": lif(), "r": graph.nodes["r"]}, [
            ("in", "lif"), ("lif", "r"), ("r", "lif"), ("lif", "out"),
        ])  # fmt: skip
        graph = graph_of((2,), {"fc": affine(2.0), "rnn": inner})
    net = from_nir(graph, dt=5e-4, reset="soft")  # decay 0.5; currents times 10 x 0.5
    x, u, s, expected = spikes_in(20, (2,)), np.zeros((2, 2)), np.zeros((2, 2)), []
    for each in x:
        u = 0.5 * (u - s) + 5.0 * (2.0 * each + s @ weight.T + 0.25)
        s = (u > 1.0).astype(np.float64)
        expected.append(s)
    assert 0.1 < np.mean(expected) < 0.9
    np.testing.assert_array_equal(run(net, x), expected)
    assert type(net.module.dense1) is layers.Recurrent


def cuba(**other):
    numbers = {"tau_syn": 2e-4, "tau_mem": 4e-4, "r": 4.0, "v_leak": 0.0, "v_threshold": 1.0}
    numbers |= {"v_reset": 0.0, "w_in": 2.0} | other
    return nir.CubaLIF(**{name: np.full(2, value) for name, value in numbers.items()})


def test_current_based_neurons_are_read_with_their_gains():
    x = spikes_in(20, (2,))
    net = from_nir(graph_of((2,), {"fc": affine(0.5), "lif": cuba(w_in=3.0)}))
    u, i, expected = np.zeros((2, 2)), np.zeros((2, 2)), []
    for each in x:
        i = 0.5 * i + 1.5 * 0.5 * each  # w_in dt / tau_syn
        u = 0.75 * u + i
        expected.append(u > 1.0)
        u = u * ~expected[-1]
    assert 0.05 < np.mean(expected) < 0.9
    np.testing.assert_array_equal(run(net, x), expected)
    with pytest.raises(UserError, match="'lif' .CubaLIF.: tau_syn 1e-05 is below one step"):
        from_nir(graph_of((2,), {"fc": affine(), "lif": cuba(tau_syn=1e-5)}))
    with pytest.raises(UserError, match="'lif' .CubaLIF.: neurons that spikingjelly does not read"):
        from_nir(graph_of((2,), {"fc": affine(), "lif": cuba()}), target="spikingjelly")


@pytest.mark.parametrize("target", ["nir", "snntorch", "norse"])
def test_current_based_neurons_go_there_and_back(tmp_path, target):
    neuron = SynapticLIF(0.75, 1.5, synaptic_decay=jnp.array([0.5, 0.25, 0.0]))
    net = network("3", neuron, (4,), gain=3.0)
    to_nir(net, tmp_path / "net.nir", target=target)
    assert_same(from_nir(tmp_path / "net.nir"), net)


def assert_same(again, net):
    """Compare all numbers, and the rules of the neurons."""
    for ours, theirs in ((net.params, again.params), (net.stats, again.stats)):
        ours, theirs = tree.named_leaves(ours), tree.named_leaves(theirs)
        assert ours.keys() == theirs.keys()
        for name, leaf in ours.items():
            np.testing.assert_allclose(theirs[name], leaf, rtol=1e-6, err_msg=name)
    assert again.program == net.program and again.input_shape == net.input_shape


def test_groups_and_sequences_go_there_and_back(tmp_path):
    options = {"neurons": LIF(0.5), "rngs": nnx.Rngs(0)}
    images = {"conv1": layers.Conv(4, 6, 3, groups=2, **options), "flatten1": layers.Flatten()}
    tokens = {"conv1": layers.Conv1d(4, 6, 3, stride=2, groups=2, **options)} | {
        "flatten1": layers.Flatten()
    }
    for chain, shape, features in ((images, (4, 4, 4), 96), (tokens, (6, 4), 18)):
        dense = layers.Dense(features, 3, neurons=layers.Integrator(), rngs=nnx.Rngs(0))
        net = Network.of(layers.Chain(chain | {"dense1": dense}), shape)
        graph = to_nir(net, tmp_path / "net.nir")
        assert graph.nodes["conv1"].weight.shape[:2] == (6, 2) and graph.nodes["conv1"].groups == 2
        assert_same(from_nir(tmp_path / "net.nir"), net)
    with pytest.raises(UserError, match="conv1: a layer Conv1d of 2 groups: NIR for target 'snnt"):
        to_nir(net, target="snntorch")


@pytest.mark.parametrize("target", ["nir", "norse"])
def test_a_recurrent_layer_goes_there_and_back(tmp_path, target):
    net = network("6R-3", LIF(0.5), (4,), gain=3.0)
    graph = to_nir(net, tmp_path / "net.nir", target=target)
    loop = {("dense1_neurons", "dense1_recurrent"), ("dense1_recurrent", "dense1_neurons")}
    assert loop <= set(graph.edges)
    assert_same(from_nir(tmp_path / "net.nir"), net)


def random(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape)


def test_chains_of_linear_nodes_are_one_layer_unless_that_has_more_weights():
    a, b, bias, scale = random(3, 2), random(4, 3), random(3), random(4)
    nodes = {
        "in_scale": nir.Scale(np.array([2.0, 0.5])), "a": nir.Affine(weight=a, bias=bias),
        "b": nir.Linear(weight=b), "s": nir.Scale(scale), "all": nir.Scale(np.array(0.5)),
    }  # fmt: skip
    net = from_nir(graph_of((2,), nodes))
    x = random(1, 5, 2).astype(np.float32)
    expected = ((x * [2.0, 0.5]) @ a.T + bias) @ b.T * scale * 0.5
    assert net.order == ("dense1",)
    np.testing.assert_allclose(run(net, x), expected, rtol=1e-4, atol=1e-6)
    wide = {"a": nir.Linear(weight=random(1, 9)), "b": nir.Linear(weight=random(9, 1))}
    assert from_nir(graph_of((9,), wide)).order == ("dense1", "dense2")


def test_a_long_chain_is_read_in_time_that_grows_with_it():
    nodes = {f"n{i}": nir.Affine(weight=np.eye(1), bias=np.zeros(1)) for i in range(3000)}
    assert from_nir(graph_of((1,), nodes)).order == ("dense1",)


def test_a_scale_of_images_goes_through_pooling_and_flattening():
    scale = np.broadcast_to(np.array([2.0, -1.0]).reshape(2, 1, 1), (2, 8, 8))
    weight = random(3, 32)
    flatten = nir.Flatten({"input": np.array([2, 4, 4])}, start_dim=-3, end_dim=-1)
    nodes = {"c": conv(), "s": nir.Scale(scale), "p": pool(2)}
    nodes["c"].weight = random(2, 2, 3, 3)
    pixels = nir.Scale(random(2, 4, 4))
    whole = nodes | {"q": pixels, "f": flatten, "fc": nir.Linear(weight=weight)}
    net = from_nir(graph_of((2, 8, 8), whole))
    plain = from_nir(graph_of((2, 8, 8), {"c": nodes["c"]}))
    x = random(1, 1, 8, 8, 2).astype(np.float32)
    images = run(plain, x)[0, 0].transpose(2, 0, 1) * scale
    pooled = images.reshape(2, 4, 2, 4, 2).mean((2, 4)) * pixels.scale
    assert net.order == ("conv1", "dense1")
    np.testing.assert_allclose(run(net, x)[0, 0], weight @ pooled.ravel(), rtol=1e-4, atol=1e-5)


def test_scalars_are_numbers_for_all():
    net = from_nir(graph_of((2,), {"fc": affine(bias=1), "lif": lif(1)}))
    same = from_nir(graph_of((2,), {"fc": affine(), "lif": lif()}))
    x = spikes_in(9, (2,))
    np.testing.assert_array_equal(run(net, x), run(same, x))


def test_graphs_in_graphs_are_laid_out_and_nodes_named_by_their_place():
    def inside(nodes):
        return graph_of((2,), nodes)

    block = inside({"fc": affine(3.0), "lif": lif()})
    net = from_nir(graph_of((2,), {"one": inside({"two": block}), "fc": affine(2.0)}))
    assert net.order == ("dense1", "dense2")
    np.testing.assert_allclose(net.params["dense1"]["kernel"], 3 * np.eye(2))
    odd = graph_of((2,), {"one": inside({"two": inside({"s": nir.Threshold(np.ones(2))})})})
    with pytest.raises(UserError, match="node 'one.two.s' .Threshold.: an unknown node"):
        from_nir(odd)
    headless = nir.NIRGraph({"fc": affine()}, [], type_check=False)
    with pytest.raises(UserError, match="node 'one' .NIRGraph.: 0 nodes Input in it, expected one"):
        from_nir(graph_of((2,), {"one": headless}))
    deep = block
    for _ in range(20):
        deep = inside({"in_it": deep})
    with pytest.raises(UserError, match="node 'in_it' .NIRGraph.: more than 16 graphs"):
        from_nir(deep)


def test_a_file_that_does_not_say_its_reset_is_asked_for_it(good_file, tmp_path):
    path = tmp_path / "old.nir"
    path.write_bytes(good_file.read_bytes())
    with h5py.File(path, "r+") as file:
        del file["node/nodes/dense1_neurons/v_reset"]
    with pytest.raises(UserError, match="old.nir: node 'dense1_neurons' .LIF.: does not say how"):
        from_nir(path)
    assert from_nir(path, reset="soft").module.dense1.neurons.options.reset == "soft"


def test_a_threshold_of_each_pixel_is_refused():
    uneven = np.ones((2, 8, 8))
    uneven[0, 0, 0] = 2.0
    ones = np.ones((2, 8, 8))
    neurons = nir.LIF(ones * 1e-3, ones * 10, ones * 0, v_threshold=uneven)
    with pytest.raises(UserError, match="'n' .LIF.: v_threshold that is not the same over a chan"):
        from_nir(graph_of((2, 8, 8), {"c": conv(), "n": neurons}))


@pytest.fixture(scope="module")
def good_file(tmp_path_factory):
    net = network("4", shape=(3,))
    path = tmp_path_factory.mktemp("files") / "good.nir"
    to_nir(net, path)
    return path


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.9])
def test_a_truncated_file_is_refused_by_its_name(good_file, tmp_path, keep):
    content = good_file.read_bytes()
    short = tmp_path / "short.nir"
    short.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(UserError, match="short.nir: damaged or cut short: .*expected a NIR file"):
        from_nir(short)


def test_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="none.nir: no such file, expected a NIR file"):
        from_nir(tmp_path / "none.nir")
    with h5py.File(tmp_path / "other.nir", "w") as file:
        file["data"] = np.ones(3)
    with pytest.raises(UserError, match="other.nir: damaged or cut short: .*expected a NIR file"):
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


def test_a_file_whose_groups_contain_each_other_is_refused_at_once(good_file, tmp_path):
    path = tmp_path / "cycle.nir"
    path.write_bytes(good_file.read_bytes())
    with h5py.File(path, "r+") as file:
        file["node/nodes/dense1/metadata/again"] = file["node"]
    with pytest.raises(UserError, match="cycle.nir: .*field again stands in two places"):
        from_nir(path)


def test_what_is_wrong_in_a_file_is_named_with_the_file(good_file, tmp_path):
    path = tmp_path / "nan.nir"
    path.write_bytes(good_file.read_bytes())
    with h5py.File(path, "r+") as file:
        file["node/nodes/dense1/weight"][0, 0] = np.nan
    with pytest.raises(UserError, match="nan.nir: node 'dense1' .Affine.: field 'weight' is .*not"):
        from_nir(path)
    with h5py.File(path, "r+") as file:
        del file["node/metadata/dt"]
        file["node/metadata/dt"] = "soon"
    with pytest.raises(UserError, match="nan.nir: metadata of the NIR graph: dt is 'soon'"):
        from_nir(path)
