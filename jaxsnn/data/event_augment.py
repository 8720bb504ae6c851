"""Augmentation of recordings: shift, mirror, lose events or frames, jitter their time.

Pure functions of a key and frames of counted events, uint8 `[B, T, H, W, C]` or `[B, T, U]`, for
the compiled training step. Each recording has a key of its own, split from the one given by its
place in the batch: what happens to it does not depend on how many others come after it, and
micro-batches and devices change no bit. One draw of place holds for all frames of a recording.

References: Gu et al. 2021, "EventDrop: data augmentation for event-based learning",
https://arxiv.org/abs/2106.05836 (dropped events, dropped time); Li et al. 2022, "Neuromorphic data
augmentation for training spiking neural networks", https://arxiv.org/abs/2203.06145 (shift, flip).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsnn import draws
from jaxsnn.arrays import check_range, check_whole
from jaxsnn.errors import UserError

__all__ = ["drop_events", "drop_time", "flip", "jitter_time", "shift_frames"]

LOST = 0.1  # share of the events, and of the frames, that `vary` drops


def vary(key: Array, frames: Array, pixels: int, *, mirrored: bool = False) -> Array:
    """Shift each recording, lose a tenth of its events and of its frames, jitter by one frame.

    Args:
        key: random key.
        frames: uint8 `[B, T, H, W, C]` or `[B, T, U]`.
        pixels: largest shift, at least 0.
        mirrored: swap left and right of every second recording, too; of cameras only.
    """
    keys = jax.random.split(key, 5)
    frames = flip(keys[0], frames) if mirrored else frames
    frames = shift_frames(keys[1], frames, pixels)
    frames = drop_events(keys[2], frames, LOST)
    return jitter_time(keys[4], drop_time(keys[3], frames, LOST))


def shift_frames(key: Array, frames: Array, pixels: int) -> Array:
    """Move every recording by up to `pixels` rows and columns, or units, uniformly at random.

    Args:
        key: random key.
        frames: `[B, T, H, W, C]` or `[B, T, U]`, any type.
        pixels: largest shift, each way, at least 0.

    Returns:
        Frames of the same shape and type; what is moved in is zero, what is moved out is lost.

    Raises:
        UserError: if `pixels` is negative, or the frames have another shape.
    """
    _check(frames)
    check_whole("pixels of a shift", pixels, 0, 1 << 20)
    sides = 2 if frames.ndim == 5 else 1

    def one(key: Array, recording: Array) -> Array:
        border = [(0, 0), *[(pixels, pixels)] * sides, *[(0, 0)] * (recording.ndim - 1 - sides)]
        corner = draws.below(key, (sides,), 2 * pixels + 1)
        start = [0, *corner, *[0] * (recording.ndim - 1 - sides)]
        return jax.lax.dynamic_slice(jnp.pad(recording, border), start, recording.shape)

    return _each(one, key, frames)


def flip(key: Array, frames: Array) -> Array:
    """Swap left and right of every recording with probability 1/2.

    A mirrored digit is none; of DVS-Gesture's classes, four pairs of left and right change places.

    Args:
        key: random key.
        frames: `[B, T, H, W, C]`, any type.

    Raises:
        UserError: if the frames have another shape.
    """
    _check(frames, "[B, T, H, W, C]", (5,))

    def one(key: Array, recording: Array) -> Array:
        return jnp.where(jax.random.bernoulli(key), recording[:, :, ::-1], recording)

    return _each(one, key, frames)


def drop_events(key: Array, frames: Array, share: float) -> Array:
    """Lose every event with a probability: a count `n` becomes `Binomial(n, 1 - share)`.

    Args:
        key: random key.
        frames: uint8 `[B, T, H, W, C]` or `[B, T, U]`.
        share: probability of an event to be lost, in [0, 1], a Python number.

    Raises:
        UserError: if the share is out of range, or the frames are no uint8 of such a shape.
    """
    _check(frames)
    check_range("share of the events to drop", share, 0.0, 1.0)
    if frames.dtype != jnp.uint8:
        raise UserError(f"events to drop must be counted in uint8, found {frames.dtype}")
    table = jnp.asarray(_kept_at_most(float(share)))

    def one(key: Array, recording: Array) -> Array:
        count = recording.astype(jnp.int32)
        draw = jax.random.uniform(key, recording.shape, jnp.float32)
        kept = jnp.zeros_like(count)
        for step in (128, 64, 32, 16, 8, 4, 2, 1):  # the number of entries that are <= draw
            kept = jnp.where(table[count, kept + step - 1] <= draw, kept + step, kept)
        return kept.astype(jnp.uint8)

    return _each(one, key, frames)


def drop_time(key: Array, frames: Array, share: float) -> Array:
    """Lose all events of `round(share T)` consecutive frames, the first of them at random.

    Args:
        key: random key.
        frames: `[B, T, H, W, C]` or `[B, T, U]`, any type.
        share: of the frames, in [0, 1], a Python number.

    Raises:
        UserError: if the share is out of range, or the frames have another shape.
    """
    _check(frames)
    check_range("share of the frames to drop", share, 0.0, 1.0)
    steps = frames.shape[1]
    lost = round(share * steps)

    def one(key: Array, recording: Array) -> Array:
        since = jnp.arange(steps) - draws.below(key, (), steps - lost + 1)
        is_lost = ((since >= 0) & (since < lost)).reshape((-1,) + (1,) * (recording.ndim - 1))
        return jnp.where(is_lost, jnp.zeros((), recording.dtype), recording)

    return _each(one, key, frames)


def jitter_time(key: Array, frames: Array, steps: int = 1) -> Array:
    """Move the events of each pixel and frame by up to `steps` frames, uniformly at random.

    Those of one pixel and one frame move together; what would leave the recording stays in its
    first or last frame. No event is lost but where more than 255 meet.

    Args:
        key: random key.
        frames: uint8 `[B, T, H, W, C]` or `[B, T, U]`.
        steps: most frames, each way, at least 0.

    Raises:
        UserError: if `steps` is negative, or the frames are no uint8 of such a shape.
    """
    _check(frames)
    check_whole("steps of a jitter", steps, 0, 1 << 10)
    if frames.dtype != jnp.uint8:
        raise UserError(f"events to jitter must be counted in uint8, found {frames.dtype}")
    last = frames.shape[1] - 1

    def one(key: Array, recording: Array) -> Array:
        away = draws.below(key, recording.shape, 2 * steps + 1) - steps
        total = jnp.zeros(recording.shape, jnp.int32)
        for step in range(-steps, steps + 1):
            target = jnp.clip(jnp.arange(last + 1) + step, 0, last)
            total = total.at[target].add(jnp.where(away == step, recording, 0))
        return jnp.minimum(total, 255).astype(jnp.uint8)

    return _each(one, key, frames)


def _each(function: Callable[[Array, Array], Array], key: Array, frames: Array) -> Array:
    """Apply a function to each recording, with a key of its own."""
    return jax.vmap(function)(jax.random.split(key, len(frames)), frames)


def _check(
    frames: Array, shape: str = "[B, T, H, W, C] or [B, T, U]", ranks: tuple[int, ...] = (3, 5)
) -> None:
    """Refuse what is no frames of recordings."""
    if frames.ndim not in ranks:
        raise UserError(f"frames of recordings: shape {shape} expected, {frames.shape} found")


def _kept_at_most(lost: float) -> np.ndarray:
    """Return `P(Binomial(n, 1 - lost) <= k)` at `[n, k]`, float32 `[256, 256]`; 1 from k = n on."""
    table = np.ones((256, 256), np.float32)
    chance = np.ones(1)  # of each number that is kept of n
    for count in range(1, 256):
        chance = np.append(chance * lost, 0.0) + np.append(0.0, chance * (1.0 - lost))
        table[count, :count] = np.cumsum(chance)[:count]
    return table
