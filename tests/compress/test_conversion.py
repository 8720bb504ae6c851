"""Conversion: rates against activations, thresholds by hand, and what cannot be converted."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxsnn import encode, layers, models
from jaxsnn import network as functional
from jaxsnn.arrays import at_least_float32
from jaxsnn.compress import symmetric_uniform
from jaxsnn.data import load
from jaxsnn.errors import UserError
from jaxsnn.losses import cross_entropy
from jaxsnn.methods import conversion
from jaxsnn.neurons import unroll
from jaxsnn.train import calibrate


def pair(layout, shape, order="fire_then_integrate", **options):
    """Return the ANN, the spiking network and its watched copy, of one layout, without biases."""
    options = {"readout": "current", "use_bias": False} | options
    neuron = conversion.neuron(order)
    spiking = models.build(layout, shape, neuron, rngs=nnx.Rngs(1), **options)
    ann = models.build(layout, shape, neuron, activation="relu", rngs=nnx.Rngs(0), **options)
    return (
        functional.split(ann),
        functional.split(spiking),
        functional.split(layers.watch(spiking)),
    )


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def direct(timesteps):
    """Return a preparation that hands over the same image at every step."""
    return lambda key, images, training: encode.direct(images / 255.0, timesteps)


def balance(ann, snn, watched, images, timesteps, **options):
    names = conversion.spiking_layers(snn.synapses, snn.params, snn.stats)
    options = {"batches": 1, "batch_size": len(images)} | options
    return calibrate.thresholds(
        watched.apply, direct(timesteps), ann.params, snn.params, snn.stats, images, names,
        **options,
    )  # fmt: skip


# --- Numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("quantile", "expected"), [(0.997, 997), (0.999, 999), (1.0, 1000)])
def test_quantiles_by_nearest_rank(quantile, expected):
    shuffled = jnp.asarray(
        np.random.default_rng(0).permutation(np.arange(1.0, 1001.0)), jnp.float32
    )
    assert conversion.nearest_rank(shuffled, quantile) == expected
    assert conversion.nearest_rank(-shuffled, quantile) == expected - 1001


def test_the_neurons_of_both_orders_reset_by_subtraction():
    current = jnp.full((4, 1, 1), 0.6)
    spikes, potential, _ = unroll(conversion.neuron(decay=0.9901), current)
    assert spikes.ravel().tolist() == [0, 0, 1, 0]
    np.testing.assert_allclose(potential.ravel(), [0.6, 1.19406, 0.782239, 1.374495], atol=1e-6)
    spikes = unroll(conversion.neuron("integrate_then_fire", decay=0.9901), current)[0]
    assert spikes.ravel().tolist() == [0, 1, 0, 1]
    with pytest.raises(UserError, match="order 'late' is unknown; choose one of integrate_then"):
        conversion.neuron("late")


# --- Thresholds -----------------------------------------------------------------------------------


def test_a_threshold_is_the_largest_current():
    """W = [[1, 2], [-1, .5]] with constant ones: the currents are 0 and 2.5, the threshold 2.5."""
    ann, snn, watched = pair("2-2", (2,))
    kernel = jnp.asarray([[1.0, 2.0], [-1.0, 0.5]])
    ann = ann._replace(params=ann.params | {"dense1": {"kernel": kernel}})
    ones = np.full((3, 2), 255, np.uint8)
    assert balance(ann, snn, watched, ones, 4) == {"dense1": 2.5}


def test_earlier_layers_spike_at_their_own_thresholds():
    ann, snn, watched = pair("6-5-3", (8,))
    images = pixels(16, 8)
    timesteps, batches = 12, 2
    found = balance(ann, snn, watched, images, timesteps, batches=batches, batch_size=8,
                    quantile=0.9)  # fmt: skip
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


def test_the_record_of_a_residual_sum_holds_the_shortcut():
    ann, snn, watched = pair("2C3-2B3-3", (4, 4, 1))
    ann = ann._replace(params=jax.tree.map(lambda leaf: 3.0 * leaf, ann.params))
    x = encode.direct(jnp.ones((2, 4, 4, 1)), 9)
    activity = watched.apply(ann.params, snn.stats, x).activity
    maps = watched.synapses
    spikes = activity.spikes["block1/conv1"], activity.spikes["conv1"]
    assert spikes[0].any() and spikes[1].any()
    kernel = ann.params["block1"]["conv2"]["kernel"]
    total = maps["block1/conv2/kernel"](spikes[0], kernel) + spikes[1]
    np.testing.assert_allclose(activity.current["block1/conv2"].sum(0), total, atol=1e-5)
    assert snn.apply(ann.params, snn.stats, x).activity.current == {}
    with pytest.raises(UserError, match="layer 'conv1' is watched over the whole time axis"):
        watched.apply(ann.params, snn.stats, x, remat=3)


def test_a_silent_layer_is_named():
    ann, snn, watched = pair("6-5-3", (8,))
    images = np.full((4, 8), 200, np.uint8)
    message = "layer 'dense2': its threshold came out as 0, the layer is silent; calibrate over"
    with pytest.raises(UserError, match=message):
        balance(ann, snn, watched, images, 1)  # the first spikes come one step later
    with pytest.raises(UserError, match="layer 'conv1': its threshold came out as nan"):
        conversion.check_threshold("conv1", jnp.nan)
    with pytest.raises(UserError, match=r"has no recorded current: split layers.watch"):
        balance(ann, snn, snn, images, 1)


# --- Rates and activations ------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["fire_then_integrate", "integrate_then_fire"])
def test_rates_come_near_to_activations(order):
    """Rate times threshold is ReLU(W x) up to v / T in layer 1, O(sum |w| / T) behind it."""
    ann, snn, watched = pair("6-5-3", (8,), order)
    images, timesteps = pixels(8, 8), 2000
    found = balance(ann, snn, watched, images, timesteps)
    network = conversion.convert(ann.params, snn.params, snn.stats, found)
    out = snn.apply(*network, direct(timesteps)(None, images, False))
    exact = ann.apply(ann.params, ann.stats, direct(1)(None, images, False))
    unit = 1.0
    for i, name in enumerate(("dense1", "dense2")):
        unit *= found[name]
        rate = np.asarray(out.activity.spikes[name]) / timesteps
        error = np.abs(rate * unit - np.asarray(exact.activity.spikes[name])).max()
        # One spike more stays in the membrane where firing comes a step late.
        late = 1 + (order == "fire_then_integrate")
        assert error < (late * unit / timesteps * 1.001 if i == 0 else 1e-2 * unit)
    np.testing.assert_allclose(out.readout.mean(0) * unit, exact.readout[0], atol=1e-2)
    assert conversion.score_unit(found) == pytest.approx(unit)
    assert conversion.score_unit(found, scale=0.7) == pytest.approx(unit * 0.7**2)


def test_the_first_neurons_of_a_block_are_not_in_the_unit_of_the_scores():
    found = {"conv1": 2.0, "block1/conv1": 5.0, "block1/conv2": 3.0}
    assert conversion.score_unit(found) == 6.0


def test_a_residual_network_comes_near_to_its_ann_with_all_thresholds_estimated():
    ann, snn, watched = pair("3C3-4B3S2-3", (4, 4, 1), "integrate_then_fire")
    ann = ann._replace(params=jax.tree.map(lambda leaf: 3.0 * leaf, ann.params))
    images = pixels(4, 4, 4, 1)
    found = balance(ann, snn, watched, images, 400)
    assert list(found) == ["conv1", "block1/conv1", "block1/conv2"]
    params, stats = conversion.convert(ann.params, snn.params, snn.stats, found)
    scores = np.asarray(ann.apply(ann.params, {}, direct(1)(None, images, False)).readout[0])

    def error(params):
        out = snn.apply(params, stats, direct(400)(None, images, False)).readout.mean(0)
        # The scores of a spiking network are in a unit of their own.
        out = np.asarray(out) * np.vdot(out, scores) / np.vdot(out, out)
        return np.linalg.norm(out - scores) / np.linalg.norm(scores)

    # Without the factor on the second kernels the two ways into each sum are in different units.
    assert 5 * error(params) < 0.05 < error(ann.params)


def test_an_ann_for_digits_keeps_its_accuracy_as_a_spiking_network():
    data = load("digits")
    images, labels = data.train
    ann, snn, watched = pair("12C3-AP2-D0.1-32-10", (8, 8, 1), "integrate_then_fire")
    optimizer = optax.adam(1e-2)

    def look(images, timesteps=1, key=None):
        values = images / 127.5 - 1
        if key is None:
            return encode.direct(values, timesteps)
        return encode.signed_poisson(key, values, timesteps)

    @jax.jit
    def train(params, images, labels):
        def step(carry, key):
            params, state = carry
            rows = jax.random.randint(key, (64,), 0, len(images))

            def loss(params):
                out = ann.apply(params, {}, look(images[rows]), train=True, key=key)
                return cross_entropy(out.readout, labels[rows])

            updates, state = optimizer.update(jax.grad(loss)(params), state)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(jax.random.key(0), 300)
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

    ann_params = train(ann.params, jnp.asarray(images), jnp.asarray(labels))
    test_images, test_labels = data.test

    def accuracy(readout):
        return float((readout.mean(0).argmax(-1) == test_labels).mean())

    exact = accuracy(ann.apply(ann_params, {}, look(test_images)).readout)
    found = calibrate.thresholds(
        watched.apply, lambda key, images, training: look(images, 50, key),
        ann_params, snn.params, snn.stats, images,
        conversion.spiking_layers(snn.synapses, snn.stats), quantile=0.999, batches=2,
    )  # fmt: skip
    network = conversion.convert(ann_params, snn.params, snn.stats, found, scale=0.7)
    out = jax.jit(snn.apply)(*network, look(test_images, 50, jax.random.key(1)))
    default = jax.jit(snn.apply)(ann_params, snn.stats, look(test_images, 50, jax.random.key(1)))
    assert exact > 0.95 and accuracy(out.readout) > exact - 0.02
    assert accuracy(default.readout) < exact - 0.05  # thresholds of 1 everywhere


# --- Conversion of trees --------------------------------------------------------------------------


def test_a_conversion_puts_thresholds_and_leak_into_the_constants():
    ann, snn, _ = pair("2C3-2B3-3", (4, 4, 1))
    found = {"conv1": 2.0, "block1/conv1": 4.0}
    params, stats = conversion.convert(
        ann.params, snn.params, snn.stats, found, scale=0.5, decay=0.9901
    )
    assert stats["conv1"]["neurons"] == {"decay": np.float32(0.9901), "threshold": 1.0}
    thresholds = [stats["block1"][f"conv{i}"]["neurons"]["threshold"] for i in (1, 2)]
    assert thresholds == [2.0, 1.0]
    expected = jax.tree.map(lambda leaf: leaf, ann.params)
    expected["block1"]["conv2"]["kernel"] = 2.0 * expected["block1"]["conv2"]["kernel"]
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert jax.tree.structure(stats) == jax.tree.structure(snn.stats)


def test_what_cannot_be_converted_is_named():
    ann, snn, _ = pair("4-3", (2,))
    biased, _, _ = pair("4-3", (2,), use_bias=True)
    longer, _, _ = pair("4-4-3", (2,))
    wider, _, _ = pair("5-3", (2,))
    for params, found, message in (
        (biased.params, {}, "'dense1/bias' does not survive a conversion: build both networks wit"),
        (longer.params, {}, "'dense3/kernel' is in the ANN only"),
        (wider.params, {}, r"'dense1/kernel' has the shape \(2, 5\) in the ANN, \(2, 4\) in the"),
        (ann.params, {"dense2": 1.0}, "layer 'dense2' has no threshold in this network"),
        (
            ann.params,
            {"dense1": 0.0},
            r"the threshold of layer 'dense1' must be in \(0, inf\), found 0",
        ),
    ):
        with pytest.raises(UserError, match=message):
            conversion.convert(params, snn.params, snn.stats, found)
    with pytest.raises(UserError, match="scale must be in"):
        conversion.convert(ann.params, snn.params, snn.stats, {}, scale=0.0)
    with pytest.raises(UserError, match="decay must be in"):
        conversion.convert(ann.params, snn.params, snn.stats, {}, decay=1.1)


def test_too_few_timesteps_for_the_delay_name_the_first_layer_that_stays_silent():
    names = ("conv1", "conv2", "conv3")
    message = "layer 'conv2' cannot spike within 2 timesteps: in the order 'fire_then_integrate' "
    with pytest.raises(UserError, match=message + "each layer delays by one; take 4 timesteps"):
        conversion.check_delay(names, 2, "fire_then_integrate")
    conversion.check_delay(names, 1, "integrate_then_fire")
    with pytest.raises(UserError, match="order 'late' is unknown"):
        conversion.check_delay(names, 9, "late")
    # The bound is exact: with 3 spiking layers the read-out hears something at step 4, not at 3.
    _, snn, _ = pair("4-4-4-2", (2,))
    conversion.check_delay(("dense1", "dense2", "dense3"), 4, "fire_then_integrate")
    strong = jax.tree.map(lambda leaf: jnp.full_like(leaf, 2.0), snn.params)
    heard = snn.apply(strong, snn.stats, encode.direct(jnp.ones((1, 2)), 4)).readout
    assert heard.any((1, 2)).tolist() == [False, False, False, True]


# --- Rescaling ------------------------------------------------------------------------------------


SPIKES = jnp.asarray(np.random.default_rng(3).random((20, 4, 6, 6, 1)) < 0.5, jnp.float32)


def busy(layout, **options):
    """Return a spiking network with thresholds so low that all layers fire."""
    neuron = replace(conversion.neuron("integrate_then_fire"), threshold=0.05)
    rngs = nnx.Rngs(0)
    return functional.split(
        models.build(layout, (6, 6, 1), neuron, readout="current", rngs=rngs, **options)
    )


def test_weights_and_thresholds_rescaled_together_give_the_same_spikes():
    snn = busy("3C3-AP2-6-4")
    factors = {"conv1": 4.0, "dense1": 0.5, "dense2": 8.0}
    before = snn.apply(snn.params, snn.stats, SPIKES)
    after = snn.apply(*conversion.rescale(snn.params, snn.stats, factors), SPIKES)
    assert all(0 < count.mean() < 20 for count in before.activity.spikes.values())
    jax.tree.map(np.testing.assert_array_equal, after.activity.spikes, before.activity.spikes)
    np.testing.assert_array_equal(after.readout, 8.0 * before.readout)


def test_quantized_weights_become_whole_numbers_with_the_same_spikes():
    snn = busy("3C3-AP2-6-4", use_bias=False)
    grid = symmetric_uniform(5)
    params = jax.tree.map(grid, snn.params)
    factors = {
        name.removesuffix("/kernel"): 1.0 / grid.fit(at_least_float32(kernel)).scale
        for name, kernel in {
            "conv1/kernel": snn.params["conv1"]["kernel"],
            "dense1/kernel": snn.params["dense1"]["kernel"],
        }.items()
    }
    whole, stats = conversion.rescale(params, snn.stats, factors)
    for name in factors:
        kernel = np.asarray(whole[name]["kernel"])
        np.testing.assert_allclose(kernel, np.round(kernel), atol=1e-4)
        assert np.abs(kernel).max() == pytest.approx(15)
    before, after = (snn.apply(*net, SPIKES) for net in ((params, snn.stats), (whole, stats)))
    assert all(0 < count.mean() < 20 for count in before.activity.spikes.values())
    jax.tree.map(np.testing.assert_array_equal, after.activity.spikes, before.activity.spikes)


def test_a_block_is_rescaled_with_the_factor_of_its_shortcut():
    rngs, fire = nnx.Rngs(0), lambda: layers.Neurons(conversion.neuron())
    convs = [layers.Conv(2, 2, fire(), use_bias=False, rngs=rngs) for _ in range(2)]
    weighted = layers.Residual(*convs, weight=jnp.ones(2))
    net = functional.split(layers.Chain({"block1": weighted}))
    x = jnp.asarray(np.random.default_rng(1).random((12, 2, 4, 4, 2)) < 0.5, jnp.float32)
    before = net.apply(net.params, net.stats, x)
    params, stats = conversion.rescale(net.params, net.stats, {"block1/conv2": 4.0})
    assert stats["block1"]["weight"].tolist() == [4, 4] and before.readout.any()
    np.testing.assert_array_equal(net.apply(params, stats, x).readout, before.readout)


def test_what_cannot_be_rescaled_is_named():
    _, plain, _ = pair("2C3-2B3-3", (4, 4, 1))
    _, normed, _ = pair("2C3-3", (4, 4, 1), norm=True)
    for net, layer, message in (
        (plain, "block1/conv2", "layer 'block1/conv2' adds a shortcut that has no factor"),
        (plain, "conv7", "layer 'conv7' has no weights to rescale"),
        (normed, "conv1", "layer 'conv1' has a norm, which undoes a factor: fold it first"),
    ):
        with pytest.raises(UserError, match=message):
            conversion.rescale(net.params, net.stats, {layer: 2.0})
    with pytest.raises(UserError, match="factor of layer 'conv1' must be in"):
        conversion.rescale(plain.params, plain.stats, {"conv1": -1.0})
