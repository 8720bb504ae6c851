"""Channel scores against hand counts and numpy in float64; the channels that they keep."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn.compress import singular
from jaxsnn.errors import UserError

T = 4
scores = jax.jit(singular.singular_scores, static_argnums=1)


def one_map(matrix):
    """Return a single sample and channel, `[1, H, W, 1]`."""
    return jnp.asarray(matrix, jnp.float32)[None, :, :, None]


def trains(shape=(T, 3, 6, 5, 4), rate=0.2, seed=0):
    """Return random spikes `[T, B, H, W, C]`, some rows silent, so that ranks differ."""
    draw = np.random.default_rng(seed)
    rows = draw.random(shape[1:3] + (1, shape[4])) < 0.6
    return ((draw.random(shape) < rate) & rows).astype(np.float32)


def by_numpy(spikes, tolerance=1e-6):
    """Return the scores of `[T, B, H, W, C]`, one `matrix_rank` in float64 at a time."""
    mean = spikes.astype(np.float64).mean(0)
    found = np.zeros((mean.shape[0], mean.shape[3]))
    for b, f in np.ndindex(*found.shape):
        one = mean[b, :, :, f]
        largest = np.linalg.norm(one, 2)
        limit = max(tolerance, max(one.shape) * 2.0**-23 * largest)
        found[b, f] = np.linalg.matrix_rank(one, tol=limit)
    return found.mean(0)


# --- Singular values ------------------------------------------------------------------------------


@pytest.mark.parametrize(("matrix", "rank"), [(np.zeros((4, 4)), 0), (np.ones((4, 4)), 1),
                                              (np.eye(4), 4)])  # fmt: skip
def test_silent_scores_zero_constant_one_and_identity_its_size(matrix, rank):  # oracle S1
    assert scores(one_map(matrix), 1).tolist() == [rank]


def test_the_map_is_averaged_before_its_rank_is_counted():  # oracle S2
    first, second = np.diag([1, 0]), np.diag([0, 1])
    assert scores(one_map(first), 1) == scores(one_map(second), 1) == 1
    assert scores(one_map(first + second), 2) == 2


def test_a_score_is_the_mean_over_samples():  # oracle S3
    maps = [np.eye(2), np.ones((2, 2)), np.zeros((2, 2))]
    assert scores(jnp.concatenate([one_map(each) for each in maps]), 1).tolist() == [1.0]


def test_scores_equal_numpy_in_float64():
    spikes = trains()
    expected = by_numpy(spikes)
    assert len(set(expected)) == 4 and 0 < expected.min() and expected.max() < 5
    np.testing.assert_allclose(scores(jnp.asarray(spikes.sum(0)), T), expected, rtol=1e-6)


def test_scores_do_not_see_the_order_of_rows_or_which_axis_is_which():  # oracle S4
    spikes = jnp.asarray(trains().sum(0))
    expected = scores(spikes, T)
    np.testing.assert_array_equal(scores(spikes[:, np.array([3, 0, 5, 1, 4, 2])], T), expected)
    np.testing.assert_array_equal(scores(spikes.transpose(0, 2, 1, 3), T), expected)


def test_rounding_on_large_maps_does_not_count_as_rank():
    draw = np.random.default_rng(0)
    # Three distinct rows of counts, laid out over 32: rank 3 exactly, and a largest value of 100.
    rows = draw.integers(1, 7, (20, 3, 32))
    maps = np.stack([each[draw.integers(0, 3, 32)] for each in rows]).astype(np.float32)
    assert np.linalg.matrix_rank(maps.astype(np.float64)).tolist() == [3] * 20
    values = np.asarray(jnp.linalg.svd(jnp.asarray(maps), compute_uv=False)) / 6
    assert ((values > 1e-6).sum(1) > 3).any()  # what the paper's tolerance alone would count
    assert scores(jnp.asarray(maps)[..., None], 6).tolist() == [3.0]


def test_singular_values_below_the_tolerance_do_not_count():
    maps = one_map(np.diag([8, 2, 1]))
    assert singular.singular_scores(maps, 8, tolerance=0.2) == 2
    assert singular.singular_scores(maps, 8, tolerance=0.1) == 3


@pytest.mark.long
def test_no_call_on_a_cpu_is_large_enough_for_the_pool_of_threads():
    # There two calls can wait for each other for ever; a test that hangs would say nothing.
    for shape in [(3, 32, 32, 5), (7, 8, 6, 11), (4, 2, 2, 500)]:
        program = scores.lower(jnp.ones(shape), T).as_text()
        called = re.findall(r"@lapack_sgesdd_ffi.*?: \(tensor<(\d+)x(\d+)x(\d+)xf32>", program)
        assert called
        for count, rows, columns in (map(int, each) for each in called):
            assert count == 1 or count * 10 * rows * columns * min(rows, columns) < 200_000


def test_scores_need_maps_and_numbers_in_range():
    with pytest.raises(
        UserError, match=r"need spike maps \[B, H, W, C\], found the shape \(5, 9\)"
    ):
        singular.singular_scores(jnp.ones((5, 9)), 4)
    with pytest.raises(UserError, match=r"timesteps must be in \[1, inf\], found 0"):
        singular.singular_scores(one_map(np.eye(2)), 0)
    with pytest.raises(UserError, match=r"tolerance must be in \[0, inf\), found -1"):
        singular.singular_scores(one_map(np.eye(2)), 1, tolerance=-1)


# --- Potentials -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(T, 3, 2, 5, 4), (T, 3, 4)])
def test_membrane_scores_are_the_size_of_a_channels_potentials(shape):
    potential = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    magnitude = jnp.asarray(np.abs(potential).sum(0))
    expected = [np.abs(potential[..., f]).sum() / (3 * T) for f in range(4)]
    np.testing.assert_allclose(singular.membrane_scores(magnitude, T), expected, rtol=1e-6)


# --- What is kept ---------------------------------------------------------------------------------


def test_the_lowest_scores_go_and_the_kept_indices_ascend():  # oracle P1
    kept = singular.kept_channels({"a": jnp.asarray([3.0, 1, 2, 0])}, {"a": 0.5})
    assert kept["a"].tolist() == [0, 2] and kept["a"].dtype.kind == "i"


def test_among_equal_scores_the_lower_index_goes_first():
    kept = singular.kept_channels({"a": np.array([1, 2, 1, 1, 0.5])}, {"a": 0.5})
    assert kept["a"].tolist() == [1, 3]


@pytest.mark.parametrize(
    ("size", "ratio", "count"),
    [(64, 0.45, 35), (128, 0.45, 70), (256, 0.45, 140), (512, 0.51, 250), (512, 0.8, 102),
     (64, 0.49, 32), (256, 0.49, 130), (512, 0.78, 112), (512, 0.62, 194), (256, 0.93, 17),
     (512, 0.93, 35), (64, 0.82, 11), (64, 0.1, 57), (10, 0.8, 1), (7, 0.0, 7)],
)  # fmt: skip
def test_counts_are_those_of_the_published_widths(size, ratio, count):
    # The last but one is not published: 10 (1 - 0.8) is a rounding error below 2.
    draw = np.random.default_rng(0).permutation(size)
    kept = singular.kept_channels({"a": draw, "b": draw}, {"a": ratio})
    assert list(kept) == ["a"] and len(kept["a"]) == count
    assert sorted(draw[kept["a"]]) == list(range(size - count, size))


@pytest.mark.parametrize(
    ("values", "ratios", "message"),
    [
        (np.ones(4), {"b": 0.5}, "no layer 'b' was scored; the scored layers are: a"),
        (np.ones(4), {"a": 1.0}, r"ratio of 'a' must be in \[0, 1\), found 1.0"),
        (np.ones(4), {"a": -0.1}, r"ratio of 'a' must be in \[0, 1\), found -0.1"),
        (np.ones(4), {"a": 0.8}, "ratio of 'a': 0.8 of 4 channels leaves none; one must stay"),
        (np.array([1, np.nan, 2]), {"a": 0.3}, "score 1 of 'a' is nan: no finite number"),
        (np.ones((2, 4)), {"a": 0.5}, r"scores of 'a' must be \[C\], found the shape \(2, 4\)"),
    ],
)
def test_what_cannot_be_kept_is_named(values, ratios, message):
    with pytest.raises(UserError, match=message):
        singular.kept_channels({"a": values}, ratios)


# --- Stability ------------------------------------------------------------------------------------


@pytest.mark.long
def test_stability_is_the_mean_cosine_of_all_pairs():
    # Angles of 90, 45 and 45 degrees.
    batches = jnp.asarray([[2.0, 0], [0, 1], [3, 3]])
    expected = (0 + 2 * 0.5**0.5) / 3
    np.testing.assert_allclose(singular.score_stability(batches), expected, rtol=1e-6)
    same = jnp.asarray([[1.0, 2], [2, 4], [10, 20]])
    np.testing.assert_allclose(singular.score_stability(same), 1, rtol=1e-6)
    assert singular.score_stability(jnp.zeros((3, 2))) == 0


def test_stability_needs_two_batches():
    with pytest.raises(UserError, match=r"two batches or more, \[n, C\], found the shape \(1, 3\)"):
        singular.score_stability(jnp.ones((1, 3)))
