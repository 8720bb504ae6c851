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


@pytest.mark.long
def test_every_second_image_is_mirrored():
    result = augment.crop_and_flip(jax.random.key(1), IMAGES, pad=1)
    pairs = zip(np.array(IMAGES), np.array(result), strict=True)
    mirrored = sum(which_move(*pair, 1, (False, True))[2] for pair in pairs)
    assert 106 < mirrored < 194  # 150, five standard deviations of 8.7


def test_every_image_is_mirrored_in_one_of_two_epochs_whatever_the_order():
    images, rows = IMAGES[:40], jnp.arange(40)
    key, is_mirrored = jax.random.key(2), []
    for epoch in range(3):
        found = np.asarray(augment.mirror_in_turn(key, images, rows, epoch))
        is_mirrored.append((found == np.asarray(images)[:, :, ::-1]).all((1, 2, 3)))
        untouched = (found == np.asarray(images)).all((1, 2, 3))
        np.testing.assert_array_equal(is_mirrored[-1], ~untouched)
    np.testing.assert_array_equal(is_mirrored[0], ~is_mirrored[1])
    np.testing.assert_array_equal(is_mirrored[0], is_mirrored[2])
    assert 8 < is_mirrored[0].sum() < 32  # 20, four standard deviations of 3.2
    turned = augment.mirror_in_turn(key, images[::-1], rows[::-1], 1)
    np.testing.assert_array_equal(turned[::-1], augment.mirror_in_turn(key, images, rows, 1))


def test_what_is_moved_in_may_be_the_image_itself():
    images = np.asarray(IMAGES[:30])
    found = np.asarray(augment.shift(jax.random.key(0), IMAGES[:30], 1, reflect=True))
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
    for image, result in zip(padded, found, strict=True):
        crops = [
            image[row : row + 3, column : column + 4] for row in range(3) for column in range(3)
        ]
        assert any(np.array_equal(crop, result) for crop in crops)


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


@pytest.mark.long
def test_it_runs_in_a_compiled_scan():
    def step(total, key):
        return total + augment.crop_and_flip(key, IMAGES, 1).sum(), None

    keys = jax.random.split(jax.random.key(0), 3)
    total, _ = jax.jit(lambda: jax.lax.scan(step, jnp.int32(0), keys))()
    assert total == sum(augment.crop_and_flip(key, IMAGES, 1).sum() for key in keys)


def test_a_negative_shift_is_an_error():
    with pytest.raises(UserError, match="-1 pixels"):
        augment.shift(jax.random.key(0), IMAGES, -1)


@pytest.mark.long
def test_a_hole_is_black_and_square_where_it_fits():
    images = jnp.ones((600, 8, 10, 2), jnp.uint8)
    holes = np.array(augment.cutout(jax.random.key(0), images, size=4)) == 0
    assert np.array_equal(holes[..., 0], holes[..., 1])
    rows, columns = holes[..., 0].any(2), holes[..., 0].any(1)
    rectangles = rows[:, :, None] & columns[:, None, :]
    np.testing.assert_array_equal(holes[..., 0], rectangles)
    # Centres 2 to 6 of 8 rows leave all 4 rows, 0 and 7 two, 1 and (none) three.
    heights = rows.sum(1)
    assert set(heights) == {2, 3, 4} and set(columns.sum(1)) == {2, 3, 4}
    whole = np.mean(heights == 4)
    assert abs(whole - 5 / 8) < 5 * np.sqrt(5 / 8 * 3 / 8 / 600)


@pytest.mark.long
def test_no_hole_changes_nothing():
    np.testing.assert_array_equal(augment.cutout(jax.random.key(0), IMAGES, size=0), IMAGES)


@pytest.mark.long
def test_frames_of_a_recording_are_mirrored_and_rolled_together():
    frames = jnp.arange(60 * 2 * 5 * 6 * 2, dtype=jnp.int32).reshape(60, 2, 5, 6, 2)
    result = np.array(jax.jit(augment.flip_and_roll, static_argnums=2)(
        jax.random.key(0), frames, 2
    ))  # fmt: skip
    found = []
    for recording, changed in zip(np.array(frames), result, strict=True):
        moves = [
            (rows, columns, mirror)
            for rows in range(-2, 3)
            for columns in range(-2, 3)
            for mirror in (False, True)
            if np.array_equal(
                np.roll(recording[:, :, ::-1] if mirror else recording, (rows, columns), (1, 2)),
                changed,
            )
        ]
        assert len(moves) == 1
        found += moves
    assert (
        {rows for rows, _, _ in found} == {columns for _, columns, _ in found} == set(range(-2, 3))
    )
    assert 11 < sum(mirror for _, _, mirror in found) < 49  # 30, five standard deviations of 3.9


@pytest.mark.long
def test_augmentations_are_found_by_name():
    key, images = jax.random.key(0), jnp.arange(2 * 8 * 8 * 3).reshape(2, 8, 8, 3)
    images = images.astype(jnp.uint8)
    np.testing.assert_array_equal(augment.augmentation("none")(key, images), images)
    cropped = augment.augmentation("crop-flip", pad=2)(key, images)
    np.testing.assert_array_equal(cropped, augment.crop_and_flip(key, images, 2))
    frames = images.reshape(2, 1, 8, 8, 3)
    rolled = augment.augmentation("events")(key, frames)
    np.testing.assert_array_equal(rolled, augment.flip_and_roll(key, frames))


@pytest.mark.long
def test_autoaugment_comes_after_the_crop_and_before_the_hole(monkeypatch):
    monkeypatch.setattr(augment, "augment_by_policy", lambda key, images: images + 5)
    images = jnp.full((6, 20, 20, 3), 94, jnp.uint8)
    result = np.array(augment.augmentation("autoaugment")(jax.random.key(1), images))
    assert set(result.ravel()) == {0, 5, 99}  # hole, border of the crop, image
    for hole in (result == 0).all(-1):
        np.testing.assert_array_equal(hole, hole.any(1)[:, None] & hole.any(0))
        assert hole.sum() >= 64  # at least a quarter of 16x16


def test_a_wrong_name_or_shape_is_told():
    with pytest.raises(UserError, match="'flip' is unknown; choose one of none, crop-flip, "):
        augment.augmentation("flip")
    for name, wanted in (("crop-flip", "[B, H, W, C]"), ("events", "[B, T, H, W, C]")):
        with pytest.raises(UserError) as caught:
            augment.augmentation(name)(jax.random.key(0), jnp.zeros((2, 3, 4)))
        assert f"shape {wanted} expected, (2, 3, 4) found" in str(caught.value)
    with pytest.raises(UserError, match="hole of -1 pixels"):
        augment.cutout(jax.random.key(0), IMAGES, -1)
    with pytest.raises(UserError, match="roll of -1 pixels"):
        augment.flip_and_roll(jax.random.key(0), IMAGES[:, None], -1)
