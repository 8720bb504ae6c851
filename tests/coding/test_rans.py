"""Symbols return from lanes, in the bits that their shares say."""

import numpy as np
import pytest

from jaxsnn.coding import rans


def drawn(seed, count, shares):
    """Return symbols, and first slot and share of each."""
    symbols = np.random.default_rng(seed).choice(len(shares), count, p=shares / shares.sum())
    table = rans.tables(np.array([shares]))
    return symbols, table, table[0][symbols], np.diff(table[0])[symbols]


def test_tables_are_as_computed_by_hand():
    # 16384 slots, one for each symbol, the rest by the counts.
    assert rans.tables(np.array([[1, 1], [0, 5]])).tolist() == [[0, 8192, 16384], [0, 1, 16384]]
    assert rans.tables(np.array([[1, 2, 1]])).tolist() == [[0, 4096, 12287, 16384]]


def test_one_symbol_is_written_as_computed_by_hand():
    # x = 2**16, f = 4096, c = 8192: 16384 (x // f) + x % f + c = 16384 * 16 + 8192.
    found = rans.write([(np.array([8192]), np.array([4096]))], 1)
    assert int.from_bytes(found.tobytes(), "little") == 16384 * 16 + 8192


@pytest.mark.parametrize("lanes", [1, 2, 8, 64])
@pytest.mark.parametrize("shares", [[1, 1], [1, 60], [5, 1, 1, 9], [0, 1, 16000], [1] * 256])
def test_symbols_return_and_take_the_bits_of_their_shares(lanes, shares):
    shares, count = np.array(shares), 1500
    symbols, table, starts, sizes = drawn(0, count, shares)
    half = 704  # whole rounds
    parts = [(starts[:half], sizes[:half]), (starts[half:], sizes[half:])]
    content = rans.write(parts, lanes)
    reader = rans.Reader(content, lanes)
    found = [reader.take(np.zeros(n, np.int64), table) for n in (640, 64, count - half)]
    reader.end()
    np.testing.assert_array_equal(np.concatenate(found), symbols)
    bits = -np.log2(sizes / rans.SLOTS).sum()
    assert bits / 8 <= content.size <= bits / 8 * 1.001 + 4 * lanes + 2


def test_a_lane_reads_what_rounds_of_one_would():
    symbols, table, starts, sizes = drawn(1, 300, np.array([3, 2, 1]))
    content = rans.write([(starts, sizes)], 1)
    reader = rans.Reader(content, 1)
    np.testing.assert_array_equal(reader._take_rounds(np.zeros(300, np.int64), table), symbols)


@pytest.mark.parametrize("lanes", [1, 4])
def test_other_bytes_end_too_early_too_late_or_elsewhere(lanes):
    symbols, table, starts, sizes = drawn(2, 400, np.array([3, 2, 1]))
    content = rans.write([(starts, sizes)], lanes)

    def read(changed):
        reader = rans.Reader(changed, lanes)
        reader.take(np.zeros(400, np.int64), table)
        reader.end()

    read(content)
    with pytest.raises(ValueError, match="stream ends before the last weight"):
        read(content[:-8])
    with pytest.raises(ValueError, match="does not end with the last weight"):
        read(np.append(content, np.uint8([0, 0])))
    with pytest.raises(ValueError, match=r"stream has \d+ bytes for"):
        read(content[:-1])
    with pytest.raises(ValueError, match="stream has 2 bytes for"):
        read(content[:2])
    with pytest.raises(ValueError, match="a lane out of its range"):
        read(np.concatenate([np.zeros(4, np.uint8), content[4:]]))
    flipped = content.copy()
    flipped[5 * lanes] ^= 8
    with pytest.raises(ValueError, match="stream (ends|does not end)"):
        read(flipped)
