"""AutoAugment's policy for CIFAR-10: 25 pairs of image operations, one pair drawn for each sample.

The strength of an operation is a level 0 to 9, evenly spaced over its range (the paper's Table 6):

    shear x, y       0 to 0.3                  solarize    256 to 0
    translate x, y   0 to 150/331 of a side    posterize   8 to 4 bits
    rotate           0 to 30 degrees           enhancers   0 to 0.9

A shear, translation, rotation, or an enhancer (color, contrast, brightness, sharpness: factor
`1 +- level`) gets a random sign. What moves in from outside is grey, 128.

Where sources differ: the authors' released code divides levels by 10, not 9, takes the enhancers'
factor `0.1 + 1.8 level / 10` without a sign, posterizes to at most 4 bits and translates by at
most 10 pixels, with black from outside. torchvision has ours, but black from outside and solarize
from 255. The reimplementation that scripts for spiking networks commonly carry has ours, but
bicubic shears; here every move takes the nearest pixel.

Reference: E. D. Cubuk, B. Zoph, D. Mane, V. Vasudevan, Q. V. Le, "AutoAugment: learning
augmentation policies from data", 2018, https://arxiv.org/abs/1805.09501, Table 7.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsnn import draws
from jaxsnn.data import pixels
from jaxsnn.data.base import check_rank
from jaxsnn.errors import UserError

__all__ = ["augment_by_policy"]

# Operation, probability, level; twice. "-" where the operation has no strength.
POLICY = """
invert 0.1 -        contrast 0.2 6
rotate 0.7 2        translate_x 0.3 9
sharpness 0.8 1     sharpness 0.9 3
shear_y 0.5 8       translate_y 0.7 9
autocontrast 0.5 -  equalize 0.9 -
shear_y 0.2 7       posterize 0.3 7
color 0.4 3         brightness 0.6 7
sharpness 0.3 9     brightness 0.7 9
equalize 0.6 -      equalize 0.5 -
contrast 0.6 7      sharpness 0.6 5
color 0.7 7         translate_x 0.5 8
equalize 0.3 -      autocontrast 0.4 -
translate_y 0.4 3   sharpness 0.2 6
brightness 0.9 6    color 0.2 8
solarize 0.5 2      invert 0.0 -
equalize 0.2 -      autocontrast 0.6 -
equalize 0.2 -      equalize 0.6 -
color 0.9 9         equalize 0.6 -
autocontrast 0.8 -  solarize 0.2 8
brightness 0.1 3    color 0.7 0
solarize 0.4 5      autocontrast 0.9 -
translate_y 0.9 9   translate_y 0.7 9
autocontrast 0.9 -  solarize 0.8 3
equalize 0.8 -      invert 0.1 -
translate_y 0.7 9   autocontrast 0.9 -
"""

TABLES = (
    "nothing",
    "invert",
    "solarize",
    "posterize",
    "brightness",
    "contrast",
    "autocontrast",
    "equalize",
)
BLENDS = ("color", "sharpness")
MOVES = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
OPERATIONS = (*TABLES, *BLENDS, *MOVES)


class Step(NamedTuple):
    """One operation for each sample, or as numpy arrays a table of them."""

    operation: Array | np.ndarray  # int32 [B], position in OPERATIONS
    amount: (
        Array | np.ndarray
    )  # float32 [B]: factor, threshold or bits, in the operation's own unit
    matrix: (
        Array | np.ndarray
    )  # int32 [B, 6]: where a move takes its pixels from, `pixels.fixed_point`


def make_step(name: str, amount: float, height: int, width: int) -> Step:
    """Return an operation in its own unit, without the axis of samples.

    Args:
      name: one of `OPERATIONS`.
      amount: a shear as a slope, a translation as a share of the side (a positive one shows what
        is further right or down), degrees of rotation, the threshold of solarize, the bits of
        posterize, the factor of an enhancer; the other operations ignore it.
      height: rows of the images.
      width: columns of the images.

    Raises:
      UserError: for an unknown name.
    """
    if name not in OPERATIONS:
        raise UserError(f"operation {name!r} is unknown; choose one of {', '.join(OPERATIONS)}")
    maps = {
        "shear_x": (1, amount, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, amount, 1, 0),
        "translate_x": (1, 0, amount * width, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, amount * height),
        "rotate": pixels.rotation(amount, height, width),
    }
    matrix = pixels.fixed_point(np.array(maps.get(name, (1, 0, 0, 0, 1, 0))))
    operation = np.array(OPERATIONS.index(name), np.int32)
    return Step(operation, np.array(amount, np.float32), matrix)


def apply(images: Array, step: Step) -> Array:
    """Apply to every sample its own operation.

    One pass of each kind (see `pixels`), neutral for the samples that ask for another kind.

    Args:
      images: uint8 `[B, H, W, C]`, C 1 or 3.
      step: an operation for each sample.

    Returns:
      uint8 `[B, H, W, C]`.
    """

    images = jnp.asarray(images)
    operation, amount, matrix = (jnp.asarray(leaf) for leaf in step)
    tables = {
        "nothing": pixels.values(),
        "invert": 255 - pixels.values(),
        "solarize": pixels.solarize_table(amount),
        "posterize": pixels.posterize_table(jnp.clip(amount, 0, 8)),
        "brightness": pixels.brightness_table(amount),
        "contrast": pixels.contrast_table(images, amount),
        "autocontrast": pixels.autocontrast_table(images),
        "equalize": pixels.equalize_table(images),
    }
    is_color, is_sharpness = (
        (operation == OPERATIONS.index(name)).reshape(-1, 1, 1, 1) for name in BLENDS
    )
    plain = jnp.where(is_color, pixels.grey(images), pixels.smooth(images))
    factor = jnp.where(is_color | is_sharpness, amount.reshape(-1, 1, 1, 1), 1.0)
    blended = pixels.blend(plain, images, factor).astype(jnp.uint8)
    which = jnp.where(operation < len(TABLES), operation, 0)
    changed = pixels.look_up(blended, [tables[name] for name in TABLES], which)
    return pixels.move(changed, matrix)


def augment_by_policy(key: Array, images: Array) -> Array:
    """Draw one of the 25 pairs for every image, and do each half with its probability.

    Args:
      key: random key.
      images: uint8 `[B, H, W, C]`, C 1 or 3.

    Returns:
      uint8 `[B, H, W, C]`.

    Raises:
      UserError: if the images are not uint8 or have another shape.
    """
    check_rank("images of autoaugment", images, "[B, H, W, C]")
    if images.dtype != jnp.uint8:
        raise UserError(f"autoaugment takes uint8 images, {images.dtype} found")
    size, height, width, _ = images.shape
    probability, table = _policy(height, width)
    pair_key, done_key, sign_key = jax.random.split(key, 3)
    pair = draws.below(pair_key, (size,), len(probability))
    done = jax.random.uniform(done_key, (size, 2), jnp.float32) < jnp.asarray(probability)[pair]
    sign = jax.random.bernoulli(sign_key, shape=(size, 2)).astype(jnp.int32)
    for half in range(2):
        row = jnp.where(done[:, half], 1 + (2 * pair + half) * 2 + sign[:, half], 0)
        images = apply(images, Step(*(jnp.asarray(column)[row] for column in table)))
    return images


def _policy(height: int, width: int) -> tuple[np.ndarray, Step]:
    """Return the probabilities `[25, 2]` and a table of steps.

    Row 0 of the table does nothing, row `1 + 4 pair + 2 half + sign` one operation of the policy.
    """
    words = np.array(POLICY.split()).reshape(-1, 2, 3)
    steps = [make_step("nothing", 0, height, width)]
    for name, _, level in words.reshape(-1, 3):
        steps += [make_step(name, _amount(name, level, sign), height, width) for sign in (-1, 1)]
    table = Step(*(np.stack(column) for column in zip(*steps, strict=True)))
    return words[..., 1].astype(np.float32), table


def _amount(name: str, level: str, sign: int) -> float:
    """Turn a level into the operation's own unit."""
    if level == "-":
        return 0.0
    share = int(level) / 9
    if name == "solarize":
        return 256 - 256 * share
    if name == "posterize":
        return round(8 - 4 * share)
    largest = {"rotate": 30.0, "shear_x": 0.3, "shear_y": 0.3}
    largest |= {"translate_x": 150 / 331, "translate_y": 150 / 331}
    signed = sign * share * largest.get(name, 0.9)
    return signed if name in MOVES else 1 + signed
