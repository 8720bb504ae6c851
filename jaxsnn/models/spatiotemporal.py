"""The networks of spatio-temporal pruning (Chowdhury et al. 2021, https://arxiv.org/abs/2104.12528)."""

from jaxsnn.models.published import CONVERTED, Published

__all__ = ["vgg9", "vgg11"]

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
