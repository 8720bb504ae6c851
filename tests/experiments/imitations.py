"""Imitations of the data sets: their shapes, classes and sizes, values spread like the real ones.

They are made on the spot, so that every preset can be tried where no files are. All samples of a
split are views of one; `samples` draws a few that differ.
"""

import numpy as np

from jaxsnn import data

# Name -> shape of an image or a frame, classes, training and test samples.
SETS = {
    "digits": ((8, 8, 1), 10, 1438, 359),
    **dict.fromkeys(("mnist", "fashion_mnist", "kmnist"), ((28, 28, 1), 10, 60_000, 10_000)),
    "emnist-balanced": ((28, 28, 1), 47, 112_800, 18_800),
    "emnist-digits": ((28, 28, 1), 10, 240_000, 40_000),
    "emnist-letters": ((28, 28, 1), 26, 124_800, 20_800),
    "cifar10": ((32, 32, 3), 10, 50_000, 10_000),
    "cifar100": ((32, 32, 3), 100, 50_000, 10_000),
    "tiny_imagenet": ((64, 64, 3), 200, 100_000, 10_000),
    "nmnist": ((34, 34, 2), 10, 60_000, 10_000),
    "dvs_cifar10": ((48, 48, 2), 10, 9_000, 1_000),
    "dvs_gesture": ((64, 64, 2), 11, 1_176, 288),
    "shd": ((700,), 20, 8_156, 2_264),
    "ssc": ((700,), 35, 75_466, 20_382),
    "own": ((32, 40, 3), 5, 30_000, 500),  # of anybody
}
# Share of a grey image that is ink: the means of the published sets are 0.87 of it.
INK = {"digits": 0.35, "mnist": 0.15, "fashion_mnist": 0.33, "kmnist": 0.22}
# Events of a recording, shared among its frames: mean counts of the published sets, rounded.
EVENTS = {
    "nmnist": 4_000,
    "dvs_cifar10": 200_000,
    "dvs_gesture": 300_000,
    "shd": 8_000,
    "ssc": 8_000,
}


def samples(name, number, timesteps=None, seed=0):
    """Return so many samples, uint8 `[N, H, W, C]` or `[N, T, H, W, C]`, that look like a set's."""
    draw, shape = np.random.default_rng(seed), SETS[name][0]
    if name in EVENTS:
        rates = np.maximum(_smooth(draw, (number, *shape)), 0.0)
        rates *= EVENTS[name] / (rates.mean() * rates[0].size * timesteps)
        return draw.poisson(rates[:, None].repeat(timesteps, 1)).astype(np.uint8)
    smooth = _smooth(draw, (number, *shape))
    if shape[-1] == 3:
        values = 0.47 + 0.25 * (0.9 * smooth + 0.4 * draw.normal(size=smooth.shape))
    else:
        edge = np.quantile(smooth, 1 - INK.get(name, 0.17))
        values = 0.87 * (smooth > edge) + 0.1 * np.abs(draw.normal(size=smooth.shape)) * (
            smooth > edge - 0.2
        )
    return np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)


def _smooth(draw, shape):
    """Return normal numbers of which neighbours are alike; the last axis is channels or units."""
    axes = [axis for axis in range(1, len(shape)) if len(shape) == 2 or axis < len(shape) - 1]
    block = 2 if shape[1] < 16 else 4
    sizes = [-(-n // block) if axis in axes else n for axis, n in enumerate(shape)]
    coarse = draw.normal(size=sizes)
    for axis in axes:
        coarse = coarse.repeat(block, axis).take(range(shape[axis]), axis)
    return coarse


def load(name, data_dir=None, *, validation=0.1, seed=0, limit=None, timesteps=None, **options):
    """Return what `data.load` would, as an imitation."""
    del data_dir, seed, options
    _, classes, num_train, num_test = SETS[name]
    size = num_train if limit is None else min(limit, num_train)
    held = round(validation * size)
    one = samples(name, 1, timesteps)

    def split(number):
        images = np.broadcast_to(one, (number, *one.shape[1:]))
        return data.Split(images, (np.arange(number) % classes).astype(np.int32))

    channels = one.shape[-1]
    statistics = ((0.47,) * channels, (0.25,) * channels)
    return data.Dataset(
        name, split(size - held), split(held), split(num_test), classes, *statistics
    )
