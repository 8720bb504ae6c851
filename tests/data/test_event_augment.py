"""Augmentation of recordings: against loops and by distribution, the same bits for any batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import draws, train
from jaxsnn.data import augment, event_augment
from jaxsnn.errors import UserError
from jaxsnn.inputs import Inputs

KEY = jax.random.key(3)


def camera(num, seed=0, most=4):
    """Make recordings of a camera, `[B, T, H, W, 2]`; higher than wide."""
    counts = np.random.default_rng(seed).integers(0, most, (num, 5, 6, 4, 2))
    return jnp.asarray(counts.astype(np.uint8))


def cochlea(num, seed=0):
    """Make recordings of a cochlea, `[B, T, U]`."""
    counts = np.random.default_rng(seed).integers(0, 4, (num, 5, 12))
    return jnp.asarray(counts.astype(np.uint8))


ALL = {
    "shift": lambda key, x: event_augment.shift_frames(key, x, 2),
    "drop events": lambda key, x: event_augment.drop_events(key, x, 0.3),
    "drop time": lambda key, x: event_augment.drop_time(key, x, 0.5),
    "jitter": event_augment.jitter_time,
    "all": augment.augmentation("event-shift", pad=4),
}


@pytest.mark.parametrize(
    ("name", "frames"),
    [
        ("shift", camera(7)), ("drop events", cochlea(7)), ("drop time", camera(7)),
        ("jitter", cochlea(7)), ("all", camera(7)), ("all", cochlea(7)),
    ],
)  # fmt: skip
def test_a_recording_does_not_depend_on_those_behind_it(name, frames):
    function = jax.jit(ALL[name])
    whole = function(KEY, frames)
    assert whole.shape == frames.shape and whole.dtype == frames.dtype
    np.testing.assert_array_equal(function(KEY, frames[:3]), whole[:3])
    assert not np.array_equal(whole, frames)
    assert not np.array_equal(function(jax.random.key(4), frames), whole)


def moved(recording, steps):
    """Move frames by whole pixels along the axes of place, one number after the other."""
    out = np.zeros_like(recording)
    places = recording.shape[1 : 1 + len(steps)]
    for place in np.ndindex(*places):
        source = tuple(at - step for at, step in zip(place, steps, strict=True))
        if all(0 <= at < size for at, size in zip(source, places, strict=True)):
            out[(slice(None), *place)] = recording[(slice(None), *source)]
    return out


@pytest.mark.long
@pytest.mark.parametrize(("frames", "axes"), [(camera(40), 2), (cochlea(40), 1)])
def test_all_frames_of_a_recording_move_together_and_zero_comes_in(frames, axes):
    result = np.asarray(event_augment.shift_frames(KEY, frames, 1))
    found = set()
    for recording, changed in zip(np.asarray(frames), result, strict=True):
        moves = [
            tuple(step - 1 for step in steps)
            for steps in np.ndindex(*(3,) * axes)
            if np.array_equal(moved(recording, [step - 1 for step in steps]), changed)
        ]
        assert len(moves) == 1
        found |= set(moves)
    assert len(found) == 3**axes
    np.testing.assert_array_equal(event_augment.shift_frames(KEY, frames, 0), frames)


def test_every_second_recording_is_mirrored():
    frames = camera(400)
    result = np.asarray(event_augment.flip(KEY, frames))
    mirrored = [
        np.array_equal(changed, recording[:, :, ::-1])
        for recording, changed in zip(np.asarray(frames), result, strict=True)
    ]
    assert abs(sum(mirrored) - 200) < 50  # five standard deviations of 10
    for index in np.flatnonzero(~np.asarray(mirrored)):
        np.testing.assert_array_equal(result[index], frames[index])


@pytest.mark.parametrize(("count", "share"), [(1, 0.1), (3, 0.75), (255, 0.1)])
def test_lost_events_are_binomial(count, share):
    frames = jnp.full((4, 5, 500), count, jnp.uint8)
    drop = jax.jit(event_augment.drop_events, static_argnums=2)
    kept = np.asarray(drop(KEY, frames, share), int).ravel()
    assert kept.max() <= count
    mean, deviation = count * (1 - share), (count * share * (1 - share)) ** 0.5
    assert abs(kept.mean() - mean) < 5 * deviation / kept.size**0.5
    # The variance of a variance of a binomial is below 3 sigma^4 / n.
    assert abs(kept.var() - deviation**2) < 5 * (3 * deviation**4 / kept.size) ** 0.5 + 1e-2


def test_the_chances_are_those_of_the_formula():
    table = event_augment._kept_at_most(0.2)
    for count, most in ((1, 0), (2, 1), (5, 3), (255, 200)):
        exact = sum(
            float(comb) * 0.8**k * 0.2 ** (count - k)
            for k, comb in enumerate(binomials(count)[: most + 1])
        )
        np.testing.assert_allclose(table[count, most], exact, rtol=1e-5)
    assert all((table[n, n:] == 1).all() for n in range(256))


def binomials(count):
    """Return one row of Pascal's triangle, whole numbers."""
    row = [1]
    for k in range(count):
        row.append(row[-1] * (count - k) // (k + 1))
    return row


@pytest.mark.long
def test_no_events_or_all_are_lost():
    frames = camera(3)
    drop = jax.jit(event_augment.drop_events, static_argnums=2)
    np.testing.assert_array_equal(drop(KEY, frames, 0.0), frames)
    assert not np.any(drop(KEY, frames, 1.0))
    np.testing.assert_array_equal(event_augment.drop_time(KEY, frames, 0.0), frames)
    assert not np.any(event_augment.drop_time(KEY, frames, 1.0))


def test_lost_frames_are_consecutive_and_begin_anywhere():
    frames = jnp.ones((200, 5, 3), jnp.uint8)
    result = np.asarray(event_augment.drop_time(KEY, frames, 0.4)).any(2)
    starts = [list(map(int, np.flatnonzero(~row))) for row in result]
    assert {tuple(row) for row in starts} == {(0, 1), (1, 2), (2, 3), (3, 4)}


def jittered(recording, away):
    """Move the events of each pixel and frame, one place after the other."""
    out = np.zeros(recording.shape, int)
    for place in np.ndindex(*recording.shape):
        target = min(max(place[0] + away[place], 0), len(recording) - 1)
        out[(target, *place[1:])] += recording[place]
    return out


@pytest.mark.parametrize("frames", [camera(3), cochlea(3)], ids=["camera", "cochlea"])
@pytest.mark.parametrize("steps", [1, 7])
def test_jitter_moves_every_event_and_loses_none(frames, steps):
    result = jax.jit(event_augment.jitter_time, static_argnums=2)(KEY, frames, steps)
    for index, key in enumerate(jax.random.split(KEY, len(frames))):
        away = np.asarray(draws.below(key, frames.shape[1:], 2 * steps + 1)) - steps
        np.testing.assert_array_equal(result[index], jittered(np.asarray(frames[index]), away))
    np.testing.assert_array_equal(result.sum(1, dtype=int), frames.sum(1, dtype=int))


def test_counts_that_meet_are_cut_to_a_byte():
    frames = jnp.full((2, 2, 50), 200, jnp.uint8)
    assert set(np.unique(jax.jit(event_augment.jitter_time)(KEY, frames))) == {0, 200, 255}


@pytest.mark.long
def test_digits_are_never_mirrored_and_gestures_are():
    frames = jnp.zeros((64, 1, 16, 16, 2), jnp.uint8).at[:, :, :, 1].set(255)
    task = train.Task(Inputs((16, 16, 2), 1, "events"), augment="event-shift")
    flipped = train.Task(Inputs((16, 16, 2), 1, "events"), augment="event-flip")
    prepare = jax.jit(train.Task.prepare, static_argnums=3)
    right = [
        np.asarray(prepare(each, KEY, frames, True))[..., 8:, :].sum((0, 2, 3, 4)) > 0
        for each in (task, flipped)
    ]
    assert not right[0].any() and 12 < right[1].sum() < 52
    same = task.prepare(KEY, frames, False)
    np.testing.assert_array_equal(same, np.asarray(frames).swapaxes(0, 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: event_augment.flip(KEY, cochlea(1)), r"shape \[B, T, H, W, C\] expected"),
        (lambda: event_augment.shift_frames(KEY, camera(1)[0], 1), r"or \[B, T, U\] expected"),
        (lambda: event_augment.shift_frames(KEY, camera(1), -1), "pixels of a shift must be"),
        (lambda: event_augment.drop_events(KEY, camera(1), 1.5), r"must be in \[0, 1\]"),
        (lambda: event_augment.drop_events(KEY, camera(1) * 1.0, 0.5), "counted in uint8, found"),
        (lambda: event_augment.drop_time(KEY, camera(1), -0.1), "share of the frames to drop"),
        (lambda: event_augment.jitter_time(KEY, camera(1), -1), "steps of a jitter must be"),
        (lambda: event_augment.jitter_time(KEY, camera(1) * 1.0), "counted in uint8, found"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()
