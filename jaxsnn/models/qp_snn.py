"""The networks of QP-SNN (Wei et al. 2025, https://arxiv.org/abs/2502.05905, tables 9 to 11)."""

from jaxsnn.models.published import Published

__all__ = ["resnet20", "vgg16", "vggsnn"]

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
