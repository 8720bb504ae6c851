"""Whole numbers: dividing changes no spike, rounding is all that is lost, integers are the same."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import coding, compress, models, tree
from jaxsnn.errors import UserError
from jaxsnn.export import fold_norms, save, to_integer
from jaxsnn.export.integer import SPIKES
from jaxsnn.export.whole import rounded, to_whole_numbers
from jaxsnn.network import Network
from jaxsnn.neurons import LIF
from tests.export.integer.integer_cases import (
    SHAPE,
    STEPS,
    assert_bit_exact,
    assert_same_spikes,
    spikes,
)


def drawn(layout, recipe):
    """Return a network of quantized kernels, its norms of all sizes folded into its neurons."""
    net = models.build(
        layout, SHAPE, LIF(0.5, 0.5, reset="soft"), norm=True, use_bias="readout",
        readout="current", seed=1,
    )  # fmt: skip
    rng = np.random.default_rng(0)

    def draw(name, leaf):
        if "norm" in name:
            leaf = rng.uniform(0.2, 1.5, leaf.shape) - 0.7 * name.endswith(("bias", "mean"))
        return jnp.asarray(leaf, jnp.float32)

    net = net.replace(**{x: tree.map_named(draw, getattr(net, x)) for x in ("params", "stats")})
    return fold_norms(compress.project(net, recipe), "neuron")


@pytest.fixture(scope="module")
def net():
    kept = np.random.default_rng(0).random((3, 3, 2, 4)) < 0.6
    kept[..., 2] = False  # a channel without weights
    return drawn("4C3-AP2-9-3", {
        "conv1/kernel": compress.rescaled(2, kept=jnp.asarray(kept)),
        "dense1/kernel": compress.uniform_grid(3),
        "dense2/kernel": compress.rescaled(2, per="layer"),
    })  # fmt: skip


@pytest.fixture(scope="module")
def whole(net):
    return to_whole_numbers(net)


def output_of(net):
    return net(spikes().astype(np.float32))


def assert_divided(net, monkeypatch):
    """Check that all but rounding changes nothing."""
    monkeypatch.setattr("jaxsnn.export.whole.rounded", lambda values, *_: values)
    found, expected = output_of(to_whole_numbers(net)), output_of(net)
    for name, counts in expected.activity.spikes.items():
        np.testing.assert_array_equal(found.activity.spikes[name], counts)
    ratio = np.asarray(found.readout / expected.readout)
    assert np.ptp(ratio) < 1e-4 and 0.7 < ratio.mean() < 1.5


def test_dividing_by_the_steps_changes_no_spike_and_no_decision(net, monkeypatch):
    assert_divided(net, monkeypatch)


@pytest.mark.thorough
@pytest.mark.parametrize("per", ["leaf", "channel"])
def test_recurrent_weights_stay_on_a_grid(per):
    net = models.build("5R-3", (4,), LIF(0.5, 0.25), seed=0)
    grid = compress.uniform_grid(3, per=per)
    net = compress.project(net, {"dense1/kernel": grid, "dense1/recurrent": grid})
    found = to_whole_numbers(net, 8)
    codes = [each.quantized["dense1/recurrent"].codes for each in (net, found)]
    np.testing.assert_array_equal(*codes)
    decoded = found.quantized["dense1/recurrent"].decode()
    np.testing.assert_array_equal(decoded, found.params["dense1"]["recurrent"])
    shares = np.asarray(decoded) / np.asarray(found.stats["dense1"]["neurons"]["threshold"])
    np.testing.assert_allclose(shares, net.params["dense1"]["recurrent"] / 0.25, rtol=0.01)


@pytest.mark.thorough
def test_what_a_shortcut_adds_is_divided_too(monkeypatch):
    assert_divided(drawn("4C3-4B3-3", {"*/kernel": compress.rescaled(2)}), monkeypatch)


def test_all_numbers_are_few_bits_times_a_power_of_two(net, whole):
    leaves = tree.named_leaves({"params": whole.params, "stats": whole.stats})
    for name in ("conv1", "dense1"):
        kernel = np.asarray(leaves[f"params/{name}/kernel"])
        np.testing.assert_array_equal(whole.quantized[f"{name}/kernel"].codes, kernel)
        assert 1 < np.abs(kernel).max() <= 4 and whole.steps[f"{name}/kernel"].scale == 1
        for few in (f"params/{name}/bias", f"stats/{name}/neurons/threshold"):
            assert coding.encode(leaves[few])[0] in ("points", "short_floats")
            assert coding.num_bytes(leaves[few]) <= 4 + leaves[few].size
    step = whole.steps["dense2/kernel"]
    assert np.frexp(float(step.scale * step.unit))[0] == 0.5
    thresholds = leaves["stats/conv1/neurons/threshold"]
    assert net.steps["conv1/kernel"].scale[..., 2] < 1e-6  # hears nothing
    assert thresholds[2] == thresholds.min()


def test_integers_are_the_same_numbers(whole):
    integers = to_integer(whole, SPIKES, STEPS)
    assert integers.exact, integers.report
    x = spikes()
    assert_same_spikes(assert_bit_exact(integers, x), whole(x.astype(np.float32)), integers)


def test_thresholds_stay_above_zero_and_the_largest_fills_its_bits():
    np.testing.assert_array_equal(rounded(np.array([0.01, 3, 250]), 8, 1), [1, 3, 250])
    np.testing.assert_array_equal(rounded(np.zeros(3), 8), np.zeros(3))
    for bits in (2, 5, 8):
        values = np.random.default_rng(bits).normal(size=50)
        found = rounded(values, bits)
        step = np.abs(found[found != 0]).min()
        assert np.abs(found - values).max() <= step / 2
        assert 2 ** (bits - 1) - 1 <= np.ptp(found) / step <= 2**bits - 1


def test_the_file_loses_scales_and_most_of_its_floats(net, whole, tmp_path):
    before, after = (save(tmp_path / name, each) for name, each in (("a", net), ("b", whole)))
    assert before - after > 4 * 4 + 2 * 3 * (4 + 9) - 16  # scales; three of four bytes of floats


def test_what_cannot_count_in_units_is_refused():
    net = models.build("4C3-3", (4, 4, 1), LIF(0.5), norm=True)
    with pytest.raises(UserError, match="without norms, found norms"):
        to_whole_numbers(net)
    with pytest.raises(UserError, match="bits must be in"):
        to_whole_numbers(fold_norms(net), 9)
    assert isinstance(to_whole_numbers(fold_norms(net), 4), Network)
