"""Image operations are Pillow's; AutoAugment draws from the published policy and nothing else."""

from collections import Counter

import jax
import numpy as np
import pytest

from jaxsnn.data import autoaugment as policy
from jaxsnn.data import pixels
from jaxsnn.errors import UserError

PIL = pytest.importorskip("PIL")

HEIGHT, WIDTH = 24, 32
APPLY = jax.jit(policy.apply)
AUTOAUGMENT = jax.jit(policy.augment_by_policy)


def some_images(num, height=HEIGHT, width=WIDTH):
    """Make images of soft waves and noise, of many brightnesses; the first has a flat channel."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    images = np.empty((num, height, width, 3), np.uint8)
    for image in images:
        low, high = np.sort(rng.uniform(0, 255, (2, 3)), axis=0)
        phase = rng.uniform(0, 6, 3)
        wave = 0.5 + 0.3 * np.sin(rows[..., None] / 3 + phase) * np.cos(columns[..., None] / 4)
        noise = rng.uniform(0, 0.2, (height, width, 3))
        image[:] = low + (high - low) * (wave + noise)
    images[0, :, :, 1] = 77
    return images


def pillow(name, amount, image):
    """Apply an operation to one image with Pillow."""
    from PIL import Image, ImageEnhance, ImageOps

    picture = Image.fromarray(image)
    height, width = image.shape[:2]
    grey = (128, 128, 128)

    def affine(*matrix):
        return picture.transform((width, height), Image.Transform.AFFINE, matrix, fillcolor=grey)

    functions = {
        "nothing": lambda: picture,
        "invert": lambda: ImageOps.invert(picture),
        "solarize": lambda: ImageOps.solarize(picture, amount),
        "posterize": lambda: ImageOps.posterize(picture, int(amount)),
        "autocontrast": lambda: ImageOps.autocontrast(picture),
        "equalize": lambda: ImageOps.equalize(picture),
        "brightness": lambda: ImageEnhance.Brightness(picture).enhance(amount),
        "contrast": lambda: ImageEnhance.Contrast(picture).enhance(amount),
        "color": lambda: ImageEnhance.Color(picture).enhance(amount),
        "sharpness": lambda: ImageEnhance.Sharpness(picture).enhance(amount),
        "shear_x": lambda: affine(1, amount, 0, 0, 1, 0),
        "shear_y": lambda: affine(1, 0, 0, amount, 1, 0),
        "translate_x": lambda: affine(1, 0, amount * width, 0, 1, 0),
        "translate_y": lambda: affine(1, 0, 0, 0, 1, amount * height),
        "rotate": lambda: picture.rotate(amount, fillcolor=grey),
    }
    return np.asarray(functions[name]()).astype(int)


CASES = [
    ("nothing", 0),
    ("invert", 0),
    *(("solarize", threshold) for threshold in (0, 85.3, 256)),
    *(("posterize", bits) for bits in (4, 5, 8)),
    ("autocontrast", 0),
    ("equalize", 0),
    *((name, factor) for name in ("brightness", "color", "sharpness") for factor in (0.1, 1, 1.9)),
    *(("contrast", factor) for factor in (0.4, 1, 1.6)),
    *((name, slope) for name in ("shear_x", "shear_y") for slope in (-0.3, 0.17)),
    *((name, share) for name in ("translate_x", "translate_y") for share in (-0.2, 0.4532)),
    *(("rotate", degrees) for degrees in (-30, 6.67, 30)),
]


@pytest.mark.long
def test_each_operation_is_pillows():
    images = some_images(len(CASES))
    for name, amount in CASES:
        step = policy.make_step(name, amount, HEIGHT, WIDTH)
        steps = policy.Step(*(np.stack([leaf] * len(images)) for leaf in step))
        ours = np.asarray(APPLY(images, steps)).astype(int)
        theirs = np.stack([pillow(name, amount, image) for image in images])
        # Pillow multiplies by 255 / (high - low) in floats, and blends in C's.
        allowed = 1 if name in ("autocontrast", "contrast") else 0
        assert np.abs(ours - theirs).max() <= allowed, (name, amount)
        assert name == "nothing" or amount in (1, 8, 256) or not np.array_equal(ours, images)


def test_every_sample_gets_its_own_operation():
    images = some_images(len(CASES))
    steps = [policy.make_step(*case, HEIGHT, WIDTH) for case in CASES]
    ours = np.asarray(APPLY(images, policy.Step(*map(np.stack, zip(*steps, strict=True)))))
    for (name, amount), image, result in zip(CASES, images, ours, strict=True):
        difference = np.abs(result - pillow(name, amount, image)).max()
        assert difference <= (name in ("autocontrast", "contrast")), (name, amount)


def test_one_channel_is_its_own_grey():
    images = some_images(2)[..., :1]
    np.testing.assert_array_equal(pixels.grey(images), images)


# Level -> amount, spelled out by hand for every operation of the policy that has levels.
AMOUNTS = {
    "rotate": {2: [-60 / 9, 60 / 9]},
    "translate_x": {9: [-150 / 331, 150 / 331]},
    "shear_y": {8: [-2.4 / 9, 2.4 / 9]},
    "posterize": {7: [5, 5]},
    "solarize": {2: [256 - 512 / 9] * 2, 8: [256 / 9] * 2},
    "contrast": {6: [0.4, 1.6]},
    "color": {0: [1, 1], 9: [0.1, 1.9]},
}


@pytest.mark.parametrize("name", AMOUNTS)
def test_levels_are_spaced_over_the_range(name):
    for level, amounts in AMOUNTS[name].items():
        found = [policy._amount(name, str(level), sign) for sign in (-1, 1)]
        np.testing.assert_allclose(found, amounts, rtol=1e-12)


def pairs():
    """Return the 25 pairs of (name, probability, level)."""
    words = np.array(policy.POLICY.split()).reshape(25, 2, 3)
    return [[(name, float(share), level) for name, share, level in pair] for pair in words]


def test_the_table_adds_up_to_the_published_one():
    rows = [half for pair in pairs() for half in pair]
    counts = Counter(name for name, _, _ in rows)
    assert counts == {
        "equalize": 9, "autocontrast": 7, "brightness": 4, "color": 5, "sharpness": 5,
        "translate_y": 5, "solarize": 4, "invert": 3, "contrast": 2, "translate_x": 2,
        "shear_y": 2, "posterize": 1, "rotate": 1,
    }  # fmt: skip
    assert sum(share for _, share, _ in rows) == pytest.approx(26.5)
    assert sum(int(level) for _, _, level in rows if level != "-") == 187


def outcomes(image):
    """Return everything that the policy can make of an image, with the pair that makes it."""
    for number, pair in enumerate(pairs()):
        options = []
        for name, share, level in pair:
            done = [(name, policy._amount(name, level, sign)) for sign in (-1, 1)]
            options.append([("nothing", 0), *(done if share else [])])
        for first in options[0]:
            half = pillow(*first, image).astype(np.uint8)
            for second in options[1]:
                yield number, pillow(*second, half)


@pytest.mark.long
def test_every_result_is_one_that_the_policy_can_make():
    images = some_images(40)
    results = np.asarray(AUTOAUGMENT(jax.random.key(3), images)).astype(int)
    found = set()
    for image, result in zip(images, results, strict=True):
        # A grey level that differs after the first half may differ by more after the second.
        near = [
            number
            for number, made in outcomes(image)
            if np.mean(np.abs(made - result) > 1) < 0.02 or np.array_equal(made, result)
        ]
        assert near
        found.update(near if len(set(near)) == 1 else [])
    assert len(found) > 8  # which of 25 pairs 40 draws show beyond doubt


@pytest.mark.long
def test_as_many_images_stay_unchanged_as_the_probabilities_say():
    images = np.random.default_rng(0).integers(40, 200, (40, HEIGHT, WIDTH, 3), dtype=np.uint8)
    keys = jax.random.split(jax.random.key(0), 75)
    results = [np.asarray(AUTOAUGMENT(key, images)) for key in keys]
    unchanged = np.mean([(result == images).all((1, 2, 3)) for result in results])
    # Color at level 0 changes nothing, done or not.
    kept = [
        np.prod([1 - share for name, share, level in pair if (name, level) != ("color", "0")])
        for pair in pairs()
    ]
    assert abs(unchanged - np.mean(kept)) < 5 * np.sqrt(np.mean(kept) / 3000)


def test_wrong_images_and_operations_are_named():
    with pytest.raises(UserError, match=r"shape \[B, H, W, C\] expected, \(24, 32, 3\) found"):
        policy.augment_by_policy(jax.random.key(0), some_images(1)[0])
    with pytest.raises(UserError, match="uint8 images, float32 found"):
        policy.augment_by_policy(jax.random.key(0), some_images(1).astype(np.float32))
    with pytest.raises(UserError, match="1 or 3 channels expected, 2 found"):
        jax.eval_shape(policy.augment_by_policy, jax.random.key(0), some_images(1)[..., :2])
    with pytest.raises(UserError, match="'twist' is unknown; choose one of nothing, invert"):
        policy.make_step("twist", 0, 4, 4)
