"""Where the values of a signal lie for one sample, all its steps of time at once.

A signal that windows slide over lies channel after channel: `[C, T, rows, columns]` with its border
around; for a stride `s`, each of the `s * s` kinds of positions by itself, so that a place of the
kernel reads neighbours whatever the stride. A signal that a dense layer takes lies value by value,
the steps of time of each in one word. Both hold `value - low`, which is never negative.
"""

from dataclasses import dataclass

from jaxsnn.compile.plan import Wire

__all__ = ["Layout", "fitting_bits"]

ROOM = 64  # bytes that a row may be read too far


def fitting_bits(span: int, addends: int = 1) -> int:
    """Return the bits of a value in a word so that some values of up to `span` can be added."""
    return next(bits for bits in (8, 16, 32) if bits == 32 or span * addends < 2**bits)


@dataclass(frozen=True)
class Layout:
    """A signal in memory.

    Attributes:
      wire: the signal, whose border is that of the layer that reads it.
      shape: rows, columns and channels of what writes it.
      times: steps of time.
      words: whether a dense layer reads it.
      bits: of a value.
      stride: of the layer that reads it.
    """

    wire: Wire
    shape: tuple[int, int, int]
    times: int
    words: bool
    bits: int
    stride: int = 1

    @property
    def type(self) -> str:
        """Return the C type of a value."""
        return f"uint{self.bits}_t"

    @property
    def span(self) -> int:
        """Return the largest value in memory."""
        return max(1, self.wire.high - self.wire.low)

    @property
    def rows(self) -> int:
        """Return the rows of a kind of position, border included."""
        return -(-self.wire.padded[0] // self.stride)

    @property
    def columns(self) -> int:
        """Return the columns of a kind of position, border included."""
        return -(-self.wire.padded[1] // self.stride)

    @property
    def word_bits(self) -> int:
        """Return the bits of a word; several hold a value's steps of time if one is too short."""
        whole = self.bits << (self.times - 1).bit_length()
        return min(64, max(whole, 32) if self.bits == 16 else whole)

    @property
    def word_type(self) -> str:
        """Return the C type of a word."""
        return f"uint{self.word_bits}_t"

    @property
    def word_count(self) -> int:
        """Return how many words hold a value's steps of time."""
        return -(-self.times * self.bits // self.word_bits)

    @property
    def lanes(self) -> int:
        """Return the places of a value's steps of time."""
        return self.word_count * self.word_bits // self.bits

    @property
    def size(self) -> int:
        """Return the number of values in memory."""
        if self.words:
            return self.wire.size * self.lanes
        planes = self.shape[2] * self.stride**2 * self.times
        over = max(sum(self.wire.border) + 1, self.stride) * (self.columns + 1)
        return planes * self.rows * self.columns + over + 2 * ROOM * 8 // self.bits

    def place(self, channel: str, time: str, row: str, column: str) -> str:
        """Return where C finds a value; row and column do not count the border."""
        if self.words:
            rows, columns, _ = self.shape
            return (
                f"((({channel}) * {rows} + {row}) * {columns} + {column}) * {self.lanes} + {time}"
            )
        border, s = self.wire.border[0], self.stride
        row, column = (f"{x} + {border}" if border else x for x in (row, column))
        plane = self.rows * self.columns
        if s == 1:
            channel = f"(({channel}) * {self.times} + {time}) * {plane}"
            return f"{channel} + ({row}) * {self.columns} + {column}"
        kind = f"(({channel}) * {s} + ({row}) % {s}) * {s} + ({column}) % {s}"
        return (
            f"(({kind}) * {self.times} + {time}) * {plane} + ({row}) / {s} * {self.columns}"
            f" + ({column}) / {s}"
        )

    def tap(self, row: int, column: int, channel: int) -> int:
        """Return where a place of a kernel reads the first output's value."""
        s = self.stride
        kind = (channel * s + row % s) * s + column % s
        return kind * self.times * self.rows * self.columns + row // s * self.columns + column // s

    def feature(self, index: int) -> int:
        """Return where a dense layer finds a value, counted row by row, channels last."""
        rows, columns, channels = self.shape
        position, channel = divmod(index, channels)
        return (channel * rows * columns + position) * self.lanes
