"""A stream returns marks and codes, near the entropy of random ones and below it where one can."""

import time

import numpy as np
import pytest

from jaxsnn.coding import stream
from jaxsnn.coding.comparing import entropy
from jaxsnn.coding.marks import ByGroup, ByScore
from tools import decode_parts

SHAPES = [(), (7,), (0, 4), (40, 9), (3, 3, 5, 8), (2, 3, 4, 5, 6), (90, 1), (1, 90)]
NOTHING = np.zeros(0, np.int64)


def drawn(seed, shape, density, symbols):
    """Return marks and codes drawn at random."""
    draw = np.random.default_rng(seed)
    kept = draw.random(int(np.prod(shape))) < density
    return kept, draw.integers(0, symbols, int(kept.sum()))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("density", "symbols"), [(0, 1), (0.1, 3), (0.8, 256), (1, 5)])
def test_marks_and_codes_return_here_and_with_numpy_alone(shape, density, symbols):
    kept, codes = drawn(len(shape), shape, density, symbols)
    content = stream.write(shape, kept, codes)
    found = stream.read(content, shape)
    np.testing.assert_array_equal(found.kept, kept)
    np.testing.assert_array_equal(found.codes, codes)
    for one, other in zip(
        found, decode_parts.read_stream(content, list(shape), 0, has_codes=True), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    marks = stream.write(shape, kept, NOTHING)
    np.testing.assert_array_equal(stream.read(marks, shape, marks_alone=True).kept, kept)


@pytest.mark.parametrize("size", [1, 10**5, 2 * 10**6, 10**8, 2**31])
@pytest.mark.parametrize("density", [0.0, 1e-4, 0.1, 1.0])
def test_lanes_and_steps_of_any_leaf_are_those_that_a_reader_takes(size, density):
    count = int(size * density)
    lanes, block = stream._cut(size, count, min(count, size - count), 256)
    assert lanes <= block <= stream.LARGEST and block % lanes == 0
    assert size <= (stream.SINGLE if lanes == 1 else lanes * stream.ROUNDS)
    assert size <= block * stream.STEPS or block == stream.LARGEST
    assert 2 * lanes <= max(0.01 * (2 * count + size / 400), 32 + size / 2**12)


def test_large_leaves_take_lanes():
    kept, codes = drawn(0, (300, 256), 0.5, 16)
    content = stream.write((300, 256), kept, codes)
    assert content[0] & 15 > 2  # lanes: 2**3 or more
    found = stream.read(content, (300, 256))
    np.testing.assert_array_equal(found.kept, kept)
    np.testing.assert_array_equal(found.codes, codes)


@pytest.mark.parametrize(("shape", "density"), [((256, 128), 0.03), ((3, 3, 48, 64), 0.25)])
def test_random_masks_and_codes_take_three_percent_more_than_their_entropy_at_most(shape, density):
    kept, codes = drawn(1, shape, density, 3)
    leaf = np.zeros(kept.size, np.float32)
    leaf[kept] = codes - 3
    assert stream.write(shape, kept, codes).size <= 1.03 * entropy(leaf)


def test_channels_and_rows_that_differ_take_less_than_the_entropy():
    draw = np.random.default_rng(0)
    shares = draw.beta(0.3, 2, (200, 1)) * draw.beta(0.5, 1, (1, 128))
    kept = draw.random(shares.shape) < shares
    size = stream.write(kept.shape, kept.ravel(), NOTHING).size
    assert size < 0.8 * entropy(kept.astype(np.float32))


def test_kernels_that_are_gone_as_a_whole_take_less_than_the_entropy():
    draw = np.random.default_rng(0)
    kept = (draw.random((1, 1, 32, 32)) < 0.15) & (draw.random((3, 3, 32, 32)) < 0.8)
    size = stream.write(kept.shape, kept.ravel(), NOTHING).size
    assert size < 0.65 * entropy(kept.astype(np.float32))


def test_groups_of_inputs_take_the_entropy_of_their_patterns():
    draw = np.random.default_rng(0)
    order = np.argsort(draw.random((40, 8, 64)), axis=1)
    kept = (order < 2).reshape(320, 64)  # 2 of every 8
    content = stream.write(kept.shape, kept.ravel(), NOTHING)
    assert content[2] == 8 and content.size < 1.03 * 40 * 64 * np.log2(28) / 8
    found = stream.read(content, kept.shape, marks_alone=True)
    np.testing.assert_array_equal(found.kept, kept.ravel())


def test_codes_of_narrow_channels_take_their_own_bits():
    draw = np.random.default_rng(0)
    widths = np.array([0, 2, 8, 3] * 8)
    half = 1 << widths >> 1
    levels = np.floor(draw.random((64, 32)) * 2 * half).astype(int) - half
    codes = (levels + 128).ravel()
    content = stream.write((64, 32), np.ones(codes.size, bool), codes, widths)
    found = stream.read(content, (64, 32), widths)
    np.testing.assert_array_equal(found.codes, codes)
    assert content.size < 64 * widths.sum() / 8 + 40
    _, again = decode_parts.read_stream(content, [64, 32], widths.astype(np.uint8), has_codes=True)
    np.testing.assert_array_equal(again, codes)


def test_the_score_of_a_group_is_as_computed_by_hand():
    model = ByScore((4, 2), share=64)  # a quarter
    first = model.classes(np.array([0, 1]))
    assert first.tolist() == [23, 23]  # the edges are 2**3, 1.5 2**3, 2**4, ...; 23 up to 2**14
    model.learn(np.array([1, 0]))
    # d = (65536 + 16384 * 16) // 18; channel 0: (65536 + 8 d) // 9, channel 1: 8 d // 9.
    share = (65536 + 16384 * 16) // 18
    kept = np.array([65536 + 8 * share, 8 * share]) // 9
    row = share  # nothing is known of the second one
    scores = share * kept // share * row // share
    edges = sorted([2**k for k in range(3, 18)] + [3 * 2**k for k in range(2, 16)])
    np.testing.assert_array_equal(
        model.classes(np.array([2, 3])), [sum(e <= s for e in edges) for s in scores]
    )


def test_the_class_of_a_grouped_mark_is_its_place_and_what_its_group_has():
    model = ByGroup((5, 2), 4)
    classes = []
    for places in ([0, 1], [2, 3], [4, 5], [6, 7], [8, 9]):
        classes.append(model.classes(np.array(places)).tolist())
        model.learn(np.array([1, 0]))
    assert classes == [[0, 0], [6, 5], [12, 10], [18, 15], [0, 0]]


def change(content, place, value):
    found = content.copy()
    found[place] = value
    return found


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, 0x4F, "stream says steps of 16 in 32768 lanes"),
        (2, 5, "stream says groups of 5"),
        (2, 64, "stream says groups of 64"),
        (4, 77, "stream (ends|does not end)"),
    ],
)
def test_streams_of_other_leaves_are_refused(place, value, message):
    kept, codes = drawn(0, (40, 9), 0.5, 5)
    content = stream.write((40, 9), kept, codes)
    with pytest.raises(ValueError, match=message):
        stream.read(change(content, place, value), (40, 9))
    with pytest.raises(ValueError, match="stream has 3 bytes"):
        stream.read(content[:3], (40, 9))
    with pytest.raises(ValueError, match="groups of 4 in a leaf of the shape"):
        stream.read(change(content, 2, 4), (360,))


def test_a_few_bytes_cannot_claim_many_steps():
    kept, codes = drawn(0, (40, 9), 0.5, 5)
    content = stream.write((40, 9), kept, codes)
    start = time.process_time()
    with pytest.raises(ValueError, match="steps of 16 in 1 lanes for 4,000,000 weights"):
        stream.read(content, (2000, 2000))
    with pytest.raises(ValueError, match="steps of 1 in 1 lanes for 100,000 weights"):
        stream.read(change(content, 0, 0), (100_000,))
    assert time.process_time() - start < 1


@pytest.mark.slow
def test_a_vgg16_is_packed_in_a_minute_and_read_in_twenty_seconds():
    shapes = [(3, 3, 3, 64), (3, 3, 64, 64), (3, 3, 64, 128), (3, 3, 128, 128), (3, 3, 128, 256)]
    shapes += [(3, 3, 256, 256)] * 2 + [(3, 3, 256, 512)] + [(3, 3, 512, 512)] * 5 + [(512, 10)]
    start, packed = time.process_time(), []
    for shape in shapes:
        kept, codes = drawn(0, shape, 0.1, 15)
        packed.append((shape, stream.write(shape, kept, codes)))
    middle = time.process_time()
    for shape, content in packed:
        stream.read(content, shape)
    assert middle - start < 60 and time.process_time() - middle < 20
