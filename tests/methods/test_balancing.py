"""Conversion: rates against activations, thresholds by hand, and what cannot be converted."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsnn import Network, encode, layers, models, train
from jaxsnn.data import load
from jaxsnn.errors import UserError
from jaxsnn.inputs import Inputs
from jaxsnn.losses import cross_entropy
from jaxsnn.methods import balancing
from jaxsnn.models.variants import ann_of
from jaxsnn.neurons import unroll


def pair(layout, shape, order="fire_then_integrate", **options):
    """Return the ANN and the spiking network of one layout, without biases."""
    options = {"readout": "current", "use_bias": False} | options
    neuron = balancing.neuron(order)
    spiking = models.build(layout, shape, neuron, seed=1, **options)
    ann = models.build(layout, shape, neuron, activation="relu", seed=0, **options)
    return ann, spiking


def larger(net):
    return net.replace(params=jax.tree.map(lambda leaf: 3.0 * leaf, net.params))


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def direct(images, timesteps):
    """Return an input that is the same image at every step."""
    return encode.direct(images / 255.0, timesteps)


def balance(ann, snn, images, timesteps, **options):
    options = {"batches": 1, "batch_size": len(images)} | options
    task = train.Task(Inputs(images.shape[1:], timesteps))
    return balancing.thresholds(ann, snn, task, images, **options)


# --- Numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("quantile", "expected"), [(0.997, 997), (0.999, 999), (1.0, 1000)])
def test_quantiles_by_nearest_rank(quantile, expected):
    shuffled = jnp.asarray(
        np.random.default_rng(0).permutation(np.arange(1.0, 1001.0)), jnp.float32
    )
    assert balancing.nearest_rank(shuffled, quantile) == expected
    assert balancing.nearest_rank(-shuffled, quantile) == expected - 1001


def test_the_neurons_of_both_orders_reset_by_subtraction():
    current = jnp.full((4, 1, 1), 0.6)
    spikes, potential, _ = unroll(balancing.neuron(decay=0.9901), current)
    assert spikes.ravel().tolist() == [0, 0, 1, 0]
    np.testing.assert_allclose(potential.ravel(), [0.6, 1.19406, 0.782239, 1.374495], atol=1e-6)
    spikes = unroll(balancing.neuron("integrate_then_fire", decay=0.9901), current)[0]
    assert spikes.ravel().tolist() == [0, 1, 0, 1]
    with pytest.raises(UserError, match="order 'late' is unknown; choose one of integrate_then"):
        balancing.neuron("late")


# --- Thresholds -----------------------------------------------------------------------------------


def test_a_threshold_is_the_largest_current():
    """W = [[1, 2], [-1, .5]] with constant ones: the currents are 0 and 2.5, the threshold 2.5."""
    ann, snn = pair("2-2", (2,))
    kernel = jnp.asarray([[1.0, 2.0], [-1.0, 0.5]])
    ann = ann.replace(params=ann.params | {"dense1": {"kernel": kernel}})
    ones = np.full((3, 2), 255, np.uint8)
    assert balance(ann, snn, ones, 4) == {"dense1": 2.5}


@pytest.mark.long
def test_earlier_layers_spike_at_their_own_thresholds():
    ann, snn = pair("6-5-3", (8,))
    images = pixels(16, 8)
    timesteps, batches = 12, 2
    found = balance(ann, snn, images, timesteps, batches=batches, batch_size=8, quantile=0.9)
    first, second = (np.asarray(ann.params[f"dense{i}"]["kernel"], np.float64) for i in (1, 2))

    def rank(values):
        return np.sort(values.ravel())[round(0.9 * (values.size - 1))]

    # A constant current has the same quantile at every step; the batches are those of the seed.
    order, _ = jax.random.split(jax.random.key(0))
    rows = np.asarray(jax.random.permutation(order, 16)).reshape(batches, 8)
    currents = images[rows] / 255.0 @ first
    assert found["dense1"] == pytest.approx(max(rank(c) for c in currents), rel=1e-5)
    largest = 0.0
    for current in currents:
        potential = np.zeros_like(current)
        for _ in range(timesteps):
            spikes = potential > found["dense1"]
            potential += current - found["dense1"] * spikes
            largest = max(largest, rank(spikes @ second))
    assert list(found) == ["dense1", "dense2"]
    assert found["dense2"] == pytest.approx(largest, rel=1e-5)


@pytest.mark.long
def test_the_record_of_a_residual_sum_holds_the_shortcut():
    ann, snn = pair("2C3-2B3-3", (4, 4, 1))
    watched = Network.of(layers.watch(snn.module)).replace(params=larger(ann).params)
    x = encode.direct(jnp.ones((2, 4, 4, 1)), 9)
    activity = watched(x).activity
    spikes = activity.spikes["block1/conv1"], activity.spikes["conv1"]
    assert spikes[0].any() and spikes[1].any()
    kernel = watched.params["block1"]["conv2"]["kernel"]
    total = watched.synapses["block1/conv2/kernel"](spikes[0], kernel) + spikes[1]
    np.testing.assert_allclose(activity.current["block1/conv2"].sum(0), total, atol=1e-5)
    assert snn(x).activity.current == {}
    with pytest.raises(UserError, match="layer 'conv1' is watched over the whole time axis"):
        watched(x, remat=3)


@pytest.mark.long
def test_a_silent_layer_is_named():
    ann, snn = pair("6-5-3", (8,))
    images = np.full((4, 8), 200, np.uint8)
    message = "layer 'dense2': its threshold came out as 0, the layer is silent; calibrate over"
    with pytest.raises(UserError, match=message):
        balance(ann, snn, images, 1)  # the first spikes come one step later
    with pytest.raises(UserError, match="layer 'conv1': its threshold came out as nan"):
        balancing.check_threshold("conv1", jnp.nan)


# --- Rates and activations ------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("order", ["fire_then_integrate", "integrate_then_fire"])
def test_rates_come_near_to_activations(order):
    """Rate times threshold is ReLU(W x) up to v / T in layer 1, O(sum |w| / T) behind it."""
    ann, snn = pair("6-5-3", (8,), order)
    images, timesteps = pixels(8, 8), 2000
    found = balance(ann, snn, images, timesteps)
    converted = balancing.convert(ann, snn, found)
    out, exact = converted(direct(images, timesteps)), ann(direct(images, 1))
    unit = 1.0
    for i, name in enumerate(("dense1", "dense2")):
        unit *= found[name]
        rate = np.asarray(out.activity.spikes[name]) / timesteps
        error = np.abs(rate * unit - np.asarray(exact.activity.spikes[name])).max()
        # One spike more stays in the membrane where firing comes a step late.
        late = 1 + (order == "fire_then_integrate")
        assert error < (late * unit / timesteps * 1.001 if i == 0 else 1e-2 * unit)
    np.testing.assert_allclose(out.readout.mean(0) * unit, exact.readout[0], atol=1e-2)
    inputs = Inputs((8,), timesteps)
    assert balancing.score_unit(converted, inputs) == pytest.approx(unit)
    scaled = balancing.convert(ann, snn, found, scale=0.7)
    assert balancing.score_unit(scaled, inputs) == pytest.approx(unit * 0.7**2)


@pytest.mark.long
def test_the_first_neurons_of_a_block_are_not_in_the_unit_of_the_scores():
    ann, snn = pair("2C3-2B3-3B3S2P-3", (4, 4, 1))
    found = {"conv1": 2.0, "block1/conv1": 5.0, "block1/conv2": 3.0, "block2/conv1": 7.0}
    net = balancing.convert(ann, snn, found | {"block2/conv2": 0.5})
    assert balancing.score_unit(net, Inputs((4, 4, 1), 4)) == 2.0 * 3.0 * 0.5


@pytest.mark.slow
def test_a_residual_network_comes_near_to_its_ann_with_all_thresholds_estimated():
    ann, snn = pair("3C3-4B3S2-3", (4, 4, 1), "integrate_then_fire")
    ann, images = larger(ann), pixels(4, 4, 4, 1)
    found = balance(ann, snn, images, 400)
    assert list(found) == ["conv1", "block1/conv1", "block1/conv2"]
    converted = balancing.convert(ann, snn, found)
    scores = np.asarray(ann(direct(images, 1)).readout[0])

    def error(net):
        out = np.asarray(net(direct(images, 400)).readout.mean(0))
        # The scores of a spiking network are in a unit of their own.
        out = out * np.vdot(out, scores) / np.vdot(out, out)
        return np.linalg.norm(out - scores) / np.linalg.norm(scores)

    # Without the factor on the second kernels the two ways into each sum are in different units.
    assert 5 * error(converted) < 0.05 < error(converted.replace(params=ann.params))


@pytest.mark.thorough
@pytest.mark.long
def test_an_ann_for_digits_keeps_its_accuracy_as_a_spiking_network():
    data = load("digits")
    ann, snn = pair("48-D0.1-32-10", (8, 8, 1), "integrate_then_fire")
    optimizer = optax.adam(1e-2)
    spiking = train.Task(data.inputs(50, "poisson", scale="half"))
    still = train.Task(data.inputs(1, scale="half"))

    @jax.jit
    def trained(net, images, labels):
        def step(carry, key):
            net, state = carry
            rows = jax.random.randint(key, (64,), 0, len(images))

            def loss(params):
                x = still.prepare(key, images[rows], False)
                out = net.replace(params=params)(x, train=True, key=key)
                return cross_entropy(out.readout, labels[rows])

            updates, state = optimizer.update(jax.grad(loss)(net.params), state)
            return (net.replace(params=optax.apply_updates(net.params, updates)), state), None

        keys = jax.random.split(jax.random.key(0), 300)
        return jax.lax.scan(step, (net, optimizer.init(net.params)), keys)[0][0]

    images, labels = data.train
    ann = trained(ann, jnp.asarray(images), jnp.asarray(labels))
    exact = train.evaluate(still, ann, data.test).accuracy
    found = balancing.thresholds(ann, snn, spiking, images, quantile=0.999, batches=2)
    converted = balancing.convert(ann, snn, found, scale=0.7)
    assert exact > 0.95 and train.evaluate(spiking, converted, data.test).accuracy > exact - 0.02
    default = balancing.convert(ann, snn, {})  # thresholds of 1 everywhere
    assert train.evaluate(spiking, default, data.test).accuracy < exact - 0.05


# --- Conversion ----------------------------------------------------------------------------------


def test_a_conversion_puts_thresholds_and_leak_into_the_constants():
    ann, snn = pair("2C3-2B3-3", (4, 4, 1))
    found = {"conv1": 2.0, "block1/conv1": 4.0}
    net = balancing.convert(ann, snn, found, scale=0.5, decay=0.9901)
    assert net.stats["conv1"]["neurons"] == {"decay": np.float32(0.9901), "threshold": 1.0}
    thresholds = [net.stats["block1"][f"conv{i}"]["neurons"]["threshold"] for i in (1, 2)]
    assert thresholds == [2.0, 1.0]
    expected = jax.tree.map(lambda leaf: leaf, ann.params)
    expected["block1"]["conv2"]["kernel"] = 2.0 * expected["block1"]["conv2"]["kernel"]
    jax.tree.map(np.testing.assert_array_equal, net.params, expected)
    assert net.program == snn.program  # so that compiled programs are shared


def test_trained_thresholds_are_parameters_and_are_set_too():
    options = {"readout": "current", "use_bias": False, "trained": ("threshold",)}
    snn = models.build("4-3", (2,), balancing.neuron(), **options)
    net = balancing.convert(ann_of(snn), snn, {"dense1": 3.0})
    assert net.params["dense1"]["neurons"]["threshold"] == 3.0


def test_what_cannot_be_converted_is_named():
    ann, snn = pair("4-3", (2,))
    biased, _ = pair("4-3", (2,), use_bias=True)
    longer, _ = pair("4-4-3", (2,))
    wider, _ = pair("5-3", (2,))
    for given, found, message in (
        (biased, {}, "layer 'dense1' has a bias, which does not survive a conversion: build both"),
        (longer, {}, "layer 'dense3' is in the ANN only"),
        (wider, {}, r"layer 'dense1' has a kernel \(2, 5\) in the ANN, \(2, 4\) in the spiking"),
        (ann, {"dense2": 1.0}, "layer 'dense2' has no threshold in this network"),
        (ann, {"dense1": 0.0}, r"the threshold of layer 'dense1' must be in \(0, inf\), found 0"),
    ):
        with pytest.raises(UserError, match=message):
            balancing.convert(given, snn, found)
    with pytest.raises(UserError, match="scale must be in"):
        balancing.convert(ann, snn, {}, scale=0.0)
    with pytest.raises(UserError, match="decay must be in"):
        balancing.convert(ann, snn, {}, decay=1.1)


@pytest.mark.long
def test_too_few_timesteps_for_the_delay_name_the_first_layer_that_stays_silent():
    names = ("conv1", "conv2", "conv3")
    message = "layer 'conv2' cannot spike within 2 timesteps: in the order 'fire_then_integrate' "
    with pytest.raises(UserError, match=message + "each layer delays by one; take 4 timesteps"):
        balancing.check_delay(names, 2, "fire_then_integrate")
    balancing.check_delay(names, 1, "integrate_then_fire")
    with pytest.raises(UserError, match="order 'late' is unknown"):
        balancing.check_delay(names, 9, "late")
    # The bound is exact: with 3 spiking layers the read-out hears something at step 4, not at 3.
    _, snn = pair("4-4-4-2", (2,))
    assert balancing.spiking_layers(snn, Inputs((2,), 4)) == ("dense1", "dense2", "dense3")
    balancing.check_delay(("dense1", "dense2", "dense3"), 4, "fire_then_integrate")
    strong = snn.replace(params=jax.tree.map(lambda leaf: jnp.full_like(leaf, 2.0), snn.params))
    heard = strong(encode.direct(jnp.ones((1, 2)), 4)).readout
    assert heard.any((1, 2)).tolist() == [False, False, False, True]
