"""Networks: any layout of named layers, and those of the papers."""

from jaxsnn.models.layout import build, with_widths
from jaxsnn.models.published import (
    CONVERTED,
    QP_SNN,
    STBP_CIFAR,
    STBP_MNIST,
    STBP_MNIST_MLP,
    Published,
    admm_cifar,
    by_name,
    mlp,
    mnist_conv,
    resnet20,
    stbp_cifar,
    vgg9,
    vgg11,
    vgg16,
    vggsnn,
)
from jaxsnn.models.start import he_start

__all__ = [
    "CONVERTED",
    "QP_SNN",
    "STBP_CIFAR",
    "STBP_MNIST",
    "STBP_MNIST_MLP",
    "Published",
    "admm_cifar",
    "build",
    "by_name",
    "he_start",
    "mlp",
    "mnist_conv",
    "resnet20",
    "stbp_cifar",
    "vgg9",
    "vgg11",
    "vgg16",
    "vggsnn",
    "with_widths",
]
