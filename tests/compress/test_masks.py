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
    out = jax.jit(lambda p: masks.keep_fraction(p, {"conv1/*": 0.5, "*/kernel": 0.8}))(PARAMS)
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
    out = masks.keep_fraction(scores, {"*": 0.5}, scores=lambda s: s)
    assert out["a"]["kernel"].tolist() == [[True, False], [False, True]]


@pytest.mark.long
def test_global_pruning_takes_from_the_leaf_with_the_smaller_weights():
    out = masks.keep_global(PARAMS, 0.5)
    assert counts(out)["conv1/kernel"] == 17 - 10
    assert counts(out)["dense1/kernel"] == 10
    assert out["conv1"]["bias"].shape == ()
    np.testing.assert_allclose(masks.kept_share(out, PARAMS), 17 / 34)


@pytest.mark.long
def test_traced_sparsities_give_the_same_masks():
    single = masks.keep_fraction(PARAMS, {"*/kernel": 0.8}), masks.keep_global(PARAMS, 0.5)
    traced = jax.jit(
        lambda a, b: (masks.keep_fraction(PARAMS, {"*/kernel": a}), masks.keep_global(PARAMS, b))
    )(0.8, 0.5)
    jax.tree.map(np.testing.assert_array_equal, single, traced)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: masks.keep_fraction(PARAMS, {"*/weight": 0.5}), r"'\*/weight' matches no leaf"),
        (
            lambda: masks.keep_fraction(PARAMS, {"*/kernel": 1.5}),
            r"sparsity of 'conv1/kernel' must be in \[0, 1\], found 1.5",
        ),
        (lambda: masks.keep_fraction(PARAMS, {"*/kernel": 0.96}), r"would empty 'dense1/kernel'"),
        (lambda: masks.keep_global(PARAMS, 0.75), r"would empty 'conv1/kernel'"),
        (lambda: masks.keep_global(PARAMS, float("nan")), r"sparsity must be in"),
        (
            lambda: masks.expand_channels(PARAMS, {"*/kernel": jnp.ones(3, bool)}),
            r"mask of shape \(3,\) does not fit the last axis of 'dense1/kernel'.*\(5, 2\)",
        ),
        (
            lambda: masks.expand_channels(PARAMS, {"norm1/*": jnp.zeros(3, bool)}),
            r"the channel mask of 'norm1/bias' keeps no channel",
        ),
    ],
)
def test_mistakes_name_the_leaf(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.long
def test_a_pruned_channel_loses_kernel_bias_scale_and_shift():
    kept = jnp.asarray([True, False, True])
    out = masks.expand_channels(PARAMS, {"conv1/*": kept, "norm1/*": kept})
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    masked = jax.tree.map(lambda m, p: jnp.where(jnp.broadcast_to(m, p.shape), p, 0), out, ones)
    for name in ("conv1/kernel", "conv1/bias", "norm1/scale", "norm1/bias"):
        leaf = tree.named_leaves(masked)[name]
        assert not jnp.any(leaf[..., 1]) and jnp.all(leaf[..., ::2] == 1)
    assert out["conv1"]["kernel"].shape == (1, 1, 1, 3)
    assert out["dense1"]["kernel"].shape == ()


def test_density_counts_the_entries_that_broadcast_masks_keep():
    kept = jnp.asarray([True, False, False])
    out = masks.expand_channels(PARAMS, {"conv1/*": kept})
    np.testing.assert_allclose(masks.kept_share(out, PARAMS), (8 + 10) / 34)
    np.testing.assert_allclose(masks.kept_share(out, PARAMS, where="conv1/*"), 1 / 3)


def test_masks_of_nonzero_weights_have_their_density():
    out = masks.of_nonzeros(PARAMS)
    assert not out["conv1"]["kernel"][0, 0, 0, 0]
    assert out["conv1"]["bias"].shape == ()
    np.testing.assert_allclose(masks.kept_share(out, PARAMS), 33 / 34)


@pytest.mark.long
def test_both_keeps_what_each_keeps():
    kept = jnp.asarray([True, False, True])
    channels = masks.expand_channels(PARAMS, {"conv1/*": kept})
    connections = masks.keep_fraction(PARAMS, {"*/kernel": 0.5})
    out = masks.both(channels, connections)
    assert counts(out)["conv1/kernel"] == 8
    assert counts(out)["dense1/kernel"] == 5
    masks.check_masks(out, PARAMS)


def test_starved_outputs_are_counted_for_each_kernel():
    kernel = jnp.asarray([[True, False, False], [True, True, False]])
    found = masks.starved_outputs({"out": {"kernel": kernel, "bias": jnp.zeros(3, bool)}})
    assert found == {"out/kernel": 1}


def test_masks_that_do_not_fit_are_named():
    fine = jax.tree.map(lambda _: True, PARAMS)
    masks.check_masks(fine, PARAMS)
    with pytest.raises(UserError, match=r"mask of 'norm1/scale' has shape \(4,\)"):
        masks.check_masks({**fine, "norm1": {"bias": True, "scale": jnp.ones(4, bool)}}, PARAMS)
    with pytest.raises(UserError, match=r"no mask for \['norm1/scale'\]"):
        masks.check_masks({**fine, "norm1": {"bias": True}}, PARAMS)
