"""Masks of groups against counting, and N:M leaves as their files."""

import itertools
import math

import numpy as np
import pytest

from jaxsnn import coding
from jaxsnn.coding import comparing, groups
from jaxsnn.compress import n_of_m, uniform_grid
from tests.coding.older_forms import parts_of

DRAW = np.random.default_rng(0)


def kept(shape, n, m):
    """Return a mask with `n` of every `m` inputs, or all that the last group has."""
    mask = np.zeros(shape, bool)
    for *place, output in np.ndindex(*shape[:-2], shape[-1]):
        for start in range(0, shape[-2], m):
            group = np.arange(start, min(start + m, shape[-2]))
            chosen = DRAW.permutation(group)[:n]
            mask[(*place, chosen, output)] = True
    return mask


@pytest.mark.parametrize(
    ("shape", "n", "m"), [((16, 3), 2, 4), ((3, 2, 9, 4), 1, 4), ((21, 5), 2, 8), ((40, 2), 2, 16)]
)
def test_the_groups_of_a_mask_are_found_and_read_back(shape, n, m):
    mask = kept(shape, n, m)
    found = groups.search(mask)
    assert (found.n, found.m) == (n, m)
    count = mask.size // shape[-2] * math.ceil(shape[-2] / m)
    width = math.ceil(math.log2(math.comb(m, n)))
    assert found.num_bytes == sum(part.nbytes for part in found.parts.values())
    assert found.num_bytes == 2 + math.ceil(count * width / 8)
    again = groups.marked(found.parts["group"], found.parts["patterns"], shape)
    np.testing.assert_array_equal(again, found.marks)
    assert np.all(again.reshape(shape)[mask]) and again.sum() == mask.sum()


def test_patterns_are_numbered_as_combinations_are():
    rows = [[i in chosen for i in range(4)] for chosen in itertools.combinations(range(4), 2)]
    mask = np.array(rows).reshape(-1, 1)
    assert groups.search(mask).patterns.tolist() == list(range(6))


def test_a_group_that_keeps_less_is_filled_up():
    mask = kept((16, 3), 2, 4)
    mask[np.flatnonzero(mask[:, 0])[0], 0] = False
    found = groups.search(mask)
    assert (found.n, found.m, int(found.marks.sum())) == (2, 4, 24)


@pytest.mark.parametrize(
    "mask", [np.ones((8, 2), bool), np.zeros((8, 2), bool), np.ones(8, bool), np.ones((0, 2), bool)]
)
def test_other_masks_have_no_groups(mask):
    assert groups.search(mask) is None


@pytest.mark.parametrize(("n", "m"), [(2, 8), (1, 4)])
@pytest.mark.long
def test_a_leaf_of_groups_takes_fewer_bytes_than_its_patterns_and_codes(n, m):
    leaf = DRAW.normal(size=(120, 16)).astype(np.float32)
    known = uniform_grid(4).quantize(n_of_m(n, m)(leaf))
    weights = np.asarray(known.decode())
    form, parts = coding.encode(weights, known)
    assert form == "coded_grid_codes" and parts["stream"][2] == m
    patterns = math.ceil(16 * math.ceil(120 / m) * math.ceil(math.log2(math.comb(m, n))) / 8)
    fields = 2 + 4 + 4 + 2 + 3
    stored = groups.search(weights != 0).marks.sum()
    older = fields + patterns + stored * 4 / 8
    assert comparing.sizes(weights, known)["grouped_grid_codes"] == older
    assert coding.num_bytes(weights, known) < older
    np.testing.assert_array_equal(coding.decode(form, parts, weights.shape), weights)
    parts = parts_of("grouped_grid_codes", weights, known)
    assert sum(part.nbytes for part in parts.values()) == older
    found = coding.decode("grouped_grid_codes", parts, weights.shape)
    np.testing.assert_array_equal(found, weights)


@pytest.mark.parametrize(
    ("group", "patterns", "message"),
    [
        ([4, 4], [0], "group says 4 of 4"),
        ([2, 5], [0], "group says 2 of 5"),
        ([8, 16], [0], "group says 8 of 16"),
        ([2, 4], [0, 0], "patterns has 2 elements, expected 1"),
        ([2, 4], [255], "patterns reach 7, there are 6"),
    ],
)
def test_parts_that_do_not_fit_are_refused(group, patterns, message):
    parts = {
        "group": np.uint8(group),
        "patterns": np.uint8(patterns),
        "values": np.ones(4, np.float32),
    }
    with pytest.raises(ValueError, match=message):
        coding.decode("grouped_floats", parts, (4, 2))
