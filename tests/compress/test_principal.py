"""Principal dimensions against numpy's eigenvalues, planted ranks and hand-made spectra."""

import jax
import numpy as np
import pytest

from jaxsnn import encode, models, train, tree
from jaxsnn.compress import principal
from jaxsnn.errors import UserError
from jaxsnn.inputs import Inputs
from jaxsnn.neurons import LIF, unroll
from jaxsnn.train import calibrate

RNG = np.random.default_rng


def moments(rows):
    return principal.update({}, {"layer": rows})["layer"]


def dimensions(rows, threshold=0.999, **options):
    return principal.significant(
        principal.explained(principal.finish(moments(rows))), threshold, **options
    )


def planted(n=4000, k=5, channels=20, seed=0):
    """Return rows of rank k whose k directions carry about the same variance."""
    rng = RNG(seed)
    directions = np.linalg.qr(rng.normal(size=(channels, k)))[0].T
    return rng.normal(size=(n, k)) @ directions


# --- From rows to a number of dimensions ----------------------------------------------------------


def test_shares_and_dimensions_of_a_spectrum():
    shares = principal.explained(np.diag([0.05, 9, 90, 0.95]))
    np.testing.assert_allclose(shares, [0.9, 0.99, 0.9995, 1], rtol=1e-14)
    assert principal.significant(shares, 0.999) == 3
    assert principal.significant(shares, 0.999, rule="count_below") == 2
    assert principal.significant(shares, 1.0) == 4
    assert principal.significant(np.array([1.0, 1.0]), 0.9, rule="count_below") == 1


def test_eigenvalues_of_rows_along_the_axes():
    rows = np.concatenate([np.diag([3, 1, 0.1]), -np.diag([3, 1, 0.1])])
    covariance = principal.finish(moments(rows))
    np.testing.assert_allclose(np.diag(covariance), [3, 1 / 3, 1 / 300], rtol=1e-14)
    np.testing.assert_allclose(principal.explained(covariance), [0.8991, 0.999001, 1], atol=1e-6)
    assert dimensions(rows) == 2 and dimensions(rows, rule="count_below") == 1


def test_rounding_below_zero_and_dead_channels_add_no_dimension():
    assert principal.explained(np.diag([2.0, -1e-9, 0.0])).tolist() == [1, 1, 1]
    rows = np.zeros((50, 4))
    rows[:, 2] = np.arange(50)
    assert dimensions(rows, 1.0) == 1


@pytest.mark.parametrize("k", [1, 5, 20])
def test_dimensions_are_the_planted_rank(k):
    assert dimensions(planted(k=k)) == k


def test_dimensions_ignore_shift_scale_and_order_but_not_the_scale_of_one_channel():
    rows = planted(k=20)
    changed = 7 * rows[:, RNG(1).permutation(20)] + 1000.0
    assert dimensions(changed) == dimensions(rows) == 20
    rows[:, 3] *= 1e4
    assert dimensions(rows) == 1


def test_a_linear_convolution_has_no_more_dimensions_than_taps():
    rng = RNG(0)
    patches, kernel = rng.normal(size=(2000, 27)), rng.normal(size=(27, 64))
    assert dimensions(patches @ kernel, 1 - 1e-9) == 27


# --- Batches --------------------------------------------------------------------------------------


def test_a_stream_of_batches_is_the_covariance_of_all_rows():
    rng = RNG(0)
    drift = np.repeat(np.linspace(0, 300, 25), [40] * 24 + [7]).reshape(-1, 1)  # of the mean
    rows = (rng.normal(size=(967, 6)) @ rng.normal(size=(6, 6)) + drift).astype(np.float32)
    found = {}
    for batch in np.array_split(rows, np.arange(40, 967, 40)):
        found = principal.update(found, {"conv1": batch.reshape(len(batch), 1, 1, 6)})
    covariance = principal.finish(found["conv1"])
    expected = np.cov(rows.astype(np.float64), rowvar=False, bias=True)
    np.testing.assert_allclose(covariance, expected, rtol=1e-11)
    np.testing.assert_allclose(found["conv1"].mean, rows.mean(0, np.float64), rtol=1e-12)
    eigenvalues = np.linalg.eigvalsh(expected)[::-1]
    shares = np.cumsum(eigenvalues) / eigenvalues.sum()
    np.testing.assert_allclose(principal.explained(covariance), shares, rtol=1e-12)


def test_a_mean_far_from_zero_costs_no_digits_where_squares_in_float32_lose_them_all():
    rows = (1000 + planted(k=3)).astype(np.float32)
    assert dimensions(rows) == 3
    raw = (rows.T @ rows) / np.float32(len(rows)) - np.outer(rows.mean(0), rows.mean(0))
    assert principal.significant(principal.explained(raw), 0.999) > 3


def test_merging_is_symmetric_and_nothing_changes_nothing():
    one, other = moments(planted(50, seed=1)), moments(planted(30, seed=2) + 5)
    for a, b in zip(principal.merge(one, other), principal.merge(other, one), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
    same = principal.merge(principal.no_moments(20), one)
    np.testing.assert_array_equal(same.scatter, one.scatter)
    empty = principal.merge(principal.no_moments(2), moments(np.zeros((0, 2))))
    assert empty.rows == 0 and not empty.scatter.any()


# --- A network ------------------------------------------------------------------------------------

T = 6
TASK = train.Task(Inputs((6, 6, 1), T, "poisson", (0.5,), (0.5,)))
IMAGES = RNG(0).integers(0, 256, (24, 6, 6, 1), dtype=np.uint8)


@pytest.fixture(scope="module")
def net():
    neuron = LIF(0.9, 0.3, reset="soft", order="integrate_then_fire")
    return models.build("4C3-AP2-5C3-10", (6, 6, 1), neuron, readout="current", use_bias=False)


@pytest.mark.long
def test_the_drive_is_the_mean_current_of_every_step_and_the_potential_that_of_the_neurons(net):
    x = encode.signed_poisson(jax.random.key(1), IMAGES[:4] / np.float32(127.5) - 1, T)
    out = net(x)
    kernels = tree.named_leaves(net.params)
    drives = principal.drive(net.synapses, kernels, out.activity.events, T)
    currents = jax.vmap(net.synapses["conv1/kernel"], (0, None))(x, kernels["conv1/kernel"])
    np.testing.assert_allclose(drives["conv1"], currents.mean(0), atol=1e-6)
    neuron = LIF(0.9, 0.3, reset="soft", order="integrate_then_fire")
    spikes, potential, _ = unroll(neuron, currents)
    means = principal.mean_potential(out.activity.potential, T)
    np.testing.assert_allclose(means["conv1"], potential.mean(0), atol=1e-6)
    # The record counts 4 events for a pooled value of 1.
    pooled = spikes.reshape(T, 4, 3, 2, 3, 2, 4).mean((3, 5))
    second = jax.vmap(net.synapses["conv2/kernel"], (0, None))(pooled, kernels["conv2/kernel"])
    np.testing.assert_allclose(drives["conv2"], 4 * second.mean(0), atol=1e-5)
    assert drives.keys() == {"conv1", "conv2", "dense1"}


def statistic_of(net):
    def statistic(params, output):
        events = {name: output.activity.events[name] for name in ("conv1/kernel", "conv2/kernel")}
        return principal.drive(net.synapses, tree.named_leaves(params), events, T)

    return statistic


@pytest.mark.long
def test_widths_of_a_network_from_its_batches_on_one_device_or_two(net):
    statistic, found = statistic_of(net), []
    for devices in (1, 2):
        state = {}
        for values in calibrate.each_batch(
            TASK, net, IMAGES, statistic, batches=3, batch_size=8, devices=devices
        ):
            assert values["conv1"].shape == (8, 6, 6, 4)
            state = principal.update(state, values)
        found.append(state)
    one, two = found
    assert {layer: each.rows for layer, each in one.items()} == {"conv1": 864, "conv2": 216}
    for layer in one:
        np.testing.assert_allclose(one[layer].scatter, two[layer].scatter, rtol=1e-4, atol=1e-5)
    widths = principal.widths(one, 0.999, rows_per_channel=40)
    assert widths == principal.widths(two, 0.999, rows_per_channel=40)
    assert 1 < widths["conv1"] <= 4 and 1 < widths["conv2"] <= 5


# --- Widths, depth and mistakes -------------------------------------------------------------------


def test_widths_round_up_to_a_multiple_but_never_grow():
    found = {"a": moments(planted(k=5)), "b": moments(planted(k=19, channels=20))}
    assert principal.widths(found) == {"a": 5, "b": 19}
    assert principal.widths(found, multiple=8) == {"a": 8, "b": 20}
    assert principal.widths(found, rule="count_below") == {"a": 4, "b": 18}


@pytest.mark.parametrize(
    ("widths", "kept"), [([10, 30, 60, 80, 80, 50, 20], 5), ([1, 2, 2, 3], 4), ([5, 3, 9], 1)]
)
def test_the_depth_ends_where_widths_begin_to_fall(widths, kept):
    named = {f"conv{i}": width for i, width in enumerate(widths, 1)}
    assert list(principal.depth_cut(named).items()) == list(named.items())[:kept]


def test_rows_are_counted_by_layer_before_and_after_the_pass():
    shapes = {"conv1": (32, 32, 64), "conv6": (4, 4, 512), "dense1": (7,)}
    assert principal.images_needed(shapes) == 3200
    assert principal.images_needed({"dense1": (7,)}, rows_per_channel=0.5) == 4
    state = {"conv6": moments(planted(1999))}
    message = (
        r"layer 'conv6': 20 channels need 2000 rows \(images x positions\), found 1999: calibrate "
        r"on 1.1 times as many images, or ask for fewer rows per channel than 100"
    )
    with pytest.raises(UserError, match=message):
        principal.widths(state)
    assert principal.widths(state, rows_per_channel=99) == {"conv6": 5}


@pytest.mark.parametrize("threshold", [0, 1.0001, -0.5, float("nan")])
def test_a_threshold_out_of_range_is_one_clear_line(threshold):
    with pytest.raises(UserError, match=r"variance threshold must be in \(0, 1\], found"):
        principal.widths({"conv1": moments(planted())}, threshold)


def test_mistakes_name_the_layer_or_the_option():
    with pytest.raises(UserError, match="layer 'conv3': nothing varies between the rows"):
        principal.widths({"conv3": moments(np.ones((500, 2)))})
    with pytest.raises(UserError, match="'conv1' are not finite"):
        principal.update({}, {"conv1": np.array([[1.0, np.inf]])})
    with pytest.raises(UserError, match="'layer' has 3 channels, but had 20 before"):
        principal.update({"layer": moments(planted())}, {"layer": np.zeros((2, 3))})
    with pytest.raises(UserError, match="a covariance needs rows"):
        principal.finish(principal.no_moments(3))
    with pytest.raises(UserError, match="rule 'above' is unknown; choose at_least or count_below"):
        principal.significant(np.ones(2), 0.9, rule="above")
    with pytest.raises(UserError, match="multiple must be in"):
        principal.widths({"a": moments(planted())}, multiple=0)
