"""Random crops, shifts and flips, as pure functions of a key and a batch.

They run on the device, inside the compiled training step. Letters in shapes: `B` images, `H` rows,
`W` columns, `C` channels. The type of the images is kept. What comes in from outside is zero, so
augment before normalizing if the border shall be black.
"""

import jax
import jax.numpy as jnp
from jax import Array

from jaxsnn.errors import UserError


def crop_and_flip(key: Array, images: Array, pad: int = 4, flip: bool = True) -> Array:
    """Shift every image at random and mirror every second one, as is usual for CIFAR.

    Each image gets a border of `pad` zeros and a crop of the old size at a uniformly random place;
    with `flip`, left and right are swapped with probability 1/2.

    Args:
        key: random key.
        images: `[B, H, W, C]`, any type.
        pad: width of the border in pixels, at least 0.
        flip: mirror images too.

    Returns:
        Images of the same shape and type.

    Raises:
        UserError: if `pad` is negative.
    """
    crop_key, flip_key = jax.random.split(key)
    if flip:
        is_flipped = jax.random.bernoulli(flip_key, shape=(len(images), 1, 1, 1))
        images = jnp.where(is_flipped, images[:, :, ::-1], images)
    return shift(crop_key, images, pad)


def shift(key: Array, images: Array, pixels: int) -> Array:
    """Move every image by up to `pixels` rows and columns, each way, uniformly at random.

    Args:
        key: random key.
        images: `[B, H, W, C]`, any type.
        pixels: largest shift, at least 0.

    Returns:
        Images of the same shape and type; what is moved in is zero.

    Raises:
        UserError: if `pixels` is negative.
    """
    if pixels < 0:
        raise UserError(f"a shift of {pixels} pixels was asked for, but must be at least 0")
    if pixels == 0:
        return images
    border = ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0))
    padded = jnp.pad(images, border)
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * pixels + 1)

    def crop(image: Array, corner: Array) -> Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), images.shape[1:])

    return jax.vmap(crop)(padded, corners)
