"""A network with the weights of a torch network computes what that network computes."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save

from jaxsnn import layers, models
from jaxsnn.errors import UserError
from jaxsnn.export import from_torch
from jaxsnn.network import Network
from jaxsnn.neurons import LIF
from tests.export.state_dict.torch_files import torch_file

DRAW = np.random.default_rng(0)
SOFT = LIF(0.5, reset="soft_undecayed")


@pytest.fixture(autouse=True)
def same_numbers():
    """Let every test draw the same numbers, whichever run before it."""
    DRAW.bit_generator.state = np.random.default_rng(1).bit_generator.state


def normal(*shape):
    return DRAW.normal(size=shape).astype(np.float32)


def leaky(beta=0.5, threshold=1.0, reset=0):
    fields = {"threshold": threshold, "graded_spikes_factor": 1.0, "beta": beta}
    return {k: np.float32(v) for k, v in fields.items()} | {"reset_mechanism_val": np.int64(reset)}


def under(**modules):
    """Return a state dictionary of modules, `__` for a dot."""
    return {
        f"{module.replace('__', '.')}.{field}": array
        for module, fields in modules.items()
        for field, array in fields.items()
    }


def convolved(x, weight, bias):
    """Return the convolution `[B, O, H, W]` of `[B, I, H, W]`, zeros around."""
    size, rows, columns = weight.shape[-1], *x.shape[2:]
    x = np.pad(x, [(0, 0), (0, 0), (size // 2,) * 2, (size // 2,) * 2])
    found = np.zeros((len(x), len(weight), rows, columns))
    for i in range(size):
        for j in range(size):
            cut = x[:, :, i : i + rows, j : j + columns]
            found += np.einsum("bihw,oi->bohw", cut, weight[:, :, i, j])
    return found + bias.reshape(-1, 1, 1)


def fired(currents, step):
    """Return the spikes of neurons whose potential and spike come from `step(u, x)`."""
    u, spikes = np.zeros(currents[0].shape), []
    for x in currents:
        u, s = step(u, x)
        spikes.append(s)
    return spikes


def snntorch(beta, theta=1.0):
    """Return snnTorch's default step: the threshold is subtracted one step after the spike."""

    def step(u, x):
        u = beta * u + x - theta * (u > theta)
        return u, (u > theta).astype(np.float64)

    return step


def readout(net, x):
    return np.asarray(net(jnp.asarray(x, jnp.float32)).readout)


def as_file(kind, arrays, folder):
    if kind == "dictionary":
        return arrays
    path = folder / f"net.{kind}"
    arrays = {name: np.asarray(each) for name, each in arrays.items()}
    path.write_bytes(torch_file(arrays) if kind == "pt" else save(arrays))
    return path


@pytest.mark.long
@pytest.mark.parametrize("kind", ["dictionary", "pt", "safetensors"])
def test_a_convolutional_network_of_snntorch_fires_as_there(tmp_path, kind):
    conv, fc = (normal(3, 2, 3, 3), normal(3)), (normal(5, 48), normal(5))
    beta = np.linspace(0.2, 0.8, 5).astype(np.float32)
    arrays = under(
        conv1={"weight": conv[0], "bias": conv[1]}, fc1={"weight": fc[0], "bias": fc[1]},
        lif1=leaky(0.5), lif2=leaky(0.5) | {"beta": beta},
    )  # fmt: skip
    net = models.build("3C3-5", (4, 4, 2), SOFT)
    mapping = {"conv1/neurons": "lif1"} if kind == "safetensors" else None  # its order is lost
    net = from_torch(as_file(kind, arrays, tmp_path), net, mapping)
    x = DRAW.integers(0, 2, (12, 2, 4, 4, 2)).astype(np.float64)
    hidden = fired([convolved(e.transpose(0, 3, 1, 2), *conv) for e in x], snntorch(0.5))
    expected = fired([h.reshape(2, -1) @ fc[0].T + fc[1] for h in hidden], snntorch(beta))
    assert 0.03 < np.mean(expected) < 0.97
    np.testing.assert_array_equal(readout(net, x), expected)
    assert net.params["conv1"]["kernel"].shape == (3, 3, 2, 3)


@pytest.mark.long
def test_norms_bring_their_statistics():
    conv = normal(3, 2, 1, 1)
    norm = {"weight": normal(3), "bias": normal(3), "running_mean": normal(3)}
    norm |= {"running_var": np.abs(normal(3)) + 0.1, "num_batches_tracked": np.int64(7)}
    fc = normal(2, 12)
    arrays = under(features__0={"weight": conv}, features__1=norm, head={"weight": fc})
    net = models.build("3C1-2", (2, 2, 2), LIF(0.5), norm=True, use_bias=False, readout="current")
    net = from_torch(arrays, net, decay_input=False)
    x = normal(1, 2, 2, 2, 2)
    there = convolved(x[0].transpose(0, 3, 1, 2), conv, np.zeros(3))
    shape = (-1, 1, 1)
    scale = norm["weight"] / np.sqrt(norm["running_var"] + 1e-5)
    there = (there - norm["running_mean"].reshape(shape)) * scale.reshape(shape)
    spikes = there + norm["bias"].reshape(shape) > 1.0
    np.testing.assert_allclose(readout(net, x)[0], spikes.reshape(2, -1) @ fc.T, rtol=1e-5)


@pytest.mark.long
def test_plif_and_a_leaky_readout_take_the_gain_of_their_input():
    w, fc, out = np.float32(-0.4), normal(6, 4), normal(3, 6)
    arrays = under(fc={"weight": fc}, plif={"w": w}, out={"weight": out})
    neuron = LIF(0.75, 0.3, strict=False)
    net = models.build("6-3", (4,), neuron, use_bias=False, readout="leaky")
    net = from_torch(
        arrays, net, {"dense1/neurons": "plif"}, decay_input=True
    )  # the read-out keeps its decay
    gain = 1 / (1 + np.exp(-np.float64(w)))

    def plif(u, x):
        u = u + (x - u) * gain
        spikes = u >= 0.3
        return u * ~spikes, spikes.astype(np.float64)

    x = DRAW.integers(0, 2, (15, 2, 4)).astype(np.float64)
    spikes = fired([each @ fc.T for each in x], plif)
    assert 0.03 < np.mean(spikes) < 0.97
    u, expected = 0.0, []
    for each in spikes:
        u = u + (each @ out.T - u) * 0.25
        expected.append(u)
    np.testing.assert_allclose(readout(net, x), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.long
def test_recurrent_weights_of_snntorch_and_norse():
    fc, rec, bias = normal(5, 4), normal(5, 5), normal(5)
    inner = {"weight": rec, "bias": bias}
    arrays = under(fc={"weight": fc, "bias": bias}, lif=leaky(0.5), lif__recurrent=inner)
    net = from_torch(arrays, models.build("5R", (4,), SOFT))
    x = DRAW.integers(0, 2, (15, 2, 4)).astype(np.float64)
    u = s = np.zeros((2, 5))
    expected = []
    for each in x:
        u = 0.5 * u + each @ fc.T + bias + s @ rec.T + bias - (u > 1.0)
        s = (u > 1.0).astype(np.float64)
        expected.append(s)
    assert 0.03 < np.mean(expected) < 0.97
    np.testing.assert_array_equal(readout(net, x), expected)
    cell = {"input_weights": fc, "recurrent_weights": rec}
    net = from_torch(
        under(cell=cell), models.build("5R", (4,), SOFT, use_bias=False), decay_input=False
    )
    np.testing.assert_array_equal(net.params["dense1"]["kernel"], fc.T)
    np.testing.assert_array_equal(net.params["dense1"]["recurrent"], rec.T)
    rest = {"weight": rec, "bias": bias}
    two = under(a={"weight": fc, "bias": bias}, b=rest)
    net = models.build("5R", (4,), SOFT)
    net = from_torch(two, net, {"dense1": "a", "dense1/recurrent": "b"}, decay_input=False)
    np.testing.assert_allclose(net.params["dense1"]["bias"], 2 * bias)
    one = leaky(0.5) | {"recurrent.V": np.float32(0.5)}
    net = from_torch(under(a={"weight": fc, "bias": bias}, lif=one), models.build("5R", (4,), SOFT))
    np.testing.assert_array_equal(net.params["dense1"]["recurrent"], 0.5 * np.eye(5))


def test_residual_blocks_are_filled_whatever_the_place_of_their_shortcuts():
    """As torchvision has them: conv1, conv2, and the convolution of the shortcut last."""
    net = models.build("4B3S2P-4B3-2", (4, 4, 2), SOFT, use_bias=False, readout="current")
    shapes = {
        "layer1.0.conv1": (4, 2, 3, 3), "layer1.0.conv2": (4, 4, 3, 3),
        "layer1.0.downsample.0": (4, 2, 1, 1), "layer2.0.conv1": (4, 4, 3, 3),
        "layer2.0.conv2": (4, 4, 3, 3), "fc": (2, 16),
    }  # fmt: skip
    arrays = {f"{name}.weight": normal(*shape) for name, shape in shapes.items()}
    params = from_torch(arrays, net, decay_input=False).params
    for (block, part), name in {
        ("block1", "conv2"): "layer1.0.conv2", ("block1", "projection"): "layer1.0.downsample.0",
        ("block2", "conv1"): "layer2.0.conv1", ("block2", "conv2"): "layer2.0.conv2",
    }.items():  # fmt: skip
        expected = arrays[f"{name}.weight"].transpose(2, 3, 1, 0)
        np.testing.assert_array_equal(params[block][part]["kernel"], expected)


class Skip(nnx.Module):
    """A topology of one's own, whose attributes are in another order than its calls."""

    def __init__(self):
        options = {"neurons": SOFT, "rngs": nnx.Rngs(0)}
        self.b = layers.Conv(2, 2, 1, **options)
        self.a = layers.Conv(1, 2, 1, **options)
        self.out = layers.Dense(8, 3, **options)

    def __call__(self, signal, tape):
        a = self.a(signal, tape)
        return self.out(layers.Flatten()(self.b(a, tape) + a, tape), tape)


def test_blocks_of_attention_with_layer_norms_take_linear_weights():
    attention = layers.Attention(4, heads=2, neurons=SOFT, norm="layer", rngs=nnx.Rngs(0))
    out = layers.Dense(8, 3, neurons=layers.Integrator(), rngs=nnx.Rngs(0))
    chain = {"attention": attention, "flatten": layers.Flatten(), "out": out}
    net = Network.of(layers.Chain(chain), (2, 4))
    arrays = {}
    for part in ("q", "k", "v", "projection"):
        arrays[f"{part}.weight"], arrays[f"{part}.bias"] = normal(4, 4), normal(4)
        arrays[f"{part}_norm.weight"], arrays[f"{part}_norm.bias"] = normal(4), normal(4)
    arrays |= {"head.weight": normal(3, 8), "head.bias": normal(3)}
    params = from_torch(arrays, net, decay_input=False).params
    np.testing.assert_array_equal(params["attention"]["v"]["kernel"][0], arrays["v.weight"].T)
    np.testing.assert_array_equal(
        params["attention"]["k"]["norm"]["scale"], arrays["k_norm.weight"]
    )
    kernel = arrays["head.weight"].reshape(3, 4, 2).transpose(2, 1, 0)  # tokens, features
    np.testing.assert_array_equal(np.reshape(params["out"]["kernel"], (2, 4, 3)), kernel)


def test_any_topology_of_ours_is_filled_in_the_order_of_its_calls():
    weights = normal(2, 1, 1, 1), normal(2, 2, 1, 1), normal(3, 8)
    modules = {f"m{i}": {"weight": w, "bias": normal(len(w))} for i, w in enumerate(weights)}
    net = from_torch(under(**modules), Network.of(Skip(), (2, 2, 1)), decay_input=False)
    np.testing.assert_array_equal(net.params["a"]["kernel"][0, 0], weights[0][:, :, 0, 0].T)
    kernel = np.asarray(net.params["out"]["kernel"]).reshape(4, 2, 3)  # pixels, channels
    np.testing.assert_array_equal(kernel, weights[2].reshape(3, 2, 4).transpose(2, 1, 0))
    with pytest.raises(UserError, match="does not know the shape of its input"):
        from_torch(under(**modules), Network.of(Skip()))


def test_everything_that_does_not_fit_is_in_one_line():
    arrays = under(
        c={"weight": normal(3, 2, 5, 5), "bias": normal(3)}, d={"weight": normal(4, 48)},
        lif1=leaky(reset=1), lif2=leaky() | {"graded_spikes_factor": np.float32(2)},
        bn={"strange": normal(2)},
    )  # fmt: skip
    arrays["lif2.beta"] = normal(7)
    with pytest.raises(UserError) as caught:
        from_torch(arrays, models.build("3C3-4", (4, 4, 2), SOFT))
    text = str(caught.value)
    for part in (
        "missing in the weights: dense1/bias (4,)",
        "left over: bn.strange (2,)",
        "conv1/kernel is (3, 3, 2, 3), c.weight (3, 2, 5, 5) would be (5, 5, 2, 3)",
        "dense1/neurons/decay is () or (4,), lif2.beta (7,)",
        "lif1.reset_mechanism_val says 'zero' ('hard' here), and conv1/neurons resets 'soft_und",
        "lif2.graded_spikes_factor is not 1",
    ):
        assert part in text, (part, text)
    assert "\n" not in text


LINEAR = under(a={"weight": normal(4, 4)}, b={"weight": normal(4, 4)})


@pytest.mark.parametrize(
    "layout, arrays, options, message",
    [
        ("4-4", LINEAR | under(c={"weight": normal(4, 4)}), {}, "2 places for weights and 3 mod.*"
         r"mapping={place: module} with the places dense1 \(4, 4\), dense2 .*modules a \(4, 4\)"),
        ("4-4", LINEAR, {}, "whether dense1/neurons, dense2/neurons multiply .* pass decay_inp"),
        ("4-4", LINEAR, {"mapping": {"conv9": "a"}}, "'conv9' is no place of the network, of dens"),
        ("4-4", LINEAR, {"mapping": {"dense1": "x"}}, "'x' is no module of the weights, of a, b"),
        ("4-4", LINEAR, {"mapping": {"dense1/neurons": "a"}}, "takes neurons, and 'a' is w"),
        ("4-4", LINEAR | {"a.weight": normal(4, 4) * np.nan}, {}, "a.weight holds numbers"),
        ("4", under(a={"weight": normal(4, 4)}, n={"beta": normal(2), "threshold": -1.0}), {},
         "dense1/neurons/decay is"),
        ("4", under(a={"weight": normal(4, 4)}, n=leaky(threshold=-1.0)), {},
         "dense1/neurons/threshold must be in"),
        ("4", under(a={"weight": normal(4, 4)}, n=leaky(reset=2)), {}, "a leaky read-out instead"),
    ],
)  # fmt: skip
def test_what_nobody_says_is_asked_for(layout, arrays, options, message):
    net = models.build(layout, (4,), SOFT, use_bias=False)
    with pytest.raises(UserError, match=message):
        from_torch(arrays, net, **options)


def test_without_an_order_shapes_decide_and_what_is_not_needed_is_left_out(tmp_path):
    arrays = under(
        a={"weight": normal(3, 6)}, b={"weight": normal(6, 4)}, head={"weight": normal(9, 9)}
    )
    net = models.build("6-3", (4,), LIF(1.0), use_bias=False)
    path = as_file("safetensors", arrays, tmp_path)
    with pytest.raises(UserError, match="net.safetensors: .* left over: head.weight"):
        from_torch(path, net)
    filled = from_torch(path, net, ignore=["head.*"])
    np.testing.assert_array_equal(filled.params["dense2"]["kernel"], arrays["a.weight"].T)
    same = under(a={"weight": normal(4, 4)}, b={"weight": normal(4, 4)})
    with pytest.raises(UserError, match="a safetensors file has lost their order"):
        from_torch(as_file("safetensors", same, tmp_path), models.build("4-4", (4,), LIF(1.0)))


def test_a_wrapped_function_has_no_layers_to_fill():
    with pytest.raises(UserError, match="a wrapped foreign function has no module"):
        from_torch(LINEAR, Network.wrap({"w": jnp.ones(3)}, lambda params, x: x))
