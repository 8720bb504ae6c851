"""A stream of bits is read as the matrix that it was made of, and takes fewer bytes than that."""

import numpy as np
import pytest

from jaxsnn.compile.streams import make_stream


def decode(stream, rows):
    """Return the matrix of a stream, read as the C code reads it."""
    bits = np.unpackbits(np.frombuffer(stream.data, np.uint8), bitorder="little").tolist()
    width = stream.gap_bits + stream.code_bits

    def number(first, size):
        return sum(bit << place for place, bit in enumerate(bits[first : first + size]))

    matrix = np.zeros((rows, stream.outputs), np.int64)
    for row in range(rows):
        begin, end = (
            stream.starts[row : row + 2]
            if stream.starts
            else (row * stream.outputs, (row + 1) * stream.outputs)
        )
        output = 0
        for n in range(begin, end):
            output += number(n * width, stream.gap_bits)
            code = number(n * width + stream.gap_bits, stream.code_bits)
            matrix[row, output] += stream.levels[code] if stream.levels else code + stream.low
            output += 1
    return matrix


def sparse(density, values, shape=(20, 300), seed=0):
    random = np.random.default_rng(seed)
    return random.choice(values, shape) * (random.random(shape) < density)


@pytest.mark.parametrize("density", [0.0, 0.003, 0.05, 0.5, 1.0])
@pytest.mark.parametrize(
    "values", [[-1, 1], [5], range(-7, 8), [-90, 3, 1000], [-(2**30), 7, 2**29]]
)
def test_a_stream_is_the_matrix(density, values):
    matrix = sparse(density, list(values))
    stream = make_stream(matrix)
    np.testing.assert_array_equal(decode(stream, len(matrix)), matrix)
    assert stream.size <= matrix.size * len(values).bit_length() / 8 + 4 * (len(values) + 1)


def test_few_weights_take_few_bits():
    """Of 6,000 weights 292 are kept: 6 or 7 bits each, few of them twice, and 21 starts."""
    stream = make_stream(sparse(0.05, [-1, 1]))
    kept = np.count_nonzero(sparse(0.05, [-1, 1]))
    assert stream.gap_bits in (4, 5) and stream.code_bits <= 2
    assert 42 + kept * 6 / 8 < stream.size < 42 + kept * 9 / 8


def test_a_dense_matrix_has_neither_gaps_nor_starts():
    stream = make_stream(sparse(1.0, range(1, 9)))
    assert (stream.gap_bits, stream.code_bits, stream.starts) == (0, 3, ())
    assert stream.size == 6000 * 3 // 8


def test_a_matrix_of_one_weight_takes_nothing():
    assert make_stream(np.full((4, 5), 3)).size == 0
