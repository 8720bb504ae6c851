"""What a network computes: time folding, remat, norms, traced constants, symmetries."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxsnn import Network, models
from jaxsnn.encode import direct
from jaxsnn.errors import UserError
from jaxsnn.losses import cross_entropy
from jaxsnn.neurons import LIF, Membrane, lif_step
from jaxsnn.surrogate import triangle

LABELS = jnp.asarray([0, 3])
NEURON = LIF(0.75, 0.25, reset="soft", surrogate=triangle(1.0, 0.3, normalized=True))


RUN = jax.jit(Network.__call__, static_argnames=("train", "remat"))


def network(layout="4C3-AP2-6-5", shape=(4, 4, 2), neuron=NEURON, **options):
    return models.build(layout, shape, neuron, seed=2, **options)


def spikes(*shape, rate=0.5):
    return jnp.asarray(np.random.default_rng(0).random(shape) < rate, jnp.float32)


def gradients_of(net, **options):
    """Return the gradient, and the output, of a loss that looks at read-out and activity."""

    def loss(params, x):
        out = net.replace(params=params)(x, **options)
        quiet = sum(jnp.square(s).mean() for s in out.activity.spikes.values())
        return cross_entropy(out.readout, LABELS) + 0.1 * quiet, out

    return jax.jit(jax.grad(loss, has_aux=True))


def assert_close(found, expected, tolerance=1e-5):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), found,
                 expected)  # fmt: skip


# --- Time folding ---------------------------------------------------------------------------------


def by_steps(params, x):
    """Run 4C3-AP2-6-5 step by step with `lif_step`, all layers within one step."""

    def current(x, layer):
        kernel, bias = layer["kernel"], layer["bias"]
        if kernel.ndim == 4:
            x = lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        else:
            x = x @ kernel
        return x + bias.reshape((1,) * (x.ndim - 1) + bias.shape)

    def step(membranes, x):
        sums, out = {}, {}
        for name in ("conv1", "dense1", "dense2"):
            if name == "dense1":
                x = x.reshape(2, 2, 2, 2, 2, 4).mean((2, 4)).reshape(2, -1)
            out[name], x = lif_step(NEURON, membranes[name], current(x, params[name]))
            sums[name] = x
        return out, (x, sums)

    rest = {"conv1": (2, 4, 4, 4), "dense1": (2, 6), "dense2": (2, 5)}
    membranes = {name: Membrane(jnp.zeros(shape)) for name, shape in rest.items()}
    _, (readout, sums) = lax.scan(step, membranes, x)
    return readout, jax.tree.map(lambda s: s.sum(0), sums)


@pytest.mark.long
def test_folded_time_is_one_step_of_the_network_after_another():
    net, x = network(), spikes(4, 2, 4, 4, 2)

    def loss(params):
        readout, sums = by_steps(params, x)
        quiet = sum(jnp.square(s).mean() for s in sums.values())
        return cross_entropy(readout, LABELS) + 0.1 * quiet, (readout, sums)

    expected, (readout, sums) = jax.jit(jax.grad(loss, has_aux=True))(net.params)
    gradients, out = gradients_of(net)(net.params, x)
    np.testing.assert_array_equal(out.readout, readout)
    jax.tree.map(np.testing.assert_array_equal, out.activity.spikes, sums)
    assert 0 < readout.mean() < 0.95
    assert_close(gradients, expected)
    # Spikes that reach dense1, counted before the pool: four windows of four neurons.
    events = sums["conv1"].reshape(2, 2, 2, 2, 2, 4).sum((2, 4)).reshape(2, -1)
    np.testing.assert_array_equal(out.activity.events["dense1/kernel"], events)
    np.testing.assert_array_equal(out.activity.events["conv1/kernel"], x.sum(0))


@pytest.mark.long
def test_a_constant_input_is_the_same_one_repeated():
    net = network(readout="leaky")
    signal = direct(jax.random.uniform(jax.random.key(0), (2, 4, 4, 2)), 4)
    run = gradients_of(net)
    gradients, out = run(net.params, signal)
    repeated_gradients, repeated = run(net.params, signal.over_time())
    jax.tree.map(np.testing.assert_array_equal, out.activity.spikes, repeated.activity.spikes)
    assert_close(gradients, repeated_gradients)
    assert_close(jax.tree.leaves(out), jax.tree.leaves(repeated))
    # Only as one copy it is known to be real valued, and computed once.
    assert out.activity.cached == ("conv1/kernel",) and repeated.activity.cached == ()


# --- Remat ----------------------------------------------------------------------------------------

REMAT = {
    "moving": ({"layout": "4C3-AP2-6R-5"}, False, 1),
    "constant": ({"layout": "4C3-5", "readout": "leaky"}, True, 2),
    "late": ({"layout": "6-5", "neuron": LIF(0.75, 0.25, order="fire_then_integrate")}, False, 1),
}


@pytest.mark.long
@pytest.mark.parametrize("case", REMAT)
def test_remat_changes_no_value_and_no_gradient(case):
    options, constant, size = REMAT[case]
    net, x = network(**options), spikes(4, 2, 4, 4, 2)
    if case == "late":
        net, x = network(**options, shape=(8,)), spikes(2, 2, 8, rate=0.8)
    x = direct(x[0], 4) if constant else x
    gradients, out = gradients_of(net)(net.params, x)
    assert all(s.sum() > 0 for s in out.activity.spikes.values())
    again = gradients_of(net, remat=size)(net.params, x)
    jax.tree.map(np.testing.assert_array_equal, again[1].activity.spikes, out.activity.spikes)
    assert_close(again, (gradients, out))


@pytest.mark.long
def test_remat_of_all_steps_is_no_remat():
    net, x = network("5", (3,)), spikes(4, 2, 3)
    found = net(x, remat=4)
    jax.tree.map(np.testing.assert_array_equal, found, net(x, remat=None))


@pytest.mark.long
def test_dropout_is_the_same_in_all_chunks():
    net = network("D0.5-5", (30,), readout="current")
    run = partial(RUN, net, jnp.ones((4, 2, 30)), train=True)
    whole, chunks = run(key=jax.random.key(1)), run(key=jax.random.key(1), remat=2)
    np.testing.assert_allclose(whole.readout, chunks.readout, rtol=1e-5)
    assert (whole.readout == whole.readout[:1]).all()
    assert (whole.readout != run(key=jax.random.key(2)).readout).any()


@pytest.mark.parametrize(
    ("remat", "message"),
    [
        (3, "remat=3 does not divide the 4 timesteps"),
        (0, r"remat must be in \[1, inf\], found 0"),
        (1.5, "remat must be a whole number, found 1.5"),
    ],
)
def test_impossible_remats_are_errors(remat, message):
    net = network("5", (3,))
    with pytest.raises(UserError, match=message):
        net(spikes(4, 2, 3), remat=remat)


def test_remat_and_batch_norm_meet_in_evaluation_only():
    net, x = network("3-5", (4,), norm=True), spikes(4, 2, 4)
    with pytest.raises(UserError, match="would normalise each chunk of time by itself"):
        net(x, train=True, remat=2)
    assert_close(RUN(net, x, remat=2), RUN(net, x))


# --- Norms, dtypes, trained and traced constants --------------------------------------------------


@pytest.mark.long
def test_norms_learn_in_training_and_rest_in_evaluation():
    net, x = network("3-5", (4,), norm=True), spikes(3, 2, 4)
    before = jax.tree.map(np.asarray, net.stats)
    trained = RUN(net, x, train=True).stats
    jax.tree.map(np.testing.assert_array_equal, net.stats, before)  # nothing is changed in place
    kernel, bias = (np.asarray(net.params["dense1"][name]) for name in ("kernel", "bias"))
    current = np.asarray(x).reshape(6, 4) @ kernel + bias
    mean, var = (np.asarray(trained["dense1"]["norm"][name]) for name in ("mean", "var"))
    np.testing.assert_allclose(mean, 0.1 * current.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(var, 0.9 + 0.1 * current.var(0), rtol=1e-5)
    rested = RUN(net.replace(stats=trained), x).stats
    jax.tree.map(np.testing.assert_array_equal, rested, trained)
    potential = RUN(net.replace(stats=trained), x[:1]).activity.potential["dense1"]
    normed = (current[:2] - mean) / np.sqrt(var + 1e-5)
    np.testing.assert_allclose(potential, normed, rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_short_synapses_change_values_little_and_types_not_at_all():
    net, short = network(), network(dtype=jnp.bfloat16)
    x = spikes(1, 2, 4, 4, 2)
    for leaf in jax.tree.leaves(jax.eval_shape(gradients_of(short), net.params, x)):
        assert leaf.dtype == jnp.float32
    exact, rounded = (
        RUN(n.replace(params=net.params), x).activity.potential["conv1"] for n in (net, short)
    )
    # Eight bits of weights in [-1/4, 1/4], summed over at most 18 of them.
    np.testing.assert_allclose(rounded, exact, atol=18 * 0.25 * 2**-8)
    assert (rounded != exact).any()


@pytest.mark.long
def test_trained_constants_get_finite_gradients_and_stay_in_range():
    net = network("6-5", (3,), trained=("threshold", "decay"))
    x = spikes(4, 2, 3, rate=0.8)
    constants = {f"{layer}/{name}": net.params[layer]["neurons"][name]
                 for layer in ("dense1", "dense2") for name in ("threshold", "decay")}  # fmt: skip
    assert set(map(float, constants.values())) == {0.25, 0.75}
    run = gradients_of(net)
    gradients, _ = run(net.params, x)
    for layer in ("dense1", "dense2"):
        by = gradients[layer]["neurons"]
        assert jnp.isfinite(by["threshold"]) and by["threshold"] != 0
        assert jnp.isfinite(by["decay"]) and by["decay"] != 0
    # However far an optimizer walks, the neurons stay defined.
    for step in (-10.0, 10.0):
        far = jax.tree.map(lambda x, s=step: x + s, net.params)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run(far, x)))
    # Below its bound a threshold is at its bound, and a decay above one is one.
    moved = jax.tree.map(lambda x: x, net.params)
    moved["dense1"]["neurons"] = {"threshold": jnp.asarray(-5.0), "decay": jnp.asarray(1.5)}
    bound = jax.tree.map(lambda x: x, net.params)
    bound["dense1"]["neurons"] = {"threshold": jnp.asarray(1e-3), "decay": jnp.asarray(1.0)}
    readouts = [run(p, x)[1].readout for p in (moved, bound, net.params)]
    np.testing.assert_array_equal(readouts[0], readouts[1])
    assert (readouts[0] != readouts[2]).any()


def test_a_mapped_threshold_is_a_loop_over_thresholds():
    net, x = network("6-5", (3,)), spikes(6, 2, 3)
    thresholds = jnp.asarray([0.1, 0.25, 0.6])

    def run(threshold):
        stats = jax.tree.map(lambda x: x, net.stats)
        for layer in stats.values():
            layer["neurons"]["threshold"] = threshold
        return net.replace(stats=stats)(x).activity.spikes

    mapped, alone = jax.jit(jax.vmap(run))(thresholds), jax.jit(run)
    for i, threshold in enumerate(thresholds):
        jax.tree.map(
            lambda many, one, i=i: np.testing.assert_array_equal(many[i], one),
            mapped,
            alone(threshold),
        )
    totals = mapped["dense1"].sum((1, 2))
    assert totals[0] > totals[1] > totals[2]


@pytest.mark.long
def test_networks_map_over_parameters():
    net, x = network("6-5", (3,)), spikes(4, 2, 3)
    twice = jax.tree.map(lambda w: jnp.stack([w, 2 * w]), net.params)
    run = jax.jit(lambda p: net.replace(params=p)(x).readout)
    mapped = jax.jit(jax.vmap(run))(twice)
    for i in range(2):
        one = run(jax.tree.map(lambda w, i=i: w[i], twice))
        np.testing.assert_array_equal(mapped[i], one)


# --- Symmetries -----------------------------------------------------------------------------------


@pytest.mark.long
def test_permuting_hidden_channels_leaves_the_output():
    net, x = network(), spikes(4, 2, 4, 4, 2)
    order = jnp.asarray([2, 0, 3, 1])
    params = jax.tree.map(lambda w: w, net.params)
    params["conv1"] = {name: leaf[..., order] for name, leaf in params["conv1"].items()}
    inputs = params["dense1"]["kernel"].reshape(2, 2, 4, 6)[:, :, order]
    params["dense1"]["kernel"] = inputs.reshape(16, 6)
    found, expected = RUN(net.replace(params=params), x), RUN(net, x)
    np.testing.assert_array_equal(found.readout, expected.readout)
    moved = expected.activity.spikes["conv1"][..., order]
    np.testing.assert_array_equal(found.activity.spikes["conv1"], moved)
    # Channels moved without the weights that read them do not give the same.
    params["dense1"] = net.params["dense1"]
    other = RUN(net.replace(params=params), x).activity.potential["dense1"]
    assert (other != expected.activity.potential["dense1"]).any()


@pytest.mark.long
def test_scaling_weights_and_thresholds_leaves_the_spikes():
    """By a power of two, so exactly."""
    net, x = network(), spikes(4, 2, 4, 4, 2)
    params = jax.tree.map(lambda w: 8 * w, net.params)
    stats = jax.tree.map(lambda s: s, net.stats)
    for layer in stats.values():
        layer["neurons"]["threshold"] = 8 * layer["neurons"]["threshold"]
    scaled = net.replace(params=params, stats=stats)
    found, expected = RUN(scaled, x).activity, RUN(net, x).activity
    jax.tree.map(np.testing.assert_array_equal, found.spikes, expected.spikes)
    potential = jax.tree.map(lambda u: 8 * u, expected.potential)
    jax.tree.map(np.testing.assert_array_equal, found.potential, potential)
