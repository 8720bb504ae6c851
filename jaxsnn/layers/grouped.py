"""Grouped convolution: `g` groups of channels, each convolved by itself; depthwise if I = g.

XLA's grouped convolution has no fast form on a CPU, and its gradients fall off a cliff in a loop.
There it is written as one product for each place of the kernel, `[N, H', W', g, I/g]` with
`[g, I/g, O/g]`, which differentiates and batches as products do; of a depthwise convolution these
are multiplications of arrays, which XLA merges. Depthwise over 64 channels of 64 images of 16 x 16,
3 x 3, CPU time on two cores: forward 4 ms for XLA's 38; two updates by the gradients of two layers
in a `lax.scan` 0.9 s for 15. Other platforms take JAX's form.

Layout: images `[N, H, W, I]`, kernels `[kh, kw, I/g, O]`; output `o` belongs to the group
`o // (O/g)`, as in PyTorch and in NIR.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxsnn.arrays import at_least_float32, straight_through

__all__ = ["convolve_groups", "ordinary"]

LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolve_groups(
    images: Array,
    kernel: Array,
    groups: int,
    stride: int,
    borders: tuple[tuple[int, int], ...],
    dtype: jax.typing.DTypeLike,
) -> Array:
    """Return the convolution of images with a kernel of several groups.

    Args:
      images: `[N, H, W, I]`.
      kernel: `[kh, kw, I/g, O]`; rounded to the numbers of the images, its gradient is not.
      groups: g, which divides I and O.
      stride: step in both directions.
      borders: zeros before and behind, of rows and of columns.
      dtype: of the result; sums are float32 or wider.

    Returns:
      `[N, H', W', O]`.

    >>> x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 1, 2))
    >>> convolve_groups(x, kernel, 2, 1, ((0, 0), (0, 0)), jnp.float32)[0, 0, 0].tolist()
    [9.0, 9.0]
    """
    if kernel.dtype != images.dtype:
        rounded = kernel.astype(images.dtype).astype(kernel.dtype)
        kernel = straight_through(rounded, kernel)
    images, kernel = at_least_float32(images), at_least_float32(kernel)
    if jax.default_backend() != "cpu":
        found = lax.conv_general_dilated(
            images, kernel, (stride, stride), borders,
            dimension_numbers=LAYOUT, feature_group_count=groups,
        )  # fmt: skip
        return found.astype(dtype)
    return _by_places(images, kernel, groups, stride, borders).astype(dtype)


def _by_places(
    images: Array, kernel: Array, groups: int, stride: int, borders: tuple[tuple[int, int], ...]
) -> Array:
    """Sum over the places of the kernel what each of them makes of the images behind it."""
    rows, columns, each, outputs = kernel.shape
    images = jnp.pad(images, ((0, 0), *borders, (0, 0)))
    height = (images.shape[1] - rows) // stride + 1
    width = (images.shape[2] - columns) // stride + 1
    total: Array | None = None
    for i in range(rows):
        for j in range(columns):
            here = images[:, i : i + height * stride : stride, j : j + width * stride : stride]
            if each == 1 and outputs == groups:
                part = here * kernel[i, j].reshape(1, 1, 1, -1)
            else:
                cut = here.reshape(*here.shape[:3], groups, each)
                weights = kernel[i, j].reshape(each, groups, outputs // groups)
                part = jnp.einsum("nhwgi,igo->nhwgo", cut, weights)
                part = part.reshape(*here.shape[:3], outputs)
            total = part if total is None else total + part
    assert total is not None  # a kernel has a place
    return total


def ordinary(kernel: np.ndarray, groups: int) -> np.ndarray:
    """Return the kernel of the ordinary convolution that does the same, zeros between groups.

    >>> ordinary(np.ones((1, 1, 1, 2)), 2)[0, 0].tolist()
    [[1.0, 0.0], [0.0, 1.0]]

    Args:
      kernel: `[..., I/g, O]`.
      groups: g.

    Returns:
      `[..., I, O]`.
    """
    if groups == 1:
        return kernel
    each, outputs = kernel.shape[-2:]
    whole = np.zeros((*kernel.shape[:-2], groups, each, outputs), kernel.dtype)
    for group in range(groups):
        mine = slice(group * outputs // groups, (group + 1) * outputs // groups)
        whole[..., group, :, mine] = kernel[..., mine]
    return whole.reshape(*kernel.shape[:-2], groups * each, outputs)
