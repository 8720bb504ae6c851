"""The networks of the papers, by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flax import nnx

from jaxsnn import layers
from jaxsnn.arrays import check_range, check_whole
from jaxsnn.errors import UserError
from jaxsnn.models.layout import build
from jaxsnn.neurons import LIF
from jaxsnn.surrogate import rectangle, triangle

# Constants of the authors' STBP codes, the base of the ADMM system (Deng et al., 1911.00822).
STBP_MNIST = LIF(decay=0.2, threshold=0.5, surrogate=rectangle(1.0))
STBP_MNIST_MLP = LIF(decay=0.5, threshold=0.3, surrogate=rectangle(1.0))
STBP_CIFAR = LIF(decay=0.25, threshold=0.75, surrogate=rectangle(1.0))


def mlp(
    sizes: Sequence[int] = (784, 512, 10),
    neuron: LIF = STBP_MNIST_MLP,
    *,
    rngs: nnx.Rngs,
    **options: Any,
) -> layers.Chain:
    """Build dense layers of the given sizes, inputs first (STBP's MNIST net: 784-512-10, T = 8)."""
    return build("-".join(map(str, sizes[1:])), sizes[:1], neuron, rngs=rngs, **options)


def mnist_conv(
    input_shape: Sequence[int] = (28, 28, 1),
    neuron: LIF = STBP_MNIST,
    *,
    classes: int = 10,
    rngs: nnx.Rngs,
    **options: Any,
) -> layers.Chain:
    """Build the ADMM paper's MNIST net, 32C3-AP2-32C3-AP2-128-10: 211,488 weights on 28 x 28."""
    return build(f"32C3-AP2-32C3-AP2-128-{classes}", input_shape, neuron, rngs=rngs, **options)


def stbp_cifar(
    input_shape: Sequence[int] = (32, 32, 3),
    neuron: LIF = STBP_CIFAR,
    *,
    classes: int = 10,
    width: float = 1.0,
    voters: int = 10,
    dropout: float = 0.5,
    rngs: nnx.Rngs,
    **options: Any,
) -> layers.Chain:
    """Build the STBP authors' CIFAR-10 net: 5 convolutions, 3 dense layers, voting, dropout.

    128C3-256C3-AP2-512C3-AP2-1024C3-512C3-1024-512-(voters x classes), T = 5 in their code.

    Args:
      input_shape: `(H, W, C)`.
      neuron: constants of all layers.
      classes: number of classes.
      width: factor on the channels and hidden neurons; 0.25 is the cheap profile.
      voters: output neurons of each class.
      dropout: share dropped between layers; 0 for none.
      rngs: random numbers for the start values.
      **options: as of `build`.
    """
    c1, c2, c3, c4, d1, d2 = (round(n * width) for n in (128, 256, 512, 1024, 1024, 512))
    drop = f"-D{dropout}" if dropout else ""
    layout = (
        f"{c1}C3{drop}-{c2}C3-AP2{drop}-{c3}C3-AP2{drop}-{c4}C3{drop}-{c3}C3{drop}"
        f"-{d1}{drop}-{d2}{drop}-{voters * classes}-V{classes}"
    )
    return build(layout, input_shape, neuron, rngs=rngs, **options)


def admm_cifar(
    input_shape: Sequence[int] = (32, 32, 3),
    neuron: LIF = STBP_CIFAR,
    *,
    classes: int = 10,
    width: float = 1.0,
    voters: int = 10,
    rngs: nnx.Rngs,
    **options: Any,
) -> layers.Chain:
    """Build the 7-convolution, 2-dense net on which the ADMM results for CIFAR-10 are restated.

    128C3-256C3S2-256C3-512C3S2-512C3-1024C3-2048C3S2-1024-512-vote, T = 8: 62,150,016 weights
    at width 1 (known second hand, from a pruning code that names the paper).
    """
    c = [round(n * width) for n in (128, 256, 256, 512, 512, 1024, 2048)]
    strides = ("", "S2", "", "S2", "", "", "S2")
    convs = "-".join(f"{n}C3{s}" for n, s in zip(c, strides, strict=True))
    dense = f"{round(1024 * width)}-{round(512 * width)}-{voters * classes}-V{classes}"
    return build(f"{convs}-{dense}", input_shape, neuron, rngs=rngs, **options)


# Constants of the QP-SNN system (Wei et al., 2502.05905).
QP_SNN = LIF(decay=0.5, threshold=1.0, surrogate=triangle())


@dataclass(frozen=True)
class Published:
    """A published network with free widths; call it to build it.

    Unless its options say otherwise, those of QP-SNN (Wei et al., 2502.05905, tables 9 to 11):
    batch normalisation in every hidden layer and no biases there (the released VGG code has one in
    front of the first norm, which takes it away again); a dense read-out with a bias, whose current
    is averaged over time.

    Attributes:
      layout: the layers, each width a numbered gap; `{quarter}` is a quarter of the image's side,
        `{drop}` dropout or nothing.
      channels: the widths, one for each convolution in order, those of a block one by one.
      input_shape: `(H, W, C)` in the paper.
      dropout: share dropped at each `{drop}`.
      options: as of `build`, name and value.
    """

    layout: str
    channels: tuple[int, ...]
    input_shape: tuple[int, int, int]
    dropout: float = 0.0
    options: tuple[tuple[str, Any], ...] = (
        ("norm", True), ("use_bias", "readout"), ("readout", "current"),
    )  # fmt: skip

    def __call__(
        self,
        input_shape: Sequence[int] | None = None,
        neuron: LIF = QP_SNN,
        *,
        classes: int = 10,
        width: float = 1.0,
        widths: Sequence[int] | None = None,
        rngs: nnx.Rngs,
        **options: Any,
    ) -> layers.Chain:
        """Build the network.

        Args:
          input_shape: `(H, W, C)`; the sides must survive the strides and poolings.
          neuron: constants of all layers.
          classes: number of classes.
          width: factor on all widths.
          widths: of each convolution, in place of `channels`: those that pruning keeps.
          rngs: random numbers for the start values.
          **options: as of `build`.

        Raises:
          UserError: for widths of the wrong number or below 1, and for what `build` refuses.
        """
        shape = tuple(input_shape or self.input_shape)
        layout = self.words(shape, classes=classes, width=width, widths=widths)
        return build(layout, shape, neuron, rngs=rngs, **dict(self.options) | options)

    def words(
        self,
        input_shape: Sequence[int] | None = None,
        *,
        classes: int = 10,
        width: float = 1.0,
        widths: Sequence[int] | None = None,
        dropout: float | None = None,
    ) -> str:
        """Return the network as a layout, as `build` reads it.

        Args:
          input_shape: `(H, W, C)`.
          classes: number of classes.
          width: factor on all widths.
          widths: of each convolution, in place of `channels`.
          dropout: in place of the network's own, in [0, 1).

        Raises:
          UserError: for a number out of range.
        """
        shape = tuple(input_shape or self.input_shape)
        found = self.channels if widths is None else tuple(widths)
        if len(found) != len(self.channels):
            raise UserError(f"widths must be {len(self.channels)} numbers, found {len(found)}")
        check_whole("widths", found, 1, float("inf"))
        check_range("width", width, 0, float("inf"), open_low=True, open_high=True)
        gaps = [max(1, round(n * width)) for n in found]
        rate = self.dropout if dropout is None else dropout
        check_range("dropout", rate, 0, 1, open_high=True)
        drop = f"-D{rate:g}" if rate else ""
        return f"{self.layout.format(*gaps, quarter=shape[0] // 4, drop=drop)}-{classes}"


# 13 convolutions, maxima over the spikes of 2 x 2 neurons: 14.7 million weights for CIFAR-10,
# T = 4.
vgg16 = Published(
    "{}C3-{}C3-MP2-{}C3-{}C3-MP2-{}C3-{}C3-{}C3-MP2-{}C3-{}C3-{}C3-MP2-{}C3-{}C3-{}C3-AP2",
    (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512),
    (32, 32, 3),
)

# A stem, three stages of three residual blocks, the mean over the image: 17.0 million weights for
# CIFAR-10, T = 2.
resnet20 = Published(
    "{0}C3-{2}B3M{1}-{4}B3M{3}-{6}B3M{5}-{8}B3S2M{7}-{10}B3M{9}-{12}B3M{11}"
    "-{14}B3S2M{13}-{16}B3M{15}-{18}B3M{17}-AP{quarter}",
    (64, *6 * (128,), *6 * (256,), *6 * (512,)),
    (32, 32, 3),
)

# Eight convolutions for the event frames of DVS-CIFAR10, T = 10.
vggsnn = Published(
    "{}C3-{}C3-MP2-{}C3-{}C3-MP2-{}C3-{}C3-MP2-{}C3-{}C3-AP2",
    (64, 128, 256, 256, 512, 512, 512, 512),
    (48, 48, 2),
)


# Networks that convert from ANNs: no norms, no biases, average pooling, dropout but in front of it.
CONVERTED = (("norm", False), ("use_bias", False), ("readout", "current"))

# Chowdhury et al. (2104.12528): 8 convolutions and one dense layer, 7.0 million weights for
# CIFAR-10, T = 100. The text gives the widths (at second hand); where it pools is our choice, after
# other networks of the group.
vgg9 = Published(
    "{}C3-AP2-{}C3{drop}-{}C3-AP2-{}C3{drop}-{}C3-AP2-{}C3{drop}-{}C3{drop}-{}C3-AP2",
    (64, 128, 128, 256, 256, 512, 512, 512),
    (32, 32, 3),
    0.2,
    CONVERTED,
)

# The group's VGG11 with one dense layer, for CIFAR-100: 11.2 million weights.
vgg11 = Published(
    "{}C3-AP2-{}C3{drop}-{}C3-AP2-{}C3{drop}-{}C3{drop}-{}C3-AP2-{}C3{drop}-{}C3-AP2",
    (64, 128, 256, 512, 512, 512, 512, 512),
    (32, 32, 3),
    0.2,
    CONVERTED,
)


def by_name(name: str) -> Published | None:
    """Return the network of QP-SNN with this name (vgg16, resnet20, vggsnn), or None."""
    return {"vgg16": vgg16, "resnet20": resnet20, "vggsnn": vggsnn}.get(name)
