"""Our own neurons against XLA's: potentials, spikes and derivatives, in every kind of program.

These tests need the extra `native`; without it each says why it was left out.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxsnn import native, neurons, surrogate
from jaxsnn.native import convolutions
from jaxsnn.native import neurons as ours
from jaxsnn.neurons.lif import ORDERS
from jaxsnn.neurons.resets import RESETS

pytestmark = pytest.mark.skipif(not convolutions.available(jnp.float32), reason=native.describe())
SHAPE = (3, 5, 7)  # a batch of samples of 5 places and 7 channels
KINDS = list(itertools.product(RESETS, (True, False), (True, False), ORDERS))


SLOPES = [
    surrogate.rectangle(), surrogate.rectangle(0.5), surrogate.triangle(2.0),
    surrogate.triangle(1.0, 0.3, normalized=True), surrogate.atan(3.0), surrogate.fast_sigmoid(5.0),
    surrogate.sigmoid(), surrogate.constant(), surrogate.custom(jnp.cos, normalized=True),
]  # fmt: skip


def make_neuron(reset, strict, detach, order, each=False, slope=SLOPES[4]):
    """Return a neuron; with `each`, one constant for each channel."""
    constants = (0.75, 1.0)
    if each:
        constants = jnp.linspace(0.5, 1.0, SHAPE[-1]), jnp.linspace(0.5, 2.0, SHAPE[-1])
    options = {"reset": reset, "strict": strict, "detach_reset": detach, "order": order}
    return neurons.LIF(*constants, **options, surrogate=slope)


def draw(steps, dtype=jnp.float32, seed=0):
    """Return a current in quarters, so that potentials meet thresholds exactly."""
    values = np.random.default_rng(seed).integers(-3, 6, (*([steps] if steps else []), *SHAPE)) / 4
    return jnp.asarray(values, dtype)


def outcome(neuron, current, timesteps=None, dtype=None, of=("spikes", "potentials")):
    """Return spikes, potentials, the last state, and derivatives of some by everything."""

    def loss(neuron, current, start):
        initial = neurons.Membrane(start)
        spikes, potential, last = neurons.unroll(
            neuron, current, timesteps=timesteps, initial=initial, dtype=dtype
        )
        weights = jnp.cos(jnp.arange(spikes.size)).reshape(spikes.shape)
        losses = {
            "spikes": (weights * spikes).sum(),
            "potentials": (0.1 * weights * potential).sum(),
            "last": (weights[0] * last.potential).sum(),
        }
        return sum(losses[name] for name in of), (spikes, potential, last.potential)

    start = draw(None, seed=1)
    value = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
    return jax.tree.map(np.asarray, value(neuron, current, start))


def by_xla(*arguments, **options):
    """Return the same without our code."""
    with convolutions.off():
        return outcome(*arguments, **options)


def check_close(ours, xla, tolerance):
    """Compare two outcomes: spikes exactly, everything else up to rounding."""
    ((_, (spikes, potential, last)), derivatives) = ours
    ((_, (their_spikes, their_potential, their_last)), their_derivatives) = xla
    np.testing.assert_array_equal(spikes, their_spikes)
    assert 0 < spikes.astype(float).mean() < 1
    for found, wanted in zip(
        jax.tree.leaves((potential, last, derivatives)),
        jax.tree.leaves((their_potential, their_last, their_derivatives)),
        strict=True,
    ):
        scale = np.abs(wanted.astype(np.float64)).max()
        np.testing.assert_allclose(
            found.astype(np.float64), wanted.astype(np.float64), atol=tolerance * scale
        )


def test_the_program_is_ours_where_onednn_is():
    def is_ours(steps=3):
        gradient = jax.grad(lambda x: neurons.unroll(neurons.LIF(0.5), x)[0].sum())
        program = str(jax.make_jaxpr(gradient)(draw(steps)))
        return "jaxsnn_potentials" in program, "jaxsnn_derivatives" in program

    assert is_ours() == (True, True)
    assert is_ours(1) == (False, False)  # XLA joins a single step with its neighbours
    with convolutions.off():
        assert is_ours() == (False, False)


@pytest.mark.parametrize("reset, strict, detach, order", KINDS)
def test_all_kinds_of_neurons_equal_xla(reset, strict, detach, order):
    neuron, current = make_neuron(reset, strict, detach, order), draw(6)
    check_close(outcome(neuron, current), by_xla(neuron, current), 1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("slope", SLOPES)
def test_all_surrogates_equal_xla(slope, dtype):
    neuron = make_neuron("hard", True, False, ORDERS[0], each=True, slope=slope)
    current = draw(6, dtype)
    tolerance = 1e-5 if dtype == jnp.float32 else 5e-2
    check_close(outcome(neuron, current), by_xla(neuron, current), tolerance)


@pytest.mark.parametrize("slope", SLOPES)
def test_slopes_of_a_known_curve_are_no_array(slope):
    neuron = neurons.LIF(0.5, surrogate=slope)
    known = slope.curve is not None
    assert known == (slope not in (SLOPES[6], SLOPES[8]))
    gradient = jax.make_jaxpr(jax.grad(lambda x: neurons.unroll(neuron, x)[0].sum()))(draw(3))
    assert f"('with_slopes', {not known})" in str(gradient)
    assert "('with_first', False)" in str(gradient)  # nobody asks for the derivative by the start


@pytest.mark.parametrize("of", [("spikes",), ("potentials",), ("last",), ("spikes", "last")])
@pytest.mark.parametrize("detach, order", [(True, ORDERS[0]), (False, ORDERS[1])])
def test_derivatives_of_some_of_the_results_equal_xla(detach, order, of):
    neuron, current = make_neuron("soft", True, detach, order), draw(6)
    check_close(outcome(neuron, current, of=of), by_xla(neuron, current, of=of), 1e-5)


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("reset", RESETS)
def test_constants_of_each_channel_equal_xla(reset, detach):
    neuron = make_neuron(reset, True, detach, ORDERS[0], each=True)
    check_close(outcome(neuron, draw(9)), by_xla(neuron, draw(9)), 1e-5)


@pytest.mark.parametrize("steps", [2, 7])
def test_a_constant_current_equals_xla(steps):
    neuron, current = make_neuron("soft", True, True, ORDERS[0]), draw(None)
    check_close(outcome(neuron, current, steps), by_xla(neuron, current, steps), 1e-5)


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("reset, order", [*itertools.product(RESETS, ORDERS)])
def test_in_bfloat16_spikes_and_potentials_equal_xla_and_derivatives_are_as_near(
    reset, order, detach
):
    neuron, current = make_neuron(reset, False, detach, order), draw(6, jnp.bfloat16)
    check_close(outcome(neuron, current), by_xla(neuron, current), 5e-2)


def test_a_current_in_float32_of_spikes_in_bfloat16():
    neuron, current = make_neuron("hard", True, True, ORDERS[0]), draw(6)
    check_close(outcome(neuron, current, dtype=jnp.bfloat16), outcome(neuron, current), 5e-2)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_at_rest_is_a_start_of_zeros(dtype):
    neuron, current = make_neuron("soft", True, True, ORDERS[1]), draw(5, dtype)
    known = neurons.unroll(neuron, current)
    given = neurons.unroll(neuron, current, initial=neurons.Membrane(jnp.zeros(SHAPE)))
    for one, other in zip(jax.tree.leaves(known), jax.tree.leaves(given), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("channels", [1, 3, 1000, 1025, 3000])
def test_blocks_of_any_size(channels):
    neuron = neurons.LIF(jnp.linspace(0.1, 1.0, channels), reset="soft")
    current = jnp.asarray(np.random.default_rng(0).integers(0, 4, (5, 2, channels)) / 4.0)
    current = current.astype(jnp.float32)
    run = lambda: jax.jit(lambda x: neurons.unroll(neuron, x)[:2])(current)  # noqa: E731
    spikes, potential = run()
    with convolutions.off():
        their_spikes, their_potential = run()
    np.testing.assert_allclose(potential, their_potential, rtol=1e-6)
    np.testing.assert_array_equal(spikes, their_spikes)


def test_lanes_of_a_sweep_are_single_runs():
    decays, currents = jnp.asarray([0.25, 0.5, 1.0]), jnp.stack([draw(6, seed=s) for s in range(3)])

    def loss(decay, current):
        spikes, potential, _ = neurons.unroll(neurons.LIF(decay, reset="soft"), current)
        return (spikes * 1.5 + potential).sum()

    both = jax.value_and_grad(loss, argnums=(0, 1))
    lanes = jax.jit(jax.vmap(both))(decays, currents)
    singles = [jax.jit(both)(*each) for each in zip(decays, currents, strict=True)]
    for found, wanted in zip(
        jax.tree.leaves(lanes), jax.tree.leaves(jax.tree.map(lambda *x: jnp.stack(x), *singles)),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_devices_share_a_batch():
    mesh = jax.make_mesh((1,), ("data",))
    neuron, current = neurons.LIF(0.5, reset="soft"), draw(6)
    run = lambda x: neurons.unroll(neuron, x)[0]  # noqa: E731
    parts = PartitionSpec(None, "data")
    sharded = jax.jit(jax.shard_map(run, mesh=mesh, in_specs=parts, out_specs=parts))
    current = jax.device_put(current, jax.NamedSharding(mesh, parts))
    np.testing.assert_array_equal(sharded(current), run(current))


def test_bfloat16_is_rounded_to_the_nearest_even_and_nan_stays():
    values = jnp.asarray([1.0, 1.00390625, 1.01171875, 3.0e38, jnp.inf, jnp.nan, -2.7, 0.1])
    neuron = neurons.LIF(1.0, 0.5, reset="soft")
    kept = ours.potentials(
        neuron, jnp.zeros(8), values[None], None, at_rest=True, short=True, early=False
    )[0]  # fmt: skip
    wanted = (values - 0.5).astype(jnp.bfloat16)
    np.testing.assert_array_equal(kept[0].astype(jnp.float32), wanted.astype(jnp.float32))


def test_other_numbers_and_feedback_go_through_xla():
    assert not ours.available(jnp.zeros(3), jnp.float16)
    run = lambda x: neurons.unroll(neurons.LIF(0.5), x, feedback=jnp.eye(7))[0]  # noqa: E731
    assert "jaxsnn_potentials" not in str(jax.make_jaxpr(run)(draw(3)))
