"""What a network is given: normalised images, spikes, augmented in training alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.common.problem import Problem, TrainingConfig
from jaxsnn import data, models
from jaxsnn.neurons import LIF


def problem_of(encoding, channels, frames=()):
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (50, *frames, 8, 8, channels), dtype=np.uint8)
    split = data.Split(images, draw.integers(0, 10, 50).astype(np.int32))
    pixels = images.reshape(-1, channels) / 255
    mean, std = pixels.mean(0), pixels.std(0)
    found = data.Dataset("noise", split, split, split, 10, tuple(mean), tuple(std))
    config = TrainingConfig(encoding=encoding, augment="crop-flip", timesteps=3)
    return Problem(config, found, models.build("10", (64,), LIF(), rngs=nnx.Rngs(0))), images


def test_colour_images_are_normalised():
    problem, images = problem_of("direct", 3)
    signal = problem.prepare(jax.random.key(0), jnp.asarray(images), False)
    assert (signal.timesteps, signal.constant) == (3, True)
    np.testing.assert_allclose(signal.value.mean((0, 1, 2)), np.zeros(3), atol=1e-5)
    np.testing.assert_allclose(signal.value.std((0, 1, 2)), np.ones(3), rtol=1e-4)


def test_augmentation_acts_in_training_alone():
    problem, images = problem_of("direct", 1)
    prepare = jax.jit(problem.prepare, static_argnums=2)
    plain, augmented = (prepare(jax.random.key(0), images, train) for train in (False, True))
    np.testing.assert_allclose(plain.value, images / 255, rtol=1e-6)
    assert np.any(augmented.value != plain.value)


def test_bernoulli_input_is_spikes_at_the_rate_of_the_pixels():
    problem, images = problem_of("bernoulli", 1)
    spikes = problem.prepare(jax.random.key(0), jnp.asarray(images), False)
    assert spikes.shape == (3, *images.shape)
    assert set(np.unique(spikes)) == {0, 1}
    assert float(spikes.mean()) == pytest.approx(images.mean() / 255, abs=0.02)


def test_the_border_of_crops_grows_with_the_image(monkeypatch):
    pads = []
    monkeypatch.setattr(
        data.augment, "by_name", lambda name, pad: pads.append(pad) or (lambda key, images: images)
    )
    for side in (32, 64):
        problem, _ = problem_of("direct", 3)
        images = np.zeros((50, side, side, 3), np.uint8)
        split = problem.data.train._replace(images=images)
        found = dataclasses.replace(problem.data, train=split)
        problem = dataclasses.replace(problem, data=found)
        problem.prepare(jax.random.key(0), jnp.asarray(images[:2]), True)
    assert pads == [4, 8]


def test_frames_of_events_are_counts_over_time():
    problem, frames = problem_of("direct", 2, (3,))
    counts = problem.prepare(jax.random.key(0), jnp.asarray(frames), False)
    np.testing.assert_array_equal(counts, np.moveaxis(frames, 1, 0))
    assert counts.dtype == jnp.float32
