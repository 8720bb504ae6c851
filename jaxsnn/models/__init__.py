"""Networks: any layout of named layers, and those of the papers."""

from jaxsnn.models.admm import admm_cifar, mlp, mnist_conv, stbp_cifar
from jaxsnn.models.fast_cifar import fast_cifar
from jaxsnn.models.layout import build
from jaxsnn.models.published import CONVERTED, Published
from jaxsnn.models.qp_snn import resnet20, vgg16, vggsnn
from jaxsnn.models.shd import shd_recurrent
from jaxsnn.models.spatiotemporal import vgg9, vgg11
from jaxsnn.models.spike_thrift import (
    spike_thrift_network,
    thrift_resnet12,
    thrift_vgg11,
    thrift_vgg16,
)
from jaxsnn.models.start import fan_out_start, firing_start, he_start

__all__ = [
    "CONVERTED",
    "Published",
    "admm_cifar",
    "build",
    "fan_out_start",
    "fast_cifar",
    "firing_start",
    "he_start",
    "mlp",
    "mnist_conv",
    "resnet20",
    "shd_recurrent",
    "spike_thrift_network",
    "stbp_cifar",
    "thrift_resnet12",
    "thrift_vgg11",
    "thrift_vgg16",
    "vgg9",
    "vgg11",
    "vgg16",
    "vggsnn",
]
