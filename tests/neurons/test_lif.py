"""Neurons: the traces of the papers, and the unrolled time axis against one step after another."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxsnn import surrogate
from jaxsnn.errors import UserError
from jaxsnn.native import convolutions
from jaxsnn.neurons import LIF, Membrane, lif_step, scanning, unroll
from jaxsnn.neurons.lif import ORDERS
from jaxsnn.neurons.resets import RESETS, spikes_of
from jaxsnn.neurons.scanning import integrate

NORMALIZED = surrogate.triangle(1.0, 0.5, normalized=True)
PLAIN = surrogate.triangle(2.0)


def trace(neuron, drive, steps):
    """Return spikes and potentials before reset of one neuron under a constant drive."""
    spikes, potential, _ = unroll(neuron, jnp.full((1, 1), drive), timesteps=steps)
    return spikes[:, 0, 0].astype(int).tolist(), potential[:, 0, 0]


# --- The unrolled time axis against one step after another ----------------------------------------

# Any two options meet in all their values in one half; the other half is slow.
COMBINATIONS = [
    pytest.param(
        order, reset, strict, detach, marks=[pytest.mark.slow] * ((i + j + strict + detach) % 2)
    )
    for i, order in enumerate(ORDERS)
    for j, reset in enumerate(RESETS)
    for strict, detach in itertools.product((True, False), repeat=2)
]


def problem(steps, *, channels=True, constant=False, feedback=False):
    """Return arguments on the grid of eighths, so that potentials hit thresholds exactly."""
    random = np.random.default_rng(steps)
    shape = (2, 3) if constant else (steps, 2, 3)
    eighths = partial(random.integers, dtype=np.int64)
    arguments = {
        "current": eighths(-2, 9, shape) / 8,
        "start": eighths(-2, 13, (2, 3)) / 8,
        "decay": np.asarray([0.5, 0.25, 1.0] if channels else 0.5),
        "threshold": np.asarray([0.5, 1.0, 0.25] if channels else 0.5),
    }
    arguments["start"][0] = arguments["threshold"]  # where strict and not strict differ
    if feedback:
        arguments["feedback"] = eighths(-8, 9, (3, 3)) / 8
    weights = [random.standard_normal((steps, 2, 3)) for _ in range(2)]
    weights.append(random.standard_normal((2, 3)))
    return jax.tree.map(lambda x: jnp.asarray(x, float), (arguments, weights))


def by_unroll(neuron, arguments, steps):
    constant = arguments["current"].ndim == 2
    return unroll(
        neuron,
        arguments["current"],
        timesteps=steps if constant else None,
        initial=Membrane(arguments["start"]),
        feedback=arguments.get("feedback"),
    )


def by_steps(neuron, arguments, steps, *, scan=False):
    """Return what `unroll` should, from `lif_step` alone."""
    current = arguments["current"]
    if current.ndim == 2:
        current = jnp.broadcast_to(current[None], (steps, *current.shape))
    feedback = arguments.get("feedback")

    def step(carry, drive):
        membrane, spikes = carry
        if feedback is not None:
            drive = drive + spikes @ feedback
        membrane, spikes = lif_step(neuron, membrane, drive)
        return (membrane, spikes), (spikes, membrane.potential)

    start = Membrane(arguments["start"])
    carry = start, spikes_of(neuron, start.potential)
    if scan:
        carry, (spikes, potential) = lax.scan(step, carry, current)
    else:
        outputs = []
        for drive in current:
            carry, output = step(carry, drive)
            outputs.append(output)
        spikes, potential = (jnp.stack(series) for series in zip(*outputs, strict=True))
    return spikes, potential, carry[0]


def outputs_and_gradients(run, arguments, weights, **options):
    """Return all outputs, and the gradients of a random weighing of them by all arguments."""

    def loss(arguments):
        neuron = LIF(0.0, 1.0, **options)
        leaves = arguments["decay"], arguments["threshold"]
        neuron = jax.tree.unflatten(jax.tree.structure(neuron), leaves)
        outputs = run(neuron, arguments)
        pairs = zip(jax.tree.leaves(outputs), weights, strict=True)
        return sum(jnp.vdot(output, weight) for output, weight in pairs), outputs

    return jax.grad(loss, has_aux=True)(arguments)


def assert_same(found, expected):
    (gradients, outputs), (expected_gradients, expected_outputs) = found, expected
    np.testing.assert_array_equal(outputs[0], expected_outputs[0], err_msg="spikes")
    for ours, theirs in zip(outputs[1:], expected_outputs[1:], strict=True):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6), ours, theirs)
    for name, gradient in gradients.items():
        assert gradient.shape == expected_gradients[name].shape
        np.testing.assert_allclose(
            gradient, expected_gradients[name], rtol=1e-4, atol=1e-5, err_msg=name
        )


@pytest.mark.long
@pytest.mark.parametrize(
    "h", [NORMALIZED, pytest.param(PLAIN, marks=pytest.mark.slow)], ids=["normalized", "plain"]
)
@pytest.mark.parametrize(("order", "reset", "strict", "detach_reset"), COMBINATIONS)
def test_unroll_is_one_step_after_another(order, reset, strict, detach_reset, h, monkeypatch):
    """In values and gradients, in every combination of options, written out and scanned."""
    options = {
        "order": order, "reset": reset, "strict": strict, "detach_reset": detach_reset,
        "surrogate": h,
    }  # fmt: skip
    arguments, weights = problem(2, feedback=order == "integrate_then_fire")
    run = partial(outputs_and_gradients, **options)
    with jax.disable_jit():  # a hundred small programs would compile longer than they run
        expected = run(lambda *a: by_steps(*a, 2), arguments, weights)
        assert_same(run(lambda *a: by_unroll(*a, 2), arguments, weights), expected)
        monkeypatch.setattr(scanning, "UNROLL_LIMIT", 1)
        assert_same(run(lambda *a: by_unroll(*a, 2), arguments, weights), expected)
    assert 0 < expected[1][0].mean() < 1


@pytest.mark.long
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("order", ORDERS)
def test_scalar_constants_and_a_constant_current(order, reset):
    options = {"order": order, "reset": reset, "surrogate": PLAIN}
    feedback = order == "integrate_then_fire"
    arguments, weights = problem(3, channels=False, constant=True, feedback=feedback)
    run = partial(outputs_and_gradients, arguments=arguments, weights=weights, **options)
    with jax.disable_jit():
        assert_same(run(lambda *a: by_unroll(*a, 3)), run(lambda *a: by_steps(*a, 3)))


@pytest.mark.parametrize("constant", [False, True], ids=["moving", "constant"])
@pytest.mark.parametrize("order", ORDERS)
def test_unroll_is_a_scan_beyond_the_limit(order, constant):
    steps = scanning.UNROLL_LIMIT + 1
    feedback = order == "integrate_then_fire"
    arguments, weights = problem(steps, constant=constant, feedback=feedback)
    # A contraction, so that rounding does not grow with the steps.
    arguments["decay"] = jnp.asarray([0.5, 0.25, 0.75])
    run = partial(outputs_and_gradients, order=order, reset="soft", surrogate=NORMALIZED)
    expected = jax.jit(partial(run, lambda *a: by_steps(*a, steps, scan=True)))
    found = jax.jit(partial(run, lambda *a: by_unroll(*a, steps)))
    assert_same(found(arguments, weights), expected(arguments, weights))


@pytest.mark.long
def test_a_constant_current_is_the_same_one_repeated():
    arguments, weights = problem(3, constant=True, feedback=True)
    repeated = dict(arguments)
    repeated["current"] = jnp.broadcast_to(arguments["current"][None], (3, 2, 3))
    with jax.disable_jit():
        run = partial(outputs_and_gradients, lambda *a: by_unroll(*a, 3), weights=weights)
        found, expected = run(arguments), run(repeated)
    expected[0]["current"] = expected[0]["current"].sum(0)
    assert_same(found, expected)


def test_no_membrane_given_is_one_at_rest():
    arguments, _ = problem(5)
    neuron = LIF(0.5, 0.5)
    fresh = unroll(neuron, arguments["current"])
    at_rest = unroll(neuron, arguments["current"], initial=Membrane(jnp.zeros((2, 3))))
    jax.tree.map(np.testing.assert_array_equal, fresh, at_rest)


@pytest.mark.long
@pytest.mark.parametrize("order", ORDERS)
def test_the_last_membrane_continues_where_the_first_run_ended(order):
    current = problem(6)[0]["current"]
    neuron = LIF(0.5, 0.5, order=order)
    whole = unroll(neuron, current)
    first = unroll(neuron, current[:2])
    second = unroll(neuron, current[2:], initial=first[2])
    for piece in range(2):
        joined = jnp.concatenate([first[piece], second[piece]])
        np.testing.assert_array_equal(whole[piece], joined)
    np.testing.assert_array_equal(whole[2].potential, second[2].potential)


def test_detaching_the_reset_changes_the_gradient():
    arguments, weights = problem(3)
    run = partial(outputs_and_gradients, lambda *a: by_unroll(*a, 3), arguments, weights)
    for reset in RESETS:
        with jax.disable_jit():
            attached, detached = run(reset=reset)[0], run(reset=reset, detach_reset=True)[0]
        assert not np.allclose(attached["current"], detached["current"])


@pytest.mark.long
def test_gradient_of_the_hard_reset_by_hand():
    """Two steps: du2/dx1 = decay (1 - o1) - decay u1 h(u1), the second term from the reset."""
    x = jnp.zeros((2, 2, 3)).at[0].set(1.25)  # spikes, and there h = 0.75
    for detach, expected in ((False, -0.5 * 1.25 * 0.75), (True, 0.0)):
        neuron = LIF(0.5, 1.0, detach_reset=detach, surrogate=surrogate.triangle(1.0))
        with jax.disable_jit():
            by_x = jax.grad(lambda x, n=neuron: unroll(n, x)[1][1].sum())(x)
        np.testing.assert_allclose(by_x[0], expected, rtol=1e-6)


# --- Smooth parts against finite differences, in double precision ---------------------------------


def assert_slope(function, arguments, step=1e-6):
    """Compare the gradient of a function with a central difference in a random direction."""
    random = np.random.default_rng(0)
    direction = jax.tree.map(lambda x: jnp.asarray(random.standard_normal(x.shape)), arguments)
    evaluate = jax.jit(jax.value_and_grad(function))
    gradient = evaluate(arguments)[1]
    assert all(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(gradient))
    up = jax.tree.map(lambda x, d: x + step * d, arguments, direction)
    down = jax.tree.map(lambda x, d: x - step * d, arguments, direction)
    numeric = (evaluate(up)[0] - evaluate(down)[0]) / (2 * step)
    slope = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, gradient, direction)))
    # Half the digits of a double are lost in the difference, a few more in its curvature.
    np.testing.assert_allclose(slope, numeric, rtol=1e-7)


@pytest.mark.long
def test_integrator_gradients_are_finite_differences():
    with jax.enable_x64(True):
        random = np.random.default_rng(1)
        weights, current = (jnp.asarray(random.standard_normal((7, 2, 3))) for _ in range(2))
        decays = jnp.asarray(0.7), jnp.asarray([0.2, 0.5, 0.9])

        def function(arguments):
            current, decays = arguments
            return sum(jnp.vdot(jnp.sin(integrate(current, decay)), weights) for decay in decays)

        assert_slope(function, (current, decays))


@pytest.mark.long
@pytest.mark.parametrize("order", ORDERS)
def test_gradients_away_from_the_threshold_are_finite_differences(order):
    """Where no surrogate reaches, the potentials are smooth, with their resets."""
    kinds = [LIF(reset=reset, order=order, surrogate=surrogate.rectangle(0.2)) for reset in RESETS]
    with jax.enable_x64(True):
        # A spike at the second and at the fourth step in the first channel only.
        current = jnp.asarray([[0.5, 0.2, 0.4], [1.5, 0.1, 0.3], [-0.6, 0.3, 0.2], [1.9, 0.2, 0.1]])
        arguments = {
            "current": current.reshape(4, 1, 3),
            "start": jnp.asarray([[0.1, -0.2, 0.3]]),
            "decay": jnp.asarray([0.5, 0.4, 0.3]),
            "threshold": jnp.asarray([1.1, 1.2, 0.9]),
        }
        weights = jnp.cos(jnp.arange(12.0)).reshape(4, 1, 3)

        def potentials(arguments):
            leaves = arguments["decay"], arguments["threshold"]
            these = [jax.tree.unflatten(jax.tree.structure(kind), leaves) for kind in kinds]
            return jnp.stack([by_unroll(neuron, arguments, 4)[1] for neuron in these])

        distance = np.asarray(potentials(arguments)) - np.asarray(arguments["threshold"])
        assert (np.abs(distance) > 0.1).all() and (distance[:, 1, 0, 0] > 0).all()
        assert_slope(lambda a: sum(jnp.vdot(u**2, weights) for u in potentials(a)), arguments)


@pytest.mark.long
def test_gradients_in_double_precision_are_those_of_single_steps():
    with jax.enable_x64(True):
        arguments, weights = problem(6, feedback=True)
        arguments["current"] += 0.01 * jnp.cos(jnp.arange(36.0)).reshape(6, 2, 3)
        run = partial(outputs_and_gradients, surrogate=surrogate.atan(), reset="soft")
        found, outputs = jax.jit(partial(run, lambda *a: by_unroll(*a, 6)))(arguments, weights)
        expected = jax.jit(partial(run, lambda *a: by_steps(*a, 6)))(arguments, weights)[0]
        assert all(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(outputs))
        for name in arguments:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-11, atol=1e-11)


# --- Integrator, constants, errors ----------------------------------------------------------------


def test_an_integrator_sums_up():
    """A constant current c for T steps gives u = T c; with a leak a geometric series."""
    current = jnp.full((40, 1, 2), 0.25)
    np.testing.assert_array_equal(integrate(current)[:, 0, 0], 0.25 * np.arange(1, 41))
    leaky = integrate(current, jnp.asarray([0.5, 0.0]))[-1, 0]
    np.testing.assert_allclose(leaky, [0.5 * (1 - 0.5**40), 0.25], rtol=1e-6)


def test_constants_may_be_traced_and_mapped_over():
    current = problem(4)[0]["current"]
    thresholds = jnp.asarray([0.25, 0.5, 2.0])

    def spikes(threshold):
        return unroll(LIF(0.5, threshold), current)[0]

    mapped = jax.jit(jax.vmap(spikes))(thresholds)
    for one, threshold in zip(mapped, thresholds, strict=True):
        np.testing.assert_array_equal(one, spikes(threshold))
    assert len({float(one.sum()) for one in mapped}) == 3


def test_a_neuron_is_a_pytree_of_its_constants():
    neuron = LIF(0.25, jnp.asarray([1.0, 2.0]), reset="soft", surrogate=PLAIN)
    leaves, structure = jax.tree.flatten(neuron)
    assert len(leaves) == 2
    again = jax.tree.unflatten(structure, leaves)
    assert again.reset == "soft" and again.surrogate == PLAIN and again.decay == 0.25
    assert structure == jax.tree.structure(LIF(0.5, 3.0, reset="soft", surrogate=PLAIN))
    assert structure != jax.tree.structure(LIF(0.5, 3.0, reset="hard", surrogate=PLAIN))


def near_threshold(steps):
    """Return a current whose potentials lie on both sides of 0.3, down to one float32 away."""
    theta = np.float32(0.3)
    around = np.nextafter(theta, np.float32([0, 0, 1, 1]), dtype=np.float32)
    around[1::2] += np.float32([-0.01, 0.2])
    random = np.random.default_rng(0).random((steps - 1, 2, 4), np.float32)
    first = np.broadcast_to(np.append(around[:3], theta), (1, 2, 4))
    return jnp.asarray(np.concatenate([first, random]), jnp.float32)


SHORT = [
    LIF(0.8, 0.3, surrogate=PLAIN),
    LIF(0.8, 0.3, reset="soft", strict=False, surrogate=NORMALIZED, detach_reset=True),
    LIF(0.8, 0.3, "soft_undecayed", order="fire_then_integrate", surrogate=PLAIN),
]


@pytest.mark.long
@pytest.mark.parametrize("steps", [3, 6])  # written out, and scanned
@pytest.mark.parametrize("neuron", SHORT)
def test_spikes_do_not_depend_on_how_short_potentials_are_kept(neuron, steps):
    current = near_threshold(steps)
    exact, short = unroll(neuron, current), unroll(neuron, current, dtype=jnp.bfloat16)
    assert (short[0].dtype, short[1].dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_array_equal(short[0].astype(jnp.float32), exact[0])
    np.testing.assert_array_equal(short[2].potential, exact[2].potential)
    # Half of the last of 8 significant bits of the distance to the threshold.
    np.testing.assert_array_less(
        jnp.abs(short[1] - exact[1]), 2**-8 * jnp.abs(exact[1] - 0.3) + 1e-7
    )


def test_a_second_derivative_through_a_loop_of_short_numbers_is_refused_and_not_zero():
    def slope(current, dtype):
        return jax.grad(lambda x: unroll(LIF(0.8, 0.3), x, dtype=dtype)[0].sum())(current).sum()

    current = near_threshold(6)
    with convolutions.off():
        assert np.any(jax.grad(slope)(current, jnp.float32) != 0)
        with pytest.raises(UserError, match="second derivative .* more than 4 steps needs float32"):
            jax.grad(slope)(current, jnp.bfloat16)


@pytest.mark.long
@pytest.mark.parametrize("neuron", SHORT)
def test_the_gradient_through_short_potentials_is_rounded_and_no_more(neuron):
    current, wave = near_threshold(6), jnp.cos(jnp.arange(48.0)).reshape(6, 2, 4)
    start = jnp.full((2, 4), 0.25)

    def gradients(dtype, cut=6):
        def loss(neuron, start, current):
            first, _, membrane = unroll(neuron, current[:cut], initial=Membrane(start), dtype=dtype)
            rest = unroll(neuron, current[cut:], initial=membrane, dtype=dtype)[0] if cut < 6 else 0
            spikes = first if cut == 6 else jnp.concatenate([first, rest])
            return jnp.vdot(spikes.astype(jnp.float32), wave)

        return jax.jit(jax.grad(loss, (0, 1, 2)))(neuron, start, current)

    exact, whole, parts = (
        gradients(jnp.float32),
        gradients(jnp.bfloat16),
        gradients(jnp.bfloat16, 2),
    )
    for found in (whole, parts):
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
            assert a.dtype == b.dtype == jnp.float32
            # Those of the constants are sums over some terms of the size of one.
            largest = jnp.abs(b).max() if b.ndim else 4.0
            np.testing.assert_allclose(a, b, rtol=0, atol=2**-7 * float(largest))


@pytest.mark.long
def test_short_currents_give_short_spikes_and_exact_feedback():
    random = np.random.default_rng(0)
    current = jnp.asarray(random.random((6, 2, 4)), jnp.bfloat16)
    feedback = jnp.asarray(random.standard_normal((4, 4)), jnp.float32)

    def run(current, feedback):
        spikes, potential, _ = unroll(LIF(0.8, 0.3, surrogate=PLAIN), current, feedback=feedback)
        return spikes.astype(jnp.float32).sum() + 0 * potential.sum(), spikes

    (_, spikes), gradients = jax.value_and_grad(run, (0, 1), has_aux=True)(current, feedback)
    (_, exact), right = jax.value_and_grad(run, (0, 1), has_aux=True)(
        current.astype(jnp.float32), feedback
    )
    assert spikes.dtype == gradients[0].dtype == jnp.bfloat16
    np.testing.assert_array_equal(spikes.astype(jnp.float32), exact)
    for a, b in zip(gradients, right, strict=True):
        atol = 2**-7 * float(jnp.abs(b).max())
        np.testing.assert_allclose(a.astype(jnp.float32), b, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reset": "none"}, "reset 'none' is unknown; choose one of hard, soft, soft_undecayed"),
        ({"order": "fire"}, "order 'fire' is unknown; choose one of integrate_then_fire, fire_"),
        ({"decay": 1.1}, r"decay must be in \[0, 1\], found 1.1"),
        ({"decay": jnp.asarray([0.5, -0.1])}, "decay must be in"),
        ({"threshold": 0.0}, r"threshold must be in \(0, inf\), found 0.0"),
        ({"threshold": float("nan")}, "threshold must be in"),
    ],
)
def test_impossible_constants_are_errors(options, message):
    with pytest.raises(UserError, match=message):
        LIF(**options)


def test_an_impossible_decay_of_the_integrator_is_an_error():
    with pytest.raises(UserError, match="decay must be in"):
        integrate(jnp.zeros((2, 1, 1)), 2.0)


def test_feedback_needs_spikes_of_the_last_step():
    neuron = LIF(order="fire_then_integrate")
    with pytest.raises(UserError, match="feedback needs neurons of the order 'integrate_then_"):
        unroll(neuron, jnp.zeros((2, 1, 3)), feedback=jnp.zeros((3, 3)))


@pytest.mark.long
def test_constants_that_are_whole_numbers_have_a_gradient():
    neuron = LIF(1, 2, reset="soft", surrogate=surrogate.triangle())
    assert (type(neuron.decay), type(neuron.threshold)) == (float, float)
    several = LIF(np.asarray([1, 0]), [1, 2])
    assert several.decay.dtype == several.threshold.dtype == np.float32

    def total(neuron):
        return unroll(neuron, jnp.full((3, 1, 2), 1.5))[0].sum()

    gradient = jax.grad(total)(neuron)
    assert jnp.isfinite(gradient.threshold) and gradient.threshold < 0
    with pytest.raises(UserError, match="decay must be a number in"):
        LIF("a half")


def test_a_loop_in_bfloat16_converts_no_array_of_all_steps():
    """XLA on a CPU would widen and round the whole array in each step: T^2 in place of T."""
    current = jnp.zeros((8, 16, 64), jnp.bfloat16)
    with convolutions.off():
        gradient = jax.jit(jax.grad(lambda x: unroll(LIF(0.5), x)[0].astype(jnp.float32).sum()))
        program = gradient.lower(current).compile().as_text()
    updates = [line for line in program.splitlines() if "dynamic-update-slice(" in line]
    assert updates and all("u16[8,16,64]" in line for line in updates)
