"""A NIR graph as a network: there and back, other people's graphs, damaged files."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsnn import layers
from jaxsnn.errors import UserError
from jaxsnn.export import from_nir, to_nir
from jaxsnn.inputs import Inputs
from jaxsnn.network import Network
from jaxsnn.neurons import LIF
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
        (lambda: graph_of((2,), {"fc": affine(np.nan)}), "'fc' .Affine.: field 'weight' is"),
        (lambda: graph_of((2,), {"fc": affine(1e39)}), "'fc' .Affine.: field 'weight' is"),
        (lambda: graph_of((2,), {"fc": affine(bias=1)}), "'fc' .Affine.: a bias .1,. for weights"),
        (lambda: graph_of((2,), {"fc": affine(1e38), "l": lif(r=1e3)}), "'fc' .*beyond float32"),
        (lambda: graph_of((2,), {"fc": affine(), "l": lif(tau=0)}), "'l' .*field 'tau' is .*above"),
        (lambda: graph_of((2,), {"fc": affine(), "l": lif(v_threshold=-1)}), "field 'v_threshold'"),
        (lambda: graph_of((2, 8, 8), {"c": changed(conv(), "stride", 0)}), "'c' .*'stride' is 0"),
        (lambda: graph_of((2, 2, 2), {"c": conv(padding=0)}), "'c' .Conv2d.: a kernel of 3 for in"),
        (lambda: graph_of((0,), {"fc": affine()}), "'in' .Input.: inputs of shape"),
        (lambda: graph_of((2,), {"fc": affine()}, [("in", "x")]), "edge .* ends nowhere"),
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
