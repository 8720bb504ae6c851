"""Masks from scores, from channels and from weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import tree
from jaxsnn.compress import masks
from jaxsnn.errors import UserError

PARAMS = {
    "conv1": {"bias": jnp.zeros(3), "kernel": jnp.arange(24.0).reshape(2, 2, 2, 3)},
    "dense1": {"bias": jnp.zeros(2), "kernel": -jnp.arange(100.0, 110).reshape(5, 2)},
    "norm1": {"bias": jnp.zeros(3), "scale": jnp.ones(3)},
}


def counts(tree_of_masks):
    return {name: int(jnp.sum(mask)) for name, mask in tree.named_leaves(tree_of_masks).items()}


def test_fractions_are_kept_exactly_and_other_leaves_are_scalar_true():
    out = jax.jit(lambda p: masks.keep_fraction({"conv1/*": 0.5, "*/kernel": 0.8}, p))(PARAMS)
    assert counts(out) == {
        "conv1/bias": 2,
        "conv1/kernel": 12,
        "dense1/bias": 1,
        "dense1/kernel": 2,
        "norm1/bias": 1,
        "norm1/scale": 1,
    }
    assert out["dense1"]["kernel"][4].tolist() == [True, True]
    assert out["norm1"]["scale"].shape == ()
    assert all(mask.dtype == bool for mask in jax.tree.leaves(out))


def test_ready_scores_take_the_place_of_magnitudes():
    scores = {"a": {"kernel": jnp.asarray([[3.0, -9.0], [1.0, 2.0]])}}
    out = masks.keep_fraction({"*": 0.5}, scores, scores=lambda s: s)
    assert out["a"]["kernel"].tolist() == [[True, False], [False, True]]


def test_global_pruning_takes_from_the_leaf_with_the_smaller_weights():
    out = masks.keep_global(0.5, PARAMS)
    assert counts(out)["conv1/kernel"] == 17 - 10
    assert counts(out)["dense1/kernel"] == 10
    assert out["conv1"]["bias"].shape == ()
    np.testing.assert_allclose(masks.density(out, PARAMS), 17 / 34)


def test_traced_sparsities_give_the_same_masks():
    single = masks.keep_fraction({"*/kernel": 0.8}, PARAMS), masks.keep_global(0.5, PARAMS)
    traced = jax.jit(
        lambda a, b: (masks.keep_fraction({"*/kernel": a}, PARAMS), masks.keep_global(b, PARAMS))
    )(0.8, 0.5)
    jax.tree.map(np.testing.assert_array_equal, single, traced)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: masks.keep_fraction({"*/weight": 0.5}, PARAMS), r"'\*/weight' matches no leaf"),
        (
            lambda: masks.keep_fraction({"*/kernel": 1.5}, PARAMS),
            r"sparsity of 'conv1/kernel' must be in \[0, 1\], found 1.5",
        ),
        (lambda: masks.keep_fraction({"*/kernel": 0.96}, PARAMS), r"would empty 'dense1/kernel'"),
        (lambda: masks.keep_global(0.75, PARAMS), r"would empty 'conv1/kernel'"),
        (lambda: masks.keep_global(float("nan"), PARAMS), r"sparsity must be in"),
        (
            lambda: masks.expand_channels({"*/kernel": jnp.ones(3, bool)}, PARAMS),
            r"mask of shape \(3,\) does not fit the last axis of 'dense1/kernel'.*\(5, 2\)",
        ),
        (
            lambda: masks.expand_channels({"norm1/*": jnp.zeros(3, bool)}, PARAMS),
            r"the channel mask of 'norm1/bias' keeps no channel",
        ),
    ],
)
def test_mistakes_name_the_leaf(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_pruned_channel_loses_kernel_bias_scale_and_shift():
    kept = jnp.asarray([True, False, True])
    out = masks.expand_channels({"conv1/*": kept, "norm1/*": kept}, PARAMS)
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    masked = jax.tree.map(lambda m, p: jnp.where(jnp.broadcast_to(m, p.shape), p, 0), out, ones)
    for name in ("conv1/kernel", "conv1/bias", "norm1/scale", "norm1/bias"):
        leaf = tree.named_leaves(masked)[name]
        assert not jnp.any(leaf[..., 1]) and jnp.all(leaf[..., ::2] == 1)
    assert out["conv1"]["kernel"].shape == (1, 1, 1, 3)
    assert out["dense1"]["kernel"].shape == ()


def test_density_counts_the_entries_that_broadcast_masks_keep():
    kept = jnp.asarray([True, False, False])
    out = masks.expand_channels({"conv1/*": kept}, PARAMS)
    np.testing.assert_allclose(masks.density(out, PARAMS), (8 + 10) / 34)
    np.testing.assert_allclose(masks.density(out, PARAMS, where="conv1/*"), 1 / 3)


def test_masks_of_nonzero_weights_have_their_density():
    out = masks.of_nonzeros(PARAMS)
    assert not out["conv1"]["kernel"][0, 0, 0, 0]
    assert out["conv1"]["bias"].shape == ()
    np.testing.assert_allclose(masks.density(out, PARAMS), 33 / 34)


def test_both_keeps_what_each_keeps():
    kept = jnp.asarray([True, False, True])
    channels = masks.expand_channels({"conv1/*": kept}, PARAMS)
    connections = masks.keep_fraction({"*/kernel": 0.5}, PARAMS)
    out = masks.both(channels, connections)
    assert counts(out)["conv1/kernel"] == 8
    assert counts(out)["dense1/kernel"] == 5
    masks.check_masks(out, PARAMS)


def test_starved_outputs_are_counted_for_each_kernel():
    kernel = jnp.asarray([[True, False, False], [True, True, False]])
    found = masks.starved_outputs({"out": {"kernel": kernel, "bias": jnp.zeros(3, bool)}})
    assert {name: int(count) for name, count in found.items()} == {"out/kernel": 1}


def test_masks_that_do_not_fit_are_named():
    fine = jax.tree.map(lambda _: True, PARAMS)
    masks.check_masks(fine, PARAMS)
    with pytest.raises(UserError, match=r"mask of 'norm1/scale' has shape \(4,\)"):
        masks.check_masks({**fine, "norm1": {"bias": True, "scale": jnp.ones(4, bool)}}, PARAMS)
    with pytest.raises(UserError, match=r"no mask for \['norm1/scale'\]"):
        masks.check_masks({**fine, "norm1": {"bias": True}}, PARAMS)


MNIST = {"conv1": 288, "conv2": 9_216, "dense1": 200_704, "dense2": 1_280}


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.9, 0.98])
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_spread_removes_the_share_and_keeps_as_the_power_of_the_size(sparsity, exponent):
    params = {name: {"kernel": jnp.zeros(size)} for name, size in MNIST.items()}
    found = masks.spread(sparsity, params, exponent=exponent)
    kept = {name: (1 - found[f"{name}/kernel"]) * size for name, size in MNIST.items()}
    np.testing.assert_allclose(sum(kept.values()), (1 - sparsity) * sum(MNIST.values()), rtol=1e-9)
    part = {name: kept[name] / size**exponent for name, size in MNIST.items()}
    free = [name for name in MNIST if kept[name] < MNIST[name] * (1 - 1e-9)]
    np.testing.assert_allclose([part[n] for n in free], [part[n] for n in free[:1] * len(free)])
    assert all(part[full] <= part[n] * (1 + 1e-9) for full in set(MNIST) - {*free} for n in free)
    assert all(0 <= share <= 1 for share in found.values())


def test_spread_at_the_authors_density_resembles_their_choice():
    params = {name: {"kernel": jnp.zeros(size)} for name, size in MNIST.items()}
    found = masks.spread(1 - 0.01269, params)
    shares = [1 - found[f"{name}/kernel"] for name in MNIST]
    np.testing.assert_allclose(shares, [0.264, 0.0467, 0.0100, 0.125], rtol=0.01)


def test_spread_refuses_to_remove_everything():
    with pytest.raises(UserError, match="sparsity must be in"):
        masks.spread(1.0, {"a": {"kernel": jnp.zeros(3)}})


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_a_traced_sparsity_is_spread_as_a_number_is(exponent):
    params = {"a": {"kernel": jnp.zeros(12)}, "b": {"kernel": jnp.zeros((40, 5))},
              "c": {"kernel": jnp.zeros(3000)}}  # fmt: skip
    traced = jax.jit(lambda s: masks.spread(s, params, exponent=exponent))
    for sparsity in (0.0, 0.1, 0.5, 0.93, 0.999):
        found, expected = traced(sparsity), masks.spread(sparsity, params, exponent=exponent)
        assert {n: float(x) for n, x in found.items()} == pytest.approx(expected, abs=2e-6)
