"""Names, selection and substitution of leaves."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from jaxsnn import tree
from jaxsnn.errors import UserError

PARAMS = {
    "conv1": {"bias": jnp.zeros(2), "kernel": jnp.ones((3, 3, 1, 2))},
    "dense1": {"bias": jnp.zeros(4), "kernel": jnp.ones((8, 4))},
}


def test_names_join_keys_with_slashes_in_tree_order():
    names = list(tree.named_leaves(PARAMS))
    assert names == ["conv1/bias", "conv1/kernel", "dense1/bias", "dense1/kernel"]
    leaves = list(tree.named_leaves(PARAMS).values())
    assert all(a is b for a, b in zip(leaves, jax.tree.leaves(PARAMS), strict=True))


def test_modules_and_sequences_are_named_by_attribute_and_index():
    arrays = eqx.filter(eqx.nn.MLP(2, 3, 4, 1, key=jax.random.key(0)), eqx.is_array)
    assert "layers/0/weight" in tree.named_leaves(arrays)
    assert list(tree.named_leaves([1, (2, None)])) == ["0", "1/0"]


def test_map_named_passes_the_name_and_the_rest():
    out = tree.map_named(lambda name, a, b: (name, a + b), {"x": {"y": 1}}, {"x": {"y": 2}})
    assert out == {"x": {"y": ("x/y", 3)}}


def test_substitute_replaces_named_leaves_only():
    out = tree.substitute(PARAMS, {"dense1/bias": 7})
    assert out["dense1"]["bias"] == 7
    assert out["conv1"]["kernel"] is PARAMS["conv1"]["kernel"]


def test_first_matching_pattern_wins_and_unmatched_leaves_are_left_out():
    recipe = {"conv1/*": "exception", "*/kernel": "rule"}
    assert tree.match(recipe, PARAMS) == {
        "conv1/bias": "exception",
        "conv1/kernel": "exception",
        "dense1/kernel": "rule",
    }
    assert tree.unmatched(recipe, PARAMS) == ("dense1/bias",)


def test_a_pattern_without_a_match_is_an_error_that_lists_the_leaves():
    with pytest.raises(UserError, match=r"'\*/weight' matches no leaf.*dense1/kernel"):
        tree.match({"*/weight": 1}, PARAMS)


def test_a_pattern_hidden_by_an_earlier_one_is_no_error():
    assert set(tree.match({"*": 1, "conv1/bias": 2}, PARAMS).values()) == {1}
