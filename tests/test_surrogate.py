"""Steps forward and surrogates backward, at thresholds other than one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import surrogate
from jaxsnn.errors import UserError
from jaxsnn.surrogate import fire


def cubic(z):
    return 1.0 / (1.0 + jnp.abs(z)) ** 3


# Every surrogate, and the area under it (None where it has none of its own).
ALL = {
    "rectangle": (surrogate.rectangle(), 1.0),
    "rectangle a=0.5": (surrogate.rectangle(0.5), 1.0),
    "triangle": (surrogate.triangle(), 1.0),
    "triangle a=2": (surrogate.triangle(2.0), 1.0),
    "triangle peak=0.3": (surrogate.triangle(1.0, 0.3, normalized=True), 0.3),
    "atan": (surrogate.atan(), 1.0),
    "atan alpha=5": (surrogate.atan(5.0), 1.0),
    "fast_sigmoid": (surrogate.fast_sigmoid(25.0), 2.0 / 25.0),
    "sigmoid": (surrogate.sigmoid(4.0), 1.0),
    "constant": (surrogate.constant(), None),
    "custom": (surrogate.custom(cubic), 1.0),
    "custom normalized": (surrogate.custom(cubic, normalized=True), 1.0),
}


def derivative(h, u, threshold=1.0, **options):
    """Return do/du of single potentials."""
    u = jnp.asarray(u, jnp.float32)
    return jax.grad(lambda u: fire(u, jnp.asarray(threshold), h, **options).sum())(u)


@pytest.mark.parametrize("name", ALL)
def test_the_step_is_exact_whatever_the_surrogate(name):
    u = jnp.asarray([-2.0, 0.0, 0.5 - 2**-24, 0.5, 0.5 + 2**-23, 3.0])
    spikes = fire(u, jnp.asarray(0.5), ALL[name][0])
    assert spikes.tolist() == [0, 0, 0, 0, 1, 1] and spikes.dtype == jnp.float32
    assert fire(u, jnp.asarray(0.5), ALL[name][0], strict=False).tolist() == [0, 0, 0, 1, 1, 1]
    assert fire(u.astype(jnp.bfloat16), jnp.asarray(0.5), ALL[name][0]).dtype == jnp.bfloat16


@pytest.mark.parametrize("name", [name for name, (_, area) in ALL.items() if area is not None])
def test_areas_are_as_documented(name):
    h, area = ALL[name]
    # Midpoints of cells that double in width away from 0, out to where the tails hold under 1e-5.
    edges = np.concatenate([np.linspace(0, 3, 6001), np.geomspace(3, 1e5, 6000)[1:]])
    middle, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    height = np.asarray(h(jnp.asarray(middle, jnp.float32)), np.float64)
    assert 2 * np.sum(height * width) == pytest.approx(area, rel=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_h_by_the_equations(name):
    h = ALL[name][0]
    theta = np.repeat(np.float32([[0.3], [1.0], [2.5]]), 6, 1)
    u = theta * np.float32([[-0.75, 0.0, 0.6, 1.0, 1.1, 2.3]])

    @jax.jit
    def gradients(*a):
        return [
            jax.grad(lambda *a, s=strict: fire(*a, h, strict=s).sum(), (0, 1))(*a)
            for strict in (True, False)
        ]

    if h.normalized:
        height = np.asarray(h(u / theta - 1))
        expected = height / theta, -height * u / theta**2
    else:
        height = np.asarray(h(u - theta))
        expected = height, -height
    for found in gradients(u, theta):
        for ours, equation in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, equation, rtol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_forward_mode_agrees_with_reverse_mode(name):
    u, theta = jnp.asarray([0.2, 0.9, 1.4]), jnp.asarray(0.7)
    du, dtheta = jnp.asarray([1.0, -2.0, 0.5]), jnp.asarray(0.25)

    @jax.jit
    def both(u, theta):
        spikes, pull = jax.vjp(lambda u, t: fire(u, t, ALL[name][0]), u, theta)
        _, push = jax.jvp(lambda u, t: fire(u, t, ALL[name][0]), (u, theta), (du, dtheta))
        return push, [pull(row) for row in jnp.eye(3)]

    push, rows = both(u, theta)
    expected = [np.vdot(by_u, du) + by_theta * dtheta for by_u, by_theta in rows]
    np.testing.assert_allclose(push, np.stack(expected), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("width", [0.5, 1.0, 2.0])
def test_the_rectangle_is_zero_exactly_on_its_edges(width):
    # Thresholds and widths that are exact in binary, so that the edges are hit.
    h = surrogate.rectangle(width)
    edges = [0.5 - width / 2, 0.5 + width / 2]
    inside = [0.5 - width / 2 + 2**-10, 0.5, 0.5 + width / 2 - 2**-10]
    assert derivative(h, edges, 0.5).tolist() == [0, 0]
    assert derivative(h, inside, 0.5).tolist() == [1 / width] * 3


@pytest.mark.long
@pytest.mark.parametrize("threshold", [0.5, 1.0, 4.0])
def test_linear_surrogate_of_rathi_and_of_spike_thrift(threshold):
    """Z = u/V - 1: 0.3 at 0, 0.15 at +-0.5, 0 from +-1 on; by u, that divided by V."""
    h = surrogate.triangle(1.0, 0.3, normalized=True)
    z = jnp.asarray([0.0, 0.5, -0.5, 1.0, -1.0, 1.5, -3.0])
    expected = np.asarray([0.3, 0.15, 0.15, 0, 0, 0, 0], np.float32)
    np.testing.assert_allclose(h(z), expected, rtol=1e-6)
    by_u = derivative(h, threshold * (z + 1), threshold)
    np.testing.assert_allclose(by_u, expected / threshold, rtol=1e-6)


def test_triangle_of_qp_snn():
    by_u = derivative(surrogate.triangle(1.0), [1.0, 0.5, 1.5, 0.0, -0.5, 2.0, 3.0])
    assert by_u.tolist() == [1.0, 0.5, 0.5, 0, 0, 0, 0]
    # Its code's height 1/a and its paper's height 1 differ for every other width.
    assert surrogate.triangle(0.5).peak == 2.0 and surrogate.triangle(0.5, 1.0).peak == 1.0


def test_closed_forms_of_the_smooth_ones():
    z = np.asarray([-1.5, -0.25, 0.0, 0.5, 2.0])
    logistic = 1 / (1 + np.exp(-4 * z))
    expected = {
        surrogate.sigmoid(4.0): 4 * logistic * (1 - logistic),
        surrogate.atan(3.0): 1.5 / (1 + (np.pi / 2 * 3 * z) ** 2),
        surrogate.fast_sigmoid(10.0): 1 / (1 + 10 * abs(z)) ** 2,
        surrogate.constant(): np.ones(5),
    }
    for h, curve in expected.items():
        np.testing.assert_allclose(h(jnp.asarray(z, jnp.float32)), curve, rtol=1e-5)


def test_stdb_of_rathi():
    """0.3 at once, 0.110364 after 100 steps, 1.4e-5 before the first spike: 0.3 e^-9.99."""
    h = surrogate.stdb()
    found = h(jnp.asarray([0.0, 100.0, surrogate.NEVER]))
    np.testing.assert_allclose(found, [0.3, 0.110364, 1.37568e-5], rtol=1e-4)
    assert h == surrogate.stdb(0.3, 0.01) != surrogate.stdb(0.3, 0.02)


def test_steps_since_the_last_spike_are_counted_from_before_the_present_one():
    spikes = jnp.asarray([[0, 1], [1, 0], [0, 0], [1, 0]])
    found = surrogate.steps_since_spike(spikes, jnp.asarray([999.0, 3.0]))
    assert found.T.tolist() == [[999, 1000, 1, 2, 1], [3, 1, 2, 3, 4]]


@pytest.mark.long
def test_fire_over_time_is_exact_and_divides_by_the_threshold():
    u, theta = jnp.asarray([0.4, 0.6, 0.7, 0.1]), jnp.asarray([0.5])
    spikes, since = surrogate.fire_over_time(u, theta, surrogate.stdb(), jnp.asarray(2.0))
    assert spikes.tolist() == [0, 1, 1, 0] and since == 2
    by_u, by_theta = jax.grad(
        lambda u, theta: surrogate.fire_over_time(u, theta, surrogate.stdb(), jnp.float32(2))[
            0
        ].sum(),
        (0, 1),
    )(u, theta)
    height = 0.3 * np.exp(-0.01 * np.asarray([2, 3, 1, 1]))
    np.testing.assert_allclose(by_u, height / 0.5, rtol=1e-5)
    np.testing.assert_allclose(by_theta, [-(height * np.asarray(u)).sum() / 0.25], rtol=1e-5)


def test_stdb_without_the_time_axis_is_an_error():
    assert fire(jnp.ones(2), jnp.asarray(0.5), surrogate.stdb()).tolist() == [1, 1]
    with pytest.raises(UserError, match="stdb looks back in time: use it in layers.Neurons"):
        derivative(surrogate.stdb(), [1.0])


def test_a_threshold_for_each_channel():
    u, theta = jnp.asarray([[0.4, 0.4], [0.6, 0.6]]), jnp.asarray([[0.5, 0.25]])
    assert fire(u, theta, surrogate.rectangle()).tolist() == [[0, 1], [1, 1]]
    by_theta = jax.grad(lambda t: fire(u, t, surrogate.triangle()).sum())(theta)
    np.testing.assert_allclose(by_theta, [[-1.8, -1.5]], rtol=1e-6)


def test_equal_surrogates_share_a_compiled_program():
    assert surrogate.triangle(0.5) == surrogate.triangle(0.5)
    assert hash(surrogate.custom(cubic)) == hash(surrogate.custom(cubic))
    assert surrogate.triangle(0.5) != surrogate.triangle(0.5, normalized=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda: surrogate.rectangle(0.0),
        lambda: surrogate.rectangle(-1.0),
        lambda: surrogate.triangle(0.0),
        lambda: surrogate.triangle(float("nan")),
        lambda: surrogate.atan(0.0),
        lambda: surrogate.fast_sigmoid(-2.0),
        lambda: surrogate.sigmoid(0.0),
        lambda: surrogate.stdb(rate=0.0),
        lambda: surrogate.Surrogate(cubic, float("inf")),
    ],
)
def test_impossible_widths_are_errors(make):
    with pytest.raises(UserError, match="surrogate width must be in"):
        make()


def test_a_negative_peak_is_an_error():
    with pytest.raises(UserError, match="surrogate peak must be in"):
        surrogate.triangle(1.0, -0.3)
