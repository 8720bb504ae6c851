"""Numbers as few bits as their probabilities allow: range asymmetric numeral systems, in lanes.

A symbol whose share of `M = 2**14` slots is `f`, from the slot `c` on, takes `log2(M / f)` bits. A
lane is a whole number `x` in `[2**16, 2**32)`. Writing puts a symbol into it,

    x -> M (x // f) + x % f + c        after its low 16 bits went out, if x >= 2**18 f

and reading takes it out again, the last one that was written first:

    slot = x % M,  f and c those of the symbol with this slot,  x -> f (x // M) + slot - c

then 16 bits come in from the words if `x < 2**16`. So a writer goes from the last symbol to the
first. Symbols are shared out to the lanes in turn, a round after the other, and the lanes that need
a word take theirs in order. A step of a reader has whole rounds, but for the last step. Only whole
numbers are computed, so every machine reads and writes the same bytes. A reader whose lanes do not
end at `2**16`, with all words taken, has read something else than was written.

Duda 2013, https://arxiv.org/abs/1311.2540, section 2; lanes as Giesen 2014,
https://arxiv.org/abs/1402.3392.

Letters in shapes: `n` symbols, `C` contexts, `A` symbols of an alphabet, `b` of a step.
"""

import bisect
from collections.abc import Sequence

import numpy as np

__all__ = ["SLOTS", "Reader", "tables", "write"]

BITS = 14
SLOTS = 1 << BITS  # M; an alphabet has at most 256 symbols, so each one can have a slot
LEAST = 1 << 16  # of a lane between two symbols


def tables(counts: np.ndarray) -> np.ndarray:
    """Return the slot from which on each symbol has its own, int64 `[C, A + 1]`, ending at `M`.

    Each symbol has a slot, and the rest goes by the counts.

    >>> tables(np.array([[1, 3]])).tolist()
    [[0, 4096, 16384]]

    Args:
      counts: of the symbols in each context, whole numbers >= 0 with a sum > 0, int64 `[C, A]`.
    """
    contexts, symbols = counts.shape
    found = np.zeros((contexts, symbols + 1), np.int64)
    np.cumsum(counts, axis=1, out=found[:, 1:])
    found *= SLOTS - symbols
    found //= found[:, -1:] // (SLOTS - symbols)
    found += np.arange(symbols + 1)
    return found


def write(segments: Sequence[tuple[np.ndarray, np.ndarray]], lanes: int) -> np.ndarray:
    """Return the bytes of symbols: the lanes as the reader finds them, then the words.

    Args:
      segments: `c` and `f` of the symbols that a reader takes in steps of whole rounds, each int64
        `[n]`, in the order of reading; the last round of a segment may be short.
      lanes: how many.
    """
    if lanes == 1:
        return _write_lane(segments)
    states, words = np.full(lanes, LEAST, np.int64), []
    for starts, shares in segments[::-1]:
        for first in range((starts.size - 1) // lanes * lanes, -1, -lanes):
            share, start = shares[first : first + lanes], starts[first : first + lanes]
            here = states[: share.size]
            full = here >= share << 32 - BITS
            words.append(here[full] & 0xFFFF)
            here[full] >>= 16
            whole, rest = np.divmod(here, share)
            states[: share.size] = (whole << BITS) + rest + start
    return _bytes(states, np.concatenate([*words[::-1], np.zeros(0, np.int64)]))


def _write_lane(segments: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return the bytes of symbols in one lane."""
    state, words = LEAST, []
    for starts, shares in segments[::-1]:
        for share, start in zip(shares[::-1].tolist(), starts[::-1].tolist(), strict=True):
            if state >= share << 32 - BITS:
                words.append(state & 0xFFFF)
                state >>= 16
            whole, rest = divmod(state, share)
            state = (whole << BITS) + rest + start
    return _bytes(np.array([state]), np.array(words[::-1], np.int64))


def _bytes(states: np.ndarray, words: np.ndarray) -> np.ndarray:
    content = states.astype("<u4").tobytes() + words.astype("<u2").tobytes()
    return np.frombuffer(content, np.uint8)


class Reader:
    """What is left to read of the bytes of symbols."""

    def __init__(self, content: np.ndarray, lanes: int) -> None:
        """Take the lanes from the front.

        Args:
          content: of `write`, bytes.
          lanes: how many.

        Raises:
          ValueError: if there are fewer bytes, or a lane is out of its range.
        """
        if content.size < 4 * lanes or content.size % 2:
            raise ValueError(f"stream has {content.size} bytes for {lanes} lanes")
        self._states = content[: 4 * lanes].view("<u4").astype(np.int64)
        self._words = content[4 * lanes :].view("<u2").astype(np.int64)
        self._listed = self._words.tolist() if lanes == 1 else []
        self._place = 0
        if self._states.min() < LEAST:
            raise ValueError("stream starts with a lane out of its range")

    def take(self, contexts: np.ndarray, found: np.ndarray) -> np.ndarray:
        """Return the symbols of a step, int64 `[b]`.

        Args:
          contexts: of each symbol, `[b]`.
          found: `tables` of the contexts.

        Raises:
          ValueError: if there are no more words.
        """
        take = self._take_lane if self._states.size == 1 else self._take_rounds
        return take(contexts, found)

    def end(self) -> None:
        """Check that all was read.

        Raises:
          ValueError: if words are left, or a lane is not as the writer started it.
        """
        if self._place != self._words.size or np.any(self._states != LEAST):
            raise ValueError("stream does not end with the last weight")

    def _take_lane(self, contexts: np.ndarray, found: np.ndarray) -> np.ndarray:
        state, place, words, rows = int(self._states[0]), self._place, self._listed, found.tolist()
        symbols = []
        try:
            for context in contexts.tolist():
                row, slot = rows[context], state & SLOTS - 1
                symbol = bisect.bisect_right(row, slot) - 1
                state = (row[symbol + 1] - row[symbol]) * (state >> BITS) + slot - row[symbol]
                if state < LEAST:
                    state = state << 16 | words[place]
                    place += 1
                symbols.append(symbol)
        except IndexError:
            raise ValueError("stream ends before the last weight") from None
        self._states[0], self._place = state, place
        return np.array(symbols, np.int64)

    def _take_rounds(self, contexts: np.ndarray, found: np.ndarray) -> np.ndarray:
        size, lanes = found.shape[1] - 1, self._states.size
        starts, shares = found[:, :-1].ravel(), np.diff(found).ravel()
        base = contexts * SLOTS
        rows = (found[:, :-1] + SLOTS * np.arange(len(found)).reshape(-1, 1)).ravel()
        symbols = np.empty(contexts.size, np.int64)
        for first in range(0, contexts.size, lanes):
            here = base[first : first + lanes]
            state = self._states[: here.size]
            slot = state & SLOTS - 1
            index = np.searchsorted(rows, here + slot, "right") - 1
            state = shares[index] * (state >> BITS) + slot - starts[index]
            low = np.flatnonzero(state < LEAST)
            words = self._words[self._place : self._place + low.size]
            if words.size < low.size:
                raise ValueError("stream ends before the last weight")
            state[low] = state[low] << 16 | words
            self._place += low.size
            self._states[: here.size] = state
            symbols[first : first + lanes] = index % size
        return symbols
