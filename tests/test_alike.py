"""Functions that do the same are one: equal code, equal values around it."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsnn import compress
from jaxsnn.alike import share
from jaxsnn.compress import grids, masks


@dataclass(frozen=True, eq=False)
class Value:
    numbers: np.ndarray
    name: str = "a"


class Thing:
    pass


THING = Thing()


def around(value):
    """Return a function with a value in its closure."""
    return lambda x: (x, value)


def with_default(value):
    return lambda x, y=value, *, z=value: (x, y, z)


def countdown():
    def count(n):
        return n if n == 0 else count(n - 1)

    return count


def are_alike(first, second, lift=False):
    structures = [jax.tree.structure(share(each, lift=lift)) for each in (first, second)]
    return structures[0] == structures[1] and hash(structures[0]) == hash(structures[1])


@pytest.mark.parametrize(
    "value",
    [
        lambda: 0.1,
        lambda: ("text", 1, None, True),
        lambda: np.arange(3),
        lambda: jnp.arange(3.0),
        lambda: jax.random.key(3),
        lambda: {"w": np.float32(2)},
        lambda: [3, 6],
        lambda: Value(np.ones(2)),
        lambda: partial(divmod, 5),
        lambda: around(around(2.0)),
        lambda: np.dtype("int8"),
        lambda: THING,
    ],
)
def test_functions_with_equal_values_are_one(value):
    assert are_alike(around(value()), around(value()))
    assert are_alike(with_default(value()), with_default(value()))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (0.1, 0.2),
        (0.0, -0.0),
        (1, 1.0),
        (1, True),
        (np.arange(3), np.arange(3.0)),
        (np.arange(3), np.arange(4)),
        (np.asarray([0, 1]), np.asarray([1, 0])),
        (jnp.float32(1), jnp.asarray(1.0)),  # weakly typed
        ({"w": 1}, {"v": 1}),
        (Value(np.ones(2)), Value(np.zeros(2))),
        (around(1), around(2)),
        (Thing(), Thing()),
        ([], []),  # what is filled while it is traced
        ({}, {}),
    ],
)
def test_functions_with_other_values_are_two(first, second):
    assert not are_alike(around(first), around(second))


def test_functions_of_other_code_are_two():
    assert not are_alike(lambda x: x + 1, lambda x: x - 1)
    assert not are_alike(around(1), with_default(1))


def test_a_function_that_calls_itself_has_an_end():
    assert are_alike(countdown(), countdown())


def test_arrays_are_arguments_and_the_rest_is_compiled():
    traced = []

    @jax.jit
    def program(shared, x):
        traced.append(x)
        table = shared.function(x)[1]
        return table["value"].numbers + table["inner"](x)[1][0]

    for number, added in ((1.0, 5), (2.0, 5), (3.0, 5), (3.0, 6)):
        array = jnp.asarray(number)
        table = {"value": Value(array), "inner": around((added, array))}
        assert program(share(around(table)), 0.0) == number + added
    assert len(traced) == 2


def test_an_array_that_two_functions_have_is_one_argument():
    mask = jnp.asarray([True, False])
    shared = share((around(mask), partial(divmod, mask), countdown()))
    assert len(shared.arrays) == 1
    other = jax.tree.map(jnp.logical_not, shared).function
    assert other[0](0)[1].tolist() == other[1].args[0].tolist() == [False, True]
    assert other[2](3) == 0
    assert shared.function[0](0)[1] is mask


def test_a_function_keeps_what_another_one_counts():
    def counter():
        count = 0

        def function(step):
            nonlocal count
            count += step
            return count

        return function

    first = counter()
    shared = share(first)
    assert shared.function(2) == 2 and shared.function(3) == 3 and first(1) == 1
    assert not are_alike(first, counter())  # which stands at 0
    assert jax.tree.structure(shared) == jax.tree.structure(share(counter()))


def test_traced_numbers_are_arguments_too():
    @jax.jit
    def program(x):
        return share(around(x)).function(0)[1]

    assert program(3.0) == 3.0


MASKS = {"w": jnp.asarray([True, False]), "b": jnp.asarray(True)}
PHASES = {
    "adam": lambda rate: optax.adam(rate),
    "sgd on a cosine": lambda rate: optax.sgd(optax.cosine_decay_schedule(rate, 10), 0.9),
    "a schedule": lambda rate: optax.sgd(optax.exponential_decay(rate, 5, 0.5)),
    "joined schedules": lambda rate: optax.sgd(
        optax.join_schedules([lambda count: 0.5, optax.constant_schedule(rate)], [3])
    ),
    "a chain": lambda rate: optax.chain(optax.add_decayed_weights(1e-4), optax.adamw(rate)),
    "quantized": lambda rate: compress.quantized(optax.adam(rate), {"w": grids.uniform_grid(3)}),
    "pruned": lambda rate: compress.pruned(optax.adam(rate), jax.tree.map(jnp.copy, MASKS)),
    "pulled": lambda rate: compress.pulled(
        optax.adam(rate), {"w": compress.keep_largest(0.5)}, 0.1, every=3
    ),
    "gradual": lambda rate: compress.gradually_pruned(
        optax.adam(rate), {"w": 0.5}, begin=0, end=4, every=2
    ),
    "rewired": lambda rate: compress.rewired(
        optax.sgd(rate, 0.9), masks.of_nonzeros({"w": jnp.ones(2)}, where="w"), 10
    ),
}


@pytest.mark.parametrize("name", PHASES)
def test_equal_recipes_make_one_optimizer(name):
    optimizers = [
        phase.optimizer if isinstance(phase, compress.Phase) else phase
        for phase in map(PHASES[name], (1e-3, 1e-3, 1e-2))
    ]
    assert are_alike(*optimizers[:2], lift=True)
    assert not are_alike(optimizers[0], optimizers[2], lift=True)


def test_a_rate_or_a_mask_that_is_an_array_changes_no_program():
    def optimizer(rate, mask):
        steps = optax.adam(optax.cosine_decay_schedule(jnp.asarray(rate), jnp.asarray(5.0)))
        return compress.pruned(steps, {"w": jnp.asarray(mask)}).optimizer

    params, program = {"w": jnp.ones(2)}, jax.jit(_first_step)
    for rate, mask in ((0.5, [True, False]), (0.25, [True, True])):
        made = optimizer(rate, mask)
        expected = _first_step(share(made, lift=False), params)
        found = program(share(made), params)
        np.testing.assert_allclose(found["w"], expected["w"], rtol=1e-6)
    assert program._cache_size() == 1


def _first_step(shared, params):
    optimizer = shared.function
    return optimizer.update({"w": jnp.ones(2)}, optimizer.init(params), params)[0]
