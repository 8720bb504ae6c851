"""What a neuron is: constants, one pure step, and the facts that other modules read off it.

A neuron is a frozen dataclass. Fields that `ranges` names are its constants, a scalar or `[C]`
each: the leaves of a pytree, so that they may be traced, mapped over, differentiated or trained.
All other fields are options, static. What it carries from one step to the next is its `State`, a
NamedTuple of arrays `[B, ...]` that begins with zeros. Of one step after another,

    state[t] = advance(state[t-1], x[t])        spikes[t] = spikes(state[t])

elementwise functions, in which constants are scalars or `[1, ..., C]`. The reverse pass over time
keeps the states and has autodiff go through each step (`states`), unless a neuron writes one by
hand, `over_time`.

In shapes, `T` is time, `B` the batch, `...` the neurons, `C` the channels, their last axis.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache, partial
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsnn.errors import UserError
from jaxsnn.neurons.states import states_over_time
from jaxsnn.options import Range
from jaxsnn.surrogate import fire

__all__ = ["Membrane", "Neuron", "POSITIVE", "SHARE", "SMALLEST", "kinds", "laid_out"]

SHARE = Range(0.0, 1.0)  # of what is left after a step
POSITIVE = Range(0.0, float("inf"), open_low=True, open_high=True)
RESERVED = ("integrator", "rectified")  # kinds of what fires and is no neuron
SMALLEST = 1e-3  # a trained constant keeps this distance from an end that it must not reach


class Membrane(NamedTuple):
    """What a layer of neurons carries from one step to the next."""

    potential: Array  # [B, ...] potential after the last integration, before its reset


class Neuron:
    """A neuron: derive a frozen dataclass from it, with `ranges` and `advance`.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Ramp(Neuron):
    ...     ranges = {"threshold": POSITIVE}
    ...     threshold: float = 1.0
    ...
    ...     def advance(self, state, current):
    ...         return Membrane(state.potential + current)
    ...
    ...     def spikes(self, state):
    ...         return (state.potential > self.threshold).astype(float)
    >>> jax.tree.leaves(Ramp(2.0))
    [2.0]

    Attributes:
      kind: its name in files; a neuron without one is code, which no file holds.
      State: what it carries, a NamedTuple. Its first field is `potential`, that after integration
        and before its reset, which recordings show.
      ranges: constant -> where it may lie. Trained ones are held there by the update.
      learned: constants that are trained unless a layer says otherwise.
      choices: option that is a word -> the words.
      scaled: constants in units of the potential. Multiplying them and the current by one positive
        factor multiplies the state and changes no spike, which lets norms be folded into them;
        None if there is no such law.
      nir: the node of NIR that computes the same; "" if there is none.
      not_lif: what sets it apart from LIF neurons, for messages of what knows only these.

    Raises:
      UserError: for a class that extends a neuron, or takes the kind of another; of an instance,
        for constants out of range and options of unknown words.
    """

    kind: ClassVar[str] = ""
    State: ClassVar[type[Any]] = Membrane
    ranges: ClassVar[Mapping[str, Range]] = MappingProxyType({})
    learned: ClassVar[tuple[str, ...]] = ()
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({})
    scaled: ClassVar[tuple[str, ...] | None] = None
    nir: ClassVar[str] = ""
    not_lif: ClassVar[str] = "its steps are its own"

    def __init_subclass__(cls) -> None:
        """Make a pytree of the class."""
        super().__init_subclass__()
        if Neuron not in cls.__bases__:
            raise UserError(
                f"neuron {cls.__name__} extends {cls.__bases__[0].__name__}, whose reverse pass "
                "and files it would take: derive it from Neuron"
            )
        others = [x for x in Neuron.__subclasses__() if x.kind == cls.kind and x is not cls]
        taken = [x.__name__ for x in others if not _is_again(cls, x)]
        if cls.kind in RESERVED or (cls.kind and taken):
            kind, cls.kind = cls.kind, ""
            owner = taken[0] if taken else f"layers.{kind.capitalize()}"
            raise UserError(
                f"neuron {cls.__name__} has the kind {kind!r}, that of {owner}: choose another"
            )
        jax.tree_util.register_pytree_node(cls, _flatten, partial(_unflatten, cls))

    def __post_init__(self) -> None:
        """Check constants and options, and make constants floats."""
        for name, words in self.choices.items():
            if (word := getattr(self, name)) not in words:
                raise UserError(f"{name} {word!r} is unknown; choose one of {', '.join(words)}")
        for name, range_ in self.ranges.items():
            value = getattr(self, name)
            range_.check(name, value)
            object.__setattr__(self, name, _as_float(value))

    def advance(self, state: Any, current: Array) -> Any:
        """Return the state after a step with a current, `[B, ...]`."""
        raise TypeError(f"{type(self).__name__} does not define how it advances")

    def level(self, state: Any) -> Array:
        """Return the potential at which a neuron in a state fires, `[B, ...]`: its threshold."""
        threshold = getattr(self, "threshold", None)
        if threshold is None:
            raise UserError(f"neuron {type(self).__name__} has no threshold")
        return laid_out(threshold, state.potential)

    def spikes(self, state: Any) -> Array:
        """Return what a neuron emits at the step that left it in a state, `[B, ...]`.

        By default 1 where the potential is above the level, with the derivative of the option
        `surrogate`; also on it, where the neuron has an option `strict` that is False.
        """
        surrogate = getattr(self, "surrogate", None)
        if surrogate is None:
            raise UserError(f"neuron {type(self).__name__} has no surrogate")
        strict = getattr(self, "strict", True)
        return fire(state.potential, self.level(state), surrogate, strict=strict)

    def step(self, state: Any, current: Array) -> tuple[Any, Array]:
        """Return the state after a step with a current, and the spikes, `[B, ...]` each."""
        state = self.advance(state, current)
        return state, self.spikes(state)

    def over_time(
        self,
        current: Array,
        *,
        timesteps: int | None,
        start: Any,
        at_rest: bool,
        feedback: Array | None,
        short: bool,
    ) -> tuple[Array, Array, Any]:
        """Run over the whole time axis, one step after another.

        Args:
          current: `[T, B, ...]`, or `[B, ...]` with `timesteps`, perhaps in bfloat16.
          timesteps: number of steps of a constant current.
          start: the state before the first step, in the dtype of potentials.
          at_rest: whether that is known to be the one of `begin`.
          feedback: weights `[C, C]` through which the last spikes are heard.
          short: whether spikes are bfloat16.

        Returns:
          Spikes and potentials `[T, B, ...]`, and the last state.
        """
        del at_rest
        rank = start.potential.ndim
        # [1, ..., C], so that a step may multiply them with its state as they are.
        neuron = jax.tree.map(lambda x: x.reshape((1,) * (rank - x.ndim) + x.shape), self)
        spikes, states = states_over_time(timesteps, short, neuron, start, current, feedback)
        last = jax.tree.map(lambda x: x[-1], states)
        return spikes, states.potential, last

    def as_lif(self) -> "Neuron | None":
        """Return the LIF neuron of the same spikes, but for rounding; None if there is none."""
        return None

    def divided(self, divisor: np.ndarray) -> Self:
        """Return the neuron that fires as this one does if its current is divided.

        Args:
          divisor: > 0, for each channel, `[C]`.

        Raises:
          UserError: if no such law is known, `scaled`.
        """
        if self.scaled is None:
            raise UserError(f"neuron {type(self).__name__} does not say how it scales (`scaled`)")
        constants = {name: np.asarray(getattr(self, name), np.float64) for name in self.scaled}
        found = {name: jnp.asarray(x / divisor, jnp.float32) for name, x in constants.items()}
        return replace(self, **found)  # type: ignore[type-var]

    @classmethod
    def begin(cls, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return the state before the first step: zeros."""
        return cls.State(*(jnp.zeros(shape, dtype) for _ in cls.State._fields))

    @classmethod
    def ends(cls, constant: str) -> tuple[float, float]:
        """Return the ends of the range that a trained constant is held in.

        >>> from jaxsnn.neurons import LIF
        >>> LIF.ends("decay"), LIF.ends("threshold")
        ((0.0, 1.0), (0.001, inf))
        """
        found = cls.ranges[constant]
        return found.low + SMALLEST * found.open_low, found.high - SMALLEST * found.open_high

    @classmethod
    def check(cls) -> None:
        """Check that the class keeps the protocol.

        Raises:
          UserError: naming what it lacks.
        """
        name = cls.__name__
        if not is_dataclass(cls) or not cls.__dataclass_params__.frozen:
            raise UserError(f"neuron {name} must be a dataclass(frozen=True)")
        own = {field.name for field in fields(cls)}
        for what, names in (("ranges", cls.ranges), ("choices", cls.choices)):
            if missing := [each for each in names if each not in own]:
                raise UserError(f"neuron {name}: {what} names {missing[0]!r}, which is no field")
        for what, some in (("learned", cls.learned), ("scaled", cls.scaled or ())):
            if missing := [each for each in some if each not in cls.ranges]:
                raise UserError(f"neuron {name}: {what} names {missing[0]!r}, which has no range")
        if getattr(cls.State, "_fields", ("",))[0] != "potential":
            raise UserError(f"neuron {name}: State must be a NamedTuple that begins with potential")
        if cls.advance is Neuron.advance and cls.step is Neuron.step:
            raise UserError(f"neuron {name} has no method advance")

    def check_step(self) -> None:
        """Check, from shapes alone, that a step returns the state and the spikes that it must.

        Raises:
          UserError: saying what it returns instead.
        """
        _check_step(self.bare())

    def bare(self) -> Self:
        """Return the neuron's options, with zeros in the place of constants."""
        found: Self = _unflatten(type(self), _flatten(self)[1], (0.0,) * len(self.ranges))
        return found

    @classmethod
    def unchecked(cls, constants: Mapping[str, Any], options: Mapping[str, Any]) -> Self:
        """Return a neuron of given constants and options, none of them looked at."""
        known, others = _names(cls)
        given = tuple(options[name] for name in others), tuple(constants[name] for name in known)
        found: Self = _unflatten(cls, *given)
        return found

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """Return the names of the fields that are no constants."""
        return _names(cls)[1]


def kinds() -> dict[str, type[Neuron]]:
    """Return kind -> class of all neurons that a file can hold, the user's own among them."""
    return {cls.kind: cls for cls in Neuron.__subclasses__() if cls.kind}


def laid_out(constant: Array | float, potential: Array) -> Array:
    """Return a constant, a scalar or `[C]`, in the shape of a potential, `[..., C]`."""
    constant = jnp.asarray(constant)
    if constant.shape == potential.shape:
        return constant
    axes = tuple(range(potential.ndim - constant.ndim, potential.ndim))
    return jax.lax.broadcast_in_dim(constant, potential.shape, axes)


def _is_again(cls: type[Neuron], other: type[Neuron]) -> bool:
    """Tell whether a class is another one, defined once more, as in a notebook."""
    ours = cls.__module__.startswith("jaxsnn.")
    return not ours and (cls.__module__, cls.__qualname__) == (other.__module__, other.__qualname__)


def _names(cls: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the constants of a class, and those of its options."""
    found: tuple[tuple[str, ...], tuple[str, ...]] = _names_once(cls)
    return found


@cache
def _names_once(cls: Any) -> Any:
    own = [field.name for field in fields(cls)]
    return tuple(cls.ranges), tuple(name for name in own if name not in cls.ranges)


@cache
def _check_step(bare: Any) -> None:
    """Check the step of a neuron, once for all of the same options."""
    name, like = type(bare).__name__, jax.ShapeDtypeStruct((2, 3), jnp.float32)
    neuron = jax.tree.map(lambda _: jax.ShapeDtypeStruct((), jnp.float32), bare)
    state = bare.State(*(like for _ in bare.State._fields))
    after = _shapes_of(name, lambda n, *x: n.advance(*x), neuron, state, like)
    if type(after) is not bare.State:
        found = type(after).__name__
        raise UserError(
            f"neuron {name}: advance must return a {bare.State.__name__}, found {found}"
        )
    for part, value in after._asdict().items():
        _check_like(name, part, value, like)
    spikes = _shapes_of(name, lambda n, state: n.spikes(state), neuron, state)
    _check_like(name, "what spikes() returns", spikes, like)


def _shapes_of(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the shapes that a function of a neuron returns."""
    try:
        return jax.eval_shape(function, *arguments)
    except (TypeError, ValueError, AttributeError) as error:
        line = str(error).strip().partition("\n")[0]
        raise UserError(f"neuron {name} cannot make a step: {line}") from error


def _check_like(name: str, part: str, value: Any, like: jax.ShapeDtypeStruct) -> None:
    """Refuse what has not the shape and the type of the current."""
    if (value.shape, value.dtype) != (like.shape, like.dtype):
        raise UserError(
            f"neuron {name}: {part} is {value.dtype}{list(value.shape)} for a current "
            f"{like.dtype}{list(like.shape)}: it must be the same"
        )


def _flatten(neuron: Neuron) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    constants, options = (
        tuple([getattr(neuron, name) for name in names]) for names in _names(type(neuron))
    )
    return constants, options


def _unflatten(cls: type[Neuron], options: tuple[Any, ...], constants: tuple[Any, ...]) -> Any:
    """Rebuild without checks: the leaves may be anything that JAX puts in their place."""
    neuron = object.__new__(cls)
    for names, values in zip(_names(cls), (constants, options), strict=True):
        for name, value in zip(names, values, strict=True):
            object.__setattr__(neuron, name, value)
    return neuron


def _as_float(constant: Array | float) -> Array | float:
    """Return a constant in floats: whole numbers have no gradient."""
    if isinstance(constant, (int, float)):
        return float(constant)
    if isinstance(constant, (list, tuple)):
        constant = np.asarray(constant)
    return constant if jnp.issubdtype(constant.dtype, jnp.floating) else constant.astype("float32")
