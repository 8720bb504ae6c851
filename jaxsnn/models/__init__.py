"""Networks: any layout of named layers, and those of the papers."""

from jaxsnn.models.layout import build
from jaxsnn.models.published import (
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
    vgg16,
    vggsnn,
)

__all__ = [
    "QP_SNN",
    "STBP_CIFAR",
    "STBP_MNIST",
    "STBP_MNIST_MLP",
    "Published",
    "admm_cifar",
    "build",
    "by_name",
    "mlp",
    "mnist_conv",
    "resnet20",
    "stbp_cifar",
    "vgg16",
    "vggsnn",
]
