"""Whitened first layers: decorrelated responses of unit variance, in a network of any name."""

import numpy as np
import pytest

from jaxsnn import encode, models
from jaxsnn.errors import UserError
from jaxsnn.models.whitening import whitened_start, whitening_filters


def smooth(shape, seed=0):
    """Return images of which neighbours and channels are alike."""
    noise = np.random.default_rng(seed).normal(size=shape)
    return (noise + np.roll(noise, 1, 1) + np.roll(noise, 1, 2) + noise[..., ::-1]).astype("f4")


def patches_of(images, size):
    """Return all patches `[P, k k C]`, one by one."""
    _, height, width, _ = images.shape
    return np.stack([
        image[row : row + size, column : column + size].ravel()
        for image in images
        for row in range(height - size + 1)
        for column in range(width - size + 1)
    ])  # fmt: skip


def test_responses_have_unit_variance_and_no_correlation():
    images, size, damping = smooth((40, 6, 6, 2)), 2, 1e-4
    filters = np.asarray(whitening_filters(images, size, damping=damping)).reshape(8, 8)
    responses = patches_of(images, size) @ filters
    np.testing.assert_allclose(responses.T @ responses / len(responses), np.eye(8), atol=2e-3)
    variances = 1 / np.square(filters).sum(0)  # of the directions, and the damping
    assert (np.diff(variances) < 0).all()


def test_damping_keeps_small_directions_small():
    images, damping = smooth((40, 6, 6, 1)), 0.5
    filters = np.asarray(whitening_filters(images, 2, damping=damping)).reshape(4, 4)
    patches = patches_of(images, 2)
    values = np.sort(np.linalg.eigvalsh(patches.T @ patches / len(patches)))[::-1]
    responses = patches @ filters
    found = np.square(responses).mean(0)
    np.testing.assert_allclose(found, values / (values + damping), rtol=1e-4)


def test_the_first_convolution_gets_the_filters_with_both_signs_whatever_its_name():
    images = smooth((20, 6, 6, 1))
    x = encode.direct(images, timesteps=2)
    filters = np.asarray(whitening_filters(images, 2))
    for channels, kept in ((4, 2), (5, 3), (8, 4), (10, 4)):
        net = models.build(f"{channels}C2V-3", (6, 6, 1), seed=0)
        kernel = np.asarray(whitened_start(net, x).params["conv1"]["kernel"])
        np.testing.assert_array_equal(kernel[..., :kept], filters[..., :kept])
        turned = min(channels, 2 * kept) - kept
        np.testing.assert_array_equal(kernel[..., kept : kept + turned], -filters[..., :turned])
        np.testing.assert_array_equal(kernel[..., 8:], net.params["conv1"]["kernel"][..., 8:])


def test_what_has_no_patches_is_refused():
    dense = models.build("4-3", (4,))
    with pytest.raises(UserError, match="enters one convolution, found 'dense1', Dense"):
        whitened_start(dense, encode.direct(np.ones((2, 4)), timesteps=1))
    with pytest.raises(UserError, match=r"damping must be in \(0, "):
        whitening_filters(np.ones((2, 4, 4, 1)), 2, damping=0.0)
