"""Functions compared by what they do, so that equal work shares a compiled program.

JAX compiles anew for every function object, and optimizers are made of closures: to it
`optax.adam(1e-3)`, written twice, is two optimizers. Here two functions do the same if they run the
same code, in the same module, with the same values in their closures and defaults. Arrays of JAX in
there, such as masks, are arguments of the compiled program; anything else is a part of it.

    @jax.jit
    def program(shared, x):          # compiled once for all functions that do the same
        return shared.function(x)

    program(share(scaled(jnp.asarray(2.0))), x)
"""

import dataclasses
import enum
import functools
import hashlib
import types
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Shared", "share"]

T = TypeVar("T")

PLAIN = (type(None), bool, int, str, bytes, complex, enum.Enum, np.dtype)


class Alike:
    """A function, or a tuple of some, that equals those that do the same but for their arrays.

    Attributes:
      value: the function.
      arrays: those of JAX in its closures, in the order in which they were met.
    """

    def __init__(self, value: Any, lift: bool):
        self.value, self.arrays = value, {}  # type: Any, dict[int, jax.Array]
        self._lift = lift
        self._key = self._key_of(value, ())
        self._hash = hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Alike) and self._key == other._key

    def __hash__(self) -> int:
        return self._hash

    def _key_of(self, value: Any, around: tuple[int, ...]) -> Hashable:
        """Return what is equal for values that do the same; `around` is what it stands in."""
        kind = type(value)
        if isinstance(value, (*PLAIN, Alike)):
            return kind, value
        if isinstance(value, float):
            return kind, value.hex()  # 0.0 is not -0.0
        if isinstance(value, types.CellType):
            return "nothing"
        if id(value) in around:
            return "again", around.index(id(value))
        if isinstance(value, jax.Array) and self._lift:
            self.arrays.setdefault(id(value), value)
            return "array", list(self.arrays).index(id(value))
        if isinstance(value, jax.Array | np.ndarray | np.generic):
            return kind, *_content(value)
        parts = _parts(value)
        if parts is None:
            return "itself", id(value)
        fixed: tuple[Hashable, ...] = ()
        if isinstance(value, types.FunctionType):
            fixed = id(value.__globals__), value.__code__
        around = (*around, id(value))
        return kind, *fixed, tuple(self._key_of(each, around) for each in parts)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Shared(Generic[T]):
    """A pytree whose leaves are the arrays of a function, and whose static part is what it does."""

    arrays: tuple[jax.Array, ...]
    alike: Alike = field(metadata={"static": True})

    @property
    def function(self) -> T:
        """Return the function with these arrays in the place of its own.

        It is a copy: what it keeps in its closure while it is traced changes no other one.
        """
        known = dict(zip(self.alike.arrays, self.arrays, strict=True))
        found: T = _filled(self.alike.value, known)
        return found


def share(function: T | Shared[T], *, lift: bool = True) -> Shared[T]:
    """Return a function, or a tuple of some such as an optimizer, as an argument of a program.

    Numbers, texts, tuples, lists, dictionaries and frozen dataclasses in a closure are compared by
    value, functions in the same way again; anything else, what is empty and may be filled among it,
    must be the same object.

    Args:
      function: what is called inside the program.
      lift: whether its arrays are leaves, which may be traced; else they are compared by value.

    Example:
      >>> def scaled(factor):
      ...     return lambda x: factor * x
      >>> structure = jax.tree.structure
      >>> structure(share(scaled(2.0))) == structure(share(scaled(2.0)))
      True
      >>> structure(share(scaled(2.0))) == structure(share(scaled(3.0)))
      False
    """
    if isinstance(function, Shared):
        return function
    alike = Alike(function, lift)
    return Shared(tuple(alike.arrays.values()), alike)


def _parts(value: Any) -> tuple[Any, ...] | None:
    """Return what a value is made of, None if nobody knows."""
    if isinstance(value, tuple):
        return value
    if isinstance(value, list) and value:  # an empty one is to be filled
        return tuple(value)
    if isinstance(value, dict | types.MappingProxyType) and value:
        return (*value, *value.values())
    if isinstance(value, types.FunctionType):
        cells = [_content_of(cell) for cell in value.__closure__ or ()]
        named = value.__kwdefaults__ or {}
        return (*(value.__defaults__ or ()), len(cells), *cells, *named, *named.values())
    if isinstance(value, types.MethodType):
        return value.__func__, value.__self__
    if isinstance(value, functools.partial):
        return value.func, value.args, tuple(value.keywords), tuple(value.keywords.values())
    if _is_value(value):
        return tuple(getattr(value, each.name) for each in dataclasses.fields(value))
    return None


def _filled(value: Any, known: dict[int, Any]) -> Any:
    """Return a value of copied functions; `known` has what stands for what, by its id."""
    if id(value) in known:
        return known[id(value)]
    if isinstance(value, (*PLAIN, float)) or (parts := _parts(value)) is None:
        return value
    if isinstance(value, types.FunctionType):
        return _filled_function(value, known)
    new = [_filled(each, known) for each in parts]
    if all(a is b for a, b in zip(new, parts, strict=True)):
        return value
    if isinstance(value, tuple):
        return type(value)(*new) if hasattr(value, "_fields") else tuple(new)
    if isinstance(value, list):
        return new
    if isinstance(value, dict | types.MappingProxyType):
        return dict(zip(value, new[len(value) :], strict=True))
    if isinstance(value, types.MethodType):
        return types.MethodType(*new)
    if isinstance(value, functools.partial):
        function, given, names, named = new
        return functools.partial(function, *given, **dict(zip(names, named, strict=True)))
    found = object.__new__(type(value))  # without what it has computed of its old parts
    for each, part in zip(dataclasses.fields(value), new, strict=True):
        object.__setattr__(found, each.name, part)
    return found


def _filled_function(value: types.FunctionType, known: dict[int, Any]) -> Any:
    """Return a function of the same code with cells of its own; it may call itself."""
    given, named = value.__defaults__, value.__kwdefaults__
    cells = value.__closure__
    if not (given or named or cells):
        return value
    fresh = [cell for cell in cells or () if id(cell) not in known]
    known |= {id(cell): types.CellType() for cell in fresh}
    own = tuple(known[id(cell)] for cell in cells or ())
    new = types.FunctionType(value.__code__, value.__globals__, value.__name__, given, own)
    known[id(value)] = new
    for cell in fresh:
        if (content := _content_of(cell)) is not cell:
            known[id(cell)].cell_contents = _filled(content, known)
    new.__defaults__ = given and tuple(_filled(each, known) for each in given)
    new.__kwdefaults__ = named and {name: _filled(each, known) for name, each in named.items()}
    return new


def _is_value(value: Any) -> bool:
    """Return whether a value is a frozen dataclass."""
    parameters = getattr(type(value), "__dataclass_params__", None)
    return parameters is not None and bool(parameters.frozen)


def _content_of(cell: types.CellType) -> Any:
    """Return what a cell of a closure has in it; itself if it is not filled yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return cell


def _content(array: Any) -> tuple[Hashable, ...]:
    """Return shape, type and a digest of the numbers of an array."""
    if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return str(array.dtype), *_content(jax.random.key_data(array))
    if array.dtype == object:
        return "itself", id(array)
    digest = hashlib.blake2b(np.asarray(array).tobytes()).hexdigest()
    return array.shape, str(array.dtype), getattr(array, "weak_type", False), digest
