"""Augmentation: against a loop, by its distribution, and inside a compiled scan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn.data import augment
from jaxsnn.errors import UserError

IMAGES = jnp.arange(1, 1 + 300 * 3 * 4 * 2, dtype=jnp.int32).reshape(300, 3, 4, 2)


def moved(image, rows, columns):
    """Move an image by whole pixels, pixel by pixel; zero comes in."""
    out = np.zeros_like(image)
    height, width, _ = image.shape
    for row in range(height):
        for column in range(width):
            if 0 <= row - rows < height and 0 <= column - columns < width:
                out[row, column] = image[row - rows, column - columns]
    return out


def which_move(image, result, pixels, mirrored=(False,)):
    """Return the one (rows, columns, mirrored) that turns `image` into `result`."""
    steps = range(-pixels, pixels + 1)
    found = [
        (rows, columns, mirror)
        for rows in steps
        for columns in steps
        for mirror in mirrored
        if np.array_equal(moved(image[:, ::-1] if mirror else image, rows, columns), result)
    ]
    assert len(found) == 1, found
    return found[0]


def test_every_image_moves_on_its_own_and_all_moves_occur():
    result = jax.jit(augment.shift, static_argnums=2)(jax.random.key(0), IMAGES, 1)
    moves = [which_move(*pair, 1) for pair in zip(np.array(IMAGES), np.array(result), strict=True)]
    counts = [moves.count(move) for move in sorted(set(moves))]
    # 300 draws of 9 equally likely moves: 33 each, standard deviation 5.4; five of them.
    assert len(counts) == 9 and min(counts) > 6 and max(counts) < 61


def test_every_second_image_is_mirrored():
    result = augment.crop_and_flip(jax.random.key(1), IMAGES, pad=1)
    pairs = zip(np.array(IMAGES), np.array(result), strict=True)
    mirrored = sum(which_move(*pair, 1, (False, True))[2] for pair in pairs)
    assert 106 < mirrored < 194  # 150, five standard deviations of 8.7


def test_without_flip_nothing_is_mirrored_and_without_pad_nothing_moves():
    same = augment.crop_and_flip(jax.random.key(1), IMAGES, pad=0, flip=False)
    np.testing.assert_array_equal(same, IMAGES)
    result = augment.crop_and_flip(jax.random.key(1), IMAGES[:20], pad=1, flip=False)
    for pair in zip(np.array(IMAGES[:20]), np.array(result), strict=True):
        which_move(*pair, 1)


def test_same_key_same_result_other_key_other_result():
    first, again, other = (
        augment.crop_and_flip(jax.random.key(seed), IMAGES, 2) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.float32, jnp.bfloat16])
def test_the_type_and_shape_are_kept(dtype):
    images = IMAGES[:4].astype(dtype)
    result = augment.crop_and_flip(jax.random.key(0), images)
    assert result.dtype == dtype and result.shape == images.shape


def test_it_runs_in_a_compiled_scan():
    def step(total, key):
        return total + augment.crop_and_flip(key, IMAGES, 1).sum(), None

    keys = jax.random.split(jax.random.key(0), 3)
    total, _ = jax.jit(lambda: jax.lax.scan(step, jnp.int32(0), keys))()
    assert total == sum(augment.crop_and_flip(key, IMAGES, 1).sum() for key in keys)


def test_a_negative_shift_is_an_error():
    with pytest.raises(UserError, match="-1 pixels"):
        augment.shift(jax.random.key(0), IMAGES, -1)
