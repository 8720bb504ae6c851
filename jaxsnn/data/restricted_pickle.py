"""Read a pickle of plain containers and byte arrays without executing anything from it.

A pickle is a program for a small stack machine: it may name any function of any module and call it,
and it may use one container so often that what it makes is exponentially larger than itself. The
machine here knows the instructions that a CIFAR batch and a PyTorch state dictionary are made of,
protocols 0 to 4, and no others:

- the few names that an array of bytes needs stand for functions of this file, those that a reader
  of another format knows (`names`) for functions of that reader; every other name is refused before
  anything is imported;
- what is taken out of the memo is a number, a text or such a name, never a container: so nothing is
  larger than the file;
- keys of a dictionary are numbers or texts;
- the number of instructions is bounded.
"""

import codecs
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxsnn import foreign

__all__: list[str] = []  # nothing here is promised to users

LONGEST = 1 << 20  # instructions; the largest batch, 50,000 images of CIFAR-100, takes half of them
ATOMS = (type(None), bool, int, float, str, bytes)


class Built:
    """What a pickle may give a state."""

    def build(self, state: Any) -> None:
        """Take a state."""
        del state


class Ordered(dict[Any, Any], Built):
    """An ordered dictionary; its state, attributes that somebody hung on it, is not looked at."""


class _Array(Built):
    """An array of bytes that is being made: it is empty before its state is known."""

    def __init__(self) -> None:
        self.array = np.empty(0, np.uint8)

    def build(self, state: Any) -> None:
        """Take the state that numpy writes: version, shape, type, order, bytes."""
        _, shape, dtype, is_fortran, raw = state
        if not isinstance(dtype, Empty):
            raise ValueError("an array that is not uint8")
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        flat = np.frombuffer(raw, np.uint8)
        self.array = flat.reshape(shape, order="F" if is_fortran else "C")


class Empty(Built):
    """What carries nothing that matters, such as a dtype; it may be used more than once."""


class Name:
    """A name that a pickle may call."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _ndarray(*_: Any) -> Any:
    raise ValueError("a call of numpy.ndarray")


def _dtype(code: Any, *_: Any) -> Empty:
    if code not in ("u1", b"u1"):
        raise ValueError(f"an array of type {code!r}, not uint8")
    return Empty()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("a text in a foreign encoding")
    return text.encode("latin1")


_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): Name(_reconstruct),
    ("numpy._core.multiarray", "_reconstruct"): Name(_reconstruct),
    ("numpy", "ndarray"): Name(_ndarray),
    ("numpy", "dtype"): Name(_dtype),
    ("_codecs", "encode"): Name(_encode),  # how protocol 2 spells bytes
}


def read_pickle(what: str, data: bytes) -> Any:
    """Return what a pickle holds, made of builtin containers, numbers, bytes and uint8 arrays.

    Args:
        what: name of the file, for the error.
        data: the pickle, protocol 0 to 4, written by Python 2 or 3.

    Raises:
        UserError: if it is damaged or names anything else; nothing of it has been executed then.
    """
    with foreign.reading(what, "a pickle of plain arrays and lists"):
        value = run(data, _ALLOWED)
    if isinstance(value, dict):
        return {
            key: item.array if isinstance(item, _Array) else item for key, item in value.items()
        }
    return value.array if isinstance(value, _Array) else value


def run(
    data: bytes,
    names: Mapping[tuple[str, str], Name],
    outside: Callable[[Any], Any] | None = None,
) -> Any:
    """Return what a pickle leaves on its stack; for readers, inside of `foreign.reading`.

    Args:
        data: the pickle.
        names: module and name -> what they stand for.
        outside: returns what lies outside of the pickle under a persistent id.
    """
    return _Machine(data, names, outside).run()


class _Machine:
    """The stack machine of pickles: values on a stack, marks in it, a memo."""

    def __init__(
        self,
        data: bytes,
        names: Mapping[tuple[str, str], Name],
        outside: Callable[[Any], Any] | None,
    ) -> None:
        self.data = data
        self.names = names
        self.outside = outside
        self.at = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Execute until the end; return the value that is left."""
        for _ in range(LONGEST):
            if (code := self.take(1)) == b".":
                return self.pop()
            act = _INSTRUCTIONS.get(code)
            if act is None:
                raise ValueError(f"the instruction {code!r}, which no plain pickle has")
            act(self)
        raise ValueError(f"more than {LONGEST:,} instructions")

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        start, self.at = self.at, self.at + size
        if size < 0 or self.at > len(self.data):
            raise ValueError(f"it ends after {len(self.data):,} bytes, {self.at:,} expected")
        return self.data[start : self.at]

    def number(self, kind: str) -> Any:
        """Return the next number, of a type of `struct`."""
        return struct.unpack(kind, self.take(struct.calcsize(kind)))[0]

    def counted(self, kind: str) -> bytes:
        """Return the next bytes, whose number stands in front."""
        return self.take(self.number(kind))

    def line(self) -> bytes:
        """Return the rest of the line."""
        start, stop = self.at, self.data.index(b"\n", self.at)
        self.at = stop + 1
        return self.data[start:stop]

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def pop(self) -> Any:
        """Take the last value from the stack."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise ValueError("a value is missing")
        return self.stack.pop()

    def pop_marked(self) -> list[Any]:
        """Take all values behind the last mark, and the mark."""
        if not self.marks:
            raise ValueError("a mark is missing")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def top(self, kind: type) -> Any:
        """Return the last value, which must be of a kind, and leave it."""
        value = self.pop()
        if not isinstance(value, kind):
            raise ValueError(f"a {kind.__name__} is missing")
        self.push(value)
        return value

    def tuple_of(self, size: int) -> None:
        """Make a tuple of the last values."""
        self.push(tuple(reversed([self.pop() for _ in range(size)])))

    def dictionary(self) -> None:
        """Make a dictionary of the values behind the last mark."""
        values = self.pop_marked()
        self.push({})
        self.set_items(values)

    def append(self, values: list[Any]) -> None:
        """Add values to the list that is last."""
        self.top(list).extend(values)

    def set_items(self, values: list[Any]) -> None:
        """Add keys and values, which alternate, to the dictionary that is last."""
        keys = values[::2]
        if len(values) % 2 or not all(isinstance(key, ATOMS) for key in keys):
            raise ValueError("a key that is no number or text")
        self.top(dict).update(zip(keys, values[1::2], strict=True))

    def put(self, index: int) -> None:
        """Keep the last value in the memo."""
        self.memo[index] = value = self.pop()
        self.push(value)

    def get(self, index: int) -> None:
        """Take a value out of the memo."""
        value = self.memo[index]
        if not isinstance(value, (*ATOMS, Name, Empty)):
            raise ValueError(f"a {type(value).__name__} that is used more than once")
        self.push(value)

    def name(self, module: Any, name: Any) -> None:
        """Put what a name stands for on the stack."""
        if (module, name) not in self.names:
            raise ValueError(f"it names {module}.{name}, which is not allowed")
        self.push(self.names[module, name])

    def call(self) -> None:
        """Call a name."""
        arguments, name = self.pop(), self.pop()
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise ValueError("a call of what is no name")
        self.push(name.call(*arguments))

    def build(self) -> None:
        """Give the last value its state."""
        state, value = self.pop(), self.pop()
        if not isinstance(value, Built):
            raise ValueError("a state of what has none")
        value.build(state)
        self.push(value)

    def load(self) -> None:
        """Put what lies outside under a persistent id on the stack."""
        if self.outside is None:
            raise ValueError("a value that lies outside of it")
        self.push(self.outside(self.pop()))


def _whole(line: bytes) -> int | bool:
    """Return a number of protocol 0, which spells truth as 01 and 00."""
    return bool(int(line)) if line in (b"00", b"01") else int(line.rstrip(b"L"))


def _quoted(line: bytes) -> bytes:
    """Return a text of protocol 0."""
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[:1] != line[-1:]:
        raise ValueError("a text without quotes")
    return codecs.escape_decode(line[1:-1])[0]


def _little(content: bytes) -> int:
    return int.from_bytes(content, "little", signed=True)


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogatepass")


_INSTRUCTIONS: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": lambda m: m.take(1),  # protocol
    b"\x95": lambda m: m.take(8),  # frame
    b"(": lambda m: m.marks.append(len(m.stack)),
    b"0": lambda m: m.pop(),
    b"1": lambda m: m.pop_marked(),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"I": lambda m: m.push(_whole(m.line())),
    b"L": lambda m: m.push(_whole(m.line())),
    b"J": lambda m: m.push(m.number("<i")),
    b"K": lambda m: m.push(m.number("<B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"\x8a": lambda m: m.push(_little(m.counted("<B"))),
    b"\x8b": lambda m: m.push(_little(m.counted("<i"))),
    b"F": lambda m: m.push(float(m.line())),
    b"G": lambda m: m.push(m.number(">d")),
    b"S": lambda m: m.push(_quoted(m.line())),
    b"T": lambda m: m.push(m.counted("<i")),
    b"U": lambda m: m.push(m.counted("<B")),
    b"B": lambda m: m.push(m.counted("<I")),
    b"C": lambda m: m.push(m.counted("<B")),
    b"\x8e": lambda m: m.push(m.counted("<Q")),
    b"V": lambda m: m.push(m.line().decode("raw-unicode-escape")),
    b"X": lambda m: m.push(_text(m.counted("<I"))),
    b"\x8c": lambda m: m.push(_text(m.counted("<B"))),
    b"\x8d": lambda m: m.push(_text(m.counted("<Q"))),
    b")": lambda m: m.tuple_of(0),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"t": lambda m: m.push(tuple(m.pop_marked())),
    b"]": lambda m: m.push([]),
    b"l": lambda m: m.push(m.pop_marked()),
    b"a": lambda m: m.append([m.pop()]),
    b"e": lambda m: m.append(m.pop_marked()),
    b"}": lambda m: m.push({}),
    b"d": lambda m: m.dictionary(),
    b"s": lambda m: m.set_items([m.pop(), m.pop()][::-1]),
    b"u": lambda m: m.set_items(m.pop_marked()),
    b"p": lambda m: m.put(int(m.line())),
    b"q": lambda m: m.put(m.number("<B")),
    b"r": lambda m: m.put(m.number("<I")),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"g": lambda m: m.get(int(m.line())),
    b"h": lambda m: m.get(m.number("<B")),
    b"j": lambda m: m.get(m.number("<I")),
    b"c": lambda m: m.name(m.line().decode(), m.line().decode()),
    b"\x93": lambda m: m.name(*[m.pop(), m.pop()][::-1]),
    b"R": lambda m: m.call(),
    b"Q": lambda m: m.load(),
    b"b": lambda m: m.build(),
}
