"""The networks of the ADMM paper and of the STBP codes it stands on (Deng et al., 1911.00822)."""

from collections.abc import Sequence
from typing import Any

from jaxsnn.models.layout import STBP_MNIST, Choice, build
from jaxsnn.network import Network
from jaxsnn.neurons import LIF
from jaxsnn.surrogate import rectangle

__all__ = ["STBP_CIFAR", "STBP_MNIST_MLP", "admm_cifar", "mlp", "mnist_conv", "stbp_cifar"]

# Constants of the authors' STBP codes, the base of the ADMM system (Deng et al., 1911.00822).
STBP_MNIST_MLP = LIF(decay=0.5, threshold=0.3, surrogate=rectangle(1.0))
STBP_CIFAR = LIF(decay=0.25, threshold=0.75, surrogate=rectangle(1.0))


def mlp(
    sizes: Sequence[int] = (784, 512, 10),
    neuron: Choice = STBP_MNIST_MLP,
    *,
    seed: int = 0,
    **options: Any,
) -> Network:
    """Build dense layers of the given sizes, inputs first.

    STBP's MNIST net is 784-512-10, T = 8.

    >>> import jax
    >>> net = jax.eval_shape(lambda: mlp((784, 512, 10)))  # shapes alone
    >>> net.params["dense1"]["kernel"].shape
    (784, 512)

    Args:
      sizes: number of inputs, then of the neurons of each layer.
      neuron: constants of all layers.
      seed: of the start values.
      **options: as of `build`.
    """
    return build("-".join(map(str, sizes[1:])), sizes[:1], neuron, seed=seed, **options)


def mnist_conv(
    input_shape: Sequence[int] = (28, 28, 1),
    neuron: Choice = STBP_MNIST,
    *,
    classes: int = 10,
    seed: int = 0,
    **options: Any,
) -> Network:
    """Build the ADMM paper's MNIST net, 32C3-AP2-32C3-AP2-128-10.

    >>> import jax
    >>> net = jax.eval_shape(mnist_conv)  # shapes alone
    >>> sum(layer["kernel"].size for layer in net.params.values())
    211488

    Args:
      input_shape: `(H, W, C)`.
      neuron: constants of all layers.
      classes: number of classes.
      seed: of the start values.
      **options: as of `build`.
    """
    return build(f"32C3-AP2-32C3-AP2-128-{classes}", input_shape, neuron, seed=seed, **options)


def stbp_cifar(
    input_shape: Sequence[int] = (32, 32, 3),
    neuron: Choice = STBP_CIFAR,
    *,
    classes: int = 10,
    width: float = 1.0,
    voters: int = 10,
    dropout: float = 0.5,
    seed: int = 0,
    **options: Any,
) -> Network:
    """Build the STBP authors' CIFAR-10 net, with voting and dropout.

    128C3-256C3-AP2-512C3-AP2-1024C3-512C3-1024-512-(voters x classes), T = 5 in their code.

    >>> import jax
    >>> jax.eval_shape(stbp_cifar).order  # shapes alone
    ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'dense1', 'dense2', 'dense3')

    Args:
      input_shape: `(H, W, C)`.
      neuron: constants of all layers.
      classes: number of classes.
      width: factor on the channels and hidden neurons; 0.25 is the cheap profile.
      voters: output neurons of each class.
      dropout: share dropped between layers; 0 for none.
      seed: of the start values.
      **options: as of `build`.
    """
    c1, c2, c3, c4, d1, d2 = (round(n * width) for n in (128, 256, 512, 1024, 1024, 512))
    drop = f"-D{dropout}" if dropout else ""
    layout = (
        f"{c1}C3{drop}-{c2}C3-AP2{drop}-{c3}C3-AP2{drop}-{c4}C3{drop}-{c3}C3{drop}"
        f"-{d1}{drop}-{d2}{drop}-{voters * classes}-V{classes}"
    )
    return build(layout, input_shape, neuron, seed=seed, **options)


def admm_cifar(
    input_shape: Sequence[int] = (32, 32, 3),
    neuron: Choice = STBP_CIFAR,
    *,
    classes: int = 10,
    width: float = 1.0,
    voters: int = 10,
    seed: int = 0,
    **options: Any,
) -> Network:
    """Build the net on which the ADMM results for CIFAR-10 are restated.

    128C3-256C3S2-256C3-512C3S2-512C3-1024C3-2048C3S2-1024-512-vote, T = 8: 62,150,016 weights
    at width 1 (known second hand, from a pruning code that names the paper).

    >>> import jax
    >>> net = jax.eval_shape(admm_cifar)  # shapes alone
    >>> sum(layer["kernel"].size for layer in net.params.values())
    62150016

    Args:
      input_shape: `(H, W, C)`.
      neuron: constants of all layers.
      classes: number of classes.
      width: factor on the channels and hidden neurons.
      voters: output neurons of each class.
      seed: of the start values.
      **options: as of `build`.
    """
    c = [round(n * width) for n in (128, 256, 256, 512, 512, 1024, 2048)]
    strides = ("", "S2", "", "S2", "", "", "S2")
    convs = "-".join(f"{n}C3{s}" for n, s in zip(c, strides, strict=True))
    dense = f"{round(1024 * width)}-{round(512 * width)}-{voters * classes}-V{classes}"
    return build(f"{convs}-{dense}", input_shape, neuron, seed=seed, **options)
