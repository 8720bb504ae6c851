"""A first layer that nobody trains: filters that whiten the patches of the images.

Neighbouring pixels are alike, so the patches of natural images have few large and many small
directions, and descent is as slow as they differ. With the covariance of the patches `p`
(`k x k` pixels, all channels) and its eigenvectors,

    C = mean p p^T = V diag(lambda) V^T        F = V diag(lambda + damping)^(-1/2)

the responses `F^T p` have variances of 1 (less where `lambda` is as small as the damping) and no
correlation. A neuron fires on one side of its threshold only, so each filter comes with both signs.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsnn import layers, tree
from jaxsnn.arrays import check_range, check_whole
from jaxsnn.encode import Signal
from jaxsnn.errors import UserError
from jaxsnn.network import Network

__all__ = ["whitened_layer", "whitened_start", "whitening_filters"]

DAMPING = 5e-2  # of inputs of variance 1; Jordan 2024 has 5e-4 and trains in half precision
PATCHES = 1 << 19  # at most, of which the covariance is taken


def whitening_filters(images: Array | np.ndarray, size: int, *, damping: float = DAMPING) -> Array:
    """Return the filters that whiten patches of images, `[k, k, C, k k C]`.

    They are ordered by the variance of their direction, largest first; each is unique up to its
    sign.

    >>> noise = np.random.default_rng(0).normal(size=(50, 8, 8, 1))
    >>> smooth = noise[:, 1:] + noise[:, :-1]
    >>> filters = np.asarray(whitening_filters(smooth, 2)).reshape(4, 4)
    >>> patches = np.lib.stride_tricks.sliding_window_view(smooth[..., 0], (2, 2), (1, 2))
    >>> bool(np.abs(np.cov(patches.reshape(-1, 4) @ filters, rowvar=False) - np.eye(4)).max() < 0.2)
    True

    Args:
      images: as the network gets them, `[N, H, W, C]`.
      size: of a patch, k.
      damping: added to the variance of each direction, > 0: what is noise stays small.

    Raises:
      UserError: if a number is out of range, or the images are smaller than a patch.

    References: Jordan 2024, https://arxiv.org/abs/2404.00498, section 3.2, after Page 2019.
    """
    check_range("damping", damping, 0, float("inf"), open_low=True, open_high=True)
    values = np.asarray(images, np.float32)
    check_whole("size of a patch", size, 1, min(values.shape[1:3]))
    cut = np.lib.stride_tricks.sliding_window_view(values, (size, size), (1, 2))
    each = max(1, -(-len(values) * cut[0, ..., 0, 0, 0].size // PATCHES))
    patches = cut[::each].transpose(0, 1, 2, 4, 5, 3).reshape(-1, size * size * values.shape[-1])
    covariance = patches.T.astype(np.float64) @ patches / len(patches)
    variances, directions = np.linalg.eigh(covariance)
    found = (directions / np.sqrt(variances + damping))[:, ::-1]
    return jnp.asarray(found.reshape(size, size, values.shape[-1], -1), jnp.float32)


def whitened_start(net: Network, x: Array | Signal, *, damping: float = DAMPING) -> Network:
    """Return a network whose first convolution whitens: half of its channels with the sign turned.

    With fewer channels than twice the filters, the directions of largest variance stay; further
    channels keep their start values.

    Args:
      net: its input enters one convolution, without groups.
      x: the input of some training samples, the same at every step.
      damping: as of `whitening_filters`.

    Raises:
      UserError: if the input is not constant, or enters anything else than one convolution.

    Example:
      >>> from jaxsnn import encode, models
      >>> net = models.build("8C2V-10", (6, 6, 1), seed=0)
      >>> x = encode.direct(np.random.default_rng(0).normal(size=(50, 6, 6, 1)), timesteps=1)
      >>> kernel = whitened_start(net, x).params["conv1"]["kernel"]
      >>> kernel.shape, bool((kernel[..., :4] == -kernel[..., 4:]).all())
      ((2, 2, 1, 8), True)
    """
    name = f"{whitened_layer(net, x)}/kernel"
    kernel, values = tree.named_leaves(net.params)[name], x.value if isinstance(x, Signal) else x
    filters = whitening_filters(np.asarray(values), kernel.shape[0], damping=damping)
    half = filters[..., : (kernel.shape[-1] + 1) // 2]
    both = jnp.concatenate([half, -half], -1)[..., : kernel.shape[-1]]
    kernel = jnp.concatenate([both, kernel[..., both.shape[-1] :]], -1)
    return net.replace(params=tree.substitute(net.params, {name: kernel}))


def whitened_layer(net: Network, x: Array | Signal) -> str:
    """Return the name of the convolution that whitens.

    >>> from jaxsnn import inputs, models
    >>> net = models.build("8C2V-10", (6, 6, 1))
    >>> whitened_layer(net, inputs.Inputs((6, 6, 1), timesteps=2).abstract())
    'conv1'

    Args:
      net: the network.
      x: its input, or the shape of it.

    Raises:
      UserError: if the input is not constant, or enters anything else than one convolution.
    """
    if not isinstance(x, Signal) or not x.constant:
        raise UserError("a whitened start needs real values that are the same at every step")
    first = net.flow(x).inputs
    layer = layers.synapses(net.module)[first[0]]
    if len(first) != 1 or type(layer) is not layers.Conv or layer.groups > 1:
        raise UserError(
            f"a whitened start needs an input that enters one convolution, found {first[0]!r}, "
            f"{type(layer).__name__}{' and others' if len(first) > 1 else ''}"
        )
    return first[0]
