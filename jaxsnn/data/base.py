"""Splits and data sets, and the one rule by which a part is held out.

Letters in shapes: `N` images, `H` rows, `W` columns, `C` channels, `U` units. Images stay `uint8`
in memory and become floats on the device, inside the compiled step. A recording of an event camera
is `T` such images, its frames of counted events: `[N, T, H, W, C]` where others are `[N, H, W, C]`.
One of an artificial cochlea is `T` counts for each unit, `[N, T, U]`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jaxsnn import draws
from jaxsnn.errors import UserError
from jaxsnn.inputs import Inputs

__all__ = ["Dataset", "Split"]


class Split(NamedTuple):
    """Images and their labels, in the same order.

    >>> images, labels = Split(np.zeros((2, 8, 8, 1), np.uint8), np.arange(2, dtype=np.int32))
    >>> images.shape, labels.tolist()
    ((2, 8, 8, 1), [0, 1])
    """

    images: np.ndarray  # uint8 [N, H, W, C] or, of events, [N, T, H, W, C] or [N, T, U], 0 to 255
    labels: np.ndarray  # int32 [N], 0 to num_classes - 1


@dataclass(frozen=True)
class Dataset:
    """The three splits of a data set, and what is needed to normalise it.

    `validation` is always a part of the original training images, never of the test images; it
    may be empty.

    >>> split = Split(np.zeros((2, 8, 8, 1), np.uint8), np.arange(2, dtype=np.int32))
    >>> own = Dataset("own", split, split, split, num_classes=2, mean=(0.0,), std=(1.0,))
    >>> own.shape, own.inputs(timesteps=4).encoding
    ((8, 8, 1), 'direct')
    """

    name: str
    train: Split
    validation: Split
    test: Split
    num_classes: int
    mean: tuple[float, ...]  # of the training images, one a channel, pixels scaled to [0, 1]
    std: tuple[float, ...]  # likewise; 1 where a channel is constant
    notes: str = ""  # what differs from the published set: "test: 1,000 of 10,000 images"

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape `(H, W, C)` of one image, or `(H, W, C)` or `(U,)` of one frame."""
        return self.train.images.shape[1 if self.timesteps is None else 2 :]

    @property
    def timesteps(self) -> int | None:
        """Return the number of frames T of an event set; None for images, which have no time."""
        images = self.train.images
        return images.shape[1] if images.ndim in (3, 5) else None

    def inputs(
        self,
        timesteps: int | None = None,
        encoding: str | None = None,
        *,
        scale: Literal["none", "channels", "half"] | None = None,
    ) -> Inputs:
        """Return how the samples become the input of a network.

        Args:
          timesteps: T; of recordings it is their number of frames, and may be left out.
          encoding: "direct" (the default of images), "bernoulli", "poisson", or "events" (of
            recordings, the only one).
          scale: "none" for values on [0, 1]; "channels" for mean 0 and deviation 1 of each channel
            (the default of colours in direct coding); "half" for values on [-1, 1].

        Raises:
          UserError: if the number of steps is missing or not that of the frames, or the encoding
            does not suit the samples.

        Example:
          >>> from jaxsnn import data
          >>> data.load("digits").inputs(timesteps=4)
          Inputs(shape=(8, 8, 1), timesteps=4, encoding='direct', mean=None, std=None)
        """
        frames = self.timesteps
        if frames is not None:
            if timesteps not in (None, frames) or encoding not in (None, "events") or scale:
                raise UserError(
                    f"{self.name} has recordings of {frames} frames: its inputs are events with "
                    f"timesteps={frames}, found timesteps={timesteps}, encoding={encoding!r}"
                )
            return Inputs(self.shape, frames, "events")
        if timesteps is None:
            raise UserError(f"inputs of {self.name} need timesteps=T: images have no time")
        encoding = encoding or "direct"
        channels = self.shape[-1]
        if scale is None:
            scale = "channels" if encoding == "direct" and channels > 1 else "none"
        if scale == "half":
            half = (0.5,) * channels
            return Inputs(self.shape, timesteps, encoding, half, half)
        if scale == "channels":
            return Inputs(self.shape, timesteps, encoding, self.mean, self.std)
        if scale != "none":
            raise UserError(f"scale {scale!r} is unknown; choose none, channels or half")
        return Inputs(self.shape, timesteps, encoding)


def shuffled(num: int, seed: int) -> np.ndarray:
    """Return a permutation of `0 .. num - 1` that depends on nothing but `num` and `seed`."""
    key = jax.random.key(seed, impl="threefry2x32")
    return np.argsort(draws.bits(key, num), kind="stable")


def hold_out(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose which samples to keep and which to hold out, in proportion to the classes.

    The samples are shuffled, sorted by class (ties stay shuffled), and every `1 / fraction`-th of
    them is held out, so that the number held out is exactly `round(fraction * N)` (at least one if
    `fraction > 0`) and every class gives its share, up to one sample.

    Args:
        labels: class of every sample, `[N]`.
        fraction: share to hold out, in [0, 1).
        seed: the same seed gives the same choice.

    Returns:
        `(kept, held)`: disjoint index arrays in shuffled order, together `0 .. N - 1`.

    Raises:
        UserError: if no sample would be kept.
    """
    order = shuffled(len(labels), seed)
    count = max(1, round(fraction * len(labels))) if fraction > 0 else 0
    if count >= len(labels):
        raise UserError(
            f"validation = {fraction} of {len(labels)} images leaves none to train on; "
            "take a smaller fraction or more images"
        )
    by_class = np.argsort(labels[order], kind="stable")
    chosen = ((np.arange(count) + 0.5) * (len(labels) / max(count, 1))).astype(np.int64)
    is_held = np.zeros(len(labels), bool)
    is_held[by_class[chosen]] = True
    return order[~is_held], order[is_held]


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute mean and standard deviation of every channel on the [0, 1] scale.

    Both come from exact integer histograms. A constant channel has the standard deviation 1, so
    that dividing by it is always safe.

    Args:
        images: `uint8 [N, ..., H, W, C]`, N at least 1; frames of events count like images. Units,
            `[N, T, U]`, are one channel.
    """
    means, stds = [], []
    values = np.arange(256) / 255
    images = images[..., None] if images.ndim == 3 else images
    # bincount widens its input to 8 bytes a pixel: 128 MiB at a time.
    step = max(1, (1 << 24) // max(images[0, ..., 0].size, 1))
    for channel in range(images.shape[-1]):
        counts = np.zeros(256, np.int64)
        for start in range(0, len(images), step):
            block = images[start : start + step, ..., channel]
            counts += np.bincount(block.ravel(), minlength=256)
        share = counts / counts.sum()
        mean = float(share @ values)
        std = float(np.sqrt(share @ (values - mean) ** 2))
        means.append(mean)
        stds.append(std if np.count_nonzero(counts) > 1 else 1.0)
    return tuple(means), tuple(stds)


def check_rank(what: str, array: Any, shape: str) -> None:
    """Check the number of dimensions of an array.

    Args:
        what: what the array is called, for the message.
        array: anything with a shape.
        shape: what it should be, as in "[B, H, W, C]".

    Raises:
        UserError: if it is another number.
    """
    if array.ndim != len(shape.split(",")):
        raise UserError(f"{what}: shape {shape} expected, {array.shape} found")


def check_split(what: str, split: Split, num_classes: int) -> Split:
    """Check that a split has images, as many labels, and labels in range; return it.

    Raises:
        UserError: naming `what` was found and what was expected.
    """
    images, labels = split
    if len(images) == 0:
        raise UserError(f"{what}: holds no images")
    if len(images) != len(labels):
        raise UserError(f"{what}: {len(images):,} images but {len(labels):,} labels")
    check_labels(what, labels, num_classes)
    return split


def check_labels(what: str, labels: np.ndarray, num_classes: int) -> None:
    """Check that there are labels, and that they are in range.

    Raises:
        UserError: naming `what` was found and what was expected.
    """
    if len(labels) == 0:
        raise UserError(f"{what}: holds no images")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise UserError(f"{what}: labels {low} to {high} found, 0 to {num_classes - 1} expected")


def not_installed(name: str, error: ImportError, how_to_get: str, install: str) -> UserError:
    """Make the error for a package that reading a set needs and that is not there."""
    return UserError(
        f"{name}: {error.name} is not installed; either {how_to_get} and give their folder as "
        f"data directory (option, or JAXSNN_DATA), or {install}"
    )


def folders_of(name: str, root: Path, folders: Sequence[str], known: Iterable[str]) -> list[Path]:
    """Return where the files of a set may lie: in its folders, or in `root` itself.

    Sets share file names, so a `root` that is called like another set is not searched.
    """
    found = [root / folder for folder in folders]
    return found if root.name != name and root.name in known else [*found, root]
