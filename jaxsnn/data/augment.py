"""Random crops, shifts, flips and holes, as pure functions of a key and a batch.

They run on the device, inside the compiled training step. Letters in shapes: `B` images, `T`
frames, `H` rows, `W` columns, `C` channels. The type of the images is kept. What comes in from
outside is zero, so augment before normalizing if the border shall be black.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array

from jaxsnn import draws
from jaxsnn.data import event_augment
from jaxsnn.data.autoaugment import augment_by_policy
from jaxsnn.data.base import check_rank
from jaxsnn.errors import UserError

__all__ = [
    "NAMES",
    "Name",
    "augmentation",
    "crop_and_flip",
    "cutout",
    "flip_and_roll",
    "mirror_in_turn",
]

Name = Literal[
    "none", "crop-flip", "alternate", "autoaugment", "events", "event-shift", "event-flip"
]
NAMES: tuple[str, ...] = get_args(Name)


def augmentation(name: str, *, pad: int = 4) -> Callable[[Array, Array], Array]:
    """Return the augmentation `(key, images) -> images` of that name.

    | name          | what it does                                            | takes        |
    |---------------|---------------------------------------------------------|--------------|
    | "none"        | nothing                                                 | anything     |
    | "crop-flip"   | `crop_and_flip`                                         | images       |
    | "alternate"   | `shift` by half the border, reflected; the engine        | images       |
    |               | mirrors each image in every second epoch, see            |              |
    |               | `mirror_in_turn`                                        |              |
    | "autoaugment" | `crop_and_flip`, AutoAugment for CIFAR-10, and `cutout` | uint8 images |
    | "events"      | `flip_and_roll`                                         | event frames |
    | "event-shift" | `event_augment.vary`: shift, lost events and frames,    | uint8 frames |
    |               | jitter of the time                                      | of any axes  |
    | "event-flip"  | the same, and every second recording mirrored           | uint8 frames |

    "autoaugment" and "events" are what QP-SNN trains CIFAR and CIFAR10-DVS with; Tiny-ImageNet
    takes "crop-flip" with `pad = 8`. "alternate" is what Jordan 2024 trains CIFAR-10 with for a few
    epochs. "event-shift" is for digits and spoken words, "event-flip" for
    gestures and objects whose mirror image is of the same class.

    Args:
        name: one of `NAMES`.
        pad: width of the border of `crop_and_flip` in pixels, at least 0; recordings are shifted by
            half of it.

    Raises:
        UserError: for an unknown name; when called, for images of another shape.

    References: Wei et al. 2025, https://arxiv.org/abs/2502.05905; Jordan 2024,
    https://arxiv.org/abs/2404.00498.
    """
    if name not in NAMES:
        raise UserError(f"augmentation {name!r} is unknown; choose one of {', '.join(NAMES)}")

    def crop_flip(key: Array, images: Array) -> Array:
        return crop_and_flip(key, images, pad)

    def all_of_cifar(key: Array, images: Array) -> Array:
        crop_key, policy_key, hole_key = jax.random.split(key, 3)
        images = augment_by_policy(policy_key, crop_flip(crop_key, images))
        return cutout(hole_key, images)

    functions: dict[str, Callable[[Array, Array], Array]] = {
        "none": lambda key, images: images,
        "crop-flip": crop_flip,
        "alternate": lambda key, images: shift(key, images, pad // 2, reflect=True),
        "autoaugment": all_of_cifar,
        "events": flip_and_roll,
        "event-shift": partial(event_augment.vary, pixels=pad // 2),
        "event-flip": partial(event_augment.vary, pixels=pad // 2, mirrored=True),
    }
    return functions[name]


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
        UserError: if `pad` is negative, or the images have another shape.
    """
    check_rank("images of crop_and_flip", images, "[B, H, W, C]")
    crop_key, flip_key = jax.random.split(key)
    if flip:
        is_flipped = jax.random.bernoulli(flip_key, shape=(len(images), 1, 1, 1))
        images = jnp.where(is_flipped, images[:, :, ::-1], images)
    return shift(crop_key, images, pad)


def mirror_in_turn(key: Array, images: Array, rows: Array, epoch: Array | int) -> Array:
    """Mirror a half of all samples in one epoch, and the other half in the next.

        image i is mirrored in epoch e if bit_i + e is odd

    The bits are drawn once. Two epochs show every image both ways; with a draw in each epoch a
    half of them come twice the same way round (Jordan 2024, section 3.6, who draws the first epoch
    and goes by turns from there).

    Args:
        key: random key, the same in all epochs.
        images: `[B, H, W, C]`, any type.
        rows: which samples of the set these are, `[B]`.
        epoch: number of the epoch, from 0, may be traced.

    Returns:
        Images of the same shape and type.

    Raises:
        UserError: if the images have another shape.

    References: Jordan 2024, https://arxiv.org/abs/2404.00498.
    """
    check_rank("images of mirror_in_turn", images, "[B, H, W, C]")

    def draw(row: Array) -> Array:
        return jax.random.bits(jax.random.fold_in(key, row)).astype(jnp.int32)

    turn = jax.vmap(draw)(rows) + epoch
    is_mirrored = (turn % 2 == 1).reshape(-1, 1, 1, 1)
    return jnp.where(is_mirrored, images[:, :, ::-1], images)


def shift(key: Array, images: Array, pixels: int, reflect: bool = False) -> Array:
    """Move every image by up to `pixels` rows and columns, each way, uniformly at random.

    Args:
        key: random key.
        images: `[B, H, W, C]`, any type.
        pixels: largest shift, at least 0.
        reflect: whether what is moved in is the image mirrored at its border.

    Returns:
        Images of the same shape and type; what is moved in is zero, unless reflected.

    Raises:
        UserError: if `pixels` is negative, or the images have another shape.
    """
    check_rank("images of shift", images, "[B, H, W, C]")
    if pixels < 0:
        raise UserError(f"a shift of {pixels} pixels was asked for, but must be at least 0")
    if pixels == 0:
        return images
    border = ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0))
    padded = jnp.pad(images, border, mode="reflect" if reflect else "constant")
    corners = draws.below(key, (len(images), 2), 2 * pixels + 1)

    def crop(image: Array, corner: Array) -> Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), images.shape[1:])

    return jax.vmap(crop)(padded, corners)


def cutout(key: Array, images: Array, size: int = 16) -> Array:
    """Blacken one square in every image, its centre uniformly at random on the image.

    The square covers `size` rows and columns, `[centre - size // 2, centre + size // 2)`; what of
    it lies outside is lost, so that the hole is often smaller.

    Args:
        key: random key.
        images: `[B, H, W, C]`, any type, not normalized yet: the hole is 0.
        size: side of the square in pixels, at least 0; an odd one counts as one less.

    Returns:
        Images of the same shape and type.

    Raises:
        UserError: if `size` is negative, or the images have another shape.

    References: DeVries and Taylor 2017, https://arxiv.org/abs/1708.04552.
    """
    check_rank("images of cutout", images, "[B, H, W, C]")
    if size < 0:
        raise UserError(f"a hole of {size} pixels was asked for, but must be at least 0")
    num, height, width, _ = images.shape
    row_key, column_key = jax.random.split(key)

    def covered(key: Array, length: int) -> Array:
        centre = draws.below(key, (num, 1), length)
        place = jnp.arange(length).reshape(1, length) - centre
        return (place >= -(size // 2)) & (place < size // 2)

    rows = covered(row_key, height).reshape(num, height, 1, 1)
    columns = covered(column_key, width).reshape(num, 1, width, 1)
    return jnp.where(rows & columns, jnp.zeros((), images.dtype), images)


def flip_and_roll(key: Array, frames: Array, pixels: int = 5) -> Array:
    """Mirror every second recording and roll each by up to `pixels` rows and columns.

    One draw holds for all frames of a recording. What is rolled out comes in on the other side.

    Args:
        key: random key.
        frames: `[B, T, H, W, C]`, any type.
        pixels: largest roll, each way, at least 0.

    Returns:
        Frames of the same shape and type.

    Raises:
        UserError: if `pixels` is negative, or the frames have another shape.

    References: Li et al. 2022, "Neuromorphic data augmentation for training spiking neural
    networks", https://arxiv.org/abs/2203.06145, of whose operations these are the two that QP-SNN
    (Wei et al. 2025) names.
    """
    check_rank("frames of flip_and_roll", frames, "[B, T, H, W, C]")
    if pixels < 0:
        raise UserError(f"a roll of {pixels} pixels was asked for, but must be at least 0")
    flip_key, roll_key = jax.random.split(key)
    is_flipped = jax.random.bernoulli(flip_key, shape=(len(frames), 1, 1, 1, 1))
    frames = jnp.where(is_flipped, frames[:, :, :, ::-1], frames)
    steps = draws.below(roll_key, (len(frames), 2), 2 * pixels + 1) - pixels
    return jax.vmap(lambda frame, step: jnp.roll(frame, step, (1, 2)))(frames, steps)
