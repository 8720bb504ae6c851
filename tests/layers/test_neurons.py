"""What stands behind the weights of a layer: neurons, rectifiers, integrators."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsnn import layers
from jaxsnn.encode import Signal, direct
from jaxsnn.errors import UserError
from jaxsnn.layers import Integrator, Neurons, Tape
from jaxsnn.layers.layer import named
from jaxsnn.neurons import LIF, unroll
from jaxsnn.neurons.neuron import SMALLEST
from jaxsnn.surrogate import atan, stdb, triangle


def spikes(*shape, seed=0, rate=0.4):
    """Return random spikes `[T, B, ...]`."""
    return jnp.asarray(np.random.default_rng(seed).random(shape) < rate, jnp.float32)


def run(layer, value, record=None, name="layer"):
    signal = value if isinstance(value, Signal) else Signal(value, value.shape[0])
    layer.name = name
    return layer(signal, record or Tape())


def run_neurons(neurons, current):
    return neurons(Signal(current, current.shape[0]), Tape(), "layer")


def network(inputs, outputs):
    dense = layers.Dense(inputs, outputs, neurons=LIF(), rngs=nnx.Rngs(0))
    return named(layers.Chain({"dense1": dense}))


def test_constants_are_parameters_only_if_trained():
    fixed = Neurons(LIF(0.5, jnp.asarray([1.0, 2.0])))
    trained = Neurons(LIF(0.5, jnp.asarray([1.0, 2.0])), ("threshold",))
    assert nnx.state(fixed, nnx.Param) == nnx.State({})
    assert list(nnx.state(trained, nnx.Param)) == ["threshold"]
    assert trained.constants().threshold.tolist() == [1, 2]


@pytest.mark.long
def test_trained_constants_are_held_in_their_range():
    neurons = Neurons(LIF(0.5, 1.0, reset="soft", surrogate=triangle()), ("decay", "threshold"))
    neurons.decay[...] = jnp.asarray(1.5)
    neurons.threshold[...] = jnp.asarray(-3.0)
    constants = neurons.constants()
    assert constants.decay == 1.0 and constants.threshold == np.float32(SMALLEST)
    assert constants.reset == "soft" and constants.surrogate == triangle()
    assert jnp.isfinite(run_neurons(neurons, jnp.ones((3, 1, 2))).value).all()


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "value", "inward"),
    [("decay", 1.05, 1), ("decay", -0.05, -1), ("threshold", -0.05, -1)],
)
def test_a_trained_constant_outside_its_range_is_led_back_and_not_further_out(name, value, inward):
    """The gradient is that at the end of the range, if a step against it leads inwards."""
    current = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3, 4)), jnp.float32)

    def slope(value, sign):
        def loss(value):
            neurons = Neurons(LIF(0.5, 0.5, detach_reset=True, surrogate=atan()), (name,))
            getattr(neurons, name)[...] = value
            return sign * run_neurons(neurons, current).value.sum()

        return float(jax.grad(loss)(jnp.float32(value)))

    low, high = LIF.ends(name)
    end = slope(high if value > high else low, 1.0)
    assert end != 0
    back = 1.0 if end * inward > 0 else -1.0
    assert slope(value, back) == pytest.approx(back * end, rel=1e-5)
    assert slope(value, -back) == 0


@pytest.mark.long
def test_an_integrator_reads_out_currents_or_potentials():
    current = jnp.full((4, 1, 2), 0.5)
    signal = Signal(current, 4)
    assert Integrator()(signal, Tape(), "out").value is current
    assert Integrator(1.0)(signal, Tape(), "out").value[:, 0, 0].tolist() == [0.5, 1, 1.5, 2]
    leaky = Integrator(jnp.asarray([0.5, 0.0]))(direct(current[0], 2), Tape(), "out").value
    assert leaky[:, 0].tolist() == [[0.5, 0.5], [0.75, 0.5]]
    # Continued, it starts where it ended.
    record = Tape()
    halves = [
        Integrator(0.5)(Signal(part, 2), record, "out").value for part in (current[:2], current[2:])
    ]
    whole = Integrator(0.5)(signal, Tape(), "out").value
    np.testing.assert_array_equal(jnp.concatenate(halves), whole)
    # The accumulated potential T c of a constant current, divided by T, is the current again.
    assert Integrator()(signal, Tape(), "out").value.mean(0).tolist() == [[0.5, 0.5]]


def test_rectified_neurons_give_the_positive_part_and_record_it():
    record, current = Tape(), jnp.asarray([[-1.0, 2.0], [0.5, -3.0]])
    out = layers.Rectified()(direct(current, 1), record, "layer")
    assert out.constant and out.value.tolist() == [[0, 2], [0.5, 0]]
    activity = record.activity
    assert activity.spikes["layer"].tolist() == out.value.tolist()
    assert activity.potential["layer"].tolist() == current.tolist()
    assert activity.magnitude["layer"].tolist() == [[1, 2], [0.5, 3]]
    assert jax.grad(lambda x: run_neurons(layers.Rectified(), x).value.sum())(
        current[None]
    ).tolist() == [[[0, 1], [1, 0]]]


def test_watched_neurons_record_their_current_and_the_original_does_not():
    chain = network(2, 3)
    watched, signal = layers.watch(chain), direct(jnp.ones((1, 2)), 4)
    records = [Tape(), Tape()]
    outputs = [net(signal, record) for net, record in zip((chain, watched), records, strict=True)]
    np.testing.assert_array_equal(outputs[0].value, outputs[1].value)
    assert records[0].activity.current == {}
    current = np.asarray(chain.dense1.kernel[...]).sum(0) + np.asarray(chain.dense1.bias[...])
    found = records[1].activity.current["dense1"]
    np.testing.assert_allclose(found, np.broadcast_to(current, (4, 1, 3)), rtol=1e-5)


@pytest.mark.long
def test_watched_neurons_record_their_spikes():
    chain = network(3, 4)
    record, x = Tape(), spikes(5, 2, 3, rate=0.9)
    out = layers.watch(chain)(Signal(4 * x, 5), record)
    assert 0 < out.value.sum() < out.value.size
    np.testing.assert_array_equal(record.activity.trains["dense1"], out.value)


def timed(order, detached=True):
    return LIF(0.75, 0.5, reset="soft", order=order, detach_reset=detached, surrogate=stdb())


@pytest.mark.long
@pytest.mark.parametrize("order", ["integrate_then_fire", "fire_then_integrate"])
def test_stdb_gradients_know_when_the_neuron_last_fired_also_across_chunks(order):
    """Sum of weighted spikes: d/dx[s] = sum_t weight[t] h[t] / v decay^(t - s) for s up to t."""
    steps, late = 12, order == "fire_then_integrate"
    rng = np.random.default_rng(0)
    current = jnp.asarray(rng.uniform(0, 0.6, (steps, 1, 3)), jnp.float32)
    weight = jnp.asarray(rng.normal(size=(steps, 1, 3)), jnp.float32)
    neurons = Neurons(timed(order))

    def loss(current, cut):
        record, parts = Tape(), (current[:cut], current[cut:]) if cut else (current,)
        outputs = [neurons(Signal(part, len(part)), record, "layer").value for part in parts]
        fired = jnp.concatenate(outputs)
        return (weight * fired).sum(), fired

    gradient = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
    whole, fired = gradient(current, 0)
    plain = jax.jit(partial(unroll, LIF(0.75, 0.5, reset="soft", order=order)))(current)[0]
    np.testing.assert_array_equal(fired, plain)
    assert 0.1 < fired.mean() < 0.6
    expected = np.zeros((steps, 1, 3))
    for n in range(3):
        last = -999
        for t in range(steps):
            height = 0.3 * np.exp(-0.01 * (t - last)) / 0.5
            last = t if fired[t, 0, n] else last
            for s in range(t + 1 - late):
                decayed = 0.75 ** (t - late - s)
                expected[s, 0, n] += float(weight[t, 0, n]) * height * decayed
    np.testing.assert_allclose(whole, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gradient(current, 5)[0], whole, rtol=1e-5)


def test_stdb_needs_a_detached_reset():
    with pytest.raises(UserError, match="surrogate stdb needs neurons with detach_reset=True"):
        Neurons(timed("integrate_then_fire", detached=False))


def test_stdb_does_not_learn_through_recurrence():
    neurons = Neurons(timed("integrate_then_fire"))
    with pytest.raises(UserError, match="layer 'layer' is recurrent: surrogate stdb"):
        run(layers.Recurrent(2, 3, neurons=neurons, rngs=nnx.Rngs(0)), jnp.ones((2, 1, 2)))
