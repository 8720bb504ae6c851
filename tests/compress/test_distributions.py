"""One share spread over layers: densities, and parts that add up exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsnn.compress import distributions
from jaxsnn.errors import UserError

LAYERS = 6

# ---- whole parts ----

apportion = jax.jit(distributions.apportion)


def written(total, shares, room, spread):
    """Find the level of the overflow by bisection in float64."""
    base = total * shares / shares.sum() if shares.sum() else 0 * shares
    low, high = 0.0, float(total) * LAYERS + 1
    for _ in range(200):
        middle = (low + high) / 2
        small = np.minimum(base + middle * spread, room).sum() < total
        low, high = (middle, high) if small else (low, middle)
    return np.minimum(base + high * spread, room)


problems = st.tuples(
    st.lists(st.integers(0, 1000), min_size=LAYERS, max_size=LAYERS),
    st.lists(st.integers(0, 64), min_size=LAYERS, max_size=LAYERS),
    st.floats(0, 1),
)


@pytest.mark.long
@given(problems)
@settings(deadline=None, max_examples=300)
def test_parts_are_whole_fit_their_room_add_up_and_are_within_one_of_the_share(problem):
    room, shares, fill = np.asarray(problem[0]), np.asarray(problem[1]), problem[2]
    total = int(fill * room.sum())
    parts = np.asarray(apportion(total, jnp.asarray(shares, jnp.float32), room))
    assert parts.dtype == np.int32
    assert parts.sum() == total
    assert np.all((parts >= 0) & (parts <= room))
    wanted = written(total, shares.astype(np.float64), room, np.ones(LAYERS))
    assert np.all(np.abs(parts - wanted) < 1 + 2e-3)


@pytest.mark.long
@given(
    st.lists(st.integers(1 << 18, 1 << 27), min_size=LAYERS, max_size=LAYERS),
    st.lists(st.floats(0, 1, width=32), min_size=LAYERS, max_size=LAYERS),
    st.floats(0, 1),
)
@settings(deadline=None, max_examples=200)
def test_the_total_is_exact_beyond_the_whole_numbers_of_float32(room, shares, fill):
    room = np.asarray(room)
    total = int(fill * room.sum())
    parts = np.asarray(apportion(total, jnp.asarray(shares, jnp.float32), room))
    assert parts.sum(dtype=np.int64) == total
    assert np.all((parts >= 0) & (parts <= room))


@given(problems)
@settings(deadline=None, max_examples=100)
def test_overflow_can_be_spread_in_proportion(problem):
    room, shares, fill = np.asarray(problem[0]), 1 + np.asarray(problem[1]), problem[2]
    total = int(fill * room.sum())
    spread = jnp.asarray(shares, jnp.float32)
    parts = np.asarray(apportion(total, spread, room, overflow=spread))
    assert parts.sum() == total
    wanted = written(total, shares.astype(np.float64), room, shares)
    assert np.all(np.abs(parts - wanted) < 1 + 2e-3)


def test_the_largest_remainders_get_what_rounding_up_would_give_all():
    # Shares of 3 to 1 of 5 weights: 3.75 and 1.25. Rounding up would grow 6.
    shares, room = jnp.asarray([0.3, 0.1]), jnp.asarray([7, 6])
    assert apportion(5, shares, room).tolist() == [4, 1]
    assert np.ceil([3.75, 1.25]).sum() == 6


def test_overflow_goes_evenly_to_those_with_room():
    # 90 and 5 and 5 wanted, 10 fit: 80 left over, 40 for each of the others, of whom one takes 25.
    shares, room = jnp.asarray([0.9, 0.05, 0.05]), jnp.asarray([10, 30, 1000])
    assert apportion(100, shares, room).tolist() == [10, 30, 60]


# ---- densities ----


MNIST = {"conv1": 288, "conv2": 9_216, "dense1": 200_704, "dense2": 1_280}


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.9, 0.98])
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_spread_removes_the_share_and_keeps_as_the_power_of_the_size(sparsity, exponent):
    params = {name: {"kernel": jnp.zeros(size)} for name, size in MNIST.items()}
    found = distributions.spread(params, sparsity, exponent=exponent)
    kept = {name: (1 - found[f"{name}/kernel"]) * size for name, size in MNIST.items()}
    np.testing.assert_allclose(sum(kept.values()), (1 - sparsity) * sum(MNIST.values()), rtol=1e-9)
    part = {name: kept[name] / size**exponent for name, size in MNIST.items()}
    free = [name for name in MNIST if kept[name] < MNIST[name] * (1 - 1e-9)]
    np.testing.assert_allclose([part[n] for n in free], [part[n] for n in free[:1] * len(free)])
    assert all(part[full] <= part[n] * (1 + 1e-9) for full in set(MNIST) - {*free} for n in free)
    assert all(0 <= share <= 1 for share in found.values())


def test_spread_at_the_authors_density_resembles_their_choice():
    params = {name: {"kernel": jnp.zeros(size)} for name, size in MNIST.items()}
    found = distributions.spread(params, 1 - 0.01269)
    shares = [1 - found[f"{name}/kernel"] for name in MNIST]
    np.testing.assert_allclose(shares, [0.264, 0.0467, 0.0100, 0.125], rtol=0.01)


def test_spread_refuses_to_remove_everything():
    with pytest.raises(UserError, match="sparsity must be in"):
        distributions.spread({"a": {"kernel": jnp.zeros(3)}}, 1.0)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_a_traced_sparsity_is_spread_as_a_number_is(exponent):
    params = {"a": {"kernel": jnp.zeros(12)}, "b": {"kernel": jnp.zeros((40, 5))},
              "c": {"kernel": jnp.zeros(3000)}}  # fmt: skip
    traced = jax.jit(lambda s: distributions.spread(params, s, exponent=exponent))
    for sparsity in (0.0, 0.1, 0.5, 0.93, 0.999):
        found, expected = (
            traced(sparsity),
            distributions.spread(params, sparsity, exponent=exponent),
        )
        assert {n: float(x) for n, x in found.items()} == pytest.approx(expected, abs=2e-6)
