"""Names, selection and substitution of leaves."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

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


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"*": 1, "conv1/bias": 2}, r"'conv1/bias' has no effect.*the earlier '\*'; put"),
        ({"conv1/*": 1, "dense1/*": 2, "*/bias": 3}, r"'\*/bias'.*'conv1/\*', 'dense1/\*'; put"),
        ({"*/kernel": 1, "conv1/kernel": 2, "*": 3}, r"'conv1/kernel' has no effect"),
    ],
)
def test_a_pattern_that_earlier_ones_leave_nothing_is_an_error_that_names_both(recipe, message):
    with pytest.raises(UserError, match=message):
        tree.match(recipe, PARAMS)


def test_an_exception_before_its_rule_is_no_error():
    assert tree.match({"conv1/bias": 2, "*": 1}, PARAMS)["conv1/bias"] == 2


def test_a_variable_and_its_array_have_one_name():
    state = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param)
    assert list(tree.named_leaves(state)) == ["bias", "kernel"]
    assert list(tree.named_leaves(nnx.as_pure(state))) == ["bias", "kernel"]
    # A key of one's own that is called so stays.
    assert list(tree.named_leaves({"a": {"value": 1}})) == ["a/value"]


class Network(NamedTuple):
    params: dict
    epochs: int = 3

    def replace(self, *, params):
        return self._replace(params=params)


def test_parameters_are_taken_out_of_a_network_and_put_back():
    net = Network(PARAMS)
    assert tree.params_of(net) is PARAMS and tree.params_of(PARAMS) is PARAMS
    assert tree.with_params(net, {}) == Network({}, 3)
    assert tree.with_params(PARAMS, {}) == {}
